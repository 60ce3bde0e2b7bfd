//! The program `btrfs`, run with patience, and what subvolumes need of it. Whoever may write to a directory of a btrfs may make
//! subvolumes there, and make them read-only, a tenant's programs too. Blocking.
//!
//! Not here: quotas (host::disk).

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::{
    fs::{Access, AtFlags},
    io::Errno,
};

/// `BTRFS_SUPER_MAGIC`.
const MAGIC: u32 = 0x9123_683E;
/// The inode number of a subvolume's top directory.
pub const SUBVOLUME: u64 = 256;
/// The program answers within milliseconds; one that hangs is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between looks whether it has.
const POLL: Duration = Duration::from_millis(5);
/// The directory that is the program's standard input: no name of a tenant's gets into its arguments, and none is followed.
const GIVEN: &str = "/proc/self/fd/0";

/// Whether what a kernel says of a file system says that it is one.
pub fn is_btrfs(found: &rustix::fs::StatFs) -> bool {
    // The field's type differs between machines; all magic numbers have 32 bits.
    found.f_type as u32 == MAGIC
}

/// Whether an open directory is a subvolume's top.
pub fn is_subvolume(directory: impl AsFd) -> io::Result<bool> {
    let is_top = rustix::fs::fstat(&directory)?.st_ino == SUBVOLUME;
    Ok(is_top && is_btrfs(&rustix::fs::fstatfs(directory)?))
}

/// Makes a subvolume writable, if it is one and is not. Not what is below in subvolumes of their own.
pub fn make_writable(directory: BorrowedFd<'_>) -> io::Result<()> {
    let writable = rustix::fs::accessat(directory, ".", Access::WRITE_OK, AtFlags::EACCESS);
    if writable != Err(Errno::ROFS) || !is_subvolume(directory)? {
        return Ok(());
    }
    let set = |options: &[&str]| {
        let words = ["property", "set"].iter().chain(options);
        let words = words.chain(&["-t", "subvol", GIVEN, "ro", "false"]);
        let words: Vec<&OsStr> = words.map(|word| OsStr::new(*word)).collect();
        run(&words, Stdio::from(directory.try_clone_to_owned()?))
    };
    // By force: one may pose as received from elsewhere. Older programs neither have the option nor ask for it.
    set(&["-f"]).or_else(|_| set(&[])).map(drop)
}

/// What the program prints.
pub fn btrfs(arguments: &[&OsStr]) -> io::Result<String> {
    run(arguments, Stdio::null())
}

fn run(arguments: &[&OsStr], input: Stdio) -> io::Result<String> {
    let mut child = Command::new("btrfs")
        .args(arguments)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if !ends(&mut child)? {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::from(io::ErrorKind::TimedOut));
    }
    // It has ended: what it printed is a few lines, which the pipes hold.
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("btrfs: {}", words.trim())))
}

fn ends(child: &mut Child) -> io::Result<bool> {
    let mut waited = Duration::ZERO;
    while waited < PATIENCE {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        sleep(POLL);
        waited += POLL;
    }
    Ok(false)
}

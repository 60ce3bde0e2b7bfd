//! Files that the kernel makes, about this machine and its processes: below `/proc` and `/sys`, and none through which
//! `/proc` leads into what a process sees. Reading one never waits for anybody.
//!
//! Not here: what they say (host::resources, host::cgroup, metrics), a container's root (beneath).

#![expect(
    clippy::disallowed_methods,
    reason = "only the kernel's own files, which nobody lays out"
)]

use std::{
    fs, io,
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _},
    path::Path,
};

/// Entries of `/proc/<pid>` that lead into what the process sees, or holds open.
const DOORS: [&str; 6] = ["root", "cwd", "exe", "fd", "map_files", "task"];

/// Changes with each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which boot of the machine this is; empty where it does not say.
pub fn boot_id() -> String {
    let text = text(BOOT_ID).unwrap_or_default();
    text.trim().to_owned()
}

/// The text of such a file; `InvalidInput` for any other path.
pub fn text(path: &str) -> io::Result<String> {
    if !is_kernels(path) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::read_to_string(path)
}

/// Such a file, kept open: reading it again is one call, where a path costs five.
#[derive(Debug)]
pub struct KernelFile(fs::File);

/// More than any file has that is read so.
const MOST_BYTES: usize = 8 << 10;

impl KernelFile {
    pub fn open(path: &str) -> io::Result<Self> {
        if !is_kernels(path) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        fs::File::open(path).map(Self)
    }

    /// What it says now; an error once what it is about has gone.
    pub fn read<'a>(&self, buffer: &'a mut Buffer) -> io::Result<&'a str> {
        let length = self.0.read_at(&mut buffer.0, 0)?;
        let text = buffer.0.get(..length).unwrap_or_default();
        std::str::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// Room for what a [`KernelFile`] says, used over and over.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; MOST_BYTES])
    }
}

/// How many files this process may have open.
pub fn most_open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |most| {
        usize::try_from(most).unwrap_or(usize::MAX)
    })
}

/// Whether a process is one of a container. Ids of processes are used again, so this is asked after each use.
pub fn belongs(pid: i32, container: &str) -> bool {
    let groups = || text(&format!("/proc/{pid}/cgroup"));
    pid > 0 && !container.is_empty() && groups().is_ok_and(|groups| groups.contains(container))
}

/// `major:minor` of a block device's node.
pub fn device_number(node: &Path) -> Option<String> {
    let found = fs::metadata(node).ok()?;
    if !found.file_type().is_block_device() {
        return None;
    }
    let (major, minor) = (
        rustix::fs::major(found.rdev()),
        rustix::fs::minor(found.rdev()),
    );
    Some(format!("{major}:{minor}"))
}

/// How many files this process has open.
pub fn open_files() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

fn is_kernels(path: &str) -> bool {
    let parts = || path.split('/').skip(1);
    let door = parts().any(|part| DOORS.contains(&part));
    match parts().next() {
        _ if !path.starts_with('/') || parts().any(|part| part == "..") => false,
        Some("proc") => !door,
        Some("sys") => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_files_are_read() {
        for good in [
            "/proc/stat",
            "/proc/7/cgroup",
            "/proc/sys/kernel/random/boot_id",
            "/sys/fs/cgroup/root/cpu.max",
        ] {
            assert!(is_kernels(good), "{good}");
        }
        for bad in [
            "/etc/passwd",
            "proc/stat",
            "/proc/7/root/etc/passwd",
            "/proc/self/cwd/x",
            "/proc/7/task/7/root/x",
            "/proc/7/fd/3",
            "/sys/../etc/passwd",
            "/procs/x",
            "",
        ] {
            assert!(!is_kernels(bad), "{bad}");
            assert!(text(bad).is_err(), "{bad}");
            assert!(KernelFile::open(bad).is_err(), "{bad}");
        }
        assert!(open_files().unwrap() > 2 && most_open_files() > 2);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!belongs(own, "") && !belongs(0, "x") && !belongs(own, "no container"));
    }

    #[test]
    fn a_file_that_is_kept_open_says_what_is_so_now() {
        let (file, mut buffer) = (
            KernelFile::open("/proc/self/stat").unwrap(),
            Buffer::default(),
        );
        let all = text("/proc/self/stat").unwrap();
        let name = all.split(' ').next().unwrap();
        for _ in 0..2 {
            assert!(file.read(&mut buffer).unwrap().starts_with(name));
        }
    }
}

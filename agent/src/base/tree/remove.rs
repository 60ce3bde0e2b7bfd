//! Removes trees that tenants have filled, whatever they have laid out in them: links are not followed, depth takes neither the
//! stack nor descriptors, and subvolumes of a btrfs, which whoever may write there can make, go with the rest.
//!
//! Not here: when (tenant, host::homes).

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};

use crate::base::btrfs;

/// Flags of a directory that is opened to be read, and that is no link.
const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open(directory: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        directory,
        name,
        DIRECTORY,
        Mode::empty(),
    )?)
}

fn remove_empty(directory: &OwnedFd, name: &CStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

/// Names of directories that are held while what is in them is moved up. Whoever filled the tree decides how many there are; those
/// beyond are met later. Few in tests, so that they get there.
const HELD: usize = if cfg!(test) { 3 } else { 10_000 };

/// Removes everything in `dir`, not `dir` itself. Follows no link.
pub fn wipe(dir: &Path) -> io::Result<()> {
    wipe_except(dir, "")
}

/// Like [`wipe`], but leaves the entry `kept`.
pub fn wipe_except(dir: &Path, kept: &str) -> io::Result<()> {
    let root = rustix::fs::openat(CWD, dir, DIRECTORY, Mode::empty())?;
    empty(&root, kept, &mut |name, _| {
        clear(&open(&root, name)?)?;
        remove_empty(&root, name)
    })
}

/// Removes a directory with everything in it, following no link. A tenant may have nested tens of thousands of
/// directories, so neither the stack nor descriptors are used for each level, as `fs::remove_dir_all` does: what a
/// directory holds is moved up until nothing is nested. Nor is memory used for each of millions of names. May be repeated after
/// an interruption.
pub fn remove_all(dir: &Path) -> io::Result<()> {
    clear(&rustix::fs::openat(CWD, dir, DIRECTORY, Mode::empty())?)?;
    fs::remove_dir(dir)
}

/// Removes all that a directory holds. No directory moves from one subvolume into another, but a subvolume itself does: so
/// each is emptied by itself, and those found in it are moved up to the top, where they are met again.
fn clear(top: &OwnedFd) -> io::Result<()> {
    btrfs::make_writable(top.as_fd())?;
    let device = rustix::fs::fstat(top)?.st_dev;
    let mut clearing = Clearing { top, moved: 0 };
    empty(top, "", &mut |name, stat| {
        if stat.st_dev != device {
            clearing.empty_subvolume(&subvolume(top, name)?)?;
            return remove_empty(top, name);
        }
        clearing.remove_tree(top, device, name)
    })
}

/// Opens a subvolume to be emptied.
fn subvolume(directory: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let subvolume = open(directory, name)?;
    if !btrfs::is_subvolume(&subvolume)? {
        let why = "another file system is mounted in what is to be removed";
        return Err(io::Error::new(io::ErrorKind::CrossesDevices, why));
    }
    btrfs::make_writable(subvolume.as_fd())?;
    Ok(subvolume)
}

struct Clearing<'a> {
    top: &'a OwnedFd,
    /// Directories that were moved up.
    moved: u64,
}

impl Clearing<'_> {
    /// Removes what is in a subvolume; those nested there are then in `top`.
    fn empty_subvolume(&mut self, root: &OwnedFd) -> io::Result<()> {
        let device = rustix::fs::fstat(root)?.st_dev;
        empty(root, "", &mut |name, stat| {
            if stat.st_dev != device {
                return self.take(root, name);
            }
            self.remove_tree(root, device, name)
        })
    }

    /// Removes a directory of `root` with what is in it and on the same file system. Subvolumes nested there are then in `top`,
    /// and in `root` the directories that were too many to be held.
    fn remove_tree(&mut self, root: &OwnedFd, device: u64, name: &CStr) -> io::Result<()> {
        let mut held = vec![name.to_owned()];
        while let Some(name) = held.pop() {
            let below = open(root, &name)?;
            empty(&below, "", &mut |inner, stat| {
                if stat.st_dev != device {
                    return self.take(&below, inner);
                }
                let moved = move_up(&below, inner, root, &mut self.moved)?;
                if held.len() < HELD {
                    held.push(moved);
                }
                Ok(())
            })?;
            remove_empty(root, &name)?;
        }
        Ok(())
    }

    /// Moves a subvolume to the top, writable.
    fn take(&mut self, from: &OwnedFd, name: &CStr) -> io::Result<()> {
        subvolume(from, name)?;
        move_up(from, name, self.top, &mut self.moved).map(drop)
    }
}

/// Removes what a directory holds except `kept`, but hands over its directories that are not empty, which are then to be gone from
/// there. No list of what is in it, which may be millions: it is read while it changes. Then an entry may be shown twice, or not at
/// all, so it is read until nothing is left.
fn empty(
    directory: &OwnedFd,
    kept: &str,
    nested: &mut dyn FnMut(&CStr, Stat) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = true;
    while std::mem::take(&mut left) {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if matches!(bytes, b"." | b"..") || bytes == kept.as_bytes() {
                continue;
            }
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue, // shown twice
                stat => stat?,
            };
            left = true;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            } else if remove_empty(directory, name).is_err() {
                // Empty ones go at once: what a snapshot shows in the place of a subvolume is one that cannot be moved.
                nested(name, stat)?;
            }
        }
    }
    Ok(())
}

/// Moves a directory into `root` under a name that is free, and returns that.
fn move_up(from: &OwnedFd, name: &CStr, root: &OwnedFd, moved: &mut u64) -> io::Result<CString> {
    loop {
        *moved += 1;
        let free = CString::new(format!(".isy-removed-{moved}"))?;
        match rustix::fs::renameat_with(from, name, root, &free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {} // the tenant's own, or of an interrupted attempt
            done => return Ok(done.map(|()| free)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tree::{Pace, usage};

    /// Deeper than descriptors and a small stack reach, and than any path is long.
    #[test]
    fn what_is_nested_very_deep_is_removed_on_a_small_stack_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("f"), "somebody's").unwrap();
        fs::create_dir_all(top.join(".isy-removed-1/x")).unwrap();
        fs::write(top.join(".isy-removed-2"), "in the way").unwrap();
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = rustix::fs::openat(CWD, &top, flags, Mode::empty()).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(&outside, &at, "link").unwrap();
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        let work = move || {
            assert!(usage(&top, 100_000, &Pace::FREE).too_deep);
            remove_all(&top).map(|()| top)
        };
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        let top = thread.spawn(work).unwrap().join().unwrap().unwrap();
        assert!(!top.exists() && outside.join("f").exists());
    }

    /// Says which directory [`removes_in_a_process_of_its_own`] is to remove.
    const GIVEN: &str = "ISYONE_TEST_REMOVE";
    /// As long as a name gets.
    const LONGEST: usize = 255;

    /// The most memory that this process has had, in KiB.
    fn peak_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let words = line.unwrap().trim().strip_suffix(" kB").unwrap();
        words.parse().unwrap()
    }

    /// Half of [`however_many_names_there_are_memory_stays_small`]; by itself it does nothing.
    #[test]
    fn removes_in_a_process_of_its_own() {
        let Some(top) = std::env::var_os(GIVEN) else {
            return;
        };
        let before = peak_kib();
        remove_all(Path::new(&top)).unwrap();
        let more = peak_kib() - before;
        // Pages of the program itself are counted, too: some 4 MiB of an unoptimised one.
        assert!(more < 8 << 10, "{more} KiB");
    }

    /// Fails when a directory's names are all read before the first is removed, or all its directories' are held: these are 10 MB
    /// of names, a tenant can make a thousand times as many.
    #[test]
    fn however_many_names_there_are_memory_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        for number in 0..40_000 {
            let at = top.join(format!("{number:0>LONGEST$}"));
            if number % 5 == 0 {
                fs::create_dir_all(at.join("d")).unwrap();
            } else {
                rustix::fs::mknodat(CWD, &at, FileType::RegularFile, Mode::RWXU, 0).unwrap();
            }
        }
        let own = "base::tree::remove::tests::removes_in_a_process_of_its_own";
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", own])
            .env(GIVEN, &top)
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success() && !top.exists(), "{words}");
        assert!(words.contains("1 passed"), "{words}");
    }

    /// Fails when what is beyond those that are held is forgotten, or a name is taken that the tenant has given.
    #[test]
    fn directories_beyond_those_that_are_held_go_too_and_what_is_kept_stays() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        for (wide, deep) in (0..30).flat_map(|wide| (0..30).map(move |deep| (wide, deep))) {
            let at = top.join(format!("a/{wide}/b/{deep}/c/.isy-removed-{wide}"));
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("f"), "data").unwrap();
        }
        fs::create_dir_all(top.join("kept/inner")).unwrap();
        wipe_except(&top, "kept").unwrap();
        assert!(top.join("kept/inner").exists());
        assert_eq!(fs::read_dir(&top).unwrap().count(), 1);
        remove_all(&top).unwrap();
        assert!(!top.exists());
    }

    /// Where temporary files are on a btrfs (`TMPDIR`): what a tenant's program makes there without any right of its own is
    /// counted, and goes. Fails when directories are moved out of a subvolume, or a read-only one is not made writable.
    #[test]
    fn subvolumes_of_a_tenants_are_counted_and_go_with_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        if !rustix::fs::statfs(dir.path()).is_ok_and(|found| btrfs::is_btrfs(&found)) {
            return println!("not run: temporary files are not on a btrfs");
        }
        let top = dir.path().join("top");
        let make = |words: &[&str]| {
            let words = ["subvolume"].iter().chain(words);
            let words: Vec<_> = words.map(std::ffi::OsStr::new).collect();
            btrfs::btrfs(&words).unwrap();
        };
        let at = |path: &str| top.join(path).display().to_string();
        make(&["create", &top.display().to_string()]);
        make(&["create", &at("a")]);
        fs::create_dir_all(top.join("a/b/c/d")).unwrap();
        fs::write(top.join("a/b/c/f"), vec![7; 3 << 20]).unwrap();
        make(&["create", &at("a/b/nested")]);
        fs::create_dir_all(top.join("a/b/nested/x/y")).unwrap();
        fs::write(top.join("a/b/nested/x/f"), "data").unwrap();
        fs::create_dir(top.join("plain")).unwrap();
        make(&["create", &at("plain/empty")]);
        make(&["snapshot", "-r", &at("a"), &at("plain/read-only")]);
        make(&["snapshot", "-r", &at("a/b/nested"), &at("empty-read-only")]);
        rustix::fs::sync();
        let found = usage(&top, 100_000, &Pace::FREE);
        // Five subvolumes, what a snapshot shows in the place of one more, and what is in them.
        assert!(
            found.inodes > 5 * 1_024 && found.inodes < 7 * 1_024,
            "{found:?}"
        );
        assert!(found.nested_bytes >= 6 << 20 && found.nested_bytes <= found.bytes);
        btrfs::btrfs(
            &["property", "set", "-t", "subvol", &at(""), "ro", "true"].map(std::ffi::OsStr::new),
        )
        .unwrap();
        wipe(dir.path()).unwrap();
        assert!(!top.exists());
    }
}

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
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

/// Entries of `/proc/<pid>` that lead into what the process sees, or holds open.
const DOORS: [&str; 6] = ["root", "cwd", "exe", "fd", "map_files", "task"];

/// The text of such a file; `InvalidInput` for any other path.
pub fn text(path: &str) -> io::Result<String> {
    if !is_kernels(path) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::read_to_string(path)
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
        }
        assert!(open_files().unwrap() > 2);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!belongs(own, "") && !belongs(0, "x") && !belongs(own, "no container"));
    }
}

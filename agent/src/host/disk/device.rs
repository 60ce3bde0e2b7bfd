//! The block device that a directory is on, as an engine wants it named for its limits on reading and writing. Blocking.
//!
//! Not here: the limits (plan::design).

use std::path::{Path, PathBuf};

use crate::base::{fsutil, kernel};

/// `/dev/sda`, for example: the whole disk, because the kernel limits no partition. `None`: it is on no device that it
/// limits (a network's, or several).
pub fn device_of(directory: &Path) -> Option<String> {
    let directory = fsutil::canonical(directory).ok()?;
    let mounts = kernel::text("/proc/self/mountinfo").ok()?;
    let (number, source) = mount_of(&mounts, &directory)?;
    // Some file systems (btrfs) have a number of their own that is no device's; then the mount names the device.
    let number = if is_block(&number) {
        number
    } else {
        kernel::device_number(Path::new(&source))?
    };
    let disk = whole(&number)?;
    let named = kernel::text(disk.join("uevent").to_str()?).ok()?;
    let name = named.lines().find_map(|l| l.strip_prefix("DEVNAME="))?;
    let path = format!("/dev/{name}");
    fsutil::exists(Path::new(&path)).then_some(path)
}

/// Where the kernel describes a device.
fn described(number: &str) -> PathBuf {
    Path::new("/sys/dev/block").join(number)
}

fn is_block(number: &str) -> bool {
    fsutil::exists(&described(number))
}

/// The kernel's description of the disk that a partition is of, or of the device itself.
fn whole(number: &str) -> Option<PathBuf> {
    let device = fsutil::canonical(&described(number)).ok()?;
    if fsutil::exists(&device.join("partition")) {
        return device.parent().map(Path::to_owned);
    }
    Some(device)
}

/// Device number and source of the mount that a path is on: the longest mount point above it, the newest of equals.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String)> {
    let mut best: Option<(usize, String, String)> = None;
    for line in mounts.lines() {
        let Some((mount, system)) = line.split_once(" - ") else {
            continue;
        };
        let fields: Vec<&str> = mount.split(' ').collect();
        let (Some(number), Some(point), Some(source)) =
            (fields.get(2), fields.get(4), system.split(' ').nth(1))
        else {
            continue;
        };
        let depth = Path::new(point).components().count();
        let better = best.as_ref().is_none_or(|(most, ..)| depth >= *most);
        if better && path.starts_with(point) {
            best = Some((depth, (*number).to_owned(), source.to_owned()));
        }
    }
    best.map(|(_, number, source)| (number, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts_and_the_newest_there() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:40 / /var/lib/docker rw shared:1 - btrfs /dev/sdb rw\n\
                      3 1 8:33 / /var/lib/docker rw - ext4 /dev/sdc1 rw\n\
                      4 1 8:49 / /var/lib/docker2 rw - ext4 /dev/sdd1 rw\n";
        let at = |path: &str| mount_of(mounts, Path::new(path)).unwrap();
        assert_eq!(at("/var/lib/docker/isyone").0, "8:33");
        assert_eq!(at("/var/lib/docker2").1, "/dev/sdd1");
        assert_eq!(at("/var/lib").1, "/dev/sda1");
        assert_eq!(mount_of("odd\n", Path::new("/")), None);
    }

    #[test]
    fn this_machines_device_is_one_or_none() {
        if let Some(device) = device_of(Path::new("/")) {
            assert!(Path::new(&device).exists(), "{device}");
        }
        assert_eq!(device_of(Path::new("/proc")), None);
    }
}

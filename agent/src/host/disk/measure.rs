//! Measures one tenant's data, and has the file system hold it to its plan where that can. Blocking.
//!
//! Not here: whose turn it is (the parent).

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use isyone_proto::disk::DiskMeans;

use super::btrfs::Btrfs;
use crate::base::{fsutil, kernel, tree};

/// A walk pauses after each directory, so that it never keeps the disk from a tenant.
const PAUSE: Duration = Duration::from_millis(2);
/// After this long it pauses for less: whoever has a million directories must not be measured once an hour for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause from then on.
const SHORT_PAUSE: Duration = Duration::from_micros(100);

/// A file system's own count of what is in a directory, and its limit on that.
pub(super) trait Quota: Send + Sync {
    /// Makes a directory that can be held, if they can be here; `false`: they cannot, and nothing was made.
    fn make(&self, directory: &Path) -> io::Result<bool>;
    /// Bytes in it and its limit; `None`: this directory is not counted by itself.
    fn used(&self, directory: &Path) -> Option<Held>;
    /// Sets its limit.
    fn hold(&self, directory: &Path, bytes: u64) -> io::Result<()>;
}

/// A directory that its file system counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) bytes: u64,
    pub(super) limit: Option<u64>,
}

/// The quotas of the file system that a directory is on, if we know how to use them. (XFS and ext4 have project quotas; the
/// kernels that we run on do not, so what we could not try is not here: there data is counted.)
fn quota_at(directory: &Path) -> Option<&'static dyn Quota> {
    Btrfs::is_at(directory).then_some(&Btrfs as &dyn Quota)
}

/// Makes an empty directory for a tenant's data: one that the file system can hold to a limit, where it has that.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    let quota = directory.parent().and_then(quota_at);
    let made = quota.map(|quota| quota.make(directory)).transpose();
    match made {
        Ok(Some(true)) => Ok(()),
        Ok(None | Some(false)) => fsutil::make_directory(directory),
        Err(e) => {
            tracing::warn!(
                "{} has no quota, its content is counted: {e}",
                directory.display()
            );
            fsutil::make_directory(directory)
        }
    }
}

/// Where a tenant's data is.
#[derive(Debug)]
pub(super) struct Places {
    /// PostgreSQL's and Odoo's, in this order, if both are there.
    pub(super) volumes: Vec<PathBuf>,
    /// What containers have written beside them.
    pub(super) layers: Vec<PathBuf>,
    /// What Odoo's volume may hold where the file system can see to that; PostgreSQL's has no such limit, because it ends
    /// when it cannot write.
    pub(super) hold_at: Option<u64>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Measurement {
    /// Bytes of each volume.
    pub(super) volumes: Vec<u64>,
    /// Bytes beside them.
    pub(super) layers: u64,
    pub(super) means: DiskMeans,
    /// Free bytes of the file system at the beginning.
    pub(super) free: u64,
}

impl Measurement {
    /// All bytes.
    pub(super) fn bytes(&self) -> u64 {
        let volumes = self
            .volumes
            .iter()
            .fold(0, |sum: u64, v| sum.saturating_add(*v));
        volumes.saturating_add(self.layers)
    }
}

pub(super) fn measure(places: &Places) -> Measurement {
    let begin = Instant::now();
    let pause = || {
        let long = begin.elapsed() > PATIENCE;
        std::thread::sleep(if long { SHORT_PAUSE } else { PAUSE });
    };
    let last = places.volumes.last();
    let free = last.and_then(|place| rustix::fs::statvfs(place).ok());
    let held = last.and_then(|place| hold(place, places.hold_at?));
    let count = |place: &PathBuf| {
        let quota = quota_at(place).and_then(|quota| quota.used(place));
        quota.map_or_else(|| tree::usage(place, &pause), |held| held.bytes)
    };
    Measurement {
        volumes: places.volumes.iter().map(count).collect(),
        layers: places
            .layers
            .iter()
            .map(|place| tree::usage(place, &pause))
            .sum(),
        means: held.unwrap_or_default(),
        free: free.map_or(0, |disk| disk.f_bfree.saturating_mul(disk.f_frsize)),
    }
}

/// Has the file system hold a directory, if it can.
fn hold(directory: &Path, bytes: u64) -> Option<DiskMeans> {
    let quota = quota_at(directory)?;
    let held = quota.used(directory)?;
    if held.limit != Some(bytes)
        && let Err(e) = quota.hold(directory, bytes)
    {
        tracing::warn!("{} cannot be held to its plan: {e}", directory.display());
        return None;
    }
    Some(DiskMeans::Quota)
}

/// Where a container keeps what it writes beside its volumes: the upper directory of its root, as the kernel tells.
pub(super) fn layer(pid: i32) -> Option<PathBuf> {
    let mounts = kernel::text(&format!("/proc/{pid}/mountinfo")).ok()?;
    upper(&mounts).filter(|place| fsutil::is_directory(place))
}

/// The upper directory of the overlay that is mounted at `/`.
fn upper(mounts: &str) -> Option<PathBuf> {
    let root = mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        (at == "/" && system.starts_with("overlay ")).then_some(system)
    })?;
    let options = root.rsplit(' ').next()?;
    let upper = options
        .split(',')
        .find_map(|o| o.strip_prefix("upperdir="))?;
    // The kernel escapes what is odd in a path; Docker's are not.
    (upper.starts_with('/') && !upper.contains('\\')).then(|| PathBuf::from(upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_layer_is_found_among_its_mounts() {
        let mounts = "600 500 0:55 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/d/l/A:/d/l/B,upperdir=/d/7/diff,workdir=/d/7/work\n\
                      601 600 0:56 / /proc rw - proc proc rw\n\
                      602 600 0:57 / /mnt rw - overlay overlay rw,upperdir=/elsewhere\n";
        assert_eq!(upper(mounts), Some("/d/7/diff".into()));
        assert_eq!(upper("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"), None);
        assert_eq!(
            upper("1 0 8:1 / / rw - overlay o rw,upperdir=/a\\040b\n"),
            None
        );
        assert_eq!(upper(""), None);
    }

    #[test]
    fn volumes_and_layers_are_counted_together() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("p", 1 << 20), ("o", 2 << 20), ("l", 3 << 20)] {
            let place = dir.path().join(name);
            make_directory(&place).unwrap();
            std::fs::write(place.join("f"), vec![7; bytes]).unwrap();
        }
        assert!(
            make_directory(&dir.path().join("p")).is_err(),
            "it is there"
        );
        let found = measure(&Places {
            volumes: vec![dir.path().join("p"), dir.path().join("o")],
            layers: vec![dir.path().join("l")],
            hold_at: None,
        });
        assert_eq!(found.volumes.len(), 2);
        assert!(
            found.bytes() >= 6 << 20 && found.bytes() < 7 << 20,
            "{found:?}"
        );
        assert_eq!(found.means, DiskMeans::Counted);
        assert!(found.free > 0);
    }
}

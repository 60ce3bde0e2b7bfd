//! Measures one tenant's data, and has the file system hold it to its plan where that can. Blocking.
//!
//! Not here: whose turn it is (the parent).

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use isyone_proto::disk::{DiskMeans, DiskPlace, DiskUse, inodes_of};

use super::btrfs::Btrfs;
use crate::base::{
    fsutil, kernel,
    tree::{self, Pace},
};

/// A walk pauses after each directory, so that it never keeps the disk from a tenant.
const PAUSE: Duration = Duration::from_millis(2);
/// After this long it pauses for less: whoever has a million directories must not be measured once an hour for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause from then on.
const SHORT_PAUSE: Duration = Duration::from_micros(100);

/// A walk of a tenant whose plan has no limit ends here.
const MOST_INODES: u64 = 100_000_000;

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

/// Where a tenant's data is, and what it may be.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// PostgreSQL's and Odoo's, in this order, if both are there.
    pub(super) volumes: Vec<PathBuf>,
    /// What containers have written beside them: in their own layers, and in volumes that nobody has named.
    pub(super) beside: Vec<PathBuf>,
    /// What Odoo's volume may hold where the file system can see to that; PostgreSQL's has no such limit, because it ends
    /// when it cannot write.
    pub(super) hold_at: Option<u64>,
    /// The disk of its plan; 0: there is no limit.
    pub(super) limit_bytes: u64,
    /// The walk is given up after this long; `None`: it takes as long as it takes.
    pub(super) most_time: Option<Duration>,
}

impl Places {
    /// All of them, in the order of a measurement.
    fn all(&self) -> impl Iterator<Item = (DiskPlace, &PathBuf)> {
        let beside = self.beside.iter().map(|place| (DiskPlace::Beside, place));
        let whose = |at| match at {
            0 if self.volumes.len() > 1 => DiskPlace::Postgres,
            _ => DiskPlace::Odoo,
        };
        let volumes = self.volumes.iter().enumerate();
        volumes
            .map(move |(at, place)| (whose(at), place))
            .chain(beside)
    }
}

/// Room that a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Room {
    pub(super) bytes: u64,
    /// Files and directories; 0 where it does not limit them, as btrfs does not.
    pub(super) inodes: u64,
}

impl Room {
    /// Of the file system that a place is on, if it is there.
    pub(super) fn at(place: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(place).ok()?;
        Some(Self {
            bytes: disk.f_bfree.saturating_mul(disk.f_frsize),
            inodes: disk.f_ffree,
        })
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Measurement {
    /// Bytes of each volume.
    pub(super) volumes: Vec<u64>,
    /// All of it.
    pub(super) used: DiskUse,
    /// There are so many files that they were not counted to their end.
    pub(super) cut: bool,
    pub(super) means: DiskMeans,
    /// How long that took.
    pub(super) took: Duration,
    /// The time was over before all was counted: the figures say nothing.
    pub(super) given_up: bool,
    /// Of the file system at the beginning.
    pub(super) free: Room,
}

pub(super) fn measure(places: &Places) -> Measurement {
    let begin = Instant::now();
    let pace = Pace {
        pause: &|| {
            let long = begin.elapsed() > PATIENCE;
            std::thread::sleep(if long { SHORT_PAUSE } else { PAUSE });
        },
        is_over: &|| places.most_time.is_some_and(|most| begin.elapsed() > most),
    };
    let last = places.volumes.last();
    let held = last.and_then(|place| hold(place, places.hold_at?));
    let mut found = Measurement {
        means: held.unwrap_or_default(),
        free: last.and_then(|place| Room::at(place)).unwrap_or_default(),
        ..Measurement::default()
    };
    // Beyond twice what the plan has, how many more there are changes nothing.
    let most = match inodes_of(places.limit_bytes) {
        0 => MOST_INODES,
        limit => limit.saturating_mul(2),
    };
    for (whose, place) in places.all() {
        let left = most.saturating_sub(found.used.inodes);
        let usage = tree::usage(place, left, &pace);
        let bytes = match quota_at(place).and_then(|quota| quota.used(place)) {
            // It counts what no walk sees, such as deleted files, but no subvolume that somebody has made in there.
            Some(held) if whose != DiskPlace::Beside => {
                held.bytes.saturating_add(usage.nested_bytes)
            }
            _ => usage.bytes,
        };
        if whose != DiskPlace::Beside {
            found.volumes.push(bytes);
        }
        let used = &mut found.used;
        used.bytes = used.bytes.saturating_add(bytes);
        used.inodes = used.inodes.saturating_add(usage.inodes);
        used.too_deep = used.too_deep.or(usage.too_deep.then_some(whose));
        found.cut |= usage.cut;
        if usage.late {
            found.given_up = true;
            break;
        }
    }
    found.took = begin.elapsed();
    found
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
    use isyone_proto::disk::{Disk, DiskState};

    use super::*;
    use crate::base::beneath::MAX_OPEN;

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
        let found = measure(&places(dir.path()));
        assert_eq!(found.volumes.len(), 2);
        let DiskUse { bytes, inodes, .. } = found.used;
        assert!((6 << 20..7 << 20).contains(&bytes), "{found:?}");
        assert_eq!((inodes, found.means), (3, DiskMeans::Counted));
        assert!(found.free.bytes > 0);
    }

    /// Fails when a walk knows no end but the last directory.
    #[test]
    fn a_walk_whose_time_is_over_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..40 {
            let at = dir.path().join(format!("o/{number}"));
            fsutil::make_directories(&at).unwrap();
        }
        let mut places = places(dir.path());
        let found = measure(&places);
        assert_eq!((found.given_up, found.used.inodes), (false, 40));
        assert!(found.took >= PAUSE * 40);
        places.most_time = Some(PAUSE * 10);
        let found = measure(&places);
        assert!(found.given_up && found.used.inodes < 20, "{found:?}");
        assert!(!found.cut);
    }

    fn places(dir: &Path) -> Places {
        Places {
            volumes: vec![dir.join("p"), dir.join("o")],
            beside: vec![dir.join("l")],
            limit_bytes: 1 << 20,
            ..Places::default()
        }
    }

    fn in_places(used: DiskUse) -> DiskState {
        Disk::after(None, used, 1 << 30, DiskMeans::Counted).state
    }

    /// Fails when a walk leaves out in silence what is nested deep: a way past any limit.
    #[test]
    fn what_is_nested_too_deep_is_said_and_where() {
        for (name, place) in [
            ("p", DiskPlace::Postgres),
            ("o", DiskPlace::Odoo),
            ("l", DiskPlace::Beside),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for name in ["p", "o", "l"] {
                make_directory(&dir.path().join(name)).unwrap();
            }
            let nest = |depth| vec!["d"; depth].join("/");
            let at = dir.path().join(name);
            fsutil::make_directories(&at.join(nest(MAX_OPEN - 1))).unwrap();
            let found = measure(&places(dir.path())).used;
            assert_eq!((found.too_deep, in_places(found)), (None, DiskState::Free));
            fsutil::make_directories(&at.join(nest(MAX_OPEN))).unwrap();
            let found = measure(&places(dir.path())).used;
            assert_eq!(found.too_deep, Some(place));
            assert_eq!(in_places(found), DiskState::Stopped);
            tree::remove_all(&at).unwrap();
        }
    }

    /// Fails when only bytes are counted: empty files take none.
    #[test]
    fn empty_files_count_and_a_walk_ends_beyond_what_matters() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["p", "o", "l"] {
            make_directory(&dir.path().join(name)).unwrap();
        }
        let most = inodes_of(1 << 20);
        for number in 0..most {
            std::fs::write(dir.path().join(format!("o/{number}")), "").unwrap();
        }
        let found = measure(&places(dir.path()));
        assert_eq!((found.used.inodes, found.cut), (most, false));
        let disk = Disk::after(None, found.used, 1 << 20, DiskMeans::Counted);
        assert_eq!(disk.state, DiskState::Stopped);
        for number in 0..=most {
            std::fs::write(dir.path().join(format!("l/{number}")), "").unwrap();
        }
        let found = measure(&places(dir.path()));
        assert_eq!((found.used.inodes, found.cut), (most * 2 + 1, true));
    }
}

//! Which files of a tenant's filestore are new since a moment. Their names are hashes of their contents, so files come and go and never
//! change; what was being written at the moment before is taken again.
//!
//! Every file is looked at and not only folders that changed: one that is written for a minute changes its folder when it is made.
//! Not here: reading them (isyone-backup).

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _, path::PathBuf};

use isyone_proto::{ids::TenantName, plan::UnixMs};

use crate::base::beneath::{Kind, Limits, RelPath, Root};

/// A filestore larger than that is not backed up, and that is said.
const LIMITS: Limits = Limits {
    entries: 4_000_000,
    path_bytes: 400 << 20,
};
/// More new files than that are not named one by one: the whole filestore goes.
const MOST_NEW: usize = 50_000;
/// How much earlier than a shipment a file counts as new again: the clocks of a file system tick in some milliseconds. A file that was
/// being written, and read half, changes after that.
const AGAIN_MS: i64 = 2_000;

/// What is new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct New {
    pub paths: Vec<PathBuf>,
    pub bytes: u64,
    /// They are too many to be named.
    pub all: bool,
}

/// Where Odoo keeps a tenant's files, in its volume.
pub(super) fn filestore(tenant: &TenantName) -> String {
    format!("filestore/{}", tenant.database())
}

/// The filestore in a volume, if there is one: Odoo makes it with its first file. Blocking.
pub(super) fn open(volume: &Root, tenant: &TenantName) -> io::Result<Option<Root>> {
    let path = RelPath::parse(filestore(tenant).as_bytes()).map_err(io::Error::other)?;
    match volume.below(&path) {
        Ok(root) => Ok(Some(root)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// From when on files count as new, for a shipment at `now`; `None`: all do. A clock that was set back makes all of them new.
pub(super) fn threshold(since: Option<UnixMs>, now: UnixMs) -> Option<UnixMs> {
    since
        .filter(|since| *since <= now)
        .map(|since| since - AGAIN_MS)
}

/// Files that have changed at `since` or later. Blocking.
pub(super) fn new_since(filestore: &Root, since: UnixMs) -> io::Result<New> {
    let mut new = New::default();
    filestore.walk(LIMITS, &mut |found| {
        let Kind::File { size, .. } = found.kind else {
            return Ok(());
        };
        if found.ctime_ms < since || new.all {
            return Ok(());
        }
        if new.paths.len() == MOST_NEW {
            new = New {
                all: true,
                ..New::default()
            };
            return Ok(());
        }
        new.bytes = new.bytes.saturating_add(size);
        new.paths.push(OsStr::from_bytes(found.path.bytes()).into());
        Ok(())
    })?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_later_is_new_with_its_path_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("filestore/odoo_alfa");
        std::fs::create_dir_all(store.join("ab")).unwrap();
        std::fs::write(store.join("ab/abc"), "old").unwrap();
        let volume = Root::open(dir.path()).unwrap();
        let root = open(&volume, &"alfa".parse().unwrap()).unwrap().unwrap();
        assert!(open(&volume, &"beta".parse().unwrap()).unwrap().is_none());
        let all = new_since(&root, 0).unwrap();
        assert_eq!((all.paths, all.bytes), (vec![PathBuf::from("ab/abc")], 3));
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::fs::write(store.join("ab/now"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", store.join("ab/link")).unwrap();
        let since = crate::base::clock::now_ms() - 25;
        let new = new_since(&root, since).unwrap();
        assert_eq!(new.paths, [PathBuf::from("ab/now")]);
        // A folder that is a link is no filestore.
        std::fs::remove_dir_all(&store).unwrap();
        std::os::unix::fs::symlink("/etc", &store).unwrap();
        assert!(open(&volume, &"alfa".parse().unwrap()).is_err());
    }

    #[test]
    fn a_clock_that_was_set_back_makes_everything_new() {
        assert_eq!(threshold(None, 5), None);
        assert_eq!(threshold(Some(100_000), 99_999), None);
        assert_eq!(threshold(Some(100_000), 200_000), Some(98_000));
    }
}

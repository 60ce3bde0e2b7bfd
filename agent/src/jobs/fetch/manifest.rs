//! The list of what a copy consists of, as another host sends it: checked before anything is done with it. Pure.
//!
//! Not here: asking for it (the parent), carrying it out (target).

use isyone_proto::{pb::agent::v1::FileEntry, plan::Role};
use sha2::{Digest as _, Sha256};

use super::spool::{Ask, Spool};
use crate::{
    base::beneath::{Meta, RelPath},
    peer::{LIMITS, volume_of},
};

/// A file or directory of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) volume: Role,
    pub(super) path: RelPath,
    /// `None`: a directory.
    pub(super) size: Option<u64>,
    pub(super) meta: Meta,
}

/// What is known of a list as a whole. Two lists with the same digest are the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Facts {
    pub(super) digest: [u8; 32],
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// PostgreSQL's volume holds a cluster: without its version and its control file PostgreSQL's image would begin a new
    /// one. From version 18 on the images keep it in `<version>/docker`.
    pub(super) holds_cluster: bool,
    /// PostgreSQL's volume holds any file.
    pub(super) has_postgres_files: bool,
}

/// All of a copy: PostgreSQL's volume, then Odoo's, each in the order of paths, beginning with its own directory.
pub(super) struct Manifest {
    pub(super) facts: Facts,
    pub(super) list: Spool,
}

/// The directory that a cluster's `PG_VERSION` lies in, if it is one.
fn of_cluster(version_file: &[u8]) -> Option<&[u8]> {
    let directory = version_file.strip_suffix(b"PG_VERSION")?;
    let version = directory.strip_suffix(b"/docker/");
    let usual = directory.is_empty()
        || version.is_some_and(|v| !v.is_empty() && v.iter().all(u8::is_ascii_digit));
    usual.then_some(directory)
}

/// The order of volumes.
pub(super) fn place(volume: Role) -> usize {
    usize::from(volume == Role::Odoo)
}

/// Takes entries as they come, and refuses what no honest walk gives: another order, a file without its directory,
/// something twice, more than the bounds.
#[derive(Debug, Default)]
pub(super) struct Builder {
    facts: Facts,
    digest: Sha256,
    record: Vec<u8>,
    entries: usize,
    path_bytes: usize,
    /// Directory of the last `PG_VERSION`: its control file follows before another directory's version.
    cluster: Option<Vec<u8>>,
    /// Volumes that have begun.
    begun: usize,
    /// The directories around the last entry, each with the last name met in it.
    around: Vec<(RelPath, Option<Vec<u8>>)>,
}

impl Builder {
    /// For the list of Odoo's volume alone.
    pub(super) fn of_odoo() -> Self {
        Self {
            begun: place(Role::Odoo),
            ..Self::default()
        }
    }

    /// Takes the next entry, or says what is wrong with it.
    pub(super) fn add(&mut self, wire: &FileEntry) -> Result<Entry, String> {
        let volume = volume_of(wire.volume).ok_or("an entry is in no volume")?;
        let path = RelPath::parse(&wire.path).map_err(|e| {
            let shown = wire.path.escape_ascii().to_string();
            format!(
                "the path \"{}\": {e}",
                shown.chars().take(100).collect::<String>()
            )
        })?;
        self.path_bytes = self.path_bytes.saturating_add(wire.path.len());
        self.entries += 1;
        if self.entries > 2 * LIMITS.entries || self.path_bytes > 2 * LIMITS.path_bytes {
            return Err(format!(
                "it has more than {} files and directories, or {} MiB of their paths",
                2 * LIMITS.entries,
                (2 * LIMITS.path_bytes) >> 20
            ));
        }
        if wire.uid == u32::MAX || wire.gid == u32::MAX {
            return Err(format!("the owner of {path} is none"));
        }
        self.follow(volume, &path, wire.directory)?;
        let size = (!wire.directory).then_some(wire.size);
        let bytes = self.facts.bytes.checked_add(size.unwrap_or(0));
        self.facts.bytes = bytes.ok_or("its size is none")?;
        let entry = Entry {
            volume,
            path,
            size,
            meta: Meta {
                mode: wire.mode & 0o777,
                uid: wire.uid,
                gid: wire.gid,
                mtime_ns: wire.mtime_ns,
            },
        };
        if volume == Role::Postgres && size.is_some() {
            self.note_cluster(entry.path.bytes());
        }
        let ask = Ask::whole(entry);
        self.record.clear();
        ask.encode(&mut self.record);
        self.digest.update(&self.record);
        Ok(ask.entry)
    }

    fn note_cluster(&mut self, path: &[u8]) {
        self.facts.has_postgres_files = true;
        if let Some(directory) = of_cluster(path) {
            self.cluster = Some(directory.to_owned());
        }
        let rest = self
            .cluster
            .as_ref()
            .and_then(|at| path.strip_prefix(&at[..]));
        self.facts.holds_cluster |= rest == Some(b"global/pg_control");
    }

    /// Checks that an entry comes where a walk meets it.
    fn follow(&mut self, volume: Role, path: &RelPath, directory: bool) -> Result<(), String> {
        let Some((parent, name)) = path.split() else {
            if place(volume) != self.begun || !directory {
                return Err("a volume comes twice or late".to_owned());
            }
            self.begun += 1;
            self.around = vec![(RelPath::root(), None)];
            return Ok(());
        };
        if place(volume) + 1 != self.begun {
            return Err(format!("{path} is not in its volume"));
        }
        while self.around.last().is_some_and(|(at, _)| *at != parent) {
            self.around.pop();
        }
        let Some((_, last)) = self.around.last_mut() else {
            return Err(format!("{path} is not where its directory is"));
        };
        if last.as_deref().is_some_and(|last| last >= name) {
            return Err(format!("{path} comes twice or late"));
        }
        *last = Some(name.to_vec());
        if directory {
            self.around.push((path.clone(), None));
        }
        Ok(())
    }

    /// The whole.
    pub(super) fn finish(self) -> Result<Facts, String> {
        if self.begun != 2 {
            return Err("a volume is missing".to_owned());
        }
        Ok(Facts {
            digest: self.digest.finalize().into(),
            ..self.facts
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use isyone_proto::pb::agent::v1::PeerVolume;
    use proptest::prelude::*;

    use super::*;

    fn wire(volume: PeerVolume, path: &str, size: Option<u64>) -> FileEntry {
        FileEntry {
            volume: volume.into(),
            path: path.as_bytes().to_vec(),
            directory: size.is_none(),
            size: size.unwrap_or(0),
            mode: 0o4755,
            uid: 7,
            gid: 8,
            mtime_ns: 9,
        }
    }

    fn build(list: &[FileEntry]) -> Result<Facts, String> {
        let mut builder = Builder::default();
        list.iter()
            .try_for_each(|entry| builder.add(entry).map(drop))?;
        builder.finish()
    }

    fn sample() -> Vec<FileEntry> {
        use PeerVolume::{Odoo, Postgres};
        vec![
            wire(Postgres, "", None),
            wire(Postgres, "a", None),
            wire(Postgres, "a/x", Some(3)),
            wire(Postgres, "a!", Some(4)),
            wire(Odoo, "", None),
            wire(Odoo, "f", Some(u64::MAX - 7)),
        ]
    }

    #[test]
    fn an_honest_list_is_taken_and_any_change_of_it_is_seen() {
        let facts = build(&sample()).unwrap();
        assert_eq!(facts.bytes, u64::MAX);
        assert_eq!(build(&sample()).unwrap(), facts);
        let changes: [fn(&mut FileEntry); 4] = [
            |entry| entry.size -= 1,
            |entry| entry.mtime_ns += 1,
            |entry| entry.mode = 0o600,
            |entry| entry.path = b"g".to_vec(),
        ];
        for change in changes {
            let mut other = sample();
            change(&mut other[5]);
            assert_ne!(build(&other).unwrap().digest, facts.digest);
        }
        let taken = Builder::default().add(&sample()[0]).unwrap();
        assert_eq!(taken.meta.mode, 0o755, "no setuid");
    }

    #[test]
    fn a_cluster_is_known_by_its_version_and_its_control_file() {
        use PeerVolume::{Odoo, Postgres};
        let whole = |files: &[(&str, Option<u64>)]| {
            let mut list = vec![wire(Postgres, "", None)];
            list.extend(files.iter().map(|(path, size)| wire(Postgres, path, *size)));
            list.extend([wire(Odoo, "", None), wire(Odoo, "PG_VERSION", Some(1))]);
            build(&list).unwrap()
        };
        let (directory, file) = (None, Some(1));
        let old = [
            ("PG_VERSION", file),
            ("global", directory),
            ("global/pg_control", file),
        ];
        let new = [
            ("18", directory),
            ("18/docker", directory),
            ("18/docker/PG_VERSION", file),
            ("18/docker/global", directory),
            ("18/docker/global/pg_control", file),
        ];
        assert!(whole(&old).holds_cluster && whole(&new).holds_cluster);
        assert!(!whole(&old[..1]).holds_cluster && !whole(&old[1..]).holds_cluster);
        assert!(!whole(&new[..4]).holds_cluster);
        let link = [
            ("PG_VERSION", directory),
            ("global", directory),
            ("global/pg_control", file),
        ];
        assert!(!whole(&link).holds_cluster && whole(&link).has_postgres_files);
        assert!(!whole(&[]).holds_cluster && !whole(&[]).has_postgres_files);
    }

    #[test]
    fn what_no_walk_gives_is_refused() {
        use PeerVolume::{Odoo, Postgres, Unspecified};
        let with = |change: &dyn Fn(&mut Vec<FileEntry>)| {
            let mut list = sample();
            change(&mut list);
            build(&list)
        };
        for bad in [
            wire(Postgres, "../x", Some(1)),
            wire(Postgres, "/etc", Some(1)),
            wire(Postgres, "b/x", Some(1)),
            wire(Postgres, "a/x/y", Some(1)),
            wire(Postgres, "a/x", Some(1)),
            wire(Postgres, "a", None),
            wire(Postgres, "", None),
            wire(Odoo, "x", Some(1)),
            wire(Unspecified, "x", Some(1)),
        ] {
            let refused = with(&|list| list.insert(3, bad.clone()));
            assert!(refused.is_err(), "{}", bad.path.escape_ascii());
        }
        assert!(
            with(&|list| list.truncate(4)).is_err(),
            "a volume is missing"
        );
        assert!(with(&|list| list.push(wire(Odoo, "g", Some(8)))).is_err());
        assert!(with(&|list| list[4] = wire(Odoo, "", Some(1))).is_err());
        assert!(with(&|list| list[2].uid = u32::MAX).is_err());
        assert!(with(&|list| list.swap(2, 3)).is_err());
    }

    proptest! {
        /// Any tree, listed in the order of its paths, is taken; any other order of the same is not.
        #[test]
        fn the_order_is_the_whole_of_it(
            tree in proptest::collection::btree_map("[ab!]{1,2}(/[ab!]{1,2}){0,2}", any::<bool>(), 1..12),
            swap in (0usize..20, 0usize..20),
        ) {
            let mut all: BTreeMap<RelPath, Option<u64>> = BTreeMap::from([(RelPath::root(), None)]);
            for (path, directory) in tree {
                let mut path = RelPath::parse(path.as_bytes()).unwrap();
                all.entry(path.clone()).or_insert((!directory).then_some(1));
                while let Some((parent, _)) = path.split() {
                    all.insert(parent.clone(), None);
                    path = parent;
                }
            }
            let list: Vec<_> = all.iter().map(|(path, size)| wire(PeerVolume::Postgres, std::str::from_utf8(path.bytes()).unwrap(), *size)).collect();
            let whole = |list: &[FileEntry]| [list, &[wire(PeerVolume::Odoo, "", None)]].concat();
            prop_assert!(build(&whole(&list)).is_ok());
            let (a, b) = (swap.0 % list.len(), swap.1 % list.len());
            if a != b {
                let mut other = list.clone();
                other.swap(a, b);
                prop_assert!(build(&whole(&other)).is_err());
                other = list.clone();
                other[a] = other[b].clone();
                prop_assert!(build(&whole(&other)).is_err());
            }
        }
    }
}

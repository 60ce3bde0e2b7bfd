//! What a snapshot says about itself, and the list of all.

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};
use rustic_core::repofile::{SnapshotFile, SnapshotId};

use crate::{
    bridge::{id, most, name},
    error::{Error, Fault},
    key::Key,
    limits, seal,
    store::{File, Kind, Name, Store, StoreError},
};

/// What a snapshot is for, and so how long it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// The database's files as a base for the increments that follow, each day.
    Base,
    /// Write-ahead log and new files since the one before.
    Increment,
    /// A portable dump, each week.
    Dump,
    /// Before something is done that cannot be undone: an upgrade, a deletion. An operator's own.
    Kept,
}

impl Purpose {
    pub const ALL: [Self; 4] = [Self::Base, Self::Increment, Self::Dump, Self::Kept];

    /// The word for it in `restic snapshots`, as a tag.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Increment => "increment",
            Self::Dump => "dump",
            Self::Kept => "kept",
        }
    }
}

/// What is written with a snapshot.
#[derive(Clone, Debug)]
pub struct Label {
    pub purpose: Purpose,
    /// The moment it stands for.
    pub time: Timestamp,
    /// The host that made it.
    pub host: String,
    /// More words for people and programs, such as an operation. Without commas.
    pub tags: Vec<String>,
}

/// A snapshot in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub name: Name,
    /// `None` for what others wrote.
    pub purpose: Option<Purpose>,
    pub time: Timestamp,
    pub host: String,
    pub tags: Vec<String>,
    /// Names of its parts.
    pub parts: Vec<String>,
    pub(crate) tree: Name,
}

/// All snapshots, oldest first, and those that cannot be read.
#[derive(Debug, Default)]
pub struct Listing {
    pub snapshots: Vec<Snapshot>,
    pub damaged: Vec<(File, Fault)>,
}

fn of_file(name: Name, file: SnapshotFile) -> Snapshot {
    let tags: Vec<String> = file.tags.iter().cloned().collect();
    let purpose = |tag: &String| Purpose::ALL.into_iter().find(|p| p.tag() == tag);
    Snapshot {
        name,
        purpose: tags.iter().find_map(purpose),
        time: file.time.timestamp(),
        host: file.hostname,
        tags,
        // Restic wants absolute paths.
        parts: file
            .paths
            .iter()
            .map(|path| path.trim_start_matches('/').to_owned())
            .collect(),
        tree: crate::bridge::name(&file.tree),
    }
}

/// Reads one snapshot.
pub(crate) fn read(store: &Arc<dyn Store>, key: &Key, wanted: Name) -> Result<Snapshot, Error> {
    let file = File::new(Kind::Snapshot, wanted);
    let damaged = |fault| Error::Damaged { file, fault };
    let sealed = store.read(file, most(file.kind)).map_err(|e| match e {
        StoreError::Absent(_) => Error::NoSnapshot(wanted),
        e => Error::of_store(&store.place(), e),
    })?;
    if seal::name_of(&sealed) != wanted {
        return Err(damaged(Fault::Altered));
    }
    let json = seal::open_file(key, &sealed).map_err(damaged)?;
    let read = serde_json::from_slice(&json).map_err(|_| damaged(Fault::Malformed))?;
    Ok(of_file(wanted, read))
}

pub(crate) fn list(store: &Arc<dyn Store>, key: &Key) -> Result<Listing, Error> {
    let files = store.list(Kind::Snapshot);
    let files = files.map_err(|e| Error::of_store(&store.place(), e))?;
    if files.len() > limits::SNAPSHOTS {
        return Err(Error::TooMuch {
            what: "snapshots",
            most: limits::SNAPSHOTS as u64,
        });
    }
    let mut listing = Listing::default();
    for (name, _) in files {
        match read(store, key, name) {
            Ok(snapshot) => listing.snapshots.push(snapshot),
            Err(Error::Damaged { file, fault }) => listing.damaged.push((file, fault)),
            Err(Error::NoSnapshot(_)) => {} // forgotten since it was listed
            Err(other) => return Err(other),
        }
    }
    listing.snapshots.sort_by_key(|s| (s.time, s.name));
    Ok(listing)
}

/// What rustic is to put into its snapshot.
pub(crate) fn blank(label: &Label) -> SnapshotFile {
    let mut file = SnapshotFile {
        time: label.time.to_zoned(TimeZone::UTC),
        hostname: label.host.clone(),
        username: "isyone".to_owned(),
        ..SnapshotFile::default()
    };
    for tag in std::iter::once(label.purpose.tag()).chain(label.tags.iter().map(String::as_str)) {
        file.tags.add(tag.to_owned());
    }
    file
}

/// Writes a snapshot: the moment from which there is one.
pub(crate) fn commit(
    store: &Arc<dyn Store>,
    key: &Key,
    mut file: SnapshotFile,
    tree: Name,
) -> Result<Name, Error> {
    file.tree = id(tree).into();
    file.id = SnapshotId::default();
    let json = serde_json::to_vec(&file).map_err(|e| Error::Library {
        doing: "written",
        said: e.to_string(),
    })?;
    let sealed = seal::close_file(key, &json);
    let name = seal::name_of(&sealed);
    let written = store.write(File::new(Kind::Snapshot, name), &[sealed.into()]);
    written.map_err(|e| Error::of_store(&store.place(), e))?;
    Ok(name)
}

pub(crate) fn tree_of(file: &SnapshotFile) -> Name {
    name(&file.tree)
}

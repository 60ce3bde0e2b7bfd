//! Makes a snapshot: rustic reads and packs the parts, we see to it that all of them arrived, and only then there is one.
//!
//! rustic stores a stream with the length that was announced, and nobody knows it before: stock restic would restore an empty
//! file. So the folder of the parts is written once more, with the lengths that were read.

use std::{path::PathBuf, sync::Arc, thread};

use bytes::Bytes;
use bytesize::ByteSize;
use rustic_core::{
    BackupOptions, ConfigOptions, IndexedIdsStatus, KeyOptions, ParentOptions,
    Repository as Rustic, RepositoryOptions,
    repofile::{SnapshotFile, Tree},
};
use rustix::{
    process::nice,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde_json::json;

use crate::{
    bridge::{Bridge, stored, without_panic},
    error::{Error, Fault},
    index::Index,
    job::Job,
    key::Key,
    limits, seal,
    snapshot::{self, Label, Snapshot},
    source::{Feed, LeftOut, Part},
    store::{File, Kind, Name, Store},
};

/// What [`nice`] takes for the lowest priority.
const LOWEST: i32 = 19;

/// A snapshot that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub snapshot: Name,
    pub files: u64,
    pub folders: u64,
    /// Bytes read from the source; what had not changed was not read.
    pub bytes: u64,
    /// Bytes written to the destination.
    pub stored: u64,
    pub left_out: LeftOut,
}

/// Where a snapshot is written, and by which job.
pub(crate) struct Writer<'a> {
    pub(crate) store: &'a Arc<dyn Store>,
    pub(crate) key: &'a Key,
    pub(crate) job: &'a Job,
}

pub(crate) fn rustic_options() -> RepositoryOptions {
    // Its cache lies in the home directory of whoever runs it.
    RepositoryOptions::default().no_cache(true)
}

pub(crate) fn configuration() -> ConfigOptions {
    ConfigOptions::default()
        .set_version(2_u32)
        .set_compression(limits::COMPRESSION)
        .set_datapack_size(ByteSize::b(limits::DATA_PACK))
        .set_datapack_size_limit(ByteSize::b(limits::DATA_PACK))
        .set_datapack_growfactor(0_u32)
        .set_treepack_size(ByteSize::b(limits::TREE_PACK))
        .set_treepack_size_limit(ByteSize::b(limits::TREE_PACK))
        .set_treepack_growfactor(0_u32)
        .set_extra_verify(true)
}

/// Names that are one step, and none twice; in the order in which they will be read.
fn in_order(mut parts: Vec<Part>) -> Result<Vec<Part>, Error> {
    if parts.len() > limits::PARTS {
        return Err(Error::TooManyParts(parts.len()));
    }
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    let twice = parts.windows(2).find(|two| two[0].name == two[1].name);
    // A name of ours: what restic would have to escape is not one.
    let is_plain = |name: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        crate::tree::check(name.as_bytes()).is_ok() && name.bytes().all(plain)
    };
    let wrong = parts.iter().find(|part| !is_plain(&part.name));
    match twice.map(|two| &two[0]).or(wrong) {
        Some(part) => Err(Error::PartName(part.name.clone())),
        None => Ok(parts),
    }
}

impl Writer<'_> {
    /// Makes a snapshot. Files that `parent` has in the same parts, unchanged, are not read again.
    pub(crate) fn write(
        &self,
        label: &Label,
        parts: Vec<Part>,
        parent: Option<&Snapshot>,
    ) -> Result<Written, Error> {
        let parts = in_order(parts)?;
        let paths: Vec<_> = parts.iter().map(|p| PathBuf::from(&p.name)).collect();
        let feed = Feed::new(parts, label.time, self.job);
        let bridge = Bridge::new(self.store, self.key, self.job);
        let before = stored(self.job);
        let archived = thread::scope(|scope| {
            let archive = || self.archive(&bridge, &feed, label, paths, parent);
            let thread = scope.spawn(|| {
                let_others_go_first();
                keep_to_processors(self.job.processors);
                without_panic("written", archive)
            });
            thread.join().unwrap_or(Err(Error::Stopped)) // panics are caught within
        })?;
        let summary = archived.summary.clone().unwrap_or_default();
        let fed = feed.verdict(summary.total_files_processed, summary.total_dirs_processed)?;
        let root = snapshot::tree_of(&archived);
        let tree = match &fed.streams[..] {
            [] => root,
            streams => self.with_lengths(&bridge, root, streams)?,
        };
        let snapshot = snapshot::commit(self.store, self.key, archived, tree)?;
        Ok(Written {
            snapshot,
            files: fed.files,
            folders: fed.folders,
            bytes: fed.bytes,
            stored: stored(self.job) - before,
            left_out: fed.left_out,
        })
    }

    fn archive(
        &self,
        bridge: &Arc<Bridge>,
        feed: &Feed,
        label: &Label,
        paths: Vec<PathBuf>,
        parent: Option<&Snapshot>,
    ) -> Result<SnapshotFile, Error> {
        let explain = |e: Box<_>| bridge.explain("written", &e);
        let rustic = Rustic::new(&rustic_options(), &bridge.backends()).map_err(explain)?;
        let rustic: Rustic<IndexedIdsStatus> = rustic
            .open(&self.key.credentials())
            .and_then(Rustic::to_indexed_ids)
            .map_err(explain)?;
        let parent = parent.map(|parent| parent.name.to_string());
        let parents = ParentOptions::default()
            .force(parent.is_none())
            .parents(parent.into_iter().collect::<Vec<_>>());
        let options = BackupOptions::default().no_scan(true).parent_opts(parents);
        let blank = snapshot::blank(label);
        let archived = rustic.archive(&options, feed, blank, &paths);
        archived.map_err(|e| match bridge.explain("written", &e) {
            // Not the destination's fault, so probably the source's.
            said @ Error::Library { .. } => feed.failure().unwrap_or(said),
            other => other,
        })
    }

    /// The folder of the parts with the right lengths.
    fn with_lengths(
        &self,
        bridge: &Bridge,
        root: Name,
        streams: &[(String, u64)],
    ) -> Result<Name, Error> {
        let lost = Error::Library {
            doing: "written",
            said: "the folder of the parts is not where it was put".to_owned(),
        };
        // It was written just now, or is the same as in an earlier snapshot.
        let written = bridge.written_indexes().into_iter();
        let mut index = Index::of(self.store, self.key, written)?;
        if index.tree(root).is_none() {
            index = Index::load(self.store, self.key)?;
        }
        let place = index.tree(root).ok_or(lost)?;
        let pack = index.pack(&place);
        let sealed = self
            .store
            .read_part(pack, place.offset.into(), place.length);
        let sealed = sealed.map_err(|e| Error::of_store(&self.store.place(), e))?;
        let damaged = |fault| Error::Damaged { file: pack, fault };
        let json = crate::reader::open(self.key, &sealed, &place).map_err(damaged)?;
        let tree: Result<Tree, _> = serde_json::from_slice(&json);
        let mut tree = tree.map_err(|_| damaged(Fault::Malformed))?;
        for node in &mut tree.nodes {
            if let Some((_, length)) = streams.iter().find(|(name, _)| *name == node.name) {
                node.meta.size = *length;
            }
        }
        let (json, _) = tree.serialize().map_err(|e| Error::Library {
            doing: "written",
            said: e.to_string(),
        })?;
        self.write_tree(&json)
    }

    /// Writes a pack of one folder, and an index file that names it.
    fn write_tree(&self, json: &[u8]) -> Result<Name, Error> {
        let tree = seal::name_of(json);
        let packed =
            zstd::bulk::compress(json, limits::COMPRESSION).map_err(|e| Error::Library {
                doing: "written",
                said: e.to_string(),
            })?;
        let blob = seal::encrypt(self.key, &packed);
        let lengths = [blob.len(), json.len()].map(|length| u32::try_from(length).unwrap_or(0));
        // Its header: the kind "compressed folder", both lengths, the name.
        let mut header = vec![3];
        for length in lengths {
            header.extend_from_slice(&length.to_le_bytes());
        }
        header.extend_from_slice(&tree.0);
        let header = seal::encrypt(self.key, &header);
        let header_length = u32::try_from(header.len()).unwrap_or(0).to_le_bytes();
        let pack = [&blob[..], &header, &header_length].concat();
        let name = self.put(Kind::Pack, pack)?;
        let index = json!({ "packs": [{ "id": name.to_string(), "blobs": [{
            "id": tree.to_string(),
            "type": "tree",
            "offset": 0,
            "length": lengths[0],
            "uncompressed_length": lengths[1],
        }] }] });
        self.put(
            Kind::Index,
            seal::close_file(self.key, index.to_string().as_bytes()),
        )?;
        Ok(tree)
    }

    pub(crate) fn put(&self, kind: Kind, content: Vec<u8>) -> Result<Name, Error> {
        let name = seal::name_of(&content);
        let length = content.len() as u64;
        let content = Bytes::from(content);
        let written = self.store.write(File::new(kind, name), &[content]);
        written.map_err(|e| Error::of_store(&self.store.place(), e))?;
        let stored = &self.job.progress.stored;
        self.job.pass_destination(length, stored);
        Ok(name)
    }
}

/// Lowers the priority of this thread, and of those it starts: who cuts, compresses and encrypts takes what tenants and the rest of
/// the program leave. For good, so it must be a thread of its own.
fn let_others_go_first() {
    let _ = nice(LOWEST); // only a courtesy
}

/// Keeps this thread, and those it starts, to some processors. rustic starts as many threads as it may use processors, each
/// with chunks in memory; and a tenant is to feel nothing.
fn keep_to_processors(most: usize) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    /// Jobs at the same time begin at different processors.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let Ok(allowed) = sched_getaffinity(None) else {
        return; // only a courtesy
    };
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|n| allowed.is_set(*n))
        .collect();
    if allowed.len() <= most.max(1) {
        return;
    }
    let first = NEXT.fetch_add(most, Ordering::Relaxed);
    let mut chosen = CpuSet::new();
    for n in 0..most.max(1) {
        chosen.set(allowed[(first + n) % allowed.len()]);
    }
    let _ = sched_setaffinity(None, &chosen); // only a courtesy
}

/// Makes the repository's `config`, and the key under restic's password.
pub(crate) fn create(store: &Arc<dyn Store>, key: &Key, job: &Job) -> Result<(), Error> {
    let bridge = Bridge::new(store, key, job);
    let of_store = |e| Error::of_store(&store.place(), e);
    store.create().map_err(of_store)?;
    // The key first: a repository with `config` is complete.
    let key_file = seal::key_file(key, &key.restic_password());
    let name = seal::name_of(&key_file);
    let key_file = Bytes::from(key_file);
    store
        .write(File::new(Kind::Key, name), &[key_file])
        .map_err(of_store)?;
    without_panic("made", || {
        let explain = |e: Box<_>| bridge.explain("made", &e);
        let rustic = Rustic::new(&rustic_options(), &bridge.backends()).map_err(explain)?;
        let made = rustic.init(&key.credentials(), &KeyOptions::default(), &configuration());
        made.map(drop).map_err(explain)
    })
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn only_the_thread_that_writes_lets_others_go_first() {
        let before = getpriority_process(None).unwrap();
        let within = thread::spawn(|| {
            let_others_go_first();
            let started = thread::spawn(|| getpriority_process(None).unwrap());
            [getpriority_process(None).unwrap(), started.join().unwrap()]
        });
        assert_eq!(within.join().unwrap(), [LOWEST; 2]);
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}

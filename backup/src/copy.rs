//! A second copy of a repository: what one store has is brought to another, and what the first has pruned leaves the second.
//!
//! **A snapshot arrives after everything that it needs**: what there is to copy is looked at in the opposite order of how it was written
//! (snapshots, index, packs) and copied in that of how it was written, so a copy that was cut off at any point holds whole snapshots
//! only. Nothing leaves a copy because the original lacks it: see [`Repository::tidy_copy`].
//! Not here: when (the coordinator), where (the stores).

use std::collections::{BTreeSet, HashSet};

use crate::{
    error::Error,
    index::Index,
    job::Job,
    limits,
    repository::Repository,
    seal,
    store::{File, Kind, Name, Store, StoreError},
};

/// In the order in which a writer writes them.
const ORDER: [Kind; 5] = [
    Kind::Config,
    Kind::Key,
    Kind::Pack,
    Kind::Index,
    Kind::Snapshot,
];

/// What a copy has already: of each file 12 bytes of its name and its size, so that a repository of 10,000 files costs 160 KB. Sorted.
#[derive(Debug, Default, Clone)]
pub struct Known {
    files: Vec<u128>,
    /// Whether the two are known to be of one repository.
    compared: bool,
}

impl Known {
    /// What lies at a store.
    ///
    /// # Errors
    /// The destination fails.
    pub fn list(store: &dyn Store) -> Result<Self, Error> {
        let mut all = Vec::new();
        for kind in ORDER {
            let listed = files(store, kind)?;
            all.extend(listed.into_iter().map(|(file, bytes)| mark(file, bytes)));
        }
        all.sort_unstable();
        Ok(Self {
            files: all,
            compared: false,
        })
    }

    /// Bytes that a store has and that are not known.
    ///
    /// # Errors
    /// The destination fails.
    pub fn missing(&self, of: &dyn Store) -> Result<u64, Error> {
        let mut bytes = 0;
        for kind in ORDER {
            let listed = files(of, kind)?.into_iter();
            let missing = listed.filter(|(file, size)| !self.has(*file, *size));
            bytes += missing.map(|(_, size)| size).sum::<u64>();
        }
        Ok(bytes)
    }

    fn has(&self, file: File, bytes: u64) -> bool {
        self.files.binary_search(&mark(file, bytes)).is_ok()
    }

    fn add(&mut self, file: File, bytes: u64) {
        let mark = mark(file, bytes);
        if let Err(at) = self.files.binary_search(&mark) {
            self.files.insert(at, mark);
        }
    }
}

/// A file and its size: one of another size is not the file.
fn mark(file: File, bytes: u64) -> u128 {
    let mut mark = [0; 16];
    mark[..12].copy_from_slice(&file.name.0[..12]);
    // The largest that may be read has 64 MiB.
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    mark[12..].copy_from_slice(&bytes.to_be_bytes());
    u128::from_be_bytes(mark)
}

fn files(store: &dyn Store, kind: Kind) -> Result<Vec<(File, u64)>, Error> {
    let listed = store.list(kind);
    let listed = listed.map_err(|e| Error::of_store(&store.place(), e))?;
    let file = |(name, bytes)| (File::new(kind, name), bytes);
    Ok(listed.into_iter().map(file).collect())
}

fn read(store: &dyn Store, file: File) -> Result<bytes::Bytes, Error> {
    let most = match file.kind {
        Kind::Pack => limits::PACK_BYTES,
        _ => limits::FILE_BYTES,
    };
    let content = store.read(file, most);
    content.map_err(|e| Error::of_store(&store.place(), e))
}

/// What was brought over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    pub files: u64,
    pub bytes: u64,
}

/// Brings what is missing from one store to another. Holds one file in memory at a time. What was copied before an error stays and is
/// known; the next call goes on there.
///
/// # Errors
/// One of the two fails, a file is not what its name says (it is not copied, nor any snapshot), the two are not of one repository, or
/// the job is stopped.
pub fn copy(
    from: &dyn Store,
    to: &dyn Store,
    known: &mut Known,
    job: &Job,
) -> Result<Copied, Error> {
    let mut found = Vec::new();
    for kind in ORDER.iter().rev() {
        found.push(files(from, *kind)?);
    }
    let missing = |known: &Known, of: &[(File, u64)]| -> Vec<(File, u64)> {
        let all = of.iter().copied();
        all.filter(|(file, bytes)| !known.has(*file, *bytes))
            .collect()
    };
    same_repository(from, to, known)?;
    let mut copied = Copied::default();
    for of_kind in found.iter().rev() {
        for (file, bytes) in missing(known, of_kind) {
            if job.stop.is_stopped() {
                return Err(Error::Stopped);
            }
            let content = read(from, file)?;
            if file.kind != Kind::Config && seal::name_of(&content) != file.name {
                return Err(Error::of_store(&from.place(), StoreError::Altered(file)));
            }
            job.pass_destination(bytes, &job.progress.stored);
            let written = to.write(file, &[content]);
            written.map_err(|e| Error::of_store(&to.place(), e))?;
            known.add(file, bytes);
            copied.files += 1;
            copied.bytes += bytes;
        }
    }
    Ok(copied)
}

/// Two repositories in one place would be none. Once known, `config` is not looked at again.
fn same_repository(from: &dyn Store, to: &dyn Store, known: &mut Known) -> Result<(), Error> {
    if known.compared {
        return Ok(());
    }
    let ours = read(from, File::config())?;
    match read(to, File::config()) {
        Ok(theirs) if theirs == ours => {}
        Ok(_) => return Err(Error::OtherRepository { place: to.place() }),
        Err(error) if matches!(error.store(), Some(StoreError::Absent(_))) => {}
        Err(error) => return Err(error),
    }
    known.compared = true;
    Ok(())
}

/// What became of a copy's leftovers.
#[derive(Debug, Default)]
pub struct Tidied {
    pub removed: u64,
    /// Snapshots that only the copy has and that are to be kept. While there are any, nothing that they may need is removed.
    pub only_there: usize,
    /// The copy does not let us remove: by its policy, or an object lock.
    pub refused: Option<StoreError>,
}

/// The snapshots that only the copy has: they were forgotten here, or lost.
///
/// # Errors
/// One of the two fails.
pub fn only_in_copy(from: &dyn Store, to: &dyn Store) -> Result<Vec<Name>, Error> {
    let there = files(to, Kind::Snapshot)?;
    let here: HashSet<File> = names(files(from, Kind::Snapshot)?);
    let only = there.into_iter().filter(|(file, _)| !here.contains(file));
    Ok(only.map(|(file, _)| file.name).collect())
}

fn names(files: Vec<(File, u64)>) -> HashSet<File> {
    files.into_iter().map(|(file, _)| file).collect()
}

impl Repository {
    /// Removes from a copy what this repository has pruned: of the snapshots that only the copy has those that may be forgotten, and,
    /// when no other is left, index files and packs that this one neither has nor names. A repository that has lost files therefore
    /// takes nothing from its copy: a lost snapshot is kept there with all it needs, a lost pack is named by the index.
    /// Everything must have been copied before, and nobody may prune meanwhile.
    ///
    /// # Errors
    /// One of the two fails, or this repository is damaged. That the copy refuses to remove is no error.
    pub fn tidy_copy(&self, to: &dyn Store, forgettable: &BTreeSet<Name>) -> Result<Tidied, Error> {
        let from = self.store().as_ref();
        // Theirs first: what is there came from here, and only pruning takes it away here.
        let theirs = [Kind::Snapshot, Kind::Index, Kind::Pack].map(|kind| files(to, kind));
        let [snapshots, index, packs] = theirs;
        let (snapshots, index, packs) = (snapshots?, index?, packs?);
        let here = |kind| files(from, kind).map(names);
        let ours = here(Kind::Snapshot)?;
        let mut tidied = Tidied::default();
        for (file, _) in snapshots {
            if ours.contains(&file) {
                continue;
            }
            match forgettable.contains(&file.name) {
                true if !remove(to, file, &mut tidied)? => return Ok(tidied),
                true => {}
                false => tidied.only_there += 1,
            }
        }
        if tidied.only_there > 0 {
            return Ok(tidied);
        }
        let named = self.named_packs()?;
        let ours = here(Kind::Index)?;
        let mut gone: Vec<File> = Vec::new();
        gone.extend(
            index
                .iter()
                .map(|(file, _)| file)
                .filter(|f| !ours.contains(f)),
        );
        let ours = here(Kind::Pack)?;
        let is_gone = |file: &&File| !ours.contains(file) && !named.contains(file);
        gone.extend(packs.iter().map(|(file, _)| file).filter(is_gone));
        for file in gone {
            if !remove(to, file, &mut tidied)? {
                break;
            }
        }
        Ok(tidied)
    }

    /// The packs that an index names.
    fn named_packs(&self) -> Result<HashSet<File>, Error> {
        let index = Index::load(self.store(), self.key())?;
        if let Some((file, fault)) = index.damaged.first() {
            let (file, fault) = (*file, *fault);
            return Err(Error::Damaged { file, fault });
        }
        Ok(index.by_pack().into_iter().map(|(pack, _)| pack).collect())
    }
}

/// Whether it is removed; that it is refused is noted.
fn remove(store: &dyn Store, file: File, tidied: &mut Tidied) -> Result<bool, Error> {
    match store.remove(file) {
        Ok(()) => {
            tidied.removed += 1;
            Ok(true)
        }
        Err(refused @ StoreError::Denied(_)) => {
            tidied.refused = Some(refused);
            Ok(false)
        }
        Err(other) => Err(Error::of_store(&store.place(), other)),
    }
}

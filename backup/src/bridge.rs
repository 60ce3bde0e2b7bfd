//! rustic_core's view of a [`Store`], for one job.
//!
//! Three things happen on the way: what is read is checked against its name and its size before rustic unpacks it; a failure is
//! kept as what it was, since rustic makes text of it; and snapshots are withheld, because rustic writes one whether or not it
//! could read the source.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use bytes::Bytes;
use rustic_core::{
    BytesList, ErrorKind, FileType, Id, ReadBackend, RepositoryBackends, RusticError, RusticResult,
    WriteBackend,
};

use crate::{
    error::{Error, Fault},
    job::Job,
    key::Key,
    limits, seal,
    store::{File, Kind, Name, Store, StoreError},
};

/// A store, a key and a job, as rustic sees them.
#[derive(Debug)]
pub(crate) struct Bridge {
    store: Arc<dyn Store>,
    key: Key,
    job: Job,
    failed: Mutex<Option<StoreError>>,
    /// Index files that were written, to find in them what else was.
    indexes: Mutex<Vec<Name>>,
}

pub(crate) fn name(id: &Id) -> Name {
    // Its bytes are private; its text is not.
    id.to_hex().parse().unwrap_or_default()
}

pub(crate) fn id(name: Name) -> Id {
    name.to_string().parse().unwrap_or_default()
}

const fn kind(tpe: FileType) -> Kind {
    match tpe {
        FileType::Config => Kind::Config,
        FileType::Key => Kind::Key,
        FileType::Snapshot => Kind::Snapshot,
        FileType::Index => Kind::Index,
        FileType::Pack => Kind::Pack,
    }
}

fn file(tpe: FileType, id: &Id) -> File {
    match tpe {
        FileType::Config => File::config(),
        tpe => File::new(kind(tpe), name(id)),
    }
}

pub(crate) const fn most(kind: Kind) -> u64 {
    match kind {
        Kind::Pack => limits::PACK_BYTES,
        _ => limits::FILE_BYTES,
    }
}

impl Bridge {
    pub(crate) fn new(store: &Arc<dyn Store>, key: &Key, job: &Job) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            key: key.clone(),
            job: job.clone(),
            failed: Mutex::default(),
            indexes: Mutex::default(),
        })
    }

    pub(crate) fn backends(self: &Arc<Self>) -> RepositoryBackends {
        RepositoryBackends::new(self.clone(), None)
    }

    /// What a failure of rustic's was about: the destination, or something that it says in its own words.
    pub(crate) fn explain(&self, doing: &'static str, said: &RusticError) -> Error {
        let first = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let first = { first }.take();
        match first {
            Some(source) => Error::of_store(&self.store.place(), source),
            None if self.job.stop.is_stopped() => Error::Stopped,
            None => Error::Library {
                doing,
                said: said.to_string(),
            },
        }
    }

    pub(crate) fn written_indexes(&self) -> Vec<Name> {
        let names = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }

    fn fail(&self, error: StoreError) -> Box<RusticError> {
        let said = RusticError::new(ErrorKind::Backend, error.to_string());
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // The first is the cause; others are what rustic's threads met afterwards.
        failed.get_or_insert(error);
        said
    }

    fn go_on(&self) -> Result<(), StoreError> {
        match self.job.stop.is_stopped() {
            true => Err(StoreError::Stopped),
            false => Ok(()),
        }
    }

    /// Reads a whole file and makes sure that rustic may unpack it.
    fn checked(&self, file: File) -> Result<Bytes, StoreError> {
        self.go_on()?;
        let content = self.store.read(file, most(file.kind))?;
        let fetched = &self.job.progress.fetched;
        self.job.pass_destination(content.len() as u64, fetched);
        if file.kind != Kind::Config && seal::name_of(&content) != file.name {
            return Err(StoreError::Altered(file));
        }
        let unpacks = matches!(file.kind, Kind::Index | Kind::Snapshot);
        if unpacks && seal::open_file(&self.key, &content) == Err(Fault::Swollen) {
            return Err(StoreError::Swollen(file));
        }
        Ok(content)
    }
}

impl ReadBackend for Bridge {
    fn location(&self) -> String {
        self.store.place()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let listed = self.go_on().and_then(|()| self.store.list(kind(tpe)));
        let listed = listed.map_err(|e| self.fail(e))?;
        let size = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let listed = listed.into_iter();
        Ok(listed.map(|(n, bytes)| (id(n), size(bytes))).collect())
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        self.checked(file(tpe, id)).map_err(|e| self.fail(e))
    }

    fn read_partial(
        &self,
        tpe: FileType,
        id: &Id,
        _: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        let file = file(tpe, id);
        let read = self.go_on().and_then(|()| {
            if u64::from(length) > limits::PACK_BYTES {
                return Err(StoreError::Swollen(file));
            }
            self.store.read_part(file, u64::from(offset), length)
        });
        let read = read.map_err(|e| self.fail(e))?;
        let fetched = &self.job.progress.fetched;
        self.job.pass_destination(read.len() as u64, fetched);
        Ok(read)
    }

    fn warmup_path(&self, tpe: FileType, id: &Id) -> String {
        file(tpe, id).path()
    }
}

impl WriteBackend for Bridge {
    fn create(&self) -> RusticResult<()> {
        self.store.create().map_err(|e| self.fail(e))
    }

    fn write_bytes(&self, tpe: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        if tpe == FileType::Snapshot {
            return Ok(()); // withheld: `write` makes it from what it is given
        }
        let file = file(tpe, id);
        let bytes = content.size() as u64;
        self.job.pass_destination(bytes, &self.job.progress.stored);
        let written = self
            .go_on()
            .and_then(|()| self.store.write(file, content.slice()));
        written.map_err(|e| self.fail(e))?;
        if file.kind == Kind::Index {
            let mut names = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
            names.push(file.name);
        }
        Ok(())
    }

    fn remove(&self, tpe: FileType, id: &Id, _: bool) -> RusticResult<()> {
        let removed = self.go_on().and_then(|()| self.store.remove(file(tpe, id)));
        removed.map_err(|e| self.fail(e))
    }
}

/// Runs rustic, whose own assumptions about what it reads may end in a panic.
pub(crate) fn without_panic<T>(
    doing: &'static str,
    run: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::Library {
            doing,
            said: said.unwrap_or_else(|| "it panicked".to_owned()),
        })
    })
}

/// How much was written to the destination.
pub(crate) fn stored(job: &Job) -> u64 {
    job.progress.stored.load(Ordering::Relaxed)
}

//! A tenant's repository: the one type that everybody uses.

use std::sync::Arc;

use jiff::Span;
use rustic_core::{PruneOptions, RepairIndexOptions, Repository as Rustic};

use crate::{
    bridge::{Bridge, most, without_panic},
    error::{Error, Fault},
    index::Index,
    job::Job,
    key::Key,
    reader::Reader,
    seal,
    snapshot::{self, Label, Listing, Snapshot},
    source::Part,
    store::{File, Kind, Name, Store, StoreError},
    verify::{self, Report, Share},
    write::{self, Writer, Written},
};

/// See the module. It holds nothing open.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    key: Key,
}

impl Repository {
    /// Makes a new repository. A creation that was cut off can be repeated.
    ///
    /// # Errors
    /// There is one already, or the destination fails.
    pub fn create(store: Arc<dyn Store>, key: &Key, job: &Job) -> Result<Self, Error> {
        match config(&store) {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Err(Error::RepositoryExists {
                    place: store.place(),
                });
            }
            // Its own folder is not there yet; whether the destination is, `create` finds out.
            Err(Error::Store {
                source: StoreError::Unreachable(e),
                ..
            }) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        write::create(&store, key, job)?;
        Self::open(store, key)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// The destination fails, there is no repository, the key is another's, `config` is damaged.
    pub fn open(store: Arc<dyn Store>, key: &Key) -> Result<Self, Error> {
        let place = store.place();
        let Some(sealed) = config(&store)? else {
            return Err(Error::NoRepository { place });
        };
        match seal::open_file(key, &sealed) {
            Ok(_) => Ok(Self {
                store,
                key: key.clone(),
            }),
            // The wrong key and a damaged file look the same; another file that is known to be intact tells them apart.
            Err(Fault::Sealed) if !opens_another(&store, key)? => Err(Error::WrongKey { place }),
            Err(fault) => Err(Error::Damaged {
                file: File::config(),
                fault,
            }),
        }
    }

    pub(crate) const fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) const fn key(&self) -> &Key {
        &self.key
    }

    #[must_use]
    pub fn place(&self) -> String {
        self.store.place()
    }

    /// Makes a snapshot of parts, which are read in the order of their names. `parent` saves reading: files of a folder that it
    /// has unchanged are not opened.
    ///
    /// # Errors
    /// Anything that failed; then there is no snapshot.
    pub fn write(
        &self,
        label: &Label,
        parts: Vec<Part>,
        parent: Option<&Snapshot>,
        job: &Job,
    ) -> Result<Written, Error> {
        let writer = Writer {
            store: &self.store,
            key: &self.key,
            job,
        };
        writer.write(label, parts, parent)
    }

    /// All snapshots, and those that are damaged.
    ///
    /// # Errors
    /// The destination fails.
    pub fn snapshots(&self) -> Result<Listing, Error> {
        snapshot::list(&self.store, &self.key)
    }

    /// One snapshot.
    ///
    /// # Errors
    /// There is none of this name, it is damaged, the destination fails.
    pub fn snapshot(&self, name: Name) -> Result<Snapshot, Error> {
        snapshot::read(&self.store, &self.key, name)
    }

    /// Reads the index, for reading contents.
    ///
    /// # Errors
    /// The destination fails. A damaged index file is no error: see [`Reader::damaged`].
    pub fn reader(&self, job: &Job) -> Result<Reader, Error> {
        let index = Index::load(&self.store, &self.key)?;
        Ok(Reader::new(
            self.store.clone(),
            self.key.clone(),
            job.clone(),
            index,
        ))
    }

    /// Reads packs, all or a share of them, and compares everything with its name; then looks what each snapshot misses.
    ///
    /// # Errors
    /// The destination fails or the job is stopped. Damage is in the report.
    pub fn verify(&self, share: Share, job: &Job) -> Result<Report, Error> {
        verify::run(&self.reader(job)?, self.snapshots()?, share)
    }

    /// Removes snapshots. Their contents stay until [`Self::prune`].
    ///
    /// # Errors
    /// The destination fails, or does not allow it.
    pub fn forget(&self, names: &[Name]) -> Result<(), Error> {
        let remove = |name: &Name| self.store.remove(File::new(Kind::Snapshot, *name));
        names
            .iter()
            .try_for_each(remove)
            .map_err(|e| Error::of_store(&self.store.place(), e))
    }

    /// Marks contents that no snapshot needs, and removes what was marked at least `hours` ago: a host that is just making a
    /// snapshot may count on what is there. 23 hours are longer than any backup.
    ///
    /// # Errors
    /// The destination fails; something is damaged, and then nothing is removed.
    pub fn prune(&self, hours: u32, job: &Job) -> Result<(), Error> {
        // What a damaged snapshot needs is not known; rustic would be told by its failure, we say which.
        let damaged = self.snapshots()?.damaged.into_iter();
        let damaged = damaged.chain(Index::load(&self.store, &self.key)?.damaged);
        if let Some((file, fault)) = { damaged }.next() {
            return Err(Error::Damaged { file, fault });
        }
        let mut options = PruneOptions::default();
        options.keep_delete = Span::new().hours(i64::from(hours));
        self.with_rustic("pruned", job, |rustic| {
            let plan = rustic.prune_plan(&options)?;
            rustic.prune(&options, plan)
        })
    }

    /// Makes index files anew from what the packs themselves say, where they are damaged or missing.
    ///
    /// # Errors
    /// The destination fails, or does not allow it.
    pub fn mend_index(&self, job: &Job) -> Result<(), Error> {
        for (file, _) in Index::load(&self.store, &self.key)?.damaged {
            let removed = self.store.remove(file);
            removed.map_err(|e| Error::of_store(&self.store.place(), e))?;
        }
        self.with_rustic("mended", job, |rustic| {
            rustic.repair_index(&RepairIndexOptions::default(), false)
        })
    }

    fn with_rustic(
        &self,
        doing: &'static str,
        job: &Job,
        run: impl FnOnce(&Rustic<rustic_core::OpenStatus>) -> rustic_core::RusticResult<()>,
    ) -> Result<(), Error> {
        let bridge = Bridge::new(&self.store, &self.key, job);
        without_panic(doing, || {
            let done = Rustic::new(&write::rustic_options(), &bridge.backends())
                .and_then(|rustic| rustic.open(&self.key.credentials()))
                .and_then(|rustic| run(&rustic));
            done.map_err(|e| bridge.explain(doing, &e))
        })
    }
}

/// The content of `config`, if there is a repository.
fn config(store: &Arc<dyn Store>) -> Result<Option<bytes::Bytes>, Error> {
    match store.read(File::config(), most(Kind::Config)) {
        Ok(content) => Ok(Some(content)),
        Err(StoreError::Absent(_)) => Ok(None),
        Err(e) => Err(Error::of_store(&store.place(), e)),
    }
}

/// Whether the key opens some file that is as it was written.
fn opens_another(store: &Arc<dyn Store>, key: &Key) -> Result<bool, Error> {
    /// Damage is rare: one of so many is intact.
    const LOOK_AT: usize = 8;
    let of_store = |e| Error::of_store(&store.place(), e);
    for kind in [Kind::Index, Kind::Snapshot] {
        let files = store.list(kind).map_err(of_store)?;
        for (name, _) in files.into_iter().take(LOOK_AT) {
            let read = store.read(File::new(kind, name), most(kind));
            let intact = read.ok().filter(|content| seal::name_of(content) == name);
            if let Some(content) = intact {
                return Ok(seal::open_file(key, &content) != Err(Fault::Sealed));
            }
        }
    }
    // Nothing else is there: a repository that was never written to. Keys are mixed up more often than disks fail.
    Ok(false)
}

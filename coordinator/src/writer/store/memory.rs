//! A store in memory only, for tests and simulations. Clones share the contents, as a disk survives a crash;
//! [`MemoryStore::fail_next`] makes commits fail.
//!
//! Not here: any disk failure other than a failed commit.

use std::sync::{Arc, Mutex, PoisonError};

use isyone_fleet::written::{Contents, Records, Write};

use super::{Store, StoreError, StoreFuture};

#[derive(Debug, Default)]
struct Disk {
    records: Records,
    failures: usize,
}

/// A Fleet's records in memory; clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryStore {
    /// Makes the next `n` commits fail and store nothing.
    pub fn fail_next(&self, n: usize) {
        self.with(|disk| disk.failures = n);
    }

    /// Everything, synchronously.
    pub fn contents(&self) -> Contents {
        self.with(|disk| disk.records.contents())
    }

    /// Commits synchronously.
    pub fn apply(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.with(|disk| {
            if disk.failures > 0 {
                disk.failures -= 1;
                return Err(StoreError::Database("injected failure".to_owned()));
            }
            disk.records.apply(writes);
            Ok(())
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        // A panic while holding the lock means a failed test already; the data is consistent.
        f(&mut self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> StoreFuture<'_, Contents> {
        Box::pin(async { Ok(self.contents()) })
    }

    fn commit<'a>(&'a mut self, writes: &'a [Write]) -> StoreFuture<'a, ()> {
        Box::pin(async { self.apply(writes) })
    }
}

//! A store that forgets with its process: for tests and simulations. A clone shares the contents, as a disk outlives a
//! crash; [`MemoryStore::fail_next`] makes commits fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Contents, Group, Kind, Record, Store, StoreError, StoreFuture, Write};
use crate::{change::MAX_EVENTS, fleet::Event};

#[derive(Debug, Default)]
struct Disk {
    records: BTreeMap<(Kind, String), String>,
    events: Vec<Event>,
    failures: usize,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryStore {
    /// The next `n` commits fail and store nothing.
    pub fn fail_next(&self, n: usize) {
        self.with(|disk| disk.failures = n);
    }

    /// Everything, without a future.
    pub fn contents(&self) -> Contents {
        self.with(|disk| Contents {
            records: disk
                .records
                .iter()
                .map(|((kind, id), body)| Record {
                    kind: *kind,
                    id: id.clone(),
                    body: body.clone(),
                })
                .collect(),
            events: disk.events.clone(),
        })
    }

    /// Commits without a future.
    pub fn apply(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.with(|disk| {
            if disk.failures > 0 {
                disk.failures -= 1;
                return Err(StoreError::Database("injected failure".to_owned()));
            }
            let group = Group::of(writes);
            for ((kind, id), body) in group.records {
                match body {
                    Some(body) => drop(disk.records.insert((kind, id.into_owned()), body)),
                    None => drop(disk.records.remove(&(kind, id.into_owned()))),
                }
            }
            disk.events.extend(group.events.into_iter().cloned());
            let surplus = disk.events.len().saturating_sub(MAX_EVENTS);
            disk.events.drain(..surplus);
            Ok(())
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        // A panic while holding the lock is a failed test already; the data is still whole.
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

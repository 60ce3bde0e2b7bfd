//! A store in memory only, for tests and simulations. Clones share the contents, as a disk survives a crash. It can be
//! told to fail in each way that a store may fail.
//!
//! Not here: what a real database does in which case (sqlite).

use std::sync::{Arc, Mutex, PoisonError};

use isyone_fleet::written::{Contents, Records, Write};

use super::{CommitError, Store, StoreError, StoreFuture, TERM, Term};

#[derive(Debug)]
struct Disk {
    records: Records,
    term: Term,
    faults: Faults,
    /// The answer to a commit was lost, and nothing was loaded since.
    unsure: bool,
}

/// How many of the next calls fail in which way.
#[derive(Debug, Default)]
struct Faults {
    refused: usize,
    answers_lost: usize,
    vanished: usize,
    unreadable: usize,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            records: Records::default(),
            term: Term(0),
            faults: Faults::default(),
            unsure: false,
        }
    }
}

/// Whether it was to happen this time.
fn happens(times: &mut usize) -> bool {
    let left = times.checked_sub(1);
    *times = left.unwrap_or(0);
    left.is_some()
}

impl Disk {
    fn commit(&mut self, term: Term, writes: &[Write]) -> Result<(), CommitError> {
        if happens(&mut self.faults.refused) {
            return Err(CommitError::Refused("injected failure".to_owned()));
        }
        if term < self.term {
            return Err(CommitError::NotLeader {
                ours: term,
                stored: self.term,
            });
        }
        let lost = happens(&mut self.faults.answers_lost);
        let vanished = !lost && happens(&mut self.faults.vanished);
        if !vanished {
            self.term = term;
            self.records.apply(writes);
        }
        if lost || vanished {
            self.unsure = true;
            return Err(CommitError::Unknown("injected: no answer".to_owned()));
        }
        Ok(())
    }
}

/// A Fleet's records in memory; clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryStore {
    /// A store with these contents, such as a copy of another's.
    pub fn of(contents: Contents) -> Self {
        let disk = Disk {
            records: contents.into(),
            ..Disk::default()
        };
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// Number of commits so far.
    pub fn commits(&self) -> u64 {
        self.with(|disk| disk.records.commits())
    }

    /// Makes the next `n` commits fail and store nothing.
    pub fn fail_next(&self, n: usize) {
        self.with(|disk| disk.faults.refused = n);
    }

    /// Stores the next `n` commits, but their answers are lost.
    pub fn lose_answers(&self, n: usize) {
        self.with(|disk| disk.faults.answers_lost = n);
    }

    /// The next `n` commits are lost on their way: no answer, and nothing is stored.
    pub fn lose_commits(&self, n: usize) {
        self.with(|disk| disk.faults.vanished = n);
    }

    /// The next `n` loads fail.
    pub fn fail_loads(&self, n: usize) {
        self.with(|disk| disk.faults.unreadable = n);
    }

    /// Another coordinator becomes the leader.
    pub fn take_over(&self, term: Term) {
        self.with(|disk| disk.term = term);
    }

    /// Everything, synchronously.
    pub fn contents(&self) -> Contents {
        self.with(|disk| disk.records.contents())
    }

    /// Commits synchronously, in the usual term.
    pub fn apply(&self, writes: &[Write]) -> Result<(), CommitError> {
        self.with(|disk| disk.commit(TERM, writes))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        // A panic while holding the lock means a failed test already; the data is consistent.
        f(&mut self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> StoreFuture<'_, Contents> {
        Box::pin(async {
            self.with(|disk| {
                if happens(&mut disk.faults.unreadable) {
                    return Err(StoreError::Database("injected: unreadable".to_owned()));
                }
                disk.unsure = false;
                Ok(disk.records.contents())
            })
        })
    }

    fn commit<'a>(
        &'a mut self,
        term: Term,
        writes: &'a [Write],
    ) -> StoreFuture<'a, (), CommitError> {
        Box::pin(async move {
            self.with(|disk| {
                if disk.unsure {
                    return Err(CommitError::Refused("nothing was loaded since".to_owned()));
                }
                disk.commit(term, writes)
            })
        })
    }
}

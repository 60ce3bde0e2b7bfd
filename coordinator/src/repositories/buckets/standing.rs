//! How a bucket stands: whether it answers, how far it is behind, and what went wrong last.
//!
//! Not here: copying (follow), how it is shown (collector, operators).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use isyone_proto::plan::UnixMs;
use uuid::Uuid;

/// What went wrong last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub at: UnixMs,
    /// For people.
    pub message: String,
}

/// What is known of a bucket.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// `None`: it was not looked at yet.
    pub is_up: Option<bool>,
    /// Repositories of which not everything is there, and since when.
    pub waiting: BTreeMap<Uuid, UnixMs>,
    /// Since the coordinator started.
    pub copied_bytes: u64,
    pub copied_files: u64,
    /// When a repository was last brought there whole.
    pub copied_at: Option<UnixMs>,
    /// Until everything went well again.
    pub failure: Option<Failure>,
    /// It does not let us remove anything: a policy or an object lock does what it is for.
    pub keeps_all: bool,
    /// Snapshots that are to be kept and that only the bucket has.
    pub only_there: BTreeMap<Uuid, usize>,
}

impl Seen {
    /// For how long something has not been there, milliseconds; 0: everything is.
    pub fn behind_ms(&self, now: UnixMs) -> i64 {
        let oldest = self.waiting.values().min();
        oldest.map_or(0, |since| (now - since).max(0))
    }
}

/// The same, shared.
#[derive(Debug, Default)]
pub struct Standing(Mutex<Seen>);

impl Standing {
    /// What is known now.
    pub fn seen(&self) -> Seen {
        self.with(|seen| seen.clone())
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Seen) -> T) -> T {
        // The value is whole at any time, whoever has panicked.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers what went wrong; whether it is news.
    pub(super) fn failed(&self, at: UnixMs, message: String) -> bool {
        self.with(|seen| {
            let is_news = { seen.failure.as_ref() }.is_none_or(|f| f.message != message);
            seen.failure = Some(Failure { at, message });
            is_news
        })
    }
}

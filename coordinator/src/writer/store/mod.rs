//! Where the Fleet is stored: a small trait, SQLite behind it, and memory for tests.
//!
//! The core decides what is stored and how it is read back (isyone_fleet::written). SQL stays inside this folder. Not
//! here: what follows from a commit that failed (recovery).

pub mod memory;
pub mod sqlite;

use std::{fmt, future::Future, pin::Pin};

use isyone_fleet::written::{Contents, UnreadableRecord, Write};

/// Counts leaders: coordinators that have taken over the writing, one after the other. The highest that the store has
/// seen is the only one whose commits it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub u32);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The only term as long as there is one coordinator, which the database's lock sees to.
pub const TERM: Term = Term(1);

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's own error message.
    #[error("database: {0}")]
    Database(String),
    /// This version cannot read one of the records.
    #[error(transparent)]
    Unreadable(#[from] UnreadableRecord),
    /// What had to be stored at the start was not.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// How a commit failed: what is known of the store after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Certainly nothing was stored.
    #[error("database: {0}")]
    Refused(String),
    /// It may or may not be stored. The store takes no commit until it was loaded again.
    #[error("the database did not say whether it is stored: {0}")]
    Unknown(String),
    /// Another coordinator has taken over; nothing was stored, and nothing ever will be.
    #[error("another coordinator writes to this database now (its term is {stored}, ours {ours})")]
    NotLeader { ours: Term, stored: Term },
}

pub type StoreFuture<'a, T, E = StoreError> =
    Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Durable storage with one user: the writer.
pub trait Store: Send {
    /// Reads everything stored. What it returns stays stored: it survives a power loss, whatever happened to the commits
    /// before it.
    fn load(&mut self) -> StoreFuture<'_, Contents>;
    /// Stores all writes or none, and raises [`Contents::commits`] with them; durable, even through a power loss, when it
    /// returns `Ok`. Refused to all terms below the highest one that has ever committed.
    fn commit<'a>(
        &'a mut self,
        term: Term,
        writes: &'a [Write],
    ) -> StoreFuture<'a, (), CommitError>;
}

//! Where the Fleet is stored: a small trait, SQLite behind it, and memory for tests.
//!
//! The core decides what is stored and how it is read back (isyone_fleet::written). SQL stays inside this folder.

pub mod memory;
pub mod sqlite;

use std::{future::Future, pin::Pin};

use isyone_fleet::written::{Contents, UnreadableRecord, Write};

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's own error message.
    #[error("database: {0}")]
    Database(String),
    /// This version cannot read one of the records.
    #[error(transparent)]
    Unreadable(#[from] UnreadableRecord),
}

pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Durable storage with one user: the writer.
pub trait Store: Send {
    /// Reads everything stored.
    fn load(&mut self) -> StoreFuture<'_, Contents>;
    /// Stores all writes or none; durable, even through a power loss, when it returns.
    fn commit<'a>(&'a mut self, writes: &'a [Write]) -> StoreFuture<'a, ()>;
}

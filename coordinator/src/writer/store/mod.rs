//! Where the Fleet is kept: a small trait, SQLite behind it, and memory for tests.
//!
//! What is stored, and how it is read back, is the core's (isyone_fleet::written). SQL stays inside this folder.

pub mod memory;
pub mod sqlite;

use std::{future::Future, pin::Pin};

use isyone_fleet::written::{Contents, UnreadableRecord, Write};

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or failed, in its own words.
    #[error("database: {0}")]
    Database(String),
    /// A record is there that this version cannot read.
    #[error(transparent)]
    Unreadable(#[from] UnreadableRecord),
}

/// A future of a store.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Durable storage with one user: the writer.
pub trait Store: Send {
    /// Reads everything that is stored.
    fn load(&mut self) -> StoreFuture<'_, Contents>;
    /// All writes or none; durable (power loss included) when it answers.
    fn commit<'a>(&'a mut self, writes: &'a [Write]) -> StoreFuture<'a, ()>;
}

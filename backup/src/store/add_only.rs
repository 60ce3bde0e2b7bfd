//! A destination that can only be added to: what a host is given, so that one that was broken into cannot delete backups.
//!
//! In one process it is a reminder; it protects where it stands on the serving side.

use std::io;

use bytes::Bytes;

use super::{File, Kind, Name, Store, StoreError};

/// Refuses to remove.
#[derive(Debug)]
pub struct AddOnly<S>(pub S);

impl<S: Store> Store for AddOnly<S> {
    fn place(&self) -> String {
        self.0.place()
    }

    fn create(&self) -> Result<(), StoreError> {
        self.0.create()
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Name, u64)>, StoreError> {
        self.0.list(kind)
    }

    fn read(&self, file: File, most: u64) -> Result<Bytes, StoreError> {
        self.0.read(file, most)
    }

    fn read_part(&self, file: File, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        self.0.read_part(file, offset, length)
    }

    fn write(&self, file: File, content: &[Bytes]) -> Result<(), StoreError> {
        self.0.write(file, content)
    }

    fn remove(&self, _: File) -> Result<(), StoreError> {
        Err(StoreError::Denied(io::ErrorKind::PermissionDenied.into()))
    }
}

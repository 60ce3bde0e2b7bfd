//! A file that follows a value in memory: what could not be written is written later, although the value is no news then.
//!
//! Not here: the values (hosts, monitors).

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use crate::base::fsutil;

/// The file.
#[derive(Debug)]
pub(super) struct Written {
    path: PathBuf,
    /// A power loss must not bring an older one back.
    durable: bool,
    /// It is older than the value. Held while it is written, so that two writers do not overtake each other.
    behind: Mutex<bool>,
}

impl Written {
    /// A file that holds what its value was read from.
    pub(super) fn new(path: PathBuf, durable: bool) -> Self {
        Self {
            path,
            durable,
            behind: Mutex::new(false),
        }
    }

    /// Writes a new value, and then has it `used`, whether it could be written or not.
    pub(super) fn replace(&self, bytes: &[u8], used: impl FnOnce()) -> io::Result<()> {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let written = fsutil::write_atomic(&self.path, bytes, 0o600, self.durable);
        *behind = written.is_err();
        used();
        written
    }

    /// Writes the value in use if the last write failed.
    pub(super) fn again(&self, bytes: impl FnOnce() -> Vec<u8>) -> io::Result<()> {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        if *behind {
            fsutil::write_atomic(&self.path, &bytes(), 0o600, self.durable)?;
            *behind = false;
        }
        Ok(())
    }
}

//! Backups as others see them: stock restic, a destination that fails, a source that fails, a disk that flips a bit.

mod damage;
mod destination;
mod many;
mod prune;
mod restic;
mod source;
mod support;

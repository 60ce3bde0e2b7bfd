//! After a commit whose answer was lost: reads the store again, and tells whether that commit is in it.
//!
//! Nothing is served from memory until that is known. If it cannot be known, the writer ends, and with it the process:
//! the next one starts from the store. Not here: what the writer does with its state then (groups).

use std::time::Duration;

use isyone_fleet::written::{Contents, UnreadableRecord};
use tokio::time::{Instant, timeout_at};

use super::{
    SubmitError,
    groups::Queues,
    store::{CommitError, Store, StoreError},
};

/// Pauses between attempts to read the store: eight seconds together. That is more than a disk's hiccup or another
/// process' short lock, and less than callers' patience; a restart tries again from the beginning.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1_000),
    Duration::from_millis(2_500),
    Duration::from_millis(4_000),
];

/// Why the writer can no longer tell what is stored, and must end.
#[derive(Debug, thiserror::Error)]
pub enum LostStore {
    /// Somebody else decides now.
    #[error(transparent)]
    NotLeader(CommitError),
    #[error("the store cannot be read again after a lost answer")]
    Unreadable(#[from] StoreError),
    #[error("the store cannot be read again after a lost answer")]
    Record(#[from] UnreadableRecord),
    /// The number of commits is neither that before ours nor that after it.
    #[error("somebody else has written to the store")]
    Foreign,
}

/// Whether the commit whose answer was lost is stored, from the number of commits before it and the number read now.
pub fn was_stored(before: u64, now: u64) -> Result<bool, LostStore> {
    match now.checked_sub(before) {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(LostStore::Foreign),
    }
}

/// Reads the store. Commands wait for the first attempt, as they wait for a commit; in the pauses between further ones
/// they are refused.
pub(super) async fn read_again(
    store: &mut dyn Store,
    queues: &mut Queues,
) -> Result<Contents, LostStore> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let error = match store.load().await {
            Ok(contents) => return Ok(contents),
            Err(error) => error,
        };
        tracing::error!(%error, "the store cannot be read");
        let Some(pause) = pauses.next() else {
            return Err(error.into());
        };
        refuse(queues, Instant::now() + pause).await;
    }
}

/// Answers all commands that they are not made.
async fn refuse(queues: &mut Queues, until: Instant) {
    while let Ok(envelope) = timeout_at(until, queues.next()).await {
        let why = "the database does not answer, and is being read again";
        let _ = envelope
            .answer
            .send(Err(SubmitError::NotStored(why.to_owned())));
    }
}

#[cfg(test)]
mod tests;

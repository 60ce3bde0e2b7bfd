//! What this agent knows of one tenant at one destination: its chain, which is on disk, and how the last attempts went.
//!
//! Not here: what follows from it (chain), attempts (ship, make).

use isyone_proto::{
    backup::{BackupMade, DestinationReport, Trouble},
    ids::ShortName,
    plan::UnixMs,
};
use tokio::sync::Mutex;

use super::{
    chain::{Chain, SegmentSize},
    record::Records,
    words::Problem,
};
use crate::base::fsutil::blocking;

/// One tenant at one destination.
#[derive(Debug)]
pub struct Site {
    pub destination: ShortName,
    pub records: Records,
    known: Mutex<Known>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    loaded: bool,
    chain: Chain,
    size: Option<SegmentSize>,
    trouble: Option<Trouble>,
    snapshots: u64,
    stored_bytes: u64,
}

impl Site {
    pub fn new(destination: ShortName, records: Records) -> Self {
        Self {
            destination,
            records,
            known: Mutex::default(),
        }
    }

    /// The chain, and its segments' size where that is known. An error where the disk does not say: that is never "nothing".
    pub async fn chain(&self) -> Result<(Chain, Option<SegmentSize>), Problem> {
        let mut known = self.known.lock().await;
        self.load(&mut known).await?;
        Ok((known.chain.clone(), known.size))
    }

    async fn load(&self, known: &mut Known) -> Result<(), Problem> {
        if known.loaded {
            return Ok(());
        }
        let (records, destination) = (self.records.clone(), self.destination.clone());
        let loaded = blocking(move || records.load(&destination)).await;
        let unread = |e| Problem::disk("what is known of its backups cannot be read", &e);
        (known.chain, known.size) = loaded.map_err(unread)?;
        known.loaded = true;
        Ok(())
    }

    /// Changes the chain, on disk first.
    pub async fn change(
        &self,
        size: Option<SegmentSize>,
        change: impl FnOnce(&mut Chain),
    ) -> Result<Chain, Problem> {
        let mut known = self.known.lock().await;
        self.load(&mut known).await?;
        let mut chain = known.chain.clone();
        change(&mut chain);
        let size = size.or(known.size);
        if (&chain, size) != (&known.chain, known.size) {
            let (records, destination) = (self.records.clone(), self.destination.clone());
            let written = chain.clone();
            let saved = blocking(move || records.save(&destination, &written, size)).await;
            saved
                .map_err(|e| Problem::disk("what is known of its backups cannot be written", &e))?;
        }
        (known.chain, known.size) = (chain.clone(), size);
        Ok(chain)
    }

    /// Counts a snapshot.
    pub async fn made(&self, made: &BackupMade) {
        let mut known = self.known.lock().await;
        known.snapshots += 1;
        known.stored_bytes = known.stored_bytes.saturating_add(made.stored_bytes);
    }

    /// How an attempt went.
    pub async fn ended(&self, outcome: Result<(), &Problem>, now: UnixMs) {
        let mut known = self.known.lock().await;
        let before = known.trouble.take();
        let Err(problem) = outcome else { return };
        let (since, failures) = before.map_or((now, 0), |t| (t.since, t.failures));
        known.trouble = Some(Trouble {
            fault: problem.fault,
            message: problem.message.clone(),
            since,
            failures: failures.saturating_add(1),
        });
    }

    /// How often attempts have failed, one after the other.
    pub async fn failures(&self) -> u32 {
        let known = self.known.lock().await;
        known.trouble.as_ref().map_or(0, |t| t.failures)
    }

    pub async fn report(&self) -> DestinationReport {
        let mut known = self.known.lock().await;
        // What the disk does not say is asked again with the next shipment, which reports it.
        let _ = self.load(&mut known).await;
        let chain = &known.chain;
        let base = chain.base.as_ref();
        let there = chain.there.filter(|_| base.is_some());
        let end = |size: SegmentSize| there.map(|there| size.begin(size.after(there.last)));
        DestinationReport {
            name: self.destination.clone(),
            base_at: base.map(|base| base.at),
            shipped: there.map(|there| there.last),
            shipped_lsn: known.size.and_then(end).unwrap_or(0),
            shipped_to: chain.shipped_to.filter(|_| base.is_some()),
            gap_since: chain.gap_since,
            trouble: known.trouble.clone(),
            newest: chain.newest.clone(),
            snapshots: known.snapshots,
            stored_bytes: known.stored_bytes,
        }
    }
}

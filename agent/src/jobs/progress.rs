//! How far a job is, and what slows it down. Not here: the job.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use isyone_proto::{
    backup::{BackupMade, Fault},
    proof::Proof,
    report::Behind,
};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::{
    base::throttle::{Meter, Throttle},
    host::Host,
};

/// What is left of an attempt beside its bytes.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) backup: Option<BackupMade>,
    pub(super) proof: Option<Proof>,
    pub(super) fault: Option<Fault>,
}

/// A job's bytes, shown on the board as they come.
pub struct Progress {
    host: Arc<Host>,
    id: Uuid,
    limits: [Arc<Throttle>; 2],
    done: AtomicU64,
    total: AtomicU64,
    filled: AtomicBool,
    note: Mutex<String>,
    /// Its turn among the host's jobs, while it has one.
    turn: Mutex<Option<OwnedSemaphorePermit>>,
    ended: Mutex<Ended>,
}

impl Progress {
    /// `limits`: the host's, and the order's own.
    pub fn new(host: Arc<Host>, id: Uuid, limits: [Arc<Throttle>; 2]) -> Self {
        Self {
            host,
            id,
            limits,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            filled: AtomicBool::new(false),
            note: Mutex::default(),
            turn: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    pub(super) fn restore(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// What is there already, and what there is to do altogether.
    pub fn begin(&self, done: u64, total: u64) {
        self.restore(done, total);
        self.show();
    }

    /// Some more bytes came over the line; waits where that was too fast.
    pub async fn received(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.show();
        for limit in &self.limits {
            limit.pass(bytes).await;
        }
    }

    /// For connections through which the job's bytes come: under the same limits.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::new(Meter::new(self.limits.to_vec()))
    }

    /// Bytes that count no more: they were not those of the source.
    pub fn discard(&self, bytes: u64) {
        let less = |done: u64| Some(done.saturating_sub(bytes));
        // `less` never refuses.
        let _ = self
            .done
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.show();
    }

    /// How it goes, for whoever watches it meanwhile.
    pub fn tell(&self, message: &str) {
        self.host.board.set_job_message(self.id, message);
    }

    /// How long the tenant would pause if its copy took over now, milliseconds; `None`: it is not that far.
    pub fn pause(&self, pause_ms: Option<u32>) {
        self.host.board.set_job_pause(self.id, pause_ms);
    }

    /// How far its copy is behind, as was just seen; `None`: there is none yet.
    pub fn behind(&self, behind: Option<Behind>) {
        self.host.board.set_job_behind(self.id, behind);
    }

    /// Whether its copy is a whole one.
    pub fn filled(&self, filled: bool) {
        self.filled.store(filled, Ordering::Relaxed);
        self.host.board.set_job_filled(self.id, filled);
    }

    pub(super) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Relaxed)
    }

    pub(super) fn hold(&self, turn: Option<OwnedSemaphorePermit>) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }

    /// What is left to do takes little, and may take for ever: others need not wait for it.
    pub fn let_others_begin(&self) {
        self.hold(None);
    }

    /// What whoever reads of the job should know once it is done; replaces what was noted before.
    pub fn note(&self, note: String) {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    /// The snapshot that the job has made.
    pub fn made(&self, made: BackupMade) {
        self.ended().backup = Some(made);
    }

    /// What the job has found of a backup that it proves.
    pub fn proven(&self, proof: Proof) {
        self.ended().proof = Some(proof);
    }

    /// For programs, why the attempt fails.
    pub fn failed(&self, fault: Fault) {
        self.ended().fault = Some(fault);
    }

    /// The snapshot, as far as there is one.
    #[cfg(test)]
    pub(crate) fn made_so_far(&self) -> Option<BackupMade> {
        self.ended().backup.clone()
    }

    /// What the proof has found, as far as it has ended.
    #[cfg(test)]
    pub(crate) fn proven_so_far(&self) -> Option<Proof> {
        self.ended().proof.clone()
    }

    /// Of the attempt that has ended.
    pub(super) fn take_ended(&self) -> Ended {
        std::mem::take(&mut *self.ended())
    }

    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn noted(&self) -> String {
        let note = self.note.lock();
        note.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Done, and altogether.
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        )
    }

    fn show(&self) {
        let (done, total) = self.bytes();
        self.host.board.set_job_bytes(self.id, done, total);
    }
}

//! Backups as decisions: what is kept of a plan's tenants and when it is made ([`policy`]), whose turn it is ([`turns`]), what is proven
//! next and where ([`proofs`]), and what each tenant would lose if its host died now ([`protection`]).
//!
//! Pure: time, and what a time zone says at a time, are arguments.
//! Not here: making a backup (the agent's), what is in a repository (isyone-backup), where any of this is stored or sent.

pub mod policy;
pub mod proofs;
pub mod protection;
pub mod restore;
pub mod turns;

#[cfg(test)]
mod tests;

use isyone_types::plan::UnixMs;

pub use self::{
    policy::{Keep, Night, Policy, PolicyError, Window},
    proofs::{
        LastProof, ProofDue, ProofLimits, ProofSubject, ProofTurn, ProofWait, Provable, Prover,
        choose_prover, no_room, proof_due, proof_turns,
    },
    protection::{Facts, Judgement, Protection, Repository, Standing, Why},
    restore::{Candidate, NoPoint, Offer, RestorePoint, Wanted, choose},
    turns::{Due, Limits, Running, Subject, Turn, Wait, Work, due, turns},
};

/// A time further ahead than this is of a clock that is wrong.
pub const CLOCKS_DIFFER_MS: i64 = 60_000;

/// Whether a time that a host tells can be: by a clock that is ahead a tenant would seem to be safe until tomorrow.
#[must_use]
pub fn is_believable(at: UnixMs, now: UnixMs) -> bool {
    (0..=now.saturating_add(CLOCKS_DIFFER_MS)).contains(&at)
}

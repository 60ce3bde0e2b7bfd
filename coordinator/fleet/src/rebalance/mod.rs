//! Proposes moves that take load off the most loaded hosts. Nothing is moved by it: whoever likes a proposal orders its moves.
//!
//! Greedy: the most loaded host first, and of its tenants the one whose move leaves the least load on the more loaded of the two
//! hosts; then the same again, as if that had been done. Load is what placement ranks hosts by, and where a tenant goes is placement's
//! choice. Pure: the same inputs give the same answer, with reasons.
//! Not here: moving (change), which tenants stay and why (stays), and what a fleet would be like after a move (model).

mod model;
mod search;
mod stays;
#[cfg(test)]
mod tests;

use isyone_types::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};

use crate::{
    placement::{LOAD_STEP_PERMILLE, Load},
    settings::Settings,
    state::State,
};

/// Most moves of one proposal. Each stops somebody's Odoo, and what follows from so many is no longer what was predicted: loads
/// change meanwhile.
pub const MAX_MOVES: usize = 20;
/// A move must take at least so much load off its host, per mille: less than that reports differ by from one minute to the next.
pub const MIN_GAIN_PERMILLE: u32 = 10;
/// Results within so much of each other count as equal, and the bytes to copy decide: half of what placement takes for equal.
pub const RESULT_STEP_PERMILLE: u32 = LOAD_STEP_PERMILLE / 2;
/// A tenant that has moved is left alone for a day: its users have been waited upon once, a whole day's load has to be seen where it is
/// now before anybody can tell, and two hosts must not pass it to each other.
pub const MOVED_LATELY_MS: i64 = 86_400_000;
/// A host whose measured CPU counts is judged only so long after a move from or to it, milliseconds: by then its average has nearly
/// forgotten what was before (three of its time constants).
pub const SETTLE_MS: i64 = 3 * crate::observed::CPU_AVERAGE_MS;
/// Most hosts that a proposal tries to relieve: each costs a look at all of its tenants.
pub const MAX_SOURCES: usize = 32;
/// Most tenants of a host that are looked at for each move, the largest first.
pub const MAX_CANDIDATES: usize = 256;
/// Most hosts that a proposal lists: those that change or that could not be helped, then the most loaded.
pub const MAX_HOSTS: usize = 200;

/// What agents copy at unless they are told otherwise, bytes per second: `isy-agent run --copy-rate-mib`.
pub const COPY_RATE_BYTES_PER_S: u64 = 64 << 20;
/// What a move takes beside copying, milliseconds: Odoo and PostgreSQL stop, the old host records that it lets go, they start, and the
/// edges take up the new route.
pub const STOP_AND_START_MS: u64 = 15_000;

/// Moves, and what they would lead to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proposal {
    /// In the order in which they are to be made.
    pub moves: Vec<ProposedMove>,
    /// By name; at most [`MAX_HOSTS`].
    pub hosts: Vec<Forecast>,
    /// Number of hosts, also of those that are not listed.
    pub considered: usize,
    /// Why these moves and no more, in one sentence for people.
    pub reason: String,
    /// From then on a host can be judged that cannot now, because its load still follows a move.
    pub settles_at: Option<UnixMs>,
}

/// A host before and after all moves of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    pub host: HostName,
    /// `None`: it has not reported.
    pub before: Option<Load>,
    pub after: Option<Load>,
    /// Number of tenants placed there, also of copies that are kept aside.
    pub tenants_before: u32,
    pub tenants_after: u32,
    /// Why it is not relieved, or not further; empty when it need not be.
    pub why_not: String,
}

/// A move that is proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposedMove {
    pub tenant: TenantName,
    pub from: HostName,
    pub to: HostName,
    /// What it leads to, and why it goes there, in one sentence for people.
    pub reason: String,
    /// What is to be copied; `None`: not measured yet.
    pub bytes: Option<u64>,
    /// For how long the tenant is stopped, by [`COPY_RATE_BYTES_PER_S`] and [`STOP_AND_START_MS`]; 0 for one that does not run,
    /// `None` when its size is not known.
    pub pause_ms: Option<u64>,
    /// The load of both hosts before and after this move, per mille.
    pub from_permille: (u32, u32),
    pub to_permille: (u32, u32),
}

/// Proposes at most `most` moves (and never more than [`MAX_MOVES`]).
pub fn propose(state: &State, settings: &Settings, now: UnixMs, most: usize) -> Proposal {
    search::Search::new(state, settings, now).run(most.min(MAX_MOVES))
}

//! Bugs that tests plant to see whether they would be found. Behind a feature: what is shipped has none of this.
//!
//! Not here: finding them (the workspace's simulation).

use std::cell::Cell;

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A stage is only in memory: its record is not stored.
    LostStage,
    /// The copy that a tenant has left is not fenced: both may run.
    TwoWriters,
    /// A tenant's new place has the epoch of the old one.
    EpochIgnored,
    /// An operation ends although the edges have not said that they run its route.
    RouteBeforeEdge,
    /// An operation that was cancelled waits for something that does not come.
    NeverEnds,
    /// The new host runs a tenant before it is recorded that it lives there: whoever goes back loses what it wrote.
    ReleasedEarly,
    /// A copy takes over without a comparison of what it has with what the old host had.
    NotCompared,
    /// Time alone ends quarantines, and the copies of who is in quarantine, also after a rebuild from an older state.
    ClockDecides,
    /// A host that comes back starts what was taken over while it was off, before it was told anything.
    StartsUnasked,
    /// A standby takes over although nobody has made sure that the tenant's host runs it no more.
    PromotedUnfenced,
    /// What a lease lasts is counted by a clock that can be set.
    LeaseByWallClock,
    /// A standby takes over without a look at when its host has last renewed the lease.
    LeaseNotAwaited,
}

impl Bug {
    pub const ALL: [Self; 12] = [
        Self::LostStage,
        Self::TwoWriters,
        Self::EpochIgnored,
        Self::RouteBeforeEdge,
        Self::NeverEnds,
        Self::ReleasedEarly,
        Self::NotCompared,
        Self::ClockDecides,
        Self::StartsUnasked,
        Self::PromotedUnfenced,
        Self::LeaseByWallClock,
        Self::LeaseNotAwaited,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug on this thread, in place of the one before.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted here.
pub(crate) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

//! What runs of the simulation have done: a run in which nothing happens passes every check.
//!
//! Not here: counting (the parent).

use std::fmt;

/// What happened in a run, or in several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub steps: u64,
    pub accepted: u64,
    pub refused: u64,
    /// Number of crashes of hosts and of the coordinator.
    pub crashes: u64,
    /// Number of faults of all kinds.
    pub faults: u64,
    /// Tenants that took up another home.
    pub moved: u64,
    /// Of these, such that came again to where an older copy was kept.
    pub came_back: u64,
    /// Tenants that went on from their standby when their host was lost.
    pub failed_over: u64,
    /// Of these, such that nobody had to say anything for.
    pub by_itself: u64,
    /// How often a host has stopped a tenant whose lease was over.
    pub lapsed: u64,
    /// Operations that went back.
    pub went_back: u64,
    /// Writes that users were told of.
    pub written: u64,
    pub purged: u64,
    /// How often a tenant fell asleep.
    pub slept: u64,
    /// Digest of the final state: equal for equal seeds.
    pub digest: String,
}

impl Summary {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.crashes += other.crashes;
        self.faults += other.faults;
        self.moved += other.moved;
        self.came_back += other.came_back;
        self.failed_over += other.failed_over;
        self.by_itself += other.by_itself;
        self.lapsed += other.lapsed;
        self.went_back += other.went_back;
        self.written += other.written;
        self.purged += other.purged;
        self.slept += other.slept;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} steps, {} commands accepted, {} refused, {} crashes, {} moved ({} to an older copy), {} failed over ({} by itself, {} leases over), {} went back, {} writes, {} purged, \
             {} put to sleep",
            self.steps,
            self.accepted,
            self.refused,
            self.crashes,
            self.moved,
            self.came_back,
            self.failed_over,
            self.by_itself,
            self.lapsed,
            self.went_back,
            self.written,
            self.purged,
            self.slept
        )
    }
}

//! What the bench and its process of simulated agents say to each other: papers in a file, then JSON lines through a pipe.
//!
//! Not here: what they do with it (agents, swarm).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What the simulated agents need.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Papers {
    /// `host:port` of the coordinator.
    pub(super) endpoint: String,
    pub(super) ca_pem: String,
    /// First connections, spread evenly: so many a second.
    pub(super) connects_per_second: u32,
    pub(super) agents: Vec<Identity>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

/// How all agents are, now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// Agents that have a session.
    pub(super) connected: usize,
    /// Have a session in which a report was acknowledged.
    pub(super) heard: usize,
    /// Agents that hold a plan.
    pub(super) planned: usize,
    pub(super) made: u64,
    /// Reports that no acknowledgement covers (yet). An agent's acknowledged report covers its earlier ones: the first of a session
    /// says everything.
    pub(super) owed: u64,
    /// Age of the oldest of them.
    pub(super) oldest_owed_ms: u64,
    /// Longest time so far from a report's making until it was covered.
    pub(super) longest_owed_ms: u64,
    /// Attempts at a session that ended without an acknowledged report although somebody listened at the coordinator's port:
    /// turned away, cut off in the handshake, timed out.
    pub(super) failed: u64,
    /// Attempts that met a closed port.
    pub(super) unreachable: u64,
    /// Sessions that ended after an acknowledged report.
    pub(super) cut: u64,
    /// Attempts at a session so far.
    pub(super) sessions: u64,
    /// Why sessions ended, the commonest.
    pub(super) endings: BTreeMap<String, u64>,
}

/// A line from the agents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Told several times a second.
    Status(Status),
    /// A plan with one more restart of this tenant is held by its host since `at_ns` of the machine's monotonic clock.
    Restart { tenant: String, at_ns: u64 },
}

/// The machine's monotonic clock, the same in all its processes, ns.
pub(super) fn clock_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Asks again and again until there is an answer; `None` after `limit`.
pub(super) fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        match ask() {
            Some(answer) => return Some(answer),
            None if begin.elapsed() > limit => return None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

//! What the bench and its process of simulated agents exchange: papers in a file, then JSON lines through a pipe.
//!
//! Not here: what they do with it (agents, swarm).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Input of the simulated agents.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Papers {
    /// The coordinator's `host:port`.
    pub(super) endpoint: String,
    pub(super) ca_pem: String,
    /// Rate of first connections, evenly spread.
    pub(super) connects_per_second: u32,
    /// Where the hosts are, which agents know: they have been in the fleet for a while.
    pub(super) hosts: BTreeSet<IpAddr>,
    pub(super) agents: Vec<Identity>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

/// The present state of all agents together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// Agents that have a session.
    pub(super) connected: usize,
    /// Agents with a session in which a report was acknowledged.
    pub(super) heard: usize,
    /// Agents that hold a plan.
    pub(super) planned: usize,
    pub(super) made: u64,
    /// Reports that no acknowledgement covers yet. An agent's acknowledged report covers its earlier ones, because the
    /// first of a session is complete.
    pub(super) owed: u64,
    /// Age of the oldest owed report.
    pub(super) oldest_owed_ms: u64,
    /// Longest time so far until a report was covered.
    pub(super) longest_owed_ms: u64,
    /// Attempts at a session that ended without an acknowledged report although something listened at the coordinator's
    /// port: turned away, cut off in the handshake, timed out.
    pub(super) failed: u64,
    /// Attempts that met a closed port.
    pub(super) unreachable: u64,
    /// Sessions that ended after an acknowledged report.
    pub(super) cut: u64,
    /// Attempts at a session so far.
    pub(super) sessions: u64,
    /// The most common reasons why sessions ended, with their counts.
    pub(super) endings: BTreeMap<String, u64>,
}

/// A line from the agents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Sent several times a second.
    Status(Status),
    /// Since `at_ns` (the machine's monotonic clock), the tenant's host holds a plan with one more restart of it.
    Restart { tenant: String, at_ns: u64 },
}

/// The machine's monotonic clock in ns; it is the same in all processes.
pub(super) fn clock_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Polls until `ask` returns a value; `None` after `limit`.
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

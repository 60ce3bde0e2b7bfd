//! For how long a tenant may run without a word from anybody who could have another copy of it take over.
//!
//! A lease is counted by each host's own clock of time since its boot, which also goes on while the machine is suspended, and never by the
//! time of day. Whoever needs one counts it from the moment before it asked; whoever grants one, from the moment in which it answered: so
//! the one is over before the other counts it as over. Not here: who may take over, and when (the coordinator).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::HostName;

/// What a host's plan says of a tenant's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lease {
    /// Where the tenant lives: it answers and runs only for so long after its host was last let go on. It is by the coordinator, with each
    /// report that is acknowledged under the plan that the host has, and by the host that keeps its standby.
    Needed {
        /// Milliseconds.
        for_ms: u32,
        /// The host that keeps its standby.
        renewer: HostName,
        /// Where that host's agent listens for other agents; `None`: only the coordinator is asked.
        address: Option<SocketAddr>,
    },
    /// Where its standby is: that host is let go on whenever it asks.
    Granted {
        /// Where the tenant lives.
        to: HostName,
    },
    /// Where its standby was, and where it lives from now on: it takes over only when its host has let nobody else go on for so long.
    Over {
        /// Milliseconds.
        after_ms: u32,
    },
}

/// The shortest silence after which a standby may take over by itself, milliseconds: some reports of each host must fit in.
pub const SHORTEST_MS: u32 = 20_000;
/// The longest, milliseconds.
pub const LONGEST_MS: u32 = 3_600_000;

/// For how long the tenant may go on where it lives, where its standby takes over after a silence of `after_ms`, milliseconds. The
/// difference is for clocks that go at another pace, and for stopping it.
pub fn held_for_ms(after_ms: u32) -> u32 {
    after_ms - (after_ms / 8).max(SHORTEST_MS / 5).min(after_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_before_anybody_takes_over() {
        assert_eq!(held_for_ms(SHORTEST_MS), 16_000);
        assert_eq!(held_for_ms(60_000), 52_500);
        assert_eq!(held_for_ms(0), 0);
        for after in [1, 4_000, SHORTEST_MS, 31_999, LONGEST_MS, u32::MAX] {
            assert!(held_for_ms(after) < after);
        }
    }
}

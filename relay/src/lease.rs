//! Until when a tenant may be answered for: the agent says so with its route, this process goes by it, also when no agent is left. When it
//! is over nobody is let in, no answer goes on that comes too late, and what is open is cut off.
//!
//! Counted by the machine's time since its boot, which goes on while it is suspended. Not here: looking at the clock (lapse), for how long,
//! and who lets a tenant go on (the agent).

use std::{sync::Mutex, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::ledger::locked;

/// After the end, how long those who waited for an answer have to take the page that says so; then their connections are cut.
pub(crate) const CLOSING: Duration = Duration::from_millis(250);
/// The longest id of a boot: it is a UUID.
pub(crate) const MAX_BOOT_BYTES: usize = 64;

/// Until when a tenant may be answered for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The boot of the machine by whose clock it is counted; of another one it is over.
    pub boot: String,
    /// Milliseconds since that boot.
    pub until_boot_ms: u64,
}

impl Lease {
    /// Whether it is over, so many milliseconds after a boot. A machine that does not name its boot has none that lasts.
    pub fn is_over(&self, boot: &str, boot_ms: u64) -> bool {
        boot.is_empty() || self.boot != boot || boot_ms >= self.until_boot_ms
    }
}

/// Tells those who are being served when the lease of their tenant is over.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    inner: Mutex<Rung>,
}

#[derive(Debug, Default)]
struct Rung {
    /// Rings for those who have come since it rang last.
    now: CancellationToken,
    /// The lease for whose end it rang last.
    last: Option<Lease>,
}

impl Bell {
    /// Rings at the next end of a lease. To be taken before it is asked whether the lease is over.
    pub(crate) fn next(&self) -> CancellationToken {
        locked(&self.inner).now.clone()
    }

    /// Rings once for each lease that has ended.
    pub(crate) fn look(&self, lease: Option<&Lease>, is_over: bool) {
        let mut rung = locked(&self.inner);
        if is_over && rung.last.as_ref() != lease {
            rung.last = lease.cloned();
            std::mem::take(&mut rung.now).cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(until_boot_ms: u64) -> Lease {
        Lease {
            boot: "one".to_owned(),
            until_boot_ms,
        }
    }

    #[test]
    fn a_lease_ends_at_its_moment_and_with_its_boot() {
        let lease = until(5_000);
        assert!(!lease.is_over("one", 0) && !lease.is_over("one", 4_999));
        assert!(lease.is_over("one", 5_000) && lease.is_over("one", u64::MAX));
        assert!(lease.is_over("two", 0) && lease.is_over("", 0));
        let unnamed = Lease {
            boot: String::new(),
            ..lease
        };
        assert!(unnamed.is_over("", 0));
    }

    #[test]
    fn the_end_of_each_lease_is_told_once_to_those_who_were_there() {
        let bell = Bell::default();
        let first = bell.next();
        bell.look(Some(&until(5)), false);
        assert!(!first.is_cancelled());
        bell.look(Some(&until(5)), true);
        assert!(first.is_cancelled());
        let second = bell.next();
        bell.look(Some(&until(5)), true);
        assert!(!second.is_cancelled(), "it came after the end");
        // One that began and ended between two looks.
        bell.look(Some(&until(9)), true);
        assert!(second.is_cancelled());
    }
}

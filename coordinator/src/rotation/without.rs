//! Hosts that an admin does not wait for: named on the command line, remembered with the rotation.
//!
//! Not here: who is waited for (missing).

use isyone_proto::{echo::echo, ids::HostName};

use super::{Missing, RotationError, Rotations, lines};
use crate::base::{clock, pki::rotation::Rotation};

impl Rotations {
    /// The hosts that are named, when each of them is in the fleet and away. Nothing is remembered yet.
    pub(super) fn named(&self, without: &[String]) -> Result<Vec<HostName>, RotationError> {
        let state = self.handle.snapshot();
        let named = |text: &String| {
            let bad = |why: &str| RotationError::Without {
                host: echo(text),
                why: why.to_owned(),
            };
            let host: HostName = text.parse().map_err(|_| bad("is no host's name"))?;
            if !state.fleet.hosts.contains_key(&host) {
                return Err(bad(
                    "is no host of this fleet; `isyctl host list` shows them",
                ));
            }
            if self.streams.is_connected(&host) {
                return Err(bad(
                    "is connected, so it follows by itself; if its agent hangs, restart or stop that first",
                ));
            }
            Ok(host)
        };
        without.iter().map(named).collect()
    }

    /// Remembers them.
    pub(super) fn leave_out(&self, hosts: &[HostName]) -> Result<(), RotationError> {
        if !hosts.is_empty() {
            self.pki.leave_out(hosts, clock::now_seconds())?;
        }
        Ok(())
    }

    /// Whether nobody waits for this host. One that has come back is waited for like all.
    pub(super) fn is_left_out(
        &self,
        rotation: &Rotation,
        also: &[HostName],
        host: &HostName,
    ) -> bool {
        let named = rotation.without.contains(host) || also.contains(host);
        named && !self.streams.is_connected(host)
    }
}

/// What becomes of hosts that nobody waits for, for people.
pub(super) fn told(left_out: &[Missing]) -> String {
    if left_out.is_empty() {
        return String::new();
    }
    format!(
        "goes on without hosts that are away; who is not back before the old CA is forgotten joins again (`isyctl host token --host NAME`, then `isy-agent join --rejoin`):\n{}\n",
        lines(left_out)
    )
}

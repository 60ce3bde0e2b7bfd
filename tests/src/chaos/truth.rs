//! Whether an alert was true: something was done that can cause it, where it says, and not long before.
//!
//! Not here: which alerts must come (e2e::monitoring).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::draw::Fault;
use crate::e2e::watch::Told;

/// After a fault was made good: until the fleet has settled, Prometheus has asked twice and Alertmanager has told.
const GRACE: Duration = Duration::from_secs(90);

/// Alerts about disks that look ahead, for which minutes are too little: of a disk that is filled for a while, and of the machine that
/// runs the test.
pub const OF_THIS_MACHINE: [&str; 2] = ["HostDiskFilling", "HostDiskFillingFast"];

/// A fault as it was: since the beginning of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spell {
    pub fault: Fault,
    pub host: usize,
    pub from: Duration,
    /// `None`: it lasts.
    pub to: Option<Duration>,
}

/// What can cause an alert by this name.
fn causes(alert: &str) -> Vec<Fault> {
    use Fault::*;
    // Dockerd is started anew for some of them, and so are its containers.
    let stops_docker = [DockerKilled, Flush, Packets, UsersMapped, AddressLate];
    let causes: [&[Fault]; 2] = match alert {
        "OdooDown" | "PostgreSQLDown" | "TenantUnreachable" => [
            &stops_docker,
            &[
                DockerHangs,
                HalfStart,
                Cut,
                StrayBridge,
                ImageLost,
                DiskFull,
                Reinstalled,
            ],
        ],
        "TenantBlocked" => [
            &[HalfStart, StrayBridge, Prune, DockerKilled],
            &[ImageLost, UsersMapped, DiskFull],
        ],
        "TenantDiskFull" | "TenantDiskFilling" | "HostDiskFull" => [&[DiskFull], &[]],
        "HostDockerDown" => [&stops_docker, &[DockerHangs]],
        "HostDegraded" => [
            &stops_docker,
            &[DockerHangs, StrayBridge, DiskFull, Reinstalled],
        ],
        "HostSuspect" | "HostLost" | "HostNotScraped" => [
            &[Cut, AgentKilled, AgentClock, CoordinatorClock],
            &[AddressLate, Reinstalled],
        ],
        "HostRelayDown" => [&[AddressLate, Reinstalled], &[]],
        "CoordinatorDown" | "EdgeNotFollowing" => [&[CoordinatorKilled, CoordinatorClock], &[]],
        _ => [&[], &[]],
    };
    causes.concat()
}

/// Whether an alert that was told at this time is explained. `lived`: on which hosts a tenant has been seen.
pub fn is_true(
    (name, whom): &Told,
    at: Duration,
    spells: &[Spell],
    lived: &BTreeMap<String, BTreeSet<usize>>,
) -> bool {
    let concerns = |host: usize| match lived.get(whom) {
        // Hosts of one machine see each other's disks.
        _ if whom.is_empty() || name == "HostDiskFull" => true,
        Some(hosts) => hosts.contains(&host),
        None => *whom == format!("h{}", host + 1),
    };
    spells.iter().any(|spell| {
        let until = spell.to.map_or(Duration::MAX, |to| to + GRACE);
        let here = spell.fault.is_of_all() || concerns(spell.host);
        here && causes(name).contains(&spell.fault) && (spell.from..=until).contains(&at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn told(name: &str, whom: &str) -> Told {
        (name.to_owned(), whom.to_owned())
    }

    #[test]
    fn an_alert_needs_a_cause_in_its_place_and_time() {
        let spells = [Spell {
            fault: Fault::DockerKilled,
            host: 1,
            from: s(100),
            to: Some(s(110)),
        }];
        let lived = BTreeMap::from([
            ("alfa".to_owned(), BTreeSet::from([1])),
            ("beta".to_owned(), BTreeSet::from([0])),
        ]);
        let is = |name: &str, whom: &str, at| is_true(&told(name, whom), s(at), &spells, &lived);
        assert!(is("HostDockerDown", "h2", 105) && is("OdooDown", "alfa", 190));
        assert!(!is("HostDockerDown", "h2", 99), "before it was done");
        assert!(!is("HostDockerDown", "h2", 201), "long after");
        assert!(!is("HostDockerDown", "h1", 105), "another host");
        assert!(!is("OdooDown", "beta", 105), "somebody else's tenant");
        assert!(!is("HostLost", "h2", 105), "a host is not lost by that");
        assert!(!is("BackupLate", "alfa", 105), "nothing here causes it");
    }

    #[test]
    fn what_is_done_to_the_coordinator_is_true_of_every_host() {
        let spells = [Spell {
            fault: Fault::CoordinatorClock,
            host: 1,
            from: s(100),
            to: Some(s(110)),
        }];
        let is =
            |name: &str, whom: &str| is_true(&told(name, whom), s(120), &spells, &BTreeMap::new());
        assert!(is("HostLost", "h3") && is("CoordinatorDown", ""));
        assert!(!is("HostDockerDown", "h3"));
    }

    #[test]
    fn what_lasts_explains_for_as_long() {
        let spells = [Spell {
            fault: Fault::CoordinatorKilled,
            host: 0,
            from: s(1),
            to: None,
        }];
        let fleet = told("CoordinatorDown", "");
        assert!(is_true(&fleet, s(9_999), &spells, &BTreeMap::new()));
    }
}

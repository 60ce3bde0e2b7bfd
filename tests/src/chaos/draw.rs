//! Draws steps from a seed: which tenant gets an order, which host a fault, for how long.
//!
//! Each kind of fault comes once before any comes again, so that a short run has all of them. Not here: whether a fault can be made at
//! that moment (the test).

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{HOSTS, TENANTS};

/// What is done to a host, or to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of dockerd, and a start.
    DockerKilled,
    /// dockerd takes calls and says nothing.
    DockerHangs,
    /// What a dockerd that was killed in mid-start leaves of a container.
    HalfStart,
    /// A bridge without a network, in the tenants' range.
    StrayBridge,
    /// `nft flush ruleset`.
    Flush,
    /// `docker system prune --volumes`, and what newer engines spare.
    Prune,
    /// The images that tenants run are gone, and all containers.
    ImageLost,
    /// daemon.json has a smaller `mtu`.
    Packets,
    /// daemon.json has `userns-remap`.
    UsersMapped,
    /// Nothing can be written any more.
    DiskFull,
    /// Docker and the agent are started before the host has its address.
    AddressLate,
    /// The agent's data directory is lost; it is installed anew.
    Reinstalled,
    /// The host reaches nobody, and nobody it.
    Cut,
    AgentKilled,
    /// The agent begins with a clock that is far off.
    AgentClock,
    CoordinatorKilled,
    /// The coordinator's clock is far off from one moment to the next.
    CoordinatorClock,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::DockerKilled,
        Self::DockerHangs,
        Self::HalfStart,
        Self::StrayBridge,
        Self::Flush,
        Self::Prune,
        Self::ImageLost,
        Self::Packets,
        Self::UsersMapped,
        Self::DiskFull,
        Self::AddressLate,
        Self::Reinstalled,
        Self::Cut,
        Self::AgentKilled,
        Self::AgentClock,
        Self::CoordinatorKilled,
        Self::CoordinatorClock,
    ];

    /// Whether it is the coordinator's, and no host's.
    pub fn is_of_all(self) -> bool {
        matches!(self, Self::CoordinatorKilled | Self::CoordinatorClock)
    }
}

/// A fault where it strikes, until it is made good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blow {
    pub fault: Fault,
    /// Index of a host.
    pub host: usize,
    pub lasts: Duration,
    /// Picks among what there is when it strikes.
    pub choice: u32,
}

/// Something that an operator wants of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub tenant: &'static str,
    /// Picks among what can be wanted by then.
    pub choice: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub order: Option<Order>,
    pub blow: Option<Blow>,
    /// Until the next one.
    pub pause: Duration,
}

/// Steps without end.
#[derive(Debug)]
pub struct Draw {
    rng: StdRng,
    /// Faults that have not come since the last round began.
    bag: Vec<Fault>,
}

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            bag: Vec::new(),
        }
    }

    fn fault(&mut self) -> Fault {
        if self.bag.is_empty() {
            self.bag = Fault::ALL.to_vec();
            self.bag.shuffle(&mut self.rng);
        }
        self.bag.pop().unwrap_or(Fault::AgentKilled)
    }
}

impl Iterator for Draw {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        // Every value is drawn at each step, so that a rule that is changed changes no other.
        let (has_order, has_blow) = (
            self.rng.random_range(0..10u32) < 8,
            self.rng.random_range(0..10u32) < 6,
        );
        let order = Order {
            tenant: TENANTS[self.rng.random_range(0..TENANTS.len())],
            choice: self.rng.random_range(0..1000u32),
        };
        let host = self.rng.random_range(0..HOSTS);
        let lasts = Duration::from_secs(self.rng.random_range(2..20u64));
        let choice = self.rng.random_range(0..1000u32);
        let pause = Duration::from_millis(self.rng.random_range(1_000..9_000u64));
        let blow = has_blow.then(|| Blow {
            fault: self.fault(),
            host,
            lasts,
            choice,
        });
        Some(Step {
            order: has_order.then_some(order),
            blow,
            pause,
        })
    }
}

/// What an order becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Create,
    Restart,
    /// To a host, by its index.
    Move(usize),
    Suspend,
    Resume,
    Delete,
    Undelete,
    Purge,
    /// Something is under way, or nobody knows how the tenant is.
    Nothing,
}

/// What can be wanted of a tenant in this phase (`None`: there is none) on this host.
pub fn resolve(phase: Option<&str>, host: usize, choice: u32) -> What {
    match (phase, choice % 10) {
        (None, _) => What::Create,
        (Some("running"), 0..=2) => What::Restart,
        (Some("running"), 3..=5) => {
            let further = 1 + usize::try_from(choice / 10).unwrap_or(0) % (HOSTS - 1);
            What::Move((host + further) % HOSTS)
        }
        (Some("running"), 6 | 7) => What::Suspend,
        (Some("running"), _) => What::Delete,
        (Some("suspended"), 0..=7) => What::Resume,
        (Some("suspended"), _) => What::Delete,
        (Some("quarantined"), 0..=6) => What::Undelete,
        (Some("quarantined"), _) => What::Purge,
        (Some(_), _) => What::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let steps = |seed| Draw::new(seed).take(200).collect::<Vec<_>>();
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }

    #[test]
    fn every_fault_comes_before_any_comes_again() {
        for seed in 0..20 {
            let faults = Draw::new(seed).filter_map(|step| Some(step.blow?.fault));
            let faults: Vec<Fault> = faults.take(Fault::ALL.len() * 3).collect();
            for round in faults.chunks(Fault::ALL.len()) {
                let kinds: BTreeSet<Fault> = round.iter().copied().collect();
                assert_eq!(kinds.len(), Fault::ALL.len(), "{seed}: {round:?}");
            }
        }
    }

    #[test]
    fn five_minutes_have_all_faults() {
        for seed in 0..50 {
            let mut spent = Duration::ZERO;
            let mut faults = BTreeSet::new();
            for step in Draw::new(seed) {
                faults.extend(step.blow.map(|blow| blow.fault));
                spent += step.pause;
                if faults.len() == Fault::ALL.len() {
                    break;
                }
            }
            assert!(spent < Duration::from_secs(300), "{seed}: {spent:?}");
        }
    }

    #[test]
    fn an_order_fits_what_there_is() {
        for choice in 0..1000 {
            assert_eq!(resolve(None, 0, choice), What::Create);
            assert_eq!(resolve(Some("unknown"), 0, choice), What::Nothing);
            for host in 0..HOSTS {
                if let What::Move(to) = resolve(Some("running"), host, choice) {
                    assert!(to < HOSTS && to != host);
                }
            }
        }
        let every = |phase| -> BTreeSet<String> {
            let all = (0..1000).map(|choice| format!("{:?}", resolve(Some(phase), 1, choice)));
            all.collect()
        };
        let words = ["Delete", "Move(0)", "Move(2)", "Restart", "Suspend"];
        assert_eq!(every("running"), BTreeSet::from(words.map(str::to_owned)));
        assert_eq!(every("quarantined").len(), 2);
    }
}

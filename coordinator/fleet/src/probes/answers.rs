//! Finds what causes wrong answers that many tenants get through one edge: the edge, one host, or each tenant by
//! itself. Pure.
//!
//! Each tenant counts once, by its latest probe, however often it is probed. An edge that has lost its routes answers
//! 404 for everybody, one that cannot reach the hosts answers 502 or 504; if those hosts are well, that is no tenant's
//! fault.
//! Not here: where the fault lies in a single probe (judge).

use std::collections::BTreeMap;

use isyone_types::ids::HostName;

use super::judge::{Failure, Probe};

/// To blame the edge, at least this many healthy hosts must have mostly wrong answers; a single one may have trouble of
/// its own.
const HOSTS_FOR_EDGE: usize = 2;
/// To blame a host, at least this many of its tenants must get wrong answers; fewer may fail together by chance.
const TENANTS_FOR_HOST: u32 = 3;

/// Probed tenants that got an answer, or at least a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub asked: u32,
    /// Those of them without an answer, or with one that edges give by themselves.
    pub wrong: u32,
}

impl Tally {
    fn add(&mut self, wrong: bool) {
        self.asked += 1;
        self.wrong += u32::from(wrong);
    }

    fn remove(&mut self, wrong: bool) {
        self.asked = self.asked.saturating_sub(1);
        self.wrong = self.wrong.saturating_sub(u32::from(wrong));
    }

    /// Whether most got a wrong answer; false when none was asked.
    fn most_wrong(self) -> bool {
        self.wrong > self.asked / 2
    }
}

/// Whether the probe got an answer that edges give when they have no route or cannot reach the host. `None` without a
/// connection: that says nothing about answers.
pub fn is_wrong(probe: &Probe) -> Option<bool> {
    match &probe.failure {
        Some(Failure::NotConnected(_)) => None,
        Some(Failure::NoAnswer(_) | Failure::Status(404 | 502..=504)) => Some(true),
        Some(Failure::Status(_) | Failure::Certificate(_)) | None => Some(false),
    }
}

/// Answers of the tenants behind one edge, in total and per host.
#[derive(Debug, Default)]
pub struct Answers {
    total: Tally,
    hosts: BTreeMap<HostName, Tally>,
}

impl Answers {
    /// Counts a tenant of `host`.
    pub fn add(&mut self, host: &HostName, wrong: bool) {
        self.total.add(wrong);
        self.hosts.entry(host.clone()).or_default().add(wrong);
    }

    /// Takes back what was counted for a tenant.
    pub fn remove(&mut self, host: &HostName, wrong: bool) {
        let Some(tally) = self.hosts.get_mut(host) else {
            return;
        };
        tally.remove(wrong);
        if tally.asked == 0 {
            self.hosts.remove(host);
        }
        self.total.remove(wrong);
    }

    /// Whether the edge is to blame, and the total: most tenants get wrong answers, and so do most tenants of each of
    /// several hosts that are `ready`.
    pub fn blame_edge(&self, ready: impl Fn(&HostName) -> bool) -> Option<Tally> {
        let mut hosts = self
            .hosts
            .iter()
            .filter(|(host, tally)| tally.most_wrong() && ready(host));
        (self.total.most_wrong() && hosts.nth(HOSTS_FOR_EDGE - 1).is_some()).then_some(self.total)
    }

    /// Whether this host is to blame: all wrong answers come from its tenants, and most of its tenants get one.
    pub fn blames(&self, host: &HostName) -> bool {
        self.hosts.get(host).is_some_and(|own| self.is_blamed(*own))
    }

    /// The host to blame; there is at most one.
    pub fn blamed_host(&self) -> Option<&HostName> {
        self.hosts
            .iter()
            .find(|(_, own)| self.is_blamed(**own))
            .map(|(host, _)| host)
    }

    fn is_blamed(&self, own: Tally) -> bool {
        own.wrong >= TENANTS_FOR_HOST && own.wrong == self.total.wrong && own.most_wrong()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::name;

    fn host(n: usize) -> HostName {
        name(&format!("h{n}"))
    }

    fn answers(hosts: &[(u32, u32)]) -> Answers {
        let mut answers = Answers::default();
        for (n, (wrong, asked)) in hosts.iter().enumerate() {
            (0..*asked).for_each(|tenant| answers.add(&host(n), tenant < *wrong));
        }
        answers
    }

    #[test]
    fn whose_wrong_answers_they_are() {
        // For each host: wrong, asked. Then: whether all hosts are ready, whether the edge is to blame, which host is.
        for (hosts, ready, edge, blamed) in [
            (&[(5, 5), (5, 5)][..], true, true, None),
            (&[(1, 1), (1, 1)], true, true, None),
            (&[(4, 5), (3, 5), (0, 1)], true, true, None),
            // Two hosts have trouble, but most tenants have none.
            (&[(5, 5), (5, 5), (0, 20)], true, false, None),
            // The hosts are silent, which explains it.
            (&[(5, 5), (5, 5)], false, false, None),
            (&[(5, 5), (0, 5)], true, false, Some(0)),
            (&[(0, 50), (3, 5)], true, false, Some(1)),
            // With a single host it may be the host or the edge.
            (&[(5, 5)], true, false, Some(0)),
            // A few of many, or of few, have trouble of their own.
            (&[(5, 50), (0, 5)], true, false, None),
            (&[(2, 2), (0, 5)], true, false, None),
            (&[(5, 5), (1, 5)], true, false, None),
            (&[(0, 5), (0, 5)], true, false, None),
            (&[], true, false, None),
        ] {
            let answers = answers(hosts);
            assert_eq!(answers.blame_edge(|_| ready).is_some(), edge, "{hosts:?}");
            assert_eq!(
                answers.blamed_host(),
                blamed.map(host).as_ref(),
                "{hosts:?}"
            );
        }
    }

    proptest! {
        /// After any additions and removals the counts are those of the remaining tenants alone, and edge and host are
        /// never both to blame.
        #[test]
        fn what_is_taken_out_leaves_nothing_behind(
            kept in proptest::collection::vec((0_usize..4, any::<bool>()), 0..40),
            gone in proptest::collection::vec((0_usize..4, any::<bool>()), 0..40),
        ) {
            let (mut answers, mut alone) = (Answers::default(), Answers::default());
            gone.iter().for_each(|(n, wrong)| answers.add(&host(*n), *wrong));
            for (n, wrong) in &kept {
                answers.add(&host(*n), *wrong);
                alone.add(&host(*n), *wrong);
            }
            gone.iter().for_each(|(n, wrong)| answers.remove(&host(*n), *wrong));
            prop_assert_eq!((answers.total, &answers.hosts), (alone.total, &alone.hosts));
            prop_assert!(answers.blame_edge(|_| true).is_none() || answers.blamed_host().is_none());
            prop_assert_eq!(answers.blamed_host().is_some(), (0..4).any(|n| answers.blames(&host(n))));
        }
    }
}

//! The Fleet's own numbers in our metrics, taken from the newest snapshot at each scrape, so nothing is counted twice.
//!
//! Not here: counters of the writer's own work (base/timings).

use std::{collections::BTreeMap, fmt};

use isyone_fleet::{desired::Host, settings::Liveness, state::State, views};
use isyone_proto::{
    plan::{Lifecycle, UnixMs},
    report::{Behind, JobState},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    registry::Unit,
};

use crate::{
    base::{
        clock,
        metrics::{Families, number},
    },
    writer::Handle,
};

/// Most certificates with a series of their own: alerts concern the first ones to expire, and each series costs
/// Prometheus memory.
const MAX_CERTIFICATE_SERIES: usize = 200;

/// Most standbys with series of their own.
const MAX_STANDBY_SERIES: usize = 500;

/// Collects from the newest snapshot.
#[derive(Debug)]
pub(crate) struct FleetCollector {
    pub(crate) handle: Handle,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    certificate: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StandbyLabels {
    tenant: String,
    host: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabels {
    host: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkedOn {
    host: String,
}

impl Collector for FleetCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let live = &self.handle.settings().liveness;
        fleet(
            &mut families,
            &self.handle.snapshot(),
            live,
            clock::now_ms(),
        )
    }
}

fn fleet(families: &mut Families<'_>, state: &State, live: &Liveness, now: UnixMs) -> fmt::Result {
    hosts(families, state, live, now)?;
    let mut tenants: BTreeMap<&str, i64> = BTreeMap::new();
    for tenant in state.fleet.tenants.values() {
        *tenants.entry(desired_word(tenant.desired)).or_default() += 1;
    }
    families.gauges(
        "tenants",
        "Tenants by desired state",
        None,
        by_state(tenants),
    )?;
    certificates(families, state)?;
    standbys(families, state, now)?;
    domains(families, state)
}

/// How far standbys are behind, and which are not kept up. Those that are furthest behind come first.
fn standbys(families: &mut Families<'_>, state: &State, now: UnixMs) -> fmt::Result {
    let (mut behind, mut lost) = (Vec::new(), Vec::new());
    let names = state.fleet.standbys.iter();
    for tenant in names.filter_map(|name| state.fleet.tenants.get(name)) {
        let Some((place, standby)) = tenant.standby() else {
            continue;
        };
        let labels = StandbyLabels {
            tenant: tenant.name.to_string(),
            host: place.host.to_string(),
        };
        let job = state.observed.job(&place.host, standby.job);
        let lag = views::behind(state, &place.host, standby.job, now);
        let is_kept_up = job.is_some_and(|job| job.state == JobState::Running) && lag.is_some();
        // One that does not run has nothing to follow.
        if !is_kept_up && tenant.desired == Lifecycle::Running {
            lost.push((labels.clone(), 1));
        }
        // What is not looked at any more is as old as it is.
        behind.extend(lag.map(|lag| (labels, lag)));
    }
    behind.sort_by_key(|(_, lag)| std::cmp::Reverse((lag.ms, lag.bytes)));
    behind.truncate(MAX_STANDBY_SERIES);
    lost.truncate(MAX_STANDBY_SERIES);
    let of = |value: fn(&Behind) -> u64| {
        let one = move |(labels, lag): &(StandbyLabels, Behind)| {
            (
                labels.clone(),
                i64::try_from(value(lag)).unwrap_or(i64::MAX),
            )
        };
        behind.iter().map(one).collect::<Vec<_>>()
    };
    families.gauges(
        "standby_lag",
        "Log of a tenant that its standby does not have yet; of the 500 that are furthest behind",
        Some(&Unit::Bytes),
        of(|lag| lag.bytes),
    )?;
    families.gauges(
        "standby_lag_time",
        "Since when a standby lacks something of its tenant's log",
        Some(&Unit::Seconds),
        of(|lag| lag.ms / 1000),
    )?;
    families.gauges(
        "standby_files_age",
        "Since when a standby lacks what was written to its tenant's files",
        Some(&Unit::Seconds),
        of(|lag| lag.files_ms / 1000),
    )?;
    families.gauges(
        "standby_not_kept_up",
        "1 for each standby that is not kept up at present, or is on its way",
        None,
        lost,
    )
}

fn by_state<'a>(
    counts: BTreeMap<&'static str, i64>,
) -> impl Iterator<Item = (StateLabel, i64)> + use<'a> {
    counts
        .into_iter()
        .map(|(state, count)| (StateLabel { state }, count))
}

fn hosts(families: &mut Families<'_>, state: &State, live: &Liveness, now: UnixMs) -> fmt::Result {
    let judged = |host: &Host| match host.pending {
        // No alert watches one that nobody has let in.
        true => "pending",
        false => state.host_state(live, &host.name, now).0.word(),
    };
    let hosts: Vec<HostLabels> = state
        .fleet
        .hosts
        .values()
        .map(|host| HostLabels {
            host: host.name.to_string(),
            state: judged(host),
        })
        .collect();
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for host in &hosts {
        *counts.entry(host.state).or_default() += 1;
    }
    families.gauges("hosts", "Hosts by state", None, by_state(counts))?;
    let only_present = "1 for the state that a host is in now; there is no series for the others";
    families.gauges(
        "host_state",
        only_present,
        None,
        hosts.into_iter().map(|host| (host, 1)),
    )?;
    let all = state.fleet.hosts.values();
    let worked_on = all.filter(|host| host.maintenance.is_some());
    families.gauges(
        "host_maintenance",
        "1 for each host with announced work on it",
        None,
        worked_on.map(|host| {
            let host = host.name.to_string();
            (WorkedOn { host }, 1)
        }),
    )
}

fn certificates(families: &mut Families<'_>, state: &State) -> fmt::Result {
    families.gauge(
        "certificate_troubles",
        "Host names for which no certificate could be had",
        None,
        number(state.fleet.certificate_troubles.len()),
    )?;
    let held = state.fleet.certificates.iter();
    let mut ends: Vec<(i64, &String)> = held.map(|(name, c)| (c.not_after, name)).collect();
    ends.sort_unstable();
    families.gauges(
        "certificate_not_after",
        "End of a certificate since the Unix epoch; of the 200 that end first",
        Some(&Unit::Seconds),
        ends.into_iter()
            .take(MAX_CERTIFICATE_SERIES)
            .map(|(not_after, name)| {
                let certificate = name.clone();
                (NameLabel { certificate }, not_after)
            }),
    )
}

fn domains(families: &mut Families<'_>, state: &State) -> fmt::Result {
    let fleet = &state.fleet;
    // A deleted tenant keeps its trouble until it is gone, but has no visitors, and its domains are no longer checked.
    let found = fleet.domain_troubles.values().filter(|t| !t.unasked);
    let missed = found.filter(|trouble| {
        fleet
            .tenants
            .get(&trouble.tenant)
            .is_some_and(|tenant| !tenant.is_deleted())
    });
    families.gauge(
        "domains_unreachable",
        "Tenants' own domains that do not lead to the edges",
        None,
        number(missed.count()),
    )
}

fn desired_word(state: Lifecycle) -> &'static str {
    use Lifecycle as D;
    match state {
        D::Running => "running",
        D::Suspended => "suspended",
        D::Quarantined => "quarantined",
        D::Purged => "purged",
    }
}

#[cfg(test)]
mod tests {
    use isyone_fleet::{
        change::Command,
        desired::domains::DomainTrouble,
        testing::{Bench, name, resources},
    };

    use super::*;
    use crate::base::metrics;

    fn shown(state: &State, live: &Liveness, now: UnixMs) -> String {
        #[derive(Debug)]
        struct One(State, Liveness, UnixMs);
        impl Collector for One {
            fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
                fleet(&mut Families(encoder), &self.0, &self.1, self.2)
            }
        }
        let mut registry = metrics::registry();
        registry.register_collector(Box::new(One(state.clone(), live.clone(), now)));
        metrics::render(&registry)
    }

    /// Fails if `domains` loses its filter: an alert about a customer's domain would go on after its tenant was
    /// deleted.
    #[test]
    fn unreachable_domains_are_those_of_tenants_with_visitors() {
        let mut bench = Bench::default();
        let host = bench.host("h1", resources(8, 32, 100));
        let mut creation = bench.creation("alfa", "small");
        creation.spec.domains = vec![name("erp.customer.com")];
        bench
            .apply(Command::CreateTenant(Box::new(creation)))
            .unwrap();
        let report = bench.converged(&name("alfa"));
        bench.report(&host, resources(8, 32, 100), vec![report]);
        let shows = |bench: &Bench, number: u32| {
            let text = shown(&bench.state, &bench.settings.liveness, bench.now);
            text.lines()
                .any(|line| line == format!("isyone_domains_unreachable {number}"))
        };
        assert!(shows(&bench, 0));
        let found = "nothing".to_owned();
        let trouble = DomainTrouble {
            domain: name("erp.customer.com"),
            tenant: name("alfa"),
            since: 1,
            found,
            unasked: false,
        };
        bench
            .apply(Command::DomainUnreachable(Box::new(trouble)))
            .unwrap();
        assert!(shows(&bench, 1));
        bench
            .apply(Command::DeleteTenant {
                name: name("alfa"),
                purge: false,
                request_id: None,
                cancel_running: false,
            })
            .unwrap();
        assert_eq!(
            bench.state.fleet.domain_troubles.len(),
            1,
            "it may be undeleted"
        );
        assert!(shows(&bench, 0));
    }
}

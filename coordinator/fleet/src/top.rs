//! Sorts tenants and hosts in the order in which somebody watches them, and picks the rows on the screen. Pure.
//!
//! Only a sort key is computed for every name; the rest is computed elsewhere, for the picked rows alone. Except for
//! one pass over the keys, a screen thus costs the same at any size of the fleet.
//! Not here: the form of the rows (the coordinator's operators/top).

use std::{cmp::Ordering, sync::Arc};

use isyone_types::{ids::HostName, plan::UnixMs};

use crate::{
    desired::{Host, Tenant},
    liveness::HostState,
    probes::judge::Judgement,
    settings::Settings,
    state::State,
    views::{self, Phase},
};

/// Sort order of tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantOrder {
    Name,
    /// Trouble first.
    State,
    Cpu,
    Memory,
    Disk,
    /// Requests per minute.
    Requests,
    /// Errors per minute.
    Errors,
    /// 95th percentile of response time; no figure without requests.
    Latency,
    Host,
}

/// Sort order of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostOrder {
    Name,
    /// Trouble first.
    State,
    /// Busy share of all CPUs.
    Cpu,
    /// Share of the memory in use.
    Memory,
    /// Share of the disk in use.
    Disk,
    /// Load average per CPU.
    Load,
    /// Number of tenants placed there.
    Tenants,
}

/// The requested rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows<O> {
    pub order: O,
    /// Reverse the order.
    pub reverse: bool,
    /// Only rows with this text in their name, host, domains or labels; empty: all.
    pub filter: String,
    /// Number of rows to skip.
    pub offset: usize,
    /// Largest number of rows.
    pub limit: usize,
}

/// The picked rows, and how many there are in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked<T> {
    pub rows: Vec<T>,
    /// Number of rows that pass the filter.
    pub matching: usize,
    /// Number of rows without the filter.
    pub total: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SortKey<'a> {
    Word(&'a str),
    /// A rank: smallest first.
    Rank(u8),
    /// A figure: largest first.
    Figure(u64),
    /// No figure: after all others, in either direction.
    Nothing,
}

fn compare(a: SortKey<'_>, b: SortKey<'_>, reverse: bool) -> Ordering {
    let natural = match (a, b) {
        (SortKey::Nothing, SortKey::Nothing) => return Ordering::Equal,
        (SortKey::Nothing, _) => return Ordering::Greater,
        (_, SortKey::Nothing) => return Ordering::Less,
        (SortKey::Figure(a), SortKey::Figure(b)) => b.cmp(&a),
        (a, b) => a.cmp(&b),
    };
    if reverse { natural.reverse() } else { natural }
}

fn figure(value: Option<impl Into<u64>>) -> SortKey<'static> {
    value.map_or(SortKey::Nothing, |value| SortKey::Figure(value.into()))
}

/// Picks the requested rows from those that passed the filter.
fn pick<'a, T, O>(
    mut keyed: Vec<(SortKey<'a>, &'a str, T)>,
    rows: &Rows<O>,
    total: usize,
) -> Picked<T> {
    let by = |a: &(SortKey<'a>, &'a str, T), b: &(SortKey<'a>, &'a str, T)| {
        compare(a.0, b.0, rows.reverse).then_with(|| a.1.cmp(b.1))
    };
    let matching = keyed.len();
    let end = rows.offset.saturating_add(rows.limit);
    if end < matching {
        // Sorting all rows would be too expensive for a large fleet.
        keyed.select_nth_unstable_by(end, by);
        keyed.truncate(end);
    }
    keyed.sort_unstable_by(by);
    let picked = keyed.into_iter().skip(rows.offset).map(|(_, _, row)| row);
    Picked {
        rows: picked.collect(),
        matching,
        total,
    }
}

/// Picks from the tenants that are not deleted, on `host` or anywhere. `reach` returns what the probes found.
pub fn tenants<'a>(
    state: &'a State,
    settings: &Settings,
    now: UnixMs,
    rows: &Rows<TenantOrder>,
    host: Option<&HostName>,
    reach: impl Fn(&Tenant) -> Option<Judgement>,
) -> Picked<&'a Arc<Tenant>> {
    let (mut total, mut keyed) = (0, Vec::new());
    for tenant in state
        .fleet
        .tenants
        .values()
        .filter(|tenant| !tenant.is_deleted())
    {
        total += 1;
        if host.is_some_and(|host| *host != tenant.placement.host) || !fits(tenant, &rows.filter) {
            continue;
        }
        let seen = || views::observed(state, tenant).map(|seen| &seen.report);
        let usage = || seen().and_then(|report| report.usage);
        let traffic = || seen().and_then(|report| report.traffic);
        let key = match rows.order {
            TenantOrder::Name => SortKey::Word(tenant.name.as_str()),
            TenantOrder::Host => SortKey::Word(tenant.placement.host.as_str()),
            TenantOrder::State => SortKey::Rank(trouble(
                views::phase(state, settings, tenant, now).0,
                reach(tenant),
            )),
            TenantOrder::Cpu => figure(usage().map(|u| u.cpu_millis)),
            TenantOrder::Memory => figure(usage().map(|u| u.memory_bytes)),
            // A volume is never empty: 0 means not measured.
            TenantOrder::Disk => figure(usage().map(|u| u.disk_bytes).filter(|bytes| *bytes > 0)),
            TenantOrder::Requests => figure(traffic().map(|t| t.requests_per_minute)),
            TenantOrder::Errors => figure(traffic().map(|t| t.errors_per_minute)),
            TenantOrder::Latency => figure(
                traffic()
                    .filter(|t| t.requests_per_minute > 0)
                    .map(|t| t.latency_p95_ms),
            ),
        };
        keyed.push((key, tenant.name.as_str(), tenant));
    }
    pick(keyed, rows, total)
}

fn fits(tenant: &Tenant, filter: &str) -> bool {
    filter.is_empty()
        || tenant.name.as_str().contains(filter)
        || tenant.placement.host.as_str().contains(filter)
        || tenant
            .spec
            .domains
            .iter()
            .any(|domain| domain.as_str().contains(filter))
}

/// Lower is worse.
fn trouble(phase: Phase, reach: Option<Judgement>) -> u8 {
    match (phase, reach) {
        (Phase::Failing, _) => 0,
        (
            Phase::Running,
            Some(Judgement::TenantDown | Judgement::HostDown | Judgement::EdgeDown),
        ) => 1,
        (Phase::Unknown, _) => 2,
        (Phase::Pending | Phase::Creating | Phase::Updating | Phase::Deleting, _) => 3,
        (Phase::Running, _) => 4,
        (Phase::Suspended | Phase::Quarantined, _) => 5,
    }
}

/// Picks from the hosts whose name or labels pass the filter.
pub fn hosts<'a>(
    state: &'a State,
    settings: &Settings,
    now: UnixMs,
    rows: &Rows<HostOrder>,
) -> Picked<&'a Arc<Host>> {
    let mut keyed = Vec::new();
    for host in state
        .fleet
        .hosts
        .values()
        .filter(|host| host_fits(host, &rows.filter))
    {
        let seen = state.observed.hosts.get(&host.name).map(AsRef::as_ref);
        let resources = seen
            .filter(|seen| seen.reported_at.is_some())
            .map(|seen| &seen.resources);
        let share = |used: u64, of: u64| used.saturating_mul(1_000_000).checked_div(of);
        let key = match rows.order {
            HostOrder::Name => SortKey::Word(host.name.as_str()),
            // Like one of which nothing is known yet.
            HostOrder::State if host.pending => SortKey::Rank(host_trouble(HostState::Unknown)),
            HostOrder::State => SortKey::Rank(host_trouble(
                state.host_state(&settings.liveness, &host.name, now).0,
            )),
            HostOrder::Cpu => figure(resources.map(|r| r.cpu_used_permille)),
            HostOrder::Memory => figure(resources.and_then(|r| {
                share(
                    r.memory_total_bytes
                        .saturating_sub(r.memory_available_bytes),
                    r.memory_total_bytes,
                )
            })),
            HostOrder::Disk => figure(resources.and_then(|r| {
                share(
                    r.disk_total_bytes.saturating_sub(r.disk_available_bytes),
                    r.disk_total_bytes,
                )
            })),
            HostOrder::Load => {
                figure(resources.and_then(|r| share(r.load1_milli.into(), r.cpus.into())))
            }
            HostOrder::Tenants => {
                let index = state.fleet.by_host.get(&host.name);
                SortKey::Figure(index.map_or(0, |index| index.tenants.len() as u64))
            }
        };
        keyed.push((key, host.name.as_str(), host));
    }
    pick(keyed, rows, state.fleet.hosts.len())
}

fn host_fits(host: &Host, filter: &str) -> bool {
    filter.is_empty()
        || host.name.as_str().contains(filter)
        || host
            .labels
            .iter()
            .any(|(key, value)| format!("{key}={value}").contains(filter))
}

fn host_trouble(state: HostState) -> u8 {
    match state {
        HostState::Lost => 0,
        HostState::Degraded => 1,
        HostState::Suspect => 2,
        HostState::Unknown => 3,
        HostState::Ready => 4,
    }
}

#[cfg(test)]
mod tests {
    use isyone_types::report::{Traffic, Usage};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Bench, name, resources};

    /// Tenants t0, t1, … with these CPU figures; `None` was not measured.
    fn fleet(figures: &[Option<u32>]) -> Bench {
        let mut bench = Bench::default();
        bench.now = 1_000;
        let host = bench.host("h1", resources(640, 5120, 40960));
        let mut reports = Vec::new();
        for (n, figure) in figures.iter().enumerate() {
            let tenant = name(&format!("t{n}"));
            bench.create(&format!("t{n}"), "small").unwrap();
            let mut report = bench.converged(&tenant);
            report.usage = figure.map(|cpu_millis| Usage {
                cpu_millis,
                memory_bytes: 1,
                disk_bytes: 0,
            });
            report.traffic = figure.map(|n| Traffic {
                requests_per_minute: n,
                latency_p95_ms: 7,
                ..Traffic::default()
            });
            reports.push(report);
        }
        bench.report(&host, resources(640, 5120, 40960), reports);
        bench
    }

    fn rows<O>(order: O) -> Rows<O> {
        Rows {
            order,
            reverse: false,
            filter: String::new(),
            offset: 0,
            limit: 50,
        }
    }

    fn names(bench: &Bench, rows: &Rows<TenantOrder>) -> Vec<String> {
        let picked = tenants(&bench.state, &bench.settings, bench.now, rows, None, |_| {
            None
        });
        picked
            .rows
            .iter()
            .map(|tenant| tenant.name.to_string())
            .collect()
    }

    #[test]
    fn the_largest_first_and_what_is_unknown_last_either_way_round() {
        let bench = fleet(&[Some(5), None, Some(90), Some(0)]);
        let mut by_cpu = rows(TenantOrder::Cpu);
        assert_eq!(names(&bench, &by_cpu), ["t2", "t0", "t3", "t1"]);
        by_cpu.reverse = true;
        assert_eq!(names(&bench, &by_cpu), ["t3", "t0", "t2", "t1"]);
        // No tenant has a measured disk; those without requests have no latency.
        assert_eq!(
            names(&bench, &rows(TenantOrder::Disk)),
            ["t0", "t1", "t2", "t3"]
        );
        assert_eq!(
            names(&bench, &rows(TenantOrder::Latency)),
            ["t0", "t2", "t1", "t3"]
        );
        assert_eq!(
            names(
                &bench,
                &Rows {
                    reverse: true,
                    ..rows(TenantOrder::Name)
                }
            ),
            ["t3", "t2", "t1", "t0"]
        );
    }

    #[test]
    fn trouble_comes_first() {
        let bench = fleet(&[Some(1), Some(1), Some(1)]);
        let down =
            |tenant: &Tenant| (tenant.name.as_str() == "t2").then_some(Judgement::TenantDown);
        let by_state = rows(TenantOrder::State);
        let picked = tenants(
            &bench.state,
            &bench.settings,
            bench.now,
            &by_state,
            None,
            down,
        );
        assert_eq!(picked.rows[0].name.as_str(), "t2");
        // The host is silent now, so all tenants are unknown, and the name breaks the tie.
        let later = tenants(
            &bench.state,
            &bench.settings,
            bench.now + 70_000,
            &by_state,
            None,
            |_| None,
        );
        assert_eq!((later.rows.len(), later.rows[0].name.as_str()), (3, "t0"));
    }

    #[test]
    fn filters_and_pages() {
        let bench = fleet(&[Some(1); 12]);
        let ones = Rows {
            filter: "t1".to_owned(),
            ..rows(TenantOrder::Name)
        };
        assert_eq!(names(&bench, &ones), ["t1", "t10", "t11"]);
        let second = Rows {
            offset: 1,
            limit: 1,
            ..ones.clone()
        };
        let picked = tenants(
            &bench.state,
            &bench.settings,
            bench.now,
            &second,
            None,
            |_| None,
        );
        assert_eq!(
            (picked.rows[0].name.as_str(), picked.matching, picked.total),
            ("t10", 3, 12)
        );
        let elsewhere = tenants(
            &bench.state,
            &bench.settings,
            bench.now,
            &ones,
            Some(&name("h9")),
            |_| None,
        );
        assert_eq!(
            (elsewhere.rows.len(), elsewhere.matching, elsewhere.total),
            (0, 0, 12)
        );
        assert_eq!(
            names(
                &bench,
                &Rows {
                    filter: "h1".to_owned(),
                    ..rows(TenantOrder::Name)
                }
            )
            .len(),
            12
        );
        assert_eq!(
            names(
                &bench,
                &Rows {
                    offset: 99,
                    ..rows(TenantOrder::Name)
                }
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn hosts_in_order() {
        let mut bench = Bench::default();
        bench.now = 1_000;
        let mut busy = resources(4, 16, 100);
        (busy.cpu_used_permille, busy.load1_milli) = (900, 8_000);
        bench.host("idle", resources(8, 32, 100));
        bench.now += 100_000;
        bench.host("busy", busy);
        let order = |order| {
            let picked = hosts(&bench.state, &bench.settings, bench.now, &rows(order));
            picked
                .rows
                .iter()
                .map(|host| host.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(order(HostOrder::Cpu), ["busy", "idle"]);
        assert_eq!(order(HostOrder::Load), ["busy", "idle"]);
        // `idle` has been silent for long.
        assert_eq!(order(HostOrder::State), ["idle", "busy"]);
        assert_eq!(order(HostOrder::Name), ["busy", "idle"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Page after page equals all rows at once: nothing twice, nothing missing.
        #[test]
        fn pages_make_up_the_whole(
            figures in proptest::collection::vec(proptest::option::of(0..4_u32), 1..40), size in 1..9_usize, reverse: bool
        ) {
            let bench = fleet(&figures);
            let whole = Rows { reverse, limit: 200, ..rows(TenantOrder::Cpu) };
            let all = names(&bench, &whole);
            let paged: Vec<String> = (0..figures.len().div_ceil(size))
                .flat_map(|page| names(&bench, &Rows { offset: page * size, limit: size, ..whole.clone() }))
                .collect();
            prop_assert_eq!(&paged, &all);
            prop_assert_eq!(all.len(), figures.len());
        }
    }
}

//! What hosts' reports change: ones about older plans, about trouble, and refused plans.
//!
//! Not here: taking reports from the wire (isyone-proto's convert).

use isyone_types::{
    disk::{Disk, DiskMeans, DiskUse},
    report::{HostReport, JobReport, JobState, TenantReport},
};

use super::*;
use crate::liveness::HostState;

#[test]
fn a_report_of_an_older_generation_epoch_or_another_host_ends_nothing() {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(8, 32, 100));
    let h2 = bench.host("h2", resources(8, 32, 100));
    bench.create("alfa", "small").unwrap();
    let alfa: TenantName = name("alfa");
    let good = bench.converged(&alfa);
    for wrong in [
        isyone_types::report::TenantReport {
            epoch: 0,
            ..good.clone()
        },
        isyone_types::report::TenantReport {
            generation: 0,
            ..good.clone()
        },
        isyone_types::report::TenantReport {
            generation: 2,
            ..good.clone()
        },
        isyone_types::report::TenantReport {
            uid: uuid::Uuid::from_u128(9),
            ..good.clone()
        },
        isyone_types::report::TenantReport {
            progress: TenantProgress::Working,
            ..good.clone()
        },
    ] {
        bench.report(&h1, resources(8, 32, 100), vec![wrong]);
        assert!(bench.state.fleet.tenants[&alfa].activated_at.is_none());
    }
    let placed = bench.state.fleet.tenants[&alfa].placement.host.clone();
    let other = if placed == h1 { h2 } else { h1 };
    bench.report(&other, resources(8, 32, 100), vec![good.clone()]);
    assert!(bench.state.fleet.tenants[&alfa].activated_at.is_none());
    bench.report(&placed, resources(8, 32, 100), vec![good]);
    assert!(bench.state.fleet.tenants[&alfa].activated_at.is_some());
}

#[test]
fn a_trouble_is_told_once_whatever_its_tries_say_and_odd_counts_do_no_harm() {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(8, 32, 100));
    bench.create("alfa", "small").unwrap();
    let good = bench.converged(&name("alfa"));
    for n in 0..5 {
        for progress in [TenantProgress::Failing, TenantProgress::Working] {
            let mut bad = good.clone();
            (bad.progress, bad.message) = (progress, format!("no answer after {n} s").into());
            bad.containers[0].oom_kills = u32::MAX;
            let one = bad.containers[0].clone();
            bad.containers = [one.clone(), one].into();
            bench.report(&h1, resources(8, 32, 100), vec![bad]);
        }
    }
    bench.report(&h1, resources(8, 32, 100), vec![good.clone()]);
    bench.report(&h1, resources(8, 32, 100), vec![good]);
    let told = |kind: &str| {
        bench
            .state
            .fleet
            .events
            .iter()
            .filter(|e| e.kind.as_str() == kind)
            .count()
    };
    assert_eq!((told("tenant.failing"), told("tenant.recovered")), (1, 1));
}

#[test]
fn volumes_that_were_put_back_are_told_once_and_only_if_that_is_news() {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(8, 32, 100));
    bench.create("alfa", "small").unwrap();
    let good = bench.converged(&name("alfa"));
    let mut told = Vec::new();
    // The first report after a coordinator's start tells an old count; then the count of a host that lost its memory.
    for repairs in [2, 2, 3, 3, 0, 1, 1] {
        let mut report = good.clone();
        report.volume_repairs = repairs;
        bench.report(&h1, resources(8, 32, 100), vec![report]);
        let events = bench.state.fleet.events.iter();
        told.push(
            events
                .filter(|e| e.kind.as_str() == "tenant.volumes_put_back")
                .count(),
        );
    }
    assert_eq!(told, [0, 0, 1, 1, 1, 2, 2]);
}

#[test]
fn an_installation_that_was_cut_off_is_told_once_and_so_is_its_end() {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(8, 32, 100));
    bench.create("alfa", "small").unwrap();
    let good = bench.converged(&name("alfa"));
    let mut told = Vec::new();
    // The first is what the coordinator finds at its start.
    for (modules, finished) in [(2, 1), (2, 1), (0, 2), (0, 2), (5, 2), (5, 2), (0, 3)] {
        let mut report = good.clone();
        (report.modules_cut_off, report.installs_finished) = (modules, finished);
        bench.report(&h1, resources(8, 32, 100), vec![report]);
        let count = |kind: &str| {
            let events = bench.state.fleet.events.iter();
            events.filter(|e| e.kind.as_str() == kind).count()
        };
        told.push((
            count("tenant.install_cut_off"),
            count("tenant.install_finished"),
        ));
    }
    let first = told[0];
    let more: Vec<_> = told
        .iter()
        .map(|t| (t.0 - first.0, t.1 - first.1))
        .collect();
    assert_eq!(
        more,
        [(0, 0), (0, 0), (0, 1), (0, 1), (1, 1), (1, 1), (1, 2)]
    );
}

#[test]
fn a_plan_that_its_host_cannot_take_shows_with_the_tenant_and_its_operation() {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    let Outcome::Tenant {
        tenant,
        operation: Some(operation),
        ..
    } = bench.create("alfa", "small").unwrap()
    else {
        panic!()
    };
    let refused = |error: &str| Command::PlanResult {
        host: host.clone(),
        generation: 2.into(),
        error: error.to_owned(),
    };
    bench.apply(refused("No space left on device")).unwrap();
    let (phase, message) = views::phase(&bench.state, &bench.settings, &tenant, bench.now);
    assert_eq!(
        (phase, message.as_str()),
        (
            views::Phase::Failing,
            "host h1 cannot take its plan: No space left on device"
        )
    );
    assert_eq!(bench.progress(operation.id).0, OperationState::Retrying);
    bench.apply(refused("")).unwrap();
    assert_eq!(
        views::phase(&bench.state, &bench.settings, &tenant, bench.now).0,
        views::Phase::Pending
    );
    assert_eq!(bench.progress(operation.id).0, OperationState::Running);
}

#[test]
fn the_last_report_of_a_hosts_jobs_is_all_that_is_known_of_them() {
    let (mut bench, host, _) = running();
    let job = |id: u128, bytes_done| JobReport {
        bytes_done,
        bytes_total: 9,
        ..JobReport::new(uuid::Uuid::from_u128(id), JobState::Running)
    };
    for jobs in [vec![job(1, 1), job(2, 2)], vec![job(2, 5)], vec![]] {
        let report = HostReport {
            resources: resources(8, 32, 100),
            docker_error: String::new(),
            tenants: vec![],
            complete: false,
            jobs: jobs.clone(),
            condition: Default::default(),
        };
        bench
            .apply(Command::Report {
                host: host.clone(),
                report: Box::new(report),
            })
            .unwrap();
        let seen = &bench.state.observed.hosts[&host].jobs;
        assert_eq!(
            seen.values().map(|j| (**j).clone()).collect::<Vec<_>>(),
            jobs
        );
    }
}

/// Fails if silence is counted from our start alone: who joins later would be lost at once.
#[test]
fn a_host_that_has_just_joined_is_unknown_and_a_removed_one_is_nothing() {
    let mut bench = Bench::default();
    bench.now = 820_000;
    let h1 = bench.join("h1");
    bench.now += 1_000;
    bench.apply(Command::Tick).unwrap();
    let judged =
        |bench: &Bench| views::host_state(&bench.state, &bench.settings, &name("h1"), bench.now);
    assert_eq!(judged(&bench), (HostState::Unknown, 1_000));
    assert_eq!(bench.state.told.get(&h1), Some(&HostState::Unknown));
    bench.now += 59_000;
    assert_eq!(judged(&bench), (HostState::Lost, 60_000));
    bench
        .apply(Command::RemoveHost { host: h1.clone() })
        .unwrap();
    assert!(bench.state.told.get(&h1).is_none());
    // What was told before does not count for one that joins anew under the name.
    bench.join("h1");
    assert_eq!(judged(&bench), (HostState::Unknown, 0));
}

fn with_disk(bench: &Bench, used: u64) -> TenantReport {
    let before = bench.state.observed.copy(&name("alfa"), &name("h1"));
    let known = before.and_then(|seen| seen.report.disk);
    let mut report = bench.converged(&name("alfa"));
    report.disk = Some(Disk::after(
        known.as_ref(),
        DiskUse::of_bytes(used),
        1000,
        DiskMeans::Counted,
    ));
    report
}

fn kinds(bench: &Bench) -> Vec<String> {
    let events = bench.state.fleet.events.iter();
    let kinds = events.map(|e| e.kind.as_str().to_owned());
    kinds
        .filter(|k| k.contains("disk") || k.contains("database") || k.contains("uploads"))
        .collect()
}

/// Whether uploads are refused, by the route and by the index that publishing follows.
fn refuses(bench: &Bench) -> bool {
    let route = views::routes(&bench.state, &bench.settings).next().unwrap();
    let seen = bench.state.observed.seen_by_edges();
    let indexed = seen
        .get(&(name("alfa"), name("h1")))
        .is_some_and(|seen| seen.refuses_uploads);
    assert_eq!(route.full, indexed);
    route.full
}

#[test]
fn a_disk_that_fills_is_told_refuses_uploads_and_comes_back() {
    let (mut bench, host, _) = running();
    let say = |bench: &mut Bench, used| {
        let report = with_disk(bench, used);
        bench.report(&host, resources(8, 32, 100), vec![report]);
    };
    for (used, refused) in [
        (100, false),
        (810, false),
        (820, false),
        (960, true),
        (1000, true),
        (1100, true),
        (1040, true),
        (960, true),
        (940, true),
        (890, false),
        (10, false),
    ] {
        say(&mut bench, used);
        assert_eq!(refuses(&bench), refused, "{used}");
    }
    assert_eq!(
        kinds(&bench),
        [
            "tenant.disk_filling",
            "tenant.uploads_refused",
            "tenant.disk_full",
            "tenant.database_stopped",
            "tenant.disk_freed",
            "tenant.disk_freed",
            "tenant.disk_freed",
            "tenant.disk_freed"
        ]
    );
}

/// An agent that has just started has not measured yet: that is no room. And one that never does does not refuse for ever.
#[test]
fn a_report_without_a_disk_forgets_none_for_an_hour() {
    let (mut bench, host, _) = running();
    let full = with_disk(&bench, 970);
    bench.report(&host, resources(8, 32, 100), vec![full]);
    let silent = bench.converged(&name("alfa"));
    bench.report(&host, resources(8, 32, 100), vec![silent.clone()]);
    assert!(refuses(&bench));
    bench.now += crate::observed::DISK_KNOWN_MS;
    bench.report(&host, resources(8, 32, 100), vec![silent.clone()]);
    assert!(!refuses(&bench));
    assert_eq!(kinds(&bench), ["tenant.uploads_refused"]);
    // The first word since the coordinator's start is no news.
    bench.state.observed = Default::default();
    let full = with_disk(&bench, 970);
    bench.report(&host, resources(8, 32, 100), vec![full]);
    assert!(refuses(&bench));
    assert_eq!(kinds(&bench).len(), 1);
}

#[test]
fn a_tenant_stopped_by_its_disk_is_failing_and_says_so() {
    let (mut bench, host, _) = running();
    let mut report = with_disk(&bench, 1000);
    (report.progress, report.message) = (TenantProgress::Unhealthy, "its disk is full".into());
    report.containers[0].state = "exited".into();
    bench.report(&host, resources(8, 32, 100), vec![report.clone()]);
    let tenant = bench.state.fleet.tenants[&name::<TenantName>("alfa")].clone();
    let (phase, message) = views::phase(&bench.state, &bench.settings, &tenant, bench.now);
    assert_eq!(
        (phase, message.as_str()),
        (views::Phase::Failing, "its disk is full")
    );
    assert!(views::is_stopped_by_disk(&bench.state, &tenant));
    // Once its host has started it again it is not, although the disk is as full.
    report.containers[0].state = "running".into();
    bench.report(&host, resources(8, 32, 100), vec![report]);
    assert!(!views::is_stopped_by_disk(&bench.state, &tenant));
}

/// The n-th report of a host on which everything changes with each report, then a tick.
fn flap(bench: &mut Bench, host: &HostName, n: u32) {
    let bad = n.is_multiple_of(2);
    let mut tenant = with_disk(bench, if bad { 1000 } else { 0 });
    tenant.volume_repairs = n;
    tenant.containers[0].oom_kills = n;
    if bad {
        (tenant.progress, tenant.message) = (TenantProgress::Failing, format!("try {n}").into());
    }
    let report = HostReport {
        resources: resources(8, 32, 100),
        docker_error: if bad { "broken" } else { "" }.to_owned(),
        tenants: vec![tenant],
        complete: true,
        jobs: vec![],
        condition: Default::default(),
    };
    let report = Command::Report {
        host: host.clone(),
        report: Box::new(report),
    };
    let refused = Command::PlanResult {
        host: host.clone(),
        generation: 2.into(),
        error: format!("no, {n}"),
    };
    for said in [report, refused] {
        bench.apply_as(&format!("host/{host}"), said).unwrap();
    }
    bench.apply_as("coordinator", Command::Tick).unwrap();
    bench.now += 20;
}

/// Fails if each report may be an event: a thousand of them were 6,000 events.
#[test]
fn a_host_that_flaps_fills_neither_the_log_nor_the_store_and_the_end_is_told() {
    let (mut bench, host, _) = running();
    let events = |bench: &Bench| -> Vec<crate::event::Event> {
        let events = bench.state.fleet.events.iter();
        events.map(|event| (**event).clone()).collect()
    };
    let before = events(&bench).len();
    (2..1_002).for_each(|n| flap(&mut bench, &host, n));
    // Of six families: a tenant's health, memory, volumes and disk, the host's state and its plan. And one for its operation.
    let at_once = events(&bench).len() - before;
    assert_eq!(at_once, 6 * 20 + 1);
    for _ in 0..10 {
        bench.now += 60_000;
        bench.report(&host, resources(8, 32, 100), vec![]);
        bench.apply_as("coordinator", Command::Tick).unwrap();
    }
    let all = events(&bench);
    let rest = &all[before + at_once..];
    let mut more: Vec<_> = rest.iter().map(|event| event.kind.as_str()).collect();
    more.sort_unstable();
    assert_eq!(
        more,
        [
            "host.plan_refused",
            "host.ready",
            "tenant.disk_freed",
            "tenant.oom_killed",
            "tenant.recovered",
            "tenant.volumes_put_back"
        ]
    );
    for event in rest {
        assert!(event.message.starts_with("and 9"), "{event:?}");
        assert_eq!(event.actor, "coordinator");
        assert_eq!(event.host.as_ref(), Some(&host));
    }
    let stored = bench.effects.writes.iter();
    let stored = stored.filter(|write| matches!(write, Write::Event(_)));
    assert_eq!(stored.count(), all.len());
}

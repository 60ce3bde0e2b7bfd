//! What follows from how a host itself is: its Docker does not answer, it has mended something.
//!
//! Not here: its tenants' own reports (reports).

use isyone_types::report::{HostCondition, HostReport, Mended};

use super::*;

/// A report of a host with these words on itself, and nothing new of its tenants.
pub(super) fn conditioned(condition: HostCondition) -> Command {
    let away = condition.docker_away;
    let report = HostReport {
        resources: resources(8, 32, 100),
        docker_error: if away { "connection refused" } else { "" }.to_owned(),
        tenants: vec![],
        complete: false,
        jobs: vec![],
        condition,
    };
    Command::Report {
        host: name("h1"),
        report: Box::new(report),
    }
}

/// Fails where tenants of a host whose Docker is down are called running, as they were last seen.
#[test]
fn nothing_is_known_of_tenants_whose_docker_does_not_answer_and_operations_say_so() {
    let (mut bench, _, _) = running();
    let alfa: TenantName = name("alfa");
    let phase = |bench: &Bench| {
        let tenant = &bench.state.fleet.tenants[&alfa];
        views::phase(&bench.state, &bench.settings, tenant, bench.now)
    };
    assert_eq!(phase(&bench).0, views::Phase::Running);
    let away = HostCondition {
        docker_away: true,
        ..Default::default()
    };
    bench.apply(conditioned(away)).unwrap();
    let unknown = (
        views::Phase::Unknown,
        "Docker on h1 does not answer".to_owned(),
    );
    assert_eq!(phase(&bench), unknown);
    let restart = Command::RestartTenant {
        name: alfa.clone(),
        database: false,
        settings: false,
        request_id: None,
    };
    let operation = operation_of(bench.apply(restart).unwrap());
    let (state, error) = bench.progress(operation.id);
    assert_eq!(
        (state, error.as_str()),
        (OperationState::Retrying, "Docker on h1 does not answer")
    );
    assert_eq!(phase(&bench), unknown);
    bench.apply(conditioned(HostCondition::default())).unwrap();
    assert_eq!(bench.progress(operation.id).0, OperationState::Running);
    assert_eq!(phase(&bench).0, views::Phase::Updating);
}

#[test]
fn what_a_host_has_mended_is_told_once_each_time() {
    let (mut bench, _, _) = running();
    let mended = |at| HostCondition {
        mended: vec![Mended {
            subject: "packet filter".into(),
            at,
            message: "removed by nft, and in force again".into(),
        }],
        ..Default::default()
    };
    let told = |bench: &Bench| {
        let events = bench.state.fleet.events.iter();
        let mended = events.filter(|e| e.kind == crate::event::EventKind::HostMended);
        mended.map(|e| e.message.clone()).collect::<Vec<_>>()
    };
    for (at, times) in [(5, 1), (5, 1), (9, 2)] {
        bench.apply(conditioned(mended(at))).unwrap();
        assert_eq!(told(&bench).len(), times);
    }
    assert_eq!(
        told(&bench)[0],
        "packet filter: removed by nft, and in force again"
    );
    // The first word since the coordinator's start is no news.
    bench.state.observed = Default::default();
    bench.apply(conditioned(mended(11))).unwrap();
    assert_eq!(told(&bench).len(), 2);
}

/// Fails where a host's networks are only known from when it connected: somebody else's bridge gets a tenant.
#[test]
fn a_network_that_a_host_has_got_since_it_connected_is_no_tenants() {
    let (mut bench, _, alfa) = running();
    let taken = bench.state.fleet.tenants[&alfa].placement.subnet;
    let next = |n: u32| {
        let first = u32::from(taken.network()) + 16 * n;
        ipnet::Ipv4Net::new(first.into(), taken.prefix_len()).unwrap()
    };
    let condition = HostCondition {
        networks: Some(vec![next(1), next(2)]),
        ..Default::default()
    };
    bench.apply(conditioned(condition)).unwrap();
    bench.create("beta", "small").unwrap();
    let beta: TenantName = name("beta");
    assert_eq!(bench.state.fleet.tenants[&beta].placement.subnet, next(3));
    // Gone again; whoever says nothing of them changes nothing.
    for networks in [Some(vec![]), None] {
        let condition = HostCondition {
            networks,
            ..Default::default()
        };
        bench.apply(conditioned(condition)).unwrap();
        let seen = &bench.state.observed.hosts[&name::<HostName>("h1")];
        assert!(seen.hello.networks.is_empty());
    }
}

/// Fails where a restart takes a tenant that serves down until there is room.
#[test]
fn on_a_full_disk_tenants_say_so_and_none_is_restarted() {
    let (mut bench, _, alfa) = running();
    let full = HostCondition {
        full: "the disk of tenants' data is full: some 16 MiB of 4096 MiB are free at /d".into(),
        ..Default::default()
    };
    bench.apply(conditioned(full)).unwrap();
    let phase = |bench: &Bench| {
        let tenant = &bench.state.fleet.tenants[&alfa];
        views::phase(&bench.state, &bench.settings, tenant, bench.now)
    };
    let (now, message) = phase(&bench);
    assert_eq!(now, views::Phase::Running);
    assert!(message.starts_with("on host h1, the disk of"), "{message}");
    let restart = || Command::RestartTenant {
        name: alfa.clone(),
        database: false,
        settings: false,
        request_id: None,
    };
    let refused = bench.apply(restart()).unwrap_err();
    assert!(
        matches!(&refused, ChangeError::WrongState { problem, .. } if problem.contains("some 16 MiB")),
        "{refused}"
    );
    assert_eq!(bench.state.fleet.tenants[&alfa].odoo_restarts, 0);
    // Who does not run has nothing to lose, and room is made by stopping.
    let suspend = Command::SuspendTenant {
        name: alfa.clone(),
        request_id: None,
        cancel_running: false,
    };
    bench.apply(suspend).unwrap();
    bench.apply(conditioned(HostCondition::default())).unwrap();
    assert_eq!(phase(&bench).1, "");
}

//! Today's programs on data that the previous version left behind: nothing is lost, no database is filled again, and
//! operations in progress finish.

use std::{collections::BTreeMap, time::Duration};

use isyone_fleet::operation::OperationKind;
use isyone_proto::plan::DesiredState;
use isyone_tests::fleet::{Fleet, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// The key of each tenant's database, if there is one: another value means that it was filled again.
fn keys(fleet: &Fleet) -> BTreeMap<&'static str, Option<String>> {
    let of = |tenant| {
        let mut found = fleet
            .agents
            .iter()
            .filter_map(|agent| agent.docker.database_keys(tenant));
        (tenant, found.next())
    };
    ["alfa", "beta", "gama", "delta"].map(of).into()
}

#[test]
fn stored_data_of_the_version_before_goes_on_working() {
    let mut fleet = Fleet::stored("stored-2026-11-28");
    let before = keys(&fleet);
    assert!(before.values().all(Option::is_some), "{before:?}");
    fleet.coordinator.run();
    let stored = fleet.coordinator.snapshot();
    assert_eq!(stored.fleet.tenants.len(), 5);
    assert!(stored.fleet.events.len() > 5, "what happened is remembered");
    let created = &stored.fleet.tenants["eco"].operation;
    assert!(!stored.fleet.operations[created].state.is_final());

    for agent in &mut fleet.agents {
        agent.start();
    }
    fleet.all_report();
    for tenant in ["alfa", "delta", "eco"] {
        fleet.runs(tenant);
    }
    wait_for("all containers", SOON, || {
        let running = fleet.agents.iter().map(|a| a.docker.running().len());
        running.sum::<usize>() == 6
    });

    let state = fleet.coordinator.snapshot();
    assert_eq!(state.fleet.operations[created].kind, OperationKind::Create);
    assert!(state.fleet.operations[created].state.is_final());
    let desired = |tenant: &str| state.fleet.tenants[tenant].desired;
    assert_eq!(desired("beta"), DesiredState::Suspended);
    assert_eq!(desired("gama"), DesiredState::Quarantined);
    let primary = state.fleet.tenants["alfa"].primary.as_ref();
    assert_eq!(
        primary.map(ToString::to_string).as_deref(),
        Some("erp.customer.example")
    );
    assert_eq!(keys(&fleet), before, "no database was filled again");
    for agent in &fleet.agents {
        assert_eq!(agent.docker.violations(), Vec::<String>::new());
    }
}

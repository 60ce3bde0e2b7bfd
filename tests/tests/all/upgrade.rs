//! Today's programs on what the version before left behind: everything is read, nothing is lost or filled again, what was under way
//! ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use isyone_agent::{
    host::ledger::Ledger,
    plan::{
        pins::Pin,
        state::{Database, TenantState},
    },
};
use isyone_fleet::{
    operation::OperationKind,
    written::{self, Contents, RecordKind},
};
use isyone_proto::{operation::OperationState, plan::Lifecycle};
use isyone_tests::fleet::{Fleet, node::Agent, wait_for};

const SOON: Duration = Duration::from_secs(30);
const WITH_DATA: [&str; 4] = ["alfa", "beta", "gama", "delta"];

/// Keys of each tenant's database, where there is one: another value means that it was filled anew.
fn keys(fleet: &Fleet) -> BTreeMap<&'static str, Option<String>> {
    let of = |tenant| {
        let mut found = fleet
            .agents
            .iter()
            .filter_map(|agent| agent.docker.database_keys(tenant));
        (tenant, found.next())
    };
    WITH_DATA.map(of).into()
}

/// What the agents remember of each tenant. An agent goes on without a file that it cannot read, so the test reads them itself.
fn memories(fleet: &Fleet) -> BTreeMap<String, TenantState> {
    let mut found = BTreeMap::new();
    for agent in &fleet.agents {
        for entry in std::fs::read_dir(agent.data.tenants()).expect("the agent has tenants") {
            let directory = entry.expect("a directory").path();
            let text = std::fs::read(directory.join("state.json")).expect("a state");
            let name = directory.file_name().expect("a name").to_string_lossy();
            let state = serde_json::from_slice(&text).expect("a state of the version before");
            found.insert(name.into_owned(), state);
        }
    }
    found
}

fn ledgers_can_be_read(agents: &[Agent]) {
    for agent in agents {
        let (ledger, warning) = Ledger::open(&agent.data.ledger()).expect("the ledger opens");
        assert_eq!(warning, None);
        let plan = ledger.plan().expect("a plan is in it");
        assert!(plan.generation.number() > 0 && !plan.tenants.is_empty());
    }
}

fn nothing_was_put_aside(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("the agent's folder") {
        let name = entry.expect("a file").file_name();
        assert!(!name.to_string_lossy().contains("corrupt"), "{name:?}");
    }
}

/// Data of volumes that the version before made has moved into the tenants' homes: nothing ran on it.
fn data_is_at_home(fleet: &Fleet) {
    let engines = ["h1", "h2"].map(|host| fleet.dir.path().join(host).join("docker"));
    for tenant in WITH_DATA {
        let file = format!("isyone/tenants/{tenant}/pgdata/databases/odoo_{tenant}");
        let old = format!("volumes/pgdata_{tenant}/_data/PG_VERSION");
        assert!(engines.iter().any(|e| e.join(&file).exists()), "{tenant}");
        assert!(!engines.iter().any(|e| e.join(&old).exists()), "{tenant}");
    }
}

/// Each kind of record is read into the Fleet. Looked at before the coordinator runs: it forgets the join tokens, which ended an
/// hour after the fixture was made.
fn every_record_is_read(contents: Contents) {
    let kinds: BTreeSet<RecordKind> = contents.records.iter().map(|record| record.kind).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    let fleet = written::fleet(contents).expect("every record can be read");
    assert_eq!(fleet.tenants.len(), 5);
    assert_eq!((fleet.hosts.len(), fleet.operators.len()), (2, 1));
    assert!(!fleet.tokens.is_empty() && fleet.operations.len() > 5);
    assert_eq!(fleet.certificates.len(), 2);
    assert_eq!(fleet.certificate_troubles["beta.isy.one"].failures, 2);
    assert!(fleet.acme_account.is_some() && !fleet.plan_digest.is_empty());
    assert!(fleet.domain_troubles.contains_key("erp.customer.example"));
    let access = &fleet.tenants["delta"].access;
    assert_eq!((access.addresses.len(), access.users.len()), (1, 1));
    assert!(access.rate.is_some());
    assert!(fleet.events.len() > 5, "what happened is remembered");
}

#[test]
fn stored_data_of_the_version_before_goes_on_working() {
    let mut fleet = Fleet::stored("stored-2026-11-28");
    let before = (keys(&fleet), memories(&fleet));
    assert!(before.0.values().all(Option::is_some), "{before:?}");
    let is_ready = |state: &TenantState| matches!(state.database, Database::Ready { .. });
    assert!(before.1.values().all(is_ready));
    ledgers_can_be_read(&fleet.agents);
    every_record_is_read(fleet.coordinator.store.contents());
    fleet.coordinator.run();
    let stored = fleet.coordinator.snapshot();
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
    let operation = &state.fleet.operations[created];
    assert_eq!(
        (operation.kind, operation.state),
        (OperationKind::Create, OperationState::Succeeded)
    );
    let desired = |tenant: &str| state.fleet.tenants[tenant].desired;
    assert_eq!(desired("beta"), Lifecycle::Suspended);
    assert_eq!(desired("gama"), Lifecycle::Quarantined);
    let primary = state.fleet.tenants["alfa"].primary.as_ref();
    assert_eq!(
        primary.map(ToString::to_string).as_deref(),
        Some("erp.customer.example")
    );
    assert_eq!(keys(&fleet), before.0, "no database was filled again");
    data_is_at_home(&fleet);
    let after = memories(&fleet);
    for (tenant, was) in &before.1 {
        let is = &after[tenant];
        assert_eq!((is.uid, is.epoch), (was.uid, was.epoch), "{tenant}");
        // A new container adds the digest; which image it is stays.
        let image = |pin: &Option<Pin>| pin.clone().map(|pin| (pin.reference, pin.id));
        assert_eq!(image(&is.odoo_pin), image(&was.odoo_pin), "{tenant}");
        let (now, then) = (&is.postgres_pin, &was.postgres_pin);
        assert_eq!(image(now), image(then), "{tenant}");
        assert_eq!(is.master_hash, was.master_hash, "{tenant}");
        assert!(is.wanted_generation >= was.wanted_generation, "{tenant}");
    }
    for agent in &fleet.agents {
        assert_eq!(agent.docker.violations(), Vec::<String>::new());
        nothing_was_put_aside(agent.data.path());
    }
}

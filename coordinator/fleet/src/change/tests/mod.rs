//! What must hold of changes; the three traps are here by name.
//!
//! Not here: what holds after any sequence of commands (properties), and domains and sleep, which have tests of their
//! own.

mod backups;
mod clock;
mod conditions;
mod gone;
mod hopeless;
mod joining;
mod leases;
mod lifecycle;
mod live;
mod maintenance;
mod mends;
mod moves;
mod operations;
mod purge;
mod rebuilt;
mod reports;
mod requests;
mod returns;
mod standby;
mod standbys;
mod turns;
mod unfit;
mod upgrades;

use isyone_types::{
    identity::{CertificateInfo, Identity, OperatorRole},
    ids::{ShortName, TenantName},
    operation::OperationState,
    plan::Lifecycle,
    report::{HostResources, TenantProgress},
};

use super::*;
use crate::{
    desired::{Certificate, Refusal},
    testing::{Bench, name, resources},
    views,
    written::{Contents, Record, Records},
};

fn tenant_of(outcome: Outcome) -> std::sync::Arc<Tenant> {
    match outcome {
        Outcome::Tenant { tenant, .. } => tenant,
        other => panic!("{other:?}"),
    }
}

fn operation_of(outcome: Outcome) -> std::sync::Arc<Operation> {
    match outcome {
        Outcome::Operation(operation) => operation,
        other => panic!("{other:?}"),
    }
}

/// A bench with one host and one running tenant.
fn running() -> (Bench, HostName, TenantName) {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    let alfa: TenantName = name("alfa");
    bench.create("alfa", "small").unwrap();
    let report = bench.converged(&alfa);
    bench.report(&host, resources(8, 32, 100), vec![report]);
    (bench, host, alfa)
}

/// Everything written so far, loaded as after a restart, with nothing observed.
fn restart(bench: &Bench) -> State {
    let mut store = Records::default();
    store.apply(&bench.effects.writes);
    State::new(crate::written::fleet(store.contents()).unwrap(), bench.now)
}

#[test]
fn trap_a_restart_does_not_empty_the_routes() {
    let (bench, ..) = running();
    let before: Vec<_> = views::routes(&bench.state, &bench.settings).collect();
    assert_eq!(before.len(), 1);
    let restarted = restart(&bench);
    assert!(restarted.observed.tenants_seen() == 0);
    assert_eq!(
        views::routes(&restarted, &bench.settings).collect::<Vec<_>>(),
        before
    );
}

#[test]
fn trap_a_host_without_a_report_is_not_the_least_loaded() {
    let mut bench = Bench::default();
    bench.host(
        "h1",
        HostResources {
            memory_available_bytes: 10 << 30,
            ..resources(8, 32, 100)
        },
    );
    // h2 has joined but never reported.
    let h2 = bench.host("h2", resources(8, 32, 100));
    bench.state.observed.hosts.remove(&h2);
    let settings = bench.settings.clone();
    bench.state.refresh(&settings, &h2, 0);
    let tenant = tenant_of(bench.create("alfa", "small").unwrap());
    assert_eq!(tenant.placement.host.as_str(), "h1");
    bench.now = 30_000; // h1 is silent now, too
    let Err(ChangeError::NoHostFits { decision, .. }) = bench.create("beta", "small") else {
        panic!("placed on a silent host")
    };
    assert_eq!(decision.hosts.len(), 2);
    assert!(
        !bench
            .state
            .fleet
            .tenants
            .contains_key(&name::<TenantName>("beta"))
    );
}

#[test]
fn trap_a_repeated_create_succeeds_and_another_spec_is_refused() {
    let (mut bench, ..) = running();
    let first = bench.state.fleet.tenants[&name::<TenantName>("alfa")].clone();
    let Outcome::Tenant {
        tenant, existed, ..
    } = bench.create("alfa", "small").unwrap()
    else {
        panic!()
    };
    assert!(existed && tenant.placement == first.placement && tenant.uid == first.uid);
    let Err(ChangeError::TenantExists { changes, .. }) = bench.create("alfa", "large") else {
        panic!()
    };
    assert_eq!(spec_change::listed(&changes, ", "), "plan: small → large");
    let mut forced = bench.creation("alfa", "large");
    forced.force = true;
    let updated = tenant_of(
        bench
            .apply(Command::CreateTenant(Box::new(forced)))
            .unwrap(),
    );
    assert_eq!(
        (updated.generation, updated.size.workers, updated.uid),
        (2, 4, first.uid)
    );
}

#[test]
fn a_repeated_request_id_answers_the_same_operation_and_is_not_another_request() {
    let (mut bench, _, alfa) = running();
    let restart = |bench: &mut Bench| {
        let request_id = Some("r1".to_owned());
        bench.apply(Command::RestartTenant {
            name: name("alfa"),
            database: false,
            settings: false,
            request_id,
        })
    };
    let first = operation_of(restart(&mut bench).unwrap());
    assert_eq!(operation_of(restart(&mut bench).unwrap()).id, first.id);
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!((tenant.odoo_restarts, tenant.settings_asked), (1, 0));
    let other = Command::SuspendTenant {
        name: alfa,
        request_id: Some("r1".to_owned()),
        cancel_running: false,
    };
    assert_eq!(
        bench.apply(other).unwrap_err(),
        ChangeError::RequestIdReused(first.id)
    );
}

#[test]
fn no_host_fits_stores_nothing() {
    let mut bench = Bench::default();
    bench.host("h1", resources(1, 1, 100));
    let writes = bench.effects.writes.len();
    let Err(ChangeError::NoHostFits { decision, .. }) = bench.create("alfa", "large") else {
        panic!()
    };
    assert!(
        decision.hosts[0]
            .rejections
            .iter()
            .any(|r| r.to_string().starts_with("memory: needs 4096 MiB"))
    );
    assert_eq!(bench.effects.writes.len(), writes);
    assert!(bench.state.fleet.tenants.is_empty() && bench.state.fleet.operations.is_empty());
}

#[test]
fn ten_quick_creates_do_not_land_on_one_host() {
    let mut bench = Bench::default();
    for host in ["h1", "h2", "h3", "h4", "h5"] {
        bench.host(host, resources(8, 32, 100));
    }
    for i in 0..10 {
        bench.create(&format!("t{i}"), "standard").unwrap();
    }
    assert!(
        bench
            .state
            .fleet
            .by_host
            .values()
            .all(|index| index.tenants.len() == 2)
    );
}

#[test]
fn domains_are_unique_and_never_the_platforms() {
    let (mut bench, ..) = running();
    let mut first = bench.creation("beta", "small");
    first.spec.domains = vec![name("erp.example.com")];
    bench.apply(Command::CreateTenant(Box::new(first))).unwrap();
    for domain in ["erp.example.com", "alfa.isy.one", "isy.one", "x.y.isy.one"] {
        let mut second = bench.creation("gama", "small");
        second.spec.domains = vec![name(domain)];
        let refused = bench
            .apply(Command::CreateTenant(Box::new(second)))
            .unwrap_err();
        assert!(
            matches!(refused, ChangeError::DomainTaken { .. }),
            "{domain}"
        );
    }
    let mut fine = bench.creation("gama", "small");
    fine.spec.domains = vec![name("notisy.one")];
    bench.apply(Command::CreateTenant(Box::new(fine))).unwrap();
}

#[test]
fn what_is_stored_reads_back_as_it_was() {
    let (mut bench, ..) = running();
    bench
        .apply(Command::DeleteTenant {
            name: name("alfa"),
            purge: false,
            request_id: Some("r".to_owned()),
            cancel_running: false,
        })
        .unwrap();
    bench.create("beta", "large").unwrap();
    let loaded = restart(&bench).fleet;
    let now = &bench.state.fleet;
    assert_eq!(loaded.tenants, now.tenants);
    assert_eq!(loaded.hosts, now.hosts);
    assert_eq!(loaded.operations, now.operations);
    assert_eq!(loaded.tokens, now.tokens);
    assert_eq!(loaded.by_host, now.by_host);
    assert_eq!(loaded.by_request, now.by_request);
    assert_eq!(loaded.events, now.events);
}

#[test]
fn loaded_tenants_share_the_texts_that_they_have_in_common() {
    let (mut bench, ..) = running();
    bench.create("beta", "small").unwrap();
    let loaded = restart(&bench).fleet;
    let [alfa, beta] = ["alfa", "beta"].map(|name| &loaded.tenants[name]);
    let at = |text: &str| text.as_ptr();
    assert_eq!(
        at(alfa.spec.odoo_image.as_str()),
        at(beta.spec.odoo_image.as_str())
    );
    assert_eq!(
        at(alfa.placement.host.as_str()),
        at(beta.placement.host.as_str())
    );
}

#[test]
fn an_unreadable_record_stops_the_start() {
    let record = Record {
        kind: RecordKind::Tenant,
        id: "alfa".to_owned(),
        body: "{".to_owned(),
    };
    let contents = Contents {
        records: vec![record],
        ..Contents::default()
    };
    assert!(
        crate::written::fleet(contents)
            .unwrap_err()
            .to_string()
            .contains("tenant/alfa")
    );
}

#[test]
fn a_renewal_pushes_out_no_certificate_that_is_in_use_and_none_of_another_host() {
    let (mut bench, _, _) = running();
    bench.host("h2", resources(1, 1, 1));
    let others = bench.state.fleet.hosts["h1"].certificates.clone();
    let mut renew = |serial: &str, in_use: &[&str]| {
        let command = Command::RenewHost {
            host: name("h2"),
            certificate: Certificate {
                serial: serial.to_owned(),
                not_after: 1 << 40,
                sha256: String::new(),
                follows: None,
            },
            in_use: in_use.iter().map(|serial| (*serial).to_owned()).collect(),
            asked_with: None,
        };
        let renewed = bench.apply(command);
        let hosts = &bench.state.fleet.hosts;
        let known = hosts["h2"].certificates.iter();
        let known: Vec<String> = known.map(|c| c.serial.clone()).collect();
        assert_eq!(hosts["h1"].certificates, others);
        (renewed.map(drop), known)
    };
    renew("a1", &[]).0.unwrap();
    // Somebody with a stolen key renews and renews; the agent is connected with `a1`.
    for serial in ["b1", "b2", "b3", "b4", "b5", "b6"] {
        let (renewed, known) = renew(serial, &["a1"]);
        renewed.unwrap();
        assert!(
            known.contains(&"a1".to_owned()) && known.len() <= 4,
            "{known:?}"
        );
    }
    let (refused, known) = renew("b7", &["a1", "b4", "b5", "b6"]);
    assert_eq!(refused, Err(ChangeError::CertificatesInUse(name("h2"))));
    assert_eq!(known, ["a1", "b4", "b5", "b6"]);
}

#[test]
fn only_a_certificate_that_is_taken_back_makes_us_look_at_all_connections() {
    let (mut bench, _, _) = running();
    let certificate = |serial: &str| Certificate {
        serial: serial.to_owned(),
        not_after: 1 << 40,
        sha256: String::new(),
        follows: None,
    };
    let operator = Command::CreateOperator {
        name: name("ana"),
        role: OperatorRole::Viewer,
        certificate: certificate("0a"),
        again: true,
        asked_with: None,
    };
    bench.apply(operator).unwrap();
    bench.host("h2", resources(1, 1, 1));
    let mut withdrew = |command: Option<Command>| {
        let before = bench.state.fleet.clone();
        match command {
            Some(command) => drop(bench.apply(command).unwrap()),
            None => drop(bench.create("beta", "small").unwrap()),
        }
        assert!(
            !before.hosts.ptr_eq(&bench.state.fleet.hosts)
                || !before.operators.ptr_eq(&bench.state.fleet.operators)
        );
        bench.state.fleet.withdrew_since(&before)
    };
    let renewed = |serial| {
        Some(Command::RenewHost {
            host: name("h2"),
            certificate: certificate(serial),
            in_use: vec![],
            asked_with: None,
        })
    };
    assert!(!withdrew(None));
    assert!(!withdrew(Some(Command::CordonHost {
        host: name("h2"),
        cordoned: true
    })));
    for serial in ["02", "03", "04"] {
        assert!(!withdrew(renewed(serial)));
    }
    // The oldest certificate is dropped.
    assert!(withdrew(renewed("05")));
    assert!(withdrew(Some(Command::RevokeOperator {
        name: name("ana")
    })));
    assert!(withdrew(Some(Command::RemoveHost { host: name("h2") })));
}

/// A certificate, told apart by one byte.
fn record(n: u8) -> Certificate {
    Certificate {
        serial: format!("{n:02x}"),
        not_after: 1 << 40,
        sha256: hex::encode([n; 32]),
        follows: None,
    }
}

/// The same, as its holder shows it.
fn shown(identity: Identity, n: u8) -> CertificateInfo {
    CertificateInfo {
        identity,
        serial: vec![n],
        not_before: 0,
        not_after: 1 << 40,
        serves: false,
        sha256: [n; 32],
    }
}

/// Between the moment when a caller is let in and the moment when its command is carried out its certificate may be
/// replaced: nothing that is asked for with it may outlast it.
#[test]
fn what_is_asked_for_with_a_certificate_that_was_replaced_is_refused() {
    let (mut bench, _, _) = running();
    bench.host("h2", resources(1, 1, 1));
    let (ana, role) = (name::<ShortName>("ana"), OperatorRole::Admin);
    let create = |n, asked_with| Command::CreateOperator {
        name: ana.clone(),
        role,
        certificate: record(n),
        again: false,
        asked_with,
    };
    let asks = |n| Some(Box::new(shown(Identity::Operator(name("ana"), role), n)));
    let renew = |n, asked_with| {
        Command::RenewOperator(Box::new(RenewOperator {
            name: ana.clone(),
            role,
            certificate: record(n),
            asked_with,
        }))
    };
    let token = |asked_with| Command::CreateToken {
        token: Box::default(),
        asked_with,
    };
    let host = |n, with| Command::RenewHost {
        host: name("h2"),
        certificate: record(n),
        in_use: vec![],
        asked_with: Some(Box::new(shown(Identity::Agent(name("h2")), with))),
    };
    bench.apply(create(1, None)).unwrap();
    bench.apply(create(2, asks(1))).unwrap();
    let follows = &bench.state.fleet.operators["ana"].certificates[1].follows;
    assert_eq!(*follows, Some(hex::encode([1; 32])));
    bench.apply(token(asks(1))).unwrap();
    bench.apply(host(9, 1)).unwrap();
    // An admin replaces all that ana has; another host has joined in the place of h2.
    bench.apply(renew(3, None)).unwrap();
    let mut joined = (*bench.state.fleet.hosts["h2"]).clone();
    joined.certificates = vec![record(8)];
    let h2 = name("h2");
    bench.state.fleet.hosts.insert(h2, Arc::new(joined));
    let (known, hosts) = (
        bench.state.fleet.operators.clone(),
        bench.state.fleet.hosts.clone(),
    );
    for late in [
        create(4, asks(1)),
        renew(4, asks(2)),
        token(asks(1)),
        host(7, 9),
    ] {
        let word = late.word();
        let refused = bench.apply(late).map(drop);
        assert_eq!(
            refused,
            Err(ChangeError::CallerRefused(Refusal::Revoked)),
            "{word}"
        );
    }
    assert_eq!(
        (&known, &hosts),
        (&bench.state.fleet.operators, &bench.state.fleet.hosts)
    );
    bench.apply(renew(4, asks(3))).unwrap();
    bench.apply(host(7, 8)).unwrap();
}

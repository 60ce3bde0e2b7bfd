//! How commands change tenants' domains.
//!
//! Not here: what DNS says of a domain (the crate's domains/tests).

mod troubles;

use isyone_types::plan::TenantSecrets;

use super::*;
use crate::{
    change::Command,
    testing::{Bench, name, resources},
    views,
};

/// Running tenants `alfa` and `beta`.
fn running() -> Bench {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    for tenant in ["alfa", "beta"] {
        bench.create(tenant, "small").unwrap();
        let report = bench.converged(&name(tenant));
        bench.report(&host, resources(8, 32, 100), vec![report]);
    }
    bench
}

fn adding(tenant: &str, domains: &[&str], primary: bool) -> AddDomains {
    let domains = domains.iter().map(|d| name(d)).collect();
    AddDomains {
        name: name(tenant),
        domains,
        primary,
        checked: true,
        request_id: None,
    }
}

fn add(
    bench: &mut Bench,
    tenant: &str,
    domains: &[&str],
    primary: bool,
) -> Result<Outcome, ChangeError> {
    bench.apply(Command::AddDomains(Box::new(adding(
        tenant, domains, primary,
    ))))
}

fn remove(bench: &mut Bench, tenant: &str, domain: &str) -> Result<Outcome, ChangeError> {
    bench.apply(Command::RemoveDomain {
        name: name(tenant),
        domain: name(domain),
        request_id: None,
    })
}

fn operation(outcome: Outcome) -> Option<OperationKind> {
    let Outcome::Domains { operation, .. } = outcome else {
        panic!("{outcome:?}")
    };
    operation.map(|operation| operation.kind)
}

fn tenant(bench: &Bench) -> Arc<Tenant> {
    bench.state.fleet.tenants[&name::<TenantName>("alfa")].clone()
}

fn plan(bench: &Bench) -> isyone_types::plan::HostPlan {
    let open = |_: &Tenant| {
        let secret = || isyone_types::plan::Secret::new(String::new());
        Ok::<_, ()>(TenantSecrets {
            database_password: secret(),
            admin_password: secret(),
            master_password: secret(),
            mail_password: secret(),
        })
    };
    views::host_plan(
        &bench.state,
        &bench.settings,
        &name("h1"),
        open,
        |_| Err(()),
    )
    .unwrap()
    .unwrap()
}

fn primary(bench: &Bench) -> Option<String> {
    views::route(&bench.state, &bench.settings, &tenant(bench))
        .unwrap()
        .primary
}

fn kinds(bench: &Bench) -> Vec<&str> {
    bench
        .state
        .fleet
        .events
        .iter()
        .map(|e| e.kind.as_str())
        .filter(|k| k.starts_with("domain."))
        .collect()
}

fn unreachable(bench: &mut Bench, tenant: &str, domain: &str) {
    let trouble = DomainTrouble {
        domain: name(domain),
        tenant: name(tenant),
        since: 7,
        unasked: false,
        found: "A 203.0.113.9".to_owned(),
    };
    bench
        .apply(Command::DomainUnreachable(Box::new(trouble)))
        .unwrap();
}

#[test]
fn a_domain_changes_routes_and_leaves_the_host_alone() {
    let mut bench = running();
    let (before, generation) = (plan(&bench), tenant(&bench).generation);
    bench.effects.touched_hosts.clear();
    assert_eq!(
        operation(
            add(
                &mut bench,
                "alfa",
                &["customer.com", "www.customer.com"],
                false
            )
            .unwrap()
        ),
        None
    );
    let names = views::route(&bench.state, &bench.settings, &tenant(&bench))
        .unwrap()
        .hostnames;
    assert_eq!(names, ["alfa.isy.one", "customer.com", "www.customer.com"]);
    assert_eq!(
        operation(remove(&mut bench, "alfa", "www.customer.com").unwrap()),
        None
    );
    assert_eq!(
        (plan(&bench), tenant(&bench).generation),
        (before, generation)
    );
    assert!(bench.effects.touched_hosts.is_empty());
    assert_eq!(
        kinds(&bench),
        ["domain.added", "domain.added", "domain.removed"]
    );
    assert_eq!(tenant(&bench).spec.domains, [name("customer.com")]);
}

#[test]
fn another_primary_is_an_operation_that_ends_when_the_host_has_it() {
    let mut bench = running();
    let generation = tenant(&bench).generation;
    let update = Some(OperationKind::Update);
    assert_eq!(
        operation(add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap()),
        update
    );
    assert_eq!(tenant(&bench).generation, generation + 1);
    assert_eq!(plan(&bench).tenants[0].base_url, "http://erp.customer.com");
    assert_eq!(primary(&bench).as_deref(), Some("erp.customer.com"));
    let under_way = tenant(&bench).operation;
    assert!(!bench.state.fleet.operations[&under_way].state.is_final());
    let report = bench.converged(&name("alfa"));
    bench.report(&name("h1"), resources(8, 32, 100), vec![report]);
    assert_eq!(
        bench.state.fleet.operations[&under_way].stage().word(),
        "route"
    );
    bench.edges_run();
    assert!(bench.state.fleet.operations[&under_way].state.is_final());
    // A repeated request changes nothing.
    let writes = bench.effects.writes.len();
    assert_eq!(
        operation(add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap()),
        None
    );
    assert_eq!(
        operation(add(&mut bench, "alfa", &["erp.customer.com"], false).unwrap()),
        None
    );
    assert_eq!(bench.effects.writes.len(), writes);
    // Back to the platform name.
    assert_eq!(
        operation(remove(&mut bench, "alfa", "erp.customer.com").unwrap()),
        update
    );
    assert_eq!(plan(&bench).tenants[0].base_url, "http://alfa.isy.one");
    assert_eq!(primary(&bench), None);
}

#[test]
fn the_platforms_name_is_primary_again_without_a_domains_removal() {
    let mut bench = running();
    add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap();
    bench.settle();
    let update = Some(OperationKind::Update);
    assert_eq!(
        operation(add(&mut bench, "alfa", &[], true).unwrap()),
        update
    );
    assert_eq!(
        (tenant(&bench).primary.clone(), primary(&bench)),
        (None, None)
    );
    assert_eq!(tenant(&bench).spec.domains, [name("erp.customer.com")]);
    assert_eq!(plan(&bench).tenants[0].base_url, "http://alfa.isy.one");
    assert_eq!(
        bench.state.fleet.events.last().unwrap().message,
        "alfa.isy.one"
    );
    // A repeated request changes nothing.
    let writes = bench.effects.writes.len();
    assert_eq!(operation(add(&mut bench, "alfa", &[], true).unwrap()), None);
    assert_eq!(bench.effects.writes.len(), writes);
    bench.settle();
    // A primary that leads elsewhere is replaced, too.
    add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap();
    bench.settle();
    unreachable(&mut bench, "alfa", "erp.customer.com");
    add(&mut bench, "alfa", &[], true).unwrap();
    assert_eq!(plan(&bench).tenants[0].base_url, "http://alfa.isy.one");
}

#[test]
fn a_repeated_request_answers_its_operation() {
    let mut bench = running();
    let mut asked = adding("alfa", &["erp.customer.com"], true);
    asked.request_id = Some("r1".to_owned());
    let Outcome::Domains {
        operation: first, ..
    } = bench
        .apply(Command::AddDomains(Box::new(asked.clone())))
        .unwrap()
    else {
        panic!()
    };
    let Outcome::Domains {
        operation: second, ..
    } = bench.apply(Command::AddDomains(Box::new(asked))).unwrap()
    else {
        panic!()
    };
    assert_eq!(first.unwrap().id, second.unwrap().id);
}

#[test]
fn a_removal_is_remembered_when_it_is_an_operation_and_is_not_found_again_otherwise() {
    let mut bench = running();
    add(&mut bench, "alfa", &["a.example", "b.example"], true).unwrap();
    bench.settle();
    let remove = |bench: &mut Bench, domain: &str| {
        let request_id = Some(format!("removal of {domain}"));
        bench.apply(Command::RemoveDomain {
            name: name("alfa"),
            domain: name(domain),
            request_id,
        })
    };
    let id = |outcome: Outcome| {
        let Outcome::Domains { operation, .. } = outcome else {
            panic!("{outcome:?}")
        };
        operation.map(|operation| operation.id)
    };
    let first = id(remove(&mut bench, "a.example").unwrap());
    assert!(first.is_some());
    assert_eq!(id(remove(&mut bench, "a.example").unwrap()), first);
    assert_eq!(id(remove(&mut bench, "b.example").unwrap()), None);
    assert!(matches!(
        remove(&mut bench, "b.example"),
        Err(ChangeError::DomainNotFound { .. })
    ));
}

#[test]
fn what_is_refused() {
    let mut bench = running();
    add(&mut bench, "beta", &["erp.customer.com"], false).unwrap();
    let refused = |outcome: Result<Outcome, ChangeError>| outcome.unwrap_err();
    for taken in [
        "erp.customer.com",
        "isy.one",
        "x.isy.one",
        "edge.isyone.invalid",
        "h1.host.isyone.internal",
    ] {
        let error = refused(add(&mut bench, "alfa", &[taken], false));
        assert!(matches!(error, ChangeError::DomainTaken { .. }), "{error}");
    }
    bench.settings.dashboard_hostname = Some("ops.example.net".to_owned());
    let error = refused(add(&mut bench, "alfa", &["ops.example.net"], false)).to_string();
    assert!(
        error.contains("Traefik's dashboard ([edge.dashboard] hostname)"),
        "{error}"
    );
    let mut creation = bench.creation("gama", "small");
    creation.spec.domains = vec![name("ops.example.net")];
    let created = bench.apply(Command::CreateTenant(Box::new(creation)));
    assert!(matches!(refused(created), ChangeError::DomainTaken { .. }));
    assert!(matches!(
        refused(remove(&mut bench, "alfa", "erp.customer.com")),
        ChangeError::DomainNotFound { .. }
    ));
    assert!(matches!(
        refused(add(&mut bench, "nobody", &["a.example"], false)),
        ChangeError::TenantNotFound(_)
    ));
    let many: Vec<String> = (0..=MAX_DOMAINS).map(|n| format!("d{n}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        refused(add(&mut bench, "alfa", &many, false)),
        ChangeError::TooManyDomains(name("alfa"))
    );
    add(&mut bench, "alfa", &many[1..], false).unwrap();
    bench
        .apply(Command::DeleteTenant {
            name: name("alfa"),
            purge: false,
            request_id: None,
            cancel_running: false,
        })
        .unwrap();
    assert!(matches!(
        refused(add(&mut bench, "alfa", &["a.example"], false)),
        ChangeError::Quarantined { .. }
    ));
}

#[test]
fn a_tenant_that_had_the_dashboards_name_first_is_told_of_and_goes_on() {
    let mut bench = running();
    add(&mut bench, "alfa", &["ops.example.net"], false).unwrap();
    assert_eq!(
        views::in_the_dashboards_place(&bench.state, &bench.settings),
        None
    );
    bench.settings.dashboard_hostname = Some("ops.example.net".to_owned());
    let alfa = name("alfa");
    assert_eq!(
        views::in_the_dashboards_place(&bench.state, &bench.settings),
        Some(("ops.example.net", &alfa))
    );
    add(&mut bench, "alfa", &["erp.customer.com"], false).unwrap();
}

#[test]
fn a_new_spec_keeps_the_primary_only_if_it_is_among_its_domains() {
    let mut bench = running();
    add(&mut bench, "alfa", &["a.example", "b.example"], true).unwrap();
    unreachable(&mut bench, "alfa", "b.example");
    bench.settle();
    let force = |bench: &mut Bench, domains: &[&str]| {
        let mut creation = bench.creation("alfa", "small");
        creation.spec.domains = domains.iter().map(|d| name(d)).collect();
        creation.force = true;
        bench
            .apply(Command::CreateTenant(Box::new(creation)))
            .unwrap();
    };
    force(&mut bench, &["c.example", "a.example"]);
    bench.settle();
    assert_eq!(tenant(&bench).primary, Some(name("a.example")));
    assert!(
        bench.state.fleet.domain_troubles.is_empty(),
        "of a domain that is not its any more"
    );
    force(&mut bench, &["c.example"]);
    assert_eq!(tenant(&bench).primary, None);
}

#[test]
fn a_repeated_create_leaves_domains_as_they_are() {
    let mut bench = running();
    add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap();
    let existed = matches!(
        bench.create("alfa", "small").unwrap(),
        Outcome::Tenant { existed: true, .. }
    );
    assert!(existed && tenant(&bench).primary.is_some());
    bench.settle();
    let mut larger = bench.creation("alfa", "standard");
    larger.force = true;
    bench
        .apply(Command::CreateTenant(Box::new(larger)))
        .unwrap();
    assert_eq!(tenant(&bench).spec.domains, [name("erp.customer.com")]);
    assert_eq!(primary(&bench).as_deref(), Some("erp.customer.com"));
}

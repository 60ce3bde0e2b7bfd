//! What an idempotency key stands for, and what is said of a create whose spec differs.

use super::{
    operations::{resize, settled, start, suspend},
    rebuilt::{delete, undelete},
    *,
};

fn keyed(create: CreateTenant) -> Command {
    Command::CreateTenant(Box::new(CreateTenant {
        request_id: Some("r1".to_owned()),
        ..create
    }))
}

fn begun_by(outcome: Outcome) -> Uuid {
    match outcome {
        Outcome::Operation(operation) => operation.id,
        Outcome::Domains { operation, .. } => operation.unwrap().id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_id_stands_for_one_request_with_all_its_parameters() {
    let fresh = || {
        let (mut bench, ..) = running();
        bench.edges_run();
        bench.host("h2", resources(8, 32, 100));
        bench
    };
    let (alfa, key) = (|| name::<TenantName>("alfa"), || Some("r1".to_owned()));
    let restart = |database, settings| Command::RestartTenant {
        name: alfa(),
        database,
        settings,
        request_id: key(),
    };
    let resize = |plan: &str| Command::ResizeTenant {
        name: alfa(),
        plan: name(plan),
        request_id: key(),
    };
    let upgrade = |odoo: Option<&str>| Command::UpgradeTenant {
        name: alfa(),
        odoo: odoo.map(name),
        postgres: None,
        request_id: key(),
    };
    let delete = |purge| Command::DeleteTenant {
        name: alfa(),
        purge,
        request_id: key(),
        cancel_running: false,
    };
    let relocate = |to: &str| Command::MoveTenant {
        name: alfa(),
        to: Whither::Host(name(to)),
        max_pause_ms: None,
        request_id: key(),
    };
    let domain = |domain: &str, primary| {
        Command::AddDomains(Box::new(AddDomains {
            name: alfa(),
            domains: vec![name(domain)],
            primary,
            checked: false,
            request_id: key(),
        }))
    };
    let suspend = |cancel_running| Command::SuspendTenant {
        name: alfa(),
        request_id: key(),
        cancel_running,
    };
    let cases = [
        (restart(false, false), restart(true, false)),
        (restart(false, false), restart(false, true)),
        (resize("large"), resize("small")),
        (upgrade(None), upgrade(Some("odoo:18.0"))),
        (delete(false), delete(true)),
        (relocate("h2"), relocate("h1")),
        (suspend(false), suspend(true)),
        (domain("a.example.com", true), domain("b.example.com", true)),
    ];
    for (first, second) in cases {
        let mut bench = fresh();
        let begun = begun_by(bench.apply(first.clone()).unwrap());
        let again = begun_by(bench.apply(first.clone()).unwrap());
        assert_eq!(again, begun, "{first:?}");
        let refused = bench.apply(second.clone()).unwrap_err();
        assert_eq!(refused, ChangeError::RequestIdReused(begun), "{second:?}");
    }
}

#[test]
fn a_create_with_the_same_request_id_and_another_spec_is_refused() {
    let mut bench = Bench::default();
    bench.host("h1", resources(8, 32, 100));
    let (small, again) = (
        bench.creation("alfa", "small"),
        bench.creation("alfa", "small"),
    );
    let large = bench.creation("alfa", "large");
    let first = tenant_of(bench.apply(keyed(small)).unwrap());
    let second = tenant_of(bench.apply(keyed(again)).unwrap());
    assert_eq!(first.uid, second.uid);
    let refused = bench.apply(keyed(large.clone())).unwrap_err();
    assert_eq!(refused, ChangeError::RequestIdReused(first.operation));
    // A record of a version before says nothing of its parameters, and is found as it was.
    let mut older = (*bench.state.fleet.operations[&first.operation]).clone();
    older.request_digest = None;
    bench.state.fleet.put_operation(older.into());
    assert_eq!(tenant_of(bench.apply(keyed(large)).unwrap()).uid, first.uid);
}

#[test]
fn who_is_not_at_work_says_so_and_what_to_do_next() {
    let (mut bench, ..) = running();
    bench.host("h2", resources(8, 32, 100));
    bench.edges_run();
    let alfa = || name::<TenantName>("alfa");
    let said = |bench: &Bench| {
        let tenant = bench.state.fleet.tenants[&alfa()].clone();
        views::not_at_work(&bench.state, &tenant).unwrap_or_default()
    };
    assert_eq!(said(&bench), "");
    bench
        .apply(Command::MoveTenant {
            name: alfa(),
            to: Whither::Host(name("h2")),
            max_pause_ms: None,
            request_id: None,
        })
        .unwrap();
    bench.settle();
    let text = said(&bench);
    assert!(
        text.starts_with("is stopped for its move (stage `stop`); `isyctl op watch"),
        "{text}"
    );
    let (mut bench, ..) = running();
    bench.edges_run();
    let suspend = Command::SuspendTenant {
        name: alfa(),
        request_id: None,
        cancel_running: false,
    };
    bench.apply(suspend).unwrap();
    bench.settle();
    assert!(said(&bench).contains("`isyctl tenant resume alfa` starts it"));
    let mut sleeping = (*bench.state.fleet.tenants[&alfa()]).clone();
    sleeping.asleep_since = Some(1);
    bench.state.fleet.put_tenant(sleeping.into());
    assert!(said(&bench).starts_with("is asleep;"));
    let delete = Command::DeleteTenant {
        name: alfa(),
        purge: false,
        request_id: None,
        cancel_running: false,
    };
    bench.apply(delete).unwrap();
    assert!(said(&bench).contains("`isyctl tenant undelete alfa`"));
}

/// Its host takes a snapshot of that database, which later tenants get with whatever was done in it.
#[test]
fn no_command_runs_in_a_tenant_whose_database_is_in_the_making() {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    bench.create("alfa", "small").unwrap();
    let alfa: TenantName = name("alfa");
    let said = |bench: &Bench| {
        let tenant = bench.state.fleet.tenants[&alfa].clone();
        views::not_at_work(&bench.state, &tenant).unwrap_or_default()
    };
    let refused = "is being created, and no command runs in it until its database is filled; \
                   `isyctl tenant show alfa` says how far it is";
    assert_eq!(said(&bench), refused, "nothing is known of it");
    let mut report = bench.converged(&alfa);
    report.progress = TenantProgress::Working;
    for (state, enters) in [
        (OperationState::Pending, false),
        (OperationState::Running, false),
        (OperationState::Retrying, false),
        (OperationState::Succeeded, true),
        (OperationState::Running, false),
        (OperationState::Skipped, true),
    ] {
        report.steps = [isyone_types::operation::Step {
            name: "database".to_owned(),
            state,
            started_at: None,
            ended_at: None,
            detail: String::new(),
            progress_percent: 0,
        }]
        .into();
        bench.report(&host, resources(8, 32, 100), vec![report.clone()]);
        let wanted = if enters { "" } else { refused };
        assert_eq!(said(&bench), wanted, "{state:?}");
    }
    let report = bench.converged(&alfa);
    bench.report(&host, resources(8, 32, 100), vec![report]);
    assert_eq!(said(&bench), "");
}

#[test]
fn what_can_be_changed_and_what_cannot_is_said_at_once() {
    let (mut bench, ..) = running();
    let mut other = bench.creation("alfa", "large");
    other.spec.language = name("pt_BR");
    other.spec.time_zone = name("America/Sao_Paulo");
    let mut only_fixed = other.clone();
    only_fixed.spec.plan = name("small");
    let mut forced = other.clone();
    forced.force = true;
    let said = |bench: &mut Bench, create: CreateTenant| {
        let refused = bench.apply(Command::CreateTenant(Box::new(create)));
        refused.unwrap_err().to_string()
    };
    let never = "--lang, --tz cannot be changed after the creation, not even with --force";
    let text = said(&mut bench, other);
    assert!(
        text.ends_with(&format!(
            "; --force applies --plan, the data is kept; {never}"
        )),
        "{text}"
    );
    let text = said(&mut bench, only_fixed);
    assert!(text.ends_with(&format!("); {never}")), "{text}");
    let text = said(&mut bench, forced);
    assert_eq!(text, format!("tenant `alfa`: {never}"));
}

fn keyed_suspend() -> Command {
    Command::SuspendTenant {
        name: name("alfa"),
        request_id: Some("r1".to_owned()),
        cancel_running: false,
    }
}

fn resume() -> Command {
    Command::ResumeTenant {
        name: name("alfa"),
        request_id: None,
    }
}

/// docs/contracts.md: "A `request_id` stands for one request", also for one that had nothing to begin.
#[test]
fn a_late_repetition_of_a_suspend_that_was_answered_does_nothing() {
    let (mut bench, _, alfa) = settled();
    start(&mut bench, suspend(&alfa, false));
    bench.settle();
    let first = start(&mut bench, keyed_suspend()); // it is so already; this answer is lost on its way
    bench.state = super::restart(&bench); // the key is stored
    bench.greet(&name("h1"));
    start(&mut bench, resume()); // a colleague
    let report = bench.converged(&alfa);
    bench.report(&name("h1"), resources(8, 32, 100), vec![report]);
    let again = bench.apply(keyed_suspend()).map(operation_of);
    assert_eq!(
        bench.state.fleet.tenants[&alfa].desired,
        Lifecycle::Running,
        "{again:?}"
    );
    assert_eq!(again.unwrap().id, first);
    // The same key for something else is another request, whatever it was answered with.
    let other = Command::SuspendTenant {
        name: alfa,
        request_id: Some("r1".to_owned()),
        cancel_running: true,
    };
    assert!(matches!(
        bench.apply(other),
        Err(ChangeError::RequestIdReused(_))
    ));
}

/// The tenant that a colleague has brought back would be in quarantine again.
#[test]
fn a_late_repetition_of_a_delete_that_was_answered_does_nothing() {
    let (mut bench, _, alfa) = settled();
    start(&mut bench, delete(false));
    bench.settle();
    let keyed = Command::DeleteTenant {
        name: alfa.clone(),
        purge: false,
        request_id: Some("r1".to_owned()),
        cancel_running: false,
    };
    start(&mut bench, keyed.clone());
    start(&mut bench, undelete());
    bench.settle();
    let again = bench.apply(keyed);
    assert_eq!(
        bench.state.fleet.tenants[&alfa].desired,
        Lifecycle::Running,
        "{again:?}"
    );
}

#[test]
fn a_late_repetition_of_a_resize_or_a_create_that_was_answered_does_nothing() {
    let (mut bench, _, alfa) = settled();
    let size = |plan: &str| Command::ResizeTenant {
        name: name("alfa"),
        plan: name(plan),
        request_id: Some("r1".to_owned()),
    };
    start(&mut bench, size("small"));
    let mut create = bench.creation("alfa", "small");
    (create.request_id, create.force) = (Some("r2".to_owned()), true);
    let create = Command::CreateTenant(Box::new(create));
    bench.apply(create.clone()).unwrap();
    start(&mut bench, resize(&alfa, "standard"));
    bench.settle();
    start(&mut bench, size("small"));
    bench.apply(create).unwrap();
    assert_eq!(bench.state.fleet.tenants[&alfa].spec.plan, name("standard"));
}

#[test]
fn an_operation_remembers_a_bounded_number_of_requests_that_it_answered() {
    use crate::operation::MAX_ANSWERED;
    let (mut bench, _, alfa) = settled();
    let id = start(&mut bench, suspend(&alfa, false));
    bench.settle();
    for n in 0..=MAX_ANSWERED {
        let again = Command::SuspendTenant {
            name: alfa.clone(),
            request_id: Some(format!("k{n}")),
            cancel_running: false,
        };
        assert_eq!(start(&mut bench, again), id);
    }
    let fleet = &bench.state.fleet;
    assert_eq!(fleet.operations[&id].answered.len(), MAX_ANSWERED);
    assert!(!fleet.by_request.contains_key("k0"));
    assert_eq!(fleet.by_request.get("k1"), Some(&id));
    let loaded = super::restart(&bench).fleet;
    assert_eq!(loaded.by_request, fleet.by_request);
}

//! Upgrades: which images a tenant gets, what is refused, and what is taken back when its host cannot have them.
//!
//! Not here: how a host finds out what a reference means (the agents), and who may name an image (the coordinator).

use isyone_types::{
    plan::{ImagesAsked, UnixMs},
    report::{Stuck, TenantProgress, TenantReport},
    spec::ImageRef,
};

use super::{
    operations::{ended, restart_order, settled, start, suspend, word},
    *,
};
use crate::settings::Edition;

fn upgrade(alfa: &TenantName, odoo: Option<&str>, postgres: Option<&str>) -> Command {
    Command::UpgradeTenant {
        name: alfa.clone(),
        odoo: odoo.map(name),
        postgres: postgres.map(name),
        request_id: None,
    }
}

/// Its images, and when they were asked for.
fn images(bench: &Bench, alfa: &TenantName) -> (String, String, ImagesAsked) {
    let tenant = &bench.state.fleet.tenants[alfa];
    let text = |image: &ImageRef| image.to_string();
    (
        text(&tenant.spec.odoo_image),
        text(&tenant.spec.postgres_image),
        tenant.images_asked,
    )
}

fn asked(odoo: UnixMs, postgres: UnixMs) -> ImagesAsked {
    ImagesAsked { odoo, postgres }
}

fn edition(bench: &mut Bench, edition: &str, odoo: &str, postgres: &str) {
    let images = Edition {
        odoo: name(odoo),
        postgres: name(postgres),
    };
    bench.settings.editions.insert(name(edition), images);
}

fn failing(bench: &Bench, alfa: &TenantName, why: &str) -> TenantReport {
    TenantReport {
        progress: TenantProgress::Failing,
        message: why.into(),
        ..bench.converged(alfa)
    }
}

fn report(bench: &mut Bench, host: &HostName, report: TenantReport) {
    bench.report(host, resources(8, 32, 100), vec![report]);
}

#[test]
fn without_images_both_are_the_editions_of_today_and_asked_for_anew_each_time() {
    let (mut bench, _, alfa) = settled();
    bench.now += 7;
    let at = bench.now;
    let id = start(&mut bench, upgrade(&alfa, None, None));
    let now = (
        "odoo:18.0".to_owned(),
        "postgres:15".to_owned(),
        asked(at, at),
    );
    assert_eq!(images(&bench, &alfa), now, "a tag may have moved");
    assert_eq!(word(&bench, id), "host");
    bench.settle();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    let again = start(&mut bench, upgrade(&alfa, None, None));
    assert_ne!(again, id);
    let (.., later) = images(&bench, &alfa);
    assert_eq!(
        later,
        asked(at + 1, at + 1),
        "at the same moment, and yet another time"
    );
    bench.settle();
    edition(&mut bench, "18.0", "odoo:18.0-1", "postgres:15");
    start(&mut bench, upgrade(&alfa, None, None));
    assert_eq!(images(&bench, &alfa).0, "odoo:18.0-1");
    let told = bench.state.fleet.events.iter();
    let told: Vec<&str> = told
        .filter(|e| e.kind == EventKind::TenantUpgraded)
        .map(|e| e.message.as_str())
        .collect();
    let last = "odoo:18.0 → odoo:18.0-1, postgres:15, looked up anew";
    assert_eq!(told.last(), Some(&last), "{told:?}");
}

#[test]
fn what_is_not_named_beside_an_image_stays_as_it_is() {
    let (mut bench, _, alfa) = settled();
    bench.now += 7;
    let at = bench.now;
    start(
        &mut bench,
        upgrade(&alfa, Some("r.example/odoo:18.0"), None),
    );
    let (odoo, postgres, times) = images(&bench, &alfa);
    assert_eq!(
        (odoo.as_str(), postgres.as_str()),
        ("r.example/odoo:18.0", "postgres:15")
    );
    assert_eq!(times, asked(at, 0));
    bench.settle();
    bench.now += 5;
    start(&mut bench, upgrade(&alfa, None, Some("postgres:15.9")));
    let (odoo, postgres, times) = images(&bench, &alfa);
    assert_eq!(
        (odoo.as_str(), postgres.as_str()),
        ("r.example/odoo:18.0", "postgres:15.9")
    );
    assert_eq!(times, asked(at, at + 5));
}

#[test]
fn another_edition_is_refused_and_so_is_one_that_is_gone() {
    let (mut bench, _, alfa) = settled();
    edition(&mut bench, "19.0", "odoo:19.0", "postgres:15");
    edition(&mut bench, "18.0-copy", "odoo:18.0", "postgres:15");
    let before = images(&bench, &alfa);
    let refused = bench.apply(upgrade(&alfa, Some("odoo:19.0"), None));
    let said = refused.unwrap_err().to_string();
    assert!(
        said.starts_with("tenant `alfa` is of edition `18.0`, and `odoo:19.0` is edition `19.0`'s"),
        "{said}"
    );
    assert_eq!(images(&bench, &alfa), before);
    // Two editions may share an image, and PostgreSQL's says nothing of Odoo.
    start(
        &mut bench,
        upgrade(&alfa, Some("odoo:18.0"), Some("postgres:15")),
    );
    bench.settle();
    bench.settings.editions.remove(&name::<ShortName>("18.0"));
    let refused = bench.apply(upgrade(&alfa, None, None)).unwrap_err();
    assert!(
        refused.to_string().contains("not configured any more"),
        "{refused}"
    );
    start(&mut bench, upgrade(&alfa, Some("odoo:18.0-1"), None));
}

#[test]
fn a_host_that_fails_has_the_upgrade_taken_back_with_the_reason() {
    for blocked in [false, true] {
        let (mut bench, host, alfa) = settled();
        let before = images(&bench, &alfa);
        let id = start(&mut bench, upgrade(&alfa, Some("odoo:nowhere"), None));
        // What is said of an older plan, or of another operation, is no word on this one.
        let why = "image odoo:nowhere cannot be pulled";
        let mut old = failing(&bench, &alfa, why);
        old.generation -= 1;
        report(&mut bench, &host, old);
        let mut other = failing(&bench, &alfa, why);
        other.operation = Some(uuid::Uuid::from_u128(9));
        report(&mut bench, &host, other);
        assert_eq!(word(&bench, id), "host");
        let mut failed = failing(&bench, &alfa, why);
        if blocked {
            // Kept from beginning, it names none.
            (failed.stuck, failed.operation) = (Stuck::Blocked, None);
        }
        report(&mut bench, &host, failed);
        assert_eq!(word(&bench, id), "back");
        assert_eq!(images(&bench, &alfa), before, "also the times");
        bench.settle();
        let (state, said) = ended(&bench, id);
        assert_eq!(state, OperationState::Failed);
        assert_eq!(
            said,
            format!("{why}. The tenant keeps the images that it had")
        );
    }
}

/// Only the newest word of a host is known: a coordinator that was away when the host said *failing* hears of an Odoo that does not
/// answer, and nothing else.
#[test]
fn a_tenant_that_runs_and_never_answers_has_its_upgrade_taken_back() {
    let (mut bench, host, alfa) = settled();
    let before = images(&bench, &alfa);
    let id = start(&mut bench, upgrade(&alfa, Some("odoo:18.0-1"), None));
    let unwell = |bench: &Bench| TenantReport {
        progress: TenantProgress::Unhealthy,
        message: "Odoo does not answer".into(),
        ..bench.converged(&alfa)
    };
    let sick = unwell(&bench);
    report(&mut bench, &host, sick);
    assert_eq!(
        word(&bench, id),
        "host",
        "it may only have missed one question"
    );
    bench.now += 240_000;
    let sick = unwell(&bench);
    report(&mut bench, &host, sick);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(word(&bench, id), "back");
    assert_eq!(images(&bench, &alfa), before);
}

#[test]
fn one_that_was_not_well_before_is_not_waited_for_and_the_reason_is_that_of_the_upgrade() {
    let (mut bench, host, alfa) = settled();
    let id = start(&mut bench, upgrade(&alfa, Some("odoo:nowhere"), None));
    let failed = failing(&bench, &alfa, "manifest unknown");
    report(&mut bench, &host, failed);
    assert_eq!(word(&bench, id), "back");
    let still = failing(&bench, &alfa, "image sha256:1 is gone");
    report(&mut bench, &host, still);
    let (state, said) = ended(&bench, id);
    assert_eq!(state, OperationState::Failed);
    assert!(said.starts_with("manifest unknown. "), "{said}");
}

#[test]
fn whoever_creates_it_again_with_other_images_is_told_of_the_upgrade() {
    let (mut bench, _, alfa) = settled();
    edition(&mut bench, "18.0", "odoo:18.0-1", "postgres:15");
    let said = bench
        .create(alfa.as_str(), "small")
        .unwrap_err()
        .to_string();
    let hint = "not even with --force; `isyctl tenant upgrade` changes images";
    assert!(said.ends_with(hint), "{said}");
    start(&mut bench, upgrade(&alfa, None, None));
    bench.create(alfa.as_str(), "small").unwrap();
}

#[test]
fn other_operations_are_retried_where_an_upgrade_is_taken_back() {
    let (mut bench, host, alfa) = settled();
    let id = start(&mut bench, restart_order(&alfa));
    let failed = failing(&bench, &alfa, "no port");
    report(&mut bench, &host, failed);
    assert_eq!(word(&bench, id), "host");
    assert_eq!(bench.progress(id).0, OperationState::Retrying);
}

#[test]
fn whoever_cancels_an_upgrade_gets_back_what_the_tenant_had() {
    let (mut bench, _, alfa) = settled();
    let before = images(&bench, &alfa);
    let id = start(&mut bench, upgrade(&alfa, Some("odoo:18.0-1"), None));
    start(&mut bench, Command::CancelOperation { id });
    assert_eq!(images(&bench, &alfa), before);
    bench.settle();
    assert_eq!(ended(&bench, id).0, OperationState::Cancelled);
    // Also for the sake of another operation.
    start(&mut bench, upgrade(&alfa, Some("odoo:18.0-1"), None));
    start(&mut bench, suspend(&alfa, true));
    assert_eq!(images(&bench, &alfa), before);
}

#[test]
fn one_that_sleeps_or_is_suspended_is_upgraded_and_stays_so() {
    let (mut bench, _, alfa) = settled();
    start(&mut bench, suspend(&alfa, false));
    bench.settle();
    start(&mut bench, upgrade(&alfa, Some("odoo:18.0-1"), None));
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(tenant.desired, Lifecycle::Suspended);
    assert_eq!(images(&bench, &alfa).0, "odoo:18.0-1");
}

/// Of a version before, which asked for no image twice.
#[test]
fn times_are_stored_and_a_record_without_them_has_none() {
    let (mut bench, _, alfa) = settled();
    let record = |bench: &Bench| serde_json::to_string(&*bench.state.fleet.tenants[&alfa]).unwrap();
    let text = record(&bench);
    assert!(!text.contains("images_asked"), "{text}");
    let read: Tenant = serde_json::from_str(&text).unwrap();
    assert_eq!(read.images_asked, ImagesAsked::default());
    start(&mut bench, upgrade(&alfa, None, None));
    let read: Tenant = serde_json::from_str(&record(&bench)).unwrap();
    assert_eq!(read, *bench.state.fleet.tenants[&alfa]);
}

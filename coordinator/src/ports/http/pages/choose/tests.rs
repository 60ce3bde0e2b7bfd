//! Each page, and what all pages have in common.

use isyone_fleet::{
    change::Command,
    testing::{Bench, name, resources},
};
use isyone_proto::{
    disk::{Disk, DiskMeans, DiskUse},
    ids::HostName,
    report::TenantProgress,
};
use proptest::prelude::*;

use super::*;

/// A bench with a host and the tenant `alfa`, reported with this progress; `None`: not reported.
fn bench(progress: Option<TenantProgress>) -> (Bench, HostName) {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    let mut creation = bench.creation("alfa", "small");
    creation.spec.domains = vec![name("erp.example.com")];
    bench
        .apply(Command::CreateTenant(Box::new(creation)))
        .unwrap();
    if let Some(progress) = progress {
        report(&mut bench, &host, progress);
        bench.edges_run();
    }
    (bench, host)
}

fn report(bench: &mut Bench, host: &HostName, progress: TenantProgress) {
    let mut report = bench.converged(&name("alfa"));
    report.progress = progress;
    report.message = "password authentication failed for 10.200.0.2".into();
    bench.report(host, resources(8, 32, 100), vec![report]);
}

fn asked(bench: &Bench, host: &str) -> Page {
    page(&bench.state, &bench.settings, Some(host), true, bench.now).0
}

fn alfa(bench: &Bench) -> Page {
    let page = asked(bench, "alfa.isy.one");
    assert_eq!(
        asked(bench, "erp.example.com"),
        page,
        "both names lead to the same"
    );
    page
}

#[test]
fn a_name_that_nobody_has() {
    let (bench, _) = bench(Some(TenantProgress::Converged));
    for host in [
        "beta.isy.one",
        "isy.one",
        ".isy.one",
        "x.alfa.isy.one",
        "alfa",
        "alfa.isy.one.evil",
        "alfaisy.one",
        "-",
    ] {
        assert_eq!(asked(&bench, host), Page::Unknown, "{host}");
    }
    assert_eq!(
        page(&bench.state, &bench.settings, None, true, bench.now).0,
        Page::Unknown
    );
}

#[test]
fn the_first_create() {
    let (mut bench, host) = bench(None);
    assert_eq!(alfa(&bench), Page::Starting);
    report(&mut bench, &host, TenantProgress::Working);
    assert_eq!(alfa(&bench), Page::Starting);
    report(&mut bench, &host, TenantProgress::Failing);
    assert_eq!(alfa(&bench), Page::Failing);
    report(&mut bench, &host, TenantProgress::Converged);
    assert_eq!(alfa(&bench), Page::Away, "the edge gets there in a moment");
}

#[test]
fn ordered_changes() {
    let order = |command: Command| {
        let (mut bench, host) = bench(Some(TenantProgress::Converged));
        bench.apply(command).unwrap();
        let before_the_host_knows = alfa(&bench);
        report(&mut bench, &host, TenantProgress::Working);
        assert_eq!(alfa(&bench), before_the_host_knows);
        before_the_host_knows
    };
    let alfa = || name::<TenantName>("alfa");
    let request_id = None;
    assert_eq!(
        order(Command::RestartTenant {
            name: alfa(),
            database: false,
            settings: false,
            request_id: None
        }),
        Page::Restarting
    );
    assert_eq!(
        order(Command::ResizeTenant {
            name: alfa(),
            plan: name("large"),
            request_id: None
        }),
        Page::Updating
    );
    assert_eq!(
        order(Command::SuspendTenant {
            name: alfa(),
            request_id: None,
            cancel_running: false
        }),
        Page::Suspended
    );
    // Deleted looks like never created, under both names.
    assert_eq!(
        order(Command::DeleteTenant {
            name: alfa(),
            purge: false,
            request_id,
            cancel_running: false
        }),
        Page::Unknown
    );
}

#[test]
fn suspended_asleep_and_back() {
    let (mut bench, host) = bench(Some(TenantProgress::Converged));
    bench
        .apply(Command::SuspendTenant {
            name: name("alfa"),
            request_id: None,
            cancel_running: false,
        })
        .unwrap();
    report(&mut bench, &host, TenantProgress::Converged);
    assert_eq!(alfa(&bench), Page::Suspended);
    let mut tenant = (*bench.state.fleet.tenants[&name::<TenantName>("alfa")]).clone();
    tenant.asleep_since = Some(1);
    bench.state.fleet.put_tenant(tenant.into());
    assert_eq!(alfa(&bench), Page::Asleep);
    bench
        .apply(Command::WakeTenant { name: name("alfa") })
        .unwrap();
    assert_eq!(alfa(&bench), Page::Starting);
    report(&mut bench, &host, TenantProgress::Converged);
    assert_eq!(alfa(&bench), Page::Away);
}

#[test]
fn who_has_not_been_let_in_learns_nothing_of_a_closed_tenant() {
    let (mut bench, _) = bench(Some(TenantProgress::Converged));
    let seen = |bench: &Bench, admitted| {
        page(
            &bench.state,
            &bench.settings,
            Some("alfa.isy.one"),
            admitted,
            bench.now,
        )
        .0
    };
    assert_eq!(
        (seen(&bench, true), seen(&bench, false)),
        (Page::Away, Page::Away)
    );
    for close in [
        |tenant: &mut Tenant| tenant.access.users = vec!["ana:$2y$06$x".to_owned()],
        |tenant: &mut Tenant| tenant.access.addresses = ["192.0.2.0/24".parse().unwrap()].into(),
    ] {
        let mut tenant = (*bench.state.fleet.tenants[&name::<TenantName>("alfa")]).clone();
        tenant.access = Default::default();
        close(&mut tenant);
        bench.state.fleet.put_tenant(tenant.into());
        assert_eq!(
            (seen(&bench, true), seen(&bench, false)),
            (Page::Away, Page::Unknown)
        );
    }
}

#[test]
fn a_full_disk_has_pages_of_its_own() {
    let (mut bench, host) = bench(Some(TenantProgress::Converged));
    let mut full = bench.converged(&name("alfa"));
    full.progress = TenantProgress::Unhealthy;
    full.containers[0].state = "exited".into();
    full.disk = Some(Disk::after(
        None,
        DiskUse::of_bytes(7),
        7,
        DiskMeans::Counted,
    ));
    bench.report(&host, resources(8, 32, 100), vec![full]);
    assert_eq!(alfa(&bench), Page::DiskFull);
    let upload = |bench: &Bench, host, admitted| {
        no_uploads(&bench.state, &bench.settings, Some(host), admitted).0
    };
    assert_eq!(upload(&bench, "alfa.isy.one", true), Page::NoUploads);
    assert_eq!(upload(&bench, "beta.isy.one", true), Page::Unknown);
    let mut closed = (*bench.state.fleet.tenants[&name::<TenantName>("alfa")]).clone();
    closed.access.addresses = ["203.0.113.0/24".parse().unwrap()].into();
    bench.state.fleet.put_tenant(closed.into());
    assert_eq!(upload(&bench, "alfa.isy.one", false), Page::Unknown);
}

#[test]
fn trouble() {
    let (mut bench, host) = bench(Some(TenantProgress::Converged));
    report(&mut bench, &host, TenantProgress::Unhealthy);
    assert_eq!(alfa(&bench), Page::Failing);
    report(&mut bench, &host, TenantProgress::Working);
    assert_eq!(
        alfa(&bench),
        Page::Restarting,
        "its host brings it back by itself"
    );
    bench.now += bench.settings.liveness.suspect_ms;
    assert_eq!(alfa(&bench), Page::HostLost);
    // A coordinator that has just started has heard from no host: that says nothing about the hosts.
    bench.state.observed = Default::default();
    bench.state.started_at = bench.now;
    assert_eq!(alfa(&bench), Page::Away);
    bench.now += bench.settings.liveness.lost_ms;
    assert_eq!(alfa(&bench), Page::HostLost);
}

#[test]
fn announced_work_explains_who_does_not_answer_and_nothing_that_was_ordered() {
    let (mut bench, host) = bench(Some(TenantProgress::Converged));
    let until = bench.now + 3_600_000;
    let order = Command::BeginMaintenance {
        host,
        until,
        reason: "a new disk".into(),
        leaves_tenants: true,
    };
    bench.apply(order).unwrap();
    assert_eq!(alfa(&bench), Page::Maintenance(until));
    bench.now += bench.settings.liveness.lost_ms;
    assert_eq!(alfa(&bench), Page::Maintenance(until));
    bench.now = until;
    assert_eq!(alfa(&bench), Page::HostLost);
    bench.now = until - 1;
    let suspend = Command::SuspendTenant {
        name: name("alfa"),
        request_id: None,
        cancel_running: true,
    };
    bench.apply(suspend).unwrap();
    assert_eq!(alfa(&bench), Page::Suspended);
}

proptest! {
    #[test]
    fn any_host_has_a_page_and_only_names_have_tenants(host in "\\PC{0,30}", dots in "[a-z.-]{0,20}(isy\\.one)?") {
        let (bench, _) = bench(Some(TenantProgress::Converged));
        for host in [&host, &dots] {
            let (page, tenant) = page(&bench.state, &bench.settings, Some(host), true, bench.now);
            prop_assert_eq!(page == Page::Unknown, tenant.is_none());
            prop_assert!(tenant.is_none() || host == "alfa.isy.one" || host == "erp.example.com");
        }
    }
}

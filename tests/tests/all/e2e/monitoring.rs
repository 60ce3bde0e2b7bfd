//! What operators see, and which alerts they get: a real Prometheus and Alertmanager with real tenants on two hosts.
//!
//! The comments on the steps say what breaks them.

use std::{collections::BTreeSet, thread, time::Duration};

use isyone_tests::e2e::{
    alone,
    cell::{Cell, Shape},
    enabled,
    http::{get, odoo_login},
    wait_for,
    watch::{Told, Watch},
};

const MINUTE: Duration = Duration::from_secs(60);
/// From a change to a target: it is published at once, and Prometheus polls every second and scrapes within another.
const REFRESH: Duration = Duration::from_secs(15);
/// How long to watch for further alerts after the expected ones: longer than Alertmanager groups notifications.
const AFTERWARDS: Duration = Duration::from_secs(8);
const SHAPE: Shape = Shape {
    hosts: 2,
    config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"3GiB\"\nworkers=2\n\
             [monitoring]\ncertificate_dir=\"prometheus\"\nedges=[\"{edge_metrics}\"]\n\
             [probes]\ninterval=\"5s\"\ntimeout=\"4s\"\n",
    ..Shape::DEFAULT
};

/// Alerts about the disk of the machine that runs the test: possibly true, but not about the fleet.
const OF_THIS_MACHINE: [&str; 2] = ["HostDiskFull", "HostDiskFilling"];

/// What operators of Odoo ask first.
const QUERIES: [&str; 6] = [
    "up{job=\"odoo\"} > 0",
    "rate(odoo_http_requests_total[5m]) > 0",
    "histogram_quantile(0.95, rate(odoo_sql_query_duration_seconds_bucket[5m])) > 0",
    "container_cpu_usage_seconds_total{container=~\"odoo_.*\"} > 0",
    "pg_stat_database_numbackends{datname=\"odoo_alfa\"} > 0",
    "odoo_database_size > 0",
];

/// Panels that a healthy fleet leaves empty: for a kernel without pressure figures, and for an edge without TLS
/// (https.rs checks that one).
const MAY_BE_EMPTY: &str = "^(\
    host: Waiting \\(pressure\\)|\
    edge: Certificates that end first)$";

#[test]
fn operators_see_their_fleet_and_are_told_of_what_is_wrong_and_of_nothing_else() {
    if !enabled("operators_see_their_fleet_and_are_told_of_what_is_wrong_and_of_nothing_else") {
        return;
    }
    let _alone = alone();
    let mut cell = Cell::start(&SHAPE);
    let watch = Watch::start(&cell);
    // With the mail module, because one panel is about it.
    cell.isyctl(&[
        "tenant",
        "create",
        "alfa",
        "--host",
        "h1",
        "--modules",
        "mail",
        "--no-wait",
    ])
    .ok();
    cell.isyctl(&["tenant", "create", "beta", "--host", "h2", "--no-wait"])
        .ok();
    for tenant in ["alfa", "beta"] {
        cell.wait_phase(tenant, "running", 3 * MINUTE);
        watch.wait(
            &format!("up{{job=\"odoo\", tenant=\"{tenant}\"}} == 1"),
            REFRESH,
        );
    }
    targets_are_as_dashboards_know_them(&watch);
    a_tenant_comes_and_goes(&cell, &watch);
    every_panel_shows_something(&cell, &watch);
    nobody_else_reads_it(&cell);
    assert_eq!(told(&watch), BTreeSet::new(), "a healthy fleet is quiet");
    println!("a database stops");
    a_stopped_database_is_told_alone(&cell, &watch);
    println!("the edge stops");
    a_stopped_edge_is_told_alone(&mut cell, &watch);
    println!("a host is lost, a queue is stuck");
    a_lost_host_and_a_stuck_queue_are_told_alone(&mut cell, &watch);
}

/// Breaks if a label or a path changes: rename one in monitoring/src/lib.rs.
fn targets_are_as_dashboards_know_them(watch: &Watch) {
    for series in [
        r#"up{job="odoo", instance="odoo_alfa:8069", tenant="alfa", host="h1", plan="small"} == 1"#,
        r#"up{job="postgres", instance="postgres_beta:9187", tenant="beta", host="h2", plan="small"} == 1"#,
        r#"up{job="host", instance="h1", host="h1"} == 1"#,
        r#"up{job="containers", instance="h2", host="h2"} == 1"#,
        r#"container_memory_working_set_bytes{container="odoo_beta", tenant="beta", host="h2"}"#,
        r#"up{job="traefik"} == 1"#,
        r#"probe_success{job="probes", tenant="beta", host="h2"} == 1"#,
        r#"up{job="isyone", instance="coordinator"} == 1"#,
        r#"isyone_host_state{host="h1", state="ready"} == 1"#,
    ] {
        watch.wait(series, REFRESH);
    }
    assert_eq!(
        watch.query("up == 0").len(),
        0,
        "{:?}",
        watch.query("up == 0")
    );
}

/// Breaks if tenants' groups are not published again: leave Kind::Odoo out of coordinator/src/publish/content.rs.
fn a_tenant_comes_and_goes(cell: &Cell, watch: &Watch) {
    let process = watch.pid();
    cell.isyctl(&[
        "tenant",
        "create",
        "gama",
        "--host",
        "h1",
        "--modules",
        "mail",
    ])
    .ok();
    watch.wait(
        "up{job=\"odoo\", instance=\"odoo_gama:8069\"} == 1",
        REFRESH,
    );
    watch.wait(
        "up{job=\"postgres\", instance=\"postgres_gama:9187\"} == 1",
        REFRESH,
    );
    cell.isyctl(&["tenant", "delete", "gama", "--yes"]).ok();
    wait_for("gama to be out of sight", REFRESH, || {
        watch
            .query("up{tenant=\"gama\"} or container_last_seen{tenant=\"gama\"}")
            .is_empty()
            .then_some(())
    });
    assert_eq!(watch.pid(), process);
}

/// Breaks if a metric is renamed, or a panel queries a wrong name: misspell one in a dashboard.
fn every_panel_shows_something(cell: &Cell, watch: &Watch) {
    for tenant in ["alfa", "beta"] {
        let host = format!("{tenant}.isy.one");
        for _ in 0..8 {
            assert_eq!(get(cell.edge(), &host, "/web/login").status, 200);
        }
        // Those panels need a refused login and a missing page.
        let database = format!("odoo_{tenant}");
        assert_eq!(
            odoo_login(cell.edge(), &host, &database, "admin", "wrong"),
            None
        );
        assert_eq!(get(cell.edge(), &host, "/metrics").status, 404);
    }
    for query in QUERIES {
        watch.wait(query, MINUTE);
    }
    watch.wait(
        "sum by (tenant) (rate(traefik_service_requests_total{tenant=\"alfa\"}[5m])) > 0",
        REFRESH,
    );
    let mut last = String::new();
    let shown = (0..20).any(|_| {
        let out = watch.panels(&["--may-be-empty", MAY_BE_EMPTY]);
        last = out.stdout + &out.stderr;
        out.code == 0 || {
            thread::sleep(Duration::from_secs(2));
            false
        }
    });
    assert!(shown, "{last}");
}

/// Metrics cannot be read through the edge, nor from inside another tenant: not at its own host's port, nor at the
/// other host's, nor at the other tenant. Breaks without the firewall's rule for the port: METRICS_PORT in
/// agent/src/plan/firewall.rs.
fn nobody_else_reads_it(cell: &Cell) {
    for tenant in ["alfa", "beta"] {
        assert_eq!(
            get(cell.edge(), &format!("{tenant}.isy.one"), "/metrics").status,
            404
        );
    }
    let (h1, h2) = (&cell.hosts[0], &cell.hosts[1]);
    let opens = |address: &str, port: u16| {
        let script = format!("import socket; socket.create_connection(('{address}', {port}), 2)");
        h1.docker
            .run(&["exec", "odoo_alfa", "python3", "-c", &script])
            .code
            == 0
    };
    assert!(opens("127.0.0.1", 8069), "the probe itself works");
    for port in [7482, 7483] {
        assert!(!opens(&h1.address, port) && !opens(&h2.address, port));
    }
    let placement = cell.json(&["tenant", "show", "beta"]);
    let port = placement["http_port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok());
    assert!(
        !opens(&h2.address, port.unwrap_or(20_000)),
        "beta's published port"
    );
}

fn pair(alert: &str, whom: &str) -> Told {
    (alert.to_owned(), whom.to_owned())
}

/// The alerts about the fleet that operators got.
fn told(watch: &Watch) -> BTreeSet<Told> {
    watch
        .told()
        .into_iter()
        .filter(|(alert, _)| !OF_THIS_MACHINE.contains(&alert.as_str()))
        .collect()
}

/// Waits for exactly these alerts, and checks that no others follow.
fn only(watch: &Watch, expected: &[Told]) {
    let expected: BTreeSet<Told> = expected.iter().cloned().collect();
    wait_for(&format!("to be told of {expected:?}"), 2 * MINUTE, || {
        told(watch).is_superset(&expected).then_some(())
    });
    thread::sleep(AFTERWARDS);
    assert_eq!(told(watch), expected);
}

fn fires(watch: &Watch, alert: &str, labels: &str) {
    watch.wait(
        &format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", {labels}}}"),
        2 * MINUTE,
    );
}

/// PostgreSQL with broken settings, because the agent would restart one that was merely stopped. Odoo goes down with
/// it, but that alert is inhibited. Breaks if alertmanager.yml has no inhibition by PostgreSQLDown.
fn a_stopped_database_is_told_alone(cell: &Cell, watch: &Watch) {
    let docker = &cell.hosts[0].docker;
    let settings = docker.homes().join("alfa/pgdata/postgresql.auto.conf");
    let good = std::fs::read(&settings).expect("PostgreSQL's settings");
    std::fs::write(&settings, b"nonsense = 'yes'\n").expect("PostgreSQL's settings");
    docker.run(&["stop", "-t", "5", "postgres_alfa"]).ok();
    fires(watch, "PostgreSQLDown", "tenant=\"alfa\"");
    fires(watch, "OdooDown", "tenant=\"alfa\"");
    only(watch, &[pair("PostgreSQLDown", "alfa")]);
    std::fs::write(&settings, good).expect("PostgreSQL's settings");
    // Restart them here, because Docker's back-off between restarts keeps growing.
    docker
        .run(&["restart", "-t", "5", "postgres_alfa", "odoo_alfa"])
        .ok();
    watch.wait(
        "pg_up{tenant=\"alfa\"} == 1 and on (tenant) up{job=\"odoo\"} == 1",
        2 * MINUTE,
    );
    all_is_well(watch);
    watch.forget();
}

fn all_is_well(watch: &Watch) {
    wait_for("all to be well", MINUTE, || {
        let firing = "ALERTS{alertstate=\"firing\", alertname!~\"HostDisk.*\"}";
        watch.query(firing).is_empty().then_some(())
    });
}

/// The only edge stops, so no tenant is reachable: one alert about the edge and none about the tenants. Breaks if
/// alertmanager.yml has no inhibition by EdgeDown, or if TenantUnreachable in alerts.yml does not exclude tenants whose
/// edge explains it.
fn a_stopped_edge_is_told_alone(cell: &mut Cell, watch: &Watch) {
    cell.traefik = None;
    fires(watch, "EdgeDown", &format!("edge=\"{}\"", cell.edge()));
    // Firing, but inhibited.
    fires(
        watch,
        "EdgeNotScraped",
        &format!("instance=\"{}\"", cell.edge_metrics()),
    );
    only(watch, &[pair("EdgeDown", "")]);
    // By now even a pending alert would have started.
    let blamed = "ALERTS{alertname=~\"TenantUnreachable|OdooDown\"}";
    assert_eq!(watch.query(blamed).len(), 0, "{:?}", watch.query(blamed));
    assert_eq!(watch.query("probe_success == 0").len(), 2);
    cell.start_traefik();
    wait_for("to be told that it is over", MINUTE, || {
        watch.over().contains(&pair("EdgeDown", "")).then_some(())
    });
    all_is_well(watch);
    watch.forget();
}

/// Both at the same time, to show that neither silences the other. Breaks if alertmanager.yml does not silence a lost
/// host, if OdooDown in alerts.yml does not exclude hosts that are not scraped, or if probes blame the tenant.
fn a_lost_host_and_a_stuck_queue_are_told_alone(cell: &mut Cell, watch: &Watch) {
    // Overdue actions that Odoo's cron workers skip, because another session has locked their rows.
    let stuck = "update ir_cron set nextcall = (now() at time zone 'utc') - interval '1 hour'; begin; \
                 select count(*) from (select id from ir_cron for update) held; select pg_sleep(600);";
    let statements = stuck
        .split_inclusive(';')
        .flat_map(|statement| ["-c", statement.trim()]);
    let command: Vec<&str> = [
        "exec",
        "-d",
        "postgres_alfa",
        "psql",
        "-U",
        "odoo",
        "-d",
        "odoo_alfa",
    ]
    .into_iter()
    .chain(statements)
    .collect();
    cell.hosts[0].docker.run(&command).ok();
    // The whole host fails: its agent is silent, its containers are gone, and beta's visitors get no answer.
    cell.hosts[1].agent = None;
    cell.wait_host("h2", "suspect");
    cell.hosts[1]
        .docker
        .run(&["kill", "odoo_beta", "postgres_beta"])
        .ok();
    watch.wait(
        "isyone_probe_blame{tenant=\"beta\", blame=\"host_down\"} == 1",
        MINUTE,
    );
    fires(watch, "HostLost", "host=\"h2\"");
    // Firing, but inhibited.
    fires(watch, "HostNotScraped", "host=\"h2\"");
    only(
        watch,
        &[
            pair("HostSuspect", "h2"),
            pair("HostLost", "h2"),
            pair("OdooCronStuck", "alfa"),
        ],
    );
    // The host's alert explains it, so there is none about its tenants.
    let guesses = "ALERTS{alertstate=\"firing\", tenant=\"beta\"}";
    assert_eq!(watch.query(guesses).len(), 0, "{:?}", watch.query(guesses));
}

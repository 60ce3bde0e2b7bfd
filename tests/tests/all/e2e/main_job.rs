//! The main use case: `isyctl tenant create alfa` gives a real Odoo behind a real Traefik; and the rest of a tenant's
//! life.

use std::time::Duration;

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    http::{get, odoo_login, odoo_parameter},
    odoo,
    process::Output,
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

fn answers(cell: &Cell, host: &str) {
    wait_for(
        &format!("{host} to answer through the edge"),
        MINUTE,
        || (get(cell.edge(), host, "/web/health").status == 200).then_some(()),
    );
}

#[test]
fn a_tenant_from_create_to_purge() {
    if !enabled("a_tenant_from_create_to_purge") {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape {
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=2\n[plans.large]\nmemory=\"2GiB\"\ncpu=2.0\ndisk=\"1GiB\"\nworkers=3\n",
        ..Shape::default()
    });
    let created = create(&cell, "alfa");
    assert_eq!(created.code, 0, "{}", created.stderr);
    login_page_and_login(&cell, "alfa", &created.stdout);
    the_database_is_configured(&cell);
    odoo_follows_the_primary_domain(&cell);
    secrets_are_nowhere(&cell);
    the_second_comes_from_the_golden_snapshot(&cell);
    both_clusters_are_born_ready(&cell);
    create_is_idempotent(&cell);
    shells_and_logs(&cell);
    suspend_resume_restart_resize(&cell);
    delete_undelete_purge(&cell);
}

/// Creates a Brazilian customer's tenant, always with the same options.
fn create(cell: &Cell, tenant: &str) -> Output {
    let options = [
        "--lang",
        "pt_BR",
        "--country",
        "BR",
        "--tz",
        "America/Sao_Paulo",
    ];
    cell.isyctl(&[&["tenant", "create", tenant][..], &options].concat())
}

fn login_page_and_login(cell: &Cell, tenant: &str, printed: &str) {
    let host = format!("{tenant}.isy.one");
    let credentials = cell.json(&["tenant", "credentials", tenant]);
    let password = credentials["password"].as_str().expect("a password");
    assert!(
        printed.contains(password) && printed.contains(&host),
        "URL and password are printed:\n{printed}"
    );
    answers(cell, &host);
    let page = get(cell.edge(), &host, "/web/login");
    assert!(
        page.status == 200 && page.body.contains("name=\"login\""),
        "{} {}",
        page.status,
        page.head
    );
    let database = format!("odoo_{tenant}");
    assert_eq!(
        odoo_login(cell.edge(), &host, &database, "admin", password),
        Some(2)
    );
    assert_eq!(
        odoo_login(cell.edge(), &host, &database, "admin", "admin"),
        None,
        "the default password is gone"
    );
    for closed in [
        "/web/database/manager",
        "/web/database/selector",
        "/metrics",
        "/pt_BR/metrics",
    ] {
        let answer = get(cell.edge(), &host, closed);
        assert!(
            matches!(answer.status, 403 | 404),
            "{closed} answers {}",
            answer.status
        );
    }
    assert_eq!(get(cell.edge(), "nobody.isy.one", "/web/login").status, 404);
    // With two workers.
    odoo::print(cell, tenant);
}

/// psql's answer in the tenant's database.
fn sql(cell: &Cell, tenant: &str, query: &str) -> String {
    let database = format!("odoo_{tenant}");
    let container = format!("postgres_{tenant}");
    let docker = &cell.hosts[0].docker;
    docker
        .run(&[
            "exec", &container, "psql", "-U", "odoo", "-d", &database, "-Atc", query,
        ])
        .ok()
        .trim()
        .to_owned()
}

fn the_database_is_configured(cell: &Cell) {
    let parameter = |key: &str| {
        sql(
            cell,
            "alfa",
            &format!("select value from ir_config_parameter where key='{key}'"),
        )
    };
    let port = cell.edge().port();
    let address = format!("http://alfa.isy.one:{port}");
    assert_eq!(parameter("web.base.url"), address);
    assert_eq!(parameter("web.base.url.freeze").to_lowercase(), "true");
    // 256 MiB, the limit that fits `small`, plus the form around the file.
    assert_eq!(parameter("web.max_file_upload_size"), "269484032");
    assert_eq!(
        sql(
            cell,
            "alfa",
            "select p.lang || ' ' || p.tz from res_users u join res_partner p on p.id=u.partner_id where u.id=2"
        ),
        "pt_BR America/Sao_Paulo"
    );
    let country = "select c.code from res_company o join res_partner p on p.id=o.partner_id join res_country c on c.id=p.country_id";
    assert_eq!(sql(cell, "alfa", country), "BR");
    assert_eq!(
        sql(
            cell,
            "alfa",
            "select y.name from res_company o join res_currency y on y.id=o.currency_id"
        ),
        "BRL"
    );
}

fn odoo_follows_the_primary_domain(cell: &Cell) {
    let credentials = cell.json(&["tenant", "credentials", "alfa"]);
    let password = credentials["password"].as_str().expect("a password");
    // There are several processes with a cache each; enough calls reach all of them.
    let all_say = |address: &str| {
        for _ in 0..24 {
            let said = odoo_parameter(
                cell.edge(),
                "alfa.isy.one",
                "odoo_alfa",
                password,
                "web.base.url",
            );
            assert_eq!(said, address);
        }
    };
    let started = || {
        cell.hosts[0]
            .docker
            .run(&["inspect", "-f", "{{.State.StartedAt}}", "odoo_alfa"])
            .ok()
    };
    let sent_to = || {
        let head = get(cell.edge(), "alfa.isy.one", "/web/login")
            .head
            .to_lowercase();
        head.lines().find_map(|line| {
            line.strip_prefix("location: ")
                .map(|to| to.trim().to_owned())
        })
    };
    let before = started();
    let port = cell.edge().port();
    let own = format!("http://alfa.isy.one:{port}");
    all_say(&own);
    let domain = "erp.customer.example";
    cell.isyctl(&[
        "tenant",
        "domain",
        "add",
        "alfa",
        domain,
        "--primary",
        "--skip-dns-check",
    ])
    .ok();
    all_say(&format!("http://erp.customer.example:{port}"));
    assert_eq!(sent_to(), None, "nobody knows yet where the domain leads");
    assert_eq!(get(cell.edge(), domain, "/web/login").status, 200);
    cell.isyctl(&["tenant", "domain", "remove", "alfa", domain])
        .ok();
    all_say(&own);
    assert_eq!(sent_to(), None);
    assert_eq!(started(), before, "nothing was restarted");
}

fn secrets_are_nowhere(cell: &Cell) {
    let credentials = cell.json(&["tenant", "credentials", "alfa"]);
    let docker = &cell.hosts[0].docker;
    let processes = std::process::Command::new("ps")
        .args(["axww", "-o", "args"])
        .output()
        .expect("ps")
        .stdout;
    let places = [
        ("ps", String::from_utf8_lossy(&processes).into_owned()),
        (
            "docker inspect odoo",
            docker.run(&["inspect", "odoo_alfa"]).ok(),
        ),
        (
            "docker inspect postgres",
            docker.run(&["inspect", "postgres_alfa"]).ok(),
        ),
        (
            "docker logs",
            docker.run(&["logs", "odoo_alfa"]).stdout + &docker.run(&["logs", "odoo_alfa"]).stderr,
        ),
        (
            "docker logs",
            docker.run(&["logs", "postgres_alfa"]).stdout
                + &docker.run(&["logs", "postgres_alfa"]).stderr,
        ),
        ("our logs", cell.logs()),
    ];
    for kind in ["password", "master_password", "database_password"] {
        let secret = credentials[kind]
            .as_str()
            .unwrap_or_else(|| panic!("{kind} in {credentials}"));
        for (place, text) in &places {
            assert!(!text.contains(secret), "{kind} is in {place}");
        }
    }
    let database = std::fs::read(cell.dir.path().join("coordinator/isyone.db")).expect("database");
    let secret = credentials["password"].as_str().expect("a password");
    assert!(
        !String::from_utf8_lossy(&database).contains(secret),
        "the password is sealed at rest"
    );
}

/// Milliseconds from an operation's start to its end.
fn took_ms(operation: &serde_json::Value) -> i64 {
    let instant = |key: &str| {
        let text = operation[key]
            .as_str()
            .unwrap_or_else(|| panic!("{key} in {operation}"));
        let (_, time) = text.split_once('T').expect("RFC 3339");
        let parts: Vec<f64> = time
            .trim_end_matches('Z')
            .split(':')
            .map(|p| p.parse().expect("number"))
            .collect();
        ((parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]) * 1000.0) as i64
    };
    (instant("end_time") - instant("create_time")).rem_euclid(86_400_000)
}

fn the_second_comes_from_the_golden_snapshot(cell: &Cell) {
    let created = create(cell, "beta");
    assert_eq!(created.code, 0, "{}", created.stderr);
    // `create` ends only when visitors get through.
    let page = get(cell.edge(), "beta.isy.one", "/web/login");
    assert_eq!(page.status, 200, "{}", page.head);
    login_page_and_login(cell, "beta", &created.stdout);
    let operation = |tenant: &str| {
        let id = cell.json(&["tenant", "show", tenant])["operation_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        cell.json(&["op", "show", &id])
    };
    let (first, second) = (operation("alfa"), operation("beta"));
    let steps = second["steps"].as_array().expect("steps");
    for wanted in [
        "place", "volumes", "database", "postgres", "rekey", "odoo", "healthy", "route",
    ] {
        let step = steps
            .iter()
            .find(|s| s["name"] == wanted)
            .unwrap_or_else(|| panic!("step {wanted} in {second}"));
        assert!(
            step["start_time"].is_string() && step["end_time"].is_string(),
            "{step}"
        );
    }
    let database = steps
        .iter()
        .find(|s| s["name"] == "database")
        .expect("a step");
    assert!(
        database["detail"]
            .as_str()
            .expect("text")
            .contains("golden"),
        "{database}"
    );
    println!(
        "create: cold {} ms, from the golden snapshot {} ms ({})",
        took_ms(&first),
        took_ms(&second),
        database["detail"]
    );
    let uuid = |tenant: &str| {
        sql(
            cell,
            tenant,
            "select value from ir_config_parameter where key='database.uuid'",
        )
    };
    let secret = |tenant: &str| {
        sql(
            cell,
            tenant,
            "select value from ir_config_parameter where key='database.secret'",
        )
    };
    assert!(
        uuid("alfa") != uuid("beta") && secret("alfa") != secret("beta"),
        "each has its own identity"
    );
    let others = cell.json(&["tenant", "credentials", "alfa"])["password"]
        .as_str()
        .expect("a password")
        .to_owned();
    assert_eq!(
        odoo_login(cell.edge(), "beta.isy.one", "odoo_beta", "admin", &others),
        None
    );
}

/// The first was made by its image, the second is a copy.
fn both_clusters_are_born_ready(cell: &Cell) {
    for tenant in ["alfa", "beta"] {
        for (setting, value) in [
            ("data_checksums", "on"),
            ("wal_segment_size", "1MB"),
            ("archive_mode", "on"),
            ("archive_command", "true"),
            ("max_wal_size", "1GB"),
            ("max_slot_wal_keep_size", "102MB"),
        ] {
            let found = sql(cell, tenant, &format!("show {setting}"));
            assert_eq!(found, value, "{setting} of {tenant}");
        }
        let waiting = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'";
        let container = format!("postgres_{tenant}");
        let psql = [
            "exec", &container, "psql", "-U", "postgres", "-Atc", waiting,
        ];
        assert_eq!(cell.hosts[0].docker.run(&psql).ok().trim(), "0");
    }
}

fn create_is_idempotent(cell: &Cell) {
    let before = cell.hosts[0].docker.started_at("odoo_alfa");
    let again = create(cell, "alfa");
    assert_eq!(again.code, 0, "{}", again.stderr);
    let other = cell.isyctl(&["tenant", "create", "alfa", "--plan", "large"]);
    assert_eq!(other.code, 1);
    assert!(
        other.stderr.contains("exists with another spec") && other.stderr.contains("--force"),
        "{}",
        other.stderr
    );
    assert_eq!(cell.hosts[0].docker.started_at("odoo_alfa"), before);
}

fn shells_and_logs(cell: &Cell) {
    let answer = cell.isyctl(&["tenant", "psql", "alfa", "--", "-Atc", "select 40+2"]);
    assert_eq!(
        (answer.code, answer.stdout.trim()),
        (0, "42"),
        "{}",
        answer.stderr
    );
    let who = cell.isyctl(&["tenant", "psql", "alfa", "--", "-c", "\\! id"]);
    assert!(
        who.code == 0 && who.stdout.contains("(postgres)") && !who.stdout.contains("uid=0"),
        "psql is no way to root: {} {}",
        who.stdout,
        who.stderr
    );
    let answer = cell.isyctl(&[
        "tenant",
        "shell",
        "alfa",
        "--",
        "sh",
        "-c",
        "id -un; exit 7",
    ]);
    assert_eq!(
        (answer.code, answer.stdout.trim()),
        (7, "odoo"),
        "{}",
        answer.stderr
    );
    let logs = cell.isyctl(&["tenant", "logs", "alfa", "--tail", "500"]);
    assert_eq!(logs.code, 0, "{}", logs.stderr);
    assert!(
        format!("{}{}", logs.stdout, logs.stderr).contains("odoo"),
        "no log lines"
    );
    let audited = cell.isyctl(&["events", "-o", "json"]).ok();
    assert!(
        audited.contains("credentials.read") && audited.contains("tenant.created"),
        "{audited}"
    );
}

fn suspend_resume_restart_resize(cell: &Cell) {
    let docker = &cell.hosts[0].docker;
    cell.isyctl(&["tenant", "suspend", "beta"]).ok();
    let page = wait_for("the page that says suspended", MINUTE, || {
        let page = get(cell.edge(), "beta.isy.one", "/web/login");
        (page.status == 503).then_some(page)
    });
    assert!(
        page.body.to_lowercase().contains("suspended"),
        "{}",
        page.body
    );
    assert_eq!(docker.inspect("odoo_beta", "{{.State.Running}}"), "false");
    cell.isyctl(&["tenant", "resume", "beta"]).ok();
    answers(cell, "beta.isy.one");
    let before = docker.started_at("odoo_beta");
    let database_before = docker.started_at("postgres_beta");
    cell.isyctl(&["tenant", "restart", "beta"]).ok();
    assert_ne!(docker.started_at("odoo_beta"), before);
    cell.isyctl(&["tenant", "resize", "beta", "--plan", "large"])
        .ok();
    answers(cell, "beta.isy.one");
    assert_eq!(
        docker.started_at("postgres_beta"),
        database_before,
        "PostgreSQL is never restarted by a resize"
    );
    assert_eq!(cell.json(&["tenant", "show", "beta"])["size"]["workers"], 3);
}

fn delete_undelete_purge(cell: &Cell) {
    let docker = &cell.hosts[0].docker;
    let password = cell.json(&["tenant", "credentials", "beta"])["password"]
        .as_str()
        .expect("a password")
        .to_owned();
    assert_eq!(
        cell.isyctl(&["tenant", "delete", "beta"]).code,
        2,
        "without a terminal and --yes it must not delete"
    );
    cell.isyctl(&["tenant", "delete", "beta", "--yes"]).ok();
    cell.wait_phase("beta", "quarantined", MINUTE);
    wait_for("the route to go", MINUTE, || {
        (get(cell.edge(), "beta.isy.one", "/web/login").status == 404).then_some(())
    });
    assert!(docker.inspect("odoo_beta", "{{.Id}}").is_empty());
    assert!(
        !docker.inspect("pgdata_beta", "{{.Name}}").is_empty(),
        "volumes are kept"
    );
    cell.isyctl(&["tenant", "undelete", "beta"]).ok();
    answers(cell, "beta.isy.one");
    assert_eq!(
        odoo_login(cell.edge(), "beta.isy.one", "odoo_beta", "admin", &password),
        Some(2)
    );
    cell.isyctl(&["tenant", "delete", "beta", "--yes"]).ok();
    cell.wait_phase("beta", "quarantined", MINUTE);
    cell.isyctl(&["tenant", "delete", "beta", "--purge", "--yes"])
        .ok();
    wait_for("beta to be gone", MINUTE, || {
        (cell.isyctl(&["tenant", "show", "beta"]).code == 3).then_some(())
    });
    assert!(
        docker.inspect("pgdata_beta", "{{.Name}}").is_empty()
            && docker.inspect("odoo_data_beta", "{{.Name}}").is_empty()
    );
    assert!(
        docker.started_at("odoo_alfa").starts_with("20"),
        "alfa is untouched"
    );
}

//! Who may pass a real edge and how fast, what visitors never reach, what browsers are told, and what is logged about
//! it.

use std::{
    net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, process::Command, thread,
    time::Duration,
};

use isyone_tests::e2e::{beside, enabled, https::Site, process::run, wait_for};

const STAND_IN: &str = env!("CARGO_BIN_EXE_isyone-stand-in");
/// Timeout, far above any normal wait.
const SOON: Duration = Duration::from_secs(30);
const YEAR_S: u32 = 86_400 * 365;
/// The dashboard's password. It must never appear in a log.
const PASSWORD: &str = "horse-battery-staple";
const COOKIE: &str = "session_id=a-session-of-somebody";
const ANA: &str = "127.0.0.1";
const BOB: &str = "127.0.0.2";

/// An answer as curl reports it.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Header lines in lower case.
    head: String,
    body: String,
}

/// A request to an edge's entry point from a chosen client address, with additional curl arguments.
fn visit(edge: SocketAddr, from: &str, host: &str, path: &str, more: &[&str]) -> Answer {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--include",
        "--max-time",
        "20",
        "--interface",
        from,
    ]);
    curl.args(["--header", &format!("Host: {host}"), "--cookie", COOKIE])
        .args(more);
    let output = run(curl.arg(format!("http://{edge}{path}"))).stdout;
    let (head, body) = output.split_once("\r\n\r\n").unwrap_or((&output, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    Answer {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// Plain HTTP at the edge, as behind a proxy that terminates TLS.
fn config(users: &Path) -> String {
    format!(
        "[tls]\nmode = \"off\"\n[probes]\nenabled = false\n\
         [edge]\nrate_average = 200\nrate_burst = 200\nin_flight = 3\n\
         [edge.dashboard]\nusers_file = \"{}\"\naddresses = [\"{ANA}\"]\n",
        users.display()
    )
}

struct Test {
    site: Site,
    edge: SocketAddr,
}

impl Test {
    fn get(&self, from: &str, tenant: &str, path: &str, more: &[&str]) -> Answer {
        visit(self.edge, from, &format!("{tenant}.isy.one"), path, more)
    }

    fn status(&self, from: &str, tenant: &str, path: &str) -> u16 {
        self.get(from, tenant, path, &[]).status
    }

    /// Waits until the edge has applied a change.
    fn comes(&self, from: &str, tenant: &str, path: &str, status: u16) {
        wait_for(
            &format!("{status} for {from} at {tenant}{path}"),
            SOON,
            || (self.status(from, tenant, path) == status).then_some(()),
        );
    }

    fn set(&self, arguments: &[&str]) -> serde_json::Value {
        self.site
            .json(&[&["tenant", "access", "set"], arguments].concat())
    }
}

#[test]
fn the_edge_lets_in_whom_it_should_as_fast_as_it_should_and_logs_it() {
    if !enabled("the_edge_lets_in_whom_it_should_as_fast_as_it_should_and_logs_it") {
        return;
    }
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a folder");
    let users = dir.path().join("dashboard.users");
    let hash = isyone_coordinator::base::secrets::edge_hash(PASSWORD).expect("a hash");
    std::fs::write(&users, format!("ops:{hash}\n")).expect("a file");
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    let site = Site::start(STAND_IN, 1, YEAR_S, |_| config(&users), |_| String::new());
    for tenant in ["alfa", "beta"] {
        site.isyctl(&["tenant", "create", tenant]).ok();
    }
    let test = Test {
        edge: site.edges[0].web,
        site,
    };
    test.comes(ANA, "alfa", "/echo", 200);
    test.comes(ANA, "beta", "/echo", 200);
    what_is_closed_and_what_browsers_are_told(&test);
    what_is_worth_it_is_compressed(&test);
    networks(&test);
    passwords(&test);
    a_rate_is_the_offenders_own(&test);
    so_many_at_the_same_time(&test);
    the_dashboard(&test);
    the_log(&test);
}

fn what_is_closed_and_what_browsers_are_told(test: &Test) {
    let encoded = [
        "/web%2Fdatabase/manager",
        "/web%2fdatabase",
        "/xmlrpc%2Fdb",
        "/xmlrpc/2%2Fdb",
        "/xmlrpc%2F2%2fdb",
        "/%2fweb/database/manager",
        "/%2F%2fweb/database/manager",
        "//web//database/manager",
        "/%2fxmlrpc/2/db",
        "/%2fmetrics",
        "/metrics%2f",
        "/web%2f/%2fdatabase",
        "/web/d%61tabase/manager",
        "/x/%2e%2e/web/database/manager",
        "/pt_BR/web/database/manager",
        "/en%2fweb%2fdatabase",
        "/sr%40latin/web/database/manager",
        "/pt_BR/metrics",
        "/sr@latin//metrics",
        "/sr%40latin/metrics",
        "/en%2Fmetrics%2Fx",
    ];
    let plain = [
        "/metrics",
        "/metrics/x",
        "/web/database/manager",
        "/xmlrpc/db",
        "/xmlrpc/2/db",
    ];
    for path in plain.into_iter().chain(encoded) {
        assert_eq!(test.status(ANA, "alfa", path), 404, "{path}");
        // The same name for resolvers and for Traefik.
        let dotted = test
            .get(ANA, "alfa", path, &["--header", "Host: alfa.isy.one."])
            .status;
        assert_eq!(dotted, 404, "{path} with the root's dot");
    }
    assert_eq!(
        test.get(ANA, "alfa", "/page", &["--header", "Host: alfa.isy.one."])
            .status,
        200,
        "it is a name of alfa's"
    );
    let page = test.get(ANA, "alfa", "/page", &[]);
    for header in [
        "x-frame-options: sameorigin",
        "x-content-type-options: nosniff",
        "referrer-policy: strict-origin-when-cross-origin",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    // Traefik by itself would send `wss` here, and Odoo would then take page and socket for different origins.
    let upgrade = [
        "--http1.1",
        "--header",
        "Connection: Upgrade",
        "--header",
        "Upgrade: websocket",
    ];
    for more in [&upgrade[..], &[]] {
        let socket = test.get(ANA, "alfa", "/websocket", more);
        assert!(
            socket.status == 200 && socket.body.contains("x-forwarded-proto: https"),
            "{socket:?}"
        );
    }
    let routers = test.site.http("/traefik/config");
    assert!(routers.contains("\"odoo-alfa_websocket\""), "{routers}");
}

fn what_is_worth_it_is_compressed(test: &Test) {
    let encoding = |path| {
        let answer = test.get(
            ANA,
            "alfa",
            path,
            &[
                "--header",
                "Accept-Encoding: gzip",
                "--output",
                "/dev/null",
                "--dump-header",
                "-",
            ],
        );
        answer.head.lines().find_map(|line| {
            line.strip_prefix("content-encoding: ")
                .map(ToOwned::to_owned)
        })
    };
    assert_eq!(encoding("/page").as_deref(), Some("gzip"));
    assert_eq!(encoding("/picture"), None);
    assert_eq!(encoding("/packed").as_deref(), Some("br"), "as it came");
}

fn networks(test: &Test) {
    test.set(&["alfa", "--allow", BOB, "--allow", "203.0.113.0/24"]);
    test.comes(ANA, "alfa", "/echo", 403);
    assert_eq!(test.status(BOB, "alfa", "/echo"), 200);
    assert_eq!(test.status(ANA, "alfa", "/websocket"), 403);
    assert_eq!(
        test.status(ANA, "alfa", "/web/health"),
        200,
        "the coordinator's probes come from anywhere"
    );
    let pretended = test.get(
        ANA,
        "alfa",
        "/echo",
        &["--header", &format!("X-Forwarded-For: {BOB}")],
    );
    assert_eq!(pretended.status, 403);
    assert_eq!(
        test.status(ANA, "beta", "/echo"),
        200,
        "another tenant's visitors"
    );
    let shown = test.site.isyctl(&["tenant", "show", "alfa"]).ok();
    assert!(shown.contains("127.0.0.2/32, 203.0.113.0/24"), "{shown}");
    test.set(&["alfa", "--allow-all"]);
    test.comes(ANA, "alfa", "/echo", 200);
}

fn passwords(test: &Test) {
    let made = test.set(&["alfa", "--user", "tester", "--generate-password"]);
    let password = made["generated_password"]
        .as_str()
        .expect("a password")
        .to_owned();
    test.comes(ANA, "alfa", "/echo", 401);
    let with = |password: &str| {
        test.get(
            ANA,
            "alfa",
            "/echo",
            &["--user", &format!("tester:{password}")],
        )
    };
    assert_eq!(with("wrong").status, 401);
    let page = with(&password);
    assert!(
        page.status == 200 && !page.body.contains("authorization"),
        "Odoo does not see it: {page:?}"
    );
    assert_eq!(test.status(ANA, "alfa", "/websocket"), 401);
    assert_eq!(test.status(ANA, "alfa", "/web/health"), 200);
    assert_eq!(test.status(ANA, "alfa", "/metrics"), 404);
    for told in [
        test.site.isyctl(&["events", "-o", "json"]).ok(),
        test.site
            .isyctl(&["tenant", "show", "alfa", "-o", "json"])
            .ok(),
        std::fs::read_to_string(test.site.file("coordinator.log")).expect("a log"),
    ] {
        assert!(
            !told.contains(&password) && !told.contains("$2y$"),
            "{told}"
        );
    }
    assert!(
        test.site
            .isyctl(&["events"])
            .ok()
            .contains("user tester added")
    );
    test.set(&["alfa", "--no-users"]);
    test.comes(ANA, "alfa", "/echo", 200);
}

fn a_rate_is_the_offenders_own(test: &Test) {
    test.set(&["beta", "--rate", "1/4"]);
    // The edge has applied the new rate once a burst is cut off early.
    wait_for("429", SOON, || {
        let answers: Vec<Answer> = (0..6)
            .map(|_| test.get(ANA, "beta", "/echo", &[]))
            .collect();
        answers
            .iter()
            .any(|a| a.status == 429 && a.head.contains("retry-after"))
            .then_some(())
    });
    // A client that claims to be a proxy for others is not believed.
    let pretended = |n: u32| {
        let header = format!("X-Forwarded-For: 203.0.113.{n}");
        test.get(ANA, "beta", "/echo", &["--header", &header])
            .status
    };
    let answers: Vec<u16> = (0..12).map(pretended).collect();
    assert!(
        answers.iter().filter(|status| **status == 429).count() >= 5,
        "{answers:?}"
    );
    assert_eq!(test.status(BOB, "beta", "/echo"), 200, "only the offender");
    assert_eq!(test.status(ANA, "alfa", "/echo"), 200, "only there");
    test.set(&["beta", "--default-rate"]);
    wait_for("no 429", SOON, || {
        (0..6)
            .all(|_| test.status(ANA, "beta", "/echo") == 200)
            .then_some(())
    });
}

fn so_many_at_the_same_time(test: &Test) {
    thread::scope(|scope| {
        let slow: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| test.status(ANA, "alfa", "/slow")))
            .collect();
        thread::sleep(Duration::from_millis(1_500));
        assert_eq!(test.status(BOB, "alfa", "/echo"), 200, "another client");
        assert_eq!(test.status(ANA, "beta", "/echo"), 200, "another tenant");
        assert_eq!(
            test.status(ANA, "alfa", "/websocket"),
            200,
            "sockets do not count"
        );
        let answers: Vec<u16> = slow
            .into_iter()
            .map(|s| s.join().expect("an answer"))
            .collect();
        let count = |status| answers.iter().filter(|answer| **answer == status).count();
        assert_eq!((count(200), count(429)), (3, 3), "{answers:?}");
    });
}

fn the_dashboard(test: &Test) {
    let dashboard =
        |from, path, more: &[&str]| visit(test.edge, from, "traefik.isy.one", path, more).status;
    let ops = ["--user", &format!("ops:{PASSWORD}")];
    assert_eq!(dashboard(ANA, "/dashboard/", &[]), 401);
    assert_eq!(dashboard(ANA, "/api/http/routers", &[]), 401);
    assert_eq!(dashboard(ANA, "/dashboard/", &["--user", "ops:wrong"]), 401);
    assert_eq!(dashboard(ANA, "/dashboard/", &ops), 200);
    assert_eq!(dashboard(ANA, "/api/http/routers", &ops), 200);
    assert_eq!(dashboard(BOB, "/dashboard/", &ops), 403);
    // Paths where Traefik shows the hashes of tenants' passwords.
    for path in [
        "/api/rawdata",
        "/api/http/middlewares",
        "/api/http/middlewares/x@http",
        "/api/support-dump",
        "/api%2Frawdata",
        "//api/RawData",
    ] {
        assert_eq!(dashboard(ANA, path, &ops), 404, "{path}");
    }
    for path in ["/%2fapi/rawdata", "/x/%2e%2e/api/http/middlewares"] {
        assert_ne!(dashboard(ANA, path, &ops), 200, "{path}");
    }
}

fn the_log(test: &Test) {
    let _ = test.get(
        ANA,
        "alfa",
        "/web/reset_password?token=of-somebody",
        &["--user", "x:in-a-header"],
    );
    let lines = wait_for("the log", SOON, || {
        let text = std::fs::read_to_string(test.site.file("access0.log")).ok()?;
        text.contains("/web/reset_password").then_some(text)
    });
    for secret in [
        "a-session-of-somebody",
        PASSWORD,
        "of-somebody",
        "eDppbi1hLWhlYWRlcg",
        "authorization",
        "cookie",
    ] {
        assert!(
            !lines.to_lowercase().contains(&secret.to_lowercase()),
            "{secret}"
        );
    }
    let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let entries: Vec<serde_json::Value> = whole
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let of = |router: &str, status: u64| {
        entries.iter().any(|e| {
            e["RouterName"] == router
                && e["DownstreamStatus"] == status
                && e["ClientHost"] == ANA
                && e["request_User-Agent"]
                    .as_str()
                    .is_some_and(|agent| agent.starts_with("curl/"))
        })
    };
    for (router, status) in [
        ("odoo-alfa@http", 200),
        ("odoo-alfa@http", 401),
        ("odoo-alfa@http", 403),
        ("odoo-beta@http", 429),
        ("isyone-closed@http", 404),
        ("isyone-dashboard@http", 401),
    ] {
        assert!(of(router, status), "{router} {status}");
    }
}

//! What Prometheus gets from a host: real figures of a real Odoo, only for clients that may read them.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    http::get,
    odoo::User,
    process::{Output, run, self_signed},
    root, wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
/// Number of counted requests, and of concurrent clients.
const REQUESTS: usize = 96;
const CLIENTS: usize = 8;

/// A scraper with its own certificate.
struct Scraper {
    dir: PathBuf,
    base: String,
}

impl Scraper {
    /// Creates an operator and stores its certificate for curl.
    fn new(cell: &Cell, name: &str, role: &str) -> Self {
        let dir = cell.dir.path().join(format!("scraper-{name}"));
        fs::create_dir(&dir).expect("folder");
        let context = dir.join("context.toml");
        let context_text = context.to_string_lossy().into_owned();
        cell.isyctl(&[
            "operator",
            "create",
            name,
            "--role",
            role,
            "--out",
            &context_text,
        ])
        .ok();
        let text = fs::read_to_string(&context).expect("context");
        let context: toml::Table = text.parse().expect("TOML");
        for (key, file) in [
            ("ca_pem", "ca.pem"),
            ("certificate_pem", "cert.pem"),
            ("key_pem", "key.pem"),
        ] {
            fs::write(dir.join(file), context[key].as_str().expect("PEM")).expect("file");
        }
        Self {
            dir,
            base: format!("https://{}:7482", cell.hosts[0].address),
        }
    }

    fn curl(&self, path: &str, with_certificate: bool) -> Output {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--max-time",
            "15",
            "-w",
            "\n%{http_code}",
            "--cacert",
        ])
        .arg(self.dir.join("ca.pem"));
        if with_certificate {
            curl.arg("--cert")
                .arg(self.dir.join("cert.pem"))
                .arg("--key")
                .arg(self.dir.join("key.pem"));
        }
        run(curl.arg(format!("{}{path}", self.base)))
    }

    fn get(&self, path: &str) -> (u16, String) {
        let out = self.curl(path, true);
        let (body, status) = out.stdout.rsplit_once('\n').unwrap_or(("", "0"));
        (
            status.parse().unwrap_or(0),
            if out.code == 0 {
                body.to_owned()
            } else {
                out.stderr
            },
        )
    }

    /// A page; fails unless the status is 200.
    fn page(&self, path: &str) -> String {
        let (status, page) = self.get(path);
        assert_eq!(status, 200, "{path}: {page}");
        page
    }
}

/// The sum of a metric's samples whose labels contain all of `having`.
fn sum(page: &str, metric: &str, having: &[&str]) -> f64 {
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = series.strip_prefix(metric)?;
        let ours = (labels.is_empty() || labels.starts_with('{'))
            && having.iter().all(|h| labels.contains(h));
        ours.then(|| value.parse::<f64>().ok())?
    };
    page.lines().filter_map(value).sum()
}

#[test]
fn figures_are_exact_and_only_for_monitors() {
    if !enabled("figures_are_exact_and_only_for_monitors") {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape {
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=2\n",
        ..Shape::default()
    });
    for tenant in ["alfa", "beta"] {
        let created = cell.isyctl(&["tenant", "create", tenant]);
        assert_eq!(created.code, 0, "{}", created.stderr);
        wait_for("the edge to know it", MINUTE, || {
            (get(cell.edge(), &format!("{tenant}.isy.one"), "/web/health").status == 200)
                .then_some(())
        });
    }
    let prometheus = Scraper::new(&cell, "prometheus", "monitor");
    wait_for("the host to know its scraper", MINUTE, || {
        (prometheus.get("/metrics").0 == 200).then_some(())
    });
    requests_are_counted_exactly(&cell, &prometheus);
    the_module_tells_what_odoo_does(&cell);
    the_rest_is_told(&prometheus);
    others_get_nothing(&cell, &prometheus);
    tenants_get_nothing(&cell);
    the_database_comes_back(&cell, &prometheus);
}

fn requests_are_counted_exactly(cell: &Cell, prometheus: &Scraper) {
    let counted = || {
        thread::sleep(Duration::from_secs(5)); // longer than a page is cached
        let page = prometheus.page("/tenants/alfa/odoo");
        sum(
            &page,
            "odoo_http_requests_total",
            &["method=\"GET\"", "code=\"200\"", "route=\"login\""],
        )
    };
    let visitor = User::visitor(cell, "alfa"); // builds the assets
    let before = counted();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..REQUESTS / CLIENTS {
                    assert_eq!(visitor.get("/web/login").status, 200);
                }
            });
        }
    });
    assert_eq!(counted() - before, REQUESTS as f64);
}

/// Ends every worker of an Odoo, as its limits would.
const END_WORKERS: &str = "
import os, signal
def stat(pid): return open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()
for pid in [pid for pid in os.listdir('/proc') if pid.isdigit()]:
    parent = stat(pid)[1]
    # Above an Odoo is only the container's init.
    if parent not in '01' and stat(parent)[1] == '1' and 'gevent' not in open(f'/proc/{pid}/cmdline').read():
        os.kill(int(pid), signal.SIGKILL)
";

/// Exact counts by method, code and route, open websockets, refused logins, workers and their replacement, both
/// formats, who may read it: all in check_odoo.py, which asks Odoo itself from where only edges can. Breaks if any hook
/// in isyone_metrics/hooks.py is left out.
fn the_module_tells_what_odoo_does(cell: &Cell) {
    let docker = &cell.hosts[0].docker;
    docker
        .run(&["exec", "odoo_alfa", "python3", "-c", END_WORKERS])
        .ok();
    print!(
        "{}",
        check_odoo(cell, &["--recycles", "--clients", "8", "--each", "12"]).ok()
    );
    // The database is away but not gone: the page is still served, without the metrics that need it.
    docker.run(&["pause", "postgres_alfa"]).ok();
    let without = check_odoo(cell, &["--database", "down"]);
    docker.run(&["unpause", "postgres_alfa"]).ok();
    print!("{}", without.ok());
}

fn check_odoo(cell: &Cell, options: &[&str]) -> Output {
    let host = &cell.hosts[0];
    // At its container: the host's relay closes the page to everybody, and sends requests of its own.
    let address = host.docker.inspect(
        "odoo_alfa",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
    );
    let url = |port: u16| format!("http://{address}:{port}");
    let mut check = host.command("python3");
    check
        .arg("-B")
        .arg(root().join("monitoring/addons/tests/check_odoo.py"))
        .arg(url(8069));
    check
        .arg("--token-file")
        .arg(host.data.join("tenants/alfa/metrics_token"));
    run(check.args(["--websocket", &url(8072)]).args(options))
}

fn the_rest_is_told(prometheus: &Scraper) {
    // The database was away a moment ago: Odoo tries it again after a while.
    let odoo = wait_for("the database's size", MINUTE, || {
        let page = prometheus.page("/tenants/alfa/odoo");
        (sum(&page, "odoo_database_size", &[]) > 1e6).then_some(page)
    });
    assert!(
        sum(
            &odoo,
            "odoo_sql_query_duration_seconds_bucket",
            &["le=\"+Inf\""]
        ) > 0.0
    );
    assert!(
        sum(
            &odoo,
            "odoo_http_request_duration_seconds_bucket",
            &["le=\"+Inf\""]
        ) >= REQUESTS as f64
    );
    let postgres = prometheus.page("/tenants/alfa/postgres");
    let alfa = "datname=\"odoo_alfa\"";
    for metric in [
        "pg_stat_database_numbackends",
        "pg_stat_database_connections",
        "pg_database_size_bytes",
        "pg_stat_database_xact_commit",
    ] {
        assert!(
            sum(&postgres, metric, &[alfa]) > 0.0,
            "{metric}\n{postgres}"
        );
    }
    assert_eq!(sum(&postgres, "pg_up", &[]), 1.0);
    assert_eq!(sum(&postgres, "pg_settings_max_connections", &[]), 200.0);
    assert!(sum(&postgres, "pg_stat_activity_count", &[alfa]) > 0.0);
    let containers = prometheus.page("/containers");
    for metric in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_spec_memory_limit_bytes",
        "container_network_receive_bytes_total",
        "container_start_time_seconds",
        "container_processes",
    ] {
        for container in ["odoo_alfa", "postgres_alfa", "odoo_beta"] {
            let label = format!("container=\"{container}\"");
            assert!(
                sum(&containers, metric, &[&label]) > 0.0,
                "{metric} {container}\n{containers}"
            );
        }
    }
    let host = prometheus.page("/metrics");
    for metric in [
        "node_cpu_seconds_total",
        "node_memory_MemTotal_bytes",
        "node_filesystem_size_bytes",
        "isyone_agent_docker_up",
    ] {
        assert!(sum(&host, metric, &[]) > 0.0, "{metric}\n{host}");
    }
}

fn others_get_nothing(cell: &Cell, prometheus: &Scraper) {
    let refused = prometheus.curl("/metrics", false);
    assert!(
        refused.code != 0 && !refused.stdout.contains("node_"),
        "no certificate: {}",
        refused.stdout
    );
    let ana = Scraper::new(cell, "ana", "operator");
    for path in [
        "/metrics",
        "/containers",
        "/tenants/alfa/odoo",
        "/tenants/alfa/postgres",
    ] {
        assert_eq!(
            ana.get(path).0,
            403,
            "{path} for an operator who is no monitor"
        );
    }
    // A certificate of another CA.
    let dir = cell.dir.path().join("foreign");
    fs::create_dir(&dir).expect("folder");
    self_signed("x", &[], &dir.join("cert.pem"), &dir.join("key.pem"));
    fs::copy(prometheus.dir.join("ca.pem"), dir.join("ca.pem")).expect("copy");
    let foreign = Scraper {
        dir,
        base: prometheus.base.clone(),
    };
    assert_eq!(foreign.get("/metrics").0, 0);
    assert_eq!(get(cell.edge(), "alfa.isy.one", "/metrics").status, 404);
    assert_eq!(prometheus.get("/tenants/nobody/odoo").0, 404);
}

/// From inside another tenant, neither the host's port nor alfa's page is reachable, nor its own page without the
/// token.
fn tenants_get_nothing(cell: &Cell) {
    let docker = &cell.hosts[0].docker;
    let inside = |script: &str| docker.run(&["exec", "odoo_beta", "python3", "-c", script]);
    let opens = |address: &str, port: u16| {
        inside(&format!(
            "import socket; socket.create_connection(('{address}', {port}), 2)"
        ))
        .code
            == 0
    };
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let gateway = docker.inspect(
        "odoo_beta",
        "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}",
    );
    assert!(
        opens(&docker.inspect("odoo_beta", address), 8069),
        "the probe itself works"
    );
    for port in [7482, 7483] {
        assert!(!opens(&gateway, port) && !opens(&cell.hosts[0].address, port));
    }
    assert!(!opens(&docker.inspect("odoo_alfa", address), 8069));
    assert!(!opens(&docker.inspect("postgres_alfa", address), 5432));
    let script = "import urllib.request as u\ntry: print(u.urlopen('http://localhost:8069/metrics').status)\nexcept u.HTTPError as e: print(e.code)";
    assert_eq!(inside(script).stdout.trim(), "404");
    let environment = docker.inspect("odoo_alfa", "{{json .Config}}{{json .HostConfig}}");
    let token =
        fs::read_to_string(cell.hosts[0].data.join("tenants/alfa/metrics_token")).expect("token");
    assert!(token.len() >= 32 && !environment.contains(&token));
}

/// While PostgreSQL is away the metric is 0 and not missing; afterwards it is queried again over a new connection.
fn the_database_comes_back(cell: &Cell, prometheus: &Scraper) {
    let up = |wanted: f64| {
        wait_for("pg_up", MINUTE, || {
            thread::sleep(Duration::from_secs(1));
            (sum(&prometheus.page("/tenants/alfa/postgres"), "pg_up", &[]) == wanted).then_some(())
        });
    };
    cell.isyctl(&["tenant", "suspend", "beta"]).ok();
    assert!(matches!(prometheus.get("/tenants/beta/odoo").0, 200 | 502));
    wait_for("a suspended tenant to give no page", MINUTE, || {
        (prometheus.get("/tenants/beta/odoo").0 == 502).then_some(())
    });
    cell.hosts[0].docker.run(&["restart", "postgres_alfa"]).ok();
    up(1.0);
}

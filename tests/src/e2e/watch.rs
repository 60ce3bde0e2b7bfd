//! A real Prometheus and a real Alertmanager for a cell, with the product's own files, and a receiver for
//! notifications.
//!
//! The files are those of `monitoring/deploy`. Only these parts are changed, as text: ports, intervals, how long a
//! condition must last (see [`hurried`]), and Alertmanager's receivers. So the test covers the shipped rules, routes
//! and inhibitions. Not here: what is expected.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;

use super::{
    cell::Cell,
    http,
    lane::Lane,
    process::{Daemon, Output, run},
    root, tool, wait_for,
};

/// In the first lane: different from those of a demo on the same machine.
const PROMETHEUS: u16 = 16_190;
const ALERTMANAGER: u16 = 16_193;
/// For [`inhibitions`], which may run beside the others.
const ALERTMANAGER_ALONE: u16 = 16_194;
/// Divisor for the rules' durations. The cell declares silent hosts lost in a quarter of the product's time, so alerts
/// start in the same order as in production.
const HURRY: u64 = 5;
/// Largest accepted notification; those of a test have a few kilobytes.
const MAX_BODY: usize = 1 << 20;

/// An alert in a notification: its name, and the tenant or host that it concerns (empty for neither).
pub type Told = (String, String);

#[derive(Debug)]
pub struct Watch {
    prometheus: Prometheus,
    _alertmanager: Daemon,
    received: Arc<Mutex<Received>>,
}

/// Alerts that the receiver got.
#[derive(Debug, Default)]
struct Received {
    firing: BTreeSet<Told>,
    over: BTreeSet<Told>,
}

/// Prometheus alone. The coordinator's configuration needs `[monitoring] certificate_dir = "prometheus"`.
#[derive(Debug)]
pub struct Prometheus {
    pub process: Daemon,
    address: SocketAddr,
}

impl Prometheus {
    /// For a cell, with this scrape interval.
    pub fn start(cell: &Cell, interval: &str) -> Self {
        Self::over(cell.dir.path(), cell.http(), interval)
    }

    /// For any coordinator, by its HTTP port. The coordinator's data directory is `coordinator` in `folder`, which will
    /// also contain that of Prometheus.
    pub fn over(folder: &Path, coordinator: SocketAddr, interval: &str) -> Self {
        Self::with(folder, coordinator, interval, &[])
    }

    /// With these changes to the shipped rules.
    fn with(
        folder: &Path,
        coordinator: SocketAddr,
        interval: &str,
        changes: &[(&str, String)],
    ) -> Self {
        let dir = folder.join("prometheus");
        std::fs::create_dir(&dir).expect("folder");
        let certificates = folder.join("coordinator/prometheus");
        wait_for("Prometheus' certificate", Duration::from_secs(30), || {
            certificates.join("prometheus.pem").exists().then_some(())
        });
        write(&dir, "alerts.yml", &rules(changes));
        let process = prometheus(&dir, &certificates, coordinator, interval);
        let address = own(PROMETHEUS);
        ready("Prometheus", address);
        Self { process, address }
    }

    /// The series that a query returns, with labels and values.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        let answer = http::get(
            self.address,
            "localhost",
            &format!("/api/v1/query?query={encoded}"),
        );
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        assert_ne!(json["status"], "error", "{expression}: {}", answer.body);
        json["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until a query returns something.
    pub fn wait(&self, expression: &str, limit: Duration) {
        wait_for(&format!("Prometheus to find {expression}"), limit, || {
            (!self.query(expression).is_empty()).then_some(())
        });
    }

    /// Runs `monitoring/deploy/tests/panels.py`: every query of every dashboard, subject to the options.
    pub fn panels(&self, options: &[&str]) -> Output {
        let mut panels = Command::new("python3");
        panels.arg(root().join("monitoring/deploy/tests/panels.py"));
        run(panels.arg(format!("http://{}", self.address)).args(options))
    }
}

fn ready(name: &str, address: SocketAddr) {
    wait_for(name, Duration::from_secs(30), || {
        (http::get(address, "localhost", "/-/ready").status == 200).then_some(())
    });
}

impl Watch {
    pub fn start(cell: &Cell) -> Self {
        Self::with(cell, &[])
    }

    /// For stand-ins, none of whose databases answers a question: that is no news.
    pub fn start_for_standins(cell: &Cell) -> Self {
        Self::with(cell, &[no_database()])
    }

    /// With these changes to the shipped rules.
    fn with(cell: &Cell, changes: &[(&str, String)]) -> Self {
        let (receiver, received) = receive();
        let dir = cell.dir.path().join("alertmanager");
        std::fs::create_dir(&dir).expect("folder");
        let _alertmanager = alertmanager(&dir, receiver, own(ALERTMANAGER));
        ready("Alertmanager", own(ALERTMANAGER));
        Self {
            prometheus: Prometheus::with(cell.dir.path(), cell.http(), "1s", changes),
            _alertmanager,
            received,
        }
    }

    pub fn pid(&self) -> u32 {
        self.prometheus.process.pid()
    }

    pub fn query(&self, expression: &str) -> Vec<Value> {
        self.prometheus.query(expression)
    }

    pub fn wait(&self, expression: &str, limit: Duration) {
        self.prometheus.wait(expression, limit);
    }

    pub fn panels(&self, options: &[&str]) -> Output {
        self.prometheus.panels(options)
    }

    /// All alerts that the receiver was told are firing since [`Watch::forget`].
    pub fn told(&self) -> BTreeSet<Told> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .firing
            .clone()
    }

    /// All alerts that it was told are resolved since then.
    pub fn over(&self) -> BTreeSet<Told> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .over
            .clone()
    }

    /// Forgets the notifications so far.
    pub fn forget(&self) {
        *self.received.lock().unwrap_or_else(PoisonError::into_inner) = Received::default();
    }
}

/// Runs `monitoring/deploy/tests/inhibition.py` with a real Alertmanager: which alert silences which.
pub fn inhibitions() -> Output {
    let dir = tempfile::Builder::new()
        .prefix("isyone-test-")
        .tempdir()
        .expect("temporary folder");
    let (receiver, _) = receive();
    let _alertmanager = alertmanager(dir.path(), receiver, local(ALERTMANAGER_ALONE));
    ready("Alertmanager", local(ALERTMANAGER_ALONE));
    let script = root().join("monitoring/deploy/tests/inhibition.py");
    run(Command::new("python3")
        .arg(script)
        .arg(format!("http://{}", local(ALERTMANAGER_ALONE))))
}

/// A port of the test's lane.
fn own(first: u16) -> SocketAddr {
    local(Lane::here().port(first))
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn shipped(file: &str) -> String {
    std::fs::read_to_string(root().join("monitoring/deploy").join(file)).expect(file)
}

/// Replaces text that must be there: otherwise a changed shipped file would be tested without the replacement.
fn replaced(text: &str, changes: &[(&str, String)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(
            text.contains(old),
            "the shipped file does not contain `{old}` any more"
        );
        text.replace(old, new)
    })
}

fn prometheus(dir: &Path, certificates: &Path, coordinator: SocketAddr, interval: &str) -> Daemon {
    let config = replaced(
        &shipped("prometheus.yml"),
        &[
            ("_interval: 15s", format!("_interval: {interval}")),
            ("refresh_interval: 5s", "refresh_interval: 1s".to_owned()),
            ("refresh_interval: 60s", "refresh_interval: 1s".to_owned()),
            ("127.0.0.1:7480", coordinator.to_string()),
            ("127.0.0.1:9093", own(ALERTMANAGER).to_string()),
            (
                "_file: isyone/",
                format!("_file: {}/", certificates.display()),
            ),
        ],
    );
    let file = write(dir, "prometheus.yml", &config);
    let mut command = Command::new(tool("prometheus"));
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!(
        "--storage.tsdb.path={}",
        dir.join("data").display()
    ));
    command.arg(format!("--web.listen-address={}", own(PROMETHEUS)));
    Daemon::start("prometheus", &mut command, &dir.join("prometheus.log"))
}

/// PostgreSQLDown is never told. It would silence the tenants' other alerts.
fn no_database() -> (&'static str, String) {
    let down = "(pg_up{job=\"postgres\"} == 0 or (up{job=\"postgres\"} == 0 ";
    (down, down.replace("== 0", "> 1"))
}

/// The shipped rules, in a hurry.
fn rules(changes: &[(&str, String)]) -> String {
    replaced(&hurried(&shipped("alerts.yml")), changes)
}

/// The same rules with every `for:` divided by [`HURRY`]; expressions, labels and texts stay.
fn hurried(rules: &str) -> String {
    let line = |line: &str| match line.split_once("for: ") {
        Some((before, span)) if before.trim().is_empty() => {
            format!("{before}for: {}s\n", seconds(span) / HURRY)
        }
        _ => format!("{line}\n"),
    };
    rules.lines().map(line).collect()
}

fn seconds(span: &str) -> u64 {
    let (number, unit) = span.split_at(span.len() - 1);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        other => panic!("{span}: what is {other}?"),
    };
    number.parse::<u64>().expect("a number") * unit
}

/// Routes and inhibitions are the shipped ones; every receiver is the test's own.
fn alertmanager(dir: &Path, receiver: SocketAddr, listen: SocketAddr) -> Daemon {
    let shipped = shipped("alertmanager.yml");
    let (_, rest) = shipped.split_once("\nroute:\n").expect("a route");
    let (route, rest) = rest.split_once("\nreceivers:\n").expect("receivers");
    let (receivers, inhibitions) = rest.split_once("\ninhibit_rules:\n").expect("inhibitions");
    let route = replaced(
        route,
        &[
            ("group_wait: 15s", "group_wait: 3s".to_owned()),
            ("group_interval: 5m", "group_interval: 3s".to_owned()),
        ],
    );
    let webhook =
        format!("    webhook_configs: [{{url: \"http://{receiver}/\", send_resolved: true}}]\n");
    let names = receivers
        .lines()
        .filter(|line| line.starts_with("  - name: "));
    let receivers: String = names.map(|name| format!("{name}\n{webhook}")).collect();
    let config = format!("route:\n{route}\nreceivers:\n{receivers}\ninhibit_rules:\n{inhibitions}");
    let file = write(dir, "alertmanager.yml", &config);
    let mut command = Command::new(tool("alertmanager"));
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.path={}", dir.join("data").display()));
    command
        .arg(format!("--web.listen-address={listen}"))
        .arg("--cluster.listen-address=");
    Daemon::start("alertmanager", &mut command, &dir.join("alertmanager.log"))
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).expect(name);
    path
}

/// The webhook: an HTTP server that records the alerts it gets. Ends with the test's process.
fn receive() -> (SocketAddr, Arc<Mutex<Received>>) {
    let listener = TcpListener::bind(local(0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    let received: Arc<Mutex<Received>> = Arc::default();
    let keep = received.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let told = notification(stream).unwrap_or_default();
            let mut keep = keep.lock().unwrap_or_else(PoisonError::into_inner);
            keep.firing.extend(told.firing);
            keep.over.extend(told.over);
        }
    });
    (address, received)
}

/// Reads one POST: the firing and the resolved alerts.
fn notification(mut stream: TcpStream) -> Option<Received> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; Some(length).filter(|length| *length <= MAX_BODY)?];
    reader.read_exact(&mut body).ok()?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .ok()?;
    let json: Value = serde_json::from_slice(&body).ok()?;
    let alerts = json["alerts"].as_array()?;
    let with = |status: &str| {
        alerts
            .iter()
            .filter(|alert| alert["status"] == status)
            .map(|alert| told(&alert["labels"]))
            .collect()
    };
    Some(Received {
        firing: with("firing"),
        over: with("resolved"),
    })
}

fn told(labels: &Value) -> Told {
    let label = |name: &str| labels[name].as_str().unwrap_or_default().to_owned();
    let whom = Some(label("tenant"))
        .filter(|tenant| !tenant.is_empty())
        .unwrap_or_else(|| label("host"));
    (label("alertname"), whom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_answers_nobody_is_no_news_of_a_standin() {
        let told = "up{job=\"postgres\"} == 0";
        assert!(!rules(&[no_database()]).contains(told));
        assert!(rules(&[]).contains(told));
    }

    #[test]
    fn only_durations_are_hurried() {
        let rules = "      - alert: A\n        expr: x > 60\n        for: 2m\n        labels: {severity: critical}\n        description: 'waits for: 5m'\n";
        assert_eq!(hurried(rules), rules.replace("for: 2m\n", "for: 24s\n"));
        assert_eq!(
            hurried(&shipped("alerts.yml")).lines().count(),
            shipped("alerts.yml").lines().count()
        );
    }
}

//! A real Traefik with the deployed settings: when a change is effective at it, and what it costs.
//!
//! Behind it are the tenants' addresses, all of them answered by this process.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::{http, process::Daemon, root, tool};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::fleet::{FIRST_PORT, Fleet, PER_HOST, others};
use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
    samples::Samples,
};

/// Traefik, apart from one that may run on this machine.
const EDGE: u16 = 16_090;
const DASHBOARD: u16 = 16_091;
const METRICS: u16 = 16_092;
/// Between two looks at the edge.
const LOOK: Duration = Duration::from_millis(5);
/// A change that is not effective by then is none.
const PATIENCE: Duration = Duration::from_secs(60);
/// Under a stream of changes: between two of them.
const STREAM_PACE: Duration = Duration::from_millis(100);
/// How the deployed configuration asks, and how it would without waiting.
const WAITING: [&str; 2] = ["/traefik/config?wait=4", "/traefik/config"];

pub(super) fn measure(run: &Run, report: &mut Report) -> Result<()> {
    if !tool("traefik").exists() {
        ensure!(run.small, "there is no Traefik: `cargo xtask images` gets one");
        report.note("No Traefik here (`cargo xtask images` gets one): nothing was measured at an edge.");
        return Ok(());
    }
    let sizes: &[usize] = run.pick(&[1_000, 10_000], &[100]);
    for tenants in sizes {
        Edge::start(*tenants)?.measure(run, report)?;
    }
    report.note(
        "Effective: from the order at the coordinator until Traefik answers the tenant's visitors in the new way (its own page, or \
         the page of suspended tenants); looked at every 5 ms. Traefik's CPU of a change is what it used beyond its use at rest. \
         At rest it probes every tenant's health each 10 s. Traefik builds everything anew for a change, on all cores; \
         that bounds what more tenants on one edge can reach, and is why edges share them.",
    );
    report.note(
        "The target is that of a change that comes alone, after a pause. Under a stream the next change is ordered every 100 ms, or when the \
         last order is through; looked at is one of its changes after the other, for as long as the stream lasts, and the pace is the one \
         that was reached meanwhile. Traefik's CPU under a stream is measured apart, without our looks. All tenants run again before \
         Traefik asks in the other way.",
    );
    Ok(())
}

/// A change that was ordered, and what a visitor gets when it is effective.
struct Order {
    tenant: usize,
    status: u16,
    asked: Instant,
}

/// What a stream of changes has shown.
struct Stream {
    effective: Samples,
    pace: f64,
}

/// An edge and what is before and behind it.
struct Edge {
    fleet: Fleet,
    traefik: Daemon,
    watched: Watched,
    dir: tempfile::TempDir,
}

impl Edge {
    fn start(tenants: usize) -> Result<Self> {
        eprintln!("  an edge with {tenants} tenants");
        let fleet = Fleet::start(tenants, 0)?;
        fleet.runtime.block_on(visited())?;
        let dir = tempfile::tempdir()?;
        let traefik = traefik(&fleet, dir.path(), WAITING[0])?;
        let watched = Watched::new(traefik.pid())?;
        let edge = Self { fleet, traefik, watched, dir };
        edge.until(edge.fleet.tenants.len() - 1, 200)?;
        Ok(edge)
    }

    /// What a visitor of a tenant gets.
    fn visit(&self, tenant: usize) -> u16 {
        let host = format!("{}.isy.one", self.fleet.tenants[tenant]);
        http::get(([127, 0, 0, 1], EDGE).into(), &host, "/").status
    }

    fn until(&self, tenant: usize, status: u16) -> Result<()> {
        let begin = Instant::now();
        while self.visit(tenant) != status {
            ensure!(
                begin.elapsed() < PATIENCE,
                "tenant {tenant}: {} in place of {status}",
                self.visit(tenant)
            );
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn measure(mut self, run: &Run, report: &mut Report) -> Result<()> {
        let tenants = self.fleet.tenants.len();
        let settle = Duration::from_millis(if tenants > 1_000 { 12_000 } else { run.pick(2_500, 500) });
        std::thread::sleep(settle);
        let rest = self.at_rest(run)?;
        let (mut effective, mut cpu) = (Samples::default(), Samples::default());
        for round in 0..run.pick(if tenants > 1_000 { 5 } else { 15 }, 2) {
            // Twice each: suspended and resumed.
            let tenant = round / 2 * 7 % tenants;
            let mark = self.watched.cpu()?;
            let begin = Instant::now();
            let runs = self.fleet.toggle(&self.fleet.tenants[tenant])?;
            self.until(tenant, if runs { 200 } else { 503 })?;
            effective.push(begin.elapsed().as_secs_f64());
            std::thread::sleep(settle);
            let used = (self.watched.cpu()?.saturating_sub(mark)).as_secs_f64();
            cpu.push((used - rest.0 * begin.elapsed().as_secs_f64()).max(0.0));
        }
        let target = (tenants == 1_000).then_some(Target::AtMost(0.5));
        report.add(
            &format!("an edge with {tenants} tenants: a lone change is effective"),
            Unit::Seconds,
            &effective,
            target,
        );
        report.add(
            &format!("an edge with {tenants} tenants: Traefik's CPU of a change"),
            Unit::Seconds,
            &cpu,
            None,
        );
        let length = Duration::from_secs(run.pick(15, 2));
        let mark = self.watched.mark()?;
        self.stream(length, false)?;
        let load = self.watched.load_since(mark)?;
        let name = format!("an edge with {tenants} tenants: Traefik under a change every 100 ms");
        report.add_one(&name, Unit::Core, load, None);
        let stream = self.stream(length, true)?;
        let name =
            format!("an edge with {tenants} tenants: a change is effective, under a change every 100 ms");
        report.add(&name, Unit::Seconds, &stream.effective, None);
        let name = format!("an edge with {tenants} tenants: changes a second in that stream");
        report.add_one(&name, Unit::PerSecond, stream.pace, None);
        self.all_run()?;
        self.report_rest(report, rest, "waiting for changes");
        self.ask_otherwise(WAITING[1])?;
        std::thread::sleep(settle);
        let rest = self.at_rest(run)?;
        self.report_rest(report, rest, "asking every 200 ms");
        drop(self.traefik);
        self.fleet.stop();
        Ok(())
    }

    fn report_rest(&self, report: &mut Report, rest: (f64, f64), how: &str) {
        let tenants = self.fleet.tenants.len();
        for (who, share) in [("Traefik", rest.0), ("coordinator", rest.1)] {
            report.add_one(
                &format!("an edge with {tenants} tenants at rest, {how}: {who}"),
                Unit::Core,
                share,
                None,
            );
        }
    }

    /// Shares of a core that Traefik and the coordinator (with the tenants' answers to health probes) use.
    fn at_rest(&self, run: &Run) -> Result<(f64, f64)> {
        let (mark, ours, begin) = (self.watched.mark()?, others(), Instant::now());
        std::thread::sleep(Duration::from_secs(run.pick(10, 1)));
        let ours = others().saturating_sub(ours).as_secs_f64() / begin.elapsed().as_secs_f64();
        Ok((self.watched.load_since(mark)?, ours))
    }

    /// Tenants change one after the other; with `look`, when some of the changes are effective.
    fn stream(&self, length: Duration, look: bool) -> Result<Stream> {
        let begin = Instant::now();
        let (mut effective, mut changes, mut watched) = (Samples::default(), 0, None);
        while begin.elapsed() < length {
            let (tenant, asked) = (changes % self.fleet.tenants.len(), Instant::now());
            let runs = self.fleet.toggle(&self.fleet.tenants[tenant])?;
            changes += 1;
            if look {
                watched = watched.or(Some(Order { tenant, status: if runs { 200 } else { 503 }, asked }));
            }
            while asked.elapsed() < STREAM_PACE {
                if let Some(order) = watched.take_if(|order| self.visit(order.tenant) == order.status) {
                    effective.push(order.asked.elapsed().as_secs_f64());
                }
                std::thread::sleep(LOOK);
            }
        }
        let pace = changes as f64 / begin.elapsed().as_secs_f64();
        // The last one, so that a slow edge has a sample, too.
        if let Some(order) = watched {
            self.until(order.tenant, order.status)?;
            effective.push(order.asked.elapsed().as_secs_f64());
        }
        Ok(Stream { effective, pace })
    }

    /// Resumes whoever is suspended, and waits until Traefik knows.
    fn all_run(&self) -> Result<()> {
        let mut resumed = Vec::new();
        for (index, tenant) in self.fleet.tenants.iter().enumerate() {
            if !self.fleet.runs(tenant)? {
                self.fleet.toggle(tenant)?;
                resumed.push(index);
            }
        }
        resumed.into_iter().try_for_each(|tenant| self.until(tenant, 200))
    }

    fn ask_otherwise(&mut self, path: &str) -> Result<()> {
        self.traefik.kill();
        self.traefik = traefik(&self.fleet, self.dir.path(), path)?;
        self.watched = Watched::new(self.traefik.pid())?;
        let last = self.fleet.tenants.len() - 1;
        let begin = Instant::now();
        while self.visit(last) != 200 {
            ensure!(begin.elapsed() < PATIENCE, "Traefik did not come back");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// Traefik with the deployed configuration, but for its ports and how it asks.
fn traefik(fleet: &Fleet, dir: &Path, path: &str) -> Result<Daemon> {
    let deployed = std::fs::read_to_string(root().join("traefik/deploy/traefik.yml"))?;
    let asking = format!("http://{}{path}", fleet.running.http);
    let deployed_asking = format!("http://127.0.0.1:7480{}", WAITING[0]);
    ensure!(deployed.contains(&deployed_asking), "traefik.yml has a new form");
    let config = deployed
        .replace("\":80\"", &format!("\"127.0.0.1:{EDGE}\""))
        .replace("\":443\"", "\"127.0.0.1:0\"")
        .replace("/var/log/isyone-edge/access.log", &dir.join("access.log").display().to_string())
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{DASHBOARD}"))
        .replace("127.0.0.1:8082", &format!("127.0.0.1:{METRICS}"))
        .replace(&deployed_asking, &asking);
    let file = dir.join("traefik.yml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(tool("traefik"));
    command.arg(format!("--configFile={}", file.display()));
    Ok(Daemon::start("traefik", &mut command, &dir.join("traefik.log")))
}

/// Answers at all ports that tenants may have, at all addresses.
async fn visited() -> Result<()> {
    for port in (FIRST_PORT..).take(2 * PER_HOST) {
        let listener = TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("port {port}"))?;
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(answer(tcp));
            }
        });
    }
    Ok(())
}

/// The same to every request, until the other end goes.
async fn answer(mut tcp: TcpStream) {
    let mut request = [0; 4_096];
    // A request of Traefik's comes in one piece.
    while tcp.read(&mut request).await.is_ok_and(|n| n > 0) {
        if tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

//! `bench edge`: a real Traefik with the deployed settings and many tenants: when a change takes effect, its cost there
//! and at the coordinator, the bytes sent for it, and whether all tenants still answer after the coordinator is killed.
//!
//! The coordinator runs in its own process ([`coordinator`]). This process answers at all tenants' addresses behind
//! Traefik.

pub(crate) mod coordinator;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_fleet::shards::Shards;
use isyone_tests::e2e::{http, process::Daemon, root, tool};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
    publish::fleet::{FIRST_PORT, PER_HOST},
    samples::Samples,
};
use coordinator::Coordinator;

/// Traefik's port, different from that of another Traefik on this machine.
const EDGE: u16 = 16_090;
const DASHBOARD: u16 = 16_091;
const METRICS: u16 = 16_092;
/// Pause between two requests to the edge.
const LOOK: Duration = Duration::from_millis(5);
/// A change that takes longer than this counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between changes in a stream.
const STREAM_PACE: Duration = Duration::from_millis(100);
/// How the deployed configuration polls, and the same without waiting.
const WAITING: [&str; 2] = ["/traefik/config?wait=4", "/traefik/config"];
/// Edges that share the tenants, in the part with shards.
const SHARES: usize = 10;
/// Wait after the coordinator's death: Traefik has failed to reach it several times by then.
const DEAD: Duration = Duration::from_secs(5);

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if !tool("traefik").exists() {
        ensure!(
            run.small,
            "there is no Traefik: `cargo xtask images` gets one"
        );
        report.note(
            "No Traefik here (`cargo xtask images` gets one): nothing was measured at an edge.",
        );
        return Ok(report);
    }
    // On its own threads: it must answer even when the coordinator is dead.
    let tenants = Runtime::new()?;
    tenants.block_on(visited())?;
    let sizes: &[usize] = run.pick(&[1_000, 10_000], &[100]);
    for tenants in sizes {
        Edge::start(*tenants, 0)?.measure(run, &mut report)?;
    }
    Edge::start(run.pick(10_000, 200), SHARES)?.measure(run, &mut report)?;
    tenants.shutdown_background();
    notes(&mut report);
    Ok(report)
}

fn notes(report: &mut Report) {
    report.note(
        "Effective: from the order at the coordinator until Traefik answers the tenant's visitors in the new way (its own page, or \
         the page of suspended tenants); looked at every 5 ms. Traefik's CPU of a change is what it used beyond its use at rest. \
         Traefik builds everything anew for a change, on all cores; that bounds what more tenants on one edge can reach, and is why \
         edges share them. It checks nobody's health. With more than 2,000 tenants it is watched for 12 s after a change, with fewer for \
         2.5 s.",
    );
    report.note(
        "The target is that of a change that comes alone, after a pause, at an edge with 1,000 tenants. Under a stream the coordinator itself \
         waits between two versions of a document, 0.8 ms for each of its tenants and at least 100 ms, so that Traefik is not busy all the \
         time: 0.8 s at 1,000 tenants, 8 s at 10,000; a change that comes meanwhile goes out with the next version.",
    );
    report.note(
        "The stream: the next change is ordered every 100 ms, or when the last order is through; looked at is one of its changes after the \
         other, for as long as the stream lasts, and the pace is the one that was reached meanwhile. Traefik's CPU under a stream is measured \
         apart, without our looks. All tenants run again before Traefik asks in the other way.",
    );
    report.note(
        "Sent: what the coordinator wrote to its sockets from the order until the change was effective: the whole document, to each edge that has \
         the tenant, for Traefik's HTTP provider knows no deltas. So the bytes grow with the edge's tenants, however small the change; what the \
         coordinator renders for it does not: the tenant's part alone is made anew. At rest Traefik gets the same document \
         again every 4 s, because it cannot say which one it has. The coordinator's memory is that of a process of its own with its store in \
         memory; its CPU does not contain the tenants' answers.",
    );
    report.note(format!(
        "Killed: SIGKILL, {} s later every tenant of the edge is asked for its page through Traefik, one after the other; a failure is any answer but the \
         tenant's own.",
        DEAD.as_secs()
    ));
}

/// A change, and the status that a visitor gets once it is effective.
struct Order {
    tenant: usize,
    status: u16,
    asked: Instant,
}

/// Load at rest: shares of a core, and bytes sent per second.
struct Rest {
    traefik: f64,
    coordinator: f64,
    sent: f64,
}

/// Results of a stream of changes.
struct Stream {
    effective: Samples,
    pace: f64,
}

/// An edge and its coordinator.
struct Edge {
    /// Prefix of this edge's figures.
    name: String,
    coordinator: Coordinator,
    /// The edge's tenants, by number.
    tenants: Vec<usize>,
    shard: Option<String>,
    traefik: Daemon,
    watched: Watched,
    dir: tempfile::TempDir,
}

impl Edge {
    /// Starts a single edge, or with `shares` the first of that many edges that share the tenants.
    fn start(tenants: usize, shares: usize) -> Result<Self> {
        let name = if shares == 0 {
            format!("an edge with {tenants} tenants")
        } else {
            format!("one of {shares} edges that share {tenants} tenants")
        };
        eprintln!("  {name}");
        let coordinator = Coordinator::start(tenants, shares)?;
        let names: Vec<_> = (0..shares)
            .map(|n| format!("e{n}").parse())
            .collect::<Result<_, _>>()?;
        let shard = names.first().map(ToString::to_string);
        let shards = Shards::new(names);
        let own = |tenant: &usize| {
            Coordinator::name(*tenant).is_ok_and(|name| shards.of(name.as_str()).unwrap_or(0) == 0)
        };
        let tenants: Vec<usize> = (0..tenants).filter(own).collect();
        let dir = tempfile::tempdir()?;
        let traefik = traefik(&coordinator, shard.as_deref(), dir.path(), WAITING[0])?;
        let watched = Watched::new(traefik.pid())?;
        let edge = Self {
            name,
            coordinator,
            tenants,
            shard,
            traefik,
            watched,
            dir,
        };
        edge.until(*edge.tenants.last().context("an edge has tenants")?, 200)?;
        Ok(edge)
    }

    /// The status that a visitor of a tenant gets.
    fn visit(&self, tenant: usize) -> u16 {
        http::get(
            ([127, 0, 0, 1], EDGE).into(),
            &format!("tenant-{tenant}.isy.one"),
            "/",
        )
        .status
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
        let tenants = self.tenants.len();
        let settle = Duration::from_millis(if tenants > 2_000 {
            12_000
        } else {
            run.pick(2_500, 500)
        });
        std::thread::sleep(settle);
        let rest = self.at_rest(run)?;
        self.lone_changes(run, report, rest.traefik, settle)?;
        for (who, watched) in [
            ("Traefik", &self.watched),
            ("coordinator", &self.coordinator.watched),
        ] {
            let name = format!("{}: memory of {who}", self.name);
            report.add_one(&name, Unit::Bytes, watched.resident()? as f64, None);
        }
        if self.shard.is_none() {
            self.streams(run, report)?;
        }
        self.all_run()?;
        self.report_rest(report, &rest, "waiting for changes");
        if self.shard.is_none() {
            self.ask_otherwise(WAITING[1])?;
            std::thread::sleep(settle);
            let rest = self.at_rest(run)?;
            self.report_rest(report, &rest, "asking every 200 ms");
        }
        self.kill_the_coordinator(report)
    }

    /// Single changes, each after a pause.
    fn lone_changes(
        &mut self,
        run: &Run,
        report: &mut Report,
        rest: f64,
        settle: Duration,
    ) -> Result<()> {
        let tenants = self.tenants.len();
        let [mut effective, mut cpu, mut own_cpu, mut sent] = [(); 4].map(|()| Samples::default());
        for round in 0..run.pick(if tenants > 2_000 { 5 } else { 15 }, 2) {
            // Each tenant twice: once suspended, once resumed.
            let tenant = self.tenants[round / 2 * 7 % tenants];
            let (mark, own) = (self.watched.cpu()?, &self.coordinator.watched);
            let (own_mark, written) = (own.cpu()?, own.written()?);
            let begin = Instant::now();
            let runs = self.coordinator.toggle(tenant)?;
            self.until(tenant, if runs { 200 } else { 503 })?;
            effective.push(begin.elapsed().as_secs_f64());
            sent.push(self.coordinator.watched.written()?.saturating_sub(written) as f64);
            own_cpu.push(
                self.coordinator
                    .watched
                    .cpu()?
                    .saturating_sub(own_mark)
                    .as_secs_f64(),
            );
            std::thread::sleep(settle);
            let used = (self.watched.cpu()?.saturating_sub(mark)).as_secs_f64();
            cpu.push((used - rest * begin.elapsed().as_secs_f64()).max(0.0));
        }
        let target = (tenants == 1_000).then_some(Target::AtMost(0.5));
        let name = |what: &str| format!("{}: {what}", self.name);
        report.add(
            &name("a lone change is effective"),
            Unit::Seconds,
            &effective,
            target,
        );
        report.add(
            &name("Traefik's CPU of a change"),
            Unit::Seconds,
            &cpu,
            None,
        );
        report.add(
            &name("the coordinator's CPU of a change"),
            Unit::Seconds,
            &own_cpu,
            None,
        );
        report.add(&name("sent for a change"), Unit::Bytes, &sent, None);
        Ok(())
    }

    fn streams(&mut self, run: &Run, report: &mut Report) -> Result<()> {
        let length = Duration::from_secs(run.pick(15, 2));
        let mark = self.watched.mark()?;
        self.stream(length, false)?;
        let load = self.watched.load_since(mark)?;
        let name = format!("{}: Traefik under a change every 100 ms", self.name);
        report.add_one(&name, Unit::Core, load, None);
        let stream = self.stream(length, true)?;
        let name = format!(
            "{}: a change is effective, under a change every 100 ms",
            self.name
        );
        report.add(&name, Unit::Seconds, &stream.effective, None);
        let name = format!("{}: changes a second in that stream", self.name);
        report.add_one(&name, Unit::PerSecond, stream.pace, None);
        Ok(())
    }

    /// Kills the coordinator and then visits every tenant.
    fn kill_the_coordinator(mut self, report: &mut Report) -> Result<()> {
        self.coordinator.kill();
        std::thread::sleep(DEAD);
        let lost = self
            .tenants
            .iter()
            .filter(|tenant| self.visit(**tenant) != 200)
            .count();
        let name = format!(
            "{}: coordinator killed, of {} tenants that do not answer",
            self.name,
            self.tenants.len()
        );
        report.add_one(&name, Unit::Count, lost as f64, Some(Target::AtMost(0.0)));
        Ok(())
    }

    fn report_rest(&self, report: &mut Report, rest: &Rest, how: &str) {
        for (who, share) in [("Traefik", rest.traefik), ("coordinator", rest.coordinator)] {
            report.add_one(
                &format!("{} at rest, {how}: {who}", self.name),
                Unit::Core,
                share,
                None,
            );
        }
        let name = format!("{} at rest, {how}: sent in a second", self.name);
        report.add_one(&name, Unit::Bytes, rest.sent, None);
    }

    /// Load while nothing changes.
    fn at_rest(&self, run: &Run) -> Result<Rest> {
        let own = &self.coordinator.watched;
        let (mark, own_mark, written, begin) = (
            self.watched.mark()?,
            own.mark()?,
            own.written()?,
            Instant::now(),
        );
        std::thread::sleep(Duration::from_secs(run.pick(12, 1)));
        let sent = own.written()?.saturating_sub(written) as f64 / begin.elapsed().as_secs_f64();
        Ok(Rest {
            traefik: self.watched.load_since(mark)?,
            coordinator: own.load_since(own_mark)?,
            sent,
        })
    }

    /// Changes one tenant after another; with `look`, also measures when some of the changes take effect.
    fn stream(&mut self, length: Duration, look: bool) -> Result<Stream> {
        let begin = Instant::now();
        let (mut effective, mut changes, mut watched) = (Samples::default(), 0, None);
        while begin.elapsed() < length {
            let (tenant, asked) = (self.tenants[changes % self.tenants.len()], Instant::now());
            let runs = self.coordinator.toggle(tenant)?;
            changes += 1;
            if look {
                watched = watched.or(Some(Order {
                    tenant,
                    status: if runs { 200 } else { 503 },
                    asked,
                }));
            }
            while asked.elapsed() < STREAM_PACE {
                if let Some(order) =
                    watched.take_if(|order| self.visit(order.tenant) == order.status)
                {
                    effective.push(order.asked.elapsed().as_secs_f64());
                }
                std::thread::sleep(LOOK);
            }
        }
        let pace = changes as f64 / begin.elapsed().as_secs_f64();
        // Wait for the last one too, so that a slow edge has a sample.
        if let Some(order) = watched {
            self.until(order.tenant, order.status)?;
            effective.push(order.asked.elapsed().as_secs_f64());
        }
        Ok(Stream { effective, pace })
    }

    /// Resumes all suspended tenants, and waits until Traefik knows.
    fn all_run(&mut self) -> Result<()> {
        let suspended: Vec<usize> = self
            .tenants
            .iter()
            .copied()
            .filter(|tenant| !self.coordinator.runs[*tenant])
            .collect();
        for tenant in &suspended {
            self.coordinator.toggle(*tenant)?;
        }
        suspended
            .into_iter()
            .try_for_each(|tenant| self.until(tenant, 200))
    }

    fn ask_otherwise(&mut self, path: &str) -> Result<()> {
        self.traefik.kill();
        self.traefik = traefik(
            &self.coordinator,
            self.shard.as_deref(),
            self.dir.path(),
            path,
        )?;
        self.watched = Watched::new(self.traefik.pid())?;
        self.until(self.tenants[self.tenants.len() - 1], 200)
            .context("Traefik did not come back")
    }
}

/// Traefik with the deployed configuration, except for its ports and how it polls.
fn traefik(
    coordinator: &Coordinator,
    shard: Option<&str>,
    dir: &Path,
    path: &str,
) -> Result<Daemon> {
    let deployed = std::fs::read_to_string(root().join("traefik/deploy/traefik.yml"))?;
    let own = shard.map(|shard| format!("/traefik/config/{shard}"));
    let path = own.map_or_else(
        || path.to_owned(),
        |own| path.replace("/traefik/config", &own),
    );
    let asking = format!("http://{}{path}", coordinator.http);
    let deployed_asking = format!("http://127.0.0.1:7480{}", WAITING[0]);
    ensure!(
        deployed.contains(&deployed_asking),
        "traefik.yml has a new form"
    );
    let config = deployed
        .replace("\":80\"", &format!("\"127.0.0.1:{EDGE}\""))
        .replace("\":443\"", "\"127.0.0.1:0\"")
        .replace(
            "/var/log/isyone-edge/access.log",
            &dir.join("access.log").display().to_string(),
        )
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{DASHBOARD}"))
        .replace("127.0.0.1:8082", &format!("127.0.0.1:{METRICS}"))
        .replace(&deployed_asking, &asking);
    let file = dir.join("traefik.yml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(tool("traefik"));
    command.arg(format!("--configFile={}", file.display()));
    Ok(Daemon::start(
        "traefik",
        &mut command,
        &dir.join("traefik.log"),
    ))
}

/// Answers at every address and port that tenants may have.
async fn visited() -> Result<()> {
    for port in (FIRST_PORT..).take(2 * PER_HOST) {
        let listener = TcpListener::bind(("0.0.0.0", port))
            .await
            .with_context(|| format!("port {port}"))?;
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(answer(tcp));
            }
        });
    }
    Ok(())
}

/// Sends the same answer to every request until the peer closes.
async fn answer(mut tcp: TcpStream) {
    let mut request = [0; 4_096];
    // Traefik's requests arrive in one piece.
    while tcp.read(&mut request).await.is_ok_and(|n| n > 0) {
        if tcp
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .is_err()
        {
            return;
        }
    }
}

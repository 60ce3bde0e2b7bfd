//! `bench probes`: what probing each of 100,000 tenants once a minute costs the coordinator: choosing whose turn it is,
//! probing, storing the result, and the page for Prometheus. CPU time only. Not here: what visitors' requests cost an
//! edge.

mod peer;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use isyone_coordinator::edges::probes::ask::Asker;
use isyone_fleet::probes::{judge::Probe, rota::Rota};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Run,
    figures::{Report, Target, Unit},
    publish::{
        cost::ask,
        fleet::{Fleet, here, others},
    },
    samples::Samples,
};

/// As in the product: the default interval, and the tick of coordinator/src/edges/probes.
const INTERVAL: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// Concurrent probes here. The product may have many more, but the cost of one does not depend on it.
const AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let tenants = run.pick(100_000, 1_000);
    let asked = asking(run, &mut report)?;
    let fleet = Fleet::start(tenants, run.pick(100, 2))?;
    let turns = turns(run, &fleet, &mut report);
    let kept = kept(run, &fleet, &mut report)?;
    pages(run, &fleet, &mut report)?;
    fleet.stop();
    let second = tenants as f64 / INTERVAL.as_secs_f64();
    let name = format!("{tenants} tenants, each once a minute through TLS: all of it but the page");
    let core = second * (asked + kept) + turns;
    report.add_one(&name, Unit::Core, core, Some(Target::AtMost(0.5)));
    report.note(
        "A probe is measured alone: this thread asks, and what answers has a thread of its own, whose CPU time is not counted. Through \
         TLS 1.3 each time with a whole handshake and P-256 certificates, a chain of two below a root, which is checked as a browser \
         checks it; without TLS for comparison.",
    );
    report.note(
        "The page is asked for over HTTP with all tenants known; it shows 20,000 at most, so a fleet of this size is scraped shard by \
         shard. The time is that of the whole coordinator from the request to the last byte.",
    );
    Ok(report)
}

/// CPU seconds of one probe through TLS.
fn asking(run: &Run, report: &mut Report) -> Result<f64> {
    let (rounds, probes) = run.pick((10, 500), (1, 20));
    let dir = tempfile::tempdir()?;
    let (peer, ca) = peer::start(dir.path())?;
    let sides = [
        ("without TLS", Asker::plain(PATIENCE), peer.plain, None),
        (
            "through TLS",
            Asker::encrypted(PATIENCE, true, Some(&ca))?,
            peer.encrypted,
            Some(Target::AtMost(0.000_2)),
        ),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut last = 0.0;
    for (what, asker, address, target) in sides {
        let asker = Arc::new(asker);
        let mut cpu = Samples::default();
        for round in 0..=rounds {
            let begin = here();
            all_well(&runtime, &asker, address, probes)?;
            if round > 0 {
                cpu.push((here() - begin).as_secs_f64() / probes as f64);
            }
        }
        last = cpu.median();
        report.add(
            &format!("one probe {what}: CPU"),
            Unit::Seconds,
            &cpu,
            target,
        );
    }
    Ok(last)
}

fn all_well(runtime: &Runtime, asker: &Arc<Asker>, edge: SocketAddr, probes: usize) -> Result<()> {
    runtime.block_on(async {
        let mut running = JoinSet::new();
        for _ in 0..probes {
            if running.len() >= AT_ONCE {
                running.join_next().await.transpose()?;
            }
            let asker = asker.clone();
            running.spawn(async move {
                let probe = asker.ask(edge, peer::NAME, peer::NAME, unix_ms()).await;
                assert!(probe.failure.is_none(), "{:?}", probe.failure);
            });
        }
        while running.join_next().await.transpose()?.is_some() {}
        anyhow::Ok(())
    })
}

/// Share of a core needed to choose whose turn it is.
fn turns(run: &Run, fleet: &Fleet, report: &mut Report) -> f64 {
    let state = fleet.running.handle.snapshot();
    let (mut rota, mut share) = (Rota::default(), Samples::default());
    let looks = run.pick(300, 10);
    for round in 0..=run.pick(5, 1) {
        let begin = here();
        for _ in 0..looks {
            let turns = rota.next(&state.fleet.tenants, LOOK, INTERVAL, |_| true, || 0.5);
            std::hint::black_box(turns);
        }
        // Skip the first round: it is faster than the others.
        if round > 0 {
            share.push((here() - begin).as_secs_f64() / (LOOK.as_secs_f64() * f64::from(looks)));
        }
    }
    let name = format!(
        "whose turn it is, {} tenants once a minute",
        fleet.tenants.len()
    );
    report.add(&name, Unit::Core, &share, Some(Target::AtMost(0.02)));
    share.median()
}

/// CPU seconds to store the result of one probe. Afterwards all tenants have a result.
fn kept(run: &Run, fleet: &Fleet, report: &mut Report) -> Result<f64> {
    let running = &fleet.running;
    let (state, settings) = (running.handle.snapshot(), running.handle.settings());
    let tenants: Vec<_> = state.fleet.tenants.values().collect();
    let mut cpu = Samples::default();
    for _ in 0..run.pick(5, 1) {
        let begin = here();
        for (n, tenant) in tenants.iter().enumerate() {
            running.probes.take(&state, settings, tenant, found(n));
        }
        cpu.push((here() - begin).as_secs_f64() / tenants.len() as f64);
    }
    report.add(
        "keeping what one probe found: CPU",
        Unit::Seconds,
        &cpu,
        Some(Target::AtMost(0.000_05)),
    );
    ensure!(running.probes.take_news().is_empty(), "all are well");
    Ok(cpu.median())
}

/// A good answer through one of several edges.
fn found(n: usize) -> Probe {
    let edge = u8::try_from(n % 8).unwrap_or(0);
    Probe {
        at: unix_ms(),
        edge: ([192, 0, 2, edge], 443).into(),
        duration_ms: 34,
        status: Some(200),
        certificate_until_s: Some(1_795_420_800),
        failure: None,
    }
}

/// The page for all tenants, and for one shard.
fn pages(run: &Run, fleet: &Fleet, report: &mut Report) -> Result<()> {
    let shard = fleet.shard(&fleet.tenants[0]).context("there are shards")?;
    let whole = format!("the whole page, {} tenants", fleet.tenants.len());
    for (what, path, target) in [
        (whole.as_str(), "/probes".to_owned(), Target::AtMost(0.5)),
        (
            "one shard's page",
            format!("/probes?shard={shard}"),
            Target::AtMost(0.1),
        ),
    ] {
        let (mut cpu, mut bytes) = (Samples::default(), 0);
        for round in 0..=run.pick(10, 1) {
            let begin = others();
            bytes = ask(fleet.running.http, "GET", &path)?.len();
            std::thread::sleep(crate::publish::cost::TAIL);
            if round > 0 {
                cpu.push(others().saturating_sub(begin).as_secs_f64());
            }
        }
        ensure!(bytes > 10_000, "{path}: {bytes} bytes");
        report.add(
            &format!("{what}: CPU of the coordinator"),
            Unit::Seconds,
            &cpu,
            Some(target),
        );
        report.add_one(&format!("{what}: size"), Unit::Bytes, bytes as f64, None);
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench gives the time that the product takes as an argument"
)]
fn unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

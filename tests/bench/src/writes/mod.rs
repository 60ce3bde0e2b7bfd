//! `bench writes`: durable creates per second through the API of a real coordinator, each answered only after its
//! commit; and the cost of a placement.
//!
//! The load generator runs on the same cores, with one mTLS connection per client. Then far more clients come than the
//! coordinator accepts (overload). At the end the coordinator is killed under load, and everything that it had answered
//! must be in its database.

mod coordinator;
mod load;
mod overload;
mod place;
mod witnesses;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::{coordinator::Coordinator, load::Burst};
use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
    samples::Samples,
};

const CLIENTS: [usize; 3] = [1, 10, 100];

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    creates(run, &mut report)?;
    place::measure(run, &mut report)?;
    Ok(report)
}

/// Results of the rounds with one number of clients.
#[derive(Debug, Default)]
struct Series {
    per_second: Samples,
    coordinator: Samples,
    generator: Samples,
    latency: Samples,
}

fn creates(run: &Run, report: &mut Report) -> Result<()> {
    let (hosts, rounds) = (run.pick(1_000, 20), run.pick(7, 1));
    let length = Duration::from_millis(run.pick(2_000, 500));
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut coordinator = runtime.block_on(Coordinator::start(dir.path(), hosts))?;
    let (theirs, ours) = (
        Watched::new(coordinator.pid())?,
        Watched::new(std::process::id())?,
    );
    let mut all: Vec<Series> = CLIENTS.iter().map(|_| Series::default()).collect();
    let mut answered = BTreeSet::new();
    for round in 0..=rounds {
        for (series, clients) in all.iter_mut().zip(CLIENTS) {
            let channels = runtime.block_on(coordinator.clients(clients))?;
            let before = (theirs.cpu()?, ours.cpu()?);
            let prefix = format!("r{round}-c{clients}");
            let burst = runtime.block_on(load::burst(channels, &prefix, Instant::now() + length));
            if let Some(error) = burst.failure {
                return Err(error).with_context(|| format!("{clients} clients"));
            }
            let cost = (
                (theirs.cpu()? - before.0).as_secs_f64(),
                (ours.cpu()? - before.1).as_secs_f64(),
            );
            let count = burst.answered.len() as f64;
            ensure!(count > 0.0, "nothing was created");
            eprintln!(
                "  round {round}: {clients} clients {:.0}/s",
                count / burst.took.as_secs_f64()
            );
            answered.extend(burst.answered);
            if round > 0 {
                series.per_second.push(count / burst.took.as_secs_f64());
                series.coordinator.push(cost.0 / count);
                series.generator.push(cost.1 / count);
                burst
                    .seconds
                    .into_iter()
                    .for_each(|s| series.latency.push(s));
            }
        }
    }
    let mut crowded = Report::default();
    overload::measure(run, &runtime, &coordinator, &mut answered, &mut crowded)?;
    let stored = runtime.block_on(survivors(&mut coordinator, &mut answered))?;
    say(report, &all, hosts, stored);
    report.figures.append(&mut crowded.figures);
    report.notes.append(&mut crowded.notes);
    report.note(format!(
        "Durable: committed by SQLite with fsync. Data directory: {}; this figure of the disk is in the line above the table, too. \
         Creates that wait at the same time share a commit, so more clients get more out of the same disk.",
        run.disk.show()
    ));
    report.note(format!(
        "The target is held against the median of {rounds} rounds with 100 clients, each of {:.1} s and counted from its first request to its \
         last answer.",
        length.as_secs_f64()
    ));
    Ok(())
}

/// Kills the coordinator under load and checks that what it had answered is stored. Returns the number of tenants.
async fn survivors(
    coordinator: &mut Coordinator,
    answered: &mut BTreeSet<String>,
) -> Result<usize> {
    let clients = CLIENTS[CLIENTS.len() - 1];
    let channels = coordinator.clients(clients).await?;
    let load = tokio::spawn(load::burst(
        channels,
        "last",
        Instant::now() + Duration::from_secs(5),
    ));
    tokio::time::sleep(Duration::from_secs(1)).await;
    coordinator.kill();
    let Burst { answered: last, .. } = load.await?;
    ensure!(!last.is_empty(), "nothing was created before the kill");
    answered.extend(last);
    let stored = coordinator.stored().await?;
    let lost: Vec<_> = answered.difference(&stored).take(5).collect();
    ensure!(lost.is_empty(), "answered and not stored: {lost:?} …");
    let unheard = stored.len() - answered.len();
    ensure!(
        unheard <= clients,
        "{unheard} tenants are stored that nobody was told of"
    );
    Ok(stored.len())
}

fn say(report: &mut Report, all: &[Series], hosts: usize, stored: usize) {
    for (series, clients) in all.iter().zip(CLIENTS) {
        let target = (clients == 100).then_some(Target::AtLeast(4_000.0));
        let s = if clients == 1 { "" } else { "s" };
        report.add(
            &format!("durable creates, {clients} client{s}"),
            Unit::PerSecond,
            &series.per_second,
            target,
        );
    }
    for (series, clients) in all.iter().zip(CLIENTS) {
        let latency = |share: f64| (series.latency.clone(), share);
        for (what, (samples, share)) in [("median", latency(0.5)), ("p99", latency(0.99))] {
            let name = format!("time of a create, {clients} at once, {what}");
            report.add_quantile(&name, Unit::Seconds, &samples, share, None);
        }
    }
    if let Some(most) = all.last() {
        report.add(
            "CPU of the coordinator per create, 100 clients",
            Unit::Seconds,
            &most.coordinator,
            None,
        );
        report.add(
            "CPU of the load generator per create, 100 clients",
            Unit::Seconds,
            &most.generator,
            None,
        );
    }
    report.note(format!(
        "{hosts} hosts have reported; each client has a connection of its own; the load generator runs on the same cores. Plans are \
         not delivered here (`bench fleet` has that): the hosts report once and leave."
    ));
    report.note(format!(
        "The coordinator was killed (SIGKILL) under load: all answered creates were in the database ({stored} tenants)."
    ));
}

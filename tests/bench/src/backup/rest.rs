//! What backups cost a host whose tenants are at rest: the agent's processor time and memory, and what it ships in an hour, while nothing
//! is written, and while something is, once a minute in each tenant.
//!
//! Real PostgreSQL beside stand-ins for Odoo, of which a host could not hold so many. Not here: what a base backup costs (the parent).

use std::{
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::cell::{Cell, STANDIN, Shape};

use super::{
    cost::size_of,
    switch::{OFF, ON, switch},
};
use crate::{
    agent,
    figures::{Report, Unit},
    process::Watched,
};

/// On one host.
const MANY: usize = 200;
pub(super) const POSTGRES: &str = "postgres:15";
/// PostgreSQL gets half of so little memory. Of its time a tenant at rest needs next to nothing, but its beginning should not take for
/// ever. What else `[backup]` says is the product's default: each tenant's turn comes every 5.5 minutes.
const CONFIG: &str = "---[plans.small]\nmemory=\"96MiB\"\ncpu=0.5\ndisk=\"160MiB\"\nworkers=0\n[placement]\ncpu_overcommit=100.0\n\
    [backup.destinations.rest]\npath=\"rest\"\nreserve=\"100MiB\"\n";
const DESTINATION: &str = "rest";
/// A host's first backups come one after the other.
const PATIENCE: Duration = Duration::from_secs(3_600);
const LOOK: Duration = Duration::from_secs(1);
const HOUR_S: f64 = 3_600.0;
/// Writes a row, and another each minute, as long as the container runs.
const WRITE: &str = "psql -qXU postgres -c 'CREATE TABLE IF NOT EXISTS bench (at timestamptz)'; \
    while psql -qXU postgres -c 'INSERT INTO bench VALUES (now())'; do sleep 60; done";

/// How long each state is looked at, and how long before it is. Tenants' turns are spread evenly over 330 s: half of them are as good as
/// all.
struct Times {
    settle: Duration,
    /// Until a tenant whose turn it is ships nearly as much as at every later one.
    settle_writing: Duration,
    off: Duration,
    quiet: Duration,
    writing: Duration,
}

const TIMES: Times = Times {
    settle: Duration::from_secs(30),
    settle_writing: Duration::from_secs(200),
    off: Duration::from_secs(60),
    quiet: Duration::from_secs(165),
    writing: Duration::from_secs(165),
};

/// A host with tenants, and where its backups go.
struct Rest<'a> {
    cell: &'a mut Cell,
    agent: Watched,
    destination: PathBuf,
    tenants: &'a [String],
}

/// Many tenants on a host of their own.
pub(super) fn many(report: &mut Report) -> Result<()> {
    let mut cell = Cell::start(&Shape {
        edition: (STANDIN.0, POSTGRES),
        config: CONFIG,
        liveness: "report_interval = \"5s\"",
        ..Shape::default()
    });
    agent::fill(&cell, 0, MANY)?;
    let tenants: Vec<String> = (0..MANY).map(|number| format!("t{number}")).collect();
    run(&mut cell, &tenants, (DESTINATION, ON), &TIMES, report)?;
    let seconds = |time: Duration| time.as_secs();
    report.note(format!(
        "At rest: one host with {MANY} tenants of {POSTGRES} and stand-ins for Odoo, which write nothing; `[backup]` as it is by \
         default (rpo 11 min, so each tenant's turn comes every 5.5 min); reports every 5 s. CPU: user and system time of the agent's \
         process over {} s while nothing is written, {} s without backups, {} s while a row a minute is. Shipped: what all repositories \
         have grown by meanwhile, after all first backups, for an hour. PostgreSQL finishes a segment of its log (1 MiB) a minute after \
         something was written in it; what is shipped of it is compressed.",
        seconds(TIMES.quiet),
        seconds(TIMES.off),
        seconds(TIMES.writing)
    ));
    Ok(())
}

/// `on`: what the configuration says of backups to `destination`, which are on.
fn run(
    cell: &mut Cell,
    tenants: &[String],
    (destination, on): (&str, &str),
    times: &Times,
    report: &mut Report,
) -> Result<()> {
    let agent = cell.hosts[0].agent.as_ref().context("no agent")?.pid();
    let rest = Rest {
        agent: Watched::new(agent)?,
        destination: cell.dir.path().join("coordinator").join(destination),
        tenants,
        cell,
    };
    rest.await_bases()?;
    let prefix = format!("{} tenants at rest", tenants.len());
    sleep(times.settle);
    let what = format!("{prefix}, backups, nothing is written");
    let quiet = rest.watch(&what, times.quiet, report)?;
    rest.tell_shipped(&what, &quiet, report);
    // A stand-in's PostgreSQL is not told: it goes on archiving, and has nothing to archive.
    switch(rest.cell, OFF)?;
    sleep(times.settle);
    let off = rest.watch(&format!("{prefix}, no backups"), times.off, report)?;
    switch(rest.cell, on)?;
    rest.write()?;
    sleep(times.settle_writing);
    let what = format!("{prefix}, backups, a row a minute in each");
    let writing = rest.watch(&what, times.writing, report)?;
    rest.tell_shipped(&what, &writing, report);
    for (what, seen) in [
        ("nothing is written", quiet),
        ("a row a minute in each", writing),
    ] {
        let name = format!("{prefix}, {what}: agent's CPU, backups / none");
        report.add_one(&name, Unit::Ratio, seen.load / off.load, None);
    }
    Ok(())
}

/// What was seen of a host for a while.
struct Watch {
    /// Of the agent, share of a core.
    load: f64,
    /// What all repositories have grown by, for an hour.
    shipped: f64,
}

impl Rest<'_> {
    /// Bytes of all repositories. The coordinator's own state goes there, too.
    fn stored(&self) -> Result<u64> {
        let own = size_of(&self.destination.join("coordinator"))?;
        Ok(size_of(&self.destination)?.saturating_sub(own))
    }

    /// Measures the agent for a while.
    fn watch(&self, what: &str, time: Duration, report: &mut Report) -> Result<Watch> {
        let (mark, before) = (self.agent.mark()?, self.stored()?);
        sleep(time);
        let load = self.agent.load_since(mark)?;
        let memory = self.agent.resident()? as f64;
        report.add_one(&format!("{what}: agent's CPU"), Unit::Core, load, None);
        report.add_one(
            &format!("{what}: agent's memory"),
            Unit::Bytes,
            memory,
            None,
        );
        let grown = self.stored()?.saturating_sub(before);
        Ok(Watch {
            load,
            shipped: grown as f64 * HOUR_S / time.as_secs_f64(),
        })
    }

    fn tell_shipped(&self, what: &str, seen: &Watch, report: &mut Report) {
        let bytes = seen.shipped;
        let each = bytes / self.tenants.len() as f64;
        let name = format!("{what}: shipped an hour");
        report.add_one(&name, Unit::Bytes, bytes, None);
        report.add_one(&format!("{name}, each tenant"), Unit::Bytes, each, None);
    }

    /// Waits until each tenant has a backup that the log goes on from.
    fn await_bases(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let shown = self.cell.json(&["backup", "status"]);
            let has_base =
                |tenant: &&serde_json::Value| tenant["destinations"][0]["base_time"].is_string();
            let all = shown.as_array().context("a list")?;
            let based = all.iter().filter(has_base).count();
            if based == self.tenants.len() {
                eprintln!(
                    "  {based} first backups after {:.0} s",
                    begin.elapsed().as_secs_f64()
                );
                return Ok(());
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "only {based} of {} tenants have a backup",
                self.tenants.len()
            );
            sleep(LOOK);
        }
    }

    fn write(&self) -> Result<()> {
        for tenant in self.tenants {
            let container = format!("postgres_{tenant}");
            let words = ["exec", "-d", &container, "sh", "-c", WRITE];
            let begun = self.cell.hosts[0].docker.run(&words);
            ensure!(begun.code == 0, "{container}: {}", begun.stderr);
        }
        Ok(())
    }
}

//! `bench backup`: what isyone's backups cost, beside Debian's `restic` and `pg_dump | zstd` of the same data; how long Odoo's visitors wait
//! meanwhile; how long a restore takes; and what a host whose tenants are at rest does for its backups.
//!
//! The whole product is on the path: the coordinator orders a base backup, the agent makes it and adds it to the tenant's repository through
//! the coordinator. Not here: whether backups are good (the tests `e2e::backups`).

mod cost;
mod data;
mod during;
mod ours;
mod peers;
mod rest;
mod restore;
mod switch;

use std::time::Duration;

use anyhow::{Result, ensure};
use isyone_tests::e2e::cell::{Cell, Shape};

use self::{
    cost::{Around, Cost, Costs},
    data::{Data, Grow, Size, TENANT},
    ours::Ours,
    peers::{Dump, Restic},
};
use crate::{
    Run,
    figures::{Report, Unit},
    samples::Samples,
};

/// The default plan `standard`, whose disk holds what is measured and a restored copy.
const CONFIG: &str = "default_plan=\"standard\"\n---[plans.standard]\nmemory=\"2GiB\"\ncpu=1.0\ndisk=\"15GiB\"\nworkers=2\n";
/// To a database of 482 MB, with a GB of files.
const GROW: Grow = Grow {
    rows: 380_000,
    files: 2_000,
    file_bytes: 512 << 10,
    copies: 0,
};
/// From there to 2 GB.
const GROW_MORE: Grow = Grow {
    rows: 0,
    files: 0,
    file_bytes: 0,
    copies: 4,
};

/// Names of the sides, in the order that they are measured in.
const SIDES: [&str; 3] = ["isyone", "restic", "pg_dump | zstd"];

/// Who makes backups.
trait Side {
    /// A first backup, where there is none.
    fn first(&mut self) -> Result<Cost>;
    /// One after another.
    fn again(&mut self) -> Result<Cost>;
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if run.small {
        report.note("A small run measures nothing: a real tenant, its data and a host of many tenants take longer than a small run may.");
        return Ok(report);
    }
    with_data(&mut report)?;
    rest::many(&mut report)?;
    Ok(report)
}

/// Everything that needs a tenant with data. Its backups are restored on another host than its own.
fn with_data(report: &mut Report) -> Result<()> {
    let mut cell = cell(2, Shape::DEFAULT.edition)?;
    let (data, around) = (Data::of(&cell)?, Around::of(&cell, TENANT)?);
    let mut ours = Ours::new(&mut cell, &around);
    ours.first()?;
    let as_created = restored(&mut ours, &data, "as created", report)?;
    ours.off()?;
    beside_peers((2, 0), GROW, &mut ours, (&data, &around), report)?;
    during::run(&mut ours, report)?;
    let usual = restored(&mut ours, &data, "482 MB and 1 GB of files", report)?;
    ours.off()?;
    data.await_no_archive();
    data.grow(GROW_MORE)?;
    ours.first()?;
    let large = restored(&mut ours, &data, "2 GB and 1 GB of files", report)?;
    for (what, took) in [("482 MB and 1 GB", &usual), ("2 GB and 1 GB", &large)] {
        let name = format!("restore, {what} of files / as created, of medians");
        let ratio = took.median() / as_created.median();
        report.add_one(&name, Unit::Ratio, ratio, None);
    }
    Ok(())
}

/// With a tenant on the first host.
fn cell(hosts: usize, edition: (&'static str, &'static str)) -> Result<Cell> {
    let cell = Cell::start(&Shape {
        hosts,
        edition,
        config: CONFIG,
        ..Shape::default()
    });
    let made = cell.isyctl(&["tenant", "create", TENANT, "--host", "h1"]);
    ensure!(made.code == 0, "create {TENANT}: {}", made.stderr);
    Ok(cell)
}

/// The data grows, and all sides back it up, in so many rounds, and others before them that are not measured.
fn beside_peers(
    rounds: (usize, usize),
    grow: Grow,
    ours: &mut Ours<'_>,
    (data, around): (&Data, &Around),
    report: &mut Report,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut restic = Restic::new(data, around, folder.path().to_owned())?;
    let mut dump = Dump::new(data, around, folder.path().to_owned());
    data.await_no_archive();
    data.grow(grow)?;
    let size = data.size()?;
    eprintln!("  {}", size.words());
    let mut sides: [&mut dyn Side; 3] = [ours, &mut restic, &mut dump];
    let [first, again] = compared(rounds, data, grow, &mut sides)?;
    tell("first backup", &first, Some(size), report);
    tell("again after a small change", &again, None, report);
    explain(size, report);
    Ok(())
}

/// All sides in turns, the order reversed every round. Costs of first backups and of those after a change, of each side.
fn compared(
    (rounds, skipped): (usize, usize),
    data: &Data,
    grow: Grow,
    sides: &mut [&mut dyn Side; 3],
) -> Result<[[Costs; 3]; 2]> {
    let mut all: [[Costs; 3]; 2] = Default::default();
    for round in 0..rounds + skipped {
        let order = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
        for (kind, costs) in all.iter_mut().enumerate() {
            if kind == 1 {
                data.change(round, grow)?;
            }
            for index in order {
                let side = &mut *sides[index];
                let cost = if kind == 0 {
                    side.first()
                } else {
                    side.again()
                };
                let cost = cost?;
                let (what, took) = (["first", "again"][kind], cost.took.as_secs_f64());
                eprintln!("  round {round}: {what}, {} {took:.3} s", SIDES[index]);
                if round >= skipped {
                    costs[index].push(&cost);
                }
            }
        }
    }
    Ok(all)
}

fn tell(what: &str, costs: &[Costs; 3], size: Option<Size>, report: &mut Report) {
    let stored = match size {
        Some(_) => "repository",
        None => "repository grows by",
    };
    type Of = fn(&Costs) -> &Samples;
    let quantities: [(&str, Unit, Of); 5] = [
        ("time", Unit::Seconds, |c| &c.took),
        ("CPU of its programs", Unit::Seconds, |c| &c.own),
        ("CPU with PostgreSQL and Docker", Unit::Seconds, |c| &c.all),
        ("memory", Unit::Bytes, |c| &c.memory),
        (stored, Unit::Bytes, |c| &c.stored),
    ];
    for (side, costs) in SIDES.iter().zip(costs) {
        if let Some(size) = size {
            let rate = costs.took.each(|seconds| size.all() as f64 / seconds);
            let name = format!("{what}, {side}: throughput");
            report.add(&name, Unit::BytesPerSecond, &rate, None);
        }
        for (quantity, unit, of) in quantities {
            let name = format!("{what}, {side}: {quantity}");
            report.add(&name, unit, of(costs), None);
        }
        if costs.keeper_memory.len() > 0 {
            let name = format!("{what}, {side}: memory of the coordinator, which keeps it");
            report.add(&name, Unit::Bytes, &costs.keeper_memory, None);
        }
    }
    let [ours, peers @ ..] = costs;
    for (peer, costs) in SIDES[1..].iter().zip(peers) {
        for (quantity, _, of) in quantities {
            let ratio = of(ours).ratios(of(costs));
            let name = format!("{what}, isyone / {peer}: {quantity}");
            report.add(&name, Unit::Ratio, &ratio, None);
        }
    }
}

/// Restores the newest backup; `what` is the tenant's size of now. How long it took, seconds.
fn restored(ours: &mut Ours<'_>, data: &Data, what: &str, report: &mut Report) -> Result<Samples> {
    let size = data.size()?;
    let took = restore::rounds(ours, 2)?;
    let took: Samples = took.iter().map(Duration::as_secs_f64).collect();
    let name = format!("restore, {what}: command to login page");
    report.add(&name, Unit::Seconds, &took, None);
    report.note(format!("Restore, {what}: {}.", size.words()));
    Ok(took)
}

fn explain(size: Size, report: &mut Report) {
    report.note(format!(
        "The data: {}; contacts with notes of random words, and files of random bytes, which nothing compresses. odoo:19.0 and postgres:15 \
         in the plan `standard` (1 CPU, 2 GiB, two workers), in whose container `pg_basebackup` and `pg_dump` run on all sides. A small change: a row in \
         a thousand updated, as many added, a new file in a hundred. All repositories are on this machine's disk.",
        size.words()
    ));
    report.note(
        "isyone: a base backup to a destination that is new, or was asked for by `isyctl backup create`; time: from when the agent begins until it \
         has stored all of it, as the product tells, without the wait for its turn (a second or two). In it: `pg_basebackup` through the engine, the segments of the log that it \
         needs, manifest and counts, the filestore, cut, compressed and encrypted with two threads, through mutual TLS to the coordinator, which checks and \
         keeps it. Programs: agent and coordinator, with all else that they do meanwhile. Memory: the most that the agent had, and the coordinator.",
    );
    report.note(format!(
        "{}: `restic init`, `pg_basebackup -X fetch | restic backup --stdin` (by `docker exec`) and `restic backup` of the filestore, into a directory, no \
         network; its exit says nothing of pg_basebackup's. `pg_dump | zstd` and `tar | zstd` of the filestore: zstd's default level and one thread, not encrypted, \
         whole each time (so \"grows by\" is all of it), and no log can follow it. Memory: the largest of the programs outside the container.",
        Restic::version()
    ));
    report.note(
        "CPU with PostgreSQL and Docker: with that of PostgreSQL's container and of dockerd, containerd and its shims meanwhile. Throughput: the database's \
         size as PostgreSQL tells it, and the files', by time.",
    );
    report.note(
        "Odoo's waits: a client reads, writes and opens pages through the edge, ten times a second; waits are of all but logins and what was under way beside one, \
         and of what was under way while the agent made a backup; each round's p95 by that of a window without, before it. Agent, coordinator (which elsewhere has \
         a machine of its own), edge, Odoo and client share this machine's cores, and the agent is in no control group of its own.",
    );
    report.note(
        "Restore: from the start of `isyctl tenant restore --as` until the new tenant's /web/login answers through the edge with its form, neutralised, \
         on another host than the one where the backup was made, which has the images and lies on the same disk: the newest base \
         backup, and what follows it of the log and of new files (nothing, or next to nothing). Both hosts and the coordinator share this machine's cores.",
    );
}

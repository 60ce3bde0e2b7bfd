//! `bench create`: a tenant from `isyctl tenant create` to its login page: cold (`odoo -i base`), from the golden
//! snapshot, and the floor, i.e. the same two containers started on prepared volumes with plain `docker run`.
//!
//! The whole product is on the path: command line, coordinator, agent, Docker. Not here: the edge (publish).

mod floor;
mod spares;
mod steps;

use std::{
    net::{IpAddr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::{
    cell::{Cell, STANDIN, Shape},
    http,
};

pub(crate) use self::steps::seconds;
use self::{floor::Floor, spares::Spares, steps::Steps};
use crate::{
    Run,
    figures::{Report, Target, Unit},
    samples::{Samples, Side, alternate},
};

/// A cold create on a busy machine takes a minute.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause between two requests for the login page.
const LOOK: Duration = Duration::from_millis(5);

pub(crate) fn run(run: &Run) -> Result<Report> {
    let real = ("odoo:19.0", "postgres:15");
    let cell = Cell::start(&Shape {
        edition: run.pick(real, STANDIN),
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=2\n",
        ..Shape::default()
    });
    let bench = Bench {
        cell: &cell,
        number: std::cell::Cell::new(0),
        spares: Spares::new(&cell, !run.small)?,
    };
    let mut report = Report::default();
    // The first create makes the golden snapshot. It is no sample, because it also starts with cold caches.
    let model = bench.create()?;
    let floor = Floor::new(&cell, &model, !run.small)?;
    let mut steps = Steps::default();
    let taken = rounds(run, &bench, &floor, &mut steps)?;
    let mut cold = Samples::default();
    for _ in 0..run.pick(3, 0) {
        bench.spares.settle()?;
        bench.forget_golden()?;
        let created = bench.create()?;
        eprintln!("  cold {:.3} s", created.took.as_secs_f64());
        cold.push(created.took.as_secs_f64());
        bench.purge(&created)?;
    }
    say(&mut report, &taken, &cold)?;
    steps.tell(&mut report);
    notes(&mut report);
    Ok(report)
}

/// All sides take turns: from the snapshot, the floor, and (unless it is a stand-in, which has no snapshot) from the
/// snapshot without a spare copy. The agent has finished its copies before each timing starts, so they do not disturb
/// it.
fn rounds(run: &Run, bench: &Bench<'_>, floor: &Floor, steps: &mut Steps) -> Result<Vec<Samples>> {
    let mut sides: Vec<Side<'_>> = vec![
        (
            "from the golden snapshot",
            Box::new(|| {
                bench.spares.settle()?;
                let created = bench.create()?;
                steps.add(bench.cell, &created)?;
                bench.purge(&created)?;
                Ok(created.took)
            }),
        ),
        (
            "docker run on prepared volumes",
            Box::new(|| {
                bench.spares.settle()?;
                floor.round()
            }),
        ),
    ];
    if !run.small {
        let copying = || {
            bench.spares.remove()?;
            let created = bench.create()?;
            ensure!(
                !Steps::default().add(bench.cell, &created)?,
                "{}: a copy was there all the same",
                created.name
            );
            bench.purge(&created)?;
            Ok(created.took)
        };
        sides.push((
            "from the golden snapshot, copied meanwhile",
            Box::new(copying),
        ));
    }
    alternate(run.pick(6, 1), &mut sides)
}

fn say(report: &mut Report, taken: &[Samples], cold: &Samples) -> Result<()> {
    let [golden, plain, copied @ ..] = taken else {
        anyhow::bail!("a side is missing")
    };
    report.add(
        "create: from the golden snapshot",
        Unit::Seconds,
        golden,
        None,
    );
    report.add(
        "create: the floor, docker run on prepared volumes",
        Unit::Seconds,
        plain,
        None,
    );
    report.add(
        "create: golden / floor",
        Unit::Ratio,
        &golden.ratios(plain),
        Some(Target::AtMost(1.25)),
    );
    if let [copied] = copied {
        let name = "create: from the golden snapshot, no copy made beforehand";
        report.add(name, Unit::Seconds, copied, None);
        let name = "create: golden / floor, no copy made beforehand";
        report.add(name, Unit::Ratio, &copied.ratios(plain), None);
    }
    if cold.len() > 0 {
        report.add("create: cold (-i base)", Unit::Seconds, cold, None);
        let ratio = golden.median() / cold.median();
        report.add_one(
            "create: golden / cold, of medians",
            Unit::Ratio,
            ratio,
            Some(Target::AtMost(0.2)),
        );
    }
    Ok(())
}

fn notes(report: &mut Report) {
    report.note(
        "Both clocks end when /web/login of the tenant's published port answers 200 with its form, asked every 5 ms. isyone's begins when \
         `isyctl tenant create` is started; it makes volumes, network, files, keys, address and passwords of the tenant's own. The clock stops \
         at the host's port; the tenant's route at the edge comes after that (`route` in the steps).",
    );
    report.note(
        "\"From the golden snapshot\" relies on copies made beforehand: the agent had made a copy of it before the clock started, as it does \
         after a create while no tenant is being made, and the create moved that copy into the new volumes. So neither this side nor the \
         floor copies the snapshot while its clock runs. \"No copy made beforehand\" is the same create after all such copies were removed, as \
         for a tenant that comes sooner than the agent has made one: it copies while its clock runs. In both cases no clock starts while the agent copies.",
    );
    report.note(
        "The floor's begins with `docker run` of PostgreSQL, directly followed by that of Odoo, with the options of the tenant's own \
         containers and the CPU that isyone gives a tenant that is being made. Before the clock: its network, its volumes (a copy of the \
         snapshot), the role's password, its configuration.",
    );
    report.note(
        "Cold: the host's snapshots are removed, so `odoo -i base` runs and a new snapshot is taken. These runs come after all others and not \
         in turns with them, so their ratio is one of medians.",
    );
}

/// A created tenant.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) name: String,
    /// Time until its login page appeared.
    pub(crate) took: Duration,
    /// Time until `isyctl` returned, i.e. until the coordinator had stored the tenant.
    pub(crate) accepted: Duration,
}

struct Bench<'a> {
    cell: &'a Cell,
    number: std::cell::Cell<u32>,
    spares: Spares,
}

impl Bench<'_> {
    fn create(&self) -> Result<Created> {
        self.number.set(self.number.get() + 1);
        let name = format!("c{}", self.number.get());
        let begin = Instant::now();
        let made = self
            .cell
            .isyctl(&["tenant", "create", &name, "--no-wait", "-o", "json"]);
        let accepted = begin.elapsed();
        ensure!(made.code == 0, "create {name}: {}", made.stderr);
        let made: serde_json::Value = serde_json::from_str(&made.stdout)?;
        let port = made["tenant"]["http_port"]
            .as_u64()
            .with_context(|| format!("no port in {made}"))?;
        let address = SocketAddr::new(host_address(self.cell)?, u16::try_from(port)?);
        await_login_page(address, begin)?;
        let took = begin.elapsed();
        let phase = || self.cell.json(&["tenant", "show", &name])["phase"].clone();
        while phase() != "running" {
            ensure!(
                begin.elapsed() < PATIENCE,
                "{name} has a login page but is {}",
                phase()
            );
            sleep(Duration::from_millis(100));
        }
        Ok(Created {
            name,
            took,
            accepted,
        })
    }

    fn purge(&self, created: &Created) -> Result<()> {
        purge(self.cell, &created.name)
    }

    fn forget_golden(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.cell.hosts[0].data.join("golden"))? {
            std::fs::remove_dir_all(entry?.path())?;
        }
        Ok(())
    }
}

fn host_address(cell: &Cell) -> Result<IpAddr> {
    Ok(cell.hosts[0].address.parse()?)
}

/// Removes a tenant and its data for good.
pub(crate) fn purge(cell: &Cell, name: &str) -> Result<()> {
    let begin = Instant::now();
    for options in [&["--yes"][..], &["--purge", "--yes"]] {
        let deleted = cell.isyctl(&[&["tenant", "delete", name], options].concat());
        ensure!(deleted.code == 0, "delete {name}: {}", deleted.stderr);
    }
    while cell.isyctl(&["tenant", "show", name]).code == 0 {
        ensure!(begin.elapsed() < PATIENCE, "{name} is not purged");
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Waits until the page is there and contains a login form.
pub(crate) fn await_login_page(address: SocketAddr, begin: Instant) -> Result<()> {
    await_login_page_of(address, "localhost", begin)
}

/// The same by the name of who is asked.
pub(crate) fn await_login_page_of(address: SocketAddr, host: &str, begin: Instant) -> Result<()> {
    loop {
        let page = http::get(address, host, "/web/login");
        if page.status == 200 && page.body.contains("name=\"login\"") {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "no login page of {host} at {address}: {} {}",
            page.status,
            page.head
        );
        sleep(LOOK);
    }
}

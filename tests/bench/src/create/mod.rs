//! `bench create`: a tenant from `isyctl tenant create` to its login page: cold (`odoo -i base`), from the golden snapshot, and
//! the floor that the same two containers set, started on prepared volumes with plain `docker run`.
//!
//! The whole product is on the path: command line, coordinator, agent, Docker. Not here: the edge (publish).

mod floor;
mod steps;

use std::{
    net::{IpAddr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::{
    cell::{Cell, Shape},
    http,
};

use self::{floor::Floor, steps::Steps};
use crate::{
    Run,
    figures::{Report, Target, Unit},
    samples::{Samples, alternate},
};

/// A cold create on a busy machine takes a minute.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between looks at the login page.
const LOOK: Duration = Duration::from_millis(5);

/// See the module.
pub(crate) fn run(run: &Run) -> Result<Report> {
    let real = ("odoo:19.0", "postgres:15");
    let standin = ("isyone/standin:2", "isyone/standin-postgres:2");
    let cell = Cell::start(&Shape {
        edition: run.pick(real, standin),
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=2\n",
        ..Shape::default()
    });
    let bench = Bench { cell: &cell, number: std::cell::Cell::new(0) };
    let mut report = Report::default();
    // The first one leaves the golden snapshot behind; it is no sample, for it also finds all caches empty.
    let mut cold = Samples::default();
    let model = bench.create()?;
    let floor = Floor::new(&cell, &model, !run.small)?;
    let steps = std::cell::RefCell::new(Steps::default());
    let taken = alternate(
        run.pick(8, 1),
        &mut [
            (
                "from the golden snapshot",
                Box::new(|| {
                    let created = bench.create()?;
                    steps.borrow_mut().add(&cell, &created)?;
                    bench.purge(&created)?;
                    Ok(created.took)
                }),
            ),
            ("docker run on prepared volumes", Box::new(|| floor.round())),
        ],
    )?;
    for _ in 0..run.pick(3, 0) {
        bench.forget_golden()?;
        let created = bench.create()?;
        eprintln!("  cold {:.3} s", created.took.as_secs_f64());
        cold.push(created.took.as_secs_f64());
        bench.purge(&created)?;
    }
    let [golden, plain] = &taken[..] else { anyhow::bail!("a side is missing") };
    report.add("create: from the golden snapshot", Unit::Seconds, golden, None);
    report.add("create: the floor, docker run on prepared volumes", Unit::Seconds, plain, None);
    report.add("create: golden / floor", Unit::Ratio, &golden.ratios(plain), Some(Target::AtMost(1.25)));
    if cold.len() > 0 {
        report.add("create: cold (-i base)", Unit::Seconds, &cold, None);
        let ratio = golden.median() / cold.median();
        report.add_one("create: golden / cold", Unit::Ratio, ratio, Some(Target::AtMost(0.2)));
    }
    steps.into_inner().tell(&mut report);
    notes(&mut report);
    Ok(report)
}

fn notes(report: &mut Report) {
    report.note(
        "Both clocks end when /web/login of the tenant's published port answers 200 with its form, asked every 5 ms. isyone's begins when \
         `isyctl tenant create` is started; it makes volumes, network, files, keys, address and passwords of the tenant's own.",
    );
    report.note(
        "The floor's begins with `docker run` of PostgreSQL, directly followed by that of Odoo, with the options of the tenant's own \
         containers and the CPU that isyone gives a tenant that is being made. Before the clock: its network, its volumes (a copy of the \
         snapshot), the role's password, its configuration.",
    );
    report
        .note("Cold: the host's snapshots are removed, so `odoo -i base` runs and a new snapshot is taken.");
}

/// A tenant that has been made.
#[derive(Debug)]
pub(crate) struct Created {
    /// Its name.
    pub(crate) name: String,
    /// Until its login page came.
    pub(crate) took: Duration,
    /// Until `isyctl` was back, which is when the coordinator had stored it.
    pub(crate) accepted: Duration,
}

struct Bench<'a> {
    cell: &'a Cell,
    number: std::cell::Cell<u32>,
}

impl Bench<'_> {
    fn create(&self) -> Result<Created> {
        self.number.set(self.number.get() + 1);
        let name = format!("c{}", self.number.get());
        let begin = Instant::now();
        let made = self.cell.isyctl(&["tenant", "create", &name, "--no-wait", "-o", "json"]);
        let accepted = begin.elapsed();
        ensure!(made.code == 0, "create {name}: {}", made.stderr);
        let made: serde_json::Value = serde_json::from_str(&made.stdout)?;
        let port = made["tenant"]["http_port"].as_u64().with_context(|| format!("no port in {made}"))?;
        let address = SocketAddr::new(host_address(self.cell)?, u16::try_from(port)?);
        await_login_page(address, begin)?;
        let took = begin.elapsed();
        let phase = || self.cell.json(&["tenant", "show", &name])["phase"].clone();
        while phase() != "running" {
            ensure!(begin.elapsed() < PATIENCE, "{name} has a login page but is {}", phase());
            sleep(Duration::from_millis(100));
        }
        Ok(Created { name, took, accepted })
    }

    fn purge(&self, created: &Created) -> Result<()> {
        let begin = Instant::now();
        for options in [&["--yes"][..], &["--purge", "--yes"]] {
            let args = [&["tenant", "delete", &created.name], options].concat();
            let deleted = self.cell.isyctl(&args);
            ensure!(deleted.code == 0, "delete {}: {}", created.name, deleted.stderr);
        }
        while self.cell.isyctl(&["tenant", "show", &created.name]).code == 0 {
            ensure!(begin.elapsed() < PATIENCE, "{} is not purged", created.name);
            sleep(Duration::from_millis(100));
        }
        Ok(())
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

/// Until the page is there, with a form to log in.
pub(crate) fn await_login_page(address: SocketAddr, begin: Instant) -> Result<()> {
    loop {
        let page = http::get(address, "localhost", "/web/login");
        if page.status == 200 && page.body.contains("name=\"login\"") {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "no login page at {address}: {} {}", page.status, page.head);
        sleep(LOOK);
    }
}

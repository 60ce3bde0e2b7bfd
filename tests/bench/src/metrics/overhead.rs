//! Requests to two real Odoos made by the product, one of which is started without the module isyone_metrics.
//!
//! One client, so that requests never wait for each other, and both Odoos in turn. On a machine that is doing other
//! things, CPU time per request says more than requests per second. Not here: what a scrape costs (the module caches
//! what it queries from the database).

use std::{
    cell::RefCell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_agent::metrics::containers::{Reader, Subject};
use isyone_tests::e2e::{
    cell::{Cell, Shape},
    http, wait_for,
};

use crate::{
    Run,
    create::await_login_page,
    figures::{Report, Target, Unit},
    samples::{Samples, alternate, timed},
};

/// A page that makes Odoo work without a login: some twenty queries, a session and a template.
const PAGE: &str = "/web/login";
/// Time for Odoo to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) fn run(run: &Run, report: &mut Report) -> Result<()> {
    let (rounds, requests) = run.pick((15, 100), (1, 4));
    let mut cell = Cell::start(&Shape {
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=2\n",
        ..Shape::default()
    });
    let sides = [Side::create(&cell, "one")?, Side::create(&cell, "other")?];
    // The agent would undo the manual changes.
    cell.hosts[0].agent = None;
    let mut taken = Taken::default();
    // Two containers are never quite alike, so each has the module for half of the rounds.
    for with in [0, 1] {
        let started = |place: usize| sides[place].start(&cell, place == with);
        let counted = [started(with)?, started(1 - with)?];
        taken.extend(&counted, rounds, requests)?;
    }
    let rate = |took: &Samples| took.each(|seconds| f64::from(requests) / seconds);
    let [rate_with, rate_without] = taken.took.each_ref().map(rate);
    report.add(
        "Odoo with the module: requests",
        Unit::PerSecond,
        &rate_with,
        None,
    );
    report.add(
        "Odoo without: requests",
        Unit::PerSecond,
        &rate_without,
        None,
    );
    let ratio = rate_with.ratios(&rate_without);
    report.add(
        "requests per second: with / without",
        Unit::Ratio,
        &ratio,
        Some(Target::AtLeast(0.99)),
    );
    let [cost_with, cost_without] = &taken.cost;
    report.add(
        "Odoo with the module: CPU of a request",
        Unit::Seconds,
        cost_with,
        None,
    );
    let ratio = cost_with.ratios(cost_without);
    report.add(
        "CPU of a request: with / without",
        Unit::Ratio,
        &ratio,
        Some(Target::AtMost(1.01)),
    );
    report.note(format!(
        "Two tenants alike (odoo:19.0, two workers, one CPU), of which one is started without the module, and for the second half of the \
         rounds the other; {requests} × GET {PAGE} from one client in each turn, over the tenants' published ports, each request on a \
         connection of its own; CPU: of the Odoo container, PostgreSQL not counted."
    ));
    Ok(())
}

/// Samples with the module, and without.
#[derive(Default)]
struct Taken {
    /// Seconds per turn.
    took: [Samples; 2],
    /// CPU seconds per request.
    cost: [Samples; 2],
}

impl Taken {
    /// Measures more rounds; `counted` is the container with the module, then the one without.
    fn extend(&mut self, counted: &[Counted; 2], rounds: usize, requests: u32) -> Result<()> {
        let costs = [RefCell::<Samples>::default(), RefCell::default()];
        let turn = |side: usize| {
            let before = counted[side].cpu_s()?;
            let ((), took) = timed(|| (0..requests).try_for_each(|_| counted[side].side.visit()))?;
            costs[side]
                .borrow_mut()
                .push((counted[side].cpu_s()? - before) / f64::from(requests));
            Ok(took)
        };
        let took = alternate(
            rounds,
            &mut [
                ("with the module", Box::new(|| turn(0))),
                ("without", Box::new(|| turn(1))),
            ],
        )?;
        for (all, new) in self.took.iter_mut().zip(&took) {
            all.append(new);
        }
        for (all, new) in self.cost.iter_mut().zip(costs) {
            // These still contain the warm-up round: drop the first of each.
            all.append(&new.into_inner().without_first());
        }
        Ok(())
    }
}

struct Side {
    name: &'static str,
    address: SocketAddr,
}

/// A tenant, and access to its container's CPU time.
struct Counted<'a> {
    side: &'a Side,
    container: Subject,
}

impl Side {
    fn create(cell: &Cell, name: &'static str) -> Result<Self> {
        let made = cell.isyctl(&["tenant", "create", name, "-o", "json"]);
        ensure!(made.code == 0, "create {name}: {}", made.stderr);
        let port = cell.json(&["tenant", "show", name])["http_port"]
            .as_u64()
            .context("no port")?;
        Ok(Self {
            name,
            address: SocketAddr::new(cell.hosts[0].address.parse()?, u16::try_from(port)?),
        })
    }

    /// Restarts the tenant's Odoo with the module or without.
    fn start<'a>(&'a self, cell: &Cell, with: bool) -> Result<Counted<'a>> {
        let file = cell.hosts[0]
            .data
            .join("tenants")
            .join(self.name)
            .join("odoo.conf");
        let text = std::fs::read_to_string(&file)?;
        let bare = text.replace(",isyone_metrics\n", "\n");
        let is_server_wide = |line: &&str| line.starts_with("server_wide_modules");
        let line = bare
            .lines()
            .find(is_server_wide)
            .context("no server_wide_modules in odoo.conf")?;
        let wanted = if with {
            bare.replace(line, &format!("{line},isyone_metrics"))
        } else {
            bare.clone()
        };
        // Written in place: the container has mounted this file by inode, not by name.
        std::fs::write(&file, wanted)?;
        let (docker, container) = (&cell.hosts[0].docker, format!("odoo_{}", self.name));
        docker.run(&["restart", "-t", "5", &container]).ok();
        await_login_page(self.address, Instant::now())?;
        let loaded = docker.run(&[
            "exec",
            &container,
            "grep",
            "-c",
            ",isyone_metrics$",
            "/etc/odoo/odoo.conf",
        ]);
        ensure!(
            loaded.stdout.trim() == if with { "1" } else { "0" },
            "{container} loads what it should not"
        );
        let field = |format: &str| docker.inspect(&container, format);
        let (id, pid) = (field("{{.Id}}"), field("{{.State.Pid}}").parse()?);
        wait_for("its pages to be warm", PATIENCE, || self.visit().ok());
        Ok(Counted {
            container: Subject {
                id,
                pid,
                ..Subject::default()
            },
            side: self,
        })
    }

    fn visit(&self) -> Result<()> {
        let page = http::get(self.address, "localhost", PAGE);
        ensure!(
            page.status == 200,
            "{}: {} {}",
            self.name,
            page.status,
            page.head
        );
        Ok(())
    }
}

impl Counted<'_> {
    fn cpu_s(&self) -> Result<f64> {
        let measured = Reader::default().measure(vec![self.container.clone()]);
        Ok(measured
            .first()
            .with_context(|| format!("{} does not run", self.side.name))?
            .figures
            .cpu_s)
    }
}

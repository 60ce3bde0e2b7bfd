//! Requests to two real Odoos of the product's own making, of which one is started without the module isyone_metrics.
//!
//! One client, so that nothing waits for anything, and both in turns. On a machine that does other things, the CPU time of a request
//! says more than requests per second. Not here: what a scrape costs (the module caches what it asks of the database).

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

/// The page that makes an Odoo work without a login: some twenty queries, a session and a template.
const PAGE: &str = "/web/login";
/// Odoo's start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) fn run(run: &Run, report: &mut Report) -> Result<()> {
    let (rounds, requests) = run.pick((30, 100), (1, 4));
    let mut cell = Cell::start(&Shape {
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=2\n",
        ..Shape::default()
    });
    let with = Side::create(&cell, "with")?;
    let without = Side::create(&cell, "without")?;
    // It would put back what is changed by hand.
    cell.hosts[0].agent = None;
    without.leave_out_the_module(&cell)?;
    let with = with.counted(&cell)?;
    let without = without.counted(&cell)?;
    let costs = [RefCell::<Samples>::default(), RefCell::default()];
    let turn = |side: &Counted, cost: &RefCell<Samples>| {
        let before = side.cpu_s()?;
        let ((), took) = timed(|| (0..requests).try_for_each(|_| side.side.visit()))?;
        cost.borrow_mut().push((side.cpu_s()? - before) / f64::from(requests));
        Ok(took)
    };
    let taken = alternate(
        rounds,
        &mut [
            ("with the module", Box::new(|| turn(&with, &costs[0]))),
            ("without", Box::new(|| turn(&without, &costs[1]))),
        ],
    )?;
    let [took_with, took_without] = &taken[..] else { anyhow::bail!("a side is missing") };
    let rate = |took: &Samples| took.each(|seconds| f64::from(requests) / seconds);
    let (rate_with, rate_without) = (rate(took_with), rate(took_without));
    report.add("Odoo with the module: requests", Unit::PerSecond, &rate_with, None);
    report.add("Odoo without: requests", Unit::PerSecond, &rate_without, None);
    let ratio = rate_with.ratios(&rate_without);
    report.add("requests per second: with / without", Unit::Ratio, &ratio, Some(Target::AtLeast(0.99)));
    let [cost_with, cost_without] = costs.map(RefCell::into_inner);
    // The round that does not count is in these: the first of each.
    let ratio = cost_with.ratios(&cost_without).without_first();
    report.add("Odoo with the module: CPU of a request", Unit::Seconds, &cost_with.without_first(), None);
    report.add("CPU of a request: with / without", Unit::Ratio, &ratio, Some(Target::AtMost(1.01)));
    report.note(format!(
        "Two tenants alike but for the module (odoo:19.0, two workers, one CPU), {requests} × GET {PAGE} from one client in each turn, over \
         the tenants' published ports, each request on a connection of its own; CPU: of the Odoo container, PostgreSQL not counted."
    ));
    Ok(())
}

/// A tenant.
struct Side {
    name: &'static str,
    address: SocketAddr,
}

/// A tenant whose container's CPU time is read.
struct Counted {
    side: Side,
    container: Subject,
}

impl Side {
    fn create(cell: &Cell, name: &'static str) -> Result<Self> {
        let made = cell.isyctl(&["tenant", "create", name, "-o", "json"]);
        ensure!(made.code == 0, "create {name}: {}", made.stderr);
        let port = cell.json(&["tenant", "show", name])["http_port"].as_u64().context("no port")?;
        Ok(Self { name, address: SocketAddr::new(cell.hosts[0].address.parse()?, u16::try_from(port)?) })
    }

    /// Starts its Odoo again without it.
    fn leave_out_the_module(&self, cell: &Cell) -> Result<()> {
        let file = cell.hosts[0].data.join("tenants").join(self.name).join("odoo.conf");
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains(",isyone_metrics\n"), "{} does not load the module", file.display());
        // In place: the container has this file, not its name.
        std::fs::write(&file, text.replace(",isyone_metrics\n", "\n"))?;
        let docker = &cell.hosts[0].docker;
        docker.run(&["restart", "-t", "5", &format!("odoo_{}", self.name)]).ok();
        await_login_page(self.address, Instant::now())?;
        let loaded = docker.run(&[
            "exec",
            &format!("odoo_{}", self.name),
            "grep",
            "-c",
            "isyone_metrics$",
            "/etc/odoo/odoo.conf",
        ]);
        ensure!(loaded.stdout.trim() == "0", "the container still loads the module");
        Ok(())
    }

    fn counted(self, cell: &Cell) -> Result<Counted> {
        let field = |format: &str| cell.hosts[0].docker.inspect(&format!("odoo_{}", self.name), format);
        let (id, pid) = (field("{{.Id}}"), field("{{.State.Pid}}").parse()?);
        wait_for("its pages to be warm", PATIENCE, || self.visit().ok());
        Ok(Counted { container: Subject { id, pid, ..Subject::default() }, side: self })
    }

    fn visit(&self) -> Result<()> {
        let page = http::get(self.address, "localhost", PAGE);
        ensure!(page.status == 200, "{}: {} {}", self.name, page.status, page.head);
        Ok(())
    }
}

impl Counted {
    fn cpu_s(&self) -> Result<f64> {
        let measured = Reader::default().measure(vec![self.container.clone()]);
        Ok(measured.first().with_context(|| format!("{} does not run", self.side.name))?.figures.cpu_s)
    }
}

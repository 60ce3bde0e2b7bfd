//! Half an hour of orders and faults on three hosts with real daemons and stand-ins for tenants; afterwards Docker, routes, targets,
//! operations and the fleet agree, no tenant's data differs, and every alert was true. `cargo xtask test --long chaos`.
//!
//! `ISYONE_CHAOS_MINUTES` says for how long, `ISYONE_CHAOS_SEED` with which seed: it is printed, and again by a failure. What is
//! drawn and judged is in `isyone_tests::chaos`. Here: the run; `faults` makes them and makes them good, `facts` finds out.

mod facts;
mod faults;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use isyone_tests::{
    chaos::{
        HOSTS,
        draw::{Blow, Draw, Fault, Order, What, resolve},
        judge::{Mark, Tenant, disagreements},
        truth::{self, OF_THIS_MACHINE, Spell},
    },
    e2e::{
        alone,
        cell::{Cell, STANDIN, Shape},
        disks, enabled,
        watch::{Told, Watch},
    },
};
use uuid::Uuid;

use self::faults::Active;

/// Until all agree, once the last fault is made good: a stray bridge is looked at once a minute and must be there twice, and a
/// container that does not start is made anew after several tries.
const SETTLE: Duration = Duration::from_secs(420);
/// Of each host: that can be filled.
const DISK: &str = "4GiB";
/// Small enough that three hosts of one machine carry all; a quarantine that does not end within a run.
const SHAPE: Shape = Shape {
    hosts: HOSTS,
    edition: STANDIN,
    config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.1\ndisk=\"64MiB\"\nworkers=0\n\
             [monitoring]\ncertificate_dir=\"prometheus\"\nedges=[\"{edge_metrics}\"]\n",
    ..Shape::DEFAULT
};

/// A run: the cell, and what has been done and seen.
struct Run {
    // Before the cell, whose folder it works in.
    watch: Watch,
    cell: Cell,
    begin: Instant,
    /// Where tenants' data lies, by host.
    homes: Vec<PathBuf>,
    active: Vec<Active>,
    /// Drawn, but not made yet: something else is wrong there.
    waiting: Vec<Blow>,
    spells: Vec<Spell>,
    marks: BTreeMap<String, Mark>,
    /// On which hosts each tenant has been seen.
    lived: BTreeMap<String, BTreeSet<usize>>,
    told: Vec<(Duration, Told)>,
}

/// Says at a failure how to have it again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("chaos: ISYONE_CHAOS_SEED={} repeats this run", self.0);
        }
    }
}

#[test]
fn whatever_is_done_to_a_fleet_it_agrees_afterwards() {
    const NAME: &str = "whatever_is_done_to_a_fleet_it_agrees_afterwards";
    if !enabled(NAME) {
        return;
    }
    let Some(minutes) = number("ISYONE_CHAOS_MINUTES") else {
        return println!(
            "{NAME}: only with ISYONE_CHAOS_MINUTES (`cargo xtask test --long chaos`)"
        );
    };
    let _alone = alone();
    let seed = Seed(number("ISYONE_CHAOS_SEED").unwrap_or_else(|| Uuid::new_v4().as_u64_pair().1));
    println!("chaos: ISYONE_CHAOS_SEED={} for {minutes} minutes", seed.0);
    let mut run = Run::start();
    let length = Duration::from_secs(minutes.saturating_mul(60));
    for (number, step) in Draw::new(seed.0).enumerate() {
        if run.begin.elapsed() > length {
            break;
        }
        println!("drawn {number}: {step:?}");
        run.mend_due();
        run.strike(step.blow);
        if let Some(order) = step.order {
            run.order(order);
        }
        std::thread::sleep(step.pause);
        run.look();
    }
    run.settle();
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

impl Run {
    fn start() -> Self {
        let cell = Cell::start(&SHAPE);
        (0..HOSTS).for_each(|host| disks::below_docker(&cell, host, DISK, STANDIN));
        let watch = Watch::start_for_standins(&cell);
        let homes = cell.hosts.iter().map(|host| host.docker.homes()).collect();
        Self {
            watch,
            cell,
            begin: Instant::now(),
            homes,
            active: Vec::new(),
            waiting: Vec::new(),
            spells: Vec::new(),
            marks: BTreeMap::new(),
            lived: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    fn say(&self, what: &str) {
        println!("{:6.1} s  {what}", self.begin.elapsed().as_secs_f64());
    }

    /// Gives an order as its tenant is now. A refusal is an answer; it is printed.
    fn order(&mut self, order: Order) {
        let Some(tenants) = self.tenants() else {
            return self.say(&format!("{}: nobody to ask", order.tenant));
        };
        let tenant = tenants.get(order.tenant);
        let host = tenant.and_then(|tenant| self.index_of(&tenant.host));
        let phase = tenant.map(|tenant| tenant.phase.as_str());
        let what = resolve(phase, host.unwrap_or_default(), order.choice);
        let target = match what {
            What::Move(to) => self.cell.hosts[to].name.clone(),
            _ => String::new(),
        };
        let name = order.tenant;
        if let (Some("running"), Some(tenant), Some(host)) = (phase, tenant, host) {
            // Before it moves: what is written while it does may be too late.
            self.mark(name, tenant, host);
        }
        let words: &[&str] = match what {
            What::Create => &["create", name],
            What::Restart => &["restart", name],
            What::Move(_) => &["move", name, "--to", &target, "--yes"],
            What::Suspend => &["suspend", name],
            What::Resume => &["resume", name],
            What::Delete => &["delete", name, "--yes"],
            What::Undelete => &["undelete", name],
            What::Purge => &["delete", name, "--purge", "--yes"],
            What::Nothing => return self.say(&format!("{name}: left alone, {phase:?}")),
        };
        let answer = self
            .cell
            .isyctl(&[&["tenant"][..], words, &["--no-wait"]].concat());
        let refusal = answer.stderr.lines().next().unwrap_or_default();
        match answer.code {
            0 => self.say(&words.join(" ")),
            code => self.say(&format!("{}: {code}, {refusal}", words.join(" "))),
        }
    }

    fn index_of(&self, host: &str) -> Option<usize> {
        self.cell.hosts.iter().position(|each| each.name == host)
    }

    /// Looks at who runs where, marks who has no mark yet, and takes what was told.
    fn look(&mut self) {
        let told = self.watch.told();
        self.watch.forget();
        let at = self.begin.elapsed();
        for alert in told {
            if OF_THIS_MACHINE.contains(&alert.0.as_str()) {
                continue;
            }
            if !self.told.iter().any(|(_, before)| *before == alert) {
                self.say(&format!("alert: {} {}", alert.0, alert.1));
            }
            self.told.push((at, alert));
        }
        for (name, tenant) in self.tenants().unwrap_or_default() {
            let Some(host) = self.index_of(&tenant.host) else {
                continue;
            };
            self.lived.entry(name.clone()).or_default().insert(host);
            if tenant.phase == "running" {
                self.mark(&name, &tenant, host);
            }
        }
    }

    /// Writes a word into a new tenant's data, once.
    fn mark(&mut self, name: &str, tenant: &Tenant, host: usize) {
        if self.marks.get(name).is_some_and(|m| m.uid == tenant.uid) {
            return;
        }
        let word = Uuid::new_v4().to_string();
        if let Err(e) = std::fs::write(self.mark_of(name, host), &word) {
            return self.say(&format!("{name} cannot be marked yet: {e}"));
        }
        let mark = Mark {
            uid: tenant.uid.clone(),
            word,
            found: None,
        };
        self.marks.insert(name.to_owned(), mark);
    }

    fn mark_of(&self, tenant: &str, host: usize) -> PathBuf {
        self.homes[host].join(tenant).join("odoo/mark-of-the-test")
    }

    /// Makes every fault good and waits until all agree; then judges the alerts.
    fn settle(&mut self) {
        self.mend_all();
        let begin = Instant::now();
        let mut wrong = vec!["nothing was looked at".to_owned()];
        while !wrong.is_empty() {
            assert!(
                begin.elapsed() < SETTLE,
                "they do not agree after {SETTLE:?}:\n{}",
                wrong.join("\n")
            );
            std::thread::sleep(Duration::from_secs(2));
            self.look();
            wrong = match self.facts() {
                Some(facts) => disagreements(&facts),
                None => vec!["the coordinator does not answer".to_owned()],
            };
        }
        self.say(&format!("all agree after {:?}", begin.elapsed()));
        let untrue: Vec<_> = self
            .told
            .iter()
            .filter(|(at, told)| !truth::is_true(told, *at, &self.spells, &self.lived))
            .collect();
        assert!(
            untrue.is_empty(),
            "not true: {untrue:?}\nof {:?}",
            self.spells
        );
        let times = |fault| self.spells.iter().filter(|s| s.fault == fault).count();
        let made: Vec<_> = Fault::ALL
            .iter()
            .map(|fault| (fault, times(*fault)))
            .collect();
        println!("chaos: {made:?}");
        println!(
            "chaos: {} faults, {} tenants marked, {} alerts told, all true",
            self.spells.len(),
            self.marks.len(),
            self.told.len()
        );
    }
}

//! `bench visitors`: how long an honest client waits alone and beside each attack, at a tenant of ours and at a plain `docker compose`
//! Odoo of the same size behind a plain Traefik; threaded and with workers. And what the relay on the
//! way adds to a request.
//!
//! Not here: the attacks and the client (`isyone_tests::e2e::bombard`), what must come of them (the tests `e2e::bombard`).

mod added;
mod compose;

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use isyone_tests::e2e::{
    bombard::{
        Client, Place, attacker,
        attacks::{self, Wanted},
        honest::Honest,
        seen::Seen,
    },
    cell::{Cell, Shape},
};

use self::compose::Compose;
use crate::{
    Run,
    figures::{Report, Target, Unit},
};

/// A plan of the product, but for less disk.
pub(crate) struct Plan {
    name: &'static str,
    memory_mib: u32,
    workers: u32,
}

const PLANS: [Plan; 2] = [
    Plan {
        name: "small",
        memory_mib: 1_024,
        workers: 0,
    },
    Plan {
        name: "standard",
        memory_mib: 2_048,
        workers: 2,
    },
];
const CONFIG: &str = "---[plans.small]\nmemory = \"1GiB\"\ncpu = 1.0\ndisk = \"2GiB\"\nworkers = 0\n\
    [plans.standard]\nmemory = \"2GiB\"\ncpu = 1.0\ndisk = \"3GiB\"\nworkers = 2\n";
/// Between two requests of the honest client.
const STEADY: Duration = Duration::from_millis(100);
/// What a slow reader asks for, and how fast it takes it.
const FILE: (usize, usize) = (16 << 20, 1_000_000);

/// What is done beside the honest client, for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    Nobody,
    SlowSenders,
    SlowReaders,
    Crowd,
    LongRequests,
    Websockets,
    CostlyBodies,
}

impl Attack {
    /// The most harmful last.
    const ALL: [Self; 7] = [
        Self::Nobody,
        Self::SlowReaders,
        Self::SlowSenders,
        Self::Crowd,
        Self::LongRequests,
        Self::Websockets,
        Self::CostlyBodies,
    ];
    const SMALL: [Self; 2] = [Self::Nobody, Self::SlowSenders];

    fn words(self) -> &'static str {
        match self {
            Self::Nobody => "nobody else",
            Self::SlowSenders => "60 senders of a byte a second",
            Self::SlowReaders => "6 readers of 1 MB/s of 16 MiB",
            Self::Crowd => "90 pages at once, again and again",
            Self::LongRequests => "2 requests of half the time",
            Self::Websockets => "253 websockets",
            Self::CostlyBodies => "bodies of 30 MB, one after the other",
        }
    }

    fn make(self, admin: &Client, time: Duration) {
        let place = &admin.place;
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let is_over = &is_over;
            match self {
                Self::Nobody => {}
                Self::SlowSenders => {
                    scope.spawn(move || attacks::slow_senders(place, 1, 60, is_over));
                }
                Self::SlowReaders => {
                    let file = attacks::make_file(admin, FILE.0);
                    for number in 0..6 {
                        let client = admin.at(attacker(number));
                        scope.spawn(move || {
                            attacks::slow_reader(
                                &client,
                                file,
                                Wanted::Download,
                                FILE.1,
                                Duration::ZERO,
                            )
                        });
                    }
                }
                Self::Crowd => again(scope, is_over, move || {
                    drop(attacks::crowd(place, 1, 90, "/web/login"));
                }),
                Self::LongRequests => {
                    let action = attacks::make_long_action(admin);
                    for number in 0..2 {
                        let client = admin.at(attacker(number));
                        scope.spawn(move || attacks::long_request(&client, action, time / 2, ""));
                    }
                }
                Self::Websockets => {
                    scope.spawn(move || {
                        let open = attacks::websockets(&Client::new(place, attacker(0)), 253);
                        wait(is_over);
                        drop(open);
                    });
                }
                Self::CostlyBodies => again(scope, is_over, move || {
                    let client = Client::new(place, attacker(0));
                    drop(attacks::costly_body(&client, 30_000_000));
                }),
            }
            thread::sleep(time);
            is_over.store(true, Ordering::Relaxed);
        });
    }
}

fn again<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    is_over: &'scope AtomicBool,
    act: impl Fn() + Send + 'scope,
) {
    scope.spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            act();
        }
    });
}

fn wait(is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(STEADY);
    }
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    added::run(run, &mut report)?;
    let cell = Cell::start(&Shape {
        config: CONFIG,
        ..Shape::default()
    });
    for plan in &PLANS[..run.pick(2, 1)] {
        let name = plan.name;
        let made = cell.isyctl(&["tenant", "create", name, "--plan", name]);
        anyhow::ensure!(made.code == 0, "create {name}: {}", made.stderr);
        let ours = side(run, &ours(&cell, name)?, || Ok(()))?;
        tell(&mut report, &format!("{name}, isyone"), &ours, true);
        // Both at once would be measured on one machine's two cores.
        let paused = cell.isyctl(&["tenant", "suspend", name]);
        anyhow::ensure!(paused.code == 0, "suspend {name}: {}", paused.stderr);
        let plain = Compose::start(&cell, plan)?;
        let theirs = side(run, &plain.place(), || plain.restart())?;
        tell(&mut report, &format!("{name}, compose"), &theirs, false);
    }
    report.note(
        "An honest client logs in, reads, writes and opens pages, ten times a second, each request on a connection and a thread of its own; \
         waits are of all but logins. Attackers have other addresses. The peer: odoo:19.0 and postgres:15 by docker compose with the \
         same memory and CPU, behind Traefik with one route; its Odoo is started anew after each attack. A request fails that \
         is answered by anything but what was asked for, `503` with `Retry-After` too.",
    );
    Ok(report)
}

/// A tenant of ours at its edge, and its administrator.
pub(crate) fn ours(cell: &Cell, name: &str) -> Result<Place> {
    let credentials = cell.json(&["tenant", "credentials", name]);
    let text = |key: &str| credentials[key].as_str().map(str::to_owned);
    Ok(Place {
        edge: cell.edge(),
        host: format!("{name}.isy.one"),
        database: format!("odoo_{name}"),
        login: text("login").context("no login")?,
        password: text("password").context("no password")?,
    })
}

/// What the honest client sees beside each attack; `between` makes good what one has done.
fn side(run: &Run, place: &Place, between: impl Fn() -> Result<()>) -> Result<Vec<(Attack, Seen)>> {
    let attacks = run.pick(&Attack::ALL[..], &Attack::SMALL);
    let time = run.pick(Duration::from_secs(20), Duration::from_secs(2));
    let mut all = Vec::new();
    for attack in attacks {
        let admin = Client::admin(place, Ipv4Addr::new(127, 0, 0, 60));
        let honest = Honest::go_on(vec![admin.clone()], STEADY, "bench");
        attack.make(&admin.at(attacker(1)), time);
        let seen = honest.end();
        eprintln!("  {}, beside {}: {seen}", place.host, attack.words());
        all.push((*attack, seen));
        if *attack != Attack::Nobody {
            between()?;
        }
    }
    Ok(all)
}

fn tell(report: &mut Report, whose: &str, all: &[(Attack, Seen)], is_ours: bool) {
    let alone = all.iter().find(|(attack, _)| *attack == Attack::Nobody);
    let Some((_, alone)) = alone else {
        return;
    };
    for (attack, seen) in all {
        let what = format!("{whose}, beside {}", attack.words());
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let ratio = seen.quantile(share).as_secs_f64()
                / alone.quantile(share).as_secs_f64().max(f64::MIN_POSITIVE);
            if *attack == Attack::Nobody {
                let value = seen.quantile(share).as_secs_f64();
                report.add_one(&format!("{what}: {name}"), Unit::Seconds, value, None);
            } else {
                report.add_one(&format!("{what}: {name} / alone"), Unit::Ratio, ratio, None);
            }
        }
        let failed = (seen.failed().len() + seen.later().len()) as f64;
        let target = is_ours.then_some(Target::AtMost(0.0));
        report.add_one(&format!("{what}: failed"), Unit::Count, failed, target);
    }
}

//! `bench move`: a real tenant under load goes to another host while it runs: for how long nobody is answered, against its size and the
//! rate of requests, beside stopping, copying and starting it, and beside what an operator does by hand; and what a standby costs at rest.
//!
//! Not here: that nothing is lost (the end-to-end tests), how other things are compared.

mod at_rest;
mod by_hand;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use isyone_tests::e2e::{
    cell::{Cell, Shape},
    http::get,
    moving::{self, Load, Seen, Told},
    odoo::User,
    wait_for,
};

use self::by_hand::{ByHand, Way};
use crate::{
    Run,
    figures::{Report, Target, Unit},
    samples::Samples,
};

/// Of its database, MiB: as it is made, and grown.
const SIZES_MIB: [u64; 3] = [21, 482, 2_048];
/// At this size other rates than twenty requests a second are tried: clients with five a second each.
const RATES: (u64, [usize; 2]) = (482, [1, 8]);
/// Before and after a move, for clients to see how it is without.
const AROUND: Duration = Duration::from_secs(3);
/// A first answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if run.small {
        report.note("A small run measures nothing: a tenant that moves while it runs has a real database, and making one takes longer than a small run may.");
        return Ok(report);
    }
    let cell = Cell::start(&Shape {
        hosts: 2,
        config: "---[plans.small]\nmemory=\"1536MiB\"\ncpu=1.0\ndisk=\"12GiB\"\nworkers=0\n",
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa", "--host", "h1"])
        .ok();
    wait_for("alfa to answer", PATIENCE, || {
        let answer = get(cell.edge(), "alfa.isy.one", "/web/health");
        (answer.status == 200).then_some(())
    });
    let bench = Bench {
        cell: &cell,
        user: User::admin(&cell, "alfa"),
    };
    let hand = ByHand::start(&cell)?;
    for mib in SIZES_MIB {
        if mib > SIZES_MIB[0] {
            moving::grow(&cell, "alfa", mib);
            hand.grow(mib)?;
        }
        bench.at(mib, &hand, &mut report)?;
    }
    drop(hand);
    at_rest::measure(&cell, &mut report)?;
    notes(&mut report);
    Ok(report)
}

struct Bench<'a> {
    cell: &'a Cell,
    user: User,
}

/// What two moves took, there and back.
#[derive(Default)]
struct Taken {
    told: Samples,
    longest: Samples,
    gap: Samples,
    whole: Samples,
    failed: usize,
}

impl Bench<'_> {
    /// All ways at a size.
    fn at(&self, mib: u64, hand: &ByHand, report: &mut Report) -> Result<()> {
        let live = self.there_and_back(true, 4)?;
        let stopped = self.there_and_back(false, 4)?;
        let (copied, dumped) = (hand.goes(Way::Copy)?, hand.goes(Way::Dump)?);
        let mut add = |what: &str, samples: &Samples, target| {
            report.add(
                &format!("{mib} MiB: {what}"),
                Unit::Seconds,
                samples,
                target,
            );
        };
        let most = Some(Target::AtMost(3.0));
        add(
            "while it runs: the pause, by the operation",
            &live.told,
            None,
        );
        add(
            "while it runs: the longest wait, by its clients",
            &live.longest,
            most,
        );
        add("while it runs: the whole move", &live.whole, None);
        add(
            "stopped, copied, started: nobody is answered for",
            &stopped.gap,
            None,
        );
        let one = |took: Duration| -> Samples { [took.as_secs_f64()].into_iter().collect() };
        add(
            "stopped, copied, started by hand: nobody is answered for",
            &one(copied),
            None,
        );
        add(
            "stopped, dumped and restored by hand: nobody is answered for",
            &one(dumped),
            None,
        );
        let failed = live.failed as f64;
        let name = format!("{mib} MiB: while it runs: requests that failed");
        report.add_one(&name, Unit::Count, failed, Some(Target::AtMost(0.0)));
        for (what, other) in [
            ("stopped, copied, started", stopped.gap.median()),
            ("copied by hand", copied.as_secs_f64()),
            ("dumped and restored by hand", dumped.as_secs_f64()),
        ] {
            let name = format!("{mib} MiB: pause while it runs / {what}, of medians");
            let ratio = live.longest.median() / other;
            report.add_one(&name, Unit::Ratio, ratio, Some(Target::AtMost(1.0)));
        }
        if mib == RATES.0 {
            for clients in RATES.1 {
                let other = self.there_and_back(true, clients)?;
                let name = format!(
                    "{mib} MiB, {} requests a second: the longest wait, by its clients",
                    clients * 5
                );
                report.add(&name, Unit::Seconds, &other.longest, most);
            }
        }
        Ok(())
    }

    fn there_and_back(&self, runs: bool, clients: usize) -> Result<Taken> {
        let mut taken = Taken::default();
        for to in ["h2", "h1"] {
            let (seen, whole) = self.moves(to, runs, clients)?;
            let told = Told::last(self.cell, "alfa");
            eprintln!(
                "  to {to}, {}: told {:.1} s, longest wait {:.2} s, none for {:.2} s, whole {:.1} s, {} of {} failed; {}",
                if runs { "running" } else { "stopped" },
                told.paused.as_secs_f64(),
                seen.longest.as_secs_f64(),
                seen.gap.as_secs_f64(),
                whole.as_secs_f64(),
                seen.failed.len(),
                seen.answered,
                told.stages()
            );
            taken.told.push(told.paused.as_secs_f64());
            taken.longest.push(seen.longest.as_secs_f64());
            taken.gap.push(seen.gap.as_secs_f64());
            taken.whole.push(whole.as_secs_f64());
            taken.failed += seen.failed.len();
        }
        Ok(taken)
    }

    fn moves(&self, to: &str, runs: bool, clients: usize) -> Result<(Seen, Duration)> {
        let load = Load::of(&self.user, clients);
        sleep(AROUND);
        let mut words = vec!["tenant", "move", "alfa", "--to", to, "--yes"];
        if runs {
            words.extend(["--max-pause", "5s"]);
        }
        let begin = Instant::now();
        let moved = self.cell.isyctl(&words);
        let whole = begin.elapsed();
        sleep(AROUND);
        let seen = load.end();
        ensure!(moved.code == 0, "{}", moved.stderr);
        Ok((seen, whole))
    }
}

fn notes(report: &mut Report) {
    report.note(
        "Two hosts, each an engine of its own on this machine, an edge, real Odoo with base (threaded, 1 CPU, 1.5 GiB); four clients, each \
         with five requests a second, which write. Twice at each size, there and back: the second goes over what the first has left.",
    );
    report.note(
        "By hand: the same images without limits by `docker run`, without users. Stopped, what it has goes through a pipe on this machine (no \
         network is between), and the clock stops at the first login page; its PostgreSQL at the other end ran before the clock began where \
         it is restored into. Once each.",
    );
    report.note(
        "The operation tells the time from its decision to hold requests to the moment at which the new host answers; a client's wait ends \
         when its own turn has come.",
    );
}

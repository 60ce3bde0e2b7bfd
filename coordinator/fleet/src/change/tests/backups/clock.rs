//! Orders and restores when the clock jumps: nobody's work is called off by it, and nobody's silence is borne for years.
//!
//! Not here: other operations, and hosts' silence (the tests of that name one floor up).

use super::*;
use crate::operation::{RestoreStage, Stage};

const YEARS: i64 = 10 * 365 * DAY;
/// A clock that is put forward or back, and then stays so or is set right again.
const JUMPS: [(i64, bool); 4] = [
    (YEARS, false),
    (-YEARS, false),
    (YEARS, true),
    (-YEARS, true),
];
const MINUTE: i64 = 60_000;

/// The clock has been watched for a while, and is what it is today: one that is ten years behind has a time, too.
fn watched(bench: &mut Bench, hosts: &[&HostName]) {
    bench.now += 3 * YEARS;
    bench.apply(Command::Tick).unwrap();
    for host in hosts {
        report(bench, host, Vec::new(), None);
    }
}

fn jump(bench: &mut Bench, (by, right): (i64, bool), mut after: impl FnMut(&mut Bench)) {
    for by in [by, -by].into_iter().take(1 + usize::from(right)) {
        bench.now += by;
        after(bench);
        bench.apply(Command::Tick).unwrap();
        after(bench);
    }
}

#[test]
fn orders_of_which_a_host_does_not_speak_have_their_minutes_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, host, alfa) = backed_up(&["main"]);
        watched(&mut bench, &[&host]);
        pass(&mut bench);
        assert!(of(&bench, &alfa).order.is_some());
        // Whoever decides meanwhile judges by the new clock what was stored by the old one.
        jump(&mut bench, set, |bench| {
            pass(bench);
            assert!(of(bench, &alfa).order.is_some());
        });
        for (minutes, is_there) in [(14, true), (2, false)] {
            bench.pass(minutes * MINUTE);
            report(&mut bench, &host, Vec::new(), None);
            let rota = views::rota(&bench.state, &bench.settings, bench.now);
            assert_eq!(rota.dead.is_empty(), is_there, "{minutes}");
        }
    }
}

#[test]
fn a_proof_has_its_time_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, host, alfa) = proofs::with_a_backup();
        watched(&mut bench, &[&host]);
        proofs::ask(&mut bench, &alfa);
        proofs::proofs(&mut bench);
        let id = of(&bench, &alfa).proving.unwrap().id;
        jump(&mut bench, set, |bench| {
            proofs::proofs(bench);
            let order = of(bench, &alfa).proving;
            assert_eq!(order.map(|order| order.id), Some(id));
        });
        for (minutes, is_there) in [(14, true), (2, false)] {
            bench.pass(minutes * MINUTE);
            report(&mut bench, &host, Vec::new(), None);
            let rota = views::proof_rota(&bench.state, &bench.settings, bench.now);
            assert_eq!(rota.dead.is_empty(), is_there, "{minutes}");
        }
    }
}

/// A start cannot know how far the clock was off; but nothing was ordered in the future.
#[test]
fn an_order_of_a_clock_that_was_ahead_counts_from_the_start() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    watched(&mut bench, &[&host]);
    pass(&mut bench);
    bench.now -= YEARS;
    bench.state = restart(&bench);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(of(&bench, &alfa).order.unwrap().since, bench.now);
}

#[test]
fn a_restore_has_its_day_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, h2, alfa) = restore::to_restore();
        let h1 = bench.state.fleet.tenants[&alfa].placement.host.clone();
        watched(&mut bench, &[&h1, &h2]);
        let wanted = restore::order(&mut bench, crate::backups::Wanted::Latest);
        let id = operation_of(restore::ask(&mut bench, wanted).unwrap()).id;
        report(&mut bench, &h2, Vec::new(), None);
        let fetches = |bench: &Bench| {
            let operation = &bench.state.fleet.operations[&id];
            operation.stage() == Stage::Restore(RestoreStage::Fetch)
        };
        let late = |bench: &Bench| events(bench, &EventKind::OperationOverdue);
        jump(&mut bench, set, |bench| {
            let running = vec![job(id, JobState::Running, None)];
            report(bench, &h2, running, None);
            assert!(fetches(bench) && late(bench) == 0);
        });
        bench.pass(DAY - 1_000);
        assert_eq!(late(&bench), 0);
        bench.pass(1_000);
        assert!(fetches(&bench) && late(&bench) == 1);
    }
}

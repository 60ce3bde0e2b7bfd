//! Runs of the simulated fleet. A failing seed is printed; `ISYONE_SEED=n` runs only that one, `ISYONE_SEEDS=n` runs
//! that many, and `ISYONE_LONG=1` (`cargo xtask test --long`) a million steps.

use std::time::Instant;

use isyone_fleet::planted::{self, Bug};
use isyone_tests::simulation::{Shape, Simulation, Summary, walk};

/// Steps of one run.
const STEPS: usize = 1_500;
/// Steps of one run in which coordinators are rebuilt: what comes after a move needs time.
const REBUILT_STEPS: usize = 3 * STEPS;
/// Steps of all runs of the long form.
const LONG: u64 = 1_000_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn is_long() -> bool {
    std::env::var_os("ISYONE_LONG").is_some()
}

/// Which seeds are run; so many that a million steps are made of `steps` each in the long form.
fn seeds(usually: u64, steps: usize) -> std::ops::Range<u64> {
    match (number("ISYONE_SEED"), number("ISYONE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => 0..seeds,
        (None, None) if is_long() => 0..LONG / steps as u64 + 1,
        (None, None) => 0..usually,
    }
}

fn shape(seed: u64, rebuilds: bool) -> Shape {
    Shape {
        hosts: 1 + seed as usize % 5,
        steps: if rebuilds { REBUILT_STEPS } else { STEPS },
        // An older state shows its worth when moves have ended since, so faults must be few enough for that.
        fault_permille: if rebuilds {
            5 + 10 * (seed as u32 % 4)
        } else {
            20 + 40 * (seed as u32 % 4)
        },
        rebuilds,
        moves: false,
        standbys: false,
        leases: false,
    }
}

fn run(seed: u64, shape: Shape) -> Summary {
    let result = std::panic::catch_unwind(|| Simulation::new(seed, shape).run());
    result.unwrap_or_else(|_| {
        panic!("seed {seed} with {shape:?} broke an invariant: ISYONE_SEED={seed} repeats it")
    })
}

fn run_all(seeds: std::ops::Range<u64>, shape: impl Fn(u64) -> Shape) -> Summary {
    let started = Instant::now();
    let mut sum = Summary::default();
    for seed in seeds {
        sum.add(&run(seed, shape(seed)));
    }
    let rate = sum.steps as f64 / started.elapsed().as_secs_f64();
    println!("{sum}, {rate:.0} steps/s");
    sum
}

#[test]
fn a_fleet_under_faults_keeps_its_invariants_and_settles() {
    let sum = run_all(seeds(60, STEPS), |seed| shape(seed, false));
    // The runs must have done something: a simulation in which nothing happens passes every check.
    if std::env::var_os("ISYONE_SEED").is_none() {
        assert!(
            sum.accepted > 1_000 && sum.crashes > 100 && sum.purged > 50 && sum.slept > 50,
            "{sum}"
        );
        assert!(
            sum.moved > 20 && sum.went_back > 20 && sum.written > 1_000,
            "{sum}"
        );
    }
}

#[test]
fn a_coordinator_rebuilt_from_an_older_state_lets_nobody_write_beside_another() {
    let sum = run_all(seeds(15, REBUILT_STEPS), |seed| shape(seed, true));
    assert!(
        std::env::var_os("ISYONE_SEED").is_some() || sum.accepted > 500 && sum.written > 1_000,
        "{sum}"
    );
}

#[test]
fn tenants_that_move_to_and_fro_lose_nothing() {
    let sum = run_all(seeds(20, REBUILT_STEPS), |seed| Shape {
        hosts: 2 + seed as usize % 2,
        moves: true,
        rebuilds: false,
        ..shape(seed, true)
    });
    assert!(
        std::env::var_os("ISYONE_SEED").is_some() || sum.moved > 50 && sum.came_back > 5,
        "{sum}"
    );
}

#[test]
fn tenants_of_hosts_that_lose_their_power_go_on_from_their_standbys_and_nowhere_twice() {
    let sum = run_all(seeds(20, REBUILT_STEPS), |seed| Shape {
        hosts: 2 + seed as usize % 3,
        standbys: true,
        rebuilds: false,
        fault_permille: 20 + 10 * (seed as u32 % 4),
        ..shape(seed, true)
    });
    assert!(
        std::env::var_os("ISYONE_SEED").is_some() || sum.failed_over > 0 && sum.written > 1_000,
        "{sum}"
    );
}

#[test]
fn standbys_take_over_by_themselves_and_nothing_runs_twice_whoever_is_cut_off() {
    let sum = run_all(seeds(20, REBUILT_STEPS), |seed| Shape {
        hosts: 2 + seed as usize % 3,
        standbys: true,
        leases: true,
        rebuilds: false,
        // Few enough that leases are agreed on between them.
        fault_permille: 5 + 3 * (seed as u32 % 4),
        ..shape(seed, true)
    });
    assert!(
        std::env::var_os("ISYONE_SEED").is_some()
            || sum.by_itself > 0 && sum.lapsed > 0 && sum.written > 1_000,
        "{sum}"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let shape = Shape {
        hosts: 3,
        steps: 1_000,
        fault_permille: 60,
        rebuilds: false,
        moves: false,
        standbys: false,
        leases: false,
    };
    assert_eq!(run(7, shape), run(7, shape));
    assert_ne!(run(7, shape).digest, run(8, shape).digest);
}

/// Seeds that lately found the bugs which few find: they are tried first, as all others take minutes.
const LATELY: [u64; 2] = [101, 184];

/// Each planted bug must be found; where is printed. `ISYONE_BUG=TwoWriters`: only that one.
#[test]
fn planted_bugs_are_found() {
    let only = std::env::var("ISYONE_BUG").ok();
    let is_wanted = |bug: &Bug| only.as_ref().is_none_or(|only| format!("{bug:?}") == *only);
    for bug in Bug::ALL.into_iter().filter(is_wanted) {
        let found = LATELY.into_iter().chain(0..200).find_map(|seed| {
            planted::plant(Some(bug));
            // What epochs are for, and what time must not decide, shows only when an older state comes back.
            let rebuilds = matches!(bug, Bug::EpochIgnored | Bug::ClockDecides);
            let leases = matches!(bug, Bug::LeaseByWallClock | Bug::LeaseNotAwaited);
            let standbys = leases || matches!(bug, Bug::StartsUnasked | Bug::PromotedUnfenced);
            let shape = Shape {
                hosts: 2 + seed as usize % 3,
                steps: REBUILT_STEPS,
                standbys,
                leases,
                ..shape(seed, rebuilds)
            };
            let shape = match leases {
                true => Shape {
                    fault_permille: 5 + 3 * (seed as u32 % 4),
                    ..shape
                },
                false => shape,
            };
            let broken = Simulation::new(seed, shape).run_until_broken().err();
            planted::plant(None);
            broken.map(|broken| (seed, broken))
        });
        let Some((seed, broken)) = found else {
            panic!("{bug:?} was not found");
        };
        let why = broken.why.lines().next().unwrap_or_default();
        let why: String = why.chars().take(120).collect();
        println!(
            "{bug:?}: found by seed {seed} at step {}: {why}",
            broken.step
        );
    }
}

#[test]
fn whatever_dies_at_whatever_write_or_step_every_operation_ends_as_it_should() {
    let walked = walk::walk(if is_long() { 1 } else { 3 });
    println!("{walked}");
}

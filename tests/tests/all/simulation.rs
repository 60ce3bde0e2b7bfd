//! Runs of the simulated fleet. A failing seed is printed; `ISYONE_SEED=n` runs only that one, `ISYONE_SEEDS=n` runs
//! that many.

use std::time::Instant;

use isyone_tests::simulation::{Shape, Simulation};

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match number("ISYONE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ISYONE_SEEDS").unwrap_or(60),
    }
}

fn run(seed: u64, shape: Shape) -> isyone_tests::simulation::Summary {
    let result = std::panic::catch_unwind(|| Simulation::new(seed, shape).run());
    result.unwrap_or_else(|_| {
        panic!("seed {seed} with {shape:?} broke an invariant: ISYONE_SEED={seed} repeats it")
    })
}

#[test]
fn a_fleet_under_faults_keeps_its_invariants_and_settles() {
    let started = Instant::now();
    let (mut steps, mut accepted, mut crashes, mut purged, mut slept) = (0, 0, 0, 0, 0);
    for seed in seeds() {
        let shape = Shape {
            hosts: 1 + seed as usize % 5,
            steps: 1_500,
            fault_permille: 20 + 40 * (seed as u32 % 4),
        };
        let summary = run(seed, shape);
        steps += summary.steps;
        accepted += summary.accepted;
        crashes += summary.crashes;
        purged += summary.purged;
        slept += summary.slept;
    }
    let rate = steps as f64 / started.elapsed().as_secs_f64();
    println!(
        "{steps} steps, {accepted} commands accepted, {crashes} crashes, {purged} tenants purged, {slept} put to sleep, {rate:.0} steps/s"
    );
    // The runs must have done something: a simulation in which nothing happens passes every check.
    if std::env::var_os("ISYONE_SEED").is_none() {
        assert!(
            accepted > 1_000 && crashes > 100 && purged > 50 && slept > 50,
            "{accepted} {crashes} {purged} {slept}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let shape = Shape {
        hosts: 3,
        steps: 1_000,
        fault_permille: 60,
    };
    assert_eq!(run(7, shape), run(7, shape));
    assert_ne!(run(7, shape).digest, run(8, shape).digest);
}

//! A real coordinator and real agents in one process, over a fake Docker: seeded faults, certificates, identities. A failing
//! seed is printed; `ISYONE_SEED=n` runs that one alone.

use std::time::Instant;

use isyone_tests::fleet::chaos::{self, Shape, Summary};

/// Runs at the same time: they mostly wait.
const SEEDS: u64 = 4;

fn seeds() -> Vec<u64> {
    let one = std::env::var("ISYONE_SEED").ok().and_then(|text| text.parse().ok());
    one.map_or_else(|| (0..SEEDS).collect(), |seed| vec![seed])
}

/// Every second run also sees quarantines end.
fn shape(seed: u64) -> Shape {
    let quarantine = if seed % 2 == 0 { "7d" } else { "2s" };
    Shape { steps: 160, fault_permille: 150, quarantine }
}

#[test]
fn a_fleet_under_faults_keeps_its_word_and_settles() {
    let begin = Instant::now();
    let runs: Vec<_> = seeds()
        .into_iter()
        .map(|seed| (seed, std::thread::spawn(move || chaos::run(seed, shape(seed)))))
        .collect();
    let ended: Vec<_> = runs.into_iter().map(|(seed, run)| (seed, run.join())).collect();
    let failed: Vec<u64> = ended.iter().filter(|(_, run)| run.is_err()).map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "seeds {failed:?} failed (see above); ISYONE_SEED=n repeats one");
    let done: Vec<Summary> = ended.into_iter().filter_map(|(_, run)| run.ok()).collect();
    println!("{:.1} s: {done:#?}", begin.elapsed().as_secs_f32());
    // The runs must be about something.
    assert!(done.iter().all(|s| s.acknowledged > 20 && s.faults > 5), "{done:?}");
}

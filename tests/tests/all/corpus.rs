//! Hostile inputs: the kept ones, as they are and mutated, against every place where bytes of outsiders are parsed. A new
//! one that breaks a promise belongs into `tests/corpus/<place>/`.
//!
//! Not here: the promises (isyone_tests::hostile).

use std::{fs, panic};

use isyone_agent::testing::{host_plan, tenant_plan};
use isyone_proto::pb::{agent::v1 as wire, v1};
use isyone_tests::hostile::{PLACES, Place};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use prost::Message as _;

/// Mutated inputs for each place.
const CASES: u32 = 400;
/// Longest input that is replayed; more is no corpus but a mistake.
const MAX_INPUT: usize = 64 << 10;

fn kept(place: &Place) -> Vec<(String, Vec<u8>)> {
    let folder = fs::read_dir(place.corpus()).expect("each place has a corpus");
    let mut kept: Vec<_> = folder
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.display().to_string();
            (name, fs::read(path).expect("a file"))
        })
        .collect();
    kept.sort();
    assert!(!kept.is_empty(), "{}", place.name);
    kept
}

#[test]
fn what_was_once_hostile_is_harmless() {
    for place in PLACES {
        for (name, input) in kept(&place) {
            assert!(input.len() <= MAX_INPUT, "{name}");
            let checked = panic::catch_unwind(|| (place.check)(&input));
            assert!(checked.is_ok(), "{name}");
        }
    }
}

/// One change to an input.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index, usize),
    /// A piece of it once more, many times.
    Repeat(prop::sample::Index, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<prop::sample::Index>;
    let bytes = prop::collection::vec(
        prop_oneof![
            any::<u8>(),
            prop::sample::select(b"\0\n\r\x1b/.\"\\{}=,#%".to_vec())
        ],
        1..12,
    );
    let change = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Flip(at, byte)),
        (at(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..40_usize).prop_map(|(at, count)| Change::Cut(at, count)),
        (at(), 2..200_usize).prop_map(|(at, times)| Change::Repeat(at, times)),
    ];
    prop::collection::vec(change, 0..6)
}

fn changed(mut input: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let end = input.len();
        match change {
            Change::Flip(at, byte) if end > 0 => input[at.index(end)] ^= byte,
            Change::Insert(at, bytes) => {
                let at = at.index(end + 1);
                input.splice(at..at, bytes.iter().copied());
            }
            Change::Cut(at, count) if end > 0 => {
                let at = at.index(end);
                input.drain(at..(at + count).min(end));
            }
            Change::Repeat(at, times) if (1..MAX_INPUT / 4).contains(&end) => {
                let at = at.index(end);
                let piece = input[at..(at + 24).min(end)].repeat(*times);
                input.splice(at..at, piece);
            }
            Change::Flip(..) | Change::Cut(..) | Change::Repeat(..) => {}
        }
    }
    input
}

#[test]
fn what_comes_near_it_is_harmless_too() {
    for place in PLACES {
        let inputs: Vec<Vec<u8>> = kept(&place).into_iter().map(|(_, input)| input).collect();
        let config = Config {
            cases: CASES,
            failure_persistence: None, // it belongs into the corpus
            ..Config::default()
        };
        let near = (prop::sample::select(inputs), changes());
        let outcome = TestRunner::new(config).run(&near, |(input, changes)| {
            (place.check)(&changed(input, &changes));
            Ok(())
        });
        if let Err(broken) = outcome {
            panic!("{}: {broken}", place.name);
        }
    }
}

/// Messages cannot be written by hand: `KEEP_CORPUS=1` writes these anew, after the protocol has changed.
#[test]
fn messages_of_the_corpus_are_what_the_protocol_has_today() {
    let plan = host_plan(7, vec![tenant_plan("alfa"), tenant_plan("beta")]);
    let report = wire::Report {
        sequence: 3,
        complete: true,
        resources: Some(v1::HostResources::default()),
        tenants: vec![
            wire::TenantStatus {
                name: "alfa".to_owned(),
                uid: "0192f0c4-0000-7000-8000-000000000001".to_owned(),
                progress: wire::Progress::Failing.into(),
                message: "two\nlines\r\x1b[2J".to_owned(),
                ..Default::default()
            },
            wire::TenantStatus {
                name: "\n../x\u{202e}".to_owned(),
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    let messages = [
        ("plan", wire::Plan::from(&plan).encode_to_vec()),
        ("report", report.encode_to_vec()),
    ];
    for (name, message) in messages {
        let place = PLACES.iter().find(|place| place.name == name);
        let file = place.expect("a place").corpus().join("usual");
        if std::env::var_os("KEEP_CORPUS").is_some() {
            fs::create_dir_all(file.parent().expect("a folder")).expect("it is made");
            fs::write(&file, &message).expect("it is written");
        }
        let kept = fs::read(&file).unwrap_or_default();
        assert!(!kept.is_empty(), "{}: KEEP_CORPUS=1", file.display());
        (place.expect("a place").check)(&kept);
    }
}

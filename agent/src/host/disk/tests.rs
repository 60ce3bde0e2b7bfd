//! Whose turn it is to be measured.

use std::collections::BTreeMap;

use isyone_proto::{
    disk::{DiskMeans, DiskUse},
    report::TenantProgress,
};

use super::*;
use crate::host::board::{StatusBoard, TenantStatus};

const GIB: u64 = 1 << 30;

fn entries(names: &[&str]) -> Vec<BoardEntry> {
    let board = StatusBoard::default();
    for name in names {
        let status = TenantStatus {
            uid: uuid::Uuid::nil(),
            epoch: 1,
            generation: 1,
            progress: TenantProgress::Converged,
            message: String::new(),
            blocked: false,
            unfit: false,
            containers: vec![],
            operation: None,
            steps: vec![],
            own_database: true,
            absent: false,
            volumes: vec!["/p".to_owned(), "/o".to_owned()],
            volume_repairs: 0,
            modules_cut_off: 0,
            installs_finished: 0,
        };
        board.set(&name.parse().unwrap(), status);
    }
    board.entries()
}

/// Used so many bytes of 10 GiB when its file system had 100 GiB free.
fn known(used: u64, at: Instant) -> Known {
    Known {
        found: Measurement {
            volumes: vec![used, 0],
            used: DiskUse::of_bytes(used),
            free: room(100 * GIB),
            ..Measurement::default()
        },
        at,
        free: room(100 * GIB),
        fallen: Room::default(),
        disk: Disk::after(None, DiskUse::of_bytes(used), 10 * GIB, DiskMeans::Counted),
        held_at: Some(10 * GIB),
        other_limit: false,
        in_a_hurry: false,
        in_vain: 0,
    }
}

fn room(bytes: u64) -> Room {
    Room {
        bytes,
        inodes: 1_000_000,
    }
}

/// Fails when the first name that is due goes first: with many tenants it is due again before the last one was ever measured.
#[test]
fn every_tenants_disk_gets_its_turn_when_a_round_takes_long() {
    let entries = entries(&["alfa", "beta", "gama"]);
    let (mut disks, mut now) = (Disks::default(), Instant::now());
    let mut measured = Vec::new();
    for _ in 0..6 {
        let name = disks.due(&entries, now).unwrap().name.clone();
        disks.known.insert(name.clone(), known(0, now));
        measured.push(name.to_string());
        now += AT_LEISURE + Duration::from_secs(1);
    }
    assert_eq!(measured, ["alfa", "beta", "gama", "alfa", "beta", "gama"]);
    for entry in &entries {
        disks.known.insert(entry.name.clone(), known(0, now));
    }
    assert!(disks.due(&entries, now + AT_LEISURE / 2).is_none());
}

#[test]
fn who_may_be_full_by_now_is_measured_soon_and_starves_nobody() {
    let entries = entries(&["alfa", "beta"]);
    let (mut disks, start) = (Disks::default(), Instant::now());
    for entry in &entries {
        disks.known.insert(entry.name.clone(), known(GIB, start));
    }
    let later = start + HURRIED;
    let less = |by: u64| move |_: &BoardEntry| Some(room(100 * GIB - by));
    disks.look(&entries, &less(6 * GIB));
    assert!(disks.due(&entries, later).is_none());
    disks.look(&entries, &less(7 * GIB));
    let hurried = disks.due(&entries, later).unwrap();
    assert_eq!(hurried.name.as_str(), "alfa");
    disks
        .known
        .insert("beta".parse().unwrap(), known(GIB, start));
    // Alfa's file system goes on losing room, and alfa is never done: beta has its turn when its time has come.
    let alfa_writes = |entry: &BoardEntry| {
        let by = if entry.name.as_str() == "alfa" { 50 } else { 0 };
        Some(room((100 - by) * GIB))
    };
    let (mut now, mut betas) = (start, 0);
    while now < start + AT_LEISURE + HURRIED * 3 {
        disks.look(&entries, &alfa_writes);
        if let Some(entry) = disks.due(&entries, now) {
            betas += u32::from(entry.name.as_str() == "beta");
            disks.known.insert(entry.name.clone(), known(GIB, now));
        }
        now += EVERY;
    }
    assert_eq!(betas, 1);
}

/// A host has hundreds of tenants on one file system, and somebody writes there all the time.
#[test]
fn who_hurries_in_vain_hurries_less() {
    let entries = entries(&["alfa"]);
    let name = &entries[0].name;
    let (mut disks, mut now) = (Disks::default(), Instant::now());
    disks.known.insert(name.clone(), known(GIB, now));
    let (mut left, mut waits) = (100 * GIB, Vec::new());
    let mut measure = |disks: &mut Disks, used: u64| {
        left -= 9 * GIB;
        disks.look(&entries, &|_| Some(room(left)));
        let begin = now;
        while disks.due(&entries, now).is_none() {
            now += Duration::from_secs(1);
        }
        waits.push((now - begin).as_secs());
        disks.begin(name);
        let found = known(used, now).found;
        disks.end(name.clone(), None, found, now);
        disks.known.get_mut(name).unwrap().disk = known(used, now).disk;
        disks.known.get_mut(name).unwrap().free = room(left);
    };
    for _ in 0..4 {
        measure(&mut disks, GIB);
    }
    // It was itself, at last.
    for _ in 0..2 {
        measure(&mut disks, 2 * GIB);
    }
    assert_eq!(waits, [10, 20, 40, 40, 40, 10]);
}

#[test]
fn who_is_warned_is_watched_and_who_is_being_measured_waits() {
    let entries = entries(&["alfa"]);
    let (mut disks, start) = (Disks::default(), Instant::now());
    disks
        .known
        .insert("alfa".parse().unwrap(), known(9 * GIB, start));
    assert!(disks.due(&entries, start + WATCHED / 2).is_none());
    assert!(disks.due(&entries, start + WATCHED).is_some());
    disks.begin(&"alfa".parse().unwrap());
    assert!(disks.due(&entries, start + WATCHED).is_none());
}

/// Fails when the file system learns of a larger plan with the next look: up to 15 minutes in which nothing can be written.
#[test]
fn a_file_system_learns_of_another_limit_at_once() {
    let now = Instant::now();
    let mut known = known(0, now);
    assert_eq!(pace(&known), AT_LEISURE);
    known.other_limit = true;
    assert_eq!(pace(&known), HURRIED);
}

/// Fails when only the difference is looked at: what a neighbour removes hides what a tenant writes, up to 15 minutes long.
#[test]
fn what_others_remove_does_not_hide_what_one_writes() {
    let entries = entries(&["alfa"]);
    let (mut disks, start) = (Disks::default(), Instant::now());
    let alfa = &entries[0].name;
    disks.known.insert(alfa.clone(), known(GIB, start));
    for free in [96, 100, 97, 101] {
        disks.look(&entries, &|_| Some(room(free * GIB)));
    }
    assert!(disks.due(&entries, start + HURRIED).is_some());
    // What was written before a measurement began, it has seen; what came during it, it may not have.
    disks.begin(alfa);
    disks.look(&entries, &|_| Some(room(90 * GIB)));
    let found = known(GIB, start).found;
    disks.learn(alfa.clone(), Some(10 * GIB), found, start);
    disks.under_way.clear();
    assert_eq!(disks.known[alfa].fallen.bytes, 11 * GIB);
}

/// Fails when only bytes hurry: empty files would be counted a quarter of an hour later.
#[test]
fn who_may_have_too_many_files_by_now_is_measured_soon() {
    let entries = entries(&["alfa"]);
    let (mut disks, start) = (Disks::default(), Instant::now());
    let alfa = &entries[0].name;
    disks.known.insert(alfa.clone(), known(0, start));
    // 80 % of a plan's 655,360 for 10 GiB.
    for (made, expected) in [(520_000, AT_LEISURE), (530_000, HURRIED)] {
        let now = Room {
            inodes: 1_000_000 - made,
            ..room(100 * GIB)
        };
        disks.look(&entries, &|_| Some(now));
        assert_eq!(pace(&disks.known[alfa]), expected, "{made}");
    }
    let mut known = known(0, start);
    known.found.cut = true;
    assert_eq!(pace(&known), WATCHED);
}

/// Five tenants with millions of directories and one that fills the disk, for three hours. Fails when whoever has so many gets
/// any walker that is free: four of them held all for a quarter of an hour at a time, and nobody looked at the sixth.
#[test]
fn however_many_take_long_who_hurries_is_measured_soon() {
    let entries = entries(&["alfa", "b1", "b2", "b3", "b4", "b5"]);
    let (mut disks, start) = (Disks::default(), Instant::now());
    let mut walks: Vec<(TenantName, Instant)> = Vec::new();
    let mut done: BTreeMap<TenantName, u32> = BTreeMap::new();
    let (mut waits, mut longest) = (0, 0);
    for second in 0..3 * 3_600 {
        let now = start + Duration::from_secs(second);
        walks.retain(|(name, begun)| {
            let is_alfa = name.as_str() == "alfa";
            let takes = Duration::from_secs(if is_alfa { 1 } else { 1_000 });
            let took = takes.min(disks.speed(name).most_time().unwrap_or(takes));
            if *begun + took > now {
                return true;
            }
            let found = Measurement {
                took,
                given_up: took < takes,
                cut: true,
                ..known(GIB, now).found
            };
            *done.entry(name.clone()).or_default() += u32::from(!found.given_up);
            disks.end(name.clone(), None, found, now);
            if is_alfa {
                let fallen = room(90 * GIB);
                let hurried = Known {
                    fallen,
                    ..known(GIB, now)
                };
                disks.known.insert(name.clone(), hurried);
            }
            false
        });
        while walks.len() < AT_ONCE
            && let Some(entry) = disks.due(&entries, now)
        {
            disks.begin(&entry.name);
            walks.push((entry.name.clone(), now));
        }
        let alfa = &entries[0].name;
        let is_waiting =
            !disks.under_way.contains_key(alfa) && disks.has_waited(alfa, now).is_some();
        waits = if is_waiting { waits + 1 } else { 0 };
        longest = waits.max(longest);
    }
    // Two that were quick as far as was known, one after the other.
    assert!(longest <= 40, "{longest} s");
    assert!(
        done.len() == 6 && done.values().all(|times| *times > 1),
        "{done:?}"
    );
}

/// Fails when what fell before a measurement that was given up is forgotten: its tenant would be looked at a quarter of an hour
/// later.
#[test]
fn who_was_given_up_is_measured_at_once_among_the_slower() {
    let entries = entries(&["alfa", "beta"]);
    let (mut disks, start) = (Disks::default(), Instant::now());
    for entry in &entries {
        disks.known.insert(entry.name.clone(), known(GIB, start));
    }
    let alfa = entries[0].name.clone();
    let most = |disks: &mut Disks| disks.places(&entries[0], None).most_time;
    let mut before = Some(Duration::ZERO);
    for _ in 0..2 {
        assert!(most(&mut disks) > before);
        before = most(&mut disks);
        disks.begin(&alfa);
        let found = Measurement {
            given_up: true,
            ..known(0, start).found
        };
        disks.end(alfa.clone(), None, found, start);
        assert_eq!(disks.due(&entries, start).map(|e| &e.name), Some(&alfa));
        assert_eq!(disks.known[&alfa].found.used.bytes, GIB);
    }
    // Now it takes as long as it takes; and when that was not long, it is as all others are.
    assert_eq!(most(&mut disks), None);
    disks.begin(&alfa);
    disks.end(alfa.clone(), None, known(0, start).found, start);
    assert!(disks.due(&entries, start).is_none());
    assert_eq!(disks.speed(&alfa), Speed::Quick);
}

/// Fails when only waiting counts: on a disk that somebody fills, 119 others are measured first.
#[test]
fn who_hurries_goes_before_those_who_are_only_watched() {
    let entries = entries(&["alfa", "beta"]);
    let (mut disks, start) = (Disks::default(), Instant::now());
    let hurried = Known {
        fallen: room(90 * GIB),
        ..known(GIB, start + WATCHED)
    };
    disks
        .known
        .insert(entries[0].name.clone(), known(9 * GIB, start));
    disks.known.insert(entries[1].name.clone(), hurried);
    let first = |after: Duration| disks.due(&entries, start + after).unwrap().name.as_str();
    assert_eq!(first(WATCHED), "alfa");
    assert_eq!(first(WATCHED + HURRIED), "beta");
    // Alfa has waited for longer than the head start only when beta's time comes so much later.
    let later = Known {
        fallen: room(90 * GIB),
        ..known(GIB, start + WATCHED + HEAD_START)
    };
    disks.known.insert(entries[1].name.clone(), later);
    let due = disks.due(&entries, start + WATCHED + HEAD_START + HURRIED);
    assert_eq!(due.unwrap().name.as_str(), "alfa");
}

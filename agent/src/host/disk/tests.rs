//! Whose turn it is to be measured.

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
            containers: vec![],
            operation: None,
            steps: vec![],
            own_database: true,
            absent: false,
            volumes: vec!["/p".to_owned(), "/o".to_owned()],
            volume_repairs: 0,
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

#[test]
fn who_is_warned_is_watched_and_who_is_being_measured_waits() {
    let entries = entries(&["alfa"]);
    let (mut disks, start) = (Disks::default(), Instant::now());
    disks
        .known
        .insert("alfa".parse().unwrap(), known(9 * GIB, start));
    assert!(disks.due(&entries, start + WATCHED / 2).is_none());
    assert!(disks.due(&entries, start + WATCHED).is_some());
    disks.under_way.insert("alfa".parse().unwrap());
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

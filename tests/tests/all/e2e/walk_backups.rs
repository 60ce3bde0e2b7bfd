//! `kill -9` of the coordinator and of the agent while a backup is made, and at each stage of a restore, with real parts: the long form of
//! `backups`.
//!
//! Not here: moves (walk), every write and every step (the simulation).

use std::time::Duration;

use isyone_fleet::operation::{RestoreStage, Stage};
use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled, wait_for,
};

use super::{
    backups::{CONFIG, another_base},
    walk::{Victim, answers, at_stage, kill_and_restart, sql},
};

const MINUTE: Duration = Duration::from_secs(60);

/// The newest base's id.
fn base(cell: &Cell) -> String {
    let listed = cell.json(&["backup", "list", "alfa"]);
    let mut bases = listed.as_array().expect("a list").iter();
    let base = bases.find(|made| made["work"] == "base").expect("a base");
    base["id"].as_str().expect("an id").to_owned()
}

/// Killed while a backup that was asked for is made, it is made all the same.
fn backed_up_although_killed(cell: &mut Cell) {
    for (were, victim) in [Victim::Coordinator, Victim::Agent(0)]
        .into_iter()
        .enumerate()
    {
        cell.isyctl(&["backup", "create", "alfa", "--no-wait"]).ok();
        wait_for("the order", MINUTE, || {
            let shown = cell.json(&["backup", "status", "alfa"]);
            (!shown["order"].is_null() || shown["asked"].is_null()).then_some(())
        });
        kill_and_restart(cell, victim);
        another_base(cell, "alfa", were);
        wait_for("what was asked for", 5 * MINUTE, || {
            cell.json(&["backup", "status", "alfa"])["asked"]
                .is_null()
                .then_some(())
        });
        println!("backup: {victim:?} killed: made");
    }
}

/// Restores it in its place, as soon as what an earlier one has set aside is out of the way.
fn begun(cell: &Cell, base: &str) -> String {
    let words = [
        "tenant",
        "restore",
        "alfa",
        "--to",
        base,
        "--yes",
        "--no-wait",
        "-o",
        "json",
    ];
    wait_for("a restore to begin", 2 * MINUTE, || {
        let asked = cell.isyctl(&words);
        let told: serde_json::Value = serde_json::from_str(&asked.stdout).ok()?;
        told["id"].as_str().map(str::to_owned)
    })
}

/// It is as that backup has it, or as it was; and returns to what it was.
fn restored_or_as_before(cell: &Cell, succeeded: bool, rounds: usize) {
    let count = || sql(cell, "select count(*) from mark");
    answers(cell);
    if succeeded {
        assert_eq!(count(), "0", "as the backup has it");
        let back = ["tenant", "restore", "alfa", "--to", "before", "--yes"];
        cell.isyctl(&back).ok();
        answers(cell);
    }
    assert_eq!(count(), rounds.to_string(), "as it was before");
    let containers = cell.hosts[0].docker.tenants_containers();
    assert_eq!(containers, ["odoo_alfa", "postgres_alfa"]);
}

#[test]
fn whoever_is_killed_at_whatever_stage_of_a_backup_or_a_restore_it_ends() {
    const NAME: &str = "whoever_is_killed_at_whatever_stage_of_a_backup_or_a_restore_it_ends";
    if !enabled(NAME) {
        return;
    }
    if std::env::var_os("ISYONE_LONG").is_none() {
        return println!("{NAME}: only in the long form");
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        config: CONFIG,
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    answers(&cell);
    sql(&cell, "create table mark (round integer)");
    backed_up_although_killed(&mut cell);
    let base = base(&cell);
    let stages = Stage::ALL
        .into_iter()
        .filter(|stage| matches!(stage, Stage::Restore(_)));
    let (mut rounds, mut missed) = (0, Vec::new());
    for stage in stages {
        for victim in [Victim::Coordinator, Victim::Agent(0)] {
            rounds += 1;
            sql(&cell, &format!("insert into mark values ({rounds})"));
            let id = begun(&cell, &base);
            let back = stage.is_back();
            if back && at_stage(&cell, &id, Stage::Restore(RestoreStage::Fetch)) {
                cell.isyctl(&["op", "cancel", &id, "--no-wait"]);
            }
            if !at_stage(&cell, &id, stage) {
                missed.push((stage.word(), victim));
            }
            kill_and_restart(&mut cell, victim);
            wait_for("the operation to end", 3 * MINUTE, || {
                (cell.json(&["op", "show", &id])["done"] == true).then_some(())
            });
            let state = cell.json(&["op", "show", &id])["state"].clone();
            assert!(
                back || state == "succeeded",
                "{stage:?} {victim:?}: {state}"
            );
            restored_or_as_before(&cell, state == "succeeded", rounds);
            println!("{}: {victim:?} killed: {state}", stage.word());
        }
    }
    println!("stages that were over before they were seen: {missed:?}");
    assert!(missed.len() <= rounds / 3, "{missed:?}");
}

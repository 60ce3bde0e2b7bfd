//! `kill -9` of the coordinator and of either host's agent at each stage of an operation, with real parts: the long form
//! of `moves`, `crashes` and `backups`. The stages are the machine's own, so that new ones are covered without being named here. The
//! simulation kills at every write and every step; here it is seen that real programs do as it says.

use std::time::{Duration, Instant};

use isyone_fleet::operation::{MoveStage, RestoreStage, Stage};
use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    http::get,
    wait_for,
};

use super::backups::{CONFIG, another_base};

const MINUTE: Duration = Duration::from_secs(60);

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Coordinator,
    /// The agent of the host with this index.
    Agent(usize),
}

fn kill_and_restart(cell: &mut Cell, victim: Victim) {
    match victim {
        Victim::Coordinator => {
            cell.coordinator.as_mut().expect("running").kill();
            cell.start_coordinator();
        }
        Victim::Agent(index) => {
            cell.hosts[index].agent.as_mut().expect("running").kill();
            cell.start_agent(index, &[]);
        }
    }
}

/// Waits until the operation is at a stage, or is over. True if it was seen there.
fn at_stage(cell: &Cell, id: &str, stage: Stage) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < 2 * MINUTE {
        let operation = cell.json(&["op", "show", id]);
        if operation["stage"] == stage.word() {
            return true;
        }
        if operation["done"] == true {
            return false;
        }
    }
    panic!("operation {id} neither reached {stage:?} nor ended");
}

fn answers(cell: &Cell) {
    wait_for("alfa to answer", 2 * MINUTE, || {
        (get(cell.edge(), "alfa.isy.one", "/web/health").status == 200).then_some(())
    });
}

fn sql(cell: &Cell, query: &str) -> String {
    let words = ["tenant", "psql", "alfa", "--", "-tAc", query];
    cell.isyctl(&words).ok().trim().to_owned()
}

/// The tenant runs on this host and nowhere else, and has what was written before.
fn lives_on(cell: &Cell, host: &str, rounds: usize) {
    answers(cell);
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], host);
    for each in &cell.hosts {
        let running = each.docker.tenants_containers();
        let expected = if each.name == host { 2 } else { 0 };
        let up = each.docker.run(&["ps", "--format", "{{.Names}}"]).ok();
        assert_eq!(
            up.lines().count(),
            expected,
            "on {}: {running:?}",
            each.name
        );
    }
    let counted = sql(cell, "select count(*) from mark");
    assert_eq!(counted, rounds.to_string(), "what was written is there");
}

#[test]
fn whoever_is_killed_at_whatever_stage_of_a_move_it_ends() {
    const NAME: &str = "whoever_is_killed_at_whatever_stage_of_a_move_it_ends";
    if !enabled(NAME) {
        return;
    }
    if std::env::var_os("ISYONE_LONG").is_none() {
        return println!("{NAME}: only in the long form");
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        hosts: 2,
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n",
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa", "--host", "h1"])
        .ok();
    answers(&cell);
    sql(&cell, "create table mark (round integer)");
    let stages = Stage::ALL
        .into_iter()
        .filter(|stage| matches!(stage, Stage::Move(_)));
    let (mut at, mut rounds, mut missed) = (0, 0, Vec::new());
    for stage in stages {
        for victim in [Victim::Coordinator, Victim::Agent(0), Victim::Agent(1)] {
            rounds += 1;
            sql(&cell, &format!("insert into mark values ({rounds})"));
            let to = 1 - at;
            let target = cell.hosts[to].name.clone();
            let words = [
                "tenant",
                "move",
                "alfa",
                "--to",
                &target,
                "--yes",
                "--no-wait",
            ];
            let id = cell.json(&words)["id"].as_str().expect("an id").to_owned();
            let back = stage.is_back();
            if back && at_stage(&cell, &id, Stage::Move(MoveStage::Copy)) {
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
            if state == "succeeded" {
                at = to;
            }
            let host = cell.hosts[at].name.clone();
            assert!(
                back || state == "succeeded",
                "{stage:?} {victim:?}: {state}"
            );
            lives_on(&cell, &host, rounds);
            println!(
                "{}: {victim:?} killed: {state}, lives on {host}",
                stage.word()
            );
        }
    }
    println!("stages that were over before they were seen: {missed:?}");
    assert!(missed.len() <= rounds / 3, "{missed:?}");
}

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

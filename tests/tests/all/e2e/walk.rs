//! `kill -9` of the coordinator, of either host's agent and of its dockerd, and the loss of a host's power, at each stage of a move that stops
//! its tenant and of one that does not, with real parts: the long form of `moves`, `live_moves` and `crashes`. The stages are the machine's own, so that new ones are covered without being named here. The
//! simulation kills at every write and every step; here it is seen that real programs do as it says.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use isyone_fleet::operation::{MoveStage, Stage};
use isyone_tests::e2e::{
    alone, binary,
    cell::{Cell, Shape, hosts},
    enabled, faults,
    http::get,
    process::run,
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    Coordinator,
    /// The agent of the host with this index.
    Agent(usize),
    /// Its Docker Engine; what runs there goes on.
    Docker(usize),
    /// All that runs there.
    Power(usize),
}

impl Victim {
    const PROGRAMS: [Self; 3] = [Self::Coordinator, Self::Agent(0), Self::Agent(1)];
    const ALL: [Self; 7] = [
        Self::Coordinator,
        Self::Agent(0),
        Self::Agent(1),
        Self::Docker(0),
        Self::Docker(1),
        Self::Power(0),
        Self::Power(1),
    ];
}

fn start_agent(cell: &mut Cell, index: usize) {
    cell.start_agent(index, &[("ISYONE_AGENT_LIVE_MOVES", "true")]);
}

pub(super) fn kill_and_restart(cell: &mut Cell, victim: Victim) {
    match victim {
        Victim::Coordinator => {
            cell.coordinator.as_mut().expect("running").kill();
            cell.start_coordinator();
        }
        Victim::Agent(index) => {
            cell.hosts[index].agent.as_mut().expect("running").kill();
            start_agent(cell, index);
        }
        Victim::Docker(index) => {
            let host = &cell.hosts[index];
            faults::signal("-KILL", &faults::docker_pid(host).expect("it runs"));
            cell.on_hosts(&["start", &host.name]).ok();
        }
        Victim::Power(index) => {
            power_off(cell, index);
            let host = &cell.hosts[index];
            // As after a boot: what this machine was told before does not count.
            let _ = std::fs::remove_file(host.data.join("answered"));
            cell.on_hosts(&["start", &host.name]).ok();
            start_agent(cell, index);
        }
    }
}

/// Everything of a host ends at once.
pub(super) fn power_off(cell: &mut Cell, index: usize) {
    let host = &mut cell.hosts[index];
    // First the way to other hosts, then what runs.
    host.agent = None;
    let mut relay = Command::new(binary("isy-agent"));
    run(relay
        .args(["relay", "--stop", "--data-dir"])
        .arg(&host.data));
    hosts(&["stop", &host.name]).ok();
}

/// Waits until the operation is at a stage, or is over. True if it was seen there.
pub(super) fn at_stage(cell: &Cell, id: &str, stage: Stage) -> bool {
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

pub(super) fn answers(cell: &Cell) {
    wait_for("alfa to answer", 2 * MINUTE, || {
        (get(cell.edge(), "alfa.isy.one", "/web/health").status == 200).then_some(())
    });
}

pub(super) fn sql(cell: &Cell, query: &str) -> String {
    let words = ["tenant", "psql", "alfa", "--", "-tAc", query];
    cell.isyctl(&words).ok().trim().to_owned()
}

/// The tenant runs on this host and nowhere else, and has what was written before.
fn lives_on(cell: &Cell, host: &str, rounds: usize) {
    answers(cell);
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], host);
    for each in &cell.hosts {
        cell.wait_host(&each.name, "ready");
    }
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
    walk(NAME, &Victim::PROGRAMS, &[]);
}

#[test]
fn whatever_dies_at_whatever_stage_of_a_move_that_stops_nothing_it_ends() {
    const NAME: &str = "whatever_dies_at_whatever_stage_of_a_move_that_stops_nothing_it_ends";
    walk(NAME, &Victim::ALL, &["--max-pause", "30s"]);
}

fn walk(name: &str, victims: &[Victim], how: &[&str]) {
    if !enabled(name) {
        return;
    }
    if std::env::var_os("ISYONE_LONG").is_none() {
        return println!("{name}: only in the long form");
    }
    let _alone = alone();
    let mut walk = Walk::begin();
    let stages = Stage::ALL
        .into_iter()
        .filter(|stage| matches!(stage, Stage::Move(_)))
        // One that stops its tenant follows nobody.
        .filter(|stage| *stage != Stage::Move(MoveStage::Follow) || !how.is_empty());
    for stage in stages {
        for victim in victims {
            walk.round(stage, *victim, how);
        }
    }
    let Walk { missed, rounds, .. } = walk;
    println!("{rounds} rounds; stages that were over before they were seen: {missed:?}");
    assert!(missed.len() <= rounds / 3, "{missed:?}");
}

/// A tenant that is moved to and fro.
struct Walk {
    cell: Cell,
    /// The host where it is.
    at: usize,
    rounds: usize,
    missed: Vec<(&'static str, Victim)>,
}

impl Walk {
    fn begin() -> Self {
        let mut cell = Cell::start(&Shape {
            hosts: 2,
            config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n",
            ..Shape::default()
        });
        for index in 0..2 {
            kill_and_restart(&mut cell, Victim::Agent(index));
            cell.wait_host(&format!("h{}", index + 1), "ready");
        }
        cell.isyctl(&["tenant", "create", "alfa", "--host", "h1"])
            .ok();
        answers(&cell);
        sql(&cell, "create table mark (round integer)");
        Self {
            cell,
            at: 0,
            rounds: 0,
            missed: Vec::new(),
        }
    }

    fn round(&mut self, stage: Stage, victim: Victim, how: &[&str]) {
        self.rounds += 1;
        let (cell, begin) = (&mut self.cell, Instant::now());
        let insert = format!("insert into mark values ({})", self.rounds);
        sql(cell, &insert);
        let to = 1 - self.at;
        let target = cell.hosts[to].name.clone();
        let order = [
            "tenant",
            "move",
            "alfa",
            "--to",
            &target,
            "--yes",
            "--no-wait",
        ];
        let moved = cell.json(&[&order[..], how].concat());
        let id = moved["id"].as_str().expect("an id").to_owned();
        let back = stage.is_back();
        if back && at_stage(cell, &id, Stage::Move(MoveStage::Copy)) {
            cell.isyctl(&["op", "cancel", &id, "--no-wait"]);
        }
        if !at_stage(cell, &id, stage) {
            self.missed.push((stage.word(), victim));
        }
        kill_and_restart(cell, victim);
        wait_for("the operation to end", 6 * MINUTE, || {
            (cell.json(&["op", "show", &id])["done"] == true).then_some(())
        });
        let ended = cell.json(&["op", "show", &id]);
        let moved = ended["state"] == "succeeded";
        if moved {
            self.at = to;
        }
        let host = cell.hosts[self.at].name.clone();
        // Whoever copies by and by may lose what it copies with, and goes back.
        let programs = Victim::PROGRAMS.contains(&victim) && how.is_empty();
        assert!(back || moved || !programs, "{stage:?} {victim:?}: {ended}");
        lives_on(cell, &host, self.rounds);
        println!(
            "{}: {victim:?} killed: {} {}, lives on {host}, {:.0?}",
            stage.word(),
            ended["state"],
            ended["error"],
            begin.elapsed()
        );
        // What it left there goes before it may come again.
        wait_for("the other copy to be let go", 2 * MINUTE, || {
            let tenant = cell.json(&["tenant", "show", "alfa"]);
            let copies = tenant["copies"].as_array().cloned().unwrap_or_default();
            let busy = |copy: &serde_json::Value| copy["role"] != "fenced";
            (!copies.iter().any(busy)).then_some(())
        });
    }
}

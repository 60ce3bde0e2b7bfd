//! Waiting through lost connections and lost answers, until Ctrl-C or the limit. The operation itself never stops.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
};

use rustix::process::Signal;

use crate::support::{
    data::op_id,
    pty::{Terminal, signal, wait},
    run::{command, isyctl, world},
};

#[test]
fn ctrl_c_stops_the_waiting_and_says_how_to_go_on() {
    let mut child = command(&["tenant", "create", "slow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("image-postgres") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended too early");
    }
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), 130);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("goes on in the background")
            && rest.contains(&format!("isyctl op watch {}", op_id(3))),
        "{rest}"
    );
}

#[test]
fn a_limit_ends_the_waiting() {
    let run = isyctl(&["tenant", "create", "slow", "--timeout", "1s"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(
        run.stderr.contains("not done within 1s") && run.stderr.contains("isyctl op watch"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_request_id() {
    let run = isyctl(&["tenant", "create", "flaky", "--no-wait", "-o", "name"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "flaky\n"),
        "{}",
        run.stderr
    );
    let seen = world().fake.request_ids.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].len() == 36 && seen[0] == seen[1], "{seen:?}");
}

#[test]
fn a_lost_connection_is_opened_again() {
    let run = isyctl(&["op", "watch", &op_id(4)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stderr.contains("connection lost") && run.stderr.contains("connected again"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_terminal_sees_the_steps_move() {
    let mut terminal = Terminal::start(command(&["tenant", "create", "alfa"]));
    terminal.expect("pulling odoo:18.0");
    terminal.expect("copied golden snapshot, 89 MB");
    terminal.expect("correct-horse-battery");
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn deleting_asks_at_a_terminal() {
    for (answer, code) in [("n\r", 1), ("\r", 1), ("y\r", 0)] {
        let mut terminal = Terminal::start(command(&["tenant", "delete", "alfa"]));
        terminal.expect("Delete alfa? [y/N]");
        terminal.send(answer);
        assert_eq!(terminal.wait(), code, "{answer:?}");
    }
}

#[test]
fn purging_wants_the_name_typed() {
    for (answer, code) in [("y\r", 1), ("delt\r", 1), ("delta\r", 0)] {
        let mut terminal = Terminal::start(command(&["tenant", "delete", "delta", "--purge"]));
        terminal.expect("Type `delta` to go on");
        terminal.send(answer);
        assert_eq!(terminal.wait(), code, "{answer:?}");
    }
}

#[test]
fn following_events_prints_each_at_once_until_ctrl_c() {
    let mut child = command(&["events", "-f", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for sequence in 7..=9 {
        let event: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["sequence"], sequence);
    }
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), 130);
}

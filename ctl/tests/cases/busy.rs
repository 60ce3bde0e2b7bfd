//! A coordinator that is busy or away for a moment: `isyctl` retries with the same request id, says so, and finally
//! gives up.

use std::{net::TcpListener, time::Instant};

use rustix::process::Signal;

use crate::support::{
    pty::{signal, wait},
    run::{command, finish, isyctl, world},
};

#[test]
fn a_busy_coordinator_is_asked_again_with_the_same_request_id() {
    let run = isyctl(&["tenant", "create", "busy", "--no-wait", "-o", "name"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "busy\n"),
        "{}",
        run.stderr
    );
    assert_eq!(
        run.stderr
            .matches("the coordinator is busy, trying again in ")
            .count(),
        2,
        "{}",
        run.stderr
    );
    let seen = world().fake.request_ids_busy.lock().unwrap().clone();
    assert!(
        seen.len() == 3 && seen.iter().all(|id| *id == seen[0]),
        "{seen:?}"
    );
}

#[test]
fn reads_are_asked_again_too() {
    let run = isyctl(&["tenant", "show", "busy", "-o", "name"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "busy\n"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("busy, trying again"), "{}", run.stderr);
}

#[test]
fn what_stays_busy_or_away_is_given_up_as_unavailable() {
    for (arguments, said) in [
        (
            ["tenant", "create", "swamped", "--timeout", "300ms"],
            "too many calls at once",
        ),
        (
            ["tenant", "show", "away", "--timeout", "300ms"],
            "host `h3` is not connected",
        ),
    ] {
        let run = isyctl(&arguments);
        assert_eq!(run.code, 5, "{}", run.stderr);
        assert!(run.stderr.contains(said), "{}", run.stderr);
    }
}

#[test]
fn a_failure_that_stays_is_told_at_once() {
    let run = isyctl(&["tenant", "create", "full", "--plan", "large"]);
    assert!(
        run.code == 1 && !run.stderr.contains("trying again"),
        "{}",
        run.stderr
    );
}

#[test]
fn ctrl_c_ends_the_asking() {
    let mut child = command(&["tenant", "create", "swamped"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    signal(&child, Signal::INT);
    assert_ne!(wait(&mut child), 0);
}

/// Far below gRPC's own timeout of ten seconds, far above the one second it should take.
const SOON_S: u64 = 6;

#[test]
fn a_collector_that_does_not_answer_delays_nothing_for_long() {
    // Accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for endpoint in [
        silent.local_addr().unwrap().to_string(),
        "127.0.0.1:1".to_owned(),
    ] {
        let mut command = command(&["tenant", "show", "alfa", "-o", "name"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{endpoint}"));
        let begin = Instant::now();
        let run = finish(command);
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (0, "alfa\n", "")
        );
        assert!(begin.elapsed().as_secs() < SOON_S, "{:?}", begin.elapsed());
    }
}

//! Threaded Odoo goes on where it would not by itself: its database restarts, more ask than it has connections, it is restarted while
//! it works, the installation of an app was cut off.
//!
//! Not here: what the host's relay does (visitors, and the relay's own tests).

use std::{net::SocketAddr, thread, time::Duration};

use isyone_tests::e2e::{
    alone,
    cell::{Cell, Shape},
    docker::Docker,
    enabled,
    http::{get, post_json},
    wait_for,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const HOST: &str = "alfa.isy.one";
const THREADED: &str = "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"2GiB\"\nworkers=0\n";

/// Sends six bodies of 30 MB and prints how many were answered.
const BODIES: &str = "
import http.client, threading
body = b'{\"params\":{\"service\":\"common\",\"method\":\"version\",\"args\":[' + b'[],' * 10000000 + b'0]}}'
answers = []
def send():
    odoo = http.client.HTTPConnection('127.0.0.1', 8069, timeout=120)
    odoo.request('POST', '/jsonrpc', body, {'Content-Type': 'application/json'})
    answers.append(odoo.getresponse().status)
threads = [threading.Thread(target=send) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(answers))
";

/// Calls a model's method as the administrator, from outside.
fn call(edge: SocketAddr, password: &str, model: &str, method: &str, arguments: Value) -> Value {
    let arguments = json!(["odoo_alfa", 2, password, model, method, arguments]);
    let body = json!({"jsonrpc": "2.0", "method": "call", "params":
        {"service": "object", "method": "execute_kw", "args": arguments}});
    let answer = post_json(edge, HOST, "/jsonrpc", &body);
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    assert!(body["error"].is_null(), "{answer:?}");
    body["result"].clone()
}

/// What a statement prints in the tenant's database.
fn sql(docker: &Docker, database: &str, statement: &str) -> String {
    let psql = ["exec", "postgres_alfa", "psql", "-U", "postgres", "-XAtc"];
    let out = docker.run(&[&psql[..], &[statement, database]].concat());
    out.stdout.trim().to_owned()
}

/// Backends of the thread that runs scheduled actions.
fn crons(docker: &Docker) -> String {
    let of = "SELECT pid FROM pg_stat_activity WHERE usename = 'odoo' AND datname = 'postgres'";
    sql(docker, "postgres", of)
}

#[test]
fn threaded_odoo_goes_on() {
    if !enabled("threaded Odoo going on") {
        return;
    }
    let _alone = alone();
    let cell = Cell::start(&Shape {
        config: THREADED,
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    let docker = cell.hosts[0].docker.clone();
    let credentials = cell.json(&["tenant", "credentials", "alfa"]);
    let password = credentials["password"].as_str().expect("a password");
    wait_for("the login page", MINUTE, || {
        (get(cell.edge(), HOST, "/web/login").status == 200).then_some(())
    });
    more_than_there_are_connections(&cell);
    its_database_restarts(&cell, &docker);
    it_is_restarted_while_it_works(&cell, password);
    somebody_wants_all_its_memory(&cell, &docker);
    an_installation_was_cut_off(&cell, &docker);
}

/// 90 requests at once on 32 connections: late, or told to come again, never an error.
fn more_than_there_are_connections(cell: &Cell) {
    let edge = cell.edge();
    let asked: Vec<_> = (0..90)
        .map(|_| thread::spawn(move || get(edge, HOST, "/web/login").status))
        .collect();
    let mut answers: Vec<u16> = asked
        .into_iter()
        .map(|t| t.join().expect("a thread"))
        .collect();
    answers.sort_unstable();
    assert!(
        answers.iter().all(|s| matches!(s, 200 | 503 | 429)),
        "{answers:?}"
    );
    assert!(answers.contains(&200), "{answers:?}");
}

fn its_database_restarts(cell: &Cell, docker: &Docker) {
    let before = wait_for("scheduled actions to run", 2 * MINUTE, || {
        Some(crons(docker)).filter(|pid| !pid.is_empty())
    });
    docker.run(&["restart", "postgres_alfa"]).ok();
    // Never the database selector.
    let seen = get(cell.edge(), HOST, "/web/login").status;
    assert!(seen != 303 && seen != 500, "{seen}");
    wait_for("scheduled actions to run again", 2 * MINUTE, || {
        Some(crons(docker)).filter(|pid| !pid.is_empty() && *pid != before)
    });
    wait_for("the login page", MINUTE, || {
        (get(cell.edge(), HOST, "/web/login").status == 200).then_some(())
    });
}

/// The request ends, and its work is committed.
fn it_is_restarted_while_it_works(cell: &Cell, password: &str) {
    let edge = cell.edge();
    let model = call(
        edge,
        password,
        "ir.model",
        "search",
        json!([[["model", "=", "res.partner"]]]),
    );
    let code = "env['res.partner'].create({'name': 'slow'})\nenv.cr.execute('SELECT pg_sleep(15)')";
    let action = json!([{"name": "slow", "model_id": model[0], "state": "code", "code": code}]);
    let action = call(edge, password, "ir.actions.server", "create", action);
    let (own, ran) = (password.to_owned(), json!([[action]]));
    let slow = thread::spawn(move || call(edge, &own, "ir.actions.server", "run", ran));
    thread::sleep(Duration::from_secs(2));
    cell.isyctl(&["tenant", "restart", "alfa"]).ok();
    slow.join().expect("an answer");
    wait_for("its work", MINUTE, || {
        let page = get(edge, HOST, "/web/login");
        (page.status == 200).then_some(())
    });
    let found = call(
        edge,
        password,
        "res.partner",
        "search_count",
        json!([[["name", "=", "slow"]]]),
    );
    assert_eq!(found, 1);
}

/// Six bodies at once that would take 700 MiB each, from inside, where neither edge nor relay refuses them: each is an error of that
/// request, and nothing is killed.
fn somebody_wants_all_its_memory(cell: &Cell, docker: &Docker) {
    let started = docker.started_at("odoo_alfa");
    let out = docker
        .run(&["exec", "odoo_alfa", "python3", "-c", BODIES])
        .ok();
    assert_eq!(out.trim(), "6", "answered");
    assert_eq!(docker.started_at("odoo_alfa"), started);
    assert_eq!(docker.inspect("odoo_alfa", "{{.State.OOMKilled}}"), "false");
    wait_for("the login page", MINUTE, || {
        (get(cell.edge(), HOST, "/web/login").status == 200).then_some(())
    });
}

fn an_installation_was_cut_off(cell: &Cell, docker: &Docker) {
    let passes = || {
        let out = cell.isyctl(&["tenant", "verify", "alfa", "-o", "json"]);
        let report: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        let mut checks = report["checks"].as_array()?.iter();
        checks
            .any(|c| c["check"] == "apps" && c["result"] == "ok")
            .then_some(())
    };
    // Two hours ago.
    sql(
        docker,
        "odoo_alfa",
        "UPDATE ir_module_module SET write_date = now() AT TIME ZONE 'UTC' - interval '2 h'; \
         UPDATE ir_module_module SET state = 'to install' WHERE name = 'utm'",
    );
    wait_for("the end of the installation", 4 * MINUTE, || {
        let state = "SELECT state FROM ir_module_module WHERE name = 'utm'";
        (sql(docker, "odoo_alfa", state) == "installed").then_some(())
    });
    wait_for("it to be told", MINUTE, || {
        let events = cell.json(&["events"]);
        let events = events.as_array().expect("a list");
        let told = |kind: &str| events.iter().any(|e| e["kind"] == kind);
        (told("tenant.install_cut_off") && told("tenant.install_finished")).then_some(())
    });
    wait_for("the tenant to pass", MINUTE, passes);
    assert_eq!(get(cell.edge(), HOST, "/web/login").status, 200);
}

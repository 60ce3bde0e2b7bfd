//! Visitors of a tenant while it restarts, and while the agent or the relay is killed: all are answered, and what they wrote is there.
//!
//! Not here: what a relay does with requests by themselves (its crate's tests), pages (pages).

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    alone,
    cell::{Cell, Shape},
    enabled,
    http::get,
    odoo::{User, shell},
    process::run,
    wait_for,
};
use serde_json::{Value, json};

/// How long the long request takes, seconds.
const LONG_S: u64 = 20;
/// Between visits: twenty a second.
const BETWEEN: Duration = Duration::from_millis(50);

fn call(user: &User, model: &str, method: &str, args: &Value) -> Value {
    let params = json!({"model": model, "method": method, "args": args, "kwargs": {}});
    user.json(&format!("/web/dataset/call_kw/{model}/{method}"), &params)
}

/// Contacts of this name.
fn contacts(user: &User, name: &str) -> u64 {
    let found = call(
        user,
        "res.partner",
        "search_count",
        &json!([[["name", "=", name]]]),
    );
    found.as_u64().expect("a number")
}

/// Makes something that the administrator can run, which takes long and then writes a contact of this name; returns its id.
fn long_action(cell: &Cell, tenant: &str, name: &str) -> u64 {
    let code = format!(
        "env.cr.execute(\"SELECT pg_sleep({LONG_S})\")\nenv[\"res.partner\"].create({{\"name\": \"{name}\"}})"
    );
    let script = format!(
        "a = env['ir.actions.server'].create({{'name': 'long', 'state': 'code', 'code': {}, \
         'model_id': env.ref('base.model_res_partner').id}})\nenv.cr.commit()\nprint('action=%d=' % a.id)\n",
        json!(code)
    );
    let printed = shell(cell, tenant, &script);
    let id = printed
        .split("action=")
        .nth(1)
        .and_then(|rest| rest.split('=').next());
    let id = id.and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("no action: {printed}"))
}

fn health(cell: &Cell, tenant: &str) -> u16 {
    get(cell.edge(), &format!("{tenant}.isy.one"), "/web/health").status
}

/// The relay's process, as it says itself.
fn relay_pid(cell: &Cell) -> Option<u64> {
    let path = cell.hosts[0].data.join("relay/admin.sock");
    let mut stream = UnixStream::connect(path).ok()?;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str::<Value>(body).ok()?["pid"].as_u64()
}

/// Threaded Odoo: it has no workers that would end their requests by themselves.
#[test]
fn a_long_request_survives_a_restart_on_the_smallest_plan_and_nobody_notices_a_killed_agent_or_relay()
 {
    if !enabled(
        "a_long_request_survives_a_restart_on_the_smallest_plan_and_nobody_notices_a_killed_agent_or_relay",
    ) {
        return;
    }
    let _alone = alone();
    let mut cell = Cell::start(&Shape::default());
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    let ports = cell.hosts[0]
        .docker
        .inspect("odoo_alfa", "{{json .HostConfig.PortBindings}}");
    assert!(
        matches!(ports.as_str(), "{}" | "null"),
        "published: {ports}"
    );
    let admin = User::admin(&cell, "alfa");
    let action = long_action(&cell, "alfa", "written by a long request");
    thread::scope(|scope| {
        let begin = Instant::now();
        let long = scope.spawn(|| call(&admin, "ir.actions.server", "run", &json!([[action]])));
        thread::sleep(Duration::from_secs(3));
        cell.isyctl(&["tenant", "restart", "alfa"]).ok();
        println!("restarted after {:?}", begin.elapsed());
        assert!(
            begin.elapsed() >= Duration::from_secs(LONG_S),
            "it was waited for"
        );
        long.join().expect("the long request is answered");
    });
    assert_eq!(health(&cell, "alfa"), 200, "at once: no edge keeps it away");
    assert_eq!(contacts(&admin, "written by a long request"), 1);
    killed_parts(&mut cell);
}

fn killed_parts(cell: &mut Cell) {
    let before = relay_pid(cell).expect("a relay");
    if let Some(agent) = &mut cell.hosts[0].agent {
        agent.kill();
    }
    for _ in 0..20 {
        assert_eq!(health(cell, "alfa"), 200, "without the agent");
        thread::sleep(BETWEEN);
    }
    cell.start_agent(0, &[]);
    cell.wait_phase("alfa", "running", Duration::from_secs(60));
    assert_eq!(
        relay_pid(cell),
        Some(before),
        "the next agent goes on with it"
    );
    run(Command::new("kill").args(["-KILL", &before.to_string()])).ok();
    let killed = Instant::now();
    wait_for(
        "an answer after the relay was killed",
        Duration::from_secs(10),
        || (health(cell, "alfa") == 200).then_some(()),
    );
    println!(
        "served again {:?} after the relay was killed",
        killed.elapsed()
    );
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "{:?}",
        killed.elapsed()
    );
    assert_ne!(relay_pid(cell), Some(before));
}

#[test]
fn a_restart_with_workers_fails_no_request_and_loses_no_write() {
    if !enabled("a_restart_with_workers_fails_no_request_and_loses_no_write") {
        return;
    }
    let _alone = alone();
    let config = "---[plans.small]\nmemory = \"2GiB\"\ncpu = 1.0\ndisk = \"3GiB\"\nworkers = 2\n";
    let cell = Cell::start(&Shape {
        config,
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    let admin = User::admin(&cell, "alfa");
    let (over, written, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let mut visits = 0_u32;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let values = json!([[{"name": "written meanwhile"}]]);
                call(&admin, "res.partner", "create", &values);
                written.fetch_add(1, Ordering::Relaxed);
                thread::sleep(BETWEEN * 5);
            }
        });
        let restarting = scope.spawn(|| {
            thread::sleep(Duration::from_secs(2));
            cell.isyctl(&["tenant", "restart", "alfa"]).ok();
            thread::sleep(Duration::from_secs(2));
            over.store(true, Ordering::Relaxed);
        });
        // Each on a thread of its own: those that are held must not keep the others from coming.
        while !over.load(Ordering::Relaxed) && !restarting.is_finished() {
            visits += 1;
            scope.spawn(|| {
                let status = health(&cell, "alfa");
                if status != 200 {
                    println!("a visitor got {status}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            });
            thread::sleep(BETWEEN);
        }
    });
    println!(
        "{visits} visits, {} writes",
        written.load(Ordering::Relaxed)
    );
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {visits} visits");
    let count = contacts(&admin, "written meanwhile");
    assert_eq!(count, u64::from(written.load(Ordering::Relaxed)));
}

//! A host is destroyed while its tenant is written to, and the tenant comes back elsewhere from its backups: at a chosen second every row
//! and every attachment that was acknowledged before it, and none of after; at the latest point no more is lost than its plan says. The
//! second lies just before another backup, where one chain of segments leads to the next.
//!
//! The long form: it waits for shipments. Not here: a standby that takes over (standbys), the coordinator's loss (backups).

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use isyone_agent::base::clock::now_ms;
use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape, hosts},
    enabled,
    odoo::User,
};
use serde_json::json;

use super::{
    backups::{CONFIG, another_base, answers, moment, shipped, sql},
    walk::power_off,
};

/// What the plan in [`CONFIG`] promises.
const RPO_MS: i64 = 120_000;
/// Between two writes of the client.
const EVERY: Duration = Duration::from_millis(150);

/// A row and an attachment of one name, which a client has written.
#[derive(Debug, Clone)]
struct Write {
    name: String,
    begun_ms: i64,
    /// `None`: nobody has said that it is there.
    acknowledged_ms: Option<i64>,
}

/// Writes until it is told to stop: a row, then an attachment whose content is its own.
fn write(user: &User, writes: &Mutex<Vec<Write>>, stop: &AtomicBool) {
    let call = |model: &str, values: serde_json::Value| {
        let params = json!({"model": model, "method": "create", "args": [[values]], "kwargs": {}});
        let answer = user.post("/web/dataset/call_kw", &params);
        answer.status == 200 && answer.body.contains("\"result\"")
    };
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("written-{number}");
        let begun_ms = now_ms();
        let file = json!({"name": name, "raw": format!("content of {name}"), "mimetype": "application/octet-stream"});
        let done = call("res.partner", json!({ "name": name })) && call("ir.attachment", file);
        let write = Write {
            name,
            begun_ms,
            acknowledged_ms: done.then(now_ms),
        };
        writes.lock().expect("nobody panics").push(write);
        thread::sleep(EVERY);
    }
}

/// Names that a tenant has as rows, and as attachments.
fn stored(cell: &Cell, tenant: &str) -> [BTreeSet<String>; 2] {
    ["res_partner", "ir_attachment"].map(|table| {
        let query = format!("select name from {table} where name like 'written-%'");
        sql(cell, tenant, &query)
            .lines()
            .map(str::to_owned)
            .collect()
    })
}

/// Some of the attachments that a tenant has, as its Odoo serves them.
fn served(cell: &Cell, tenant: &str) {
    let user = User::admin(cell, tenant);
    let query = "select id || ' ' || name from ir_attachment where name like 'written-%' order by id desc limit 20";
    for line in sql(cell, tenant, query).lines() {
        let (id, name) = line.split_once(' ').expect("both");
        let answer = user.get(&format!("/web/content/{id}"));
        let content = format!("content of {name}");
        assert_eq!(answer.body, content, "{answer:?}");
    }
}

fn restored(cell: &Cell, to: &str, name: &str) {
    let words = [
        "tenant", "restore", "alfa", "--to", to, "--as", name, "--host", "h2", "-o", "json",
    ];
    let done = cell.isyctl(&words);
    println!("{}", done.stdout);
    let said = done.ok();
    assert!(said.contains("attachments' files are there"), "{said}");
    answers(cell, name);
    served(cell, name);
}

/// Every row and attachment that was acknowledged before that moment, and none of after.
fn as_it_was(cell: &Cell, writes: &[Write], chosen_ms: i64) {
    let mut before = 0;
    for (kind, names) in ["row", "attachment"].iter().zip(stored(cell, "beta")) {
        for Write {
            name,
            begun_ms,
            acknowledged_ms,
        } in writes
        {
            let is_there = names.contains(name);
            match acknowledged_ms {
                Some(at) if *at < chosen_ms => {
                    before += 1;
                    assert!(is_there, "{kind} {name}, acknowledged before, is lost");
                }
                _ if *begun_ms > chosen_ms => assert!(!is_there, "{kind} {name} is of after"),
                _ => {}
            }
        }
    }
    assert!(before > 100, "{before}");
}

#[test]
fn a_host_is_destroyed_while_a_client_writes_and_its_tenant_comes_back_elsewhere() {
    const NAME: &str =
        "a_host_is_destroyed_while_a_client_writes_and_its_tenant_comes_back_elsewhere";
    if !enabled(NAME) {
        return;
    }
    if std::env::var_os("ISYONE_LONG").is_none() {
        return println!("{NAME}: only in the long form");
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        hosts: 2,
        config: CONFIG,
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa", "--host", "h1"])
        .ok();
    answers(&cell, "alfa");
    let user = User::admin(&cell, "alfa");
    let (writes, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let (chosen_s, died_ms) = thread::scope(|scope| {
        scope.spawn(|| write(&user, &writes, &stop));
        let begun = StopWhenDropped(&stop);
        cell.isyctl(&["backup", "create", "alfa"]).ok();
        another_base(&cell, "alfa", 0);
        shipped(&cell, "alfa");
        // It lies between a shipment and the next base.
        thread::sleep(Duration::from_secs(20));
        let chosen_s = now_ms() / 1_000;
        thread::sleep(Duration::from_secs(3));
        cell.isyctl(&["backup", "create", "alfa"]).ok();
        another_base(&cell, "alfa", 1);
        shipped(&cell, "alfa");
        let died_ms = now_ms();
        power_off(&mut cell, 0);
        drop(begun);
        (chosen_s, died_ms)
    });
    cell.wait_host("h1", "lost");
    let writes = writes.into_inner().expect("nobody panics");
    println!("{} writes", writes.len());
    restored(&cell, &moment(&format!("@{chosen_s}")), "beta");
    as_it_was(&cell, &writes, chosen_s * 1_000);
    restored(&cell, "latest", "gama");
    let (rows, files) = (stored(&cell, "gama"), writes.iter());
    let lost = files.filter(|write| rows.iter().any(|names| !names.contains(&write.name)));
    let acknowledged = lost.filter_map(|write| write.acknowledged_ms);
    let lost_ms = acknowledged.map(|at| died_ms - at).max().unwrap_or(0);
    println!("lost at the latest point: {lost_ms} ms of writes");
    assert!(lost_ms <= RPO_MS, "{lost_ms}");
    // The next cell takes over its images.
    hosts(&["start", "h1"]).ok();
}

/// The client ends also when the test fails.
struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

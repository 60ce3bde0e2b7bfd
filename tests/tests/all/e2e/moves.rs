//! A real tenant goes to another host and takes everything with it: its database, its files, its sessions and passwords.
//! A move that is cancelled while it copies leaves it where it was; one whose agent and coordinator are killed ends; one
//! between hosts that cannot reach each other goes through the coordinator.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    http::get,
    odoo::User,
    wait_for,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
/// Slow enough that a copy can be caught, fast enough that one is over in seconds.
const SLOW_MIB: &str = "8";

fn sql(cell: &Cell, query: &str) -> String {
    sql_of(cell, "alfa", query)
}

fn sql_of(cell: &Cell, tenant: &str, query: &str) -> String {
    let words = ["tenant", "psql", tenant, "--", "-tAc", query];
    cell.isyctl(&words).ok().trim().to_owned()
}

fn answers(cell: &Cell) {
    wait_for("alfa to answer", MINUTE, || {
        (get(cell.edge(), "alfa.isy.one", "/web/health").status == 200).then_some(())
    });
}

fn home(cell: &Cell, host: usize) -> PathBuf {
    cell.hosts[host].docker.homes().join("alfa")
}

/// What is in a directory of a copy: each path with its owner and rights.
fn listed(root: &Path) -> Vec<(PathBuf, u32, u32)> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        let meta = std::fs::metadata(&directory).expect("a directory");
        let below = directory.strip_prefix(root).expect("below").to_owned();
        found.push((below, meta.uid(), meta.permissions().mode()));
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The tenant's copies on other hosts, as `host role`.
fn copies(cell: &Cell) -> Vec<String> {
    let tenant = cell.json(&["tenant", "show", "alfa"]);
    let copies = tenant["copies"].as_array().cloned().unwrap_or_default();
    let word = |copy: &Value, key: &str| copy[key].as_str().unwrap_or_default().to_owned();
    let text = |copy: &Value| format!("{} {}", word(copy, "host"), word(copy, "role"));
    copies.iter().map(text).collect()
}

fn lives_on(cell: &Cell, host: &str) {
    let tenant = cell.json(&["tenant", "show", "alfa"]);
    assert_eq!(tenant["host"], host, "{tenant}");
    for each in &cell.hosts {
        let expected: &[&str] = match each.name == host {
            true => &["odoo_alfa", "postgres_alfa"],
            false => &[],
        };
        let running = each.docker.run(&["ps", "--format", "{{.Names}}"]).ok();
        let mut running: Vec<&str> = running.lines().collect();
        running.sort_unstable();
        assert_eq!(running, expected, "on {}", each.name);
    }
}

/// Begins a move and waits until data comes; returns the operation's id.
fn copying(cell: &Cell, to: &str) -> String {
    let words = ["tenant", "move", "alfa", "--to", to, "--yes", "--no-wait"];
    let begun = cell.json(&words);
    let id = begun["id"].as_str().expect("an id").to_owned();
    wait_for("data to come", MINUTE, || {
        let operation = cell.json(&["op", "show", &id]);
        assert_eq!(operation["done"], false, "{operation}");
        let steps = operation["steps"].as_array().cloned().unwrap_or_default();
        let percent = |step: &Value| step["progress_percent"].as_u64().unwrap_or(0);
        let copies = |step: &&Value| step["name"] == "copy" && percent(step) > 0;
        steps.iter().find(copies).map(drop)
    });
    id
}

#[test]
fn a_tenant_moves_with_all_it_has() {
    if !enabled("a_tenant_moves_with_all_it_has") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        hosts: 3,
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n",
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa", "--host", "h1"])
        .ok();
    answers(&cell);
    let user = User::admin(&cell, "alfa");
    sql(
        &cell,
        "create table mark as select 'kept' as word; insert into ir_attachment (name, type) values ('mark', 'binary')",
    );
    let url = sql(
        &cell,
        "select value from ir_config_parameter where key='web.base.url'",
    );
    std::fs::write(home(&cell, 0).join("odoo/mark"), b"kept").expect("a file");
    it_moves(&cell, &user, &url);
    a_cancelled_move_changes_nothing(&mut cell);
    killed_ones_end(&mut cell);
    one_goes_through_the_coordinator(&mut cell);
}

fn it_moves(cell: &Cell, user: &User, url: &str) {
    let before = cell.json(&["tenant", "credentials", "alfa"]);
    let moved = cell.isyctl(&["tenant", "move", "alfa", "--to", "h2", "--yes"]);
    println!("{}", moved.stderr);
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert!(
        moved.stderr.contains("its old copy on h1 is kept"),
        "{}",
        moved.stderr
    );
    answers(cell);
    lives_on(cell, "h2");
    assert_eq!(copies(cell), ["h1 fenced"]);
    assert_eq!(sql(cell, "select word from mark"), "kept");
    assert_eq!(
        sql(
            cell,
            "select value from ir_config_parameter where key='web.base.url'"
        ),
        url
    );
    let old = home(cell, 0);
    for at in [&old, &home(cell, 1)] {
        assert_eq!(std::fs::read(at.join("odoo/mark")).expect("kept"), b"kept");
    }
    assert_eq!(
        listed(&old.join("pgdata")),
        listed(&home(cell, 1).join("pgdata"))
    );
    let info = user.json("/web/session/get_session_info", &json!({}));
    assert_eq!(info["uid"], 2, "the session of before: {info}");
    assert_eq!(cell.json(&["tenant", "credentials", "alfa"]), before);
    let refused = cell.isyctl(&["host", "remove", "h1", "--yes"]);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("old copies of 1"),
        "{}",
        refused.stderr
    );
}

/// Copying to that host takes some seconds, so that it can be caught.
fn slow_down(cell: &mut Cell, host: usize) {
    cell.hosts[host].agent.as_mut().expect("running").kill();
    cell.start_agent(host, &[("ISYONE_AGENT_COPY_RATE_MIB", SLOW_MIB)]);
    cell.wait_host(&format!("h{}", host + 1), "ready");
}

fn a_cancelled_move_changes_nothing(cell: &mut Cell) {
    slow_down(cell, 2);
    let id = copying(cell, "h3");
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["phase"], "updating");
    let page = get(cell.edge(), "alfa.isy.one", "/web/login");
    assert!(
        page.status >= 500 && page.body.contains("being updated"),
        "{} {}",
        page.status,
        page.body
    );
    assert_eq!(copies(cell), ["h1 fenced", "h3 incoming"]);
    cell.isyctl(&["op", "cancel", &id]).ok();
    answers(cell);
    lives_on(cell, "h2");
    assert_eq!(sql(cell, "select word from mark"), "kept");
    wait_for("the half copy to be gone", MINUTE, || {
        (copies(cell) == ["h1 fenced"] && !home(cell, 2).exists()).then_some(())
    });
}

fn killed_ones_end(cell: &mut Cell) {
    let id = copying(cell, "h3");
    cell.hosts[2].agent.as_mut().expect("running").kill();
    cell.coordinator.as_mut().expect("running").kill();
    cell.start_coordinator();
    cell.start_agent(2, &[]);
    cell.isyctl(&["op", "watch", &id]).ok();
    answers(cell);
    lives_on(cell, "h3");
    assert_eq!(copies(cell), ["h1 fenced", "h2 fenced"]);
    assert_eq!(sql(cell, "select word from mark"), "kept");
}

/// Nobody reaches h1's port for agents: the firewall between the hosts drops what goes there.
fn one_goes_through_the_coordinator(cell: &mut Cell) {
    slow_down(cell, 1);
    cell.isyctl(&["tenant", "create", "beta", "--host", "h1"])
        .ok();
    sql_of(cell, "beta", "create table mark as select 'kept' as word");
    let closed = cell.hosts[0].close(7483);
    let words = ["tenant", "move", "beta", "--to", "h2", "--yes", "--no-wait"];
    let begun = cell.json(&words);
    let id = begun["id"].as_str().expect("an id").to_owned();
    wait_for("the way to be told", MINUTE, || {
        let open = cell.json(&["op", "show", &id]).to_string();
        open.contains("through the coordinator: h1 cannot be reached from here (timed out)")
            .then_some(())
    });
    cell.isyctl(&["op", "watch", &id]).ok();
    drop(closed);
    assert_eq!(cell.json(&["tenant", "show", "beta"])["host"], "h2");
    assert_eq!(sql_of(cell, "beta", "select word from mark"), "kept");
}

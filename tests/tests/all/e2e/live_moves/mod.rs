//! A real tenant goes to another host while it is used: nobody's request fails, nothing that was acknowledged is lost or done twice, numbers
//! have no gap, and what the operation says of the pause is what its users saw. Cancelled, it goes on where it was.
//!
//! Not here: moves that stop their tenant (moves), every stage and every death (the simulation).

mod long;

use std::{
    thread,
    time::{Duration, Instant},
};

pub(super) use isyone_tests::e2e::moving::Load;
use isyone_tests::e2e::{
    alone,
    cell::{Cell, Shape},
    enabled,
    http::get,
    moving::{self, Seen, Told},
    odoo::User,
    wait_for,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
/// The longest that anybody may wait, on a machine that does other things as well: by itself it takes 2 to 3 s.
const LONGEST: Duration = Duration::from_secs(30);

pub(super) fn sql(cell: &Cell, query: &str) -> String {
    moving::sql(cell, "alfa", query)
}

pub(super) fn answers(cell: &Cell) {
    answers_of(cell, "alfa");
}

fn answers_of(cell: &Cell, tenant: &str) {
    let host = format!("{tenant}.isy.one");
    wait_for(&format!("{tenant} to answer"), MINUTE, || {
        (get(cell.edge(), &host, "/web/health").status == 200).then_some(())
    });
}

pub(super) fn cell() -> Cell {
    let mut cell = Cell::start(&Shape {
        hosts: 2,
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n",
        ..Shape::default()
    });
    allow_live_moves(&mut cell);
    cell.isyctl(&["tenant", "create", "alfa", "--host", "h1"])
        .ok();
    answers(&cell);
    cell
}

fn allow_live_moves(cell: &mut Cell) {
    for host in 0..cell.hosts.len() {
        cell.hosts[host].agent.as_mut().expect("running").kill();
        cell.start_agent(host, &[("ISYONE_AGENT_LIVE_MOVES", "true")]);
        cell.wait_host(&format!("h{}", host + 1), "ready");
    }
}

#[test]
fn a_tenant_that_is_used_moves_and_nobody_notices() {
    if !enabled("a_tenant_that_is_used_moves_and_nobody_notices") {
        return;
    }
    let _alone = alone();
    let cell = cell();
    let user = User::admin(&cell, "alfa");
    sql(
        &cell,
        "create sequence mark; select nextval('mark') from generate_series(1, 5)",
    );
    for to in ["h2", "h1"] {
        it_moves(&cell, &user, to);
    }
    a_cancelled_one_goes_on(&cell, &user);
    a_standby_follows_and_is_gone_over_to(&cell, &user);
}

/// Once with what a first copy brings, and once over the older copy.
fn it_moves(cell: &Cell, user: &User, to: &str) {
    let marked = begin_anew(cell, "alfa");
    let load = Load::start(user);
    thread::sleep(Duration::from_secs(3));
    move_to(cell, "alfa", to);
    thread::sleep(Duration::from_secs(3));
    let seen = load.end();
    let told = Told::last(cell, "alfa");
    println!("{}; longest wait {:?}", told.stages(), seen.longest);
    assert!(seen.longest <= LONGEST, "{:?}", seen.longest);
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], to);
    nothing_is_lost(cell, "alfa", &seen, marked);
    let info = user.json("/web/session/get_session_info", &json!({}));
    assert_eq!(info["uid"], 2, "the session of before: {info}");
}

/// Forgets what earlier clients wrote; returns how far the marked sequence is.
fn begin_anew(cell: &Cell, tenant: &str) -> i64 {
    let forget = "delete from res_partner where name like 'moved-%'";
    moving::sql(cell, tenant, forget);
    let last = moving::sql(cell, tenant, "select last_value from mark");
    last.parse().expect("a number")
}

fn move_to(cell: &Cell, tenant: &str, to: &str) {
    let moved = cell.isyctl(&[
        "tenant",
        "move",
        tenant,
        "--to",
        to,
        "--max-pause",
        "5s",
        "--yes",
    ]);
    println!("{}", moved.stderr);
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert!(moved.stderr.contains("paused for"), "{}", moved.stderr);
}

/// Nobody's request failed, what was acknowledged is there once, and no number was left out.
fn nothing_is_lost(cell: &Cell, tenant: &str, seen: &Seen, marked: i64) {
    assert_eq!(seen.failed, Vec::<u16>::new(), "no request fails");
    let query = "select name from res_partner where name like 'moved-%'";
    let names = moving::sql(cell, tenant, query);
    let mut stored: Vec<&str> = names.lines().collect();
    stored.sort_unstable();
    let count = stored.len();
    stored.dedup();
    assert_eq!(stored.len(), count, "nothing was done twice");
    for name in &seen.acknowledged {
        assert!(
            stored.binary_search(&name.as_str()).is_ok(),
            "{name} is lost"
        );
    }
    assert!(seen.acknowledged.len() > 50, "they did something");
    let next = moving::sql(cell, tenant, "select nextval('mark')");
    let next: i64 = next.parse().expect("a number");
    assert_eq!(next, marked + 1, "a number was left out");
}

/// While its copy is kept up, before it is stopped: a pause that is too short as long as it has files that have not come. One that no
/// tenant can promise is refused.
fn a_cancelled_one_goes_on(cell: &Cell, user: &User) {
    let words = |pause: &'static str| {
        let (to, how) = (["--to", "h2"], ["--yes", "--no-wait"]);
        [
            &["tenant", "move", "alfa", "--max-pause", pause],
            &to[..],
            &how,
        ]
        .concat()
    };
    let refused = cell.isyctl(&words("500ms"));
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("must be 3000 to 600000"),
        "{}",
        refused.stderr
    );
    // The first pass brings them, and takes longer than the second by which 3 s are more than what every pause takes.
    let many = "mkdir -p /var/lib/odoo/many && cd /var/lib/odoo/many && seq 40000 | xargs touch";
    cell.isyctl(&["tenant", "exec", "alfa", "--", "sh", "-c", many])
        .ok();
    let moved = cell.json(&words("3s"));
    let id = moved["id"].as_str().expect("an id").to_owned();
    let waits = wait_for("it to wait for a quieter moment", MINUTE, || {
        let operation = cell.json(&["op", "show", &id]);
        assert_eq!(operation["done"], false, "{operation}");
        let text = operation.to_string();
        text.contains("are allowed").then_some(operation)
    });
    assert_eq!(waits["stage"], Value::from("follow"));
    let load = Load::start(user);
    cell.isyctl(&["op", "cancel", &id]).ok();
    let seen = load.end();
    assert_eq!(seen.failed, Vec::<u16>::new(), "it was never stopped");
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], "h1");
    let slots = "select count(*) from pg_replication_slots where active";
    assert_eq!(sql(cell, slots), "0", "nobody follows any more");
}

/// What it was told of a standby's lag.
pub(super) fn lag(cell: &Cell) -> Option<Value> {
    let tenant = cell.json(&["tenant", "show", "alfa"]);
    let copies = tenant["copies"].as_array()?.clone();
    let standby = copies.into_iter().find(|copy| copy["role"] == "standby")?;
    Some(standby["lag"].clone()).filter(Value::is_object)
}

fn a_standby_follows_and_is_gone_over_to(cell: &Cell, user: &User) {
    // The copy of the cancelled move is being removed there.
    wait_for("room for a standby", MINUTE, || {
        let added = cell.isyctl(&["tenant", "standby", "add", "alfa"]);
        (added.code == 0).then_some(())
    });
    let lag = wait_for("the standby", 2 * MINUTE, || lag(cell));
    println!("lag {lag}");
    println!("{}", cell.isyctl(&["tenant", "show", "alfa"]).ok());
    let load = Load::start(user);
    thread::sleep(Duration::from_secs(2));
    let words = [
        "tenant",
        "move",
        "alfa",
        "--to",
        "h2",
        "--max-pause",
        "5s",
        "--yes",
    ];
    let begin = Instant::now();
    let moved = cell.isyctl(&words);
    let took = begin.elapsed();
    let seen = load.end();
    println!(
        "{}\nin {took:?}, longest wait {:?}",
        moved.stderr, seen.longest
    );
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert_eq!(seen.failed, Vec::<u16>::new(), "no request fails");
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], "h2");
}

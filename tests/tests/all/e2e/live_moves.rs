//! A real tenant goes to another host while it is used: nobody's request fails, nothing that was acknowledged is lost or done twice, numbers
//! have no gap, and what the operation says of the pause is what its users saw. Cancelled, it goes on where it was.
//!
//! Not here: moves that stop their tenant (moves), every stage and every death (the simulation).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    alone,
    cell::{Cell, Shape},
    enabled,
    http::get,
    odoo::User,
    wait_for,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
/// Between the writes of one client; there are [`CLIENTS`], which makes twenty a second.
const EVERY: Duration = Duration::from_millis(200);
const CLIENTS: usize = 4;
/// The longest that anybody may wait, on a machine that does other things as well: by itself it takes 2 to 3 s.
const LONGEST: Duration = Duration::from_secs(30);

pub(super) fn sql(cell: &Cell, query: &str) -> String {
    let words = ["tenant", "psql", "alfa", "--", "-tAc", query];
    cell.isyctl(&words).ok().trim().to_owned()
}

pub(super) fn answers(cell: &Cell) {
    wait_for("alfa to answer", MINUTE, || {
        (get(cell.edge(), "alfa.isy.one", "/web/health").status == 200).then_some(())
    });
}

/// What clients saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Names of partners whose creation was acknowledged.
    pub(super) acknowledged: Vec<String>,
    /// Statuses that were no success.
    pub(super) failed: Vec<u16>,
    pub(super) longest: Duration,
}

/// Users who write all the time.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(user: &User) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let client = |number: usize| {
            let (user, stop, seen) = (user.clone(), stop.clone(), Arc::clone(&seen));
            thread::spawn(move || write(&user, number, &stop, &seen))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self {
            stop,
            seen,
            clients,
        }
    }

    pub(super) fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
        std::mem::take(&mut *self.seen.lock().expect("nobody panics"))
    }
}

fn write(user: &User, number: usize, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let name = format!("moved-{number}-{round}");
        let create = json!({
            "model": "res.partner", "method": "create", "args": [{"name": name}], "kwargs": {}
        });
        let begin = Instant::now();
        let answer = user.post("/web/dataset/call_kw/res.partner/create", &create);
        let took = begin.elapsed();
        let mut seen = seen.lock().expect("nobody panics");
        let created = answer.status == 200 && answer.body.contains("\"result\"");
        match created {
            true => seen.acknowledged.push(name),
            false => seen.failed.push(answer.status),
        }
        seen.longest = seen.longest.max(took);
        drop(seen);
        thread::sleep(EVERY.saturating_sub(took));
    }
}

pub(super) fn cell() -> Cell {
    let mut cell = Cell::start(&Shape {
        hosts: 2,
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n",
        ..Shape::default()
    });
    for host in 0..2 {
        cell.hosts[host].agent.as_mut().expect("running").kill();
        cell.start_agent(host, &[("ISYONE_AGENT_LIVE_MOVES", "true")]);
        cell.wait_host(&format!("h{}", host + 1), "ready");
    }
    cell.isyctl(&["tenant", "create", "alfa", "--host", "h1"])
        .ok();
    answers(&cell);
    cell
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
    sql(cell, "delete from res_partner where name like 'moved-%'");
    let before: i64 = sql(cell, "select last_value from mark")
        .parse()
        .expect("a number");
    let load = Load::start(user);
    thread::sleep(Duration::from_secs(3));
    let words = [
        "tenant",
        "move",
        "alfa",
        "--to",
        to,
        "--max-pause",
        "5s",
        "--yes",
    ];
    let moved = cell.isyctl(&words);
    thread::sleep(Duration::from_secs(3));
    let seen = load.end();
    println!("{}\nlongest wait {:?}", moved.stderr, seen.longest);
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert!(moved.stderr.contains("paused for"), "{}", moved.stderr);
    assert_eq!(seen.failed, Vec::<u16>::new(), "no request fails");
    assert!(seen.longest <= LONGEST, "{:?}", seen.longest);
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], to);
    let names = sql(
        cell,
        "select name from res_partner where name like 'moved-%' order by name",
    );
    let mut stored: Vec<&str> = names.lines().collect();
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
    let next: i64 = sql(cell, "select nextval('mark')")
        .parse()
        .expect("a number");
    assert_eq!(next, before + 1, "a number was left out");
    let info = user.json("/web/session/get_session_info", &json!({}));
    assert_eq!(info["uid"], 2, "the session of before: {info}");
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

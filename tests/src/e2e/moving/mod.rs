//! A tenant that moves while it is used: its users, its size, and what an operation says of its stages.
//!
//! Not here: what else is under way meanwhile (fates), what is asserted of it (the tests), what it is compared with (the bench).

pub mod fates;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{cell::Cell, http::Response, odoo::User};

/// Between the requests of one client; there are [`CLIENTS`], which makes twenty a second.
const EVERY: Duration = Duration::from_millis(200);
const CLIENTS: usize = 4;
/// Of one client's requests, one in this many logs in: a relay lets an address do so once a second, and each costs a core a third of one.
const LOGS_IN: usize = 25;
/// Bytes of a row of [`grow`], with what PostgreSQL adds.
const ROW_BYTES: u64 = 1_024;

/// Runs a query as an operator does; returns what it prints.
pub fn sql(cell: &Cell, tenant: &str, query: &str) -> String {
    let words = ["tenant", "psql", tenant, "--", "-tAc", query];
    cell.isyctl(&words).ok().trim().to_owned()
}

/// Makes a tenant's database so large, with rows of a table of their own.
pub fn grow(cell: &Cell, tenant: &str, mib: u64) {
    sql(cell, tenant, "drop table if exists filler");
    let size = "select pg_database_size(current_database())";
    let now: u64 = sql(cell, tenant, size).parse().expect("a number");
    let rows = ((mib << 20).saturating_sub(now)) / ROW_BYTES;
    let row =
        "g as id, (select string_agg(md5(g::text || s), '') from generate_series(1, 30) s) as t";
    let make = format!("create table filler as select {row} from generate_series(1, {rows}) g");
    sql(cell, tenant, &make);
    sql(cell, tenant, "checkpoint");
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Names of partners whose creation was acknowledged.
    pub acknowledged: Vec<String>,
    /// Statuses that were no success.
    pub failed: Vec<u16>,
    /// Requests that were answered.
    pub answered: usize,
    /// The longest that anybody waited.
    pub longest: Duration,
    /// The longest time in which nobody was answered with success.
    pub gap: Duration,
    last: Option<Instant>,
}

impl Seen {
    fn note(&mut self, answer: &Response, name: Option<String>, took: Duration) {
        self.answered += 1;
        self.longest = self.longest.max(took);
        if !is_success(answer) {
            return self.failed.push(answer.status);
        }
        self.acknowledged.extend(name);
        let now = Instant::now();
        let since = self.last.replace(now);
        let gap = since.map_or(Duration::ZERO, |since| now - since);
        self.gap = self.gap.max(gap);
    }
}

/// Users who ask all the time.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    clients: Vec<JoinHandle<()>>,
}

/// What one of them does.
#[derive(Debug, Clone)]
struct Client {
    user: User,
    number: usize,
    /// Of who reads and logs in as well: as whom.
    logs_in: Option<Value>,
}

impl Load {
    /// Twenty requests a second that write.
    pub fn start(user: &User) -> Self {
        Self::begin(user, CLIENTS, None)
    }

    /// So many clients that write, five times a second each.
    pub fn of(user: &User, clients: usize) -> Self {
        Self::begin(user, clients, None)
    }

    /// Twenty requests a second that write, read and log in.
    pub fn mixed(cell: &Cell, user: &User, tenant: &str) -> Self {
        let credentials = cell.json(&["tenant", "credentials", tenant]);
        let login = json!({
            "db": format!("odoo_{tenant}"), "login": credentials["login"], "password": credentials["password"]
        });
        Self::begin(user, CLIENTS, Some(&login))
    }

    fn begin(user: &User, clients: usize, logs_in: Option<&Value>) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let start = |number: usize| {
            let client = Client {
                user: user.clone(),
                number,
                logs_in: logs_in.cloned(),
            };
            let (stop, seen) = (stop.clone(), Arc::clone(&seen));
            thread::spawn(move || client.run(&stop, &seen))
        };
        let clients = (0..clients).map(start).collect();
        Self {
            stop,
            seen,
            clients,
        }
    }

    /// Ends them, and returns what they saw.
    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
        std::mem::take(&mut *self.seen.lock().expect("nobody panics"))
    }
}

impl Client {
    fn run(&self, stop: &AtomicBool, seen: &Mutex<Seen>) {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            let begin = Instant::now();
            let (answer, name) = self.ask(round);
            let took = begin.elapsed();
            seen.lock()
                .expect("nobody panics")
                .note(&answer, name, took);
            thread::sleep(EVERY.saturating_sub(took));
        }
    }

    /// Its next request; with what it creates, if it does.
    fn ask(&self, round: usize) -> (Response, Option<String>) {
        match &self.logs_in {
            Some(login) if (round + self.number * LOGS_IN / CLIENTS).is_multiple_of(LOGS_IN) => {
                let anew = self.user.without_session();
                (anew.post("/web/session/authenticate", login), None)
            }
            Some(_) if round.is_multiple_of(2) => {
                let page = json!([[["id", "<", 3000]], ["name", "email"], round % 50, 40]);
                (
                    call(&self.user, "res.partner", "search_read", &page, &json!({})),
                    None,
                )
            }
            _ => {
                let name = format!("moved-{}-{round}", self.number);
                let values = json!([{"name": name}]);
                let made = call(&self.user, "res.partner", "create", &values, &json!({}));
                (made, Some(name))
            }
        }
    }
}

/// Whether Odoo did what it was asked.
pub fn is_success(answer: &Response) -> bool {
    answer.status == 200 && answer.body.contains("\"result\"")
}

/// A method of a model, as Odoo's web client calls it.
pub fn call(user: &User, model: &str, method: &str, args: &Value, kwargs: &Value) -> Response {
    let call = json!({"model": model, "method": method, "args": args, "kwargs": kwargs});
    user.post(&format!("/web/dataset/call_kw/{model}/{method}"), &call)
}

/// How a move went, as its operation tells it.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// For how long requests were held.
    pub paused: Duration,
    /// Each stage, and how long it took.
    pub stages: Vec<(String, Duration)>,
}

impl Told {
    /// Of the tenant's last operation, which is over.
    pub fn last(cell: &Cell, tenant: &str) -> Self {
        let tenant = cell.json(&["tenant", "show", tenant]);
        let id = tenant["operation_id"].as_str().expect("an operation");
        let shown = cell.json(&["op", "show", id]);
        let mut told = Self::default();
        for step in shown["steps"].as_array().expect("steps") {
            let text = |key: &str| step[key].as_str().unwrap_or_default();
            let words = text("detail").strip_prefix("paused for ");
            let seconds = words.and_then(|words| words.split(' ').next()?.parse().ok());
            told.paused = seconds.map_or(told.paused, Duration::from_secs_f64);
            let at = |key: &str| text(key).parse::<jiff::Timestamp>().ok();
            if let (Some(start), Some(end)) = (at("start_time"), at("end_time")) {
                let took = Duration::try_from(end.duration_since(start)).unwrap_or_default();
                told.stages.push((text("name").to_owned(), took));
            }
        }
        told
    }

    /// Its stages in a line.
    pub fn stages(&self) -> String {
        let one = |(name, took): &(String, Duration)| format!("{name} {:.2} s", took.as_secs_f64());
        self.stages.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

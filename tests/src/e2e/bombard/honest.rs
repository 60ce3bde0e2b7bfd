//! An honest client: it logs in, reads and writes at a steady pace, whatever becomes of its requests. Each has a thread of its own, so
//! that one which waits keeps no other from coming, and all waiting is measured.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Client, Place, result,
    seen::{Kind, Outcome, Sample, Seen},
};
use crate::e2e::http::Response;

/// Requests from one login to the next.
const LOGIN_EVERY: usize = 40;
/// Contacts that a read asks for.
const PAGE: usize = 20;

/// A client at work.
#[derive(Debug)]
pub struct Honest {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    begin: Instant,
    /// Names of what it writes begin so.
    tag: String,
    is_over: AtomicBool,
    samples: Mutex<Vec<Sample>>,
    /// The last contact that was written, to be read again.
    last: Mutex<Option<(i64, String)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Honest {
    /// Logs in at these addresses, and then sends a request at a time from one after the other.
    pub fn begin(place: &Place, from: &[Ipv4Addr], every: Duration, tag: &str) -> Self {
        let clients: Vec<_> = from.iter().map(|f| Client::admin(place, *f)).collect();
        Self::go_on(clients, every, tag)
    }

    /// The same with sessions that are there.
    pub fn go_on(clients: Vec<Client>, every: Duration, tag: &str) -> Self {
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            tag: tag.to_owned(),
            is_over: AtomicBool::new(false),
            samples: Mutex::default(),
            last: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        let driver = thread::spawn(move || drive(&own, &clients, every));
        Self { shared, driver }
    }

    /// Ends when each of its requests has ended.
    pub fn end(self) -> Seen {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.driver.join().expect("the client goes on");
        let samples = std::mem::take(&mut *locked(&self.shared.samples));
        Seen { samples }
    }
}

fn drive(shared: &Arc<Shared>, clients: &[Client], every: Duration) {
    let mut under_way = Vec::new();
    for number in 0.. {
        if shared.is_over.load(Ordering::Relaxed) {
            break;
        }
        let (own, client) = (Arc::clone(shared), clients[number % clients.len()].clone());
        under_way.push(thread::spawn(move || one(&own, client, number)));
        under_way.retain(|request| !request.is_finished());
        let next = shared.begin + every * u32::try_from(number + 1).unwrap_or(u32::MAX);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    for request in under_way {
        request.join().expect("a request ends");
    }
}

fn one(shared: &Shared, client: Client, number: usize) {
    let begin = Instant::now();
    let name = format!("{}-{number}", shared.tag);
    let (kind, outcome) = match number % 4 {
        _ if number % LOGIN_EVERY == LOGIN_EVERY - 1 => (Kind::Login, log_in(client)),
        0 => (Kind::Write, write(shared, &client, &name)),
        1 => (Kind::Read, list(&client)),
        2 => (Kind::Page, page(&client)),
        _ => (Kind::Read, read_again(shared, &client)),
    };
    let sample = Sample {
        at: begin - shared.begin,
        took: begin.elapsed(),
        name: match kind {
            Kind::Write => name,
            _ => String::new(),
        },
        kind,
        outcome,
    };
    locked(&shared.samples).push(sample);
}

fn log_in(mut client: Client) -> Outcome {
    let answer = client.log_in();
    judged(&answer, |value| value["uid"].is_u64())
}

fn write(shared: &Shared, client: &Client, name: &str) -> Outcome {
    let values = json!([[{"name": name}]]);
    let answer = client.call("res.partner", "create", &values, &json!({}));
    judged(&answer, |ids| {
        let id = ids[0].as_i64();
        *locked(&shared.last) = id.map(|id| (id, name.to_owned()));
        id.is_some()
    })
}

fn list(client: &Client) -> Outcome {
    let fields = json!({"domain": [], "fields": ["name", "email"], "limit": PAGE});
    let answer = client.call("res.partner", "search_read", &json!([]), &fields);
    judged(&answer, Value::is_array)
}

/// What was written is there, as it was written.
fn read_again(shared: &Shared, client: &Client) -> Outcome {
    let Some((id, name)) = locked(&shared.last).clone() else {
        return list(client);
    };
    let args = json!([[id], ["name"]]);
    let answer = client.call("res.partner", "read", &args, &json!({}));
    judged(&answer, |rows| rows[0]["name"] == name)
}

fn page(client: &Client) -> Outcome {
    let answer = client.get("/odoo");
    match answer.status {
        200 if answer.body.contains("odoo") => Outcome::Done,
        _ => refused(&answer),
    }
}

fn judged(answer: &Response, is_right: impl FnOnce(&Value) -> bool) -> Outcome {
    if answer.status != 200 {
        return refused(answer);
    }
    match result(answer) {
        Ok(value) if is_right(&value) => Outcome::Done,
        Ok(value) => Outcome::Failed(format!("another answer: {value}")),
        Err(why) => Outcome::Failed(why),
    }
}

fn refused(answer: &Response) -> Outcome {
    let head = answer.head.to_ascii_lowercase();
    match answer.status {
        429 | 503 if head.contains("\r\nretry-after:") => Outcome::Later(answer.status),
        status => {
            let body: String = answer.body.chars().take(200).collect();
            Outcome::Failed(format!("status {status}: {head} {body}"))
        }
    }
}

/// Names of contacts that begin so.
pub fn written(client: &Client, tag: &str) -> Vec<String> {
    let fields = json!({"domain": [["name", "=like", format!("{tag}-%")]], "fields": ["name"]});
    let rows = client.must("res.partner", "search_read", &json!([]), &fields);
    let rows = rows.as_array().expect("a list");
    let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
    rows.iter().map(name).collect()
}

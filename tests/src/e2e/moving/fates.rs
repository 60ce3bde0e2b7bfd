//! What is under way while a tenant moves, and what becomes of it: a request that takes long, an upload by a slow line, and a websocket.
//!
//! Not here: the many short requests (the parent).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{call, is_success};
use crate::e2e::{cell::Cell, http::Response, odoo::User, upload, websocket::Socket};

/// How long the long request takes.
pub const LONG: Duration = Duration::from_secs(20);
/// How large the upload is, and for how long it comes.
pub const UPLOAD: (usize, Duration) = (100 << 20, Duration::from_secs(20));
/// Between two messages.
const EVERY: Duration = Duration::from_millis(500);
/// How soon a browser comes again when its websocket has ended.
const AGAIN: Duration = Duration::from_millis(250);
/// How long the last message may take.
const LAST: Duration = Duration::from_secs(30);
/// What messages of the test are called.
const KIND: &str = "isyone.moving";

/// All of it, under way.
pub struct UnderWay {
    long: JoinHandle<(Response, Duration)>,
    upload: JoinHandle<(Response, String, Duration)>,
    talk: Talk,
}

/// What became of it.
#[derive(Debug)]
pub struct Fates {
    /// The request of twenty seconds: whether it was answered as if nothing had happened, and after how long.
    pub long: (bool, Duration),
    /// The upload: the same, and the digest that its file has to have.
    pub upload: (bool, Duration, String),
    /// Messages that were sent and acknowledged, and those of them that came, in order.
    pub messages: (Vec<i64>, Vec<i64>),
    /// How often the websocket ended, and the longest time until it was there again.
    pub ended: (usize, Duration),
}

impl UnderWay {
    /// Begins it; the user is the tenant's administrator.
    pub fn begin(user: &User, name: &str) -> Self {
        let (sleeper, caller) = (action(user, SLEEP), action(user, SEND));
        let (of_long, name) = (user.clone(), name.to_owned());
        let long = thread::spawn(move || {
            let begin = Instant::now();
            let context = json!({"seconds": LONG.as_secs(), "name": name});
            (run(&of_long, sleeper, &context), begin.elapsed())
        });
        let of_upload = user.clone();
        let upload = thread::spawn(move || {
            let begin = Instant::now();
            let (answer, sum) = upload::post_within(&of_upload, UPLOAD.0, UPLOAD.1);
            (answer, sum, begin.elapsed())
        });
        Self {
            long,
            upload,
            talk: Talk::begin(user, caller),
        }
    }

    /// Waits for the ends of all.
    pub fn end(self) -> Fates {
        let (long, upload) = (self.long.join(), self.upload.join());
        let (answer, took) = long.expect("it does not panic");
        let (stored, sum, came) = upload.expect("it does not panic");
        let (messages, ended) = self.talk.end();
        let is_stored = stored.status == 200 && !stored.body.contains("\"error\"");
        Fates {
            long: (is_success(&answer), took),
            upload: (is_stored, came, sum),
            messages,
            ended,
        }
    }
}

/// Keeps a connection to the database, and then writes.
const SLEEP: &str = "env.cr.execute('SELECT pg_sleep(%s)', [env.context['seconds']])\n\
    env['res.partner'].create({'name': env.context['name']})";
/// Sends one message to whoever calls it.
const SEND: &str = "env['bus.bus']._sendone(env.user.partner_id, 'isyone.moving', {'number': env.context['number']})";

/// Code that runs in Odoo; returns its id.
fn action(user: &User, code: &str) -> i64 {
    let id = |model: &str, method: &str, args: &Value| {
        let answer = call(user, model, method, args, &json!({}));
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let id = body["result"][0].as_i64();
        id.unwrap_or_else(|| panic!("{model}: {answer:?}"))
    };
    let model = id(
        "ir.model",
        "search",
        &json!([[["model", "=", "res.partner"]]]),
    );
    let values = json!([[{"name": "code", "model_id": model, "state": "code", "code": code}]]);
    id("ir.actions.server", "create", &values)
}

fn run(user: &User, action: i64, context: &Value) -> Response {
    let context = json!({"context": context});
    call(
        user,
        "ir.actions.server",
        "run",
        &json!([[action]]),
        &context,
    )
}

/// Messages to a user, and a websocket on which they come.
struct Talk {
    stop: Arc<AtomicBool>,
    sends: JoinHandle<Vec<i64>>,
    hears: JoinHandle<Heard>,
}

/// What came.
#[derive(Debug, Default)]
struct Heard {
    numbers: Vec<i64>,
    /// The last message of the bus.
    last: i64,
    ended: usize,
    away: Duration,
}

impl Talk {
    fn begin(user: &User, caller: i64) -> Self {
        let session = user.json("/web/session/get_session_info", &json!({}));
        let version = session["websocket_worker_version"].as_str();
        let version = version.expect("a version").to_owned();
        let mut socket = Socket::open(user, &version).unwrap_or_else(|why| panic!("{why}"));
        socket.subscribe();
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, ends) = (user.clone(), stop.clone());
        let sends = thread::spawn(move || {
            let mut sent = Vec::new();
            for number in 0.. {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                let answer = run(&sender, caller, &json!({"number": number}));
                if is_success(&answer) {
                    sent.push(number);
                }
                thread::sleep(EVERY);
            }
            sent
        });
        let (user, ends) = (user.clone(), stop.clone());
        let hears = thread::spawn(move || hear(&user, &version, socket, &ends));
        Self { stop, sends, hears }
    }

    fn end(self) -> ((Vec<i64>, Vec<i64>), (usize, Duration)) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sends.join().expect("it does not panic");
        let heard = self.hears.join().expect("it does not panic");
        ((sent, heard.numbers), (heard.ended, heard.away))
    }
}

/// Listens as Odoo's web client does: when the socket ends it comes again, and asks for what it has missed.
fn hear(user: &User, version: &str, mut socket: Socket, stop: &AtomicBool) -> Heard {
    let mut heard = Heard::default();
    let mut quiet_since = Instant::now();
    // What was sent last may be on its way.
    while !stop.load(Ordering::Relaxed) || quiet_since.elapsed() < EVERY * 10 {
        match socket.take() {
            Ok(messages) => {
                for message in &messages {
                    heard.last = heard.last.max(message["id"].as_i64().unwrap_or(0));
                    if message["message"]["type"] == KIND {
                        let number = message["message"]["payload"]["number"].as_i64();
                        heard.numbers.push(number.expect("a number"));
                        quiet_since = Instant::now();
                    }
                }
            }
            Err(_) => {
                let gone = Instant::now();
                heard.ended += 1;
                socket = come_again(user, version, heard.last);
                heard.away = heard.away.max(gone.elapsed());
                quiet_since = Instant::now();
            }
        }
    }
    heard
}

fn come_again(user: &User, version: &str, last: i64) -> Socket {
    let begin = Instant::now();
    loop {
        let opened = Socket::open(user, version).and_then(|mut socket| {
            socket.subscribe_after(last)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => return socket,
            Err(why) => assert!(begin.elapsed() < LAST, "no websocket again: {why}"),
        }
        thread::sleep(AGAIN);
    }
}

/// The digest of the newest file of this name, as Odoo has stored it.
pub fn stored(cell: &Cell, tenant: &str) -> String {
    let newest =
        "select checksum from ir_attachment where name = 'large.bin' order by id desc limit 1";
    super::sql(cell, tenant, newest)
}

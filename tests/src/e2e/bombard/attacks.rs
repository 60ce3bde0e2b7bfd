//! What strangers, and users who mean no harm, do to an Odoo: the inputs of the table that the relay and the guard were made for.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Client, Place, attacker, wire};
use crate::e2e::http::Response;

/// What a large body is sent in.
const PIECE: usize = 64 * 1024;
/// What an answer without a length ends with.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// What a slow reader takes between two pauses.
const SIP: Duration = Duration::from_millis(20);

/// A body of so many bytes that Odoo needs some thirty times as much memory for, to a route that asks nobody who he is.
pub fn costly_body(client: &Client, bytes: usize) -> Response {
    let begin = "{\"params\":{\"service\":\"common\",\"method\":\"version\",\"args\":[";
    let (list, end) = ("[],", "0]}}");
    let lists = bytes.saturating_sub(begin.len() + end.len()) / list.len();
    let length = begin.len() + lists * list.len() + end.len();
    let head = client.head(
        "POST",
        "/jsonrpc",
        &format!(
            "Connection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
        ),
    );
    let in_piece = PIECE / list.len();
    let pieces = (0..lists.div_ceil(in_piece)).map(move |number| {
        list.repeat(in_piece.min(lists - number * in_piece))
            .into_bytes()
    });
    let begin = std::iter::once(begin.as_bytes().to_vec());
    let end = std::iter::once(end.as_bytes().to_vec());
    let all = begin.chain(pieces).chain(end);
    wire::ask_with(client.from, client.place.edge, head.as_bytes(), all)
}

/// A cookie as Odoo makes them, of nobody: what somebody makes up to be taken for a user.
pub fn made_up_session() -> String {
    format!("session_id={}", "a1-_".repeat(21))
}

/// Connections that send a form byte by byte, one a second, until told to stop. Returns how many were open to the end.
pub fn slow_senders(
    place: &Place,
    addresses: usize,
    each: usize,
    is_over: &AtomicBool,
) -> (usize, usize) {
    let mut open = Vec::new();
    for number in 0..addresses * each {
        let client = Client::new(place, attacker(number % addresses));
        let head = client.head(
            "POST",
            "/web/login",
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100000\r\n",
        );
        if let Ok(mut stream) = wire::open(client.from, place.edge)
            && stream.write_all(head.as_bytes()).is_ok()
        {
            open.push(stream);
        }
    }
    let begun = open.len();
    while !is_over.load(Ordering::Relaxed) {
        open.retain_mut(|stream| stream.write_all(b"x").is_ok());
        thread::sleep(Duration::from_secs(1));
    }
    (begun, open.len())
}

/// Tries to open so many websockets at one address. Returns those that are open, and the statuses of those that are refused.
pub fn websockets(client: &Client, count: usize) -> (Vec<TcpStream>, Vec<u16>) {
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    let more = format!(
        "Origin: http://{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        client.place.host
    );
    let head = client.head("GET", "/websocket", &more);
    for _ in 0..count {
        let Ok(mut stream) = wire::open(client.from, client.place.edge) else {
            refused.push(0);
            continue;
        };
        let _ = stream.write_all(head.as_bytes());
        match wire::head(&mut stream).status {
            101 => open.push(stream),
            status => refused.push(status),
        }
    }
    (open, refused)
}

/// So many GETs at once, from so many addresses.
pub fn crowd(place: &Place, addresses: usize, each: usize, path: &str) -> Vec<u16> {
    thread::scope(|scope| {
        let asked: Vec<_> = (0..addresses * each)
            .map(|number| {
                let client = Client::new(place, attacker(number % addresses));
                scope.spawn(move || client.get(path).status)
            })
            .collect();
        let mut statuses: Vec<_> = asked
            .into_iter()
            .map(|t| t.join().expect("an answer"))
            .collect();
        statuses.sort_unstable();
        statuses
    })
}

/// Code that the administrator can run in Odoo, with a context; returns the action's id.
pub fn make_action(admin: &Client, code: &str) -> i64 {
    let domain = json!([[["model", "=", "res.partner"]]]);
    let model = admin.must("ir.model", "search", &domain, &json!({}));
    let action = json!([[{"name": "code", "model_id": model[0], "state": "code", "code": code}]]);
    let made = admin.must("ir.actions.server", "create", &action, &json!({}));
    made[0].as_i64().expect("an id")
}

/// Runs it.
pub fn run_action(client: &Client, action: i64, context: &Value) -> Response {
    let context = json!({"context": context});
    client.call("ir.actions.server", "run", &json!([[action]]), &context)
}

/// What takes long, keeps a connection to the database meanwhile, and then writes: `seconds`, `name`. Returns the action's id.
pub fn make_long_action(admin: &Client) -> i64 {
    make_action(
        admin,
        "env.cr.execute('SELECT pg_sleep(%s)', [env.context['seconds']])\n\
         if env.context.get('name'):\n    env['res.partner'].create({'name': env.context['name']})",
    )
}

/// Runs it.
pub fn long_request(client: &Client, action: i64, time: Duration, name: &str) -> Response {
    let context = json!({"seconds": time.as_secs_f64(), "name": name});
    run_action(client, action, &context)
}

/// Makes a file of so many bytes; returns its id.
pub fn make_file(admin: &Client, bytes: usize) -> i64 {
    let action = make_action(
        admin,
        "env['ir.attachment'].create({'name': 'large.bin', 'mimetype': 'application/octet-stream', \
         'raw': bytes(range(256)) * (env.context['bytes'] // 256)})",
    );
    let answer = run_action(admin, action, &json!({"bytes": bytes}));
    super::result(&answer).unwrap_or_else(|why| panic!("no file: {why}"));
    let domain = json!([[["name", "=", "large.bin"]]]);
    let found = admin.must("ir.attachment", "search", &domain, &json!({}));
    found[0].as_i64().expect("an id")
}

/// What a slow reader asks for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// The file.
    Download,
    /// An RPC answer that has it inside.
    Answer,
}

/// Asks for a file and takes so many bytes a second, with one pause; returns how many bytes of body came, and whether that was all.
pub fn slow_reader(
    client: &Client,
    file: i64,
    wanted: Wanted,
    rate: usize,
    pause: Duration,
) -> (usize, bool) {
    let path = format!("/web/content/{file}?download=true");
    let close = "Connection: close\r\n";
    let text = match wanted {
        Wanted::Download => client.head("GET", &path, close),
        Wanted::Answer => {
            let params = json!({"model": "ir.attachment", "method": "read", "args": [[file], ["datas"]], "kwargs": {}});
            let body = super::envelope(&params);
            let more = format!(
                "{close}Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
            client.head("POST", "/web/dataset/call_kw/ir.attachment/read", &more) + &body
        }
    };
    let mut stream = wire::open(client.from, client.place.edge).expect("the edge");
    stream.write_all(text.as_bytes()).expect("asked");
    let head = wire::head(&mut stream);
    assert_eq!(head.status, 200, "{head:?}");
    let length = length(&head);
    let (mut taken, mut paused, begin) = (0, false, Instant::now());
    let (mut piece, mut end) = (vec![0; PIECE], Vec::new());
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        taken += count;
        end.extend_from_slice(&piece[..count]);
        end.drain(..end.len().saturating_sub(LAST_CHUNK.len()));
        if !paused && taken > PIECE * 2 {
            paused = true;
            thread::sleep(pause);
        }
        let due = begin + pause + Duration::from_secs_f64(taken as f64 / rate as f64);
        while Instant::now() < due {
            thread::sleep(SIP);
        }
    }
    let is_whole = length.map_or_else(|| end == LAST_CHUNK, |length| taken == length);
    (taken, is_whole)
}

fn length(answer: &Response) -> Option<usize> {
    let lines = answer.head.lines().filter_map(|line| line.split_once(':'));
    let value = lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim().parse().ok())
        .next();
    value.flatten()
}

/// A call whose body pauses in its middle.
pub fn pausing_sender(client: &Client, name: &str, pause: Duration) -> Response {
    let comment = "x".repeat(100_000);
    let args = json!([[{"name": name, "comment": comment}]]);
    let params: Value =
        json!({"model": "res.partner", "method": "create", "args": args, "kwargs": {}});
    let body = super::envelope(&params);
    let more = format!(
        "Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    let head = client.head("POST", "/web/dataset/call_kw/res.partner/create", &more);
    let mut stream = wire::open(client.from, client.place.edge).expect("the edge");
    let (first, second) = body.as_bytes().split_at(body.len() / 2);
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(first));
    thread::sleep(pause);
    let _ = stream.write_all(second);
    wire::answer(&mut stream)
}

/// The same call of `/json/2/` with a length and in chunks: both answers.
pub fn in_chunks(
    place: &Place,
    from: Ipv4Addr,
    key: &str,
    path: &str,
    body: &Value,
) -> [Response; 2] {
    let client = Client::new(place, from);
    let body = body.to_string();
    let key = format!("Authorization: Bearer {key}\r\n");
    let with_length = client.post_json(path, body.as_bytes(), &key);
    let more = format!(
        "{key}Connection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    );
    let text = format!(
        "{}{:x}\r\n{body}\r\n0\r\n\r\n",
        client.head("POST", path, &more),
        body.len()
    );
    [with_length, wire::ask(from, place.edge, text.as_bytes())]
}

//! What the host's relay adds to a request: the same requests to an Odoo of a few lines directly, as an edge would ask it, and by a relay.
//!
//! One at a time, in turns, on loopback: what is left is the relay's own time. Not here: what it is there for (the parent).

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use isyone_relay::{
    Relay, Settings,
    limits::{HostLimits, Limits},
    routes::{Ends, Route, Routes, State},
};

use crate::{
    Run,
    figures::{Report, Target, Unit},
    samples::Samples,
};

/// Bytes of an answer: a page of Odoo's without its assets.
const PAGE: usize = 20_000;
/// Bytes of a call's body.
const CALL: usize = 2_000;

/// Two requests: a page, and a call with a body.
const KINDS: [&str; 2] = ["a page", "a call"];

pub(super) fn run(run: &Run, report: &mut Report) -> Result<()> {
    let upstream = answer_all()?;
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // as in the program
        .enable_all()
        .build()?;
    let (settings, listen) = routes(folder.path(), upstream)?;
    let relay = runtime.block_on(Relay::start(settings))?;
    ensure!(relay.faults().is_empty(), "{:?}", relay.faults());
    let rounds = run.pick(5_000, 200);
    for kind in KINDS {
        let (mut direct, mut relayed) = (Samples::default(), Samples::default());
        // An edge keeps its connection to the relay; Odoo ends each.
        let mut kept = BufReader::new(TcpStream::connect(listen)?);
        kept.get_ref().set_nodelay(true)?;
        for _ in 0..rounds {
            let begin = Instant::now();
            let mut fresh = BufReader::new(TcpStream::connect(upstream)?);
            ask(&mut fresh, kind)?;
            direct.push(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            ask(&mut kept, kind)?;
            relayed.push(begin.elapsed().as_secs_f64());
        }
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let direct = direct.quantile(share);
            let added = (relayed.quantile(share) - direct).max(0.0);
            let what = |which: &str| format!("{kind}, {which}: {name}");
            report.add_one(&what("without the relay"), Unit::Seconds, direct, None);
            let target = Some(Target::AtMost(0.001));
            report.add_one(&what("added by the relay"), Unit::Seconds, added, target);
        }
    }
    drop(relay);
    report.note(format!(
        "What the relay adds: {rounds} requests of each kind to a server on loopback that answers at once with {PAGE} bytes, in turns \
         directly (a connection each) and by a relay in this process (the edge's connection is kept); the difference of the quantiles.",
    ));
    Ok(())
}

/// Settings of a relay with one route, and where it listens.
fn routes(folder: &std::path::Path, http: SocketAddr) -> Result<(Settings, SocketAddr)> {
    let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let settings = Settings {
        routes: folder.join("routes.json"),
        spool: folder.join("spool"),
        admin: folder.join("admin.sock"),
        handover: folder.join("handover.sock"),
        version: "1".to_owned(),
    };
    let alone = |http| Ends {
        http,
        websocket: None,
    };
    let route = Route {
        name: "alfa".parse()?,
        listen: alone(listen),
        upstream: alone(http),
        state: State::Serving,
        lease: None,
        limits: Limits::default(),
        closed_paths: vec!["/web/database".to_owned()],
    };
    let edges = vec!["127.0.0.1/32".parse()?];
    let routes = Routes::new(1, edges, HostLimits::default(), vec![route])?;
    std::fs::write(&settings.routes, routes.text())?;
    Ok((settings, listen))
}

/// One request, and its answer as a whole.
fn ask(stream: &mut BufReader<TcpStream>, kind: &str) -> Result<()> {
    let (method, body) = match kind {
        "a page" => ("GET", String::new()),
        _ => ("POST", "x".repeat(CALL)),
    };
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
    };
    let session = "0123456789".repeat(4);
    let head = format!(
        "{method} /x HTTP/1.1\r\nHost: alfa.isy.one\r\nX-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Host: alfa.isy.one\r\n\
         X-Forwarded-Proto: https\r\nCookie: session_id={session}\r\n{length}\r\n{body}"
    );
    stream.get_mut().write_all(head.as_bytes())?;
    let status = line(stream)?;
    ensure!(status.contains(" 200 "), "{status}");
    let length = rest_of_head(stream)?;
    ensure!(length == PAGE, "{length} bytes");
    let mut page = vec![0; length];
    Ok(stream.read_exact(&mut page)?)
}

/// Reads headers to their end; the body's length.
fn rest_of_head(stream: &mut BufReader<TcpStream>) -> Result<usize> {
    let mut length = 0;
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        if header.is_empty() {
            return Ok(length);
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line)?;
    ensure!(read > 0, "the connection ended");
    Ok(line.trim_end().to_owned())
}

/// A server that answers each request on a connection of its own, until this process ends.
fn answer_all() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr().context("no address")?;
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || drop(answer(stream)));
        }
    });
    Ok(address)
}

fn answer(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut body = vec![0; rest_of_head(&mut stream)?];
    stream.read_exact(&mut body)?;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {PAGE}\r\nConnection: close\r\n\r\n"
    );
    let answer = [head.as_bytes(), &[b'y'; PAGE]].concat();
    Ok(stream.get_mut().write_all(&answer)?)
}

//! An Odoo of a few lines: N workers, each busy with one connection until the last byte is sent, as prefork Odoo is. It drops bodies
//! without a length, closes each connection, and remembers every request it has begun.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// What a worker gives its socket for one read or one write.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(2);

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How often each `x-id` began.
    pub(crate) began: Mutex<HashMap<String, u32>>,
    /// Heads, as they came.
    pub(crate) heads: Mutex<Vec<String>>,
    pub(crate) at_work: AtomicU64,
    pub(crate) most_at_work: AtomicU64,
    pub(crate) websockets: AtomicU64,
    /// Workers whose client was too slow for them.
    pub(crate) timed_out: AtomicU64,
}

pub(crate) struct Odoo {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Odoo {
    pub(crate) async fn start(workers: usize) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), workers, Arc::default()).await
    }

    pub(crate) async fn start_at(address: SocketAddr, workers: usize, seen: Arc<Seen>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(128).unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let running = tokio::spawn(run(listener, workers, Arc::clone(&seen), stop.clone()));
        Self {
            address,
            seen,
            stop,
            running,
        }
    }

    /// As on SIGTERM: nobody new, and an end when the requests under way are done.
    pub(crate) async fn stop(self) -> Arc<Seen> {
        self.stop.cancel();
        self.running.await.unwrap();
        self.seen
    }
}

async fn run(listener: TcpListener, workers: usize, seen: Arc<Seen>, stop: CancellationToken) {
    let workers = Arc::new(Semaphore::new(workers));
    let mut under_way = JoinSet::new();
    loop {
        // A worker accepts when it is free.
        let worker = Arc::clone(&workers).acquire_owned().await.unwrap();
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let seen = Arc::clone(&seen);
        under_way.spawn(async move {
            let working = Working::begin(Arc::clone(&seen), worker);
            if one(stream, &seen, working).await.is_none() {
                seen.timed_out.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    // Who has connected is served; closing the listener would reset it.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        let (seen, worker) = (
            Arc::clone(&seen),
            Arc::clone(&workers).acquire_owned().await.unwrap(),
        );
        under_way.spawn(async move {
            let working = Working::begin(Arc::clone(&seen), worker);
            one(stream, &seen, working).await;
        });
    }
    drop(listener);
    while under_way.join_next().await.is_some() {}
}

/// A worker at work.
struct Working {
    seen: Arc<Seen>,
    _worker: OwnedSemaphorePermit,
}

impl Working {
    fn begin(seen: Arc<Seen>, worker: OwnedSemaphorePermit) -> Self {
        let now = seen.at_work.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_at_work.fetch_max(now, Ordering::SeqCst);
        Self {
            seen,
            _worker: worker,
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.seen.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Asked {
    head: String,
    path: String,
    body: Vec<u8>,
    rest: BufReader<TcpStream>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    fn parameter(&self, name: &str) -> u64 {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .next();
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// `None`: its client was too slow, or gone.
async fn one(stream: TcpStream, seen: &Seen, working: Working) -> Option<()> {
    let mut asked = read(stream).await?;
    seen.heads.lock().unwrap().push(asked.head.clone());
    if let Some(id) = asked.header("x-id") {
        *seen.began.lock().unwrap().entry(id.to_owned()).or_default() += 1;
    }
    let path = asked.path.split('?').next().unwrap_or("").to_owned();
    tokio::time::sleep(Duration::from_millis(asked.parameter("ms"))).await;
    match path.as_str() {
        // As Odoo's threaded server, which drops the body.
        "/websocket" if asked.header("origin") == Some("https://evil.example") => {
            let head = "HTTP/1.1 400 BAD REQUEST\r\nContent-Type: text/html\r\nContent-Length: 167\r\n\r\n";
            say(&mut asked.rest, head.as_bytes()).await
        }
        "/websocket" => {
            drop(working);
            websocket(asked, seen).await;
            Some(())
        }
        "/big" => big(&mut asked).await,
        "/cut" => {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf";
            say(&mut asked.rest, head.as_bytes()).await
        }
        "/die" => Some(()),
        "/slow-chunks" => {
            say(
                &mut asked.rest,
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .await?;
            let times = asked.parameter("times");
            for _ in 0..times.max(5) {
                say(&mut asked.rest, b"4\r\ntick\r\n").await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            say(&mut asked.rest, b"0\r\n\r\n").await
        }
        _ => {
            let text = echo(&asked.body);
            let head = format!(
                "HTTP/1.0 200 OK\r\nContent-Length: {}\r\nConnection: close\r\nX-Isyone-Relay: forged\r\n\r\n",
                text.len()
            );
            let text = if asked.head.starts_with("HEAD ") {
                String::new()
            } else {
                text
            };
            // Whoever has the answer may count on the worker being free.
            drop(working);
            say(&mut asked.rest, format!("{head}{text}").as_bytes()).await
        }
    }
}

/// The sum that a body is answered with.
pub(crate) fn echo(body: &[u8]) -> String {
    let sum = body.iter().fold(0_u64, |sum, b| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*b))
    });
    format!("{} {sum}", body.len())
}

async fn read(stream: TcpStream) -> Option<Asked> {
    let mut rest = BufReader::with_capacity(64 * 1024, stream);
    let mut head = String::new();
    loop {
        let before = head.len();
        let line = rest.read_line(&mut head);
        let count = tokio::time::timeout(SOCKET_TIMEOUT, line)
            .await
            .ok()?
            .ok()?;
        if count == 0 {
            return None;
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let path = head.split(' ').nth(1)?.to_owned();
    let length: usize = header(&head, "content-length")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    // A large one is summed up by length only, so that this process stays small.
    let keep = length.min(8 << 20);
    let mut body = vec![0; keep];
    let mut at = 0;
    let mut scrap = vec![0; 64 * 1024];
    while at < length {
        let room = if at < keep {
            &mut body[at..]
        } else {
            &mut scrap[..]
        };
        let room = room.len().min(length - at);
        let target = if at < keep {
            &mut body[at..at + room]
        } else {
            &mut scrap[..room]
        };
        let count = tokio::time::timeout(SOCKET_TIMEOUT, rest.read(target))
            .await
            .ok()?
            .ok()?;
        if count == 0 {
            return None;
        }
        at += count;
    }
    if length > keep {
        body = format!("{length} bytes").into_bytes();
    }
    Some(Asked {
        head,
        path,
        body,
        rest,
    })
}

async fn big(asked: &mut Asked) -> Option<()> {
    let bytes = asked.parameter("bytes");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
    say(&mut asked.rest, head.as_bytes()).await?;
    let piece = vec![b'x'; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap().min(piece.len());
        say(&mut asked.rest, &piece[..now]).await?;
        left -= now as u64;
    }
    Some(())
}

async fn say(stream: &mut BufReader<TcpStream>, bytes: &[u8]) -> Option<()> {
    let said = tokio::time::timeout(SOCKET_TIMEOUT, stream.write_all(bytes)).await;
    said.ok()?.ok()
}

/// Echoes whatever comes.
async fn websocket(asked: Asked, seen: &Seen) {
    let upgrade = asked.header("upgrade").unwrap_or("");
    let is_websocket = upgrade.eq_ignore_ascii_case("websocket");
    let mut stream = asked.rest;
    if !is_websocket {
        let _ = stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!")
            .await;
        return;
    }
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    seen.websockets.fetch_add(1, Ordering::SeqCst);
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    seen.websockets.fetch_sub(1, Ordering::SeqCst);
}

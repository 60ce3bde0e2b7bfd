//! Minimal HTTP for checks: one GET on this machine, no redirects, no TLS.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A local program that does not answer within this time is not ready.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Longer answers are cut; those we ask for are shorter.
const MAX_ANSWER_BYTES: u64 = 256 << 10;

/// The status of `GET path` at `address`, with `host` as the `Host` header.
pub(super) fn status(address: SocketAddr, host: &str, path: &str) -> Option<u16> {
    get(address, host, path).map(|(status, _)| status)
}

/// Status and body of the answer.
pub(super) fn get(address: SocketAddr, host: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    // A connection reset after the answer does not invalidate what was read.
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).ok();
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}

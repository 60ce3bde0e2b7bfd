//! A minimal HTTP/1.1 client: tests choose address and Host header separately, as a browser gets them from DNS and the
//! URL.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

#[derive(Debug, Clone, Default)]
pub struct Response {
    /// Status code; 0 if there was no answer.
    pub status: u16,
    pub head: String,
    /// The body, with chunks joined.
    pub body: String,
}

/// Longest wait for an answer: Odoo's first page builds its assets.
const TIMEOUT: Duration = Duration::from_secs(60);

/// GET `path` of `host` at `address`.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    request(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    )
}

pub fn post_json(
    address: SocketAddr,
    host: &str,
    path: &str,
    body: &serde_json::Value,
) -> Response {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    request(address, &(head + &body))
}

/// JSON-RPC login as Odoo's clients do it: the user's id, or `None` if refused.
pub fn odoo_login(
    address: SocketAddr,
    host: &str,
    database: &str,
    login: &str,
    password: &str,
) -> Option<i64> {
    let call = serde_json::json!({"jsonrpc": "2.0", "method": "call", "params":
        {"service": "common", "method": "login", "args": [database, login, password]}});
    let answer = post_json(address, host, "/jsonrpc", &call);
    serde_json::from_str::<serde_json::Value>(&answer.body).ok()?["result"].as_i64()
}

/// A system parameter as Odoo's own code reads it, as administrator: from the cache of the process that happens to
/// answer.
pub fn odoo_parameter(
    address: SocketAddr,
    host: &str,
    database: &str,
    password: &str,
    key: &str,
) -> String {
    let arguments = serde_json::json!([
        database,
        2,
        password,
        "ir.config_parameter",
        "get_param",
        [key]
    ]);
    let call = serde_json::json!({"jsonrpc": "2.0", "method": "call", "params":
        {"service": "object", "method": "execute_kw", "args": arguments}});
    let answer = post_json(address, host, "/jsonrpc", &call);
    let value = serde_json::from_str::<serde_json::Value>(&answer.body).unwrap_or_default();
    value["result"]
        .as_str()
        .map_or_else(|| answer.body.clone(), ToOwned::to_owned)
}

/// Sends a raw request, which must ask to close the connection.
pub fn request(address: SocketAddr, text: &str) -> Response {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(text.as_bytes())?;
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            // Whoever answers before it has read the body resets the connection after the answer.
            Err(error) if bytes.is_empty() => Err(error),
            _ => Ok(bytes),
        }
    };
    exchange().map(|bytes| parse(&bytes)).unwrap_or_default()
}

pub(super) fn parse(bytes: &[u8]) -> Response {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Response {
        status,
        head: head.to_owned(),
        body: if chunked {
            unchunk(body)
        } else {
            body.to_owned()
        },
    }
}

/// Good enough for text: lengths are in bytes, and the lossy conversion may have changed some.
fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let Ok(length) = usize::from_str_radix(length.trim(), 16) else {
            break;
        };
        if length == 0 {
            break;
        }
        let end = (0..=length.min(rest.len()))
            .rev()
            .find(|i| rest.is_char_boundary(*i))
            .unwrap_or(0);
        whole.push_str(&rest[..end]);
        body = rest[end..].trim_start_matches("\r\n");
    }
    whole
}

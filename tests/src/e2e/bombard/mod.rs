//! Visitors of a tenant who mean it well, and others: an honest client whose requests are timed, and attacks from many addresses.
//! For any Odoo behind any edge, so that both the end-to-end tests and the benches use them.
//!
//! Not here: which attacks are made, and what must come of them (the tests `e2e::bombard`, `bench visitors`).

pub mod attacks;
pub mod honest;
pub mod seen;
pub mod wire;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};

use super::http::Response;

/// How long anybody waits for an answer: above every time that a request is held, and Odoo's own limit.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// An attacker's address: 0 to 49 are 127.0.0.2 to 127.0.0.51.
pub fn attacker(number: usize) -> Ipv4Addr {
    let last = 2 + u8::try_from(number % 50).unwrap_or_default();
    Ipv4Addr::new(127, 0, 0, last)
}

/// An Odoo behind an edge, and who is its administrator.
#[derive(Debug, Clone)]
pub struct Place {
    pub edge: SocketAddr,
    /// The `Host` header.
    pub host: String,
    pub database: String,
    pub login: String,
    pub password: String,
}

/// A client at an address of its own.
#[derive(Debug, Clone)]
pub struct Client {
    pub place: Place,
    pub from: Ipv4Addr,
    /// `session_id=…`; `None`: nobody knows it.
    pub cookie: Option<String>,
}

impl Client {
    pub fn new(place: &Place, from: Ipv4Addr) -> Self {
        Self {
            place: place.clone(),
            from,
            cookie: None,
        }
    }

    /// The same session at another address.
    pub fn at(&self, from: Ipv4Addr) -> Self {
        let mut other = self.clone();
        other.from = from;
        other
    }

    /// A request's head; `more` are whole lines.
    pub fn head(&self, method: &str, path: &str, more: &str) -> String {
        let cookie = self.cookie.iter();
        let cookie: String = cookie.map(|c| format!("Cookie: {c}\r\n")).collect();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{cookie}{more}\r\n",
            self.place.host
        )
    }

    fn send(&self, method: &str, path: &str, more: &str, body: &[u8]) -> Response {
        let mut text = self.head(method, path, more).into_bytes();
        text.extend_from_slice(body);
        wire::ask(self.from, self.place.edge, &text)
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, "Connection: close\r\n", b"")
    }

    pub fn post_json(&self, path: &str, body: &[u8], more: &str) -> Response {
        let more = format!(
            "Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}",
            body.len()
        );
        self.send("POST", path, &more, body)
    }

    /// One of Odoo's JSON-RPC routes.
    pub fn rpc(&self, path: &str, params: &Value) -> Response {
        self.post_json(path, envelope(params).as_bytes(), "")
    }

    /// A model's method.
    pub fn call(&self, model: &str, method: &str, args: &Value, kwargs: &Value) -> Response {
        let path = format!("/web/dataset/call_kw/{model}/{method}");
        let params = json!({"model": model, "method": method, "args": args, "kwargs": kwargs});
        self.rpc(&path, &params)
    }

    /// The result of a model's method, which must not fail.
    pub fn must(&self, model: &str, method: &str, args: &Value, kwargs: &Value) -> Value {
        let answer = self.call(model, method, args, kwargs);
        result(&answer).unwrap_or_else(|why| panic!("{model}.{method}: {why}"))
    }

    /// Logs in as the administrator; the session is this client's from now on.
    pub fn log_in(&mut self) -> Response {
        let place = &self.place;
        let params =
            json!({"db": place.database, "login": place.login, "password": place.password});
        self.cookie = None;
        let answer = self.rpc("/web/session/authenticate", &params);
        self.cookie = session(&answer);
        answer
    }

    /// The administrator at an address.
    pub fn admin(place: &Place, from: Ipv4Addr) -> Self {
        let mut client = Self::new(place, from);
        let answer = client.log_in();
        assert!(
            client.cookie.is_some() && result(&answer).is_ok(),
            "not logged in: {answer:?}"
        );
        client
    }
}

/// The body of a JSON-RPC call.
pub fn envelope(params: &Value) -> String {
    json!({"jsonrpc": "2.0", "method": "call", "params": params}).to_string()
}

/// What a JSON-RPC answer says, or why it says nothing.
pub fn result(answer: &Response) -> Result<Value, String> {
    if answer.status != 200 {
        return Err(format!("status {}", answer.status));
    }
    let mut body: Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
    match body.get("error") {
        Some(error) if !error.is_null() => {
            let why = error["data"]["message"].as_str();
            Err(why.map_or_else(|| error.to_string(), str::to_owned))
        }
        _ => Ok(body["result"].take()),
    }
}

/// The session that an answer gives.
pub fn session(answer: &Response) -> Option<String> {
    let lines = answer.head.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        .filter_map(|(_, value)| value.trim().split(';').next())
        .find(|value| value.starts_with("session_id="))
        .map(str::to_owned)
}

//! A user of a tenant's Odoo: a session through the edge as browsers have it, and what the operator does inside the
//! tenant.
//!
//! Not here: a browser (browser), JSON-RPC without a session (http).

use std::{net::SocketAddr, process::Command};

use serde_json::{Value, json};

use super::{
    cell::Cell,
    http::{Response, request},
    process::run_with_input,
};

/// A logged-in user, or an anonymous visitor.
#[derive(Debug, Clone)]
pub struct User {
    edge: SocketAddr,
    pub origin: String,
    /// `session_id=…`; `None` for an anonymous visitor.
    pub cookie: Option<String>,
}

impl User {
    /// A visitor without a session.
    pub fn stranger(cell: &Cell, tenant: &str) -> Self {
        let host = format!("{tenant}.isy.one");
        let origin = format!("http://{host}:{}", cell.edge().port());
        Self {
            edge: cell.edge(),
            origin,
            cookie: None,
        }
    }

    /// A visitor who has not logged in, with the session that Odoo gives to who comes again: a relay counts who comes without one.
    pub fn visitor(cell: &Cell, tenant: &str) -> Self {
        let mut user = Self::stranger(cell, tenant);
        let answer = user.get("/web/login");
        user.cookie = session(&answer);
        assert!(user.cookie.is_some(), "no session: {answer:?}");
        user
    }

    /// The tenant's administrator, logged in as the web client does it.
    pub fn admin(cell: &Cell, tenant: &str) -> Self {
        let mut user = Self::stranger(cell, tenant);
        let credentials = cell.json(&["tenant", "credentials", tenant]);
        let login = json!({"db": format!("odoo_{tenant}"), "login": credentials["login"], "password": credentials["password"]});
        let answer = user.post("/web/session/authenticate", &login);
        user.cookie = session(&answer);
        assert!(
            user.cookie.is_some() && result(&answer)["uid"] == 2,
            "no session: {answer:?}"
        );
        user
    }

    /// The same, who has not logged in.
    pub fn without_session(&self) -> Self {
        Self {
            cookie: None,
            ..self.clone()
        }
    }

    /// The edge's address, where this user's requests go.
    pub fn edge(&self) -> SocketAddr {
        self.edge
    }

    /// Headers of every request of this user, each with its line break.
    pub fn headers(&self) -> String {
        let cookie = self
            .cookie
            .iter()
            .map(|cookie| format!("Cookie: {cookie}\r\n"))
            .collect::<String>();
        format!(
            "Host: {}\r\n{cookie}",
            self.origin.trim_start_matches("http://")
        )
    }

    pub fn get(&self, path: &str) -> Response {
        let head = format!(
            "GET {path} HTTP/1.1\r\n{}Connection: close\r\n\r\n",
            self.headers()
        );
        request(self.edge, &head)
    }

    pub fn post(&self, path: &str, params: &Value) -> Response {
        let body = json!({"jsonrpc": "2.0", "method": "call", "params": params}).to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\n{}Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.headers(),
            body.len()
        );
        request(self.edge, &(head + &body))
    }

    /// The result of one of Odoo's JSON-RPC routes.
    pub fn json(&self, path: &str, params: &Value) -> Value {
        result(&self.post(path, params))
    }

    /// This session's CSRF token, which forms must carry.
    pub fn csrf_token(&self) -> String {
        let page = self.get("/odoo");
        let token = page
            .body
            .split_once("csrf_token: \"")
            .and_then(|(_, rest)| rest.split_once('"'));
        token
            .unwrap_or_else(|| panic!("no token in the page: {} {}", page.head, page.body))
            .0
            .to_owned()
    }
}

/// The session that an answer gives.
fn session(answer: &Response) -> Option<String> {
    let cookie = answer
        .head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, value)| {
            let value = value.split(';').next()?;
            (name.eq_ignore_ascii_case("set-cookie") && value.starts_with("session_id="))
                .then_some(value)
        });
    cookie.map(str::to_owned)
}

fn result(answer: &Response) -> Value {
    let body: Value =
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
    assert!(body["error"].is_null(), "{body}");
    body["result"].clone()
}

/// Runs a script in Odoo's own shell on a tenant's database, as operators do; returns its output.
pub fn shell(cell: &Cell, tenant: &str, script: &str) -> String {
    let mut command: Command = cell.isyctl_command("admin.toml");
    command.args(["tenant", "shell", tenant, "--odoo"]);
    run_with_input(&mut command, script).ok()
}

/// Has a tenant print, as `isyctl tenant verify` does, which must pass; returns the check. The image that is built here has
/// wkhtmltopdf on x86-64 only.
pub fn print(cell: &Cell, tenant: &str) -> Value {
    let verified = cell.isyctl(&["tenant", "verify", tenant, "-o", "json"]);
    assert_eq!(verified.code, 0, "{}\n{}", verified.stdout, verified.stderr);
    let report: Value = serde_json::from_str(&verified.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    let print = checks.iter().find(|check| check["check"] == "print");
    let print = print.expect("the check").clone();
    println!("print: {print}");
    match (cfg!(target_arch = "x86_64"), print["result"].as_str()) {
        (false, Some("skip")) => println!("skipped: {}", print["detail"]),
        (_, result) => assert_eq!(result, Some("ok"), "{print}"),
    }
    print
}

/// Sends a message on the administrator's own channel, as Odoo's modules notify users.
pub fn notify_admin(cell: &Cell, tenant: &str, kind: &str, payload: &Value) {
    let partner = "env.ref('base.user_admin').partner_id";
    // JSON's numbers and strings are also valid Python.
    let script = format!(
        "env['bus.bus']._sendone({partner}, {}, {payload})\nenv.cr.commit()\n",
        json!(kind)
    );
    shell(cell, tenant, &script);
}

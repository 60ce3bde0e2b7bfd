//! `tenant verify` against a small edge and a small Prometheus.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use isyone_proto::tls;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{
    pki::Ca,
    run::{Run, command, finish, isyctl},
};

/// Maps a path to `(status line and headers, body)`.
type Pages = fn(&str) -> (&'static str, &'static str);

const LOGIN: &str = "<form><input name=\"login\"><input name=\"password\"></form>";
const UP: &str = r#"{"data":{"result":[{"value":[1,"1"]}]}}"#;
const DOWN: &str = r#"{"data":{"result":[{"value":[1,"0"]}]}}"#;

fn good(path: &str) -> (&'static str, &'static str) {
    match path {
        "/web/health" => ("200 OK", r#"{"status": "pass"}"#),
        "/web/login" => ("200 OK", LOGIN),
        "/websocket" => (
            "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket",
            "",
        ),
        path if path.starts_with("/api/v1/query?query=%75%70") => ("200 OK", UP),
        _ => ("404 Not Found", ""),
    }
}

fn bad(path: &str) -> (&'static str, &'static str) {
    match path {
        "/web/health" => ("502 Bad Gateway", ""),
        "/web/login" => ("200 OK", "<h1>Welcome to nginx</h1>"),
        "/web/database/manager" => ("200 OK", "<h1>Create database</h1>"),
        "/metrics" => ("200 OK", "up 1"),
        path if path.starts_with("/api/") => ("200 OK", DOWN),
        _ => ("404 Not Found", ""),
    }
}

fn answer(stream: impl std::io::Read + std::io::Write, pages: Pages) {
    let mut stream = BufReader::new(stream);
    let (mut first, mut host) = (String::new(), String::new());
    if stream.read_line(&mut first).is_err() {
        return;
    }
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.trim().is_empty() => break,
            Ok(_) => {
                if let Some(value) = line.strip_prefix("host: ") {
                    host = value.trim().to_owned();
                }
            }
        }
    }
    let path = first.split(' ').nth(1).unwrap_or("/");
    let known = host.ends_with("isy.one") || host == "erp.example.com" || path.starts_with("/api/");
    let (head, body) = if known {
        pages(path)
    } else {
        ("404 Not Found", "")
    };
    let length = if head.starts_with("101") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let _ = write!(stream.get_mut(), "HTTP/1.1 {head}\r\n{length}\r\n{body}");
    let _ = stream.get_mut().flush();
}

fn edge(pages: Pages, config: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            std::thread::spawn(move || match config {
                None => answer(stream, pages),
                Some(config) => answer(
                    StreamOwned::new(ServerConnection::new(config).unwrap(), stream),
                    pages,
                ),
            });
        }
    });
    address
}

/// Check, result and detail of each line.
fn results(run: &Run) -> Vec<(String, String)> {
    let json: serde_json::Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {run:?}"));
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (text(&c["check"]), text(&c["result"])))
        .collect()
}

fn expected(words: [&str; 11]) -> Vec<(String, String)> {
    let checks = [
        "dns",
        "route",
        "tls",
        "health",
        "login-page",
        "database-manager-closed",
        "metrics-closed",
        "websocket",
        "apps",
        "prometheus",
        "print",
    ];
    checks
        .iter()
        .zip(words)
        .map(|(check, word)| ((*check).to_owned(), word.to_owned()))
        .collect()
}

#[test]
fn a_good_tenant_passes() {
    let url = format!("http://{}", edge(good, None));
    let run = isyctl(&[
        "tenant",
        "verify",
        "alfa",
        "--edge",
        &url,
        "--prometheus",
        &url,
        "-o",
        "json",
    ]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        results(&run),
        expected([
            "skip", "ok", "skip", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok"
        ])
    );
    let table = isyctl(&["tenant", "verify", "alfa", "--edge", &url]).stdout;
    assert!(
        table.contains("prometheus               skip    -"),
        "{table}"
    );
}

#[test]
fn a_bad_tenant_fails_by_name() {
    let url = format!("http://{}", edge(bad, None));
    let run = isyctl(&[
        "tenant",
        "verify",
        "alfa",
        "--edge",
        &url,
        "--prometheus",
        &url,
        "-o",
        "json",
        "--timeout",
        "2s",
    ]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("has not looked at it"),
        "{}",
        run.stderr
    );
    assert_eq!(
        results(&run),
        expected([
            "skip", "ok", "skip", "fail", "fail", "fail", "fail", "fail", "ok", "fail", "ok"
        ])
    );
    assert!(
        run.stderr.contains("does not pass: health, login-page"),
        "{}",
        run.stderr
    );
    let nobody = isyctl(&[
        "tenant",
        "verify",
        "alfa",
        "--edge",
        "http://127.0.0.1:1",
        "-o",
        "json",
    ]);
    assert_eq!(nobody.code, 1);
    assert!(
        results(&nobody)[1..8]
            .iter()
            .all(|(check, result)| check == "tls" || result == "fail"),
        "{nobody:?}"
    );
}

#[test]
fn tls_is_judged_by_what_this_machine_trusts() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let (certificate, key) = ca.server("secure.isy.one");
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            tls::certificates("edge", &certificate).unwrap(),
            tls::private_key(&key).unwrap(),
        )
        .unwrap();
    let url = format!("https://{}", edge(good, Some(Arc::new(config))));
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &ca.pem).unwrap();
    let verify = |trusting: bool| {
        let mut command = command(&["tenant", "verify", "secure", "--edge", &url, "-o", "json"]);
        if trusting {
            command.env("SSL_CERT_FILE", &roots);
        }
        finish(command)
    };
    let run = verify(true);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        results(&run),
        expected([
            "skip", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "skip", "ok"
        ])
    );
    let run = verify(false);
    assert_eq!((run.code, results(&run)[2].1.as_str()), (1, "fail"));
}

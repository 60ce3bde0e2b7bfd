//! Large files through the edge, generated while they are sent: never whole in memory or on this side's disk.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    http::{Response, parse},
    odoo::User,
};

/// Bytes to send or read at a time.
const BLOCK: usize = 1 << 20;
/// Far above the time that Odoo needs to store or find a file, far below waiting forever.
const PATIENCE: Duration = Duration::from_secs(120);
const BOUNDARY: &str = "isyone-boundary-5f0c9c1e";

/// Incompressible content, the same each time; its blocks differ by a number at their beginning.
struct Content(Vec<u8>);

impl Content {
    fn new() -> Self {
        let mut block = vec![0; BLOCK];
        StdRng::seed_from_u64(1).fill_bytes(&mut block);
        Self(block)
    }

    fn block(&mut self, number: usize) -> &[u8] {
        self.0[..8].copy_from_slice(&(number as u64).to_le_bytes());
        &self.0
    }
}

/// SHA-1 of everything added to it; Odoo names its files by it.
struct Sum(Child);

impl Sum {
    fn new() -> Self {
        let mut command = Command::new("sha1sum");
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("sha1sum"),
        )
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0
            .stdin
            .as_mut()
            .expect("a pipe")
            .write_all(bytes)
            .expect("sha1sum reads");
    }

    fn end(self) -> String {
        let out = self.0.wait_with_output().expect("a sum").stdout;
        String::from_utf8_lossy(&out).chars().take(40).collect()
    }
}

/// Posts a form with one file of this length, as Odoo's web client does, attached to the user's own partner. Returns
/// the answer and the file's SHA-1.
pub fn post(user: &User, length: usize) -> (Response, String) {
    post_within(user, length, Duration::ZERO)
}

/// The same, by somebody whose line needs so long for it.
pub fn post_within(user: &User, length: usize, time: Duration) -> (Response, String) {
    let pause = time / u32::try_from(length.div_ceil(BLOCK)).expect("few blocks");
    let token = user.csrf_token();
    let field = |name: &str, value: &str| {
        format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
    };
    let before = field("csrf_token", &token)
        + &field("model", "res.partner")
        + &field("id", "3")
        + &format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"ufile\"; filename=\"large.bin\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
    let after = format!("\r\n--{BOUNDARY}--\r\n");
    let body = before.len() + length + after.len();
    let mut tcp = connect(user);
    let head = format!(
        "POST /web/binary/upload_attachment HTTP/1.1\r\n{}Connection: close\r\nContent-Length: {body}\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n{before}",
        user.headers()
    );
    let (mut content, mut sum) = (Content::new(), Sum::new());
    // The server may refuse a body before its end: then the answer, if there is one, says why.
    let _ = tcp.write_all(head.as_bytes()).and_then(|()| {
        for number in 0..length.div_ceil(BLOCK) {
            let bytes = &content.block(number)[..BLOCK.min(length - number * BLOCK)];
            sum.add(bytes);
            std::thread::sleep(pause);
            tcp.write_all(bytes)?;
        }
        tcp.write_all(after.as_bytes())
    });
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    (parse(&answer), sum.end())
}

/// Downloads a file; returns its length and SHA-1.
pub fn download(user: &User, path: &str) -> (usize, String) {
    let mut tcp = connect(user);
    let head = format!(
        "GET {path} HTTP/1.1\r\n{}Connection: close\r\n\r\n",
        user.headers()
    );
    tcp.write_all(head.as_bytes()).expect("asked");
    let (mut sum, mut total, mut buffer, mut seen) = (Sum::new(), 0, vec![0; BLOCK], Vec::new());
    loop {
        let count = tcp.read(&mut buffer).expect("a file");
        if count == 0 {
            return (total, sum.end());
        }
        let mut bytes = &buffer[..count];
        if total == 0 {
            // Headers come first, possibly in several reads.
            seen.extend_from_slice(bytes);
            let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&seen[..end]);
            assert!(
                head.starts_with("HTTP/1.1 200") && !head.contains("chunked"),
                "{head}"
            );
            bytes = &seen[end + 4..];
        }
        sum.add(bytes);
        total += bytes.len();
    }
}

fn connect(user: &User) -> TcpStream {
    let tcp = TcpStream::connect(user.edge()).expect("the edge");
    tcp.set_read_timeout(Some(PATIENCE))
        .and_then(|()| tcp.set_write_timeout(Some(PATIENCE)))
        .expect("a timeout");
    tcp
}

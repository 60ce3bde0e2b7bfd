//! A client that writes what it is told, byte by byte if need be: what attackers send is rarely what a library would.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// No test waits longer for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// A connection as from an edge, for a visitor's address.
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
    visitor: String,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, visitor: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
            visitor: visitor.to_owned(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// The head of a request; `more` are whole lines.
    pub(crate) fn head(&self, method: &str, path: &str, more: &str) -> String {
        let visitor = &self.visitor;
        format!(
            "{method} {path} HTTP/1.1\r\nHost: alfa.isy.one\r\nX-Forwarded-For: {visitor}\r\nX-Forwarded-Host: alfa.isy.one\r\n\
             X-Forwarded-Proto: https\r\n{more}\r\n"
        )
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "", b"").await
    }

    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        more: &str,
        body: &[u8],
    ) -> Answer {
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let head = self.head(method, path, &format!("{length}{more}"));
        self.write(head).await.unwrap();
        // Whoever refuses may answer before all is written.
        let _ = self.write(body).await;
        match method {
            "HEAD" => self.answer_head().await.expect("there is an answer"),
            _ => self.answer().await.expect("there is an answer"),
        }
    }

    pub(crate) async fn answer_head(&mut self) -> Option<Answer> {
        let mut head = String::new();
        loop {
            let before = head.len();
            let line = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut head)).await;
            if line.expect("an answer within a minute").ok()? == 0 {
                return None;
            }
            if head[before..].trim().is_empty() {
                break;
            }
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer {
            status,
            head,
            body: Vec::new(),
        })
    }

    /// The next answer as a whole; `None` when it was not.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.answer_head().await?;
        if answer.status == 100 {
            answer = self.answer_head().await?;
        }
        if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await? {
                answer.body.extend(chunk);
            }
        } else {
            let length = answer
                .header("content-length")
                .and_then(|l| l.parse().ok())
                .unwrap_or(0);
            answer.body = vec![0; length];
            let read = self.stream.read_exact(&mut answer.body);
            tokio::time::timeout(PATIENCE, read)
                .await
                .expect("an answer within a minute")
                .ok()?;
        }
        Some(answer)
    }

    /// `Some(None)` is the last one.
    pub(crate) async fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await;
        read.expect("a chunk within a minute").ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).await.ok()?;
        chunk.truncate(length);
        Some(Some(chunk).filter(|_| length > 0))
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(address: SocketAddr, visitor: &str, path: &str) -> Answer {
    Client::connect(address, visitor).await.get(path).await
}

impl Client {
    /// A GET whose connection may be cut.
    pub(crate) async fn ask_or_nothing(&mut self, path: &str) -> Option<Answer> {
        self.write(self.head("GET", path, "")).await.ok()?;
        self.answer().await
    }
}

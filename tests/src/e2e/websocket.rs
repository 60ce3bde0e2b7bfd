//! A websocket through the edge to a tenant's Odoo, opened as its web client does.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tungstenite::{
    Error, HandshakeError, Message, WebSocket,
    client::{IntoClientRequest as _, client},
    http::{HeaderValue, Request},
};

use super::odoo::User;

/// Timeout of one read from the socket; messages are noticed no later than this.
const LOOK: Duration = Duration::from_millis(500);
/// Odoo's gevent process starts with the first connection to a database.
const HANDSHAKE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Socket {
    socket: WebSocket<TcpStream>,
    opened: Instant,
    /// Number of pings from Odoo so far.
    pub pings: usize,
}

impl Socket {
    /// Opens a websocket on a page of the user's, or returns the error.
    pub fn open(user: &User, version: &str) -> Result<Self, String> {
        let tcp = TcpStream::connect(user.edge()).map_err(|e| e.to_string())?;
        tcp.set_read_timeout(Some(HANDSHAKE))
            .map_err(|e| e.to_string())?;
        let (socket, _) = client(handshake(user, version), tcp).map_err(|e| match e {
            HandshakeError::Failure(Error::Http(answer)) => {
                format!("refused with {}", answer.status())
            }
            other => other.to_string(),
        })?;
        socket
            .get_ref()
            .set_read_timeout(Some(LOOK))
            .map_err(|e| e.to_string())?;
        Ok(Self {
            socket,
            opened: Instant::now(),
            pings: 0,
        })
    }

    /// Subscribes to the channels that Odoo adds by itself: the broadcast channel, and the user's own if there is one.
    pub fn subscribe(&mut self) {
        self.subscribe_after(0).expect("sent");
    }

    /// The same, for messages after this one: what a client that comes again has seen.
    pub fn subscribe_after(&mut self, last: i64) -> Result<(), String> {
        let wish = json!({"event_name": "subscribe", "data": {"channels": [], "last": last}});
        let sent = self.socket.send(Message::text(wish.to_string()));
        sent.map_err(|e| e.to_string())
    }

    /// Waits for a bus message of this kind and returns its payload; `None` after `limit`. Fails the test if the socket
    /// ends.
    pub fn listen(&mut self, kind: &str, limit: Duration) -> Option<Value> {
        let begin = Instant::now();
        while begin.elapsed() < limit {
            if let Some(payload) = self.look().iter().find_map(|message| {
                let message = &message["message"];
                (message["type"] == kind).then(|| message["payload"].clone())
            }) {
                return Some(payload);
            }
        }
        None
    }

    fn look(&mut self) -> Vec<Value> {
        self.take().unwrap_or_else(|end| {
            panic!(
                "the websocket ended after {:?}: {end}",
                self.opened.elapsed()
            )
        })
    }

    /// The bus messages that have just arrived, or how the socket has ended. Answers and counts pings.
    pub fn take(&mut self) -> Result<Vec<Value>, String> {
        match self.socket.read() {
            Ok(Message::Text(text)) => {
                Ok(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
            }
            Ok(Message::Ping(_)) => {
                self.pings += 1;
                let answered = self.socket.flush();
                answered.map(|()| Vec::new()).map_err(|e| e.to_string())
            }
            Err(Error::Io(e)) if is_timeout(&e) => Ok(Vec::new()),
            end => Err(format!("{end:?}")),
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
    )
}

fn handshake(user: &User, version: &str) -> Request<()> {
    let url = format!(
        "{}/websocket?version={version}",
        user.origin.replacen("http", "ws", 1)
    );
    let mut request = url.into_client_request().expect("a URL");
    let headers = request.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).expect("a header");
    headers.insert("Origin", value(&user.origin));
    // Odoo checks the version parameter of clients that claim to be a browser.
    headers.insert("User-Agent", value("Mozilla/5.0"));
    if let Some(cookie) = &user.cookie {
        headers.insert("Cookie", value(cookie));
    }
    request
}

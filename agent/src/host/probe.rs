//! Asks Odoo and PostgreSQL whether they answer, over the network and without starting a process in a container: 120
//! settled tenants must cost next to nothing.
//!
//! Not here: how often (tenant::rest) and what follows from the answer.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::async_trait;

use crate::plan::{
    container::Container,
    stack::{GEVENT_PORT, HTTP_PORT, POSTGRES_PORT},
};

/// A busy Odoo with all workers in long requests answers late; later than this counts as no answer.
const ODOO_TIMEOUT: Duration = Duration::from_secs(10);
/// A listening process accepts a connection at once.
const WEBSOCKETS_TIMEOUT: Duration = Duration::from_secs(3);
/// PostgreSQL's postmaster answers at once or not at all.
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(3);
/// `StartupMessage` of the wire protocol 3.0, for the database that is always there. An `SSLRequest` would not do: the postmaster
/// answers it while it recovers, too, and Odoo would be started beside a PostgreSQL that lets nobody in for minutes.
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
/// SQLSTATE `cannot_connect_now`: it starts up, recovers or shuts down. Whoever gets another error was answered (as for `pg_isready`).
const CANNOT_CONNECT_NOW: &str = "57P03";
/// Bytes of an `ErrorResponse` that are looked at.
const MAX_ERROR: usize = 1024;

/// Whether the programs inside answer.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// Asks Odoo's `/web/health`: how many milliseconds it took, or why it did not answer.
    async fn odoo(&self, odoo: &Container) -> std::result::Result<u32, String>;
    /// Whether Odoo's websocket process, which exists when Odoo has workers, accepts connections.
    async fn websockets(&self, odoo: &Container) -> std::result::Result<(), String>;
    /// Does a start-up exchange with PostgreSQL.
    async fn postgres(&self, postgres: &Container) -> std::result::Result<(), String>;
}

/// Probes the containers' addresses, which the host reaches directly.
pub struct NetProbe;

fn address(container: &Container, port: u16) -> Result<SocketAddr, String> {
    match container.ip {
        Some(ip) if container.is_up() => Ok((ip, port).into()),
        _ => Err(format!(
            "{} has no address (it is {})",
            container.name, container.state
        )),
    }
}

async fn health(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /web/health HTTP/1.1\r\nHost: localhost\r\nUser-Agent: isy-agent\r\nConnection: close\r\n\r\n").await?;
    let mut head = Vec::with_capacity(512);
    let mut buffer = [0u8; 512];
    while !head.windows(2).any(|w| w == b"\r\n") && head.len() < 2048 {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// Begins a session with PostgreSQL and goes away before it says who it is, which PostgreSQL does not log. Returns the beginning of
/// the first message that comes back.
async fn startup(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(STARTUP).await?;
    let mut head = [0u8; 5];
    stream.read_exact(&mut head).await?;
    let mut answer = head.to_vec();
    if answer[0] == b'E' {
        // The length counts itself, but not the kind before it.
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let rest = u64::try_from(length.saturating_sub(4).min(MAX_ERROR)).unwrap_or(0);
        stream.take(rest).read_to_end(&mut answer).await?;
    }
    Ok(answer)
}

/// Whether PostgreSQL lets clients in, by its first message: it asks who they are, or has another objection than that it is not ready.
fn lets_in(answer: &[u8]) -> Result<(), String> {
    match answer {
        [b'R', ..] => Ok(()),
        [b'E', _, _, _, _, fields @ ..] => {
            let now = format!("C{CANNOT_CONNECT_NOW}");
            if fields.split(|b| *b == 0).any(|f| f == now.as_bytes()) {
                return Err(
                    "it lets nobody in yet (it starts up, recovers or shuts down)".to_owned(),
                );
            }
            Ok(())
        }
        [other, ..] => Err(format!(
            "something that is not PostgreSQL answered ({other:#04x})"
        )),
        [] => Err("it closed the connection".to_owned()),
    }
}

/// Only connects: the process listens once it has loaded.
async fn connects(address: SocketAddr) -> Result<(), String> {
    match timeout(WEBSOCKETS_TIMEOUT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map(drop).map_err(|e| e.to_string()),
        Err(_) => Err(format!(
            "no answer within {} s",
            WEBSOCKETS_TIMEOUT.as_secs()
        )),
    }
}

#[async_trait]
impl Probe for NetProbe {
    async fn odoo(&self, odoo: &Container) -> Result<u32, String> {
        let address = address(odoo, HTTP_PORT)?;
        let begin = Instant::now();
        match timeout(ODOO_TIMEOUT, health(address)).await {
            Err(_) => Err(format!(
                "/web/health did not answer within {} s",
                ODOO_TIMEOUT.as_secs()
            )),
            Ok(Err(e)) => Err(format!("/web/health: {e}")),
            Ok(Ok(line)) if line.split(' ').nth(1) == Some("200") => {
                Ok((begin.elapsed().as_millis() as u32).max(1))
            }
            Ok(Ok(line)) => Err(format!("/web/health answered `{line}`")),
        }
    }

    async fn websockets(&self, odoo: &Container) -> Result<(), String> {
        connects(address(odoo, GEVENT_PORT)?).await
    }

    async fn postgres(&self, postgres: &Container) -> Result<(), String> {
        let address = address(postgres, POSTGRES_PORT)?;
        match timeout(POSTGRES_TIMEOUT, startup(address)).await {
            Ok(Ok(answer)) => lets_in(&answer),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("no answer within {} s", POSTGRES_TIMEOUT.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn serve(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0u8; 256];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        });
        address
    }

    #[tokio::test]
    async fn the_status_line_is_read() {
        let address = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(health(address).await.unwrap(), "HTTP/1.1 200 OK");
        let address = serve(b"").await;
        assert_eq!(health(address).await.unwrap(), "");
    }

    #[test]
    fn the_startup_message_says_its_length() {
        let length = u32::from_be_bytes([STARTUP[0], STARTUP[1], STARTUP[2], STARTUP[3]]);
        assert_eq!(length as usize, STARTUP.len());
    }

    #[tokio::test]
    async fn a_postgresql_that_recovers_is_not_ready_and_one_that_objects_is() {
        let asks = startup(serve(b"R\0\0\0\x08\0\0\0\x03").await)
            .await
            .unwrap();
        assert_eq!(lets_in(&asks), Ok(()));
        let error = |code: &str| {
            let fields =
                format!("SFATAL\0VFATAL\0C{code}\0Mthe database system is starting up\0\0");
            let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
            [b"E".as_slice(), &length, fields.as_bytes()].concat()
        };
        let recovers = startup(serve(error("57P03").leak()).await).await.unwrap();
        let why = lets_in(&recovers).unwrap_err();
        assert!(why.contains("lets nobody in yet"), "{why}");
        let full = startup(serve(error("53300").leak()).await).await.unwrap();
        assert_eq!(lets_in(&full), Ok(()));
        let other = startup(serve(b"HTTP/1.1 400").await).await.unwrap();
        assert!(lets_in(&other).unwrap_err().contains("not PostgreSQL"));
        assert!(startup(serve(b"").await).await.is_err());
    }

    #[tokio::test]
    async fn websockets_are_there_once_somebody_listens() {
        let address = serve(b"").await;
        assert_eq!(connects(address).await, Ok(()));
        let closed = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(connects(closed).await.unwrap_err().contains("refused"));
    }

    #[tokio::test]
    async fn a_container_without_address_is_not_healthy() {
        let container = Container {
            name: "odoo_a".into(),
            state: "exited".into(),
            ..Default::default()
        };
        assert!(
            NetProbe
                .odoo(&container)
                .await
                .unwrap_err()
                .contains("exited")
        );
    }
}

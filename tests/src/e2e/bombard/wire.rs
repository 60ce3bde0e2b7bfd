//! TCP from a chosen address of this machine: how an edge tells its visitors apart.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType};

use super::PATIENCE;
use crate::e2e::http::{Response, parse};

/// What an answer may have at most: more is none that a test reads whole.
const MOST_BYTES: usize = 64 << 20;
/// How long a write may be blocked: who is not read from is not sent to for ever.
const WRITE: Duration = Duration::from_secs(60);

/// A connection from an address to an edge.
pub fn open(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
    rustix::net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(WRITE))?;
    Ok(stream)
}

/// Sends a whole request, which must ask to close the connection, and reads the answer; its status is 0 if there is none.
pub fn ask(from: Ipv4Addr, to: SocketAddr, text: &[u8]) -> Response {
    let Ok(mut stream) = open(from, to) else {
        return Response::default();
    };
    // Who refuses a body may answer before its end, and the rest cannot be sent then.
    let _ = stream.write_all(text);
    answer(&mut stream)
}

/// The same for a large body of equal pieces, of which nothing is kept; read while it is sent, because who refuses it answers at once.
pub fn ask_with(
    from: Ipv4Addr,
    to: SocketAddr,
    head: &[u8],
    pieces: impl Iterator<Item = Vec<u8>> + Send,
) -> Response {
    let Ok(mut stream) = open(from, to) else {
        return Response::default();
    };
    let Ok(mut sending) = stream.try_clone() else {
        return Response::default();
    };
    std::thread::scope(|scope| {
        scope.spawn(move || -> io::Result<()> {
            sending.write_all(head)?;
            for piece in pieces {
                sending.write_all(&piece)?;
            }
            Ok(())
        });
        answer(&mut stream)
    })
}

/// The answer on a connection that ends with it.
pub fn answer(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let begin = Instant::now();
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
        if bytes.len() > MOST_BYTES || begin.elapsed() > PATIENCE {
            break;
        }
    }
    match bytes.is_empty() {
        true => Response::default(),
        false => parse(&bytes),
    }
}

/// The head of an answer whose connection stays open; its status is 0 if there is none.
pub fn head(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.len() < 64 * 1024 && !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => break,
        }
    }
    match bytes.is_empty() {
        true => Response::default(),
        false => parse(&bytes),
    }
}

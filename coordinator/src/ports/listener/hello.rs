//! The first message of a TLS handshake, read before we compute or keep much for the peer.
//!
//! Not here: how long it may take (mod.rs).

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::{StartHandshake, rustls::server::Acceptor};

/// A ClientHello with two key shares is below 2 KiB; nobody can make us keep more than this.
const MAX_BYTES: usize = 8 * 1024;
/// How much we read at once.
const PIECE: usize = 2 * 1024;

/// Reads the ClientHello; returns the rest of the handshake.
pub(super) async fn read(tcp: TcpStream) -> io::Result<StartHandshake<TcpStream>> {
    let mut acceptor = Acceptor::default();
    let mut left = MAX_BYTES;
    while left > 0 {
        // Hold no buffer while the peer is silent.
        tcp.readable().await?;
        let mut buffer = [0; PIECE];
        let read = match tcp.try_read(&mut buffer[..PIECE.min(left)]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        left -= read;
        let mut piece = &buffer[..read];
        while !piece.is_empty() {
            acceptor.read_tls(&mut piece)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(StartHandshake::from_parts(accepted, tcp)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                // A courtesy: the connection ends in any case.
                let _ = tcp.try_write(&bytes);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
    Err(io::Error::other("the ClientHello is too long"))
}

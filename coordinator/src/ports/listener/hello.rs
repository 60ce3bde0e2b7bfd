//! The first message of a TLS handshake: read before anything is computed or much is kept for the peer.
//!
//! Not here: how long it may take (the folder's head).

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::{StartHandshake, rustls::server::Acceptor};

/// A ClientHello with two key shares is below 2 KiB; more than this nobody may make us keep.
const MAX_BYTES: usize = 8 * 1024;
/// How much is read at once.
const PIECE: usize = 2 * 1024;

/// The rest of the handshake, once the ClientHello is here.
pub(super) async fn read(tcp: TcpStream) -> io::Result<StartHandshake<TcpStream>> {
    let mut acceptor = Acceptor::default();
    let mut left = MAX_BYTES;
    while left > 0 {
        // No buffer is held while the peer is silent.
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

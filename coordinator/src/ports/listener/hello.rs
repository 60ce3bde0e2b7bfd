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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc, time::Duration};

    use isyone_proto::tls::{COORDINATOR_NAME, pinned_config};
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// What becomes of a connection on which a peer says this, and nothing more.
    async fn heard(listener: &TcpListener, said: &[u8]) -> io::Result<()> {
        let mut peer = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let said = async {
            // We may have hung up already.
            let _ = peer.write_all(said).await;
            let _ = peer.shutdown().await;
        };
        let (heard, ()) = tokio::join!(read(ours), said);
        heard.map(drop)
    }

    /// A client's own, and those that are kept (tests/corpus).
    fn inputs() -> Vec<Vec<u8>> {
        let config = pinned_config(&"0".repeat(64)).unwrap();
        let name = COORDINATOR_NAME.try_into().unwrap();
        let mut client =
            tokio_rustls::rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut usual = Vec::new();
        client.write_tls(&mut usual).unwrap();
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/client_hello");
        let kept = fs::read_dir(kept).unwrap();
        let kept = kept.map(|entry| fs::read(entry.unwrap().path()).unwrap());
        std::iter::once(usual).chain(kept).collect()
    }

    #[tokio::test]
    async fn whatever_is_said_for_a_hello_comes_to_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inputs = inputs();
        heard(&listener, &inputs[0]).await.unwrap();
        for input in &inputs[1..] {
            let heard = tokio::time::timeout(Duration::from_secs(2), heard(&listener, input));
            heard.await.expect("an end").unwrap_err();
        }
        for input in &inputs {
            let step = 1 + input.len() / 60;
            for at in (0..input.len()).step_by(step) {
                let mut changed = input.clone();
                changed[at] ^= 0xa5;
                let repeated = [&input[..at], &input[at..].repeat(3)].concat();
                let variants: [&[u8]; 3] = [&input[..at], &changed, &repeated];
                for said in variants {
                    let heard =
                        tokio::time::timeout(Duration::from_secs(2), heard(&listener, said));
                    // Some are hellos still; that it ends is all that is asked.
                    let _ = heard.await.expect("an end");
                }
            }
        }
    }

    #[tokio::test]
    async fn no_more_than_its_bound_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Whole records of a message that does not end.
        let mut endless = b"\x16\x03\x01\x10\x00\x01\x00\xff\xff".to_vec();
        endless.resize(5 + 0x1000, 0);
        let mut more = b"\x16\x03\x01\x10\x00".to_vec();
        more.resize(5 + 0x1000, 0);
        let said = [endless, more.repeat(200)].concat();
        heard(&listener, &said).await.unwrap_err();
    }
}

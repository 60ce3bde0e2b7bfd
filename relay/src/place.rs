//! A relay's place: the unix sockets by which the agent and a successor reach it. Who is there, and the word to who is.
//!
//! A place can be lost: its directory is removed, or another relay has begun there without asking. Not here: how sockets go to a
//! successor that asks (handover), when it is looked who is there, and what is done then (relay).

use std::{os::unix::fs::MetadataExt, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// For a word to another process of this host.
const WAIT: Duration = Duration::from_secs(2);
/// Most bytes of its answer that are waited for.
const MAX_ANSWER: u64 = 64 << 10;
const RING: &[u8] = b"GET /reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A file's device and number. Those of a socket are nobody else's while it is open, whatever has become of its name.
pub(crate) type Place = (u64, u64);

/// Where this relay is reached at the moment.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// Its socket for a successor; `None`: it is not reached yet.
    pub(crate) own: Option<Place>,
    /// Ends those who listen there.
    pub(crate) stop: CancellationToken,
}

/// Who is in a relay's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum There {
    /// The relay itself.
    Own,
    /// Nobody who listens, so it may come back: there is no socket, or one of a process that has ended.
    Nobody,
    /// Another one that listens.
    Other,
    /// That cannot be told.
    Unknown,
}

/// What is at a path.
pub(crate) fn of(path: &Path) -> Option<Place> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Who is there, where `own` was this relay's.
pub(crate) async fn there(path: &Path, own: Place) -> There {
    match of(path) {
        Some(found) if found == own => return There::Own,
        None => return There::Nobody,
        Some(_) => {}
    }
    match timeout(WAIT, UnixStream::connect(path)).await {
        Ok(Ok(_)) => There::Other,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => There::Nobody,
        // It has no room for another knock, or what is there is no socket.
        Ok(Err(_)) | Err(_) => There::Unknown,
    }
}

/// Has the relay there look at its routes at once, and at addresses that it did not get. It does so each second by itself.
pub(crate) async fn ring(admin: &Path) {
    let rung = async {
        let mut stream = UnixStream::connect(admin).await?;
        stream.write_all(RING).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await
    };
    let _ = timeout(WAIT, rung).await;
}

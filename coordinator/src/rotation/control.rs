//! The control socket: how `isy-coordinator pki …` reaches the coordinator that runs. A file in the data directory of mode 0600, for
//! root and the coordinator's own user: who may read the CA's key may replace it, and no operator's certificate is enough.
//!
//! One line of JSON each way. Not here: what an order does (mod.rs), the command line (program).

use std::{
    io::{self, BufRead as _, BufReader as Lines, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_fleet::written;
use isyone_proto::tls::error_chain;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};
use tokio_util::sync::CancellationToken;

use super::{LONGEST_OVERLAP_S, OVERLAP_S, QUIET, RotationError, Rotations};
use crate::{backup, base::pki::PkiError};

/// Its name in the data directory.
pub const SOCKET: &str = "control.sock";
/// Where a copy of the database is put, in the data directory.
pub const COPY: &str = "backup.db";
/// Longest order, bytes.
const MAX_ORDER: u64 = 4 << 10;
/// Longest answer, bytes: some dozens of names.
const MAX_ANSWER: u64 = 1 << 20;
/// For an order to be there, and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a person waits for the answer: a copy of 100,000 tenants takes a while.
const ANSWER_PATIENCE: Duration = Duration::from_secs(300);
/// Pause after `accept` failed: an immediate retry would spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// How far everything is.
    Status,
    /// Replace the CA, the sealing key, or both.
    Rotate {
        ca: bool,
        seal: bool,
        /// For how long both CAs are accepted once the new one signs; `None`: [`OVERLAP_S`].
        overlap_s: Option<i64>,
        /// Although somebody is cut off by it.
        #[serde(default)]
        yes: bool,
    },
    /// Let the new CA sign, whoever has not said that he trusts it.
    Switch {
        force: bool,
        /// Hosts that nobody waits for.
        #[serde(default)]
        without: Vec<String>,
    },
    /// Forget the old CA.
    Retire {
        force: bool,
        /// Hosts that are shut out.
        #[serde(default)]
        without: Vec<String>,
    },
    /// Copy the database as of now to [`COPY`] in the data directory.
    Backup,
}

/// The answer, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub done: bool,
    pub text: String,
}

impl Rotations {
    /// Carries out an order of `actor`.
    pub async fn obey(&self, actor: &str, order: Order) -> Answer {
        let done = match order {
            Order::Status => Ok(()),
            Order::Rotate {
                ca,
                seal,
                overlap_s,
                yes,
            } => {
                self.rotate(actor, (ca, seal), overlap_s.unwrap_or(OVERLAP_S), yes)
                    .await
            }
            Order::Switch { force, without } => self.switch(actor, force, &without).await,
            Order::Retire { force, without } => self.retire(actor, force, &without).await,
            Order::Backup => self.copy_database().await,
        };
        match done {
            Ok(()) => Answer {
                done: true,
                text: self.status(),
            },
            Err(error) => Answer {
                done: false,
                text: error_chain(&error),
            },
        }
    }

    async fn rotate(
        &self,
        actor: &str,
        (ca, seal): (bool, bool),
        overlap_s: i64,
        yes: bool,
    ) -> Result<(), RotationError> {
        // Both or none: what cannot be done is found first.
        if ca && self.pki.rotation().is_some() {
            return Err(PkiError::UnderWay.into());
        }
        if ca && !(60..=LONGEST_OVERLAP_S).contains(&overlap_s) {
            return Err(RotationError::Overlap);
        }
        let cut_off = match ca {
            true => self.may_begin(yes).await?,
            false => Vec::new(),
        };
        if seal {
            self.rotate_seal(actor, QUIET).await?;
        }
        if ca {
            self.rotate_ca(actor, overlap_s, &cut_off).await?;
        }
        Ok(())
    }

    /// Writes what is stored to a file in the data directory, where a service may write; whoever asked takes it from there.
    async fn copy_database(&self) -> Result<(), RotationError> {
        let copy = self.data_dir.join(COPY);
        // Of somebody who did not take it.
        let _ = std::fs::remove_file(&copy);
        // A snapshot is what is committed.
        let writes = written::everything(&self.handle.snapshot().fleet);
        // On a thread of its own: it takes a while, and opening a database is no future that could move between threads.
        let runtime = tokio::runtime::Handle::current();
        let write = move || runtime.block_on(backup::write_database(&writes, &copy));
        let written = tokio::task::spawn_blocking(write).await;
        Ok(written.map_err(|_| RotationError::Panicked)??)
    }

    /// Opens the socket and serves it until `stop`. Without it the coordinator runs all the same; the log says why.
    pub fn serve(self: Arc<Self>, stop: CancellationToken) -> impl Future<Output = ()> + Send {
        sweep(&self.data_dir);
        let path = self.data_dir.join(SOCKET);
        // Now, not when the task first runs: who sees the ports open may give orders.
        let listener = listen(&path);
        async move {
            match listener {
                Ok(listener) => self.accept(listener, stop).await,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "no control socket: `isy-coordinator pki` will not reach this coordinator");
                    stop.cancelled().await;
                }
            }
            let _ = std::fs::remove_file(&path); // a stale one is replaced at the next start
        }
    }

    async fn accept(&self, listener: UnixListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            // One at a time: these are orders of one person.
            match accepted {
                Ok((stream, _)) => {
                    if let Err(error) = self.answer(stream).await {
                        tracing::info!(%error, "an order on the control socket was not answered");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accept on the control socket failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    async fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        let own = rustix::process::geteuid().as_raw();
        if uid != 0 && uid != own {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (reading, mut writing) = stream.split();
        let mut line = String::new();
        let mut reading = BufReader::new(reading.take(MAX_ORDER));
        tokio::time::timeout(PATIENCE, reading.read_line(&mut line)).await??;
        let order: Order = serde_json::from_str(&line).map_err(io::Error::other)?;
        let answer = self.obey(&format!("uid/{uid}"), order).await;
        let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        text.push(b'\n');
        tokio::time::timeout(PATIENCE, writing.write_all(&text)).await?
    }
}

/// Removes copies of the database that nobody has taken, and what a kill has left of them: they have keys in them.
fn sweep(data_dir: &Path) {
    let _ = std::fs::remove_file(data_dir.join(COPY)); // mostly there is none
    for entry in std::fs::read_dir(data_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name
            .as_encoded_bytes()
            .starts_with(backup::UNFINISHED.as_bytes())
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            let path = entry.path();
            tracing::warn!(path = %path.display(), %error, "half a copy of the database stays");
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // Left by a coordinator that was killed: the database's lock says that none runs.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Why the coordinator could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "no coordinator runs on {0}: start it first (the one that runs replaces its keys, so that nobody is lost); is it the right --data-dir?"
    )]
    NotRunning(PathBuf),
    #[error("{0} is for root and the coordinator's user")]
    Denied(PathBuf),
    #[error("the coordinator did not answer on {path}")]
    Io { path: PathBuf, source: io::Error },
}

/// Gives an order to the coordinator that runs on this data directory.
pub fn ask(data_dir: &Path, order: &Order) -> Result<Answer, AskError> {
    let path = data_dir.join(SOCKET);
    let talk = || -> io::Result<Answer> {
        let mut stream = std::os::unix::net::UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut text = serde_json::to_vec(order).map_err(io::Error::other)?;
        text.push(b'\n');
        stream.write_all(&text)?;
        let mut line = String::new();
        Lines::new(stream.take(MAX_ANSWER)).read_line(&mut line)?;
        serde_json::from_str(&line).map_err(io::Error::other)
    };
    talk().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NotRunning(data_dir.to_owned())
        }
        io::ErrorKind::PermissionDenied => AskError::Denied(path),
        _ => AskError::Io { path, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if keys stay in a copy that nobody has taken, or in half of one.
    #[test]
    fn copies_that_nobody_has_taken_go_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let half = dir.path().join(format!("{}abc", backup::UNFINISHED));
        std::fs::create_dir(&half).unwrap();
        for path in [
            dir.path().join(COPY),
            half.join("isyone.db"),
            dir.path().join("isyone.db"),
        ] {
            std::fs::write(path, "keys").unwrap();
        }
        sweep(dir.path());
        let left = std::fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["isyone.db"]);
    }
}

//! What lies in a backup, and a single file of it.
//!
//! A repository was written by a host, and a host may have been taken over: names lead nowhere but down, each blob is compared with its
//! name, and how long a file is is known before anything of it is sent. It is read here and not on a host: here are the files and the
//! key, and it works for tenants that no host has any more.
//! Not here: who may ask (access), how a repository is read (isyone-backup), its damages (proofs).

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use isyone_backup::{self as backup, EntryKind, Found, Job, Reader, Snapshot, Stop, store::Name};
use isyone_fleet::{
    change::Command,
    desired::backups::{SnapshotMade, TenantBackups},
    event::EventKind,
    state::State,
};
use isyone_proto::{
    backup::RepositoryRef,
    convert::parse,
    echo::{echo, harmless},
    error::FieldError,
    ids::{ShortName, TenantName},
    pb::v1,
    tls::error_chain,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{super::exec::ToCaller, Api, by_id, is_id, listed};
use crate::{
    operators::{Answers, page_size},
    repositories::upkeep::{Upkeep, UpkeepError},
    wire::status,
};

/// Backups that are read at once, by all operators: each holds an index, at most 200 MB (isyone-backup's limits).
const AT_ONCE: usize = 2;
/// How long a call waits for its turn before it is refused, and when it may come back.
const TURN: Duration = Duration::from_secs(20);
const COME_BACK: Duration = Duration::from_secs(5);
/// Longest path: Linux' own bound.
const MAX_PATH: usize = 4096;
/// Characters of a path that are recorded: a name has 255 bytes at most.
const MOST_SAID: usize = 400;
/// Largest file that is given out: a description of a few MB can say that a file is larger than all disks.
const MAX_BYTES: u64 = 4 << 40;
/// A piece that is sent; three of them wait at most.
const PIECE: usize = 256 << 10;
const QUEUE: usize = 2;
/// How long a piece may take to be taken, and the least that a call moves in a second once it had its time to begin.
const IDLE: Duration = Duration::from_secs(60);
const LEAST_PER_SECOND: u64 = 32 << 10;

/// Places for those who read.
#[derive(Debug, Clone)]
pub(in crate::operators) struct Readings(Arc<Semaphore>);

impl Default for Readings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Readings {
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = timeout(TURN, self.0.clone().acquire_owned()).await;
        place.ok().and_then(Result::ok).ok_or_else(|| {
            let why = "others read backups: only a few can at once";
            status::overloaded(why.to_owned(), COME_BACK)
        })
    }
}

/// A backup that somebody reads.
struct Chosen {
    tenant: TenantName,
    of: RepositoryRef,
    snapshot: Name,
}

impl Chosen {
    fn new(of: &TenantBackups, destination: &ShortName, snapshot: &SnapshotMade) -> Self {
        Self {
            tenant: of.name.clone(),
            of: RepositoryRef {
                destination: destination.clone(),
                tenant: of.tenant,
            },
            snapshot: Name(snapshot.name.0),
        }
    }

    /// Opens the repository. Blocks.
    fn open(&self, upkeep: &Upkeep, stop: Stop) -> Result<(Reader, Snapshot), UpkeepError> {
        let job = Job {
            stop,
            progress: Arc::default(),
            source: Vec::new(),
            destination: Vec::new(),
            processors: 1,
        };
        let repository = upkeep.open(&self.of)?;
        let snapshot = repository.snapshot(self.snapshot)?;
        Ok((repository.reader(&job)?, snapshot))
    }

    /// What a failure to read means to who asked.
    fn failed(&self, error: &UpkeepError) -> Status {
        let destination = &self.of.destination;
        let at = format!("backup {} at {destination}", self.snapshot.short());
        let UpkeepError::Repository(error) = error else {
            return Status::failed_precondition(format!("{at}: {}", error_chain(error)));
        };
        match error {
            backup::Error::NoEntry { path, .. } => {
                let why = format!("there is no `{}` in {at}", echo(path));
                status::not_found("BACKUP_FILE_NOT_FOUND", why)
            }
            backup::Error::NoSnapshot(_) => {
                let why = format!("{at} was forgotten");
                status::not_found("BACKUP_NOT_FOUND", why)
            }
            backup::Error::Refused { refusal, .. } => {
                FieldError::new("path", refusal.to_string()).into()
            }
            backup::Error::Damaged { .. } | backup::Error::Content { .. } => {
                tracing::warn!(tenant = %self.tenant, %destination, error = error_chain(error), "a backup is damaged");
                Status::data_loss(format!("{at} is damaged: {}", error_chain(error)))
            }
            error => {
                tracing::warn!(tenant = %self.tenant, %destination, error = error_chain(error), "a backup cannot be read");
                Status::failed_precondition(format!("{at}: {}", error_chain(error)))
            }
        }
    }
}

/// Ends the work of a call that nobody waits for any more.
struct Ends(Stop, CancellationToken);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.stop();
        self.1.cancel();
    }
}

impl Api {
    pub(super) async fn backup_files(
        &self,
        asked: v1::ListBackupFilesRequest,
    ) -> Result<v1::ListBackupFilesResponse, Status> {
        let size = page_size(asked.page_size)?;
        let filter = [&*asked.tenant, &*asked.backup, &*asked.path];
        let pages = self.pages("backup_files", &filter);
        // A backup is never changed: how many came before is exact.
        let before: usize = pages.after(&asked.page_token)?.unwrap_or(0);
        fits(&asked.path)?;
        let chosen = chosen(&self.state(), &asked.tenant, &asked.backup)?;
        let place = self.readings.turn().await?;
        let stop = Stop::default();
        let _ends = Ends(stop.clone(), CancellationToken::new());
        let upkeep = self.parts.upkeep.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _place = place;
            let list = || {
                let (reader, snapshot) = chosen.open(&upkeep, stop)?;
                Ok(reader.list(&snapshot, &asked.path)?)
            };
            list().map_err(|e: UpkeepError| chosen.failed(&e))
        });
        let entries = work.await.map_err(|e| died(&e))??;
        let files: Vec<_> = entries.iter().skip(before).take(size).map(wire).collect();
        let end = before + files.len();
        Ok(v1::ListBackupFilesResponse {
            next_page_token: pages.next((end < entries.len()).then(|| end.to_string())),
            files,
        })
    }

    pub(super) async fn backup_file(
        &self,
        actor: String,
        asked: v1::ReadBackupFileRequest,
    ) -> Result<Answers<v1::BackupFileChunk>, Status> {
        fits(&asked.path)?;
        let chosen = chosen(&self.state(), &asked.tenant, &asked.backup)?;
        if asked.path.split('/').all(str::is_empty) {
            return Err(FieldError::new("path", "must be set").into());
        }
        let place = self.readings.turn().await?;
        let ends = Ends(Stop::default(), self.parts.stop.child_token());
        let (upkeep, stop) = (self.parts.upkeep.clone(), ends.0.clone());
        let path = asked.path.clone();
        let work = tokio::task::spawn_blocking(move || {
            let find = || {
                let (reader, snapshot) = chosen.open(&upkeep, stop)?;
                let found = reader.file(&snapshot, &path)?;
                Ok((reader, found))
            };
            match find() {
                Ok((reader, found)) => Ok(Reading {
                    chosen,
                    reader,
                    found,
                    _place: place,
                }),
                Err(error) => Err(chosen.failed(&error)),
            }
        });
        let reading = work.await.map_err(|e| died(&e))??;
        if reading.found.bytes() > MAX_BYTES {
            let bytes = reading.found.bytes();
            let why = format!("it has {bytes} bytes, more than {MAX_BYTES}");
            return Err(Status::out_of_range(why));
        }
        // Who asked is recorded before anything is given out.
        let audit = recorded(&self.state(), &reading.chosen, &asked.path);
        let done = self.parts.handle.submit(actor, audit).await;
        done.map_err(status::submit)?;
        let (to_caller, answers) = mpsc::channel(QUEUE);
        tokio::spawn(send(reading, to_caller, ends, self.parts.stop.clone()));
        Ok(Box::pin(ReceiverStream::new(answers)))
    }
}

/// The backup of this tenant that an id stands for.
fn chosen(state: &State, tenant: &str, id: &str) -> Result<Chosen, Status> {
    let name: TenantName = parse("tenant", tenant)?;
    is_id("backup", id)?;
    let own = listed(state, Some(&name));
    let (of, destination, snapshot) = by_id("backup", id, own.iter())?;
    Ok(Chosen::new(of, destination, snapshot))
}

fn fits(path: &str) -> Result<(), FieldError> {
    match path.len() {
        ..=MAX_PATH => Ok(()),
        length => {
            let problem = format!("{length} bytes are more than {MAX_PATH}");
            Err(FieldError::new("path", problem))
        }
    }
}

/// A path as it leads to its file: without the slashes that lead nowhere; of a long one both ends, because the last one says which file
/// it was.
fn as_it_was_read(path: &str) -> String {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let path: Vec<char> = names.join("/").chars().collect();
    let said = match path.len() {
        ..=MOST_SAID => path.into_iter().collect(),
        length => {
            let (head, tail) = (&path[..MOST_SAID / 4], &path[length - MOST_SAID * 3 / 4..]);
            head.iter().chain(&['…']).chain(tail).collect::<String>()
        }
    };
    harmless(&said)
}

/// Who has read which file: with the tenant that it is of, if that is still there.
fn recorded(state: &State, chosen: &Chosen, path: &str) -> Command {
    let kind = EventKind::BackupFileRead;
    let (id, destination) = (chosen.snapshot.short(), &chosen.of.destination);
    let message = format!("{} of {id} at {destination}", as_it_was_read(path));
    let is_there = state.fleet.tenants.get(&chosen.tenant);
    match is_there.filter(|tenant| tenant.uid == chosen.of.tenant) {
        Some(tenant) => Command::Audit {
            kind,
            tenant: tenant.name.clone(),
            message,
        },
        None => Command::Note {
            kind,
            host: None,
            message: format!(
                "{message}, of the tenant `{}` that was deleted, {}",
                chosen.tenant, chosen.of.tenant
            ),
        },
    }
}

fn wire(entry: &backup::Entry) -> v1::BackupFile {
    let kind = match entry.kind {
        EntryKind::File => v1::BackupFileKind::File,
        EntryKind::Folder => v1::BackupFileKind::Folder,
        EntryKind::Special => v1::BackupFileKind::Other,
    };
    v1::BackupFile {
        name: entry.name.clone(),
        kind: kind.into(),
        bytes: entry.bytes,
    }
}

fn died(error: &tokio::task::JoinError) -> Status {
    tracing::error!(%error, "reading a backup did not end well");
    Status::internal("the backup could not be read; see the coordinator's log")
}

/// A file that was found, and the place of who reads it.
struct Reading {
    chosen: Chosen,
    reader: Reader,
    found: Found,
    _place: OwnedSemaphorePermit,
}

/// Takes the pieces, on a thread that may block.
struct Pieces {
    runtime: Handle,
    to_caller: ToCaller<v1::BackupFileChunk>,
    over: CancellationToken,
    bytes: u64,
}

impl Pieces {
    fn send(&self, data: Bytes) -> io::Result<()> {
        let bytes = self.bytes;
        let piece = self.to_caller.send(Ok(v1::BackupFileChunk { bytes, data }));
        let sent = self.runtime.block_on(async {
            tokio::select! {
                sent = timeout(IDLE, piece) => sent,
                () = self.over.cancelled() => Ok(Ok(())), // the reader ends at its next blob
            }
        });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl io::Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let piece = data.get(..PIECE).unwrap_or(data);
        if !piece.is_empty() {
            self.send(Bytes::copy_from_slice(piece))?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn slow() -> Status {
    Status::deadline_exceeded("the file was not taken")
}

/// Sends a file, piece by piece.
async fn send(
    reading: Reading,
    to_caller: ToCaller<v1::BackupFileChunk>,
    ends: Ends,
    stopping: CancellationToken,
) {
    let bytes = reading.found.bytes();
    let mut pieces = Pieces {
        runtime: Handle::current(),
        to_caller: to_caller.clone(),
        over: ends.1.clone(),
        bytes,
    };
    let work = tokio::task::spawn_blocking(move || {
        let begun = pieces.send(Bytes::new());
        let begun = begun.map_err(|source| backup::Error::Restore {
            path: String::new(),
            source,
        });
        let sent = begun.and_then(|()| reading.reader.write(&reading.found, &mut pieces));
        sent.map(drop).map_err(|error| match error {
            // Nobody takes it: gone, or too slow.
            backup::Error::Restore { .. } => slow(),
            error => reading.chosen.failed(&error.into()),
        })
    });
    let patience = IDLE + Duration::from_secs(bytes / LEAST_PER_SECOND);
    let ended = tokio::select! {
        ended = work => ended.map_err(|e| died(&e)).and_then(|ended| ended),
        () = tokio::time::sleep(patience) => Err(slow()),
        () = stopping.cancelled() => Err(status::stopping()),
        () = to_caller.closed() => return,
    };
    drop(ends);
    if let Err(status) = ended {
        let _ = timeout(IDLE, to_caller.send(Err(status))).await; // it may have gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_recorded_to_its_last_name() {
        let path = format!(
            "{}filestore//ab/{}\x1b/secret",
            "/".repeat(70),
            "x".repeat(100)
        );
        let said = as_it_was_read(&path);
        assert!(said.starts_with("filestore/ab/xxx"), "{said}");
        assert!(said.ends_with("x\\u{1b}/secret"), "{said}");
        let long = format!("{}/secret", "\u{1}".repeat(4000));
        let said = as_it_was_read(&long);
        assert!(
            said.ends_with("/secret") && said.len() < 8 * MOST_SAID,
            "{said}"
        );
    }
}

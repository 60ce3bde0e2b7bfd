//! A repository on the coordinator's machine, through its service `BackupStore`: it can only be added to. What fails for a moment is tried
//! again, a few times; the job as a whole is tried again later.
//!
//! Blocking: it is called on the repository's threads, never on the runtime's. Not here: which repositories this host may reach (the
//! coordinator), copies of what was read (cache).

use std::{fmt, future::Future, io, time::Duration};

use bytes::{Bytes, BytesMut};
use isyone_backup::{
    Stop, Store,
    store::{File, Kind, Name, StoreError},
};
use isyone_proto::{
    backup::RepositoryRef,
    convert::{
        MAX_CHUNK_BYTES, MAX_LIST_PAGE, StoreFile, StoreFileKind, repository_to_wire,
        store_file_to_wire, store_kind_to_wire,
    },
    pb::agent::v1::{
        CreateRepositoryRequest, GetFileRequest, ListFilesRequest, PutFile, PutFileRequest,
        Repository, StatFileRequest, backup_store_client::BackupStoreClient, put_file_request,
    },
    tls::MAX_MESSAGE_BYTES,
};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};

/// How long one call may be without an answer, or one stream without a message. A pack is written durably before the answer comes.
const STALL: Duration = Duration::from_secs(60);
/// Attempts of one call, and the wait before the second; it doubles.
const ATTEMPTS: u32 = 4;
const AGAIN: Duration = Duration::from_millis(500);
/// Longest wait that a server's word is believed for.
const MOST_WAIT: Duration = Duration::from_secs(10);
/// Pages of a list: at 20,000 files each, more than a repository may have.
const MOST_PAGES: usize = 64;

/// One tenant's repository at one destination.
#[derive(Clone)]
pub(super) struct Remote {
    client: BackupStoreClient<Channel>,
    of: RepositoryRef,
    handle: Handle,
    stop: Stop,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({:?})", self.of)
    }
}

/// What one call came to.
type Answer<T> = Result<T, Status>;

impl Remote {
    /// Must be made within the runtime whose threads carry the calls.
    pub(super) fn new(channel: Channel, of: RepositoryRef, stop: Stop) -> Self {
        Self {
            client: BackupStoreClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
            of,
            handle: Handle::current(),
            stop,
        }
    }

    fn of(&self) -> Option<Repository> {
        Some(repository_to_wire(&self.of))
    }

    /// Calls, and again where that may help.
    fn call<T, F>(
        &self,
        file: File,
        make: impl Fn(BackupStoreClient<Channel>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Answer<T>>,
    {
        let mut wait = AGAIN;
        for attempt in 1.. {
            if self.stop.is_stopped() {
                return Err(StoreError::Stopped);
            }
            let status = match self.handle.block_on(make(self.client.clone())) {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let retry = again(&status);
            if attempt == ATTEMPTS || retry.is_none() {
                return Err(meaning(file, &status));
            }
            let told = retry.flatten().unwrap_or_default().min(MOST_WAIT);
            self.handle.block_on(sleep(wait.max(told)));
            wait *= 2;
        }
        Err(StoreError::Stopped) // `attempt` ends it before
    }

    fn get(&self, file: File, offset: u64, length: u64, most: u64) -> Result<Bytes, StoreError> {
        let request = GetFileRequest {
            of: self.of(),
            file: Some(store_file_to_wire(wire(file))),
            offset,
            length,
        };
        let got = self.call(file, |mut client| {
            let request = request.clone();
            async move {
                let opened = in_time(client.get(request)).await??;
                let mut stream = opened.into_inner();
                let mut content = BytesMut::new();
                let mut size = None;
                while let Some(message) = in_time(stream.message()).await?? {
                    let whole = *size.get_or_insert(message.size);
                    let wanted = if length == 0 { whole } else { length };
                    if wanted > most {
                        return Ok(Err(whole));
                    }
                    content.extend_from_slice(&message.data);
                    if content.len() as u64 > wanted {
                        return Err(Status::data_loss("more than was asked for"));
                    }
                }
                let wanted = if length == 0 {
                    size.unwrap_or(0)
                } else {
                    length
                };
                if content.len() as u64 != wanted {
                    return Err(Status::data_loss("less than was asked for"));
                }
                Ok(Ok(content.freeze()))
            }
        })?;
        got.map_err(|bytes| StoreError::TooLarge { file, bytes, most })
    }

    fn stat(&self, file: File) -> Result<u64, StoreError> {
        let request = StatFileRequest {
            of: self.of(),
            file: Some(store_file_to_wire(wire(file))),
        };
        self.call(file, |mut client| {
            let request = request.clone();
            async move { Ok(in_time(client.stat(request)).await??.into_inner().size) }
        })
    }

    /// A page of a list, and whether there are more.
    fn page(&self, kind: Kind, after: &[u8]) -> Result<(Vec<(Name, u64)>, bool), StoreError> {
        let request = ListFilesRequest {
            of: self.of(),
            kind: store_kind_to_wire(wire_kind(kind)),
            after: after.to_vec(),
            page_size: MAX_LIST_PAGE,
        };
        let any = File::new(kind, Name::default());
        let answer = self.call(any, |mut client| {
            let request = request.clone();
            async move { Ok(in_time(client.list(request)).await??.into_inner()) }
        })?;
        let named = |f: isyone_proto::pb::agent::v1::ListedFile| {
            let name = <[u8; 32]>::try_from(&f.name[..]).ok()?;
            Some((Name(name), f.size))
        };
        let files = answer.files.into_iter().filter_map(named).collect();
        Ok((files, answer.more))
    }
}

fn wire_kind(kind: Kind) -> StoreFileKind {
    match kind {
        Kind::Config => StoreFileKind::Config,
        Kind::Key => StoreFileKind::Key,
        Kind::Snapshot => StoreFileKind::Snapshot,
        Kind::Index => StoreFileKind::Index,
        Kind::Pack => StoreFileKind::Pack,
    }
}

fn wire(file: File) -> StoreFile {
    StoreFile {
        kind: wire_kind(file.kind),
        name: file.name.0,
    }
}

async fn in_time<T>(call: impl Future<Output = T>) -> Result<T, Status> {
    let answer = timeout(STALL, call).await;
    answer.map_err(|_| Status::deadline_exceeded("no answer in time"))
}

/// Whether the same call may succeed, and after which time if the server says.
fn again(status: &Status) -> Option<Option<Duration>> {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Unknown
        | Code::Aborted
        | Code::Cancelled
        | Code::DataLoss => Some(None),
        // Without a word on when, the destination is full.
        Code::ResourceExhausted => isyone_proto::error::retry_after(status).map(Some),
        _ => None,
    }
}

/// What a refusal means to a repository.
fn meaning(file: File, status: &Status) -> StoreError {
    let said = |kind: io::ErrorKind| io::Error::new(kind, status.code().description());
    match status.code() {
        Code::NotFound => StoreError::Absent(file),
        Code::AlreadyExists => StoreError::Exists(file),
        // As of a folder: it is not there.
        Code::FailedPrecondition => StoreError::Unreachable(said(io::ErrorKind::NotFound)),
        Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
            StoreError::Denied(said(io::ErrorKind::PermissionDenied))
        }
        Code::ResourceExhausted if again(status).is_none() => {
            StoreError::Full(said(io::ErrorKind::StorageFull))
        }
        Code::InvalidArgument | Code::OutOfRange | Code::DataLoss | Code::Internal => {
            StoreError::Failed(said(io::ErrorKind::InvalidData))
        }
        _ => StoreError::Unreachable(said(io::ErrorKind::ConnectionAborted)),
    }
}

/// The messages of a `Put`.
fn messages(head: PutFile, content: &[Bytes]) -> Vec<PutFileRequest> {
    let of = |message| PutFileRequest {
        message: Some(message),
    };
    let mut messages = vec![of(put_file_request::Message::Put(head))];
    for part in content {
        for from in (0..part.len()).step_by(MAX_CHUNK_BYTES) {
            let to = part.len().min(from + MAX_CHUNK_BYTES);
            messages.push(of(put_file_request::Message::Data(part.slice(from..to))));
        }
    }
    messages
}

impl Store for Remote {
    fn place(&self) -> String {
        format!("{} (the coordinator's)", self.of.destination)
    }

    fn create(&self) -> Result<(), StoreError> {
        let request = CreateRepositoryRequest { of: self.of() };
        self.call(File::config(), |mut client| {
            let request = request.clone();
            async move { in_time(client.create(request)).await?.map(drop) }
        })
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Name, u64)>, StoreError> {
        if kind == Kind::Config {
            return match self.stat(File::config()) {
                Ok(size) => Ok(vec![(File::config().name, size)]),
                Err(StoreError::Absent(_)) => Ok(Vec::new()),
                Err(e) => Err(e),
            };
        }
        let mut files: Vec<(Name, u64)> = Vec::new();
        for _ in 0..MOST_PAGES {
            let after = files.last().map(|(name, _)| name.0.to_vec());
            let (page, more) = self.page(kind, &after.unwrap_or_default())?;
            let goes_on = more && !page.is_empty();
            files.extend(page);
            if !goes_on {
                return Ok(files);
            }
        }
        Err(StoreError::TooMany {
            folder: kind.folder(),
            most: files.len(),
        })
    }

    fn read(&self, file: File, most: u64) -> Result<Bytes, StoreError> {
        self.get(file, 0, 0, most)
    }

    fn read_part(&self, file: File, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        match length {
            0 => Ok(Bytes::new()),
            length => self.get(file, offset, length.into(), length.into()),
        }
    }

    fn write(&self, file: File, content: &[Bytes]) -> Result<(), StoreError> {
        let head = PutFile {
            of: self.of(),
            file: Some(store_file_to_wire(wire(file))),
            size: content.iter().map(|part| part.len() as u64).sum(),
        };
        self.call(file, |mut client| {
            let messages = messages(head.clone(), content);
            async move {
                let sent = client.put(tokio_stream::iter(messages));
                // The whole file goes before the answer comes: as long as it takes at a slow line.
                let answer = timeout(STALL * 10, sent).await;
                answer
                    .map_err(|_| Status::deadline_exceeded("no answer in time"))?
                    .map(drop)
            }
        })
    }

    fn remove(&self, _: File) -> Result<(), StoreError> {
        Err(StoreError::Denied(io::ErrorKind::PermissionDenied.into()))
    }
}

#[cfg(test)]
mod tests;

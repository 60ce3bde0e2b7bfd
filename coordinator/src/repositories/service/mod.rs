//! `BackupStore`: hosts add files to the repositories of tenants that are placed there, and read them. There is no call that changes or
//! removes one.
//!
//! Everything of a call is hostile: names are checked where they are parsed (isyone-proto's convert), sizes are bounded, contents are
//! compared with their names before they appear, a file comes and goes in pieces, and a call that does not get on is cut.
//! Not here: what each host may take (shares), what is in a repository (isyone-backup).

mod put;

use std::{pin::Pin, sync::Arc, time::Duration};

use isyone_backup::{
    Store as _,
    store::{File, Kind, Local, Name, StoreError},
};
use isyone_fleet::views;
use isyone_proto::{
    backup::RepositoryRef,
    convert::{MAX_LIST_PAGE, StoreFile, StoreFileKind, repository, store_file, store_kind},
    error::FieldError,
    ids::HostName,
    pb::agent::v1::{
        CreateRepositoryRequest, CreateRepositoryResponse, GetFileRequest, GetFileResponse,
        ListFilesRequest, ListFilesResponse, ListedFile, PutFileRequest, PutFileResponse,
        Repository, StatFileRequest, StatFileResponse, backup_store_server::BackupStore,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    buckets::Buckets,
    places::Places,
    shares::{Shares, Turn},
};
use crate::{
    wire::{caller::Caller, status},
    writer::Handle,
};

/// A piece of a file that is sent. Smaller than a message may be: each call that is read slowly holds two.
const PIECE: u32 = 256 << 10;
/// How long the next message of a call may take, and a piece to be taken.
const IDLE: Duration = Duration::from_secs(60);
/// The least that a call moves in a second, once it had its time to begin: who is slower holds a place that others need.
const LEAST_PER_SECOND: u64 = 32 << 10;

/// What the service needs.
#[derive(Debug)]
pub struct Shared {
    pub handle: Handle,
    pub places: Arc<Places>,
    pub buckets: Arc<Buckets>,
    pub shares: Shares,
    pub stop: CancellationToken,
}

/// The service.
#[derive(Debug, Clone)]
pub struct Repositories(pub Arc<Shared>);

fn refused() -> Status {
    // Whatever the reason: who has no place there learns nothing of what there is.
    Status::permission_denied("not a repository of this host")
}

fn host<T>(request: &Request<T>) -> Result<HostName, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Agent(host)) => Ok(host.clone()),
        Some(Caller::Operator(..) | Caller::Stranger) | None => {
            Err(Status::permission_denied("for agents"))
        }
    }
}

/// A repository that the caller may reach, and its turn.
struct Call {
    shared: Arc<Shared>,
    host: HostName,
    of: RepositoryRef,
    local: Local,
    turn: Turn,
    /// It adds something.
    writes: bool,
}

impl Call {
    fn may(&self) -> Result<(), Status> {
        let shared = &self.shared;
        let (state, settings) = (shared.handle.snapshot(), shared.handle.settings());
        let (host, of) = (&self.host, &self.of);
        let may = match self.writes {
            true => views::may_reach_repository(&state, settings, host, of.tenant, &of.destination),
            false => views::may_read_repository(&state, settings, host, of.tenant, &of.destination),
        };
        if may { Ok(()) } else { Err(refused()) }
    }

    /// Refuses to begin anew what a bucket has.
    async fn is_not_coming_back(&self) -> Result<(), Status> {
        let (shared, of) = (self.shared.clone(), self.of.clone());
        let look = move || {
            let state = shared.handle.snapshot();
            let bucket = shared.buckets.bring_back(&state, &shared.places, &of);
            bucket.cloned()
        };
        match self.turn.at_the_disk(look).await? {
            None => Ok(()),
            Some(bucket) => Err(Status::unavailable(format!(
                "the repository was lost and is brought back from the bucket `{bucket}`"
            ))),
        }
    }

    /// Works on the repository, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Local) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let local = self.local.clone();
        let done = self.turn.at_the_disk(move || work(&local)).await?;
        done.map_err(|error| meaning(&self.of, &error))
    }
}

impl Repositories {
    async fn reading(&self, host: HostName, of: Option<Repository>) -> Result<Call, Status> {
        self.begin(host, repository(of)?, false).await
    }

    async fn begin(&self, host: HostName, of: RepositoryRef, writes: bool) -> Result<Call, Status> {
        let shared = self.0.clone();
        let local = shared.places.local(&of).ok_or_else(refused)?;
        let turn = shared.shares.turn(&host).await?;
        let call = Call {
            shared,
            host,
            of,
            local,
            turn,
            writes,
        };
        call.may()?;
        Ok(call)
    }
}

/// The file as a repository knows it.
fn known(file: StoreFile) -> File {
    match file.kind {
        StoreFileKind::Config => File::config(),
        kind => File::new(kind_of(kind), Name(file.name)),
    }
}

const fn kind_of(kind: StoreFileKind) -> Kind {
    match kind {
        StoreFileKind::Config => Kind::Config,
        StoreFileKind::Key => Kind::Key,
        StoreFileKind::Snapshot => Kind::Snapshot,
        StoreFileKind::Index => Kind::Index,
        StoreFileKind::Pack => Kind::Pack,
    }
}

/// What a failure of the disk means to a host. What lies on our side of it is for our log.
fn meaning(of: &RepositoryRef, error: &StoreError) -> Status {
    let destination = &of.destination;
    match error {
        StoreError::Absent(_) => Status::not_found("there is no such file"),
        StoreError::Exists(_) => Status::already_exists("there is another"),
        StoreError::Altered(_) => FieldError::new("data", "is not what its name says").into(),
        StoreError::Full(_) => full(of),
        StoreError::TooLarge { .. } | StoreError::TooMany { .. } | StoreError::Swollen(_) => {
            Status::out_of_range(error.to_string())
        }
        StoreError::Unreachable(_) => Status::failed_precondition(format!(
            "there is no repository at `{destination}`, or its directory is not there"
        )),
        StoreError::Denied(_) | StoreError::Failed(_) | StoreError::Stopped => {
            tracing::error!(tenant = %of.tenant, %destination, error = isyone_proto::tls::error_chain(error), "a repository cannot be used");
            Status::internal("the repository cannot be used; see the coordinator's log")
        }
    }
}

/// Without RetryInfo: coming back in a moment does not help.
fn full(of: &RepositoryRef) -> Status {
    Status::resource_exhausted(format!("the destination `{}` is full", of.destination))
}

/// How long so many bytes may take.
fn patience(bytes: u64) -> Duration {
    IDLE + Duration::from_secs(bytes / LEAST_PER_SECOND)
}

fn slow() -> Status {
    Status::deadline_exceeded("the call did not get on")
}

type Sent = Pin<Box<dyn Stream<Item = Result<GetFileResponse, Status>> + Send>>;

#[tonic::async_trait]
impl BackupStore for Repositories {
    async fn create(
        &self,
        request: Request<CreateRepositoryRequest>,
    ) -> Result<Response<CreateRepositoryResponse>, Status> {
        let host = host(&request)?;
        let of = repository(request.into_inner().of)?;
        let call = self.begin(host, of, true).await?;
        call.is_not_coming_back().await?;
        call.with(|local| local.create()).await?;
        Ok(Response::new(CreateRepositoryResponse {}))
    }

    async fn list(
        &self,
        request: Request<ListFilesRequest>,
    ) -> Result<Response<ListFilesResponse>, Status> {
        let host = host(&request)?;
        let asked = request.into_inner();
        let kind = kind_of(store_kind(asked.kind)?);
        let after = match &asked.after[..] {
            [] => None,
            name => Some(Name(name.try_into().map_err(|_| {
                FieldError::new("after", "must have 32 bytes, or none")
            })?)),
        };
        let most = match asked.page_size {
            0 => MAX_LIST_PAGE,
            most => most.min(MAX_LIST_PAGE),
        };
        let call = self.reading(host, asked.of).await?;
        let page = move |local: &Local| match kind {
            // There is one, without a name.
            Kind::Config if after.is_some() => Ok((Vec::new(), false)),
            Kind::Config => local.list(kind).map(|files| (files, false)),
            kind => local.page(kind, after, most as usize),
        };
        let (files, more) = call.with(page).await?;
        let listed = |(name, size): (Name, u64)| ListedFile {
            name: match kind {
                Kind::Config => Vec::new(),
                _ => name.0.to_vec(),
            },
            size,
        };
        let files = files.into_iter().map(listed).collect();
        Ok(Response::new(ListFilesResponse { files, more }))
    }

    async fn stat(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        let host = host(&request)?;
        let asked = request.into_inner();
        let file = known(store_file(asked.file)?);
        let call = self.reading(host, asked.of).await?;
        let size = call.with(move |local| local.size(file)).await?;
        Ok(Response::new(StatFileResponse { size }))
    }

    type GetStream = Sent;

    async fn get(
        &self,
        request: Request<GetFileRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let host = host(&request)?;
        let asked = request.into_inner();
        let wanted = store_file(asked.file)?;
        let (file, most) = (known(wanted), wanted.most_bytes());
        let call = self.reading(host, asked.of).await?;
        let size = call.with(move |local| local.size(file)).await?;
        // What is larger was not written through us.
        if size > most {
            return Err(Status::out_of_range(format!(
                "it has {size} bytes, more than {most}"
            )));
        }
        let left = size.checked_sub(asked.offset);
        let length = match (left, asked.length) {
            (Some(left), 0) => left,
            (Some(left), length) if length <= left => length,
            _ => return Err(Status::out_of_range(format!("it has {size} bytes"))),
        };
        let part = Part {
            file,
            size,
            offset: asked.offset,
            length,
        };
        let (to_caller, answers) = mpsc::channel(1);
        tokio::spawn(send(call, part, to_caller));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn put(
        &self,
        request: Request<Streaming<PutFileRequest>>,
    ) -> Result<Response<PutFileResponse>, Status> {
        let host = host(&request)?;
        let mut pieces = request.into_inner();
        let put = self.put_file(host, &mut pieces).await;
        if put.is_err() {
            // An answer before the end of a request resets its stream, and a connection that has seen many of those is closed
            // with all of its calls: see operators/access.
            let _ = timeout(put::DRAIN_TIME, put::drain(&mut pieces)).await;
        }
        let existed = put?;
        Ok(Response::new(PutFileResponse { existed }))
    }
}

/// What of a file is sent.
#[derive(Clone, Copy)]
struct Part {
    file: File,
    /// The whole file's.
    size: u64,
    offset: u64,
    length: u64,
}

type ToCaller = mpsc::Sender<Result<GetFileResponse, Status>>;

/// Sends a part of a file, piece by piece.
async fn send(call: Call, part: Part, to_caller: ToCaller) {
    let stop = call.shared.stop.clone();
    let sent = timeout(patience(part.length), pieces(&call, part, &to_caller));
    let ended = tokio::select! {
        sent = sent => sent.unwrap_or_else(|_| Err(slow())),
        () = stop.cancelled() => Err(status::stopping()),
        () = to_caller.closed() => return,
    };
    drop(call);
    if let Err(status) = ended {
        let _ = timeout(IDLE, to_caller.send(Err(status))).await; // it may have gone
    }
}

async fn pieces(call: &Call, part: Part, to_caller: &ToCaller) -> Result<(), Status> {
    let (mut at, end) = (part.offset, part.offset + part.length);
    let mut size = part.size;
    loop {
        let length = u32::try_from(end - at).unwrap_or(u32::MAX).min(PIECE);
        let file = part.file;
        let data = match length {
            0 => bytes::Bytes::new(),
            length => {
                call.with(move |local| local.read_part(file, at, length))
                    .await?
            }
        };
        call.turn.pace(data.len()).await;
        let piece = GetFileResponse { size, data };
        let sent = timeout(IDLE, to_caller.send(Ok(piece))).await;
        if sent.map_err(|_| slow())?.is_err() {
            return Ok(()); // nobody reads any more
        }
        at += u64::from(length);
        size = 0;
        if at >= end {
            return Ok(());
        }
    }
}

//! A repository over the service, served from a folder by a server that fails as told.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use isyone_backup::{Job, Key, Label, Part, Purpose, Repository, store::Local};
use isyone_proto::pb::agent::v1::{
    CreateRepositoryResponse, GetFileResponse, ListFilesResponse, ListedFile, PutFileResponse,
    StatFileResponse,
    backup_store_server::{BackupStore, BackupStoreServer},
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Streaming, async_trait, transport::Endpoint};
use uuid::Uuid;

use super::*;

/// What the server does.
struct Server {
    local: Local,
    root: PathBuf,
    /// So many calls are refused for a moment.
    refuses: AtomicU32,
    /// Every `Put` is.
    full: Mutex<bool>,
    calls: AtomicU32,
    page: usize,
}

impl Server {
    fn begin(&self) -> Result<(), Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let less = |left: u32| left.checked_sub(1);
        match self
            .refuses
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        {
            Ok(_) => Err(Status::unavailable("not now")),
            Err(_) => Ok(()),
        }
    }
}

fn file(wire: Option<isyone_proto::pb::agent::v1::RepositoryFile>) -> File {
    let file = isyone_proto::convert::store_file(wire).unwrap();
    let kind = match file.kind {
        StoreFileKind::Config => Kind::Config,
        StoreFileKind::Key => Kind::Key,
        StoreFileKind::Snapshot => Kind::Snapshot,
        StoreFileKind::Index => Kind::Index,
        StoreFileKind::Pack => Kind::Pack,
    };
    File::new(kind, Name(file.name))
}

fn refused(error: &StoreError) -> Status {
    match error {
        StoreError::Absent(_) => Status::not_found("x"),
        StoreError::Exists(_) => Status::already_exists("x"),
        StoreError::Unreachable(_) => Status::failed_precondition("x"),
        _ => Status::internal("x"),
    }
}

#[derive(Clone)]
struct Served(Arc<Server>);

#[async_trait]
impl BackupStore for Served {
    async fn create(
        &self,
        _: Request<CreateRepositoryRequest>,
    ) -> Answer<Response<CreateRepositoryResponse>> {
        self.0.begin()?;
        self.0.local.create().map_err(|e| refused(&e))?;
        Ok(Response::new(CreateRepositoryResponse {}))
    }

    async fn list(
        &self,
        request: Request<ListFilesRequest>,
    ) -> Answer<Response<ListFilesResponse>> {
        self.0.begin()?;
        let asked = request.into_inner();
        let kind = [Kind::Key, Kind::Snapshot, Kind::Index, Kind::Pack];
        let kind = kind
            .into_iter()
            .find(|k| store_kind_to_wire(wire_kind(*k)) == asked.kind);
        let mut all = self.0.local.list(kind.unwrap()).map_err(|e| refused(&e))?;
        all.sort();
        all.retain(|(name, _)| name.0[..] > asked.after[..]);
        let more = all.len() > self.0.page;
        let files = all
            .into_iter()
            .take(self.0.page)
            .map(|(name, size)| ListedFile {
                name: name.0.to_vec(),
                size,
            });
        Ok(Response::new(ListFilesResponse {
            files: files.collect(),
            more,
        }))
    }

    async fn stat(&self, request: Request<StatFileRequest>) -> Answer<Response<StatFileResponse>> {
        self.0.begin()?;
        let content = self.0.local.read(file(request.into_inner().file), u64::MAX);
        let size = content.map_err(|e| refused(&e))?.len() as u64;
        Ok(Response::new(StatFileResponse { size }))
    }

    type GetStream = tokio_stream::Iter<std::vec::IntoIter<Result<GetFileResponse, Status>>>;

    async fn get(&self, request: Request<GetFileRequest>) -> Answer<Response<Self::GetStream>> {
        self.0.begin()?;
        let asked = request.into_inner();
        let content = self
            .0
            .local
            .read(file(asked.file), u64::MAX)
            .map_err(|e| refused(&e))?;
        let size = content.len() as u64;
        let from = usize::try_from(asked.offset).unwrap();
        let to = match asked.length {
            0 => content.len(),
            length => from + usize::try_from(length).unwrap(),
        };
        if to > content.len() {
            return Err(Status::out_of_range("it ends before"));
        }
        let message = |(n, part): (usize, &[u8])| {
            Ok(GetFileResponse {
                size: if n == 0 { size } else { 0 },
                data: Bytes::copy_from_slice(part),
            })
        };
        let parts = content.slice(from..to);
        let messages: Vec<_> = parts.chunks(100_000).enumerate().map(message).collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }

    async fn put(
        &self,
        request: Request<Streaming<PutFileRequest>>,
    ) -> Answer<Response<PutFileResponse>> {
        self.0.begin()?;
        if *self.0.full.lock().unwrap() {
            return Err(Status::resource_exhausted("no room"));
        }
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|m| m.message);
        let Some(put_file_request::Message::Put(head)) = first else {
            return Err(Status::invalid_argument("no head"));
        };
        let mut content = Vec::new();
        while let Some(message) = messages.message().await? {
            let Some(put_file_request::Message::Data(data)) = message.message else {
                return Err(Status::invalid_argument("no data"));
            };
            assert!(data.len() <= MAX_CHUNK_BYTES);
            content.extend_from_slice(&data);
        }
        assert_eq!(content.len() as u64, head.size);
        let file = file(head.file);
        if file.kind != Kind::Config && file.name.0 != <[u8; 32]>::from(Sha256::digest(&content)) {
            return Err(Status::invalid_argument("another content"));
        }
        let existed = self.0.local.read(file, u64::MAX).is_ok();
        self.0
            .local
            .write(file, &[content.into()])
            .map_err(|e| refused(&e))?;
        Ok(Response::new(PutFileResponse { existed }))
    }
}

struct Site {
    dir: tempfile::TempDir,
    server: Arc<Server>,
    remote: Remote,
    stop: Stop,
}

async fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("repository");
    let server = Arc::new(Server {
        local: Local::new(root.clone()),
        root,
        refuses: AtomicU32::new(0),
        full: Mutex::new(false),
        calls: AtomicU32::new(0),
        page: 3,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service =
        BackupStoreServer::new(Served(server.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let serving = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let of = RepositoryRef {
        destination: "own".parse().unwrap(),
        tenant: Uuid::from_u128(7),
    };
    let stop = Stop::default();
    let remote = Remote::new(channel, of, stop.clone());
    Site {
        dir,
        server,
        remote,
        stop,
    }
}

impl Site {
    /// Does something with the store, on a thread where one may wait.
    async fn with<T: Send + 'static>(&self, work: impl FnOnce(Remote) -> T + Send + 'static) -> T {
        let remote = self.remote.clone();
        tokio::task::spawn_blocking(move || work(remote))
            .await
            .unwrap()
    }
}

fn named(content: &'static [u8]) -> (File, [Bytes; 1]) {
    let name = Name(Sha256::digest(content).into());
    (File::new(Kind::Pack, name), [Bytes::from_static(content)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_made_written_and_read_over_the_service() {
    let site = site().await;
    let read = site.with(|remote| {
        let (key, job) = (Key::new([5; 64]), Job::default());
        let store: Arc<dyn Store> = Arc::new(remote);
        let repository = Repository::create(store.clone(), &key, &job).unwrap();
        let label = Label {
            purpose: Purpose::Base,
            time: jiff::Timestamp::from_second(1_793_498_400).unwrap(),
            host: "h1".to_owned(),
            tags: Vec::new(),
        };
        let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        let parts = vec![Part::bytes("manifest.json", content.clone())];
        let written = repository.write(&label, parts, None, &job).unwrap();
        let repository = Repository::open(store, &key).unwrap();
        let snapshot = repository.snapshot(written.snapshot).unwrap();
        let mut read = Vec::new();
        repository
            .reader(&job)
            .unwrap()
            .copy(&snapshot, "manifest.json", &mut read)
            .unwrap();
        read == content
    });
    assert!(read.await);
    assert!(site.server.root.join("config").exists() && site.dir.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_what_is_not_there_is_not() {
    let site = site().await;
    let found = site.with(|remote| {
        assert!(matches!(remote.list(Kind::Pack), Err(StoreError::Unreachable(e)) if e.kind() == io::ErrorKind::NotFound));
        remote.create().unwrap();
        for content in [&b"a"[..], b"b", b"c", b"d", b"e", b"f", b"g"] {
            let (file, content) = named(content);
            remote.write(file, &content).unwrap();
            remote.write(file, &content).unwrap();
        }
        let (absent, _) = named(b"z");
        assert!(matches!(remote.read(absent, 9), Err(StoreError::Absent(_))));
        assert!(matches!(remote.remove(absent), Err(StoreError::Denied(_))));
        let (there, _) = named(b"a");
        assert!(matches!(remote.read(there, 0), Err(StoreError::TooLarge { bytes: 1, .. })));
        assert!(remote.read_part(there, 0, 2).is_err());
        assert!(remote.list(Kind::Config).unwrap().is_empty());
        let (wrong, _) = named(b"x");
        assert!(remote.write(wrong, &[Bytes::from_static(b"y")]).is_err());
        remote.list(Kind::Pack).unwrap().len()
    });
    assert_eq!(found.await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_a_moment_is_tried_again_a_few_times() {
    let site = site().await;
    site.server.refuses.store(2, Ordering::SeqCst);
    site.with(|remote| remote.create().unwrap()).await;
    assert_eq!(site.server.calls.load(Ordering::SeqCst), 3);
    site.server.refuses.store(u32::MAX, Ordering::SeqCst);
    site.server.calls.store(0, Ordering::SeqCst);
    let failed = site.with(|remote| remote.create()).await;
    assert!(
        matches!(failed, Err(StoreError::Unreachable(_))),
        "{failed:?}"
    );
    assert_eq!(site.server.calls.load(Ordering::SeqCst), ATTEMPTS);
    site.stop.stop();
    let stopped = site.with(|remote| remote.create()).await;
    assert!(matches!(stopped, Err(StoreError::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_destination_is_not_asked_again() {
    let site = site().await;
    site.with(|remote| remote.create().unwrap()).await;
    *site.server.full.lock().unwrap() = true;
    site.server.calls.store(0, Ordering::SeqCst);
    let failed = site.with(|remote| {
        let (file, content) = named(b"a");
        remote.write(file, &content)
    });
    assert!(matches!(failed.await, Err(StoreError::Full(_))));
    assert_eq!(site.server.calls.load(Ordering::SeqCst), 1);
}

//! Tenants' repositories, as hosts and operators reach them: keys and orders in plans, files added and read, and what a hostile host gets.
//!
//! Not here: making a backup (the agent), whose turn it is and what is stored (isyone-fleet).

mod files;
mod operators;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use isyone_backup as backup;
use isyone_proto::{
    backup::RepositoryKey,
    pb::{
        agent::v1::{
            BackupMade, BackupWork, CreateRepositoryRequest, FileKind, GetFileRequest, Hello,
            JobState, JobStatus, ListFilesRequest, PutFile, PutFileRequest, Repository,
            RepositoryFile, StatFileRequest, backup_store_client::BackupStoreClient,
            put_file_request,
        },
        v1::{self, backup_service_client::BackupServiceClient},
    },
    plan::{HostPlan, JobWork},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::support::{Agent, Fixture, soon, start_with};

type Store = BackupStoreClient<Channel>;

/// `alfa` on h1, whose agent makes backups, and h2, which has nothing.
struct World {
    fixture: Fixture,
    agent: Agent,
    h1: Store,
    h2: Store,
    uid: String,
}

/// `alfa` on h1, whose plan says where its backups go.
pub(crate) async fn protected(fixture: &Fixture) -> (Channel, Agent, HostPlan) {
    let h1 = fixture.join("h1").await;
    let hello = Hello {
        makes_backups: true,
        ..Hello::default()
    };
    let mut agent = Agent::connect_as(&h1, hello).await;
    agent.report(vec![]).await;
    fixture.create("alfa").await;
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    let plan = agent
        .plan_that(|plan| plan.tenants[0].backup.is_some())
        .await;
    (h1, agent, plan)
}

async fn world(reserve: u64) -> World {
    let fixture = start_with(|config| {
        config.backup.enabled = true;
        for destination in config.backup.destinations.values_mut() {
            destination.reserve = isyone_coordinator::base::config::Bytes::new(reserve);
        }
    })
    .await;
    let (h1, agent, plan) = protected(&fixture).await;
    let h2 = fixture.join("h2").await;
    World {
        agent,
        h1: Store::new(h1),
        h2: Store::new(h2),
        uid: plan.tenants[0].uid.to_string(),
        fixture,
    }
}

fn of(uid: &str) -> Option<Repository> {
    at("coordinator", uid)
}

fn at(destination: &str, uid: &str) -> Option<Repository> {
    Some(Repository {
        destination: destination.to_owned(),
        tenant_uid: uid.to_owned(),
    })
}

fn pack(content: &[u8]) -> RepositoryFile {
    RepositoryFile {
        kind: FileKind::Pack.into(),
        name: Sha256::digest(content).to_vec(),
    }
}

fn config() -> RepositoryFile {
    RepositoryFile {
        kind: FileKind::Config.into(),
        name: Vec::new(),
    }
}

fn head(of: Option<Repository>, file: RepositoryFile, size: usize) -> put_file_request::Message {
    put_file_request::Message::Put(PutFile {
        of,
        file: Some(file),
        size: size as u64,
    })
}

fn piece(data: &[u8]) -> put_file_request::Message {
    put_file_request::Message::Data(Bytes::copy_from_slice(data))
}

/// Sends these messages, and ends.
async fn send(store: &Store, messages: Vec<put_file_request::Message>) -> Result<bool, Status> {
    let wrapped = messages.into_iter().map(|message| PutFileRequest {
        message: Some(message),
    });
    let mut store = store.clone();
    let answer = store.put(tokio_stream::iter(wrapped.collect::<Vec<_>>()));
    Ok(soon(answer).await?.into_inner().existed)
}

async fn put(
    store: &Store,
    uid: &str,
    file: RepositoryFile,
    content: &[u8],
) -> Result<bool, Status> {
    let pieces = content.chunks(1 << 20).map(piece);
    let messages = std::iter::once(head(of(uid), file, content.len())).chain(pieces);
    send(store, messages.collect()).await
}

async fn create(store: &Store, of: Option<Repository>) -> Result<(), Status> {
    let mut store = store.clone();
    soon(store.create(CreateRepositoryRequest { of }))
        .await
        .map(drop)
}

async fn get(
    store: &Store,
    uid: &str,
    file: RepositoryFile,
    part: (u64, u64),
) -> Result<Vec<u8>, Status> {
    let request = GetFileRequest {
        of: of(uid),
        file: Some(file),
        offset: part.0,
        length: part.1,
    };
    let mut store = store.clone();
    let mut pieces = soon(store.get(request)).await?.into_inner();
    let mut content = Vec::new();
    while let Some(piece) = soon(pieces.message()).await? {
        content.extend(piece.data);
    }
    Ok(content)
}

impl World {
    /// Where alfa's repository lies.
    fn folder(&self) -> PathBuf {
        let data = self.fixture.dir.path().join("data");
        data.join("backups").join(&self.uid)
    }

    /// All files of it.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: PathBuf, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => walk(path, found),
                    false => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        walk(self.folder(), &mut found);
        found
    }

    fn operators(&self) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.fixture.admin.clone())
    }

    /// A job that makes a backup, once the plan has one.
    async fn ordered(&mut self) -> (uuid::Uuid, isyone_proto::backup::MakeBackup) {
        let plan = self.agent.plan_that(|plan| !plan.jobs.is_empty()).await;
        let order = &plan.jobs[0];
        match &order.work {
            JobWork::Backup(make) => (order.id, make.clone()),
            other => panic!("{other:?}"),
        }
    }
}

fn key(plan: &HostPlan) -> RepositoryKey {
    plan.tenants[0].backup.as_ref().unwrap().key.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_adds_is_there_and_can_be_read_and_nothing_else_is_left() {
    let world = world(0).await;
    let (h1, uid) = (&world.h1, &world.uid);
    // Before it is made there is none: that is never "no files".
    let missing = put(h1, uid, pack(b"one"), b"one").await.unwrap_err();
    assert_eq!(missing.code(), Code::FailedPrecondition, "{missing}");
    create(h1, of(uid)).await.unwrap();
    create(h1, of(uid)).await.unwrap();
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n * 7 % 251) as u8).collect();
    assert!(!put(h1, uid, pack(&large), &large).await.unwrap());
    assert!(
        put(h1, uid, pack(&large), &large).await.unwrap(),
        "it is there"
    );
    assert_eq!(get(h1, uid, pack(&large), (0, 0)).await.unwrap(), large);
    let part = get(h1, uid, pack(&large), (999_999, 1_000_000))
        .await
        .unwrap();
    assert_eq!(part, large[999_999..1_999_999]);
    assert!(!put(h1, uid, config(), b"first").await.unwrap());
    assert!(put(h1, uid, config(), b"first").await.unwrap());
    for another in [&b"other"[..], b"longer than it"] {
        let refused = put(h1, uid, config(), another).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
    }
    let request = StatFileRequest {
        of: of(uid),
        file: Some(pack(&large)),
    };
    let size = h1.clone().stat(request).await.unwrap().into_inner().size;
    assert_eq!(size, large.len() as u64);
    assert_eq!(world.files().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_have_everything_once() {
    let world = world(0).await;
    let (h1, uid) = (&world.h1, &world.uid);
    create(h1, of(uid)).await.unwrap();
    for number in 0..25_u32 {
        let content = number.to_le_bytes();
        put(h1, uid, pack(&content), &content).await.unwrap();
    }
    let (mut names, mut after) = (Vec::new(), Vec::new());
    loop {
        let request = ListFilesRequest {
            of: of(uid),
            kind: FileKind::Pack.into(),
            after,
            page_size: 4,
        };
        let page = h1.clone().list(request).await.unwrap().into_inner();
        names.extend(page.files.iter().map(|file| file.name.clone()));
        assert!(page.files.iter().all(|file| file.size == 4));
        after = names.last().unwrap().clone();
        if !page.more {
            break;
        }
    }
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((names.len(), &names), (25, &sorted));
}

/// Fails if who has no place there learns anything, or if anybody but a host may.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_reaches_a_tenants_repository() {
    let world = world(0).await;
    let (h1, uid) = (&world.h1, &world.uid);
    create(h1, of(uid)).await.unwrap();
    put(h1, uid, pack(b"one"), b"one").await.unwrap();
    let admin = Store::new(world.fixture.admin.clone());
    for store in [&world.h2, &admin] {
        let denied = [
            create(store, of(uid)).await.unwrap_err(),
            put(store, uid, pack(b"two"), b"two").await.unwrap_err(),
            get(store, uid, pack(b"one"), (0, 0)).await.unwrap_err(),
            get(store, uid, pack(b"none"), (0, 0)).await.unwrap_err(),
        ];
        for denied in denied {
            assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
        }
    }
    let elsewhere = "00000000-0000-7000-8000-000000000001";
    for of in [at("coordinator", elsewhere), at("nowhere", uid)] {
        let denied = create(h1, of).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    }
    for odd in [at("../x", uid), at("coordinator", "../../etc"), None] {
        let refused = create(h1, odd).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    assert_eq!(world.files().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one story, in the order in which it happens"
)]
async fn what_is_not_as_it_was_announced_is_refused_and_leaves_nothing() {
    let world = world(0).await;
    let (h1, uid) = (&world.h1, &world.uid);
    create(h1, of(uid)).await.unwrap();
    let too_large = (64 << 20) + 1;
    let cases = [
        // Content that is not what its name says, more and less than was said, no head, a second head, a piece too large.
        vec![head(of(uid), pack(b"one"), 3), piece(b"two")],
        vec![head(of(uid), pack(b"one"), 2), piece(b"one")],
        vec![head(of(uid), pack(b"one"), 4), piece(b"one")],
        vec![piece(b"one")],
        vec![
            head(of(uid), pack(b"one"), 3),
            head(of(uid), pack(b"one"), 3),
        ],
        vec![
            head(of(uid), pack(b"one"), 3 << 20),
            piece(&vec![1; (1 << 20) + 1]),
        ],
        vec![head(of(uid), pack(b"one"), too_large)],
        vec![head(
            of(uid),
            RepositoryFile {
                kind: 77,
                name: vec![0; 32],
            },
            3,
        )],
        vec![head(
            of(uid),
            RepositoryFile {
                kind: FileKind::Pack.into(),
                name: vec![0; 31],
            },
            3,
        )],
        vec![],
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let refused = send(h1, case).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{number}: {refused}");
    }
    // One that goes away in the middle.
    let (up, messages) = mpsc::channel(4);
    let mut client = h1.clone();
    let call = tokio::spawn(async move { client.put(ReceiverStream::new(messages)).await });
    for message in [head(of(uid), pack(b"one"), 3), piece(b"o")] {
        let message = Some(message);
        up.send(PutFileRequest { message }).await.unwrap();
    }
    soon(async {
        while world.files().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    call.abort();
    drop(up);
    soon(async {
        while !world.files().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // Nothing of it is in the way of the next one.
    assert!(!put(h1, uid, pack(b"one"), b"one").await.unwrap());
    for (part, code) in [
        ((4, 0), Code::OutOfRange),
        ((1, 3), Code::OutOfRange),
        ((u64::MAX, 1), Code::OutOfRange),
    ] {
        let refused = get(h1, uid, pack(b"one"), part).await.unwrap_err();
        assert_eq!(refused.code(), code, "{part:?}: {refused}");
    }
    let refused = get(h1, uid, pack(b"none"), (0, 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_kept_and_a_destination_that_is_gone_is_not_made() {
    let world = world(u64::MAX / 2).await;
    let (h1, uid) = (&world.h1, &world.uid);
    create(h1, of(uid)).await.unwrap();
    let full = put(h1, uid, pack(b"one"), b"one").await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert_eq!(
        isyone_proto::error::retry_after(&full),
        None,
        "coming back does not help"
    );
    let destination = world.folder().parent().unwrap().to_owned();
    std::fs::rename(&destination, destination.with_extension("away")).unwrap();
    for refused in [
        create(h1, of(uid)).await.unwrap_err(),
        put(h1, uid, pack(b"one"), b"one").await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    assert!(!destination.exists());
}

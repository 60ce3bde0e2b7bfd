//! What lies in a backup, and a single file of it: who may, what is recorded, what a hostile path and a damaged repository get.

use isyone_proto::pb::v1::{BackupFileKind, event_service_client::EventServiceClient};
use tokio_stream::StreamExt as _;

use super::{
    operators::{job, made, new_repository},
    *,
};

/// Larger than three pieces, and not compressible.
fn noise() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..3_000_001).map(next).collect()
}

/// Makes the backup that was ordered, with a filestore in which somebody has laid odd names, and says its id.
async fn backed_up(world: &mut World) -> String {
    let (id, _) = world.ordered().await;
    let key = key(world.agent.plan.as_ref().unwrap());
    let now = world.fixture.running.handle.snapshot().last_tick.unwrap();
    let store = tempfile::tempdir().unwrap();
    for name in ["one", "two", "evil\u{1b}[2J\nname"] {
        std::fs::write(store.path().join(name), name).unwrap();
    }
    std::fs::write(store.path().join("empty"), "").unwrap();
    let snapshot = tokio::task::block_in_place(|| {
        let filestore = std::os::fd::OwnedFd::from(std::fs::File::open(store.path()).unwrap());
        let parts = vec![
            backup::Part::bytes("database.tar", noise()),
            backup::Part::folder("filestore", filestore),
        ];
        let label = backup::Label {
            purpose: backup::Purpose::Base,
            time: jiff::Timestamp::from_millisecond(now).unwrap(),
            host: "h1".to_owned(),
            tags: Vec::new(),
        };
        let repository = new_repository(world, &key);
        let written = repository.write(&label, parts, None, &job()).unwrap();
        written.snapshot.to_string()
    });
    let done = JobStatus {
        id: id.to_string(),
        state: JobState::Done.into(),
        backup: Some(made(&snapshot, now / 1000)),
        ..JobStatus::default()
    };
    world.agent.converge_with(vec![done]).await;
    world.agent.plan_that(|plan| plan.jobs.is_empty()).await;
    snapshot
}

async fn list(world: &World, id: &str, path: &str) -> Result<Vec<v1::BackupFile>, Status> {
    let (mut files, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListBackupFilesRequest {
            tenant: "alfa".to_owned(),
            backup: id.to_owned(),
            path: path.to_owned(),
            page_size: 3,
            page_token,
        };
        let answer = soon(world.operators().list_backup_files(request)).await?;
        let page = answer.into_inner();
        assert!(page.files.len() <= 3);
        files.extend(page.files);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(files);
        }
    }
}

async fn read(
    mut operators: BackupServiceClient<Channel>,
    id: &str,
    path: &str,
) -> Result<Vec<u8>, Status> {
    let request = v1::ReadBackupFileRequest {
        tenant: "alfa".to_owned(),
        backup: id.to_owned(),
        path: path.to_owned(),
    };
    let mut chunks = soon(operators.read_backup_file(request))
        .await?
        .into_inner();
    let (mut content, mut whole) = (Vec::new(), None);
    while let Some(chunk) = soon(chunks.message()).await? {
        assert!(chunk.data.len() <= 256 << 10);
        assert!(whole.is_some() || chunk.data.is_empty());
        whole = Some(chunk.bytes);
        content.extend_from_slice(&chunk.data);
    }
    assert_eq!(whole, Some(content.len() as u64));
    Ok(content)
}

/// Who has read what.
async fn recorded(world: &World) -> Vec<(String, String, String)> {
    let request = v1::StreamEventsRequest::default();
    let mut client = EventServiceClient::new(world.fixture.admin.clone());
    let events = client.stream_events(request).await.unwrap().into_inner();
    let read = events
        .map(|event| event.unwrap())
        .filter(|event| event.kind == "backup.file_read")
        .map(|event| (event.actor, event.tenant, event.message));
    read.collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_backup_is_listed_read_and_recorded() {
    let mut world = world(0).await;
    let id = backed_up(&mut world).await;
    let parts = list(&world, &id[..8], "").await.unwrap();
    let parts: Vec<_> = parts
        .iter()
        .map(|file| (file.name.as_str(), file.kind(), file.bytes))
        .collect();
    let whole = noise();
    let database = ("database.tar", BackupFileKind::File, whole.len() as u64);
    assert_eq!(
        parts,
        [database, ("filestore", BackupFileKind::Folder, 0)],
        "{id}"
    );
    let files = list(&world, &id, "filestore").await.unwrap();
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["empty", "evil\u{1b}[2J\nname", "one", "two"]);
    assert!(recorded(&world).await.is_empty(), "lists are not");

    let operators = || world.operators();
    assert_eq!(
        read(operators(), &id[..8], "database.tar").await.unwrap(),
        whole
    );
    for name in names.iter().filter(|name| **name != "empty") {
        let path = format!("filestore/{name}");
        let content = read(operators(), &id, &path).await.unwrap();
        assert_eq!(content, name.as_bytes());
    }
    let empty = read(operators(), &id, "/filestore//empty").await.unwrap();
    assert!(empty.is_empty());
    let all = recorded(&world).await;
    assert_eq!(all.len(), 5, "{all:?}");
    let of = format!("of {} at coordinator", &id[..8]);
    let first = ("admin", "alfa", format!("database.tar {of}"));
    let (actor, tenant, message) = &all[0];
    assert_eq!((&**actor, &**tenant, message.clone()), first);
    assert!(
        !all.iter()
            .any(|(_, _, message)| message.contains(char::is_control)),
        "{all:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_refused_by_name_and_not_recorded() {
    let mut world = world(0).await;
    let id = backed_up(&mut world).await;
    let long = "x/".repeat(3000);
    for (backup, path, code) in [
        (&*id, "", Code::InvalidArgument),
        (&id, "//", Code::InvalidArgument),
        (&id, "filestore", Code::InvalidArgument),
        (&id, &long, Code::InvalidArgument),
        ("../../etc", "one", Code::InvalidArgument),
        ("00000000", "one", Code::NotFound),
        (&id, "filestore/../database.tar", Code::NotFound),
        (&id, "../config", Code::NotFound),
        (&id, "filestore/\u{1b}[2Jnone", Code::NotFound),
    ] {
        let refused = read(world.operators(), backup, path).await.unwrap_err();
        assert_eq!(refused.code(), code, "{path}: {refused}");
        assert!(!refused.message().contains(char::is_control));
    }
    for (path, code) in [
        ("filestore/one", Code::InvalidArgument),
        ("..", Code::NotFound),
        ("none", Code::NotFound),
    ] {
        let refused = list(&world, &id, path).await.unwrap_err();
        assert_eq!(refused.code(), code, "{path}: {refused}");
    }
    let viewer = BackupServiceClient::new(world.fixture.operator("vera", v1::Role::Viewer).await);
    let refused = read(viewer, &id, "database.tar").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(recorded(&world).await.is_empty());
}

/// Fails if a damaged file comes as a whole one, or if who goes away keeps others from reading.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_said_and_who_goes_away_leaves_room() {
    let mut world = world(0).await;
    let id = backed_up(&mut world).await;
    for _ in 0..5 {
        let request = v1::ReadBackupFileRequest {
            tenant: "alfa".to_owned(),
            backup: id.clone(),
            path: "database.tar".to_owned(),
        };
        let chunks = soon(world.operators().read_backup_file(request)).await;
        drop(chunks.unwrap());
    }
    assert_eq!(
        read(world.operators(), &id, "filestore/one").await.unwrap(),
        b"one"
    );
    for path in world.files() {
        if path.components().any(|part| part.as_os_str() == "data")
            && std::fs::metadata(&path).unwrap().len() > 1 << 20
        {
            let mut content = std::fs::read(&path).unwrap();
            let middle = content.len() / 2;
            content[middle] ^= 1;
            std::fs::write(&path, content).unwrap();
        }
    }
    let damaged = read(world.operators(), &id, "database.tar").await;
    let damaged = damaged.unwrap_err();
    assert_eq!(damaged.code(), Code::DataLoss, "{damaged}");
    assert!(damaged.message().contains("database.tar"), "{damaged}");
}

//! A bucket with a copy of a destination, from a coordinator that runs: what hosts add is brought there, and what this machine has lost
//! is brought back; a bucket that is away is said; our own state goes there as well and a coordinator is rebuilt from it.
//!
//! Not here: what a copy must be at each moment (isyone-bucket's tests), making a backup (the agent).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use isyone_backup::{
    Job, Key, Label, Part, Purpose, Repository, Share, Store as _,
    store::{Kind, Local},
};
use isyone_bucket::testing::{self, Server, Trouble};
use isyone_coordinator::{
    base::{
        clock,
        config::{Bytes, Config},
    },
    server::{self, Parts},
    shipping::{folder::Folder, rebuilt},
    writer::SystemSource,
};
use isyone_proto::{
    pb::{
        agent::v1::{
            BackupMade, BackupWork, CreateRepositoryRequest, JobState, JobStatus,
            backup_store_client::BackupStoreClient,
        },
        v1::{self, backup_service_client::BackupServiceClient},
    },
    plan::JobWork,
};

use crate::repositories::protected;
use crate::support::{Agent, Fixture, config, soon, start_in_with, start_with};

/// How long the loop may take; it looks each 5 s.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn key_files(data_dir: &Path, secret: &str) {
    fs::create_dir_all(data_dir).unwrap();
    for (name, content) in [("s3.access", testing::ACCESS_KEY), ("s3.secret", secret)] {
        let path = data_dir.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Copies its only destination to the server's bucket.
pub(crate) fn copies_to(config: &mut Config, server: &Server) {
    let text = format!(
        "[backup.buckets.far]\nendpoint = \"{}\"\nbucket = \"{}\"\nprefix = \"isyone\"\n\
         access_key_file = \"s3.access\"\nsecret_key_file = \"s3.secret\"\n",
        server.endpoint(),
        testing::BUCKET
    );
    let parsed = Config::parse("test", &text).unwrap();
    config.backup.enabled = true;
    config.backup.buckets = parsed.backup.buckets;
    for destination in config.backup.destinations.values_mut() {
        destination.reserve = Bytes::new(0);
    }
}

pub(crate) async fn within<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn bucket(fixture: &Fixture) -> v1::BackupBucket {
    let mut client = BackupServiceClient::new(fixture.admin.clone());
    let listed = soon(client.list_protections(v1::ListProtectionsRequest::default()));
    listed.await.unwrap().into_inner().buckets.remove(0)
}

/// `alfa` with a backup that its host has made on order.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) fixture: Fixture,
    pub(crate) agent: Agent,
    store: BackupStoreClient<tonic::transport::Channel>,
    pub(crate) uid: String,
    pub(crate) key: Key,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a configuration that is changed.
    pub(crate) async fn with(set: impl Fn(&mut Config)) -> Self {
        let server = Server::start(&tokio::runtime::Handle::current());
        let fixture = start_with(|config| {
            key_files(&config.data_dir, testing::SECRET_KEY);
            copies_to(config, &server);
            set(config);
        })
        .await;
        let (h1, agent, plan) = protected(&fixture).await;
        let tenant = &plan.tenants[0];
        Self {
            key: Key::new(tenant.backup.as_ref().unwrap().key.bytes()),
            uid: tenant.uid.to_string(),
            store: BackupStoreClient::new(h1),
            server,
            fixture,
            agent,
        }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        let data = self.fixture.dir.path().join("data");
        data.join("backups").join(&self.uid)
    }

    /// As a host does, but without the way through the coordinator.
    pub(crate) fn write(&self, number: i64) {
        let local: Arc<dyn isyone_backup::Store> = Arc::new(Local::new(self.folder()));
        let job = Job::default();
        let repository = Repository::open(local.clone(), &self.key)
            .or_else(|_| Repository::create(local, &self.key, &job))
            .unwrap();
        let label = Label {
            purpose: Purpose::Base,
            // As its host will tell, and after the one before.
            time: jiff::Timestamp::from_second(clock::now_ms() / 1000 - 30 + number).unwrap(),
            host: "h1".to_owned(),
            tags: Vec::new(),
        };
        let content = vec![number as u8; 100_000];
        let parts = vec![Part::bytes("database.tar", content)];
        tokio::task::block_in_place(|| repository.write(&label, parts, None, &job)).unwrap();
    }

    /// Says that the order that the plan has is carried out.
    pub(crate) async fn made(&mut self) {
        let plan = self.agent.plan_that(|plan| !plan.jobs.is_empty()).await;
        let order = &plan.jobs[0];
        let JobWork::Backup(_) = &order.work else {
            panic!("{:?}", order.work);
        };
        let local = Local::new(self.folder());
        let (name, _) = local.list(Kind::Snapshot).unwrap()[0];
        // What was made before it was ordered is no answer.
        let now = clock::now_ms() / 1000;
        let status = JobStatus {
            id: order.id.to_string(),
            state: JobState::Done.into(),
            backup: Some(BackupMade {
                snapshot: name.to_string(),
                work: BackupWork::Base.into(),
                time: Some(at(now)),
                end_time: Some(at(now)),
                ..BackupMade::default()
            }),
            ..JobStatus::default()
        };
        self.agent.converge_with(vec![status]).await;
    }

    pub(crate) fn there(&self) -> PathBuf {
        self.server.files().join(&self.uid)
    }

    fn snapshots_there(&self) -> usize {
        fs::read_dir(self.there().join("snapshots")).map_or(0, Iterator::count)
    }

    pub(crate) async fn copied(&self, snapshots: usize) {
        within("it is not in the bucket", async || {
            (self.snapshots_there() == snapshots).then_some(())
        })
        .await;
    }
}

fn at(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

pub(crate) fn is_good(folder: &Path, key: &Key) -> bool {
    let repository = Repository::open(Arc::new(Local::new(folder)), key).unwrap();
    let verify = || repository.verify(Share::All, &Job::default());
    let report = tokio::task::block_in_place(verify).unwrap();
    report.is_good() && report.snapshots > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_adds_is_in_the_bucket_and_comes_back_when_it_is_lost_here() {
    let mut world = World::new().await;
    world.write(1);
    world.made().await;
    world.copied(1).await;
    assert!(is_good(&world.there(), &world.key));
    world.write(2);
    world.copied(2).await;
    let shown = within("it is not said to be there", async || {
        Some(bucket(&world.fixture).await).filter(|shown| shown.behind_ms == 0)
    });
    let shown = shown.await;
    assert_eq!((shown.state(), &*shown.failure), (v1::BucketState::Up, ""));
    assert!(shown.sent_bytes > 0 && shown.destination == "coordinator");
    // They came there days ago, and the disk is lost. Until it is back nobody begins it anew.
    let days_ago = clock::now_ms() / 1000 - 10 * 86_400;
    let days_ago = UNIX_EPOCH + Duration::from_secs(days_ago.unsigned_abs());
    for path in files(&world.there().join("snapshots")) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(days_ago).unwrap();
    }
    fs::remove_dir_all(world.folder()).unwrap();
    let of = Some(isyone_proto::pb::agent::v1::Repository {
        destination: "coordinator".to_owned(),
        tenant_uid: world.uid.clone(),
    });
    let refused = soon(world.store.create(CreateRepositoryRequest { of }));
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains("`far`"), "{refused}");
    within("it did not come back", async || {
        world.folder().join("config").exists().then_some(())
    })
    .await;
    assert!(is_good(&world.folder(), &world.key));
    assert_eq!(world.snapshots_there(), 2);
    // Else retention would keep what nobody has ordered for as long again.
    for path in files(&world.folder().join("snapshots")) {
        let came = fs::metadata(path).unwrap().modified().unwrap();
        assert!(came < days_ago + Duration::from_secs(2), "{came:?}");
    }
    the_buckets_key_is_nowhere_else(&world).await;
}

/// Neither with a host, nor in the database, nor in what is shipped.
async fn the_buckets_key_is_nowhere_else(world: &World) {
    let data = world.fixture.dir.path().join("data");
    let folder = Folder::found(&data.join("backups")).unwrap();
    let shipped = within("nothing is shipped", async || {
        rebuilt::read(&folder, &world.fixture.running.sealer, None).ok()
    });
    let configuration = shipped.await.configuration.unwrap().text;
    assert!(configuration.contains("s3.secret"), "{configuration}");
    let plan = serde_json::to_string(world.agent.plan.as_ref().unwrap()).unwrap();
    for text in [configuration, plan] {
        assert!(!text.contains(testing::SECRET_KEY), "{text}");
    }
    let secret = testing::SECRET_KEY.as_bytes();
    let holds = |path: &PathBuf| {
        let content = fs::read(path).unwrap_or_default();
        content.windows(secret.len()).any(|part| part == secret)
    };
    let all = files(world.fixture.dir.path()).into_iter().filter(holds);
    assert_eq!(all.collect::<Vec<_>>(), [data.join("s3.secret")]);
}

/// All files below, in order.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_full_is_said_and_gets_everything_later() {
    let mut world = World::new().await;
    world.server.has(Trouble::Full);
    world.write(1);
    world.made().await;
    let shown = within("it is not said", async || {
        let shown = bucket(&world.fixture).await;
        Some(shown).filter(|shown| shown.failure.contains("full") && shown.waiting == 1)
    });
    let shown = shown.await;
    assert!(shown.behind_ms > 0 && !format!("{shown:?}").contains(testing::SECRET_KEY));
    assert_eq!(world.snapshots_there(), 0);
    world.server.has(Trouble::None);
    // What failed is tried again a minute later.
    within("it is not in the bucket", async || {
        (world.snapshots_there() == 1).then_some(())
    })
    .await;
}

/// Fails if a coordinator starts with a key that others may read, or says what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_may_read_is_refused_at_the_start() {
    let server = Server::start(&tokio::runtime::Handle::current());
    let fixture = start_with(|_| {}).await;
    let dir = fixture.dir.clone();
    fixture.running.stop().await;
    let mut config = config(dir.path());
    key_files(&config.data_dir, testing::SECRET_KEY);
    copies_to(&mut config, &server);
    let secret = config.data_dir.join("s3.secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let parts = Parts::open(&config, None).await.unwrap();
    let started = server::start(config, parts, SystemSource);
    let error = started.await.expect_err("it has started");
    let text = isyone_proto::tls::error_chain(&error);
    assert!(
        text.contains("backup.buckets.far.secret_key_file"),
        "{text}"
    );
    assert!(!text.contains(testing::SECRET_KEY), "{text}");
}

fn program(words: &[&str]) -> (bool, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_isy-coordinator"));
    let output = program.args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The coordinator's disk is lost, with the directory of the destination: database, configuration and repositories come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_is_rebuilt_from_a_bucket() {
    let mut world = World::new().await;
    world.write(1);
    world.made().await;
    world.copied(1).await;
    let newest = world.fixture.running.handle.snapshot().fleet.last_event;
    within("the state is not there", async || {
        world
            .server
            .files()
            .join("coordinator/keys")
            .exists()
            .then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let World {
        server,
        fixture,
        uid,
        key,
        ..
    } = world;
    let old = fixture.dir.clone();
    fixture.running.stop().await;
    let new = Arc::new(tempfile::tempdir().unwrap());
    let data = new.path().join("data");
    fs::create_dir_all(&data).unwrap();
    // What restore-keys brings.
    for name in ["pki", "seal.key"] {
        fs::rename(old.path().join("data").join(name), data.join(name)).unwrap();
    }
    fs::copy(old.path().join("admin.toml"), new.path().join("admin.toml")).unwrap();
    restored(&server, new.path(), &data);
    let laid = Config::load(&data.join("coordinator.toml")).unwrap();
    let fixture = start_in_with(new.clone(), |config| {
        config.backup = laid.backup.clone();
    })
    .await;
    assert!(fixture.running.handle.snapshot().fleet.last_event >= newest);
    let folder = data.join("backups").join(&uid);
    within("the repository did not come back", async || {
        folder.join("config").exists().then_some(())
    })
    .await;
    assert!(is_good(&folder, &key));
    a_flipped_byte_is_named(&server, &data, &uid);
}

/// Types what the documentation says: the state of the bucket is laid into this directory.
fn restored(server: &testing::Server, new: &Path, data: &Path) {
    let given = new.join("given");
    key_files(&given, testing::SECRET_KEY);
    let path = |name: &str| given.join(name).display().to_string();
    let url = format!("{}/{}/isyone", server.endpoint(), testing::BUCKET);
    let (access, secret, data_dir) = (
        path("s3.access"),
        path("s3.secret"),
        data.display().to_string(),
    );
    let words = [
        "restore",
        "--from-bucket",
        &url,
        "--access-key-file",
        &access,
        "--secret-key-file",
        &secret,
        "--data-dir",
        &data_dir,
    ];
    let (well, said) = program(&words);
    assert!(well && !said.contains(testing::SECRET_KEY), "{said}");
    assert!(said.contains("1 hosts, 1 tenants"), "{said}");
}

/// `isy-coordinator bucket verify` reads all of it, and says which file is damaged.
fn a_flipped_byte_is_named(server: &testing::Server, data: &Path, uid: &str) {
    let data_dir = data.display().to_string();
    let toml = data.join("coordinator.toml").display().to_string();
    let words = [
        "bucket",
        "verify",
        "far",
        "--config",
        &toml,
        "--data-dir",
        &data_dir,
    ];
    let (well, said) = program(&words);
    assert!(well && said.contains(" 0 damaged"), "{said}");
    let packs = server.files().join(uid).join("data");
    let folder = fs::read_dir(packs).unwrap().next().unwrap().unwrap().path();
    let pack = fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut content = fs::read(&pack).unwrap();
    content[10] ^= 1;
    fs::write(&pack, content).unwrap();
    let (well, said) = program(&words);
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(!well && said.contains(name), "{said}");
}

//! Proofs: a real PostgreSQL's backups restored where nobody uses them; what was changed in a table, in the log, among the files or in the
//! repository is named, and nothing is left. Where there is no PostgreSQL on this machine, or no root to run it as its user, only what
//! needs none is tried.
//!
//! Not here: containers and Odoo (the end-to-end tests), when a proof is due (isyone-fleet).

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use isyone_backup::Stop;
use isyone_proto::{
    backup::{BackupWork, Fault, RestoreTo, SnapshotName},
    plan::{JobOrder, JobWork},
    proof::{Proof, VerifyOrder},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::async_trait;
use uuid::Uuid;

use super::{
    super::{
        proof::Verify,
        restore::{ContainerServers, Launch, Restore, Server, Servers},
        words::Problem,
    },
    local::Local,
    restored::Site,
    world::World,
};
use crate::{
    base::throttle::Throttle,
    docker::Docker as _,
    jobs::{JobError, Progress, Work as _, fetch::Reserve},
    plan::{
        container::LABEL_TENANT,
        facts::ImageFacts,
        recovery::{Extent, Look, Purpose},
    },
    testing::fake_docker::FakeDocker,
};

fn progress(world: &World) -> Progress {
    let throttle = || Arc::new(Throttle::new(0));
    Progress::new(world.host.clone(), Uuid::new_v4(), [throttle(), throttle()])
}

fn verify(world: &World, servers: Arc<dyn Servers>) -> Verify {
    Verify::new(Restore {
        backups: world.backups.clone(),
        servers,
        reserve: Reserve::NONE,
    })
}

fn ordered(world: &World, verify: VerifyOrder) -> JobOrder {
    JobOrder {
        id: Uuid::new_v4(),
        operation: Uuid::nil(),
        tenant: world.plan.name.clone(),
        uid: world.plan.uid,
        work: JobWork::Verify(Box::new(verify)),
        rate_bytes_per_s: 0,
    }
}

/// Where proofs of this host are restored to.
async fn scratch(world: &World) -> PathBuf {
    world.host.homes().await.unwrap().proofs().join("h1")
}

impl Site {
    fn proof_order(&self, to: RestoreTo) -> VerifyOrder {
        VerifyOrder {
            restore: self.order(to),
            postgres_image: self.world.plan.postgres_image.clone(),
            memory_bytes: 1 << 30,
            disk_bytes: 100 << 30,
        }
    }

    async fn prove_as(&self, order: VerifyOrder) -> Result<Proof, JobError> {
        let verify = verify(&self.world, Arc::new(Local(self.cluster.clone())));
        let progress = progress(&self.world);
        let done = verify
            .attempt(&ordered(&self.world, order), &progress)
            .await;
        assert!(!scratch(&self.world).await.exists(), "nothing is left");
        done.map(|()| progress.proven_so_far().unwrap())
    }

    async fn prove(&self, to: RestoreTo) -> Proof {
        self.prove_as(self.proof_order(to)).await.unwrap()
    }

    /// An attachment whose file is called by its hash.
    fn attach(&self, content: &str) -> PathBuf {
        use sha1::Digest as _;
        let name = hex::encode(sha1::Sha1::digest(content));
        let name = format!("{}/{name}", &name[..2]);
        let path = self
            .cluster
            .dir
            .join("odoo/filestore/odoo_alfa")
            .join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self.odoo(&format!("INSERT INTO ir_attachment VALUES ('{name}')"));
        path
    }

    /// What the tenant is while it does not run.
    async fn stopped(&self) -> SnapshotName {
        let made = self.world.job(BackupWork::Stopped, "own").await;
        made.unwrap().snapshot
    }

    /// Something that fills some pages.
    fn fill(&self) {
        self.odoo("INSERT INTO rows SELECT generate_series(1, 20000)");
    }
}

/// The segments that wait in a spool.
fn segments(spool: &Path) -> Vec<String> {
    let names = fs::read_dir(spool).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.len() == 24).collect();
    names.sort();
    names
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_is_proven_to_the_end_of_the_log() {
    let Some(site) = Site::new().await else {
        return;
    };
    site.fill();
    site.odoo("CREATE UNIQUE INDEX rows_n ON rows (n)");
    site.attach("one more");
    site.ship().await;
    let proof = site.prove(RestoreTo::Latest).await;
    assert!(proof.is_good(), "{proof:?}");
    assert_eq!(proof.left_out, Vec::<String>::new());
    // `ab/one` is named twice and is one file; its name is no hash, and is not judged.
    assert_eq!(proof.attachments, 2);
    assert!(proof.reached.unwrap() > proof.base_at && proof.relations > 100);
    let proof = site.prove(RestoreTo::Backup).await;
    assert!(proof.is_good(), "{proof:?}");
    assert_eq!((proof.base, proof.attachments), (site.base, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_was_flipped_in_a_table_is_named_by_table_and_block() {
    let Some(mut site) = Site::new().await else {
        return;
    };
    site.fill();
    let file = site.odoo("SELECT pg_relation_filepath('rows')");
    site.cluster.end("pgdata");
    site.base = site.stopped().await;
    assert!(site.prove(RestoreTo::Backup).await.is_good());
    // In the second page, among its rows.
    flip(&site.cluster.dir.join("pgdata").join(file), 2 * 8192 - 60);
    site.base = site.stopped().await;
    let proof = site.prove(RestoreTo::Backup).await;
    assert_eq!(proof.damages, ["table public.rows, block 1"], "{proof:?}");
    assert!(!proof.is_restorable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_was_flipped_in_the_log_is_named_by_its_segment() {
    let Some(site) = Site::new().await else {
        return;
    };
    let spool = site.cluster.dir.join("wal");
    // What the backup needs is there with it.
    let before = segments(&spool);
    site.fill();
    site.cluster.sql("SELECT pg_switch_wal()");
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting = segments(&spool);
        waiting.retain(|segment| !before.contains(segment));
        if waiting.len() > 1 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let broken = waiting.first().unwrap().clone();
    flip(&spool.join(&broken), 5_000);
    site.ship().await;
    site.odoo("INSERT INTO rows VALUES (-1)");
    site.ship().await;
    let proof = site.prove(RestoreTo::Latest).await;
    assert!(
        proof.damages[0].starts_with(&format!("segment {broken} of the log")),
        "{proof:?}"
    );
    // The backup itself does not need it.
    assert!(site.prove(RestoreTo::Backup).await.is_good());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_missing_or_changed_are_named_and_counts_are_compared() {
    let Some(site) = Site::new().await else {
        return;
    };
    let path = site.attach("one more");
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    flip(&path, 3);
    site.odoo("INSERT INTO ir_attachment VALUES ('cd/gone')");
    site.ship().await;
    let proof = site.prove(RestoreTo::Latest).await;
    let all = proof.damages.join("\n");
    assert!(all.contains("file cd/gone is missing"), "{proof:?}");
    assert!(
        all.contains(&format!("{name} is not what its name says")),
        "{proof:?}"
    );
    assert_eq!((proof.damages.len(), proof.attachments), (2, 1));
    assert!(proof.is_restorable, "the tenant itself has it no more");
}

/// Fails if a proof runs what a tenant has written, or goes by settings that a tenant has made.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_tenants_is_run_and_that_is_no_damage() {
    let Some(site) = Site::new().await else {
        return;
    };
    site.fill();
    site.odoo(
        "CREATE FUNCTION kept(n integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN \
         IF current_setting('own.key', true) IS DISTINCT FROM 'yes' THEN RAISE EXCEPTION 'it was run'; END IF; RETURN n; END $$; \
         SET own.key = 'yes'; CREATE INDEX rows_kept ON rows (kept(n)); \
         CREATE INDEX rows_some ON rows (n) WHERE kept(n) > 3",
    );
    site.odoo("ALTER ROLE odoo SET statement_timeout = 1; ALTER DATABASE odoo_alfa SET search_path = public");
    site.cluster.sql("ALTER DATABASE odoo_alfa SET role = odoo");
    site.ship().await;
    let proof = site.prove(RestoreTo::Latest).await;
    assert!(proof.is_good(), "{proof:?}");
    assert_eq!(proof.left_out, Vec::<String>::new());
    assert_eq!(proof.attachments, 1);
    site.cluster.sql("ALTER ROLE odoo RESET ALL");
    site.odoo("ALTER TABLE ir_attachment RENAME TO kept_ones");
    site.odoo("CREATE VIEW ir_attachment AS SELECT kept(1)::text AS store_fname");
    site.ship().await;
    let proof = site.prove(RestoreTo::Latest).await;
    assert!(proof.is_good(), "{proof:?}");
    assert_eq!(proof.attachments, 0, "a view is no table of attachments");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_was_flipped_in_the_repository_is_a_damage_and_no_failure() {
    let Some(site) = Site::new().await else {
        return;
    };
    site.fill();
    site.ship().await;
    let uid = site.world.plan.uid.to_string();
    let packs = site
        .world
        .dir
        .path()
        .join("stores/own")
        .join(uid)
        .join("data");
    let mut largest: Vec<(u64, PathBuf)> = Vec::new();
    for folder in fs::read_dir(packs).unwrap() {
        for pack in fs::read_dir(folder.unwrap().path()).unwrap() {
            let pack = pack.unwrap();
            largest.push((pack.metadata().unwrap().len(), pack.path()));
        }
    }
    largest.sort();
    let (size, pack) = largest.pop().unwrap();
    flip(&pack, size / 2);
    let proof = site.prove(RestoreTo::Latest).await;
    assert!(!proof.is_good(), "{proof:?}");
    assert!(proof.damages[0].contains("cannot be read"), "{proof:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_with_numbers_and_nothing_is_damaged_by_that() {
    let Some(site) = Site::new().await else {
        return;
    };
    let mut order = site.proof_order(RestoreTo::Backup);
    order.disk_bytes = 1_000;
    let refused = site.prove_as(order).await.unwrap_err();
    let JobError::Never(why) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains("MB"), "{why}");
    let mut order = site.proof_order(RestoreTo::Backup);
    order.restore.key = isyone_proto::backup::RepositoryKey::from(&[9; 64]);
    let proof = site.prove_as(order).await.unwrap();
    assert!(proof.damages[0].contains("another key"), "{proof:?}");
}

/// A PostgreSQL that never becomes ready; counts how often everything was removed.
#[derive(Default)]
struct Hanging(AtomicUsize);

struct Hangs;

#[async_trait]
impl Servers for Hanging {
    async fn start(&self, _: &Launch) -> Result<Box<dyn Server>, Problem> {
        Ok(Box::new(Hangs))
    }
    async fn look(&self, _: &Launch, _: Look, stop: &Stop) -> Result<(i32, String), Problem> {
        while !stop.is_stopped() {
            sleep(Duration::from_millis(10)).await;
        }
        Err(Problem::stopped())
    }
    async fn clear(&self, _: &Purpose) -> Result<(), Problem> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[async_trait]
impl Server for Hangs {
    async fn ended(&self) -> Result<Option<String>, Problem> {
        Ok(None)
    }
    async fn words(&self) -> Result<String, Problem> {
        Ok(String::new())
    }
    async fn run(
        &self,
        _: Vec<String>,
        _: Duration,
        _: &Stop,
    ) -> Result<Box<dyn isyone_backup::source::Producer>, Problem> {
        Err(Problem::new(Fault::Other, "not yet"))
    }
    async fn stop(&self) -> Result<(), Problem> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_proof_that_is_cancelled_or_whose_agent_died() {
    let Some(site) = Site::new().await else {
        return;
    };
    site.cluster.end("pgdata");
    let servers = Arc::new(Hanging::default());
    let proving = verify(&site.world, servers.clone());
    let order = ordered(&site.world, site.proof_order(RestoreTo::Backup));
    let (place, progress) = (scratch(&site.world).await, progress(&site.world));
    let attempt = proving.attempt(&order, &progress);
    let cut = timeout(Duration::from_secs(3), attempt).await;
    assert!(cut.is_err(), "it hangs");
    for _ in 0..100 {
        if !place.exists() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!place.exists() && servers.0.load(Ordering::SeqCst) == 2);

    fs::create_dir_all(place.join("pgdata/base")).unwrap();
    proving.sweep(CancellationToken::new()).await;
    assert!(!place.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proves_is_a_container_of_nobodys_without_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let docker = FakeDocker::new(dir.path(), 1);
    let (data, pace) = (
        crate::base::config::DataDir::new(dir.path().join("agent")),
        crate::host::Pace::hasty(),
    );
    data.create().unwrap();
    let host = crate::host::Host::new(
        docker.clone(),
        docker.clone(),
        data,
        [192, 0, 2, 7].into(),
        pace,
    );
    let servers = ContainerServers(Arc::new(host.unwrap()));
    let launch = Launch {
        purpose: Purpose::Proof {
            host: "h1".parse().unwrap(),
        },
        memory_bytes: 1 << 30,
        image: ImageFacts {
            id: "sha256:postgres:15".to_owned(),
            pgdata: Some("/var/lib/postgresql/data".to_owned()),
            ..ImageFacts::default()
        },
        volume: world.dir.path().to_owned(),
        log: world.dir.path().to_owned(),
        extent: Extent::AsItIs,
    };
    let server = servers.start(&launch).await.unwrap();
    let container = docker.container("isyone_proof_h1").await.unwrap().unwrap();
    assert!(container.is_up() && container.label(LABEL_TENANT).is_empty());
    assert_eq!(docker.list().await.unwrap(), [], "no tenant's, so no stray");
    servers.clear(&launch.purpose).await.unwrap();
    assert!(docker.container("isyone_proof_h1").await.unwrap().is_none());
    drop(server);
    let stop = Stop::default();
    stop.stop();
    let stopped = servers.look(&launch, Look::Checksums, &stop).await;
    assert_eq!(stopped.unwrap_err(), Problem::stopped());
    for _ in 0..100 {
        if docker
            .container(&launch.purpose.program())
            .await
            .unwrap()
            .is_none()
        {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("its container is left");
}

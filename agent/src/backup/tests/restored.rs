//! A real PostgreSQL's backups restored by the job itself: to a moment, to the end, to a backup; what is missing is named. Where there is
//! no PostgreSQL on this machine, or no root to run it as its user, there is nothing to try.
//!
//! Not here: containers and Odoo (the end-to-end tests), choosing snapshots (restore::choose).

use std::{fs, path::Path, sync::Arc, time::Duration};

use isyone_backup::{Purpose, store::Name};
use isyone_proto::{
    backup::{BackupWork, Fault, RestoreOrder, RestoreTo, SnapshotName},
    plan::TenantPlan,
};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    super::{
        destination,
        restore::{Brought, Ground, Restore, told},
        words::Problem,
    },
    local::Local,
    real::{Cluster, Real, programs},
    world::World,
};
use crate::{
    base::{clock::now_ms, throttle::Throttle},
    jobs::{Progress, fetch::Reserve},
    plan::{
        facts::ImageFacts,
        sql::{self, DatabaseIdentity},
    },
    testing::tenant_plan,
};

/// A cluster with a tenant's database, and its repository.
pub(super) struct Site {
    pub(super) cluster: Arc<Cluster>,
    pub(super) world: World,
    pub(super) base: SnapshotName,
    /// Last: servers are ended by what lies in it.
    _dir: tempfile::TempDir,
}

const TABLES: &str = "
    CREATE TABLE rows (n integer);
    CREATE TABLE ir_attachment (store_fname text);
    CREATE TABLE ir_config_parameter (key text UNIQUE, value text, create_uid int, write_uid int, create_date timestamp, write_date timestamp);
    CREATE TABLE ir_model_data (module text, name text, model text, res_id int);
    CREATE TABLE res_users (id int, login text, password text, active boolean);
    CREATE TABLE ir_mail_server (active boolean, smtp_host text);
    CREATE TABLE ir_cron (id int, active boolean);
    INSERT INTO ir_attachment VALUES ('ab/one'), ('ab/one'), (NULL);
    INSERT INTO ir_model_data VALUES ('base', 'user_admin', 'res.users', 2), ('base', 'autovacuum_job', 'ir.cron', 1);
    INSERT INTO res_users VALUES (2, 'old', 'old', true);
    INSERT INTO ir_mail_server VALUES (true, 'mail.example');
    INSERT INTO ir_cron VALUES (1, true), (2, true);";

impl Site {
    pub(super) async fn new() -> Option<Self> {
        let programs = programs()?;
        let dir = tempfile::tempdir().unwrap();
        let cluster = Arc::new(Cluster::make(programs, dir.path()));
        cluster.sql("CREATE ROLE odoo LOGIN");
        cluster.sql("CREATE DATABASE odoo_alfa OWNER odoo");
        let own = |statement: &str| {
            let words = ["-X", "-q", "-U", "odoo", "-d", "odoo_alfa", "-c", statement];
            cluster.run("psql", &words)
        };
        own(TABLES);
        let files = cluster.dir.join("odoo/filestore/odoo_alfa/ab");
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("one"), "one").unwrap();
        let world = World::of(Arc::new(Real(cluster.clone())));
        let base = world.job(BackupWork::Base, "own").await.unwrap().snapshot;
        Some(Self {
            _dir: dir,
            cluster,
            world,
            base,
        })
    }

    pub(super) fn odoo(&self, statement: &str) -> String {
        let words = [
            "-X",
            "-A",
            "-t",
            "-q",
            "-U",
            "odoo",
            "-d",
            "odoo_alfa",
            "-c",
            statement,
        ];
        self.cluster.run("psql", &words)
    }

    pub(super) async fn ship(&self) {
        self.world.job(BackupWork::Ship, "own").await.unwrap();
    }

    pub(super) fn order(&self, to: RestoreTo) -> RestoreOrder {
        let own = destination(&self.world.plan, &"own".parse().unwrap());
        RestoreOrder {
            source: self.world.plan.uid,
            key: self.world.plan.backup.clone().unwrap().key,
            destination: own.unwrap(),
            base: self.base,
            to,
            rekey: true,
            neutralise: true,
        }
    }

    fn ground(&self) -> Ground {
        let dir = &self.cluster.dir;
        let owner = |path: &Path| {
            use std::os::unix::fs::MetadataExt as _;
            let of = fs::metadata(path).unwrap();
            (of.uid(), of.gid())
        };
        for folder in ["new", "new-odoo"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let postgres = owner(&dir.join("pgdata"));
        let major = fs::read_to_string(dir.join("pgdata/PG_VERSION")).unwrap();
        Ground {
            postgres: dir.join("new"),
            cluster: String::new(),
            postgres_owner: postgres,
            major: major.trim().to_owned(),
            odoo: dir.join("new-odoo"),
            odoo_owner: (0, 0),
            log: dir.join("restore-log"),
            name: "beta".parse().unwrap(),
            disk_bytes: 100 << 30,
            reserve: Reserve::NONE,
            newest_timeline: 0,
            still: Arc::new(|| true),
        }
    }

    async fn bring(&self, to: RestoreTo) -> Result<Brought, Problem> {
        self.bring_to(to, &self.ground()).await
    }

    async fn bring_to(&self, to: RestoreTo, ground: &Ground) -> Result<Brought, Problem> {
        let restore = Restore {
            backups: self.world.backups.clone(),
            servers: Arc::new(Local(self.cluster.clone())),
            reserve: Reserve::NONE,
        };
        let throttle = || Arc::new(Throttle::new(0));
        let host = self.world.host.clone();
        let progress = Progress::new(host, Uuid::new_v4(), [throttle(), throttle()]);
        let plan: TenantPlan = tenant_plan("beta");
        let order = self.order(to);
        restore
            .bring(&plan, &order, ground, ImageFacts::default(), &progress)
            .await
    }

    /// What a statement says in what was restored.
    fn look(&self, statement: &str) -> String {
        self.cluster.begin("new", "archive_mode = off\n");
        let said = self.odoo(statement);
        self.cluster.end("new");
        said
    }
}

async fn a_while() {
    sleep(Duration::from_millis(1_100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_comes_back_as_it_was_at_the_moment_that_is_asked_for() {
    let Some(site) = Site::new().await else {
        return;
    };
    site.odoo("INSERT INTO rows VALUES (1)");
    fs::write(
        site.cluster.dir.join("odoo/filestore/odoo_alfa/ab/two"),
        "two",
    )
    .unwrap();
    site.odoo("INSERT INTO ir_attachment VALUES ('ab/two')");
    a_while().await;
    let moment = now_ms();
    a_while().await;
    site.odoo("INSERT INTO rows VALUES (2)");
    site.ship().await;
    a_while().await;
    let idle = now_ms();
    site.cluster.end("pgdata");
    let rows = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM rows";

    let brought = site.bring(RestoreTo::Time(moment)).await.unwrap();
    assert_eq!(brought.database, "odoo_alfa");
    let last = brought.reached.last.unwrap();
    assert!(last <= moment && last > moment - 60_000, "{last} {moment}");
    let said = told(&site.order(RestoreTo::Time(moment)), &brought);
    assert!(
        said.contains("all 2 attachments' files are there"),
        "{said}"
    );
    assert_eq!(site.look(rows), "1");
    let two = site.cluster.dir.join("new-odoo/filestore/odoo_beta/ab/two");
    assert_eq!(
        fs::read_to_string(two).unwrap(),
        "two",
        "under its new name"
    );
    let new = site.cluster.dir.join("new");
    assert!(!new.join("recovery.signal").exists() && !site.ground().log.exists());

    // A moment after the last commit: that is all there is.
    site.bring(RestoreTo::Time(idle)).await.unwrap();
    assert_eq!(site.look(rows), "1 2");
    site.bring(RestoreTo::Latest).await.unwrap();
    assert_eq!(site.look(rows), "1 2");
    let brought = site.bring(RestoreTo::Backup).await.unwrap();
    assert_eq!(site.look("SELECT count(*) FROM rows"), "0");
    assert_eq!(brought.reached.attachments.unwrap().missing, 0);

    // Each begins a history of its own, also after others that are not in this log.
    let timeline = "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()";
    assert_eq!(brought.timeline, Some(2));
    assert_eq!(site.look(timeline), "2");
    let mut again = site.ground();
    again.newest_timeline = 4;
    let brought = site.bring_to(RestoreTo::Latest, &again).await.unwrap();
    assert_eq!(brought.timeline, Some(5));
    assert_eq!(site.look(timeline), "5");
    assert_eq!(site.look(rows), "1 2");
    again.newest_timeline = u32::MAX;
    assert!(site.bring_to(RestoreTo::Latest, &again).await.is_err());
}

/// What was written between the last shipment and the next base is reached from the base before, the file as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_minutes_just_before_a_base_are_not_lost_with_it() {
    let Some(site) = Site::new().await else {
        return;
    };
    let file = |name: &str| {
        let files = site.cluster.dir.join("odoo/filestore/odoo_alfa/ab");
        fs::write(files.join(name), name).unwrap();
        site.odoo(&format!("INSERT INTO ir_attachment VALUES ('ab/{name}')"));
    };
    site.odoo("INSERT INTO rows VALUES (1)");
    site.ship().await;
    // More than the segment under way, so that some of it is finished and waits.
    site.odoo("INSERT INTO rows VALUES (2)");
    file("two");
    site.cluster.sql("SELECT pg_switch_wal()");
    site.odoo("INSERT INTO rows VALUES (3)");
    a_while().await;
    let moment = now_ms();
    a_while().await;
    site.odoo("INSERT INTO rows VALUES (4)");
    site.cluster.sql("SELECT pg_switch_wal()");
    a_while().await;
    site.world.job(BackupWork::Base, "own").await.unwrap();
    // Nothing follows.
    site.cluster.end("pgdata");
    let rows = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM rows";
    let brought = site.bring(RestoreTo::Time(moment)).await.unwrap();
    assert_eq!(site.look(rows), "1 2 3");
    let attachments = brought.reached.attachments.unwrap();
    assert_eq!((attachments.named, attachments.missing), (2, 0));

    // Where it is not there after all, that is said.
    let lost = site.world.snapshots("own");
    let lost: Vec<_> = lost
        .iter()
        .filter(|s| s.purpose == Some(Purpose::Increment))
        .map(|s| s.name)
        .collect();
    site.world.repository("own").forget(&lost[1..]).unwrap();
    let why = site.bring(RestoreTo::Time(moment)).await.unwrap_err();
    assert!(why.message.contains("of the log is missing"), "{why:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_and_nothing_looks_whole() {
    let Some(site) = Site::new().await else {
        return;
    };
    site.odoo("INSERT INTO ir_attachment VALUES ('cd/gone'), ('../../out')");
    site.ship().await;
    let second = site.world.snapshots("own").last().unwrap().name;
    site.odoo("INSERT INTO rows VALUES (1)");
    site.ship().await;
    a_while().await;
    let brought = site.bring(RestoreTo::Latest).await.unwrap();
    let said = told(&site.order(RestoreTo::Latest), &brought);
    assert!(
        said.contains("2 of 3 attachments' files are missing: "),
        "{said}"
    );
    assert!(said.contains("cd/gone"), "{said}");

    let mut other = site.ground();
    other.major = "9".to_owned();
    let why = site.bring_to(RestoreTo::Latest, &other).await.unwrap_err();
    assert!(
        why.for_good && why.message.contains("the tenant's image has 9"),
        "{why:?}"
    );
    let mut small = site.ground();
    small.disk_bytes = 1_000;
    let why = site.bring_to(RestoreTo::Latest, &small).await.unwrap_err();
    assert_eq!(why.fault, Fault::Full, "{why:?}");
    assert!(
        small.postgres.join("PG_VERSION").exists(),
        "refused before anything is touched"
    );

    // A shipment in the middle is gone.
    site.world.repository("own").forget(&[second]).unwrap();
    let why = site.bring(RestoreTo::Time(now_ms())).await.unwrap_err();
    assert!(
        why.for_good && why.message.contains("of the log is missing"),
        "{why:?}"
    );
    assert!(
        site.bring(RestoreTo::Backup).await.is_ok(),
        "the backup itself is whole"
    );
    let base = Name(site.base.0);
    site.world.repository("own").forget(&[base]).unwrap();
    let why = site.bring(RestoreTo::Backup).await.unwrap_err();
    assert!(
        why.for_good && why.message.contains("not there any more"),
        "{why:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_restored_gets_the_keys_of_another_tenant() {
    let Some(site) = Site::new().await else {
        return;
    };
    site.ship().await;
    site.cluster.end("pgdata");
    site.bring(RestoreTo::Latest).await.unwrap();
    let beta = tenant_plan("beta");
    let script = |name: &str, script: &str| {
        let path = site.cluster.dir.join(name);
        fs::write(&path, script).unwrap();
        let path = path.display().to_string();
        let words = [
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            "postgres",
            "-f",
            &path,
        ];
        site.cluster.run("psql", &words)
    };
    site.cluster.begin("new", "archive_mode = off\n");
    let identity = DatabaseIdentity {
        uuid: Uuid::nil(),
        secret: Uuid::nil(),
    };
    for _ in 0..2 {
        script(
            "rekey.sql",
            &sql::rekey_restored(&beta, "odoo_alfa", identity),
        );
    }
    let ask = |statement: &str| {
        let words = [
            "-X",
            "-A",
            "-t",
            "-U",
            "odoo",
            "-d",
            "odoo_beta",
            "-c",
            statement,
        ];
        site.cluster.run("psql", &words)
    };
    assert_eq!(
        ask("SELECT count(*) FROM ir_config_parameter WHERE key LIKE 'database.%'"),
        "2"
    );
    assert_eq!(
        ask("SELECT login FROM res_users"),
        beta.admin_login.as_str()
    );
    let lively = || sql::lively(&script("count.sql", &sql::count_lively(&beta)));
    let left = lively().unwrap();
    assert_eq!(
        left,
        "it does not say that it is neutralised, 1 mail servers that send, 1 scheduled jobs"
    );
    ask("INSERT INTO ir_config_parameter (key, value) VALUES ('database.is_neutralized', 'true')");
    ask("UPDATE ir_mail_server SET active = false");
    ask("UPDATE ir_cron SET active = false WHERE id = 2");
    assert_eq!(lively(), None);
    site.cluster.end("new");
}

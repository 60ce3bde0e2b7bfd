//! A copy is kept up with a tenant that runs, on real PostgreSQL at both ends: a base backup through the peers' stream, a standby that
//! follows, both ends compared when the tenant is stopped, the promotion and its sequences. And what must not be promoted is not.
//!
//! Where this machine has no PostgreSQL there is nothing to try. Not here: the programs' roots (jail), real containers (end to end).

use std::{fs, process::Command, sync::Arc};

use isyone_agent::testing::tenant_plan;
use isyone_proto::{
    plan::{DesiredState, HostPlan, JobOrder, JobWork, PeerGrant, TenantPlan},
    report::JobState,
};

use crate::{
    engine::Engine,
    jail,
    node::{Ca, FAR_FUTURE, Node, Site, SocketDatabase, grant, order, plan_with, standby},
};

const CLUSTER: &str = "postgres_alfa";
const DATABASE: &str = "odoo_alfa";
/// What of Odoo's tables the agent itself asks.
const TABLES: &str = "CREATE ROLE odoo LOGIN; CREATE DATABASE odoo_alfa OWNER odoo";
const CONTENT: &str = "SET ROLE odoo; \
    CREATE TABLE ir_config_parameter (id serial, key text UNIQUE, value text, create_uid int, write_uid int, create_date timestamp, write_date timestamp); \
    CREATE TABLE ir_module_module (id serial, state text); \
    CREATE TABLE kept (n int); INSERT INTO kept SELECT generate_series(1, 20000); \
    CREATE SEQUENCE mark; SELECT nextval('mark') FROM generate_series(1, 5); CREATE SEQUENCE fresh START 7";
/// Databases are as the images' own, but where they lie.
const INITDB: [&str; 8] = [
    "initdb",
    "--no-sync",
    "--auth=trust",
    "--username=postgres",
    "--data-checksums",
    "--wal-segsize=1",
    "-D",
    "/var/lib/postgresql/data",
];

/// Two hosts; alfa runs on the first, and a copy of it is kept up on the second.
pub(crate) struct Pair {
    pub(crate) sites: [Site; 2],
    pub(crate) engines: [Arc<Engine>; 2],
    pub(crate) source: Node,
    pub(crate) target: Node,
    pub(crate) alfa: TenantPlan,
}

pub(crate) fn live(alfa: &TenantPlan) -> [PeerGrant; 1] {
    [PeerGrant {
        live: true,
        ..grant(alfa, "h2", FAR_FUTURE)
    }]
}

impl Pair {
    /// `None` where there is no PostgreSQL.
    pub(crate) async fn new() -> Option<Self> {
        let programs = jail::programs()?;
        let ca = Ca::new();
        let sites = [Site::new("h1", &ca), Site::new("h2", &ca)];
        let engines = [0, 1].map(|at| Engine::new(&sites[at], &programs, at == 1));
        let alfa = tenant_plan("alfa");
        let of = |at: usize| Arc::new(SocketDatabase(engines[at].socket(CLUSTER)));
        let one = plan_with(std::slice::from_ref(&alfa), &[], &live(&alfa));
        let source = sites[0].start_on(one, of(0), engines[0].clone()).await;
        source.converged(&alfa).await;
        let none = plan_with(&[], &[], &[]);
        let target = sites[1].start_on(none, of(1), engines[1].clone()).await;
        let pair = Self {
            sites,
            engines,
            source,
            target,
            alfa,
        };
        pair.fill().await;
        Some(pair)
    }

    /// The source's database becomes a real one.
    async fn fill(&self) {
        let volume = self.sites[0].volume("pgdata_alfa");
        let aside = self.sites[0].path().join("aside");
        fs::create_dir(&aside).unwrap();
        for entry in fs::read_dir(&volume).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), aside.join(entry.file_name())).unwrap();
        }
        own(&volume);
        self.engines[0].become_real(CLUSTER, &INITDB);
        // The fake's Odoo looks there.
        fs::rename(aside.join("databases"), volume.join("databases")).unwrap();
        own(&volume);
        for statement in TABLES.split("; ") {
            self.until_answered(0, statement).await;
        }
        self.sql(0, CONTENT);
    }

    /// Asks until the server lets somebody in.
    pub(crate) async fn until_answered(&self, at: usize, statement: &str) {
        self.source
            .wait("an answer", |_| {
                self.engines[at].try_sql(CLUSTER, "postgres", statement)
            })
            .await;
    }

    pub(crate) fn sql(&self, at: usize, statement: &str) -> String {
        let answer = self.engines[at].sql(CLUSTER, DATABASE, statement);
        answer.lines().last().unwrap_or_default().to_owned()
    }

    fn order(&self, last: bool) -> JobOrder {
        self.order_as(last, false)
    }

    pub(crate) fn order_as(&self, last: bool, standing: bool) -> JobOrder {
        JobOrder {
            work: JobWork::Follow {
                from: "h1".parse().unwrap(),
                address: Some(self.source.address),
                last,
                standing,
            },
            ..order(&self.alfa, "h1", self.source.address)
        }
    }

    /// As the new host has it.
    pub(crate) fn copy(&self) -> TenantPlan {
        TenantPlan {
            follows: true,
            ..standby(&self.alfa, "h1")
        }
    }

    pub(crate) fn target_plan(&self, last: bool) -> HostPlan {
        plan_with(&[self.copy()], &[self.order(last)], &[])
    }

    /// The copy is there, and so little is missing that the tenant could come over.
    pub(crate) async fn followed(&self) {
        self.target.plan(self.target_plan(false));
        self.target
            .wait("an estimate", |node| {
                node.job().is_some_and(|job| job.pause_ms.is_some())
            })
            .await;
    }

    /// The source's copy is to stop.
    pub(crate) async fn halt(&mut self) {
        self.alfa.desired = DesiredState::Suspended;
        self.alfa.generation += 1;
        let plan = plan_with(std::slice::from_ref(&self.alfa), &[], &live(&self.alfa));
        self.source.plan(plan);
        self.source.converged(&self.alfa).await;
    }

    pub(crate) async fn end(self) {
        self.target.end().await;
        self.source.end().await;
        for engine in &self.engines {
            println!("{}", engine.log(CLUSTER));
        }
    }
}

fn own(volume: &std::path::Path) {
    let owner = ["-R", "postgres:postgres"];
    let done = Command::new("chown").args(owner).arg(volume).status();
    assert!(done.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_follows_and_takes_over_with_all_that_was_written() {
    let Some(mut pair) = Pair::new().await else {
        return;
    };
    let file = pair.sites[0]
        .volume("odoo_data_alfa")
        .join("filestore/later");
    pair.followed().await;
    assert_eq!(pair.sql(1, "SELECT count(*) FROM kept"), "20000");
    assert_eq!(pair.sql(1, "SELECT pg_is_in_recovery()"), "t");
    assert!(
        !pair.sites[1]
            .fake
            .running()
            .contains(&"odoo_alfa".to_owned())
    );

    pair.sql(0, "INSERT INTO kept SELECT generate_series(20001, 30000)");
    assert_eq!(pair.sql(0, "SELECT nextval('mark')"), "6");
    fs::write(file, "of the last moment").unwrap();
    pair.halt().await;
    pair.target.plan(pair.target_plan(true));
    let done = pair.target.job_is(JobState::Done).await;
    println!("{done:?}");
    // Until it is to run here, it follows whom it has followed.
    assert_eq!(pair.sql(1, "SELECT pg_is_in_recovery()"), "t");

    let mut copy = pair.copy();
    (copy.desired, copy.generation) = (DesiredState::Running, copy.generation + 1);
    pair.target.plan(plan_with(&[copy.clone()], &[], &[]));
    pair.target.converged(&copy).await;
    assert_eq!(pair.sql(1, "SELECT pg_is_in_recovery()"), "f");
    assert_eq!(pair.sql(1, "SELECT count(*) FROM kept"), "30000");
    assert_eq!(pair.sql(1, "SELECT nextval('mark')"), "7", "no gap");
    assert_eq!(pair.sql(1, "SELECT nextval('fresh')"), "7");
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    pair.sql(1, "SET ROLE NONE; CHECKPOINT");
    assert_eq!(pair.sql(1, timeline), "2");
    assert_eq!(
        pair.sql(1, "SELECT count(*) FROM pg_replication_slots"),
        "0"
    );
    let volume = pair.sites[1].volume("pgdata_alfa");
    let settings = fs::read_to_string(volume.join("postgresql.auto.conf")).unwrap();
    assert!(!settings.contains("primary_"), "{settings}");
    let later = pair.sites[1]
        .volume("odoo_data_alfa")
        .join("filestore/later");
    assert_eq!(fs::read_to_string(later).unwrap(), "of the last moment");
    assert_eq!(pair.sites[1].fake.running().len(), 2);
    assert_eq!(pair.sites[1].fake.violations(), Vec::<String>::new());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_lacks_the_end_of_the_log_is_never_promoted() {
    let Some(mut pair) = Pair::new().await else {
        return;
    };
    pair.followed().await;
    // The line is cut, somebody writes, and the tenant stops before the line is back.
    let none = plan_with(std::slice::from_ref(&pair.alfa), &[], &[]);
    pair.source.plan(none);
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE active";
    pair.source
        .wait("the cut", |_| pair.sql(0, slots) == "0")
        .await;
    pair.sql(0, "INSERT INTO kept VALUES (0)");
    pair.halt().await;
    pair.target.plan(pair.target_plan(true));
    let failed = pair.target.job_is(JobState::Failed).await;
    assert!(
        failed.message.contains("of the other host's log"),
        "{}",
        failed.message
    );
    // The tenant is complete where it was.
    assert_eq!(pair.sql(1, "SELECT pg_is_in_recovery()"), "t");
    pair.alfa.desired = DesiredState::Running;
    pair.alfa.generation += 1;
    pair.target.plan(plan_with(&[], &[], &[]));
    let alone = plan_with(std::slice::from_ref(&pair.alfa), &[], &[]);
    pair.source.plan(alone);
    pair.source.converged(&pair.alfa).await;
    pair.until_answered(0, "SELECT 1").await;
    assert_eq!(pair.sql(0, "SELECT count(*) FROM kept"), "20001");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_that_lost_power_is_not_taken_for_one_that_was_stopped() {
    let Some(mut pair) = Pair::new().await else {
        return;
    };
    pair.followed().await;
    pair.engines[0].kill(CLUSTER);
    pair.alfa.desired = DesiredState::Suspended;
    pair.alfa.generation += 1;
    let plan = plan_with(std::slice::from_ref(&pair.alfa), &[], &live(&pair.alfa));
    pair.source.plan(plan);
    pair.source.converged(&pair.alfa).await;
    pair.target.plan(pair.target_plan(true));
    let failed = pair.target.job_is(JobState::Failed).await;
    assert!(
        failed.message.contains("not shut down cleanly"),
        "{}",
        failed.message
    );
    // It goes on where it was, and keeps no log for a follower that does not come any more.
    pair.alfa.desired = DesiredState::Running;
    pair.alfa.generation += 1;
    pair.target.plan(plan_with(&[], &[], &[]));
    let alone = plan_with(std::slice::from_ref(&pair.alfa), &[], &[]);
    pair.source.plan(alone);
    pair.source.converged(&pair.alfa).await;
    pair.until_answered(0, "SELECT 1").await;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    pair.source
        .wait("the slot to go", |_| pair.sql(0, slots) == "0")
        .await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tables_that_would_arrive_empty_are_refused_while_the_tenant_runs() {
    let Some(pair) = Pair::new().await else {
        return;
    };
    pair.sql(0, "CREATE UNLOGGED TABLE unkept (n int)");
    pair.target.plan(pair.target_plan(false));
    let failed = pair.target.job_is(JobState::Failed).await;
    assert!(failed.message.contains("UNLOGGED"), "{}", failed.message);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_is_followed_no_more_keeps_no_log_for_it() {
    let Some(pair) = Pair::new().await else {
        return;
    };
    pair.followed().await;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(pair.sql(0, slots), "1");
    pair.target.plan(plan_with(&[], &[], &[]));
    let alone = plan_with(std::slice::from_ref(&pair.alfa), &[], &[]);
    pair.source.plan(alone);
    pair.source
        .wait("the slot to go", |_| pair.sql(0, slots) == "0")
        .await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_says_how_far_it_is_behind_and_when_it_cannot_go_on() {
    let Some(pair) = Pair::new().await else {
        return;
    };
    pair.sql(
        0,
        "SET ROLE NONE\nALTER SYSTEM SET max_slot_wal_keep_size = '1MB'",
    );
    pair.sql(0, "SELECT pg_reload_conf()");
    let standing = || plan_with(&[pair.copy()], &[pair.order_as(false, true)], &[]);
    pair.target.plan(standing());
    let behind = |node: &Node| node.job().and_then(|job| job.behind);
    pair.target
        .wait("how far it is behind", |node| {
            behind(node).is_some_and(|behind| behind.bytes == 0)
        })
        .await;
    assert!(pair.target.job().unwrap().filled);
    // It is away for so long that the other host's disk would fill.
    let none = plan_with(std::slice::from_ref(&pair.alfa), &[], &[]);
    pair.target.plan(plan_with(&[pair.copy()], &[], &[]));
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    let kept = plan_with(std::slice::from_ref(&pair.alfa), &[], &live(&pair.alfa));
    pair.source
        .wait("the cut", |_| pair.sql(0, active) == "0")
        .await;
    for _ in 0..3 {
        pair.sql(0, "INSERT INTO kept SELECT generate_series(1, 60000)");
        pair.sql(0, "SELECT pg_switch_wal()");
        pair.sql(0, "CHECKPOINT");
    }
    let status = "SELECT wal_status FROM pg_replication_slots";
    assert_eq!(pair.sql(0, status), "lost");
    pair.source.plan(kept);
    pair.target.plan(standing());
    let failed = pair.target.job_is(JobState::Failed).await;
    assert!(failed.message.contains("thrown away"), "{}", failed.message);
    // What it has is let go, and begun anew.
    pair.target.plan(plan_with(&[], &[], &[]));
    pair.source.plan(none);
    pair.source
        .wait("the slot to go", |_| {
            pair.sql(0, "SELECT count(*) FROM pg_replication_slots") == "0"
        })
        .await;
    pair.end().await;
}

//! Restoring: a job that fills a tenant's empty volumes from a repository, has a PostgreSQL of its own recover them to the moment that is
//! asked for, looks whether every attachment's file is there, and only then records that they are complete.
//!
//! An attempt that was cut off leaves nothing that starts; the next one begins anew. What is restored for another tenant is given that
//! one's keys before its first start, and neutralised, by the tenant's own loop (tenant::database). Not here: which backup (the
//! coordinator), the stages before and after.

pub(super) mod ask;
pub(super) mod choose;
mod described;
pub(super) mod fill;
pub(super) mod recover;
pub mod server;
mod unpack;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use isyone_backup::{Job, Stop};
use isyone_proto::{
    backup::{Fault, RestoreOrder, RestoreTo},
    plan::{JobOrder, JobWork, Role, TenantPlan, UnixMs},
};
use tokio::time::sleep;
use tonic::async_trait;

pub use self::{
    fill::Ground,
    recover::{Attachments, Reached},
    server::{ContainerServers, Launch, Server, Servers},
};
use super::{
    Backups, files,
    put::{StopWhenDropped, timestamp},
    record::Records,
    words::Problem,
};
use crate::{
    base::{
        beneath::Root,
        fsutil::{self, blocking},
    },
    host::homes::aside::RESTORE_LOG,
    jobs::{JobError, Progress, Work, fetch::Reserve},
    plan::{
        design,
        facts::ImageFacts,
        recovery::{Extent, Purpose},
        state::Database,
    },
    tenant::copies::{self, Copy},
};

/// How often progress is shown.
const SHOW: Duration = Duration::from_secs(1);
/// Processors that reading a repository may use, each with some 50 MB.
const PROCESSORS: usize = 2;

/// Carries out orders to restore.
#[derive(Clone)]
pub struct Restore {
    pub backups: Arc<Backups>,
    pub servers: Arc<dyn Servers>,
    pub reserve: Reserve,
}

#[async_trait]
impl Work for Restore {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Result<(), JobError> {
        let JobWork::Restore(restore) = &order.work else {
            return Err(JobError::Never("no order to restore".to_owned()));
        };
        let done = self.restore(order, restore, progress).await;
        done.map_err(|problem| {
            progress.failed(problem.fault);
            let why = format!("{}: {}", restore.destination.name, problem.message);
            match problem.for_good {
                true => JobError::Never(why),
                false => JobError::Again(why),
            }
        })
    }
}

fn not_now(why: impl Into<String>) -> Problem {
    Problem::new(Fault::NotNow, why)
}

impl Restore {
    async fn restore(
        &self,
        order: &JobOrder,
        restore: &RestoreOrder,
        progress: &Progress,
    ) -> Result<(), Problem> {
        let host = &self.backups.host;
        let plan = self.backups.tenant(order.uid);
        let plan = plan.filter(|plan| plan.name == order.tenant);
        let plan = plan.ok_or_else(|| not_now("the plan does not name this tenant"))?;
        let disk = |e: std::io::Error| Problem::disk("the tenant's record cannot be read", &e);
        match copies::find(host, &plan).await.map_err(disk)? {
            Copy::Incoming => {}
            Copy::Complete(Some(job)) if job == order.id => {
                progress.note("it was restored before the agent ended".to_owned());
                return Ok(());
            }
            Copy::Following | Copy::Followed(_) | Copy::Complete(_) => {
                let why = "what is here is complete, and is never written again";
                return Err(Problem::for_good(Fault::Other, why));
            }
            Copy::Closed | Copy::Unrecorded => {
                return Err(not_now("the volumes for it are not made yet"));
            }
        }
        if copies::is_up(host, &plan.name).await? {
            return Err(not_now("a container of it still runs here"));
        }
        let (ground, image) = self.ground(&plan).await?;
        let brought = self.bring(&plan, restore, &ground, image, progress).await?;
        progress.note(told(restore, &brought));
        let whole = match restore.rekey {
            true => Database::Restored {
                source: brought.database,
                neutralise: restore.neutralise,
            },
            false => Database::Ready { synced: true },
        };
        self.record(order, plan, (whole, brought.timeline)).await
    }

    /// Where everything goes, and who opens it.
    async fn ground(&self, plan: &TenantPlan) -> Result<(Ground, ImageFacts), Problem> {
        let host = &self.backups.host;
        let places = copies::places(host, &plan.name, plan.uid).await?;
        let places = places.map_err(|why| match why.is_for_good() {
            true => Problem::for_good(Fault::Other, format!("on this host {why}")),
            false => not_now(format!("on this host {why}")),
        })?;
        let postgres = self
            .image(plan.postgres_image.as_str(), Role::Postgres)
            .await?;
        let odoo = self.image(plan.odoo_image.as_str(), Role::Odoo).await?;
        let nowhere = || {
            let why =
                "this image of PostgreSQL keeps its data elsewhere than in the tenant's volume";
            Problem::for_good(Fault::Other, why)
        };
        let ground = Ground {
            cluster: design::cluster_in_volume(&postgres).ok_or_else(nowhere)?,
            postgres_owner: (postgres.uid, postgres.gid),
            major: postgres.postgres_major.clone(),
            odoo_owner: (odoo.uid, odoo.gid),
            log: scratch(&places.postgres).ok_or_else(nowhere)?,
            postgres: places.postgres,
            odoo: places.odoo,
            name: plan.name.clone(),
            disk_bytes: plan.size.disk_bytes,
            reserve: self.reserve,
            newest_timeline: {
                let (host, plan) = (host.clone(), plan.clone());
                let newest = blocking(move || Ok(copies::newest_timeline(&host, &plan))).await;
                newest.unwrap_or_default()
            },
            still: {
                let (host, plan) = (host.clone(), plan.clone());
                Arc::new(move || copies::is_incoming(&host, &plan))
            },
        };
        Ok((ground, postgres))
    }

    /// An image, which is pulled where it is not here: the tenant's own loop does not while nothing of it is to run.
    pub(super) async fn image(&self, reference: &str, role: Role) -> Result<ImageFacts, Problem> {
        let host = &self.backups.host;
        if let Some(facts) = host.images.facts(reference, role).await? {
            return usable(facts, role);
        }
        let pulled = host.docker.pull(reference, &|_| {}).await;
        pulled.map_err(|e| Problem::new(Fault::Other, e.to_string()))?;
        let facts = host.images.facts(reference, role).await?;
        let none = || Problem::new(Fault::Other, format!("image {reference} is not here"));
        usable(facts.ok_or_else(none)?, role)
    }

    /// Fetches, and recovers.
    pub(super) async fn bring(
        &self,
        plan: &TenantPlan,
        restore: &RestoreOrder,
        ground: &Ground,
        image: ImageFacts,
        progress: &Progress,
    ) -> Result<Brought, Problem> {
        let stop = Stop::default();
        let _stops = StopWhenDropped(stop.clone());
        let cache = Records::of(&self.backups.host.data, plan.uid).cache(&restore.destination.name);
        let show = |done, total| progress.begin(done, total);
        let filled = self.fetch(cache, restore, ground, &stop, &show).await?;
        progress.tell("its PostgreSQL recovers it");
        let launch = Launch {
            purpose: Purpose::restore(&plan.name, plan.uid),
            memory_bytes: plan.size.memory_bytes,
            image,
            volume: ground.postgres.clone(),
            log: ground.log.clone(),
            extent: Extent::of(restore.to, filled.followed.is_some()),
        };
        let (odoo, name) = (ground.odoo.clone(), ground.name.clone());
        let filestore = blocking(move || files::open(&Root::open(&odoo)?, &name)).await;
        let filestore =
            filestore.map_err(|e| Problem::disk("the filestore cannot be opened", &e))?;
        let about = (filled.database.as_str(), filestore);
        let reached =
            recover::recover(&*self.servers, launch, filled.followed, about, &stop).await?;
        let brought = Brought {
            database: filled.database.clone(),
            base_at: filled.base_at,
            timeline: filled.timeline,
            reached,
        };
        let log = ground.log.clone();
        let ended = blocking(move || {
            fsutil::remove_tree(&log)?;
            filled.sync()
        });
        ended
            .await
            .map_err(|e| Problem::disk("what was restored cannot be brought to disk", &e))?;
        Ok(brought)
    }

    /// Fills the ground. `cache`: where copies of the repository's small files are kept; `show` is told how many bytes have come, and
    /// how many come.
    pub(super) async fn fetch(
        &self,
        cache: PathBuf,
        restore: &RestoreOrder,
        ground: &Ground,
        stop: &Stop,
        show: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<fill::Filled, Problem> {
        let backups = &self.backups;
        let store = backups
            .stores
            .store(restore.source, &restore.destination, cache, stop)?;
        let job = Job {
            stop: stop.clone(),
            source: vec![backups.pace.clone()],
            destination: vec![backups.pace_of(&restore.destination)],
            processors: PROCESSORS,
            ..Job::default()
        };
        let (counter, total) = (
            job.progress.clone(),
            Arc::new(std::sync::atomic::AtomicU64::new(0)),
        );
        let (order, ground, sum) = (restore.clone(), ground.clone(), total.clone());
        let mut work = tokio::task::spawn_blocking(move || {
            let tell = |bytes| sum.store(bytes, Ordering::Relaxed);
            fill::fill(store, &order, &ground, &job, tell)
        });
        loop {
            tokio::select! {
                filled = &mut work => {
                    let read = counter.read.load(Ordering::Relaxed);
                    show(read, total.load(Ordering::Relaxed).max(read));
                    // A panic is logged by the runtime.
                    return filled.map_err(|_| Problem::stopped())?;
                }
                () = sleep(SHOW) => {
                    let whole = total.load(Ordering::Relaxed);
                    let read = counter.read.load(Ordering::Relaxed);
                    show(if whole == 0 { 0 } else { read }, whole);
                }
            }
        }
    }

    /// From here on it may start.
    async fn record(
        &self,
        order: &JobOrder,
        plan: TenantPlan,
        whole: (Database, Option<u32>),
    ) -> Result<(), Problem> {
        let (host, job) = (self.backups.host.clone(), order.id);
        let recorded = blocking(move || copies::complete_as(&host, &plan, job, whole)).await;
        match recorded {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_now("its volumes are not to be filled any more")),
            Err(e) => Err(Problem::disk("that it is complete cannot be recorded", &e)),
        }
    }
}

fn usable(facts: ImageFacts, role: Role) -> Result<ImageFacts, Problem> {
    let known = role != Role::Postgres || !facts.postgres_major.is_empty();
    if facts.standin || !known {
        let why = "the tenant's images only pose as Odoo and PostgreSQL: nothing can be restored with them";
        return Err(Problem::for_good(Fault::Other, why));
    }
    Ok(facts)
}

/// A directory of ours beside the volume: on its disk, and not the tenant's.
fn scratch(volume: &Path) -> Option<PathBuf> {
    Some(volume.parent()?.join(RESTORE_LOG))
}

/// What was brought back.
#[derive(Debug, Clone)]
pub struct Brought {
    /// The database's name in the cluster.
    pub database: String,
    pub base_at: UnixMs,
    /// The timeline that its log goes on with, where it begins one.
    pub timeline: Option<u32>,
    pub reached: Reached,
}

fn utc(at: UnixMs) -> String {
    timestamp(at).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// What was asked for and what was reached, in words.
pub(super) fn told(order: &RestoreOrder, brought: &Brought) -> String {
    let asked = match order.to {
        RestoreTo::Time(at) => format!("asked for {}; ", utc(at)),
        RestoreTo::Backup | RestoreTo::Latest => String::new(),
    };
    let last = match brought.reached.last {
        Some(at) => format!("the last transaction is of {}", utc(at)),
        None => format!(
            "no transaction after the backup of {}",
            utc(brought.base_at)
        ),
    };
    let files = match &brought.reached.attachments {
        None => "no attachments to look for".to_owned(),
        Some(found) if found.missing == 0 => {
            format!("all {} attachments' files are there", found.named)
        }
        Some(found) => format!(
            "{} of {} attachments' files are missing: {}",
            found.missing,
            found.named,
            found.examples.join(", ")
        ),
    };
    format!("{asked}{last}; {files}")
}

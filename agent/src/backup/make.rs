//! Backups that jobs order: a base while the tenant runs, a dump, everything until now, and the files of a tenant that has stopped.
//!
//! A snapshot is there only when all parts of it were read and their producers have ended well; a base only when every segment that it
//! cannot be started without is there or in it. Not here: the turns of jobs (jobs), shipping by itself (ship, shipper).

use std::{io, sync::Arc};

use isyone_backup::{Label, Pace, Part, Purpose, Stop, Written, source::Plain};
use isyone_proto::{
    backup::{
        BackupMade, BackupPurpose, BackupWork, Counts, Destination, Fault, MakeBackup, Segment,
        Segments, SnapshotName,
    },
    plan::{JobOrder, JobWork, TenantPlan},
};
use tokio::runtime::Handle;
use tonic::async_trait;

use super::{
    Backups,
    chain::{Base, Chain, SegmentSize},
    close::{Closing, Late, OwnedManifest, Still},
    cluster::Stream,
    destination, files,
    manifest::Manifest,
    put::{Put, StopWhenDropped, timestamp},
    site::Site,
    spool,
    words::Problem,
};
use crate::{
    base::{
        beneath::{RelPath, Root},
        clock::now_ms,
        fsutil::blocking,
    },
    jobs::{JobError, Progress, Work},
};

/// How many processors reading and packing a whole tenant may use; with each of them some 50 MB.
const PROCESSORS: usize = 2;
/// How often an order is tried, over some seconds. It has the only place of its host meanwhile; what does not pass is the
/// coordinator's to order again, later, after others.
const ATTEMPTS: u32 = 4;

/// Carries backup orders out.
pub struct Make(pub Arc<Backups>);

#[async_trait]
impl Work for Make {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Result<(), JobError> {
        let made = match &order.work {
            JobWork::Backup(make) => self.0.make(order, make, progress).await,
            JobWork::Fetch { .. }
            | JobWork::Follow { .. }
            | JobWork::Restore(_)
            | JobWork::Verify(_) => Err(Problem::for_good(Fault::Other, "no order to back up")),
        };
        match made {
            Ok(made) => {
                progress.begin(made.read_bytes, made.read_bytes);
                progress.made(made);
                Ok(())
            }
            Err(problem) => {
                progress.failed(problem.fault);
                let why = format!("{}: {}", target(order), problem.message);
                Err(match problem.for_good {
                    true => JobError::Never(why),
                    false => JobError::Again(why),
                })
            }
        }
    }

    fn most_attempts(&self, _order: &JobOrder) -> Option<u32> {
        Some(ATTEMPTS)
    }
}

fn target(order: &JobOrder) -> &str {
    match &order.work {
        JobWork::Backup(make) => make.destination.as_str(),
        JobWork::Fetch { .. }
        | JobWork::Follow { .. }
        | JobWork::Restore(_)
        | JobWork::Verify(_) => "",
    }
}

/// A backup under way.
struct Making<'a> {
    order: &'a JobOrder,
    make: &'a MakeBackup,
    tenant: TenantPlan,
    destination: Destination,
    site: Arc<Site>,
    stop: Stop,
    /// What is committed before is in it.
    at: i64,
    progress: &'a Progress,
}

impl Backups {
    async fn make(
        self: &Arc<Self>,
        order: &JobOrder,
        make: &MakeBackup,
        progress: &Progress,
    ) -> Result<BackupMade, Problem> {
        let tenant = self
            .tenant(order.uid)
            .filter(|tenant| tenant.name == order.tenant);
        let tenant = tenant
            .ok_or_else(|| Problem::new(Fault::NotNow, "the plan does not name this tenant"))?;
        let destination = destination(&tenant, &make.destination)?;
        let stop = Stop::default();
        let _stops = StopWhenDropped(stop.clone());
        let site = self.site(tenant.uid, &destination.name);
        let making = Making {
            order,
            make,
            tenant,
            destination,
            site,
            stop,
            at: now_ms(),
            progress,
        };
        let made = match make.work {
            BackupWork::Base => self.base(&making).await,
            BackupWork::Dump => self.dump(&making).await,
            BackupWork::Stopped => self.stopped(&making).await,
            BackupWork::Ship => {
                let shipped = self
                    .ship_now(&making.tenant, &making.destination, progress)
                    .await?;
                shipped.ok_or_else(|| Problem::new(Fault::NotNow, "nothing was ever shipped"))
            }
        };
        // A shipment has counted its snapshots itself.
        if let (Ok(made), false) = (&made, make.work == BackupWork::Ship) {
            making.site.made(made).await;
        }
        self.show(&making.tenant, None, "").await;
        made
    }

    /// A base backup of a tenant that runs.
    async fn base(self: &Arc<Self>, making: &Making<'_>) -> Result<BackupMade, Problem> {
        let archives = match making.tenant.wal_spool {
            Some(_) => self.tenants.position(&making.tenant, false).await?.archives,
            None => false,
        };
        if !archives {
            return self.base_with_log(making).await;
        }
        let first = self.begin(making).await?;
        let based = self.base_after(making, first).await;
        if based.is_err() {
            // The log is not kept for a base that does not come. What the next attempt needs, it says.
            making.site.change(None, |chain| chain.begun = None).await?;
        }
        based
    }

    /// Says from where on the log is needed, before anything is read. The tenant's turn is held: no segment leaves the spool meanwhile.
    async fn begin(&self, making: &Making<'_>) -> Result<(Segment, SegmentSize), Problem> {
        let _turn = self.turn(making.tenant.uid).lock_owned().await;
        let kept = self.tenants.kept(&making.tenant).await?;
        let position = self.tenants.position(&making.tenant, false).await?;
        let spool = blocking(move || spool::forget_gap(&Root::open(&kept.spool)?)).await;
        spool.map_err(|e| Problem::disk("the spool cannot be used", &e))?;
        let first = position.segment();
        making
            .site
            .change(Some(position.size), |chain| chain.begin(first))
            .await?;
        Ok((first, position.size))
    }

    async fn base_after(
        self: &Arc<Self>,
        making: &Making<'_>,
        (first, size): (Segment, SegmentSize),
    ) -> Result<BackupMade, Problem> {
        let kept = self.tenants.kept(&making.tenant).await?;
        let counts = self
            .tenants
            .counts(&making.tenant)
            .await
            .unwrap_or_default();
        let rest = Late::default();
        let closing = Closing {
            backups: self.clone(),
            handle: Handle::current(),
            tenant: making.tenant.clone(),
            site: making.site.clone(),
            spool: kept.spool.clone(),
            first,
            size,
            rest: rest.clone(),
        };
        let mut manifest = self.manifest(making, counts);
        manifest.segment_bytes = Some(size.bytes());
        let closed = OwnedManifest::of(&manifest);
        let chosen = rest.clone();
        let (spool, filestore) = self.folders(making).await?;
        let mut parts = vec![
            self.stream(making, "database.tar", Stream::Base),
            Part::stream("manifest.json", move || {
                let needs = closing.close()?;
                Ok(Plain(io::Cursor::new(closed.with(needs))))
            }),
            Part::later("wal", spool, move || Ok(chosen.names())),
        ];
        parts.extend(filestore);
        let parent = making.site.chain().await?.0.base.map(|base| base.snapshot);
        let written = self.store_parts(making, parts, parent).await?;
        // Nobody else ships for the tenant until this is written down.
        let rest = rest.take();
        let made = self.made(making, &written, rest.needs, counts);
        let base = Base {
            snapshot: made.snapshot,
            at: making.at,
            needs: rest.needs,
        };
        let record = |chain: &mut Chain| {
            if !rest.are_shipped_too {
                chain.shipped(&rest.segments, size);
                chain.files_since = Some(making.at);
            }
            chain.based(base);
            chain.newest = Some(made.clone());
        };
        making.site.change(Some(size), record).await?;
        let waits = rest.are_shipped_too;
        drop(rest); // the tenant's turn is in it
        if waits {
            let tenant = (&making.tenant, true);
            self.ship_rest(tenant, &making.destination, &making.site)
                .await;
        }
        Ok(made)
    }

    /// A base backup of a tenant whose log is not archived, or not before its PostgreSQL is started anew: it stands for itself, and
    /// nothing follows.
    async fn base_with_log(self: &Arc<Self>, making: &Making<'_>) -> Result<BackupMade, Problem> {
        let counts = self
            .tenants
            .counts(&making.tenant)
            .await
            .unwrap_or_default();
        let manifest = self.manifest(making, counts).json();
        let mut parts = vec![
            self.stream(making, "database.tar", Stream::BaseWithLog),
            Part::bytes("manifest.json", manifest),
        ];
        parts.extend(self.filestore(making).await?);
        self.standing_alone(making, parts, counts).await
    }

    /// Everything of a tenant that does not run.
    async fn stopped(self: &Arc<Self>, making: &Making<'_>) -> Result<BackupMade, Problem> {
        let kept = self.tenants.kept(&making.tenant).await?;
        let still = Still {
            backups: self.clone(),
            handle: Handle::current(),
            tenant: making.tenant.clone(),
            postgres: kept.postgres.clone(),
        };
        let looked = still.look().await?;
        // Nothing follows what is copied now, and the spool is cleared then.
        if making.site.chain().await?.0.is_whole() {
            let tenant = (&making.tenant, false);
            self.ship_rest(tenant, &making.destination, &making.site)
                .await;
        }
        let place = kept.postgres.clone();
        let database = blocking(move || Root::open(&place)?.directory(&RelPath::root())).await;
        let database =
            database.map_err(|e| Problem::disk("the database's files cannot be opened", &e))?;
        let manifest = self.manifest(making, Counts::default()).json();
        let mut parts = vec![
            Part::folder("database", database),
            Part::stream("manifest.json", move || {
                still.is_as(&looked)?;
                Ok(Plain(io::Cursor::new(manifest)))
            }),
        ];
        parts.extend(self.filestore(making).await?);
        self.standing_alone(making, parts, Counts::default()).await
    }

    /// Writes a base that needs no log.
    async fn standing_alone(
        &self,
        making: &Making<'_>,
        parts: Vec<Part>,
        counts: Counts,
    ) -> Result<BackupMade, Problem> {
        let parent = making.site.chain().await?.0.base.map(|base| base.snapshot);
        let written = self.store_parts(making, parts, parent).await?;
        let made = self.made(making, &written, None, counts);
        let base = Base {
            snapshot: made.snapshot,
            at: making.at,
            needs: None,
        };
        let record = |chain: &mut Chain| {
            chain.based(base);
            chain.newest = Some(made.clone());
        };
        making.site.change(None, record).await?;
        Ok(made)
    }

    /// The portable copy: no base for anything.
    async fn dump(self: &Arc<Self>, making: &Making<'_>) -> Result<BackupMade, Problem> {
        let counts = self
            .tenants
            .counts(&making.tenant)
            .await
            .unwrap_or_default();
        let manifest = self.manifest(making, counts).json();
        let mut parts = vec![
            self.stream(making, "dump.pgc", Stream::Dump),
            Part::bytes("manifest.json", manifest),
        ];
        parts.extend(self.filestore(making).await?);
        let parent = making.site.chain().await?.0.base.map(|base| base.snapshot);
        let written = self.store_parts(making, parts, parent).await?;
        let made = self.made(making, &written, None, counts);
        let newest = made.clone();
        making
            .site
            .change(None, |chain| chain.newest = Some(newest))
            .await?;
        Ok(made)
    }

    fn manifest(&self, making: &Making<'_>, counts: Counts) -> Manifest<'_> {
        let mut manifest = Manifest::new(making.make.work, &self.name, making.at, &making.tenant);
        manifest.purpose = making.make.purpose;
        manifest.backup = Some(making.order.id);
        manifest.counts = counts;
        manifest
    }

    fn stream(self: &Arc<Self>, making: &Making<'_>, part: &str, stream: Stream) -> Part {
        let (backups, tenant, stop) = (self.clone(), making.tenant.clone(), making.stop.clone());
        let handle = Handle::current();
        Part::stream(part, move || {
            let begun = backups.tenants.stream(&tenant, stream, &stop);
            handle
                .block_on(begun)
                .map_err(|problem| io::Error::other(problem.message))
        })
    }

    /// The spool, and the filestore where there is one.
    async fn folders(
        &self,
        making: &Making<'_>,
    ) -> Result<(std::os::fd::OwnedFd, Option<Part>), Problem> {
        let kept = self.tenants.kept(&making.tenant).await?;
        let spool = blocking(move || Root::open(&kept.spool)?.directory(&RelPath::root())).await;
        let spool = spool.map_err(|e| Problem::disk("the spool cannot be opened", &e))?;
        Ok((spool, self.filestore(making).await?))
    }

    async fn filestore(&self, making: &Making<'_>) -> Result<Option<Part>, Problem> {
        let kept = self.tenants.kept(&making.tenant).await?;
        let name = making.tenant.name.clone();
        let opened = blocking(move || {
            let root = files::open(&Root::open(&kept.odoo)?, &name)?;
            root.map(|root| root.directory(&RelPath::root()))
                .transpose()
        });
        let opened = opened
            .await
            .map_err(|e| Problem::disk("the filestore cannot be opened", &e))?;
        Ok(opened.map(|folder| Part::folder("filestore", folder)))
    }

    async fn store_parts(
        &self,
        making: &Making<'_>,
        parts: Vec<Part>,
        parent: Option<SnapshotName>,
    ) -> Result<Written, Problem> {
        let Some(backup) = &making.tenant.backup else {
            return Err(Problem::new(
                Fault::NotNow,
                "the tenant's plan has no backups",
            )); // the destination is of it
        };
        let own = Arc::new(Pace::new(making.order.rate_bytes_per_s));
        let cache = making.site.records.cache(&making.destination.name);
        let store =
            self.stores
                .store(making.tenant.uid, &making.destination, cache, &making.stop)?;
        let put = Put {
            store,
            key: backup.key.clone(),
            stop: making.stop.clone(),
            source: vec![self.pace.clone(), own],
            destination: vec![self.pace_of(&making.destination)],
            processors: PROCESSORS,
        };
        let label = label(making, &self.name.to_string());
        put.write(label, parts, parent, true, Some(making.progress))
            .await
    }

    fn made(
        &self,
        making: &Making<'_>,
        written: &Written,
        segments: Option<Segments>,
        counts: Counts,
    ) -> BackupMade {
        BackupMade {
            snapshot: SnapshotName(written.snapshot.0),
            work: making.make.work,
            at: making.at,
            ended_at: now_ms(),
            read_bytes: written.bytes,
            stored_bytes: written.stored,
            files: written.files,
            left_out: written.left_out.count,
            segments,
            counts,
        }
    }
}

/// What a snapshot says of itself in the repository's own list.
fn label(making: &Making<'_>, host: &str) -> Label {
    let MakeBackup {
        work,
        purpose,
        labels,
        ..
    } = making.make;
    let mut tags = vec![
        format!("tenant:{}", making.tenant.name),
        format!("backup:{}", making.order.id),
        format!("for:{}", word(*purpose)),
    ];
    tags.extend(labels.iter().map(|label| format!("label:{label}")));
    Label {
        purpose: kept_as(*work, *purpose),
        time: timestamp(making.at),
        host: host.to_owned(),
        tags,
    }
}

fn word(purpose: BackupPurpose) -> &'static str {
    match purpose {
        BackupPurpose::Scheduled => "schedule",
        BackupPurpose::OnOrder => "order",
        BackupPurpose::OnStop => "stop",
        BackupPurpose::BeforeDelete => "delete",
        BackupPurpose::BeforeUpgrade => "upgrade",
        BackupPurpose::BeforeFailover => "failover",
    }
}

/// How long it is kept: with those of each day, or because somebody wanted it.
fn kept_as(work: BackupWork, purpose: BackupPurpose) -> Purpose {
    match (purpose, work) {
        (_, BackupWork::Ship) => Purpose::Increment,
        (BackupPurpose::Scheduled | BackupPurpose::OnStop, BackupWork::Dump) => Purpose::Dump,
        (BackupPurpose::Scheduled | BackupPurpose::OnStop, _) => Purpose::Base,
        _ => Purpose::Kept,
    }
}

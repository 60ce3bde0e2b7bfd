//! One shipment: what waits in a tenant's spool and what is new in its filestore, to each destination, as a snapshot where there is
//! anything; then segments that nobody needs any more leave the spool.
//!
//! The database first, then the files: segments are listed, then new files are looked for, so every file that the database names in them
//! is there. Not here: when (shipper), what follows from what is found (chain).

use std::{path::PathBuf, sync::Arc, time::Duration};

use isyone_backup::{Label, Part, Purpose, Stop};
use isyone_proto::{
    backup::{BackupMade, BackupWork, Destination, Fault, Segment, Segments, SnapshotName},
    plan::{DesiredState, TenantPlan},
};
use tokio::time::{Instant, sleep};

use super::{
    Backups,
    chain::{Chain, Position, SegmentSize, removable, safe_to},
    destinations, files,
    manifest::Manifest,
    put::{Put, StopWhenDropped, timestamp},
    site::Site,
    spool::{self, Listed},
    words::Problem,
};
use crate::{
    base::{
        beneath::{RelPath, Root},
        clock::now_ms,
        fsutil::blocking,
    },
    jobs::Progress,
    tenant::kept::Kept,
};

/// A segment in which something was written is finished after so many seconds, where the plan does not say.
const SWITCH_S: u32 = 60;
/// How long a segment that is finished may take into the spool.
const ARCHIVING: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(500);
/// So many finished segments may be on their way into the spool.
const ON_THEIR_WAY: u64 = 16;
/// Shipments of one destination at one time, each of 256 MiB at most: then others have their turn.
const ROUNDS: usize = 16;
/// Histories of timelines that go with a shipment: there is one for each time that the tenant was restored or moved.
const HISTORIES: usize = 64;

/// What a shipment is to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What PostgreSQL has finished by itself.
    Finished,
    /// Everything that is committed when it begins.
    Everything,
}

/// A tenant as one shipment finds it.
pub struct Found {
    pub kept: Kept,
    pub spool: Arc<Root>,
    /// Unset where PostgreSQL does not run; then what waits is shipped all the same.
    pub position: Option<Position>,
    pub size: SegmentSize,
    pub listed: Listed,
}

impl Found {
    /// A later history than the cluster's own is of a restore that was taken back: it is nobody's any more, and lies ahead for ever.
    fn is_abandoned(&self, segment: &Segment) -> bool {
        let position = self.position.as_ref();
        position.is_some_and(|position| segment.timeline > position.timeline)
    }

    /// What waits, sorted.
    fn names(&self) -> Vec<Segment> {
        let mut names = self.listed.names();
        names.retain(|segment| !self.is_abandoned(segment));
        names
    }

    fn abandoned(&self) -> Vec<Segment> {
        let mut names = self.listed.names();
        names.retain(|segment| self.is_abandoned(segment));
        names
    }
}

fn not_archived(tenant: &TenantPlan) -> String {
    format!(
        "its PostgreSQL was started by a version before and archives nothing until it is started anew: \
         `isyctl tenant restart {} --with-database`",
        tenant.name
    )
}

impl Backups {
    /// Ships a tenant's changes to all its destinations, and clears its spool. How it went is shown.
    pub async fn ship_all(&self, tenant: &TenantPlan) -> Result<(), Problem> {
        let _turn = self.turn(tenant.uid).lock_owned().await;
        let found = match self.find(tenant, None).await {
            Ok(found) => found,
            Err(problem) => {
                for site in self.sites(tenant) {
                    site.ended(Err(&problem), now_ms()).await;
                }
                self.show(tenant, None, "").await;
                return Err(problem);
            }
        };
        let mut first = Ok(());
        for destination in destinations(tenant) {
            let site = self.site(tenant.uid, &destination.name);
            let shipped = self
                .ship_to(tenant, destination, &site, &found, Extent::Finished, None)
                .await;
            site.ended(shipped.as_ref().map(|_| ()), now_ms()).await;
            first = first.and(shipped.map(drop));
        }
        let archiver = self.archiver(tenant, &found).await;
        let cleared = self.clear(tenant, &found).await;
        let left = list(&found.spool, found.size).await.ok();
        self.show(tenant, left.as_ref(), archiver).await;
        first.and(cleared)
    }

    /// Ships to one destination as a job orders; returns the newest snapshot there.
    pub async fn ship_now(
        &self,
        tenant: &TenantPlan,
        destination: &Destination,
        progress: &Progress,
    ) -> Result<Option<BackupMade>, Problem> {
        let _turn = self.turn(tenant.uid).lock_owned().await;
        let site = self.site(tenant.uid, &destination.name);
        if !site.chain().await?.0.is_whole() {
            return Err(Problem::new(
                Fault::NotNow,
                "there is no base backup that the log could follow",
            ));
        }
        let found = self.find(tenant, Some(&site)).await?;
        let extent = Extent::Everything;
        let shipped = self
            .ship_to(tenant, destination, &site, &found, extent, Some(progress))
            .await;
        site.ended(shipped.as_ref().map(|_| ()), now_ms()).await;
        self.show(tenant, Some(&found.listed), "").await;
        let chain = shipped?;
        if !chain.is_whole() {
            return Err(Problem::new(
                Fault::NotNow,
                "segments of the log are missing: a base backup must come first",
            ));
        }
        Ok(chain.newest)
    }

    /// Looks at a tenant: where its log ends, then what lies in its spool. For a destination that is to get everything, the segment
    /// under way is finished, and waited for.
    pub async fn find(
        &self,
        tenant: &TenantPlan,
        waits_for: Option<&Site>,
    ) -> Result<Found, Problem> {
        let runs = tenant.desired == DesiredState::Running;
        let position = match self.tenants.position(tenant, waits_for.is_some()).await {
            Ok(position) => Some(position),
            Err(problem) if runs || waits_for.is_some() => return Err(problem),
            Err(_) => None,
        };
        if position.is_some_and(|position| !position.archives) {
            // Said before the spool is looked at: there may be none.
            return Err(Problem::new(Fault::Source, not_archived(tenant)));
        }
        self.found(tenant, position, waits_for).await
    }

    /// The same where it is known where the log ends; `None`: PostgreSQL does not run, and what waits is all that there is.
    pub(super) async fn found(
        &self,
        tenant: &TenantPlan,
        position: Option<Position>,
        waits_for: Option<&Site>,
    ) -> Result<Found, Problem> {
        let kept = self.tenants.kept(tenant).await?;
        let mut known = position.map(|position| position.size);
        for site in self.sites(tenant) {
            known = known.or(site.chain().await?.1);
        }
        let size =
            known.ok_or_else(|| Problem::new(Fault::NotNow, "PostgreSQL has not run yet"))?;
        let place = kept.spool.clone();
        let spool = blocking(move || Root::open(&place)).await;
        let spool = Arc::new(spool.map_err(|e| Problem::disk("the spool cannot be opened", &e))?);
        let mut listed = list(&spool, size).await?;
        if let (Some(site), Some(position)) = (waits_for, position) {
            let begun = Instant::now();
            while !self.has(&listed, position) && !site.chain().await?.0.has(position) {
                if begun.elapsed() > ARCHIVING {
                    let why = "PostgreSQL does not put its log into the spool";
                    return Err(Problem::new(Fault::Source, why));
                }
                sleep(LOOK).await;
                listed = list(&spool, size).await?;
            }
        }
        Ok(Found {
            kept,
            spool,
            position,
            size,
            listed,
        })
    }

    fn has(&self, listed: &Listed, position: Position) -> bool {
        listed.segments.contains_key(&position.finished())
    }

    /// What seems to keep PostgreSQL from archiving: some segments are always on their way.
    async fn archiver(&self, tenant: &TenantPlan, found: &Found) -> &'static str {
        let Some(position) = found.position else {
            return "";
        };
        // Where nothing is needed, the spool is cleared, and nothing is known.
        let mut shipped = None;
        for site in self.sites(tenant) {
            let chain = site.chain().await.map(|(chain, _)| chain);
            let whole = chain.ok().filter(Chain::is_whole);
            shipped = shipped.max(whole.and_then(|chain| chain.there.map(|there| there.last)));
        }
        let waiting = found.listed.segments.keys().max().copied();
        let newest = shipped.map(|shipped| waiting.map_or(shipped, |waiting| waiting.max(shipped)));
        let behind = newest.map_or(0, |newest| found.size.ahead(position.finished(), newest));
        match behind > ON_THEIR_WAY {
            true => "finished segments of the log are not put into the spool",
            false => "",
        }
    }

    /// Ships what one destination lacks; returns its chain. The tenant's turn is held.
    pub(super) async fn ship_to(
        &self,
        tenant: &TenantPlan,
        destination: &Destination,
        site: &Site,
        found: &Found,
        extent: Extent,
        progress: Option<&Progress>,
    ) -> Result<Chain, Problem> {
        let names = found.names();
        for _ in 0..ROUNDS {
            let (chain, _) = site.chain().await?;
            let gone_back = { found.position }.is_some_and(|p| chain.is_ahead_of(p.timeline));
            if gone_back {
                site.change(Some(found.size), |chain| chain.broken(now_ms()))
                    .await?;
            }
            let (chain, _) = site.chain().await?;
            let next = chain.next(&names, found.size);
            if next.hole {
                tracing::warn!(tenant = %tenant.name, destination = %site.destination, "segments of the log are missing");
                site.change(Some(found.size), |chain| chain.broken(now_ms()))
                    .await?;
            }
            let (chain, _) = site.chain().await?;
            if chain.needs_from(found.size).is_none() {
                return Ok(chain); // nothing follows a base that is not there
            }
            let begun = now_ms();
            // Files last: what the database names in the segments before them is there.
            let files = match next.more {
                true => None,
                false => self.new_files(tenant, found, &chain, begun).await?,
            };
            if !next.ship.is_empty() || files.is_some() {
                let shipment = Shipment {
                    segments: next.ship,
                    files,
                    begun,
                    is_last: !next.more,
                    // While the first base is under way there may be none.
                    makes: chain.base.is_none(),
                };
                self.put(tenant, destination, site, found, shipment, progress)
                    .await?;
            }
            if !next.more {
                break;
            }
        }
        let all = |chain: &mut Chain| {
            let there = found.position.is_none_or(|position| chain.has(position));
            if let Some(position) = found.position.filter(|_| there && chain.is_whole()) {
                let switched = extent == Extent::Everything;
                let to = safe_to(&position, switch_ms(tenant), switched);
                chain.shipped_to = chain.shipped_to.max(Some(to));
            }
        };
        site.change(Some(found.size), all).await
    }

    /// Files that are not there yet; `None`: no file is new.
    async fn new_files(
        &self,
        tenant: &TenantPlan,
        found: &Found,
        chain: &Chain,
        now: i64,
    ) -> Result<Option<NewFiles>, Problem> {
        let since = files::threshold(chain.files_since, now);
        let (place, name) = (found.kept.odoo.clone(), tenant.name.clone());
        let looked = blocking(move || {
            let Some(root) = files::open(&Root::open(&place)?, &name)? else {
                return Ok(None);
            };
            let new = match since {
                Some(since) => files::new_since(&root, since)?,
                None => files::New {
                    all: true,
                    ..files::New::default()
                },
            };
            Ok(Some(NewFiles { root, new, since }))
        });
        let looked = looked
            .await
            .map_err(|e| Problem::disk("the filestore cannot be looked at", &e))?;
        Ok(looked.filter(|files| files.new.all || !files.new.paths.is_empty()))
    }

    /// Writes the snapshot, then records what is there.
    async fn put(
        &self,
        tenant: &TenantPlan,
        destination: &Destination,
        site: &Site,
        found: &Found,
        shipment: Shipment,
        progress: Option<&Progress>,
    ) -> Result<(), Problem> {
        let Some(backup) = &tenant.backup else {
            return Ok(()); // whoever calls has its destinations from there
        };
        let stop = Stop::default();
        let _stops = StopWhenDropped(stop.clone());
        let cache = site.records.cache(&site.destination);
        let put = Put {
            store: self.stores.store(tenant.uid, destination, cache, &stop)?,
            key: backup.key.clone(),
            stop,
            source: vec![self.pace.clone()],
            destination: vec![self.pace_of(destination)],
            processors: 1,
        };
        let mut manifest = Manifest::new(BackupWork::Ship, &self.name, shipment.begun, tenant);
        let segments = shipment.range();
        manifest.segments = segments;
        manifest.segment_bytes = Some(found.size.bytes());
        manifest.files_since = shipment.files.as_ref().and_then(|files| files.since);
        let label = Label {
            purpose: Purpose::Increment,
            time: timestamp(shipment.begun),
            host: self.name.to_string(),
            tags: vec![format!("tenant:{}", tenant.name)],
        };
        let (begun, names) = (shipment.begun, shipment.segments.clone());
        let (is_last, makes) = (shipment.is_last, shipment.makes);
        let parts = shipment.parts(&found.spool, &found.listed, manifest.json())?;
        let written = put.write(label, parts, None, makes, progress).await?;
        let is_segment = |(path, _): &(String, _)| path.starts_with("wal/");
        if written.left_out.first.iter().any(is_segment) {
            // Nobody but the tenant's own programs takes them away: the chain has a hole, and the next look says so.
            let why = "segments of the log have vanished from the spool";
            return Err(Problem::new(Fault::Source, why));
        }
        let made = BackupMade {
            snapshot: SnapshotName(written.snapshot.0),
            work: BackupWork::Ship,
            at: begun,
            ended_at: now_ms(),
            read_bytes: written.bytes,
            stored_bytes: written.stored,
            files: written.files,
            left_out: written.left_out.count,
            segments,
            counts: Default::default(),
        };
        site.made(&made).await;
        let record = |chain: &mut Chain| {
            chain.shipped(&names, found.size);
            if is_last {
                chain.files_since = Some(begun);
            }
            chain.newest = Some(made);
        };
        site.change(Some(found.size), record).await.map(drop)
    }

    /// Removes segments that no destination needs. A destination of which nothing is known keeps all of them.
    async fn clear(&self, tenant: &TenantPlan, found: &Found) -> Result<(), Problem> {
        let all = destinations(tenant);
        let any = all.iter().any(|destination| destination.required);
        let counting = all
            .iter()
            .filter(|destination| destination.required || !any);
        let mut needed = Vec::new();
        for destination in counting {
            let (chain, _) = self.site(tenant.uid, &destination.name).chain().await?;
            needed.push(chain.needs_from(found.size));
        }
        let mut segments = removable(&found.names(), &needed);
        if !needed.is_empty() {
            segments.extend(found.abandoned());
        }
        let is_of_no_use = |name: &&String| !name.ends_with(".history");
        let others = found.listed.others.iter().filter(is_of_no_use).cloned();
        let mut names: Vec<_> = segments.iter().map(ToString::to_string).collect();
        names.extend(others.filter(|_| !needed.is_empty()));
        let spool = found.spool.clone();
        let removed = blocking(move || spool::remove(&spool, &names)).await;
        removed.map_err(|e| Problem::disk("shipped segments cannot be removed", &e))
    }
}

fn switch_ms(tenant: &TenantPlan) -> i64 {
    let said = tenant.wal_spool.map_or(0, |spool| spool.switch_s);
    i64::from(if said == 0 { SWITCH_S } else { said }) * 1_000
}

async fn list(spool: &Arc<Root>, size: SegmentSize) -> Result<Listed, Problem> {
    let spool = spool.clone();
    let listed = blocking(move || spool::list(&spool, size)).await;
    listed.map_err(|e| Problem::disk("the spool cannot be read", &e))
}

/// New files of a filestore.
struct NewFiles {
    root: Root,
    new: files::New,
    since: Option<i64>,
}

/// What one snapshot brings.
struct Shipment {
    segments: Vec<Segment>,
    files: Option<NewFiles>,
    /// Before anything of it was looked for.
    begun: i64,
    /// No more segments wait: new files were looked for.
    is_last: bool,
    /// A repository that is not there is made.
    makes: bool,
}

impl Shipment {
    fn range(&self) -> Option<Segments> {
        Some(Segments {
            first: *self.segments.first()?,
            last: *self.segments.last()?,
        })
    }

    fn parts(self, spool: &Root, listed: &Listed, manifest: Vec<u8>) -> Result<Vec<Part>, Problem> {
        let unopened = |e| Problem::disk("what is to be shipped cannot be opened", &e);
        let mut parts = vec![Part::bytes("manifest.json", manifest)];
        if !self.segments.is_empty() {
            let histories = listed
                .others
                .iter()
                .filter(|name| name.ends_with(".history"));
            let mut names: Vec<PathBuf> =
                self.segments.iter().map(|s| s.to_string().into()).collect();
            names.extend(histories.take(HISTORIES).map(PathBuf::from));
            let folder = spool.directory(&RelPath::root()).map_err(unopened)?;
            parts.push(Part::paths(
                "wal",
                folder,
                names.iter().map(PathBuf::as_path),
            ));
        }
        if let Some(files) = self.files {
            let folder = files.root.directory(&RelPath::root()).map_err(unopened)?;
            parts.push(match files.new.all {
                true => Part::folder("filestore", folder),
                false => {
                    let paths = files.new.paths.iter().map(PathBuf::as_path);
                    Part::paths("filestore", folder, paths)
                }
            });
        }
        Ok(parts)
    }
}

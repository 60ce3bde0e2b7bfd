//! Fills a tenant's empty volumes from its repository: the base's database and files, then the log and the new files of the shipments
//! that follow it. What is missing, damaged or too large is said before anything is written, as far as that can be told.
//!
//! Blocking. Everything in a repository is hostile: the host that wrote it may have been broken into. Not here: which shipments (choose),
//! recovering the database (recover).

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use isyone_backup::{
    Existing, Job, Owner as Owned, Purpose, Reader, Repository, Snapshot, Store, Target,
};
use isyone_proto::{
    backup::{Counts, Fault, RestoreOrder, RestoreTo, Segment, Segments},
    ids::TenantName,
    plan::UnixMs,
};
use rustix::fs::{FlockOperation, flock};

use super::{
    super::{
        chain::SegmentSize,
        store,
        words::{Problem, problem},
    },
    choose::{self, Followed},
    described::{Bounded, Manifest},
    recover::pass_over,
    unpack::{Site, own, unpack},
};
use crate::{
    base::{
        beneath::{RelPath, Root},
        fsutil::{self, Owner},
        tree,
    },
    jobs::fetch::{Reserve, Room},
};

/// Files and folders of one part.
const MOST_ENTRIES: u64 = 4_000_000;
/// What tells PostgreSQL to recover from a log.
const SIGNAL: &str = "recovery.signal";
/// What would have it do something else, or nothing.
const LEFT_OVER: [&str; 3] = ["standby.signal", SIGNAL, "postmaster.pid"];

/// Where everything goes.
#[derive(Clone)]
pub struct Ground {
    /// The volume of PostgreSQL, and where in it the cluster is.
    pub postgres: PathBuf,
    pub cluster: String,
    pub postgres_owner: Owner,
    /// The major version that is to open it.
    pub major: String,
    pub odoo: PathBuf,
    pub odoo_owner: Owner,
    /// A directory of ours for the segments, on the same disk.
    pub log: PathBuf,
    /// The tenant that it is for.
    pub name: TenantName,
    /// The tenant's disk.
    pub disk_bytes: u64,
    pub reserve: Reserve,
    /// The highest timeline of the tenant's own that a restore has begun: this one begins none of before.
    pub newest_timeline: u32,
    /// Whether the volumes are still to be filled: looked at when nobody else can have them any more.
    pub still: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// What was filled.
pub(in crate::backup) struct Filled {
    /// The database's name in the cluster.
    pub database: String,
    /// The moment that the base stands for.
    pub base_at: UnixMs,
    /// How far the log leads; `None`: none follows.
    pub followed: Option<Followed>,
    /// The size of its segments, where that is known.
    pub size: Option<SegmentSize>,
    /// What was counted when it was made.
    pub counts: Counts,
    /// It was stopped then: nothing is to be recovered.
    pub was_stopped: bool,
    pub bytes: u64,
    /// The timeline that its log goes on with; `None`: it goes on with the one that it has.
    pub timeline: Option<u32>,
    /// The volumes, open since before anything was written, and held against other attempts.
    held: [OwnedFd; 2],
}

impl Filled {
    /// Brings everything to disk, what a program has written since too.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.held.iter().try_for_each(crate::base::beneath::sync)
    }
}

/// A repository that is read.
struct Source<'a> {
    reader: Reader,
    ground: &'a Ground,
    job: &'a Job,
}

/// What is to be fetched: snapshots, and what of each.
struct Fetching {
    base: Snapshot,
    manifest: Manifest,
    /// Oldest first.
    shipments: Vec<Snapshot>,
    /// Of the log's segments.
    size: Option<SegmentSize>,
    /// The log leads there, where nothing is missing: the next base needs it.
    until: Option<Segment>,
    bytes: u64,
}

fn never(why: impl Into<String>) -> Problem {
    Problem::for_good(Fault::Damaged, why)
}

fn here(what: &'static str) -> impl Fn(io::Error) -> Problem {
    move |e| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Problem::for_good(Fault::Full, "this host's disk is full")
        }
        io::ErrorKind::WouldBlock => {
            Problem::new(Fault::NotNow, "an attempt before this one is just ending")
        }
        _ => Problem::disk(what, &e),
    }
}

/// Fills. `total` is told how many bytes come.
pub(super) fn fill(
    store: Arc<dyn Store>,
    order: &RestoreOrder,
    ground: &Ground,
    job: &Job,
    total: impl Fn(u64),
) -> Result<Filled, Problem> {
    let repository = store::open(store, &order.key, false, job).map_err(|e| problem(&e))?;
    let source = Source {
        reader: repository.reader(job).map_err(|e| problem(&e))?,
        ground,
        job,
    };
    let fetching = source.choose(&repository, order)?;
    source.check_room(&fetching)?;
    total(fetching.bytes);
    // What was looked at is not what is brought.
    job.progress.read.store(0, Ordering::Relaxed);
    let (postgres, odoo) = (open(&ground.postgres)?, open(&ground.odoo)?);
    let held = [hold(&postgres)?, hold(&odoo)?];
    // Nobody else takes these volumes now. What was decided while an image was pulled may be over.
    if job.stop.is_stopped() || !(ground.still)() {
        return Err(Problem::new(
            Fault::NotNow,
            "its volumes are not to be filled any more",
        ));
    }
    source.empty()?;
    source.database(&fetching, &postgres)?;
    let followed = source.log(&fetching)?;
    source.files(&fetching, &odoo)?;
    source.ready(&postgres, followed.is_some())?;
    let begins = |needs: Segments| needs.first.timeline.max(ground.newest_timeline) + 1;
    let needs = fetching.manifest.segments.filter(|_| followed.is_some());
    Ok(Filled {
        timeline: needs.map(begins),
        database: fetching.manifest.tenant.name.database(),
        base_at: fetching.manifest.at,
        size: fetching.size,
        counts: fetching.manifest.counts,
        was_stopped: has(&fetching.base, "database"),
        bytes: fetching.bytes,
        followed,
        held,
    })
}

fn open(place: &Path) -> Result<Root, Problem> {
    Root::open(place).map_err(here("a volume cannot be opened"))
}

fn hold(root: &Root) -> Result<OwnedFd, Problem> {
    let held = root
        .directory(&RelPath::root())
        .map_err(here("a volume cannot be opened"))?;
    let locked = flock(&held, FlockOperation::NonBlockingLockExclusive);
    locked.map_err(|e| here("a volume cannot be locked")(e.into()))?;
    Ok(held)
}

fn path(text: &str) -> Result<RelPath, Problem> {
    RelPath::parse(text.as_bytes())
        .map_err(|_| Problem::for_good(Fault::Other, "a place in a volume is none"))
}

impl Source<'_> {
    fn choose(&self, repository: &Repository, order: &RestoreOrder) -> Result<Fetching, Problem> {
        let name = isyone_backup::store::Name(order.base.0);
        let base = repository.snapshot(name).map_err(|e| match e {
            isyone_backup::Error::NoSnapshot(_) => never("the backup is not there any more"),
            e => problem(&e),
        })?;
        let manifest = self.manifest(&base)?;
        let size = manifest
            .segment_bytes
            .map(SegmentSize::try_from)
            .transpose();
        let size = size.map_err(|_| never("its manifest says what no segment has"))?;
        let mut all = repository.snapshots().map_err(|e| problem(&e))?.snapshots;
        let next = all.iter().find(|s| is_base(s) && s.time > base.time);
        let next = next.cloned();
        all.retain(|snapshot| snapshot.purpose == Some(Purpose::Increment));
        let times: Vec<UnixMs> = all.iter().map(|s| s.time.as_millisecond()).collect();
        let log = (manifest.segments, size);
        let brings = |index: usize| self.manifest(&all[index]).map(|manifest| manifest.segments);
        let wanted = choose::wanted(manifest.at, log, &times, order.to, brings)?;
        // One that is damaged keeps nobody from what was before it.
        let until = next
            .filter(|_| matches!(order.to, RestoreTo::Time(_)) && !wanted.settled)
            .and_then(|next| self.manifest(&next).ok()?.segments);
        let mut fetching = Fetching {
            size,
            shipments: wanted
                .shipments
                .into_iter()
                .map(|index| all[index].clone())
                .collect(),
            until: until.map(|needs| needs.last),
            base,
            manifest,
            bytes: 0,
        };
        fetching.bytes = self.measure(&fetching)?;
        Ok(fetching)
    }

    fn manifest(&self, snapshot: &Snapshot) -> Result<Manifest, Problem> {
        let mut json = Bounded::default();
        let copied = self.reader.copy(snapshot, "manifest.json", &mut json);
        copied.map_err(|e| problem(&e))?;
        Manifest::read(&json).map_err(never)
    }

    /// The parts that are brought, and their bytes.
    fn measure(&self, fetching: &Fetching) -> Result<u64, Problem> {
        let mut bytes = 0u64;
        let base = (
            &fetching.base,
            &["database.tar", "database", "filestore", "wal"][..],
        );
        let shipments = fetching
            .shipments
            .iter()
            .map(|s| (s, &["filestore", "wal"][..]));
        for (snapshot, parts) in std::iter::once(base).chain(shipments) {
            for part in parts.iter().filter(|part| has(snapshot, part)) {
                let measured = self.reader.measure(snapshot, part);
                let measured = measured.map_err(|e| problem(&e))?;
                bytes = bytes.saturating_add(measured.bytes);
            }
        }
        Ok(bytes)
    }

    fn check_room(&self, fetching: &Fetching) -> Result<(), Problem> {
        let space = open(&self.ground.postgres)?.space();
        let (free, total) = space.map_err(here("the disk cannot be looked at"))?;
        let room = Room {
            copy: fetching.bytes,
            here: 0,
            size: self.ground.disk_bytes,
            free,
            total,
            reserve: self.ground.reserve,
        };
        room.check()
            .map_err(|why| Problem::for_good(Fault::Full, why))
    }

    /// An attempt before may have left anything.
    fn empty(&self) -> Result<(), Problem> {
        let ground = self.ground;
        let emptied = tree::wipe(&ground.postgres)
            .and_then(|()| tree::wipe(&ground.odoo))
            .and_then(|()| match fsutil::exists(&ground.log) {
                true => fsutil::remove_tree(&ground.log),
                false => Ok(()),
            })
            .and_then(|()| fsutil::private_dir(&ground.log));
        emptied.map_err(here("the volumes cannot be emptied"))
    }

    fn target(&self, folder: OwnedFd, (user, group): Owner, existing: Existing) -> Target {
        Target {
            folder,
            existing,
            owner: Some(Owned { user, group }),
            most_bytes: u64::MAX, // there is room for all that was measured
            most_entries: MOST_ENTRIES,
        }
    }

    fn database(&self, fetching: &Fetching, volume: &Root) -> Result<(), Problem> {
        let (base, owner) = (&fetching.base, self.ground.postgres_owner);
        let failed = here("the database's files cannot be written");
        if has(base, "database") {
            let folder = volume.directory(&RelPath::root()).map_err(&failed)?;
            let target = self.target(folder, owner, Existing::Refuse);
            let restored = self.reader.restore(base, "database", &target);
            return restored.map(drop).map_err(|e| restoring(&e));
        }
        if !has(base, "database.tar") {
            return Err(never("it holds no database"));
        }
        let mut place = RelPath::root();
        for name in self.ground.cluster.split('/').filter(|n| !n.is_empty()) {
            place = place
                .join(name.as_bytes())
                .map_err(|e| failed(io::Error::other(e)))?;
            let made = volume.make_directory(&place);
            let made = made.and_then(|()| own(volume.directory(&place)?, owner, 0o700));
            made.map_err(&failed)?;
        }
        let root = volume.below(&place).map_err(&failed)?;
        let into = Site {
            root: &root,
            owner,
            most_bytes: fetching.bytes,
        };
        unpack(&self.reader, base, "database.tar", &into)
    }

    /// Brings the segments, and looks at what is there.
    fn log(&self, fetching: &Fetching) -> Result<Option<Followed>, Problem> {
        let (Some(needs), Some(size)) = (fetching.manifest.segments, fetching.size) else {
            return Ok(None);
        };
        let failed = here("the log cannot be written");
        let log = open(&self.ground.log)?;
        let folder = || log.directory(&RelPath::root());
        own(
            folder().map_err(&failed)?,
            self.ground.postgres_owner,
            0o700,
        )
        .map_err(&failed)?;
        for snapshot in std::iter::once(&fetching.base).chain(&fetching.shipments) {
            if has(snapshot, "wal") {
                let folder = folder().map_err(&failed)?;
                let target = self.target(folder, self.ground.postgres_owner, Existing::Keep);
                let restored = self.reader.restore(snapshot, "wal", &target);
                restored.map_err(|e| restoring(&e))?;
            }
        }
        let mut there: Vec<Segment> = Vec::new();
        let listed = log.entries(&mut |name, _| {
            there.extend(
                name.to_str()
                    .ok()
                    .and_then(|name| name.parse::<Segment>().ok()),
            );
            true
        });
        listed.map_err(&failed)?;
        let followed =
            choose::follow(&there, (needs, fetching.until), size).map_err(|missing| {
                never(format!(
                    "segment {missing} of the log, which the backup cannot do without, is missing"
                ))
            })?;
        let owner = self.ground.postgres_owner;
        pass_over(
            &log,
            owner,
            needs.first.timeline,
            self.ground.newest_timeline,
        )?;
        Ok(Some(followed))
    }

    /// The base's files and all that came after: their names are hashes of their contents, so more of them do no harm.
    fn files(&self, fetching: &Fetching, volume: &Root) -> Result<(), Problem> {
        let failed = here("the files cannot be written");
        let owner = self.ground.odoo_owner;
        let root = volume.directory(&RelPath::root()).map_err(&failed)?;
        own(root, owner, 0o755).map_err(&failed)?;
        let mut place = RelPath::root();
        for name in ["filestore", &self.ground.name.database()] {
            place = place
                .join(name.as_bytes())
                .map_err(|e| failed(io::Error::other(e)))?;
            let made = volume.make_directory(&place);
            let made = made.and_then(|()| own(volume.directory(&place)?, owner, 0o755));
            made.map_err(&failed)?;
        }
        for snapshot in std::iter::once(&fetching.base).chain(&fetching.shipments) {
            if has(snapshot, "filestore") {
                let folder = volume.directory(&place).map_err(&failed)?;
                let target = self.target(folder, owner, Existing::Keep);
                let restored = self.reader.restore(snapshot, "filestore", &target);
                restored.map_err(|e| restoring(&e))?;
            }
        }
        Ok(())
    }

    /// Compares the version, and tells PostgreSQL whether a log follows.
    fn ready(&self, volume: &Root, recovers: bool) -> Result<(), Problem> {
        let failed = here("the database's files cannot be written");
        let owner = self.ground.postgres_owner;
        let root = volume.directory(&RelPath::root()).map_err(&failed)?;
        own(root, owner, 0o700).map_err(&failed)?;
        let cluster = volume.below(&path(&self.ground.cluster)?).map_err(|_| {
            never("it holds no database where this image of PostgreSQL looks for one")
        })?;
        let major = cluster.text(&path("PG_VERSION")?, 64);
        let major = major.map_err(|_| never("it holds no database: PG_VERSION is missing"))?;
        if major.trim() != self.ground.major {
            return Err(Problem::for_good(
                Fault::Other,
                format!(
                    "it was made by PostgreSQL {}, and the tenant's image has {}",
                    isyone_proto::echo::echo(major.trim()),
                    self.ground.major
                ),
            ));
        }
        for name in LEFT_OVER {
            cluster.remove(&path(name)?).map_err(&failed)?;
        }
        if recovers {
            let signal = cluster.writable(&path(SIGNAL)?).map_err(&failed)?;
            own(&signal, owner, 0o600).map_err(&failed)?;
        }
        match self.job.stop.is_stopped() {
            true => Err(Problem::stopped()),
            false => Ok(()),
        }
    }
}

fn is_base(snapshot: &Snapshot) -> bool {
    matches!(snapshot.purpose, Some(Purpose::Base | Purpose::Kept))
}

fn has(snapshot: &Snapshot, part: &str) -> bool {
    snapshot.parts.iter().any(|own| own == part)
}

/// What it means that a part could not be put here.
fn restoring(error: &isyone_backup::Error) -> Problem {
    match error {
        isyone_backup::Error::Restore { source, .. } => {
            here("what was backed up cannot be written")(source.kind().into())
        }
        e => problem(e),
    }
}

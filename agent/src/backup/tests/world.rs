//! A tenant without an engine: its PostgreSQL is a counter that puts segments into a spool, its destinations are folders, one of
//! which can be told to fail. What is looked at in the end is what lies in the repositories.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
};

use bytes::Bytes;
use isyone_backup::{
    Job, Key, Repository, Snapshot, Stop, Store,
    source::Producer,
    store::{File, Kind, Local, Name, StoreError},
};
use isyone_proto::{
    backup::{
        BackupMade, BackupPlan, BackupPurpose, BackupWork, Counts, Fault, MakeBackup, Place,
        RepositoryKey, Segment,
    },
    plan::{JobOrder, JobWork, WalSpool},
};
use tonic::async_trait;

use super::super::{
    chain::{Position, SegmentSize},
    cluster::Stream,
    *,
};
use crate::{
    base::{clock::now_ms, config::DataDir},
    host::{Host, Pace as HostPace},
    jobs::{JobError, Progress, Work as _},
    tenant::kept::Kept,
    testing::{fake_docker::FakeDocker, host_plan, tenant_plan},
};

pub(super) const MIB: u64 = 1 << 20;
/// More files than any test writes.
pub(super) const PLENTY: i64 = 1 << 40;

/// A tenant, and what its programs do.
pub(super) struct Tenant {
    pub(super) dir: PathBuf,
    /// The segment under way.
    pub(super) segment: AtomicU64,
    pub(super) runs: AtomicBool,
    /// Its next base backup dies after some bytes.
    pub(super) dies: AtomicBool,
    /// Segments that are finished are let go.
    pub(super) lets_go: AtomicBool,
    /// It was started by a version before, which archives nothing.
    pub(super) is_old: AtomicBool,
    pub(super) timeline: AtomicU32,
}

pub(super) fn size() -> SegmentSize {
    SegmentSize::try_from(MIB).unwrap()
}

impl Tenant {
    pub(super) fn new(dir: &Path) -> Self {
        for folder in ["pgdata/global", "odoo/filestore/odoo_alfa/ab", "wal"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        fs::write(dir.join("pgdata/global/pg_control"), "1").unwrap();
        Self {
            dir: dir.to_owned(),
            segment: AtomicU64::new(5),
            runs: AtomicBool::new(true),
            dies: AtomicBool::new(false),
            lets_go: AtomicBool::new(false),
            is_old: AtomicBool::new(false),
            timeline: AtomicU32::new(1),
        }
    }

    /// Something is written, and the segment under way finished.
    pub(super) fn write(&self) -> Segment {
        let number = self.segment.fetch_add(1, Ordering::SeqCst);
        let segment = size().of(self.timeline.load(Ordering::SeqCst), number * MIB);
        if !self.lets_go.load(Ordering::SeqCst) {
            let mut content = vec![0; MIB as usize];
            content[..8].copy_from_slice(&number.to_le_bytes());
            fs::write(self.spool().join(segment.to_string()), content).unwrap();
        }
        segment
    }

    /// It begins another timeline, and says where in the spool.
    pub(super) fn promote(&self) {
        let next = self.timeline.fetch_add(1, Ordering::SeqCst) + 1;
        let history = format!("{}\t0/5000028\tno recovery target specified\n", next - 1);
        fs::write(self.spool().join(format!("{next:08X}.history")), history).unwrap();
    }

    pub(super) fn attach(&self, name: &str) {
        fs::write(
            self.dir.join("odoo/filestore/odoo_alfa/ab").join(name),
            name,
        )
        .unwrap();
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.dir.join("wal")
    }

    pub(super) fn waiting(&self) -> Vec<String> {
        let names = fs::read_dir(self.spool()).unwrap();
        let mut names: Vec<_> = names
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

struct FakeTenants(Arc<Tenant>);

/// Some bytes, and then the end of a program.
struct Output {
    left: usize,
    code: i32,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.left);
        buffer[..length].fill(7);
        self.left -= length;
        Ok(length)
    }
}

impl Producer for Output {
    fn finish(&mut self) -> io::Result<()> {
        match self.code {
            0 => Ok(()),
            code => Err(io::Error::other(format!(
                "the program ended with code {code}"
            ))),
        }
    }
}

#[async_trait]
impl Tenants for FakeTenants {
    async fn kept(&self, _: &TenantPlan) -> Result<Kept, Problem> {
        let at = |name: &str| self.0.dir.join(name);
        Ok(Kept {
            postgres: at("pgdata"),
            odoo: at("odoo"),
            spool: at("wal"),
        })
    }

    async fn is_up(&self, _: &TenantPlan) -> Result<bool, Problem> {
        Ok(self.0.runs.load(Ordering::SeqCst))
    }

    async fn position(&self, _: &TenantPlan, switch: bool) -> Result<Position, Problem> {
        if !self.0.runs.load(Ordering::SeqCst) {
            return Err(Problem::new(Fault::Source, "PostgreSQL is not running"));
        }
        if switch {
            self.0.write();
        }
        Ok(Position {
            at: now_ms(),
            timeline: self.0.timeline.load(Ordering::SeqCst),
            lsn: self.0.segment.load(Ordering::SeqCst) * MIB + 40,
            size: size(),
            archives: !self.0.is_old.load(Ordering::SeqCst),
        })
    }

    async fn counts(&self, _: &TenantPlan) -> Result<Counts, Problem> {
        Ok(Counts {
            database_bytes: 1,
            relations: 2,
            attachments: 3,
        })
    }

    async fn stream(
        &self,
        _: &TenantPlan,
        stream: Stream,
        _: &Stop,
    ) -> Result<Box<dyn Producer>, Problem> {
        let dies = self.0.dies.load(Ordering::SeqCst);
        if stream == Stream::Base && !dies {
            self.0.write(); // what the end of a base backup finishes
        }
        Ok(Box::new(Output {
            left: 3 << 20,
            code: i32::from(dies),
        }))
    }
}

/// A folder that can be told to be full.
#[derive(Debug, Clone)]
struct Folder {
    inner: Local,
    /// Files that it still takes.
    room: Arc<AtomicI64>,
}

impl Store for Folder {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }
    fn list(&self, kind: Kind) -> Result<Vec<(Name, u64)>, StoreError> {
        self.inner.list(kind)
    }
    fn read(&self, file: File, most: u64) -> Result<Bytes, StoreError> {
        self.inner.read(file, most)
    }
    fn read_part(&self, file: File, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        self.inner.read_part(file, offset, length)
    }
    fn write(&self, file: File, content: &[Bytes]) -> Result<(), StoreError> {
        if self.room.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(StoreError::Full(io::ErrorKind::StorageFull.into()));
        }
        self.inner.write(file, content)
    }
    fn remove(&self, _: File) -> Result<(), StoreError> {
        Err(StoreError::Denied(io::ErrorKind::PermissionDenied.into()))
    }
}

struct Folders {
    root: PathBuf,
    room: BTreeMap<String, Arc<AtomicI64>>,
}

impl Stores for Folders {
    fn store(
        &self,
        tenant: Uuid,
        destination: &Destination,
        _: PathBuf,
        _: &Stop,
    ) -> Result<Arc<dyn Store>, Problem> {
        let name = destination.name.as_str();
        let inner = Local::new(self.root.join(name).join(tenant.to_string()));
        let room = self.room[name].clone();
        Ok(Arc::new(Folder { inner, room }))
    }
}

/// A host with one tenant and two destinations: `far`, which is not required, and `own`, which is.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) host: Arc<Host>,
    pub(super) tenant: Arc<Tenant>,
    tenants: Arc<dyn Tenants>,
    pub(super) plan: TenantPlan,
    pub(super) room: BTreeMap<String, Arc<AtomicI64>>,
    pub(super) backups: Arc<Backups>,
    pub(super) in_force: watch::Receiver<InForce>,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tenant = Arc::new(Tenant::new(&dir.path().join("alfa")));
        let tenants = Arc::new(FakeTenants(tenant.clone()));
        Self::with(dir, tenant, tenants)
    }

    /// With somebody else's tenant.
    pub(super) fn of(tenants: Arc<dyn Tenants>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tenant = Arc::new(Tenant::new(&dir.path().join("alfa")));
        Self::with(dir, tenant, tenants)
    }

    fn with(dir: tempfile::TempDir, tenant: Arc<Tenant>, tenants: Arc<dyn Tenants>) -> Self {
        let data = DataDir::new(dir.path().join("agent"));
        data.create().unwrap();
        let advertise = [192, 0, 2, 7].into();
        let docker = FakeDocker::new(dir.path(), 1);
        let host = Host::new(docker.clone(), docker, data, advertise, HostPace::hasty());
        let host = Arc::new(host.unwrap());
        let mut plan = tenant_plan("alfa");
        let destination = |name: &str, required| Destination {
            name: name.parse().unwrap(),
            at: Place::Coordinator,
            required,
            rate_bytes_per_s: 0,
        };
        plan.wal_spool = Some(WalSpool::default());
        plan.backup = Some(BackupPlan {
            key: RepositoryKey::from(&[3; 64]),
            destinations: vec![destination("far", false), destination("own", true)],
            ship_s: 300,
        });
        let room: BTreeMap<String, Arc<AtomicI64>> = ["far", "own"]
            .map(|name| (name.to_owned(), Arc::new(AtomicI64::new(PLENTY))))
            .into();
        for name in room.keys() {
            fs::create_dir_all(dir.path().join("stores").join(name)).unwrap();
        }
        let in_force = InForce {
            plan: Some(Arc::new(host_plan(1, vec![plan.clone()]))),
            stale: Vec::new(),
            unasked: false,
        };
        let in_force = watch::channel(in_force).1;
        Self {
            backups: Self::backups(dir.path(), &host, &tenants, &room, &in_force),
            dir,
            host,
            tenant,
            tenants,
            plan,
            room,
            in_force,
        }
    }

    fn backups(
        dir: &Path,
        host: &Arc<Host>,
        tenants: &Arc<dyn Tenants>,
        room: &BTreeMap<String, Arc<AtomicI64>>,
        in_force: &watch::Receiver<InForce>,
    ) -> Arc<Backups> {
        let stores = Folders {
            root: dir.join("stores"),
            room: room.clone(),
        };
        Arc::new(Backups::new(
            host.clone(),
            "h1".parse().unwrap(),
            in_force.clone(),
            tenants.clone(),
            Arc::new(stores),
            0,
        ))
    }

    /// The agent dies, and another begins with what is on disk.
    pub(super) fn restart(&mut self) {
        self.backups = Self::backups(
            self.dir.path(),
            &self.host,
            &self.tenants,
            &self.room,
            &self.in_force,
        );
    }

    pub(super) async fn job(
        &self,
        work: BackupWork,
        destination: &str,
    ) -> Result<BackupMade, JobError> {
        let order = JobOrder {
            id: Uuid::new_v4(),
            operation: Uuid::nil(),
            tenant: self.plan.name.clone(),
            uid: self.plan.uid,
            work: JobWork::Backup(MakeBackup {
                work,
                purpose: BackupPurpose::Scheduled,
                destination: destination.parse().unwrap(),
                labels: vec!["nightly".parse().unwrap()],
            }),
            rate_bytes_per_s: 0,
        };
        let throttle = || Arc::new(crate::base::throttle::Throttle::new(0));
        let progress = Progress::new(self.host.clone(), order.id, [throttle(), throttle()]);
        Make(self.backups.clone())
            .attempt(&order, &progress)
            .await?;
        Ok(progress.made_so_far().unwrap())
    }

    /// How many more files a destination takes.
    pub(super) fn room(&self, destination: &str, files: i64) {
        self.room[destination].store(files, Ordering::SeqCst);
    }

    pub(super) async fn ship(&self) -> Result<(), Problem> {
        self.backups.ship_all(&self.plan).await
    }

    pub(super) fn repository(&self, destination: &str) -> Repository {
        let uid = self.plan.uid.to_string();
        let store = Local::new(self.dir.path().join("stores").join(destination).join(uid));
        Repository::open(Arc::new(store), &Key::new([3; 64])).unwrap()
    }

    /// How many files a repository has, and their bytes.
    pub(super) fn stored(&self, destination: &str) -> (usize, u64) {
        let uid = self.plan.uid.to_string();
        let store = Local::new(self.dir.path().join("stores").join(destination).join(uid));
        let files = Kind::NAMED.map(|kind| store.list(kind).unwrap()).concat();
        (files.len(), files.iter().map(|(_, bytes)| bytes).sum())
    }

    /// What stock restic says of a repository, with the exported key; `None` where there is none.
    pub(super) fn restic(&self, destination: &str, arguments: &[&str]) -> Option<bool> {
        let uid = self.plan.uid.to_string();
        let repository = self.dir.path().join("stores").join(destination).join(uid);
        let mut restic = std::process::Command::new("restic");
        restic
            .args(["--no-cache", "--no-lock", "--quiet", "--repo"])
            .arg(repository)
            .args(arguments)
            .env("RESTIC_PASSWORD", Key::new([3; 64]).restic_password());
        Some(restic.status().ok()?.success())
    }

    pub(super) fn snapshots(&self, destination: &str) -> Vec<Snapshot> {
        let listing = self.repository(destination).snapshots().unwrap();
        assert_eq!(listing.damaged, []);
        listing.snapshots
    }

    /// The names in a folder of all of a destination's snapshots together.
    pub(super) fn names(&self, destination: &str, folder: &str) -> Vec<String> {
        let repository = self.repository(destination);
        let reader = repository.reader(&Job::default()).unwrap();
        let mut names = std::collections::BTreeSet::new();
        for snapshot in self.snapshots(destination) {
            if !snapshot
                .parts
                .iter()
                .any(|part| folder.starts_with(part.as_str()))
            {
                continue;
            }
            let Ok(entries) = reader.list(&snapshot, folder) else {
                continue;
            };
            names.extend(entries.into_iter().map(|e| e.name));
        }
        names.into_iter().collect()
    }

    pub(super) fn report(&self) -> isyone_proto::backup::BackupReport {
        let entry = self.host.board.backup(&self.plan.name, self.plan.uid);
        *entry.unwrap()
    }

    pub(super) fn at(&self, destination: &str) -> isyone_proto::backup::DestinationReport {
        let found = self
            .report()
            .destinations
            .into_iter()
            .find(|d| d.name.as_str() == destination);
        found.unwrap()
    }
}

pub(super) fn why(failed: Result<BackupMade, JobError>) -> String {
    match failed {
        Err(JobError::Again(why) | JobError::Never(why)) => why,
        Ok(made) => panic!("{made:?}"),
    }
}

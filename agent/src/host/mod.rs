//! What all tenants of a host share: the engine, the probes, the snapshots, the board, and timeouts and intervals.
//!
//! Not here: loops (reconcile) and the link.

pub mod addon;
pub mod addresses;
mod answered;
pub mod answers;
pub mod board;
pub mod catcher;
pub mod cgroup;
pub mod chores;
pub mod cluster;
pub mod database;
mod departed;
pub mod disk;
pub mod ended;
pub mod events;
pub mod firewall;
pub mod gauge;
pub mod golden;
pub mod homes;
pub mod hosts;
pub mod identity;
pub mod images;
pub mod known;
pub mod leases;
pub mod ledger;
pub mod links;
pub mod mark;
pub mod monitors;
mod mtu;
mod pace;
pub mod probe;
pub mod relay;
pub mod resources;
pub mod space;
pub mod survey;
pub mod traces;
pub mod usage;
mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU16},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use isyone_proto::plan::TenantPlan;
use tokio::{
    sync::{OnceCell, Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

pub use self::pace::Pace;
use self::{
    addresses::Arrivals, board::StatusBoard, golden::GoldenStore, homes::Homes, images::ImageCache,
    known::KnownContainers, leases::Leases, mark::Mark, probe::Probe, relay::RelayRoutes,
    survey::Surveys, traces::Traces,
};
use crate::{
    base::{
        clock,
        config::DataDir,
        fsutil::{self, blocking},
    },
    docker::{Docker, DockerError, EngineInfo},
    plan::{container::NamedSpec, facts::HostFacts, render, starts::Starts},
};

/// Concurrent creates: more would only slow each one down, and starve running tenants.
const HEAVY_AT_ONCE: usize = 4;
/// Concurrent comparisons: bounds the calls that a start with hundreds of tenants sends to Docker.
const LIGHT_AT_ONCE: usize = 8;
/// Concurrent comparisons of tenants whose disk is full, besides: they wait for nobody else.
const FULL_AT_ONCE: usize = 4;

/// Prefix and label of the volume that shows whether volumes are directories of this machine.
const PROBE_VOLUME: &str = "isyone_probe_";
const PROBE_LABEL: &str = "one.isy.probe";
/// Our directory in Docker's data directory; Docker leaves unknown directories alone.
const HOMES_DIR: &str = "isyone";
/// Where earlier versions kept spares.
const OLD_SPARES_DIR: &str = "isyone-spares";
/// Health checks start at this many moments per probe interval: about one a second. Without that alignment the checks
/// of 200 tenants woke the agent some hundred times a second, which cost more than the checks.
const PROBE_MOMENTS: u32 = 16;
/// Full comparisons of settled tenants start at this many moments per interval: those of one moment share a survey of Docker's, where
/// each by itself would ask half a dozen things.
const RESYNC_MOMENTS: u32 = 8;
/// How long new tenants wait at the agent's start for the packet filter to be in force.
const GATE_PATIENCE: Duration = Duration::from_secs(10);

/// Whether new tenants may start on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// New tenants may start.
    Open,
    /// Not known yet, but soon.
    Pending,
    /// New tenants may not start, for this reason.
    Closed(String),
}

pub struct Host {
    pub docker: Arc<dyn Docker>,
    /// Checks whether the programs in the containers answer.
    pub probe: Arc<dyn Probe>,
    /// What stacks must know of images.
    pub images: ImageCache,
    pub golden: GoldenStore,
    pub board: StatusBoard,
    /// Who may run, and who is let go on elsewhere.
    pub leases: Arc<Leases>,
    /// What the host's relay is told, where there is one.
    pub relay: RelayRoutes,
    /// Running containers that the engine need not be asked about again.
    pub known: KnownContainers,
    /// Surveys that several looks share.
    pub surveys: Surveys,
    /// Trace contexts of operations.
    pub traces: Traces,
    pub pace: Pace,
    pub data: DataDir,
    /// Limits concurrent creates.
    pub heavy: Arc<Semaphore>,
    /// Limits concurrent comparisons.
    pub light: Arc<Semaphore>,
    /// Limits those of tenants whose disk is full.
    pub full: Arc<Semaphore>,
    /// Held while the state of a copy that is being filled is written: its loop and a job both do that.
    pub copies: Mutex<()>,
    /// Starts of containers that failed.
    starts: Mutex<Starts>,
    /// Whether new tenants may start.
    pub gate: watch::Sender<Gate>,
    pub arrivals: Arrivals,
    advertise: std::net::IpAddr,
    /// Where tenants' data is kept, if not in Docker's data directory.
    tenants_dir: Option<(PathBuf, Mark)>,
    /// Tenants whose data cannot be moved now; tried again after a restart of the agent.
    unmovable: Mutex<BTreeSet<Uuid>>,
    born: Instant,
    /// Largest packet of tenants' networks, as the fleet says; 0: it says nothing.
    mtu: AtomicU16,
    /// That of the uplink, and when it was found out.
    uplink: Mutex<Option<(Instant, Option<u16>)>>,
    engine: ArcSwapOption<EngineInfo>,
    local_volumes: ArcSwapOption<bool>,
    /// The device that tenants' data is on.
    data_device: OnceCell<String>,
    /// Held while that is found out: whoever does removes what an earlier look has left, which must not be another's.
    looking: tokio::sync::Mutex<()>,
}

impl Host {
    /// Uses a data directory that exists ([`DataDir::create`]).
    pub fn new(
        docker: Arc<dyn Docker>,
        probe: Arc<dyn Probe>,
        data: DataDir,
        advertise: std::net::IpAddr,
        pace: Pace,
    ) -> io::Result<Self> {
        let path = fsutil::canonical(data.path())?; // bind mounts need absolute paths
        let data = DataDir::new(path);
        addon::write(&data.addons())?; // mounted by stacks
        let leases = Arc::new(Leases::open(data.leases()));
        Ok(Self {
            images: ImageCache::new(docker.clone(), data.path().join("images.json")),
            golden: GoldenStore::open(data.golden())?,
            known: KnownContainers::open(data.known()),
            docker,
            probe,
            board: StatusBoard::default(),
            relay: RelayRoutes::open(&data, false, leases.clone()),
            leases,
            surveys: Surveys::default(),
            traces: Traces::default(),
            pace,
            data,
            heavy: Arc::new(Semaphore::new(HEAVY_AT_ONCE)),
            light: Arc::new(Semaphore::new(LIGHT_AT_ONCE)),
            full: Arc::new(Semaphore::new(FULL_AT_ONCE)),
            copies: Mutex::new(()),
            starts: Mutex::default(),
            gate: watch::Sender::new(Gate::Open),
            arrivals: Arrivals::default(),
            advertise,
            tenants_dir: None,
            unmovable: Mutex::default(),
            born: Instant::now(),
            mtu: AtomicU16::new(0),
            uplink: Mutex::default(),
            engine: ArcSwapOption::empty(),
            local_volumes: ArcSwapOption::empty(),
            data_device: OnceCell::new(),
            looking: tokio::sync::Mutex::default(),
        })
    }

    /// Leaves tenants' ports to the host's relay, in place of Docker.
    pub fn with_relay(mut self) -> Self {
        self.relay = RelayRoutes::open(&self.data, true, self.leases.clone());
        self
    }

    /// Keeps tenants' data below `root`, which must be there and is marked: a disk that is not mounted must not look like an
    /// empty one.
    pub fn keep_data_in(mut self, root: &Path) -> io::Result<Self> {
        let root = fsutil::canonical(root)?;
        let mark = Mark::of(&root, &self.data)?;
        self.tenants_dir = Some((root, mark));
        Ok(self)
    }

    /// Why no new tenant may start, if that is so. Waits until it is known.
    pub async fn gate(&self) -> Option<String> {
        let mut gate = self.gate.subscribe();
        match timeout(GATE_PATIENCE, gate.wait_for(|g| *g != Gate::Pending)).await {
            Ok(Ok(settled)) => match &*settled {
                Gate::Closed(why) => Some(why.clone()),
                Gate::Open | Gate::Pending => None,
            },
            // Not known is not open. (We own the sender, so this can only be the timeout.)
            Ok(Err(_)) | Err(_) => Some("the packet filter is not up yet; tried again".to_owned()),
        }
    }

    /// Extends a pause before a health check so that it ends together with others.
    pub fn aligned(&self, pause: Duration) -> Duration {
        clock::aligned(self.born.elapsed(), pause, self.pace.probe / PROBE_MOMENTS)
    }

    /// A pause before a settled tenant's next full comparison, not all at the same moment nor each at its own.
    pub fn until_resync(&self) -> Duration {
        let pause = self.pace.resync + clock::jitter(self.pace.resync / 4);
        clock::aligned(
            self.born.elapsed(),
            pause,
            self.pace.resync / RESYNC_MOMENTS,
        )
    }

    /// Waits until no tenant is being created, for at least a moment.
    pub async fn until_idle(&self) {
        loop {
            sleep(self.pace.idle).await;
            if self.heavy.available_permits() == HEAVY_AT_ONCE {
                return;
            }
        }
    }

    /// Where ports are published.
    pub fn advertise(&self) -> std::net::IpAddr {
        self.advertise
    }

    /// The engine's machine; requested once per connection.
    pub async fn engine(&self) -> Result<Arc<EngineInfo>, DockerError> {
        if let Some(known) = self.engine.load_full() {
            return Ok(known);
        }
        let info = Arc::new(self.docker.info().await?);
        self.board
            .set_warning("Docker's set-up", info.unfit().unwrap_or_default());
        self.engine.store(Some(info.clone()));
        Ok(info)
    }

    /// Docker was lost: what is known of it must be requested again.
    pub fn forget_engine(&self) {
        self.engine.store(None);
        self.local_volumes.store(None);
    }

    /// The engine's version, if it was ever reached.
    pub fn docker_version(&self) -> String {
        self.engine
            .load()
            .as_ref()
            .map(|e| e.version.clone())
            .unwrap_or_default()
    }

    /// Where tenants' data is kept, when known: on the disk that fills up with it.
    pub fn data_root(&self) -> Option<PathBuf> {
        let docker = || {
            let engine = self.engine.load();
            engine.as_ref().map(|e| PathBuf::from(&e.root_dir))
        };
        let chosen = self.tenants_dir.as_ref().map(|(root, _)| root.clone());
        chosen.or_else(docker)
    }

    /// Where tenants' data is kept, if not in Docker's data directory.
    pub fn tenants_dir(&self) -> Option<PathBuf> {
        self.tenants_dir.as_ref().map(|(root, _)| root.clone())
    }

    /// The directory of homes, where this is [`Self::data_root`].
    fn homes_below(&self, place: &Path) -> PathBuf {
        match &self.tenants_dir {
            Some(_) => place.to_owned(),
            None => place.join(HOMES_DIR),
        }
    }

    /// The directories of tenants' data. By default in Docker's data directory, the disk that operators make large
    /// enough for it, and the only place to which data of volumes made by earlier versions can always be renamed.
    pub async fn homes(&self) -> Result<Homes, DockerError> {
        let Some((root, mark)) = &self.tenants_dir else {
            let root = self.homes_below(Path::new(&self.engine().await?.root_dir));
            return Ok(Homes::new(root));
        };
        let homes = Homes::marked(root.clone(), mark.clone());
        let checked = homes.clone();
        let there = blocking(move || checked.check()).await;
        let warning = there.map_or_else(|e| e.to_string(), |()| String::new());
        self.board.set_warning("tenants-dir", &warning);
        Ok(homes)
    }

    /// Starts of containers that failed.
    pub fn starts(&self) -> MutexGuard<'_, Starts> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unmovable(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.unmovable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a tenant's data where it is from now on; `true`: that is news.
    pub fn leave_data(&self, tenant: Uuid) -> bool {
        self.unmovable().insert(tenant)
    }

    /// Whether a tenant's data is left where it is.
    pub fn leaves_data(&self, tenant: Uuid) -> bool {
        self.unmovable().contains(&tenant)
    }

    /// Whether Docker's volumes are directories of this machine, so that snapshots can be copied. Determined with a
    /// volume of a unique name, because a path alone could be another daemon's. Done once per connection, and only when
    /// needed.
    pub async fn volumes_are_local(&self) -> Result<bool, DockerError> {
        if let Some(known) = self.local_volumes.load_full() {
            return Ok(*known);
        }
        let _turn = self.looking.lock().await;
        if let Some(known) = self.local_volumes.load_full() {
            return Ok(*known);
        }
        // A previous run may have died between the following lines and left its volume behind.
        for (name, volume) in self.docker.survey().await?.volumes {
            if name.starts_with(PROBE_VOLUME) && volume.labels.contains_key(PROBE_LABEL) {
                self.docker.remove_volume(&name).await?;
            }
        }
        let labels = BTreeMap::from([(PROBE_LABEL.to_owned(), "1".to_owned())]);
        let probe = NamedSpec {
            name: format!("{PROBE_VOLUME}{}", Uuid::new_v4().simple()),
            labels,
        };
        let volume = self.docker.create_volume(&probe, None).await?;
        let place = PathBuf::from(&volume.mountpoint);
        let local = blocking(move || Ok(fsutil::is_directory(&place))).await;
        let local = local.unwrap_or(false);
        let homes = self.homes().await?;
        let (checked, spares) = (homes.clone(), homes.spares());
        let there = blocking(move || checked.check()).await.is_ok();
        if local && there {
            self.take_over_spares(homes).await?;
            self.golden.spares_in(&spares).await;
        }
        self.docker.remove_volume(&probe.name).await?;
        if !there {
            return Ok(local); // asked again, for the sake of the spares
        }
        self.local_volumes.store(Some(Arc::new(local)));
        Ok(local)
    }

    async fn take_over_spares(&self, homes: Homes) -> Result<(), DockerError> {
        let old = PathBuf::from(&self.engine().await?.root_dir).join(OLD_SPARES_DIR);
        if let Err(e) = blocking(move || homes.adopt_spares(&old)).await {
            tracing::warn!("copies of snapshots made by an earlier version remain: {e}");
        }
        Ok(())
    }

    /// Facts about the host that a stack depends on.
    pub async fn facts(&self) -> Result<HostFacts, DockerError> {
        let engine = self.engine().await?;
        Ok(HostFacts {
            advertise: self.advertise,
            cpus: engine.cpus,
            tenants_dir: self.data.tenants(),
            addons_dir: self.data.addons(),
            data_device: self.data_device(&engine).await,
            mtu: self.mtu(&engine),
            relays: self.relay.is_on(),
            home: None,
        })
    }

    /// The device that tenants' data is on, looked up until it is found: it may be mounted later.
    async fn data_device(&self, engine: &EngineInfo) -> Option<String> {
        let place = match &self.tenants_dir {
            Some((root, _)) => root.clone(),
            None => PathBuf::from(&engine.root_dir),
        };
        let look = || async move {
            let found = blocking(move || Ok(disk::device::device_of(&place)));
            found.await.ok().flatten().ok_or(())
        };
        self.data_device.get_or_try_init(look).await.ok().cloned()
    }

    pub fn directory(&self, plan: &TenantPlan) -> PathBuf {
        self.data.tenants().join(plan.name.as_str())
    }

    /// A tenant's compose file, for messages that tell what to do by hand.
    pub fn compose_path(&self, plan: &TenantPlan) -> PathBuf {
        self.directory(plan).join(render::compose_file(&plan.name))
    }
}

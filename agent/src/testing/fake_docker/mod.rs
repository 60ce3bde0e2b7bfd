//! An in-memory engine with volumes in a directory: obeys at once, follows the real engine's rules (names, running, in
//! use), fails and dies on command. For tests, here and in the workspace's `tests/`; the program does not use it.
//!
//! Databases are files in the PostgreSQL volume, so that golden copies are real copies. Records what must never happen
//! ([`FakeDocker::violations`]): Odoo started before its database has its own keys, a volume removed while in use, a container made
//! of a tag. Not here: faults of the network and of the coordinator.

mod answers;
mod calls;
mod ends;
mod fates;
mod modules;
mod programs;
mod registry;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isyone_proto::plan::UnixMs;
use tokio::sync::{broadcast, watch};

use crate::{
    docker::{DockerError, EngineEvent, EngineInfo, Image, Result, tenant_of_volume},
    plan::container::{
        Container, ContainerSpec, LABEL_STANDIN, LABEL_TENANT, Limits, MountSource, Network,
    },
};

/// Content of a database file that has not been re-keyed.
const DEFAULT_KEYS: &str = "default";
/// How many events a slow listener may lag behind.
const EVENTS: usize = 1024;

/// What goes wrong. Numbers are thousandths of calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The call fails and has no effect.
    pub refused: u32,
    /// The call has its effect, but the answer is lost.
    pub answer_lost: u32,
    /// `odoo -i` ends with an error, leaving half a database.
    pub init_fails: u32,
    /// `odoo -i` does not end.
    pub init_hangs: bool,
    /// SQL in a container never ends.
    pub sql_hangs: bool,
    /// The registry does not answer.
    pub pull_hangs: bool,
}

struct FakeContainer {
    spec: ContainerSpec,
    id: u64,
    state: &'static str,
    code: i32,
    limits: Limits,
    /// When the engine itself has restarted it.
    restarted_ms: Option<UnixMs>,
}

impl FakeContainer {
    /// Whether somebody means this one, called `own`, by a name or an id.
    fn is(&self, own: &str, name: &str) -> bool {
        own == name || format!("id{}", self.id) == name
    }
}

struct FakeVolume {
    labels: HashMap<String, String>,
    /// The directory that it is a record of.
    device: Option<PathBuf>,
}

#[derive(Default)]
struct World {
    images: BTreeMap<String, Image>,
    registry: BTreeSet<String>,
    /// Images that a prune has taken; they can be pulled again.
    pruned: BTreeMap<String, Image>,
    /// What the registry has under a tag in the place of what is here.
    published: BTreeMap<String, Image>,
    /// Odoo's major version, by the image's id.
    odoo_majors: BTreeMap<String, u32>,
    /// Ids of images whose Odoo never answers.
    sick: BTreeSet<String>,
    /// Volumes that a container holds which is not ours.
    held: BTreeSet<String>,
    /// Directories of volumes without a name, by container.
    unnamed: BTreeMap<String, String>,
    /// Its volumes are directories of another machine.
    remote: bool,
    containers: BTreeMap<String, FakeContainer>,
    networks: BTreeMap<String, Network>,
    volumes: BTreeMap<String, FakeVolume>,
    faults: Faults,
    random: u64,
    calls: u64,
    dies_at: Option<u64>,
    down: bool,
    /// How it is set up, but for what is its own anyway.
    daemon: EngineInfo,
    /// It takes questions whether it answers, and does not.
    mute: bool,
    next_id: u64,
    unhealthy: BTreeSet<String>,
    /// Where containers are; those that are not here are at 127.0.0.1.
    places: BTreeMap<String, Ipv4Addr>,
    /// Containers of which containerd has kept half, by their number.
    half_left: BTreeSet<u64>,
    /// Containers that do not end when they are told to.
    stubborn: BTreeSet<String>,
    /// Connections to a tenant's PostgreSQL that came over the network.
    strangers: BTreeMap<String, u32>,
    /// Modules that wait in a tenant's Odoo, and how often loading them fails.
    pending: BTreeMap<String, (u32, u32)>,
    /// Tenants whose modules take for ever to load.
    slow: BTreeSet<String>,
    /// The code with which interactive commands end.
    ends_with: i32,
    modules: modules::Modules,
    violations: Vec<String>,
    log: Vec<String>,
}

impl World {
    /// Xorshift: a seed always gives the same faults.
    fn chance(&mut self, permille: u32) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < u64::from(permille)
    }

    /// By its name or its id.
    fn find(&mut self, name: &str) -> Result<&mut FakeContainer> {
        let mut all = self.containers.iter_mut();
        all.find(|(own, c)| c.is(own, name))
            .map(|(_, container)| container)
            .ok_or_else(|| DockerError::NotFound(format!("No such container: {name}")))
    }
}

pub struct FakeDocker {
    dir: PathBuf,
    world: Mutex<World>,
    events: broadcast::Sender<EngineEvent>,
    dead: watch::Sender<bool>,
}

/// How a call that has its effect ends.
enum Fate {
    Fine,
    LostAnswer,
}

impl FakeDocker {
    /// Keeps its volumes below `dir`. Present: `odoo:19.0`, `postgres:15`, `isyone/standin:1`, `isyone/standin-postgres:1`; pullable: `odoo:18.0`.
    pub fn new(dir: &Path, seed: u64) -> Arc<Self> {
        let mut world = World {
            random: seed | 1,
            ..World::default()
        };
        for (name, user, standin) in [
            ("odoo:19.0", "odoo", false),
            ("postgres:15", "", false),
            ("isyone/standin:1", "", true),
            ("isyone/standin-postgres:1", "", true),
        ] {
            let labels = if standin {
                HashMap::from([(LABEL_STANDIN.to_owned(), "1".to_owned())])
            } else {
                HashMap::new()
            };
            let id = format!("sha256:{name}");
            world.images.insert(
                name.to_owned(),
                Image {
                    digest: id.clone(),
                    id,
                    user: user.to_owned(),
                    env: vec!["PG_MAJOR=15".to_owned()],
                    labels,
                },
            );
        }
        world.registry.insert("odoo:18.0".to_owned());
        Arc::new(Self {
            dir: dir.to_owned(),
            world: Mutex::new(world),
            events: broadcast::channel(EVENTS).0,
            dead: watch::Sender::new(false),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// Makes the caller die at the `calls`-th changing call from now: before the effect or after it, by
    /// the parity of all changing calls so far. The call never returns; [`FakeDocker::died`] completes. The test then drops the agent and starts another.
    pub fn die_at(&self, calls: Option<u64>) {
        let mut world = self.world();
        world.dies_at = calls.map(|n| world.calls + n);
        self.dead.send_replace(false);
    }

    /// Completes when the caller has died.
    pub async fn died(&self) {
        let mut dead = self.dead.subscribe();
        // The sender lives as long as `self`.
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// What a container was asked to be.
    pub fn spec_of(&self, container: &str) -> Option<ContainerSpec> {
        let world = self.world();
        world.containers.get(container).map(|c| c.spec.clone())
    }

    /// Id of the image that a container was made of.
    pub fn image_of(&self, container: &str) -> Option<String> {
        let world = self.world();
        let found = world.containers.get(container)?;
        Some(self.view(container, found, &world).image_id)
    }

    /// The daemon stops answering, or answers again. Containers stay as they are.
    pub fn set_down(&self, down: bool) {
        self.world().down = down;
    }

    /// The daemon is set up like this, from its next start on.
    pub fn set_up(&self, daemon: EngineInfo) {
        self.world().daemon = daemon;
    }

    /// The largest packet of a network, where it was made with one.
    pub fn mtu_of(&self, network: &str) -> Option<u16> {
        self.world().networks.get(network)?.mtu
    }

    /// The daemon was killed while it started this container, which is not up: this very one never starts again.
    pub fn leave_half(&self, name: &str) {
        let mut world = self.world();
        if let Ok(container) = world.find(name) {
            container.state = "exited";
            let id = container.id;
            world.half_left.insert(id);
        }
    }

    /// The daemon takes questions whether it answers, and says nothing; or answers again.
    pub fn set_mute(&self, mute: bool) {
        self.world().mute = mute;
    }

    /// From now on a container of this name has that address while it runs.
    pub fn put_at(&self, name: &str, address: Ipv4Addr) {
        self.world().places.insert(name.to_owned(), address);
    }

    /// So many connect to a tenant's PostgreSQL over the network, and stay until they are ended.
    pub fn connect(&self, tenant: &str, count: u32) {
        self.world().strangers.insert(tenant.to_owned(), count);
    }

    /// An installation that was cut off leaves modules behind; loading them anew fails so often.
    pub fn leave_modules(&self, tenant: &str, modules: u32, fails: u32) {
        self.world()
            .pending
            .insert(tenant.to_owned(), (modules, fails));
    }

    /// Connections to a tenant's PostgreSQL over the network.
    pub fn connected(&self, tenant: &str) -> u32 {
        let world = self.world();
        world.strangers.get(tenant).copied().unwrap_or(0)
    }

    /// Names of running containers.
    pub fn running(&self) -> Vec<String> {
        self.world()
            .containers
            .iter()
            .filter(|(_, c)| c.state == "running")
            .map(|(n, _)| n.clone())
            .collect()
    }

    /// Names of all containers, networks and volumes.
    pub fn things(&self) -> (Vec<String>, Vec<String>, Vec<String>) {
        let world = self.world();
        (
            world.containers.keys().cloned().collect(),
            world.networks.keys().cloned().collect(),
            world.volumes.keys().cloned().collect(),
        )
    }

    /// Adds a volume whose data is in the directory already, left by an earlier engine.
    pub fn find_volume(&self, name: &str, labels: HashMap<String, String>) {
        let volume = FakeVolume {
            labels,
            device: None,
        };
        self.world().volumes.insert(name.to_owned(), volume);
    }

    /// Interactive commands end with this code from now on.
    pub fn end_commands_with(&self, code: i32) {
        self.world().ends_with = code;
    }

    /// Somebody's own container uses this volume from now on.
    pub fn hold_volume(&self, name: &str) {
        self.world().held.insert(name.to_owned());
    }

    /// The image of this container asks for a volume that nobody has named: it is there.
    pub fn set_unnamed(&self, container: &str, directory: &Path) {
        let directory = directory.display().to_string();
        let mut world = self.world();
        world.unnamed.insert(container.to_owned(), directory);
    }

    /// Whether its volumes are seen to be directories of this machine.
    pub fn set_local(&self, local: bool) {
        self.world().remote = !local;
    }

    /// What `docker system prune --all --volumes` takes: containers that do not run, networks and volumes that no
    /// container uses, all images. Data goes only if it lies in Docker's own directory.
    pub fn prune(&self) {
        let gone: Vec<String> = {
            let mut world = self.world();
            world.containers.retain(|_, c| c.state == "running");
            let used: Vec<ContainerSpec> =
                world.containers.values().map(|c| c.spec.clone()).collect();
            world
                .networks
                .retain(|name, _| used.iter().any(|c| c.network == *name));
            let needed = |name: &String, image: &Image| {
                used.iter().any(|c| c.image == *name || c.image == image.id)
            };
            let (kept, pruned): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut world.images)
                    .into_iter()
                    .partition(|(name, image)| needed(name, image));
            world.images = kept;
            world.pruned.extend(pruned);
            let mounted = |name: &String| {
                let source = MountSource::Volume(name.clone());
                used.iter()
                    .any(|c| c.mounts.iter().any(|m| m.source == source))
            };
            let gone = world.volumes.keys().filter(|name| !mounted(name));
            gone.cloned().collect()
        };
        for name in gone {
            self.lose_volume(&name);
        }
    }

    /// Removes a volume's record, and its data if that lies in Docker's own directory.
    fn lose_volume(&self, name: &str) {
        self.world().volumes.remove(name);
        let _ = std::fs::remove_dir_all(self.own_place(name)); // may have been moved away
        let event = EngineEvent {
            action: "destroy".to_owned(),
            name: name.to_owned(),
            tenant: tenant_of_volume(name).to_owned(),
        };
        let _ = self.events.send(event); // nobody may be listening
    }

    /// What happened although it must never happen.
    pub fn violations(&self) -> Vec<String> {
        self.world().violations.clone()
    }

    /// Changing calls so far, in order.
    pub fn log(&self) -> Vec<String> {
        self.world().log.clone()
    }

    /// Keys of a tenant's database; `None` when there is none.
    pub fn database_keys(&self, tenant: &str) -> Option<String> {
        std::fs::read_to_string(
            self.place(&format!("pgdata_{tenant}"))
                .join("databases")
                .join(format!("odoo_{tenant}")),
        )
        .ok()
    }

    /// Where an agent keeps tenants' data by default.
    pub fn homes(&self) -> PathBuf {
        self.dir.join("isyone/tenants")
    }

    /// Docker's own directory for a volume.
    fn own_place(&self, volume: &str) -> PathBuf {
        self.dir.join("volumes").join(volume).join("_data")
    }

    /// Where a volume's data lies.
    fn place(&self, volume: &str) -> PathBuf {
        let world = self.world();
        let device = world.volumes.get(volume).and_then(|v| v.device.clone());
        device.unwrap_or_else(|| self.own_place(volume))
    }

    fn tell(&self, container: &str, action: &str) {
        let tenant = self
            .world()
            .containers
            .get(container)
            .and_then(|c| c.spec.labels.get(LABEL_TENANT).cloned());
        let event = EngineEvent {
            action: action.to_owned(),
            name: container.to_owned(),
            tenant: tenant.unwrap_or_default(),
        };
        let _ = self.events.send(event); // nobody may be listening
    }

    fn up(&self) -> Result<MutexGuard<'_, World>> {
        let world = self.world();
        if world.down {
            Err(DockerError::Unreachable("connection refused".to_owned()))
        } else {
            Ok(world)
        }
    }

    fn view(&self, name: &str, c: &FakeContainer, world: &World) -> Container {
        let images = &world.images;
        Container {
            name: name.to_owned(),
            id: format!("id{}", c.id),
            state: c.state.to_owned(),
            labels: c.spec.labels.clone().into_iter().collect(),
            user: images
                .iter()
                .find(|(name, image)| **name == c.spec.image || image.id == c.spec.image)
                .map(|(_, image)| image.user.clone())
                .unwrap_or_default(),
            image_id: images
                .get(&c.spec.image)
                .map_or(c.spec.image.clone(), |i| i.id.clone()),
            exit_code: c.code,
            started_ms: c.restarted_ms,
            limits: c.limits,
            unnamed: world.unnamed.get(name).cloned().into_iter().collect(),
            ip: (c.state == "running").then(|| {
                let place = world.places.get(name).copied();
                place.unwrap_or(Ipv4Addr::LOCALHOST)
            }),
            ..Default::default()
        }
    }
}

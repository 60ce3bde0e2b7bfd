//! An engine in memory with volumes in a directory: obeys at once, keeps the real one's rules (names, running, in use),
//! fails and dies on command. For tests, here and in the workspace's `tests/`; not used by the program.
//!
//! Databases are files in the PostgreSQL volume, so that golden copies are real copies. It notes what must never happen
//! ([`FakeDocker::violations`]): Odoo started before its database has its own keys, a volume removed while in use.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::{broadcast, watch};
use tonic::async_trait;

use crate::docker::{
    Chunk, Container, ContainerSpec, ContainerSummary, Docker, DockerError, EngineInfo, Event, ExecOutput,
    ExecSession, ExecState, Image, LABEL_ROLE, LABEL_STANDIN, LABEL_TENANT, Limits, LogQuery, MountSource,
    Named, Network, Probe, PullProgress, Result, Volume,
};

/// Content of a database file that nobody has re-keyed.
const DEFAULT_KEYS: &str = "default";
/// Events that a slow listener may be behind.
const EVENTS: usize = 1024;

/// What goes wrong, in thousandths of the calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The call fails and has no effect.
    pub refused: u32,
    /// The call has its effect, but the answer is lost.
    pub answer_lost: u32,
    /// `odoo -i` ends with an error, leaving half a database.
    pub init_fails: u32,
}

struct FakeContainer {
    spec: ContainerSpec,
    id: u64,
    state: &'static str,
    code: i32,
    limits: Limits,
}

#[derive(Default)]
struct World {
    images: BTreeMap<String, Image>,
    registry: BTreeSet<String>,
    containers: BTreeMap<String, FakeContainer>,
    networks: BTreeMap<String, Network>,
    volumes: BTreeMap<String, HashMap<String, String>>,
    faults: Faults,
    random: u64,
    calls: u64,
    dies_at: Option<u64>,
    down: bool,
    next_id: u64,
    unhealthy: BTreeSet<String>,
    violations: Vec<String>,
    log: Vec<String>,
}

impl World {
    /// Xorshift: a test's seed gives the same faults each time.
    fn chance(&mut self, permille: u32) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < u64::from(permille)
    }

    fn find(&mut self, name: &str) -> Result<&mut FakeContainer> {
        self.containers
            .get_mut(name)
            .ok_or_else(|| DockerError::NotFound(format!("No such container: {name}")))
    }
}

/// See the module.
pub struct FakeDocker {
    dir: PathBuf,
    world: Mutex<World>,
    events: broadcast::Sender<Event>,
    dead: watch::Sender<bool>,
}

/// Whether a call fails before or after its effect.
enum Fate {
    Fine,
    LostAnswer,
}

impl FakeDocker {
    /// Keeps its volumes below `dir`. Present: `odoo:19.0`, `postgres:15`, `isyone/standin:1`; pullable: `odoo:18.0`.
    pub fn new(dir: &Path, seed: u64) -> Arc<Self> {
        let mut world = World { random: seed | 1, ..World::default() };
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

    /// From now on these go wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// At the `calls`-th changing call from now the caller dies: odd ones before the effect, even ones after. The call
    /// never returns; [`FakeDocker::died`] tells. The test then drops the agent and starts another.
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

    /// The daemon stops or comes back. Containers are restarted with it.
    pub fn set_down(&self, down: bool) {
        self.world().down = down;
    }

    /// A container's program ends by itself.
    pub fn kill(&self, name: &str, code: i32) {
        if let Ok(container) = self.world().find(name) {
            (container.state, container.code) = ("exited", code);
        }
        self.tell(name, "die");
    }

    /// Odoo in this container answers no more, or again.
    pub fn set_unhealthy(&self, name: &str, unhealthy: bool) {
        let mut world = self.world();
        if unhealthy {
            world.unhealthy.insert(name.to_owned())
        } else {
            world.unhealthy.remove(name)
        };
    }

    /// Names of containers that run.
    pub fn running(&self) -> Vec<String> {
        self.world().containers.iter().filter(|(_, c)| c.state == "running").map(|(n, _)| n.clone()).collect()
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

    /// What must never happen and did.
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
            self.place(&format!("pgdata_{tenant}")).join("databases").join(format!("odoo_{tenant}")),
        )
        .ok()
    }

    fn place(&self, volume: &str) -> PathBuf {
        self.dir.join("volumes").join(volume).join("_data")
    }

    fn tell(&self, container: &str, action: &str) {
        let tenant =
            self.world().containers.get(container).and_then(|c| c.spec.labels.get(LABEL_TENANT).cloned());
        let event = Event {
            action: action.to_owned(),
            container: container.to_owned(),
            tenant: tenant.unwrap_or_default(),
        };
        let _ = self.events.send(event); // nobody may be listening
    }

    fn up(&self) -> Result<MutexGuard<'_, World>> {
        let world = self.world();
        if world.down { Err(DockerError::Unreachable("connection refused".to_owned())) } else { Ok(world) }
    }

    /// Before a changing call: it may be refused, or its caller may die.
    async fn before(&self, what: String) -> Result<(Fate, bool)> {
        let (fate, dies, early) = {
            let mut world = self.up()?;
            world.calls += 1;
            world.log.push(what.clone());
            let dies = world.dies_at == Some(world.calls);
            let Faults { refused, answer_lost, .. } = world.faults;
            if world.chance(refused) {
                return Err(DockerError::Refused(format!("{what}: refused by the test")));
            }
            let fate = if world.chance(answer_lost) { Fate::LostAnswer } else { Fate::Fine };
            (fate, dies, world.calls % 2 == 1)
        };
        if dies && early {
            self.die().await;
        }
        Ok((fate, dies))
    }

    async fn after<T>(&self, (fate, dies): (Fate, bool), value: T) -> Result<T> {
        if dies {
            self.die().await;
        }
        match fate {
            Fate::Fine => Ok(value),
            Fate::LostAnswer => Err(DockerError::Unreachable("the answer was lost (by the test)".to_owned())),
        }
    }

    async fn die(&self) {
        self.dead.send_replace(true);
        std::future::pending::<()>().await;
    }

    fn begin(&self, name: &str) -> Result<()> {
        let (role, spec) = {
            let mut world = self.world();
            let container = world.find(name)?;
            if container.state == "running" {
                return Ok(());
            }
            (container.spec.labels.get(LABEL_ROLE).cloned().unwrap_or_default(), container.spec.clone())
        };
        let standin =
            self.world().images.get(&spec.image).is_some_and(|i| i.labels.contains_key(LABEL_STANDIN));
        let tenant = spec.labels.get(LABEL_TENANT).cloned().unwrap_or_default();
        let data = self.place(&format!("pgdata_{tenant}"));
        let mut code = None;
        match role.as_str() {
            "postgres" if !data.join("PG_VERSION").exists() => {
                put(&data.join("PG_VERSION"), "15")?;
                put(&data.join("databases/postgres"), "")?;
            }
            "init" => code = Some(self.initialise(&tenant, &data)?),
            "odoo" if !standin && self.database_keys(&tenant).is_none_or(|keys| keys == DEFAULT_KEYS) => {
                self.world()
                    .violations
                    .push(format!("{name} was started before its database had keys of its own"));
            }
            _ => {}
        }
        let mut world = self.world();
        world.next_id += 1;
        let container = world.find(name)?;
        (container.state, container.code) = match code {
            Some(code) => ("exited", code),
            None => ("running", 0),
        };
        Ok(())
    }

    fn initialise(&self, tenant: &str, data: &Path) -> Result<i32> {
        put(&data.join("databases").join(format!("odoo_{tenant}")), DEFAULT_KEYS)?;
        put(
            &self.place(&format!("odoo_data_{tenant}")).join(format!("filestore/odoo_{tenant}/00/file")),
            "x",
        )?;
        let mut world = self.world();
        let permille = world.faults.init_fails;
        Ok(i32::from(world.chance(permille)))
    }

    /// Understands just what our own scripts hold.
    fn psql(&self, tenant: &str, script: &str) -> Result<i32> {
        let databases = self.place(&format!("pgdata_{tenant}")).join("databases");
        let mut at = databases.join("postgres");
        for line in script.lines() {
            let quoted: Vec<&str> =
                line.split("E'").skip(1).filter_map(|part| part.split('\'').next()).collect();
            if let Some(name) =
                line.strip_prefix("DROP DATABASE IF EXISTS \"").and_then(|rest| rest.split('"').next())
            {
                let _ = std::fs::remove_file(databases.join(name)); // "if exists"
            } else if line.contains("ALTER DATABASE %I RENAME") && quoted.len() >= 2 {
                let (from, to) = (databases.join(quoted[0]), databases.join(quoted[1]));
                if from.exists() && !to.exists() {
                    std::fs::rename(from, to).map_err(|e| DockerError::Refused(e.to_string()))?;
                }
            } else if let Some(name) = line.strip_prefix("\\connect \"") {
                at = databases.join(name.trim_end_matches('"'));
                if !at.exists() {
                    return Ok(3);
                }
            } else if let [key, value, ..] = quoted[..]
                && key == "database.uuid"
            {
                put(&at, value)?;
            }
        }
        Ok(0)
    }

    fn view(&self, name: &str, c: &FakeContainer, images: &BTreeMap<String, Image>) -> Container {
        Container {
            name: name.to_owned(),
            id: format!("id{}", c.id),
            state: c.state.to_owned(),
            labels: c.spec.labels.clone().into_iter().collect(),
            image_id: images.get(&c.spec.image).map_or(c.spec.image.clone(), |i| i.id.clone()),
            exit_code: c.code,
            limits: c.limits,
            ip: (c.state == "running").then_some([127, 0, 0, 1].into()),
            ..Default::default()
        }
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    let write = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)
    };
    write().map_err(|e: std::io::Error| DockerError::Refused(e.to_string()))
}

#[async_trait]
impl Docker for FakeDocker {
    async fn info(&self) -> Result<EngineInfo> {
        drop(self.up()?);
        Ok(EngineInfo { version: "fake".to_owned(), root_dir: self.dir.display().to_string(), cpus: 4 })
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        let world = self.up()?;
        Ok(world.images.get(reference).or_else(|| world.images.values().find(|i| i.id == reference)).cloned())
    }

    async fn pull(&self, reference: &str, progress: PullProgress<'_>) -> Result<()> {
        let fate = self.before(format!("pull {reference}")).await?;
        progress(50);
        {
            let mut world = self.world();
            if !world.registry.contains(reference) {
                return Err(DockerError::Pull {
                    image: reference.to_owned(),
                    why: "manifest unknown".to_owned(),
                });
            }
            let id = format!("sha256:{reference}");
            let image =
                Image { digest: format!("{id}-pulled"), id, user: "odoo".to_owned(), ..Default::default() };
            world.images.insert(reference.to_owned(), image);
        }
        self.after(fate, ()).await
    }

    async fn image_files(&self, _image: &str, paths: &[&str]) -> Result<HashMap<String, Vec<u8>>> {
        drop(self.up()?);
        // The numbers of whoever runs the test: no chown is needed then.
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let passwd = format!("odoo:x:{uid}:{gid}::/:/bin/sh\npostgres:x:{uid}:{gid}::/:/bin/sh\n");
        Ok(paths
            .iter()
            .filter(|p| **p == "/etc/passwd")
            .map(|p| ((*p).to_owned(), passwd.clone().into_bytes()))
            .collect())
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>> {
        let world = self.up()?;
        let summary = |(name, c): (&String, &FakeContainer)| ContainerSummary {
            name: name.clone(),
            state: c.state.to_owned(),
            tenant: c.spec.labels.get(LABEL_TENANT).cloned().unwrap_or_default(),
        };
        Ok(world.containers.iter().map(summary).collect())
    }

    async fn container(&self, name: &str) -> Result<Option<Container>> {
        let world = self.up()?;
        Ok(world.containers.get(name).map(|c| self.view(name, c, &world.images)))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<()> {
        let fate = self.before(format!("create {}", spec.name)).await?;
        {
            let mut world = self.world();
            if world.containers.contains_key(&spec.name) {
                return Err(DockerError::Conflict(format!("the name {} is already in use", spec.name)));
            }
            let known = |i: &Image| i.id == spec.image;
            if !world.images.contains_key(&spec.image) && !world.images.values().any(known) {
                return Err(DockerError::NotFound(format!("No such image: {}", spec.image)));
            }
            if !world.networks.contains_key(&spec.network) {
                return Err(DockerError::NotFound(format!("network {} not found", spec.network)));
            }
            for mount in &spec.mounts {
                let missing = match &mount.source {
                    MountSource::Volume(name) => !world.volumes.contains_key(name),
                    MountSource::File(path) => !Path::new(path).exists(),
                };
                if missing {
                    return Err(DockerError::Refused(format!(
                        "mount source of {} is not there",
                        mount.target
                    )));
                }
            }
            world.next_id += 1;
            let container = FakeContainer {
                spec: spec.clone(),
                id: world.next_id,
                state: "created",
                code: 0,
                limits: spec.limits,
            };
            world.containers.insert(spec.name.clone(), container);
        }
        self.after(fate, ()).await
    }

    async fn start(&self, name: &str) -> Result<()> {
        let fate = self.before(format!("start {name}")).await?;
        self.begin(name)?;
        self.tell(name, "start");
        self.after(fate, ()).await
    }

    async fn stop(&self, name: &str, _grace_s: u32) -> Result<()> {
        let fate = self.before(format!("stop {name}")).await?;
        if let Ok(container) = self.world().find(name)
            && container.state == "running"
        {
            container.state = "exited";
        }
        self.tell(name, "die");
        self.after(fate, ()).await
    }

    async fn wait(&self, name: &str) -> Result<i32> {
        Ok(self.up()?.find(name)?.code)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let fate = self.before(format!("remove {name}")).await?;
        self.world().containers.remove(name);
        self.after(fate, ()).await
    }

    async fn update(&self, name: &str, limits: &Limits) -> Result<()> {
        let fate = self.before(format!("update {name}")).await?;
        self.world().find(name)?.limits = *limits;
        self.after(fate, ()).await
    }

    async fn network(&self, name: &str) -> Result<Option<Network>> {
        Ok(self.up()?.networks.get(name).cloned())
    }

    async fn create_network(&self, network: &Named, subnet: &str) -> Result<()> {
        let fate = self.before(format!("create-network {}", network.name)).await?;
        {
            let mut world = self.world();
            if world.networks.values().any(|n| n.subnet == subnet) {
                return Err(DockerError::Refused(
                    "Pool overlaps with other one on this address space".to_owned(),
                ));
            }
            let labels = network.labels.clone().into_iter().collect();
            world.networks.insert(network.name.clone(), Network { subnet: subnet.to_owned(), labels });
        }
        self.after(fate, ()).await
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        let fate = self.before(format!("remove-network {name}")).await?;
        {
            let mut world = self.world();
            if world.containers.values().any(|c| c.spec.network == name && c.state == "running") {
                return Err(DockerError::Refused(format!("network {name} has active endpoints")));
            }
            world.networks.remove(name);
        }
        self.after(fate, ()).await
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let labels = self.up()?.volumes.get(name).cloned();
        Ok(labels.map(|labels| Volume { mountpoint: self.place(name).display().to_string(), labels }))
    }

    async fn create_volume(&self, volume: &Named) -> Result<Volume> {
        let fate = self.before(format!("create-volume {}", volume.name)).await?;
        let place = self.place(&volume.name);
        std::fs::create_dir_all(&place).map_err(|e| DockerError::Refused(e.to_string()))?;
        let labels: HashMap<String, String> = volume.labels.clone().into_iter().collect();
        self.world().volumes.entry(volume.name.clone()).or_insert_with(|| labels.clone());
        self.after(fate, Volume { mountpoint: place.display().to_string(), labels }).await
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        let fate = self.before(format!("remove-volume {name}")).await?;
        {
            let mut world = self.world();
            let uses = |c: &FakeContainer| {
                c.spec.mounts.iter().any(|m| m.source == MountSource::Volume(name.to_owned()))
            };
            if world.containers.values().any(uses) {
                world.violations.push(format!("volume {name} was to be removed while in use"));
                return Err(DockerError::Conflict(format!("volume {name} is in use")));
            }
            world.volumes.remove(name);
        }
        let _ = std::fs::remove_dir_all(self.place(name)); // may never have been filled
        self.after(fate, ()).await
    }

    async fn exec(&self, container: &str, command: &[String], stdin: Vec<u8>) -> Result<ExecOutput> {
        let fate =
            self.before(format!("exec {container} {}", command.first().map_or("", String::as_str))).await?;
        let tenant = {
            let mut world = self.world();
            let found = world.find(container)?;
            if found.state != "running" {
                return Err(DockerError::Conflict(format!("container {container} is not running")));
            }
            found.spec.labels.get(LABEL_TENANT).cloned().unwrap_or_default()
        };
        let code = self.psql(&tenant, &String::from_utf8_lossy(&stdin))?;
        self.after(fate, ExecOutput { code, ..Default::default() }).await
    }

    async fn log_tail(&self, name: &str, _lines: u32) -> Result<String> {
        drop(self.up()?);
        Ok(format!("last words of {name}"))
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event>>> {
        drop(self.up()?);
        let receiver = self.events.subscribe();
        let next = |mut receiver: broadcast::Receiver<Event>| async move {
            let event = receiver.recv().await.ok()?;
            Some((Ok(event), receiver))
        };
        Ok(stream::unfold(receiver, next).boxed())
    }

    async fn logs(&self, name: &str, query: LogQuery) -> Result<BoxStream<'static, Result<Chunk>>> {
        self.up()?.find(name)?;
        let line = Ok((false, format!("log of {name}\n").into_bytes().into()));
        let rest = if query.follow { stream::pending().boxed() } else { stream::empty().boxed() };
        Ok(stream::iter([line]).chain(rest).boxed())
    }

    async fn exec_session(
        &self,
        container: &str,
        command: &[String],
        _tty: Option<(u16, u16)>,
    ) -> Result<ExecSession> {
        self.up()?.find(container)?;
        let said = Ok((false, format!("ran {}\n", command.join(" ")).into_bytes().into()));
        Ok(ExecSession {
            id: "exec".to_owned(),
            output: stream::iter([said]).boxed(),
            input: Box::pin(tokio::io::sink()),
        })
    }

    async fn exec_resize(&self, _id: &str, _size: (u16, u16)) -> Result<()> {
        Ok(())
    }

    async fn exec_state(&self, _id: &str) -> Result<ExecState> {
        Ok(ExecState::default())
    }
}

#[async_trait]
impl Probe for FakeDocker {
    async fn odoo(&self, odoo: &Container) -> std::result::Result<u32, String> {
        let tenant = odoo.label(LABEL_TENANT);
        let world = self.world();
        let runs = |name: &str| world.containers.get(name).is_some_and(|c| c.state == "running");
        if world.unhealthy.contains(&odoo.name) {
            return Err("told to be unhealthy".to_owned());
        }
        if runs(&odoo.name) && runs(&format!("postgres_{tenant}")) {
            Ok(1)
        } else {
            Err("connection refused".to_owned())
        }
    }

    async fn postgres(&self, postgres: &Container) -> std::result::Result<(), String> {
        let running = self.world().containers.get(&postgres.name).is_some_and(|c| c.state == "running");
        if running { Ok(()) } else { Err("connection refused".to_owned()) }
    }
}

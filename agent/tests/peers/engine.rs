//! The fake engine, but that programs of PostgreSQL's image run for real, each in a root of its own. Not here: that root (jail), the test.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::stream::BoxStream;
use isyone_agent::{
    docker::{
        Chunk, ContainerSummary, Docker, DockerError, EngineEvent, EngineInfo, ExecOutput,
        ExecSession, ExecState, Image, LogQuery, PullProgress, Result, Survey,
    },
    plan::container::{Container, ContainerSpec, Limits, NamedSpec, Network, Volume},
    testing::fake_docker::FakeDocker,
};
use tonic::async_trait;

use crate::{
    jail::Jail,
    node::{Site, volume_of},
};

/// An engine beside a host's fake one.
pub(crate) struct Engine {
    fake: Arc<FakeDocker>,
    /// Before, all of it is the fake's.
    is_real: AtomicBool,
    programs: PathBuf,
    docker: PathBuf,
    place: PathBuf,
    jails: Mutex<BTreeMap<String, Jail>>,
}

/// Whether a container is of PostgreSQL's image.
fn is_real(spec: &ContainerSpec) -> bool {
    spec.mounts
        .iter()
        .any(|mount| mount.target == "/var/lib/postgresql/data")
}

/// What a container's program is told, with what only this needs: it has the machine's network.
fn command(spec: &ContainerSpec) -> Vec<String> {
    let mut command = spec.command.clone();
    if command.first().is_some_and(|program| program == "postgres") {
        let more = ["-c", "listen_addresses=", "-c", "fsync=off"];
        command.extend(more.map(str::to_owned));
    }
    command
}

impl Engine {
    pub(crate) fn new(site: &Site, programs: &Path, is_real: bool) -> Arc<Self> {
        Arc::new(Self {
            fake: site.fake.clone(),
            is_real: AtomicBool::new(is_real),
            programs: programs.to_owned(),
            docker: site.path().join("docker"),
            place: site.path().join("real"),
            jails: Mutex::default(),
        })
    }

    /// Runs a container's program, or another one in its place.
    fn launch(&self, name: &str, spec: &ContainerSpec, command: &[String]) {
        let volume = |volume: &str| volume_of(&self.docker, volume);
        let place = self.place.join(name);
        let jail = Jail::start(&self.programs, &place, spec, command, volume);
        self.jails().insert(name.to_owned(), jail);
    }

    /// From now on a container that the fake has long started runs for real, on a new cluster in the place of the fake's.
    pub(crate) fn become_real(&self, name: &str, initdb: &[&str]) {
        let spec = self.fake.spec_of(name).unwrap();
        self.launch(name, &spec, &["sleep", "1000"].map(str::to_owned));
        let output = self.jails()[name].run(initdb);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        self.jails().remove(name);
        self.launch(name, &spec, &command(&spec));
        self.is_real.store(true, Ordering::Relaxed);
    }

    /// Kills its program, as a loss of power would.
    pub(crate) fn kill(&self, name: &str) {
        self.jails().remove(name);
        self.fake.kill(name, 137);
    }

    fn jails(&self) -> MutexGuard<'_, BTreeMap<String, Jail>> {
        self.jails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the sockets of the container of this name appear.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.place.join(name).join("sockets/.s.PGSQL.5432")
    }

    pub(crate) fn sql(&self, name: &str, database: &str, statement: &str) -> String {
        self.jails()[name].sql(database, statement)
    }

    /// Whether a statement is answered.
    pub(crate) fn try_sql(&self, name: &str, database: &str, statement: &str) -> bool {
        let words = ["psql", "-XqAt", "-U", "postgres", "-d", database, "-c"];
        let output = self.jails()[name].run(&[&words[..], &[statement]].concat());
        output.status.success()
    }

    /// What the program of this container has said.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.place.join(name).join("log")).unwrap_or_default()
    }
}

#[async_trait]
impl Docker for Engine {
    async fn create(&self, spec: &ContainerSpec) -> Result<()> {
        if spec.network == "none" {
            // The fake has no networks but those that were made.
            let none = NamedSpec {
                name: "none".to_owned(),
                labels: BTreeMap::new(),
            };
            let _ = self.fake.create_network(&none, "", None).await; // it may be there
        }
        self.fake.create(spec).await
    }

    async fn start(&self, name: &str) -> Result<()> {
        self.fake.start(name).await?;
        let spec = self.fake.spec_of(name).filter(is_real);
        let runs = self.jails().get_mut(name).is_some_and(Jail::is_up);
        let begins = self.is_real.load(Ordering::Relaxed) && !runs;
        if let Some(spec) = spec.filter(|_| begins) {
            self.launch(name, &spec, &command(&spec));
        }
        Ok(())
    }

    async fn stop(&self, name: &str, grace_s: u32) -> Result<()> {
        let jail = self.jails().remove(name);
        if let Some(mut jail) = jail {
            let ended = tokio::task::spawn_blocking(move || jail.end("INT"));
            ended.await.unwrap();
        }
        self.fake.stop(name, grace_s).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        if self.jails().remove(name).is_some() {
            self.fake.kill(name, 137);
        }
        self.fake.remove(name).await
    }

    async fn exec(
        &self,
        container: &str,
        user: &str,
        command: &[String],
        stdin: Vec<u8>,
    ) -> Result<ExecOutput> {
        let known = self.jails().get(container).map(|jail| {
            let mut command = jail.command(user, command);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command.stderr(Stdio::piped());
            command
        });
        let Some(mut program) = known else {
            return self.fake.exec(container, user, command, stdin).await;
        };
        let done = tokio::task::spawn_blocking(move || {
            let mut child = program.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(&stdin)?;
            }
            child.wait_with_output()
        });
        let done = done.await.unwrap();
        let output = done.map_err(|e| DockerError::Refused(e.to_string()))?;
        Ok(ExecOutput {
            code: output.status.code().unwrap_or(137),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    async fn ping(&self) -> Result<()> {
        self.fake.ping().await
    }
    async fn info(&self) -> Result<EngineInfo> {
        self.fake.info().await
    }
    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        self.fake.image(reference).await
    }
    async fn pull(&self, reference: &str, progress: PullProgress<'_>) -> Result<()> {
        self.fake.pull(reference, progress).await
    }
    async fn image_files(&self, image: &str, paths: &[&str]) -> Result<HashMap<String, Vec<u8>>> {
        let mut files = self.fake.image_files(image, paths).await?;
        if let Some(users) = files.get_mut("/etc/passwd") {
            // The fake's come later, and do not count where this machine has one of that name.
            let own = std::fs::read("/etc/passwd").unwrap_or_default();
            users.splice(0..0, own);
        }
        Ok(files)
    }
    async fn list(&self) -> Result<Vec<ContainerSummary>> {
        self.fake.list().await
    }
    async fn survey(&self) -> Result<Survey> {
        self.fake.survey().await
    }
    async fn container(&self, name: &str) -> Result<Option<Container>> {
        self.fake.container(name).await
    }
    async fn wait(&self, name: &str) -> Result<i32> {
        self.fake.wait(name).await
    }
    async fn update(&self, name: &str, limits: &Limits) -> Result<()> {
        self.fake.update(name, limits).await
    }
    async fn update_restart(&self, name: &str, restart: bool) -> Result<()> {
        self.fake.update_restart(name, restart).await
    }
    async fn network(&self, name: &str) -> Result<Option<Network>> {
        self.fake.network(name).await
    }
    async fn create_network(
        &self,
        network: &NamedSpec,
        subnet: &str,
        mtu: Option<u16>,
    ) -> Result<()> {
        self.fake.create_network(network, subnet, mtu).await
    }
    async fn remove_network(&self, name: &str) -> Result<()> {
        self.fake.remove_network(name).await
    }
    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        self.fake.volume(name).await
    }
    async fn create_volume(&self, volume: &NamedSpec, directory: Option<&Path>) -> Result<Volume> {
        self.fake.create_volume(volume, directory).await
    }
    async fn remove_volume(&self, name: &str) -> Result<()> {
        self.fake.remove_volume(name).await
    }
    async fn log_tail(&self, name: &str, lines: u32) -> Result<String> {
        self.fake.log_tail(name, lines).await
    }
    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>> {
        self.fake.events().await
    }
    async fn logs(&self, name: &str, query: LogQuery) -> Result<BoxStream<'static, Result<Chunk>>> {
        self.fake.logs(name, query).await
    }
    async fn exec_session(
        &self,
        container: &str,
        user: &str,
        command: &[String],
        tty: Option<(u16, u16)>,
    ) -> Result<ExecSession> {
        self.fake.exec_session(container, user, command, tty).await
    }
    async fn exec_resize(&self, id: &str, size: (u16, u16)) -> Result<()> {
        self.fake.exec_resize(id, size).await
    }
    async fn exec_state(&self, id: &str) -> Result<ExecState> {
        self.fake.exec_state(id).await
    }
}

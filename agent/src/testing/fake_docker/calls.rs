//! The fake's side of [`Docker`]. Not here: the world behind it (the parent), and what answers in it (answers).

use std::{collections::HashMap, path::Path};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast;
use tonic::async_trait;

use super::{FakeContainer, FakeDocker, FakeVolume};
use crate::{
    docker::{
        Chunk, ContainerSummary, Docker, DockerError, EngineEvent, EngineInfo, ExecOutput,
        ExecSession, ExecState, Image, ListedContainer, LogQuery, PullProgress, Result, Survey,
    },
    plan::container::{
        Container, ContainerSpec, LABEL_TENANT, Limits, MountSource, NamedSpec, Network, Volume,
    },
};

#[async_trait]
impl Docker for FakeDocker {
    async fn ping(&self) -> Result<()> {
        if self.world().mute {
            std::future::pending::<()>().await;
        }
        self.up().map(drop)
    }

    async fn info(&self) -> Result<EngineInfo> {
        let daemon = self.up()?.daemon.clone();
        Ok(EngineInfo {
            version: "fake".to_owned(),
            root_dir: self.dir.display().to_string(),
            cpus: 4,
            ..daemon
        })
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        let world = self.up()?;
        Ok(world
            .images
            .get(reference)
            .or_else(|| world.images.values().find(|i| i.id == reference))
            .cloned())
    }

    async fn pull(&self, reference: &str, progress: PullProgress<'_>) -> Result<()> {
        let fate = self.before(format!("pull {reference}")).await?;
        progress(50);
        while self.world().faults.pull_hangs {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        {
            let mut world = self.world();
            if let Some(image) = world.pruned.remove(reference) {
                world.images.insert(reference.to_owned(), image);
            } else if let Some(image) = world.published.remove(reference) {
                world.registry.insert(reference.to_owned());
                if let Some(old) = world.images.insert(reference.to_owned(), image) {
                    world.images.insert(old.id.clone(), old);
                }
            } else if !world.registry.contains(reference) {
                return Err(DockerError::Pull {
                    image: reference.to_owned(),
                    why: "manifest unknown".to_owned(),
                });
            }
            world.images.entry(reference.to_owned()).or_insert_with(|| {
                let id = format!("sha256:{reference}");
                Image {
                    digest: format!("{id}-pulled"),
                    id,
                    user: "odoo".to_owned(),
                    ..Default::default()
                }
            });
        }
        self.after(fate, ()).await
    }

    async fn image_files(&self, image: &str, paths: &[&str]) -> Result<HashMap<String, Vec<u8>>> {
        let major = self.up()?.odoo_majors.get(image).copied();
        // Use the ids of the user who runs the test, so that no chown is needed.
        let (uid, gid) = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        let passwd = format!("odoo:x:{uid}:{gid}::/:/bin/sh\npostgres:x:{uid}:{gid}::/:/bin/sh\n");
        let text = |path: &str| match path {
            "/etc/passwd" => Some(passwd.clone()),
            _ if path.ends_with("/odoo/release.py") => {
                major.map(|major| format!("version_info = ({major}, 0, 0, FINAL, 0, '')\n"))
            }
            _ => None,
        };
        let found = paths
            .iter()
            .filter_map(|p| Some(((*p).to_owned(), text(p)?.into_bytes())));
        Ok(found.collect())
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>> {
        let world = self.up()?;
        let summary = |(name, c): (&String, &FakeContainer)| ContainerSummary {
            name: name.clone(),
            state: c.state.to_owned(),
            tenant: c.spec.labels.get(LABEL_TENANT).cloned().unwrap_or_default(),
        };
        let all = world.containers.iter();
        let ours = all.filter(|(_, c)| c.spec.labels.contains_key(LABEL_TENANT));
        Ok(ours.map(summary).collect())
    }

    async fn survey(&self) -> Result<Survey> {
        let world = self.up()?;
        let volume = |(name, v): (&String, &FakeVolume)| {
            (name.clone(), self.volume_view(name, v, world.remote))
        };
        let listed = |(name, c): (&String, &FakeContainer)| {
            let Container {
                id,
                state,
                labels,
                image_id,
                ip,
                ..
            } = self.view(name, c, &world);
            (
                name.clone(),
                ListedContainer {
                    id,
                    state,
                    labels,
                    image_id,
                    ip,
                },
            )
        };
        Ok(Survey {
            networks: world.networks.clone().into_iter().collect(),
            volumes: world.volumes.iter().map(volume).collect(),
            containers: world.containers.iter().map(listed).collect(),
        })
    }

    async fn container(&self, name: &str) -> Result<Option<Container>> {
        let world = self.up()?;
        let found = world.containers.iter().find(|(own, c)| c.is(own, name));
        Ok(found.map(|(own, c)| self.view(own, c, &world)))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<()> {
        let fate = self.before(format!("create {}", spec.name)).await?;
        {
            let mut world = self.world();
            if world.containers.contains_key(&spec.name) {
                return Err(DockerError::Conflict(format!(
                    "the name {} is already in use",
                    spec.name
                )));
            }
            let by_id = world.images.values().any(|i| i.id == spec.image);
            let by_tag = !by_id && world.images.contains_key(&spec.image);
            if by_tag {
                let text = format!("{} is made of whatever {} means", spec.name, spec.image);
                world.violations.push(text);
            }
            if !by_id && !by_tag {
                return Err(DockerError::NotFound(format!(
                    "No such image: {}",
                    spec.image
                )));
            }
            // Docker's own, which is always there.
            let is_dockers = spec.network == "none";
            if !is_dockers && !world.networks.contains_key(&spec.network) {
                return Err(DockerError::NotFound(format!(
                    "network {} not found",
                    spec.network
                )));
            }
            for mount in &spec.mounts {
                let missing = match &mount.source {
                    MountSource::Volume(name) => !world.volumes.contains_key(name),
                    MountSource::File(path) => !Path::new(path).exists(),
                    MountSource::Directory(path) => !Path::new(path).is_dir(),
                    MountSource::Image => false,
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
                restarted_ms: None,
            };
            world.containers.insert(spec.name.clone(), container);
        }
        self.after(fate, ()).await
    }

    async fn start(&self, name: &str) -> Result<()> {
        let fate = self.before(format!("start {name}")).await?;
        {
            let mut world = self.world();
            let id = world.find(name)?.id;
            if world.half_left.contains(&id) {
                return Err(DockerError::Refused(format!(
                    "failed to create task for container: failed to start shim: mkdir \
                     /run/containerd/io.containerd.runtime.v2.task/moby/id{id}: file exists: unknown"
                )));
            }
        }
        self.begin(name)?;
        self.tell(name, "start");
        self.after(fate, ()).await
    }

    async fn stop(&self, name: &str, _grace_s: u32) -> Result<()> {
        let fate = self.before(format!("stop {name}")).await?;
        while self.world().stubborn.contains(name) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        if let Ok(container) = self.world().find(name)
            && container.state == "running"
        {
            container.state = "exited";
        }
        self.tell(name, "die");
        self.after(fate, ()).await
    }

    async fn wait(&self, name: &str) -> Result<i32> {
        while self.world().faults.init_hangs {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        loop {
            {
                let mut world = self.up()?;
                let container = world.find(name)?;
                if container.state != "running" {
                    return Ok(container.code);
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let fate = self.before(format!("remove {name}")).await?;
        self.world().containers.retain(|own, c| !c.is(own, name));
        self.after(fate, ()).await
    }

    async fn update(&self, name: &str, limits: &Limits) -> Result<()> {
        let fate = self.before(format!("update {name}")).await?;
        self.world().find(name)?.limits = *limits;
        self.after(fate, ()).await
    }

    async fn update_restart(&self, name: &str, restart: bool) -> Result<()> {
        let call = format!("update-restart {name} {restart}");
        let fate = self.before(call).await?;
        self.world().find(name)?;
        self.after(fate, ()).await
    }

    async fn network(&self, name: &str) -> Result<Option<Network>> {
        Ok(self.up()?.networks.get(name).cloned())
    }

    async fn create_network(
        &self,
        network: &NamedSpec,
        subnet: &str,
        mtu: Option<u16>,
    ) -> Result<()> {
        let fate = self
            .before(format!("create-network {}", network.name))
            .await?;
        {
            let mut world = self.world();
            if world.networks.values().any(|n| n.subnet == subnet) {
                return Err(DockerError::Refused(
                    "Pool overlaps with other one on this address space".to_owned(),
                ));
            }
            let labels = network.labels.clone().into_iter().collect();
            world.networks.insert(
                network.name.clone(),
                Network {
                    id: String::new(),
                    subnet: subnet.to_owned(),
                    labels,
                    mtu,
                },
            );
        }
        self.after(fate, ()).await
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        let fate = self.before(format!("remove-network {name}")).await?;
        {
            let mut world = self.world();
            if world
                .containers
                .values()
                .any(|c| c.spec.network == name && c.state == "running")
            {
                return Err(DockerError::Refused(format!(
                    "network {name} has active endpoints"
                )));
            }
            world.networks.remove(name);
        }
        self.after(fate, ()).await
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let world = self.up()?;
        Ok(world
            .volumes
            .get(name)
            .map(|v| self.volume_view(name, v, world.remote)))
    }

    async fn create_volume(&self, volume: &NamedSpec, directory: Option<&Path>) -> Result<Volume> {
        let fate = self
            .before(format!("create-volume {}", volume.name))
            .await?;
        let made = {
            let mut world = self.world();
            if !world.volumes.contains_key(&volume.name) {
                let place = self.own_place(&volume.name);
                std::fs::create_dir_all(&place).map_err(|e| DockerError::Refused(e.to_string()))?;
            }
            let remote = world.remote;
            let volumes = &mut world.volumes;
            let entry = volumes.entry(volume.name.clone());
            let found = entry.or_insert_with(|| FakeVolume {
                labels: volume.labels.clone().into_iter().collect(),
                device: directory.map(Path::to_owned),
            });
            self.volume_view(&volume.name, found, remote)
        };
        self.after(fate, made).await
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        let fate = self.before(format!("remove-volume {name}")).await?;
        {
            let mut world = self.world();
            let uses = |c: &FakeContainer| {
                c.spec
                    .mounts
                    .iter()
                    .any(|m| m.source == MountSource::Volume(name.to_owned()))
            };
            if world.held.contains(name) {
                return Err(DockerError::Conflict(format!("volume {name} is in use")));
            }
            if world.containers.values().any(uses) {
                world
                    .violations
                    .push(format!("volume {name} was to be removed while in use"));
                return Err(DockerError::Conflict(format!("volume {name} is in use")));
            }
        }
        self.lose_volume(name);
        self.after(fate, ()).await
    }

    async fn exec(
        &self,
        container: &str,
        _user: &str,
        command: &[String],
        stdin: Vec<u8>,
    ) -> Result<ExecOutput> {
        let fate = self
            .before(format!(
                "exec {container} {}",
                command.first().map_or("", String::as_str)
            ))
            .await?;
        let tenant = {
            let mut world = self.world();
            let found = world.find(container)?;
            if found.state != "running" {
                return Err(DockerError::Conflict(format!(
                    "container {container} is not running"
                )));
            }
            found
                .spec
                .labels
                .get(LABEL_TENANT)
                .cloned()
                .unwrap_or_default()
        };
        let hangs = self.world().faults.sql_hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
        let script = String::from_utf8_lossy(&stdin);
        let code = self.psql(&tenant, &script)?;
        let stdout = self.strangers(&tenant, &script);
        self.after(
            fate,
            ExecOutput {
                code,
                stdout,
                ..Default::default()
            },
        )
        .await
    }

    async fn log_tail(&self, name: &str, _lines: u32) -> Result<String> {
        drop(self.up()?);
        let words = self.words_on_modules(name);
        Ok(words.unwrap_or_else(|| format!("last words of {name}")))
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>> {
        drop(self.up()?);
        let receiver = self.events.subscribe();
        let next = |mut receiver: broadcast::Receiver<EngineEvent>| async move {
            let event = receiver.recv().await.ok()?;
            Some((Ok(event), receiver))
        };
        Ok(stream::unfold(receiver, next).boxed())
    }

    async fn logs(&self, name: &str, query: LogQuery) -> Result<BoxStream<'static, Result<Chunk>>> {
        self.up()?.find(name)?;
        let line = Ok((false, format!("log of {name}\n").into_bytes().into()));
        let rest = if query.follow {
            stream::pending().boxed()
        } else {
            stream::empty().boxed()
        };
        Ok(stream::iter([line]).chain(rest).boxed())
    }

    async fn exec_session(
        &self,
        container: &str,
        user: &str,
        command: &[String],
        _tty: Option<(u16, u16)>,
    ) -> Result<ExecSession> {
        self.up()?.find(container)?;
        let said = Ok((
            false,
            format!("ran {} as {}\n", command.join(" "), user)
                .into_bytes()
                .into(),
        ));
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
        let code = self.world().ends_with;
        Ok(ExecState {
            code,
            ..ExecState::default()
        })
    }
}

impl FakeDocker {
    fn volume_view(&self, name: &str, volume: &FakeVolume, remote: bool) -> Volume {
        let own = self.own_place(name).display().to_string();
        Volume {
            mountpoint: if remote { format!("/remote{own}") } else { own },
            device: volume.device.as_ref().map(|d| d.display().to_string()),
            opaque: false,
            labels: volume.labels.clone(),
        }
    }
}

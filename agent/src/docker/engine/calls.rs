//! The calls of [`Docker`], each made of one or a few Engine API calls.
//!
//! Not here: the connection and what its errors mean (the parent), types (convert).

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use bollard::{
    errors::Error as BollardError,
    exec::{ResizeExecOptions, StartExecOptions, StartExecResults},
    models as m, query_parameters as q,
};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::ready,
    stream::{self, BoxStream},
};
use tokio::{io::AsyncWriteExt as _, time::sleep};
use tonic::async_trait;

use super::{
    Engine, classify,
    convert::{
        Layers, append, bind_options, chunk, container_view, create_body, engine_event,
        exec_options, filters, first_file, limits_update, listed, restart_update, summary,
        volume_view, with_tag,
    },
    networks,
    tail::Tail,
};
use crate::{
    docker::{
        Chunk, ContainerSummary, Docker, DockerError, EngineEvent, EngineInfo, ExecOutput,
        ExecSession, ExecState, Image, LogQuery, MAX_OUTPUT_BYTES, PullProgress, Result, Survey,
    },
    plan::container::{Container, ContainerSpec, LABEL_TENANT, Limits, NamedSpec, Network, Volume},
};

/// How long a removal by another call is waited for.
const REMOVAL: Duration = Duration::from_secs(30);
/// Between two looks whether it has ended.
const AGAIN: Duration = Duration::from_millis(200);
/// Time allowed for a stop beyond its own grace.
const STOP_MARGIN_S: u64 = 30;
/// A one-off container may initialise a hundred modules on a slow disk.
const WAIT_TIMEOUT_S: u64 = 3600;
/// Most that is read of an image's file, including its header; [`first_file`] cuts at less.
const MAX_FILE_BYTES: usize = 128 << 10;
/// Status lines of a layer come many times a second; a silent registry must not hold up a tenant for ever.
const PULL_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

#[async_trait]
impl Docker for Engine {
    async fn ping(&self) -> Result<()> {
        self.call(|c| async move { c.ping().await }).await.map(drop)
    }

    async fn info(&self) -> Result<EngineInfo> {
        let info = self.call(|c| async move { c.info().await }).await?;
        let own = self.network(networks::OWN).await?; // there may be none
        let options = info.security_options.unwrap_or_default();
        let has = |name: &str| {
            options
                .iter()
                .any(|o| o.split(',').any(|word| word == name))
        };
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            root_dir: info.docker_root_dir.unwrap_or_default(),
            cpus: info.ncpu.unwrap_or_default() as u32,
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            driver: info.driver.unwrap_or_default(),
            maps_users: has("name=userns"),
            rootless: has("name=rootless"),
            mtu: own.and_then(|own| own.mtu),
        })
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        let Some(found) = self
            .find(|c| async move { c.inspect_image(reference).await })
            .await?
        else {
            return Ok(None);
        };
        let id = found.id.unwrap_or_default();
        let repo_digest = found
            .repo_digests
            .unwrap_or_default()
            .into_iter()
            .find_map(|d| d.split_once('@').map(|(_, d)| d.to_owned()));
        let config = found.config.unwrap_or_default();
        Ok(Some(Image {
            digest: repo_digest.unwrap_or_else(|| id.clone()),
            id,
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            labels: config.labels.unwrap_or_default(),
        }))
    }

    async fn pull(&self, reference: &str, progress: PullProgress<'_>) -> Result<()> {
        let failed = |why: String| DockerError::Pull {
            image: reference.to_owned(),
            why,
        };
        let client = self.client().await?;
        let options = q::CreateImageOptionsBuilder::default()
            .from_image(&with_tag(reference))
            .build();
        let mut lines = std::pin::pin!(client.create_image(Some(options), None, None));
        let mut layers = Layers::default();
        // Read to its end: dropping the stream cancels the pull.
        while let Some(line) = tokio::time::timeout(PULL_IDLE_TIMEOUT, lines.next())
            .await
            .map_err(|_| failed("the registry went silent".to_owned()))?
        {
            let line = line.map_err(|e| match self.failed(e) {
                DockerError::Unreachable(why) => DockerError::Unreachable(why),
                other => failed(other.to_string()),
            })?;
            if let Some(detail) = line.error_detail {
                return Err(failed(detail.message.unwrap_or_default()));
            }
            if let Some(percent) = layers.percent(&line) {
                progress(percent);
            }
        }
        Ok(())
    }

    async fn image_files(&self, image: &str, paths: &[&str]) -> Result<HashMap<String, Vec<u8>>> {
        let body = m::ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: Some(vec!["true".to_owned()]),
            ..Default::default()
        };
        let made = self
            .call(|c| async move { c.create_container(None, body).await })
            .await?;
        let mut files = HashMap::new();
        let mut outcome = Ok(());
        for path in paths {
            match self.read_file(&made.id, path).await {
                Ok(Some(bytes)) => drop(files.insert((*path).to_owned(), bytes)),
                Ok(None) => {}
                Err(e) => outcome = Err(e),
            }
        }
        let options = q::RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        self.call(|c| async move { c.remove_container(&made.id, Some(options)).await })
            .await?;
        outcome.map(|()| files)
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>> {
        let options = q::ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters(&[("label", LABEL_TENANT)]))
            .build();
        let found = self
            .call(|c| async move { c.list_containers(Some(options)).await })
            .await?;
        Ok(found.into_iter().map(summary).collect())
    }

    async fn survey(&self) -> Result<Survey> {
        let ours = q::ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters(&[("label", LABEL_TENANT)]))
            .build();
        let (all, volumes, containers) = tokio::try_join!(
            self.call(|c| async move { c.list_networks(None::<q::ListNetworksOptions>).await }),
            self.call(|c| async move { c.list_volumes(None::<q::ListVolumesOptions>).await }),
            self.call(|c| async move { c.list_containers(Some(ours)).await }),
        )?;
        Ok(Survey {
            networks: all.into_iter().filter_map(networks::listed).collect(),
            volumes: volumes
                .volumes
                .unwrap_or_default()
                .into_iter()
                .map(volume_view)
                .collect(),
            containers: containers.into_iter().map(listed).collect(),
        })
    }

    async fn container(&self, name: &str) -> Result<Option<Container>> {
        let found = self
            .find(|c| async move { c.inspect_container(name, None).await })
            .await?;
        Ok(found.map(container_view))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<()> {
        let options = q::CreateContainerOptionsBuilder::default()
            .name(&spec.name)
            .build();
        let body = create_body(spec);
        self.call(|c| async move { c.create_container(Some(options), body).await })
            .await
            .map(drop)
    }

    async fn start(&self, name: &str) -> Result<()> {
        self.call(|c| async move { c.start_container(name, None).await })
            .await
    }

    async fn stop(&self, name: &str, grace_s: u32) -> Result<()> {
        let timeout = Duration::from_secs(u64::from(grace_s) + STOP_MARGIN_S);
        let options = q::StopContainerOptionsBuilder::default()
            .t(grace_s as i32)
            .build();
        let stopped = self.find(|c| async move {
            (*c).clone()
                .with_timeout(timeout)
                .stop_container(name, Some(options))
                .await
        });
        stopped.await.map(drop)
    }

    async fn wait(&self, name: &str) -> Result<i32> {
        let client = (*self.client().await?)
            .clone()
            .with_timeout(Duration::from_secs(WAIT_TIMEOUT_S));
        let mut ends = std::pin::pin!(client.wait_container(name, None));
        match ends.next().await {
            Some(Ok(end)) => Ok(end.status_code as i32),
            Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code as i32), // not 0, but an answer
            Some(Err(e)) => Err(self.failed(e)),
            None => Err(DockerError::Unreachable(
                "the connection ended while waiting for a container".to_owned(),
            )),
        }
    }

    async fn remove(&self, name: &str) -> Result<()> {
        // `v` removes volumes without a name (/mnt/extra-addons); named ones stay.
        let options = q::RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let begun = Instant::now();
        loop {
            let options = options.clone();
            let removed = self
                .find(|c| async move { c.remove_container(name, Some(options)).await })
                .await;
            match removed {
                // Another call removes it at this moment: it is not gone before that one ends.
                Err(DockerError::Conflict(_)) if begun.elapsed() < REMOVAL => sleep(AGAIN).await,
                done => return done.map(drop),
            }
        }
    }

    async fn update(&self, name: &str, limits: &Limits) -> Result<()> {
        let body = limits_update(limits);
        self.call(|c| async move { c.update_container(name, body).await })
            .await
    }

    async fn update_restart(&self, name: &str, restart: bool) -> Result<()> {
        let body = restart_update(restart);
        self.call(|c| async move { c.update_container(name, body).await })
            .await
    }

    async fn network(&self, name: &str) -> Result<Option<Network>> {
        let found = self
            .find(|c| async move { c.inspect_network(name, None).await })
            .await?;
        Ok(found.map(networks::view))
    }

    async fn create_network(
        &self,
        network: &NamedSpec,
        subnet: &str,
        mtu: Option<u16>,
    ) -> Result<()> {
        let body = networks::request(network, subnet, mtu);
        self.call(|c| async move { c.create_network(body).await })
            .await
            .map(drop)
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        self.find(|c| async move { c.remove_network(name).await })
            .await
            .map(drop)
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let found = self
            .find(|c| async move { c.inspect_volume(name).await })
            .await?;
        Ok(found.map(|v| volume_view(v).1))
    }

    async fn create_volume(&self, volume: &NamedSpec, directory: Option<&Path>) -> Result<Volume> {
        let body = m::VolumeCreateRequest {
            name: Some(volume.name.clone()),
            labels: Some(volume.labels.clone().into_iter().collect()),
            driver_opts: directory.map(bind_options),
            ..Default::default()
        };
        let made = self
            .call(|c| async move { c.create_volume(body).await })
            .await?;
        Ok(volume_view(made).1)
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        self.find(|c| async move { c.remove_volume(name, None::<q::RemoveVolumeOptions>).await })
            .await
            .map(drop)
    }

    async fn exec(
        &self,
        container: &str,
        user: &str,
        command: &[String],
        stdin: Vec<u8>,
    ) -> Result<ExecOutput> {
        let mut session = self.exec_session(container, user, command, None).await?;
        let feed = async {
            // A command that ends early closes its input: its exit code is what matters, not this error.
            let _ = session.input.write_all(&stdin).await;
            let _ = session.input.shutdown().await;
        };
        let mut result = ExecOutput::default();
        let collect = async {
            while let Some((stderr, bytes)) = session.output.try_next().await? {
                append(
                    if stderr {
                        &mut result.stderr
                    } else {
                        &mut result.stdout
                    },
                    &bytes,
                );
            }
            Ok::<_, DockerError>(())
        };
        let ((), collected) = tokio::join!(feed, collect);
        collected?;
        result.code = self.exec_state(&session.id).await?.code;
        Ok(result)
    }

    async fn log_tail(&self, name: &str, lines: u32) -> Result<String> {
        let mut logs = self
            .logs(
                name,
                LogQuery {
                    follow: false,
                    tail: lines,
                    timestamps: false,
                },
            )
            .await?;
        let mut tail = Tail::new(MAX_OUTPUT_BYTES);
        while let Some((_, bytes)) = logs.try_next().await? {
            tail.push(&bytes);
        }
        Ok(tail.text())
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>> {
        let mut wanted = filters(&[("label", LABEL_TENANT), ("type", "container")]);
        wanted.insert(
            "event".to_owned(),
            ["start", "die", "oom", "destroy"]
                .map(str::to_owned)
                .to_vec(),
        );
        // An event of a volume says nothing of its labels, so it needs filters, and a stream, of its own.
        let gone = filters(&[("type", "volume"), ("event", "destroy")]);
        let client = self.client().await?;
        let streams = [wanted, gone].map(|wanted| {
            let options = q::EventsOptionsBuilder::default().filters(&wanted).build();
            client
                .events(Some(options))
                .map(Some)
                .chain(stream::once(ready(None)))
        });
        let [containers, volumes] = streams;
        // Ends with the first of the two.
        let both = stream::select(containers, volumes).take_while(|event| ready(event.is_some()));
        Ok(both
            .filter_map(|event| ready(event.map(|e| e.map(engine_event).map_err(classify))))
            .boxed())
    }

    async fn logs(&self, name: &str, query: LogQuery) -> Result<BoxStream<'static, Result<Chunk>>> {
        let options = q::LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(query.follow)
            .timestamps(query.timestamps)
            .tail(&query.tail.to_string())
            .build();
        let client = self.client().await?;
        Ok(client
            .logs(name, Some(options))
            .map(|line| line.map(chunk).map_err(classify))
            .boxed())
    }

    async fn exec_session(
        &self,
        container: &str,
        user: &str,
        command: &[String],
        tty: Option<(u16, u16)>,
    ) -> Result<ExecSession> {
        let options = exec_options(user, command, tty.is_some());
        let made = self
            .call(|c| async move { c.create_exec(container, options).await })
            .await?;
        let start = StartExecOptions {
            tty: tty.is_some(),
            ..Default::default()
        };
        let id = made.id.clone();
        let started = self
            .call(|c| async move { c.start_exec(&id, Some(start)).await })
            .await?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(DockerError::Refused(
                "the command was started detached".to_owned(),
            ));
        };
        if let Some(size) = tty {
            // By design of the API this races with the start; the client sends its size again on change.
            let _ = self.exec_resize(&made.id, size).await;
        }
        let output = output.map(|part| part.map(chunk).map_err(classify)).boxed();
        Ok(ExecSession {
            id: made.id,
            output,
            input,
        })
    }

    async fn exec_resize(&self, id: &str, (columns, rows): (u16, u16)) -> Result<()> {
        let options = ResizeExecOptions {
            height: rows,
            width: columns,
        };
        self.call(|c| async move { c.resize_exec(id, options).await })
            .await
    }

    async fn exec_state(&self, id: &str) -> Result<ExecState> {
        let found = self
            .call(|c| async move { c.inspect_exec(id).await })
            .await?;
        Ok(ExecState {
            running: found.running.unwrap_or_default(),
            code: found.exit_code.unwrap_or_default() as i32,
            pid: found.pid.unwrap_or_default() as i32,
        })
    }
}

impl Engine {
    async fn read_file(&self, container: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let options = q::DownloadFromContainerOptionsBuilder::default()
            .path(path)
            .build();
        // An image may come from anybody: the path may lead to a file of any size, or to a directory.
        let archive = self
            .find(|c| async move {
                let mut parts = c.download_from_container(container, Some(options));
                let mut archive = Vec::new();
                while let Some(part) = parts.try_next().await? {
                    archive.extend_from_slice(&part);
                    if archive.len() > MAX_FILE_BYTES {
                        break;
                    }
                }
                Ok(archive)
            })
            .await?;
        Ok(archive.and_then(|archive| first_file(&archive)))
    }
}

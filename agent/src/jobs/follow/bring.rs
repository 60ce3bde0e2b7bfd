//! The beginning of a copy: a base backup, taken by the tenant's own PostgreSQL image in a container that has the empty volume, the socket
//! to the other host, and no network.
//!
//! It holds the other host's log by a slot from its first moment on, so that a standby finds all of it later. Not here: that standby
//! (tenant).

use std::collections::BTreeMap;

use isyone_proto::plan::{Role, TenantPlan};

use super::{
    Attempt, Follow, again, disk,
    line::{self, Line},
};
use crate::{
    base::fsutil::blocking,
    docker::{ExecOutput, POSTGRES_USER, ROOT_USER},
    jobs::{JobError, Progress, fetch::Way},
    peer::cluster as sql,
    plan::{
        container::{
            ContainerSpec, LABEL_ROLE, LABEL_TENANT, LABEL_UID, Limits, Mount, MountSource,
        },
        design::{default_pgdata, postgres_target},
        facts::ImageFacts,
        stack::{init_name, split_memory},
        standby::SLOT,
    },
    tenant::copies,
};

/// The role of the container that brings a copy.
const ROLE: &str = "copy";
/// Longest that a base backup may take, seconds: its container ends by then, whoever forgot it.
const LONGEST_S: &str = "86400";
/// What pg_basebackup takes as its rate, KiB a second.
const RATES_KIB: (u64, u64) = (32, 1 << 20);
/// Empties the volume, which is scrap of an earlier attempt, and hands it to PostgreSQL.
const PREPARE: &str = "set -e; find \"$1\" -mindepth 1 -delete; mkdir -p \"$2\"; chown -R postgres:postgres \"$1\"; chmod 700 \"$2\"";
/// Longest message of a program that is passed on.
const MAX_TOLD_CHARS: usize = 400;

impl Follow {
    /// Takes a base backup into the volume, and records that a standby may run on it.
    pub(super) async fn bring(
        &self,
        way: &Way<'_>,
        tenant: &TenantPlan,
        line: &Line,
        progress: &Progress,
    ) -> Attempt<()> {
        let image = self.image(tenant).await?;
        if image.standin {
            let why = "a stand-in image has no database to follow";
            return Err(JobError::Never(why.to_owned()));
        }
        let bytes = fits(tenant, line, &image).await?;
        way.check_room(bytes).await?;
        progress.begin(0, bytes);
        progress.tell("a base backup of its database");
        let docker = &self.host.docker;
        let spec = container(tenant, line, &image);
        // An earlier attempt's, which may still write into the volume.
        docker.remove(&spec.name).await.map_err(again)?;
        docker.create(&spec).await.map_err(again)?;
        let taken = tokio::select! {
            taken = self.take(&spec, &image) => taken,
            full = way.is_out_of_room(|| shown(progress, line, bytes)) => Err(full),
        };
        let recorded = match taken {
            Ok(()) => self.record(tenant).await,
            Err(why) => Err(why),
        };
        // Its end wakes the tenant's loop, which then finds what to start.
        docker.remove(&spec.name).await.map_err(again)?;
        progress.begin(bytes, bytes);
        progress.tell("");
        recorded
    }

    async fn record(&self, tenant: &TenantPlan) -> Attempt<()> {
        let (host, tenant) = (self.host.clone(), tenant.clone());
        let recorded = blocking(move || copies::begin_following(&host, &tenant)).await;
        match recorded.map_err(disk)? {
            true => Ok(()),
            false => Err(again("the copy is not wanted any more")),
        }
    }

    pub(super) async fn image(&self, tenant: &TenantPlan) -> Attempt<ImageFacts> {
        let (images, reference) = (&self.host.images, tenant.postgres_image.as_str());
        if let Some(image) = images
            .facts(reference, Role::Postgres)
            .await
            .map_err(again)?
        {
            return Ok(image);
        }
        let docker = &self.host.docker;
        docker.pull(reference, &|_| ()).await.map_err(again)?;
        let pulled = images
            .facts(reference, Role::Postgres)
            .await
            .map_err(again)?;
        pulled.ok_or_else(|| again(format!("image {reference} is not on this host")))
    }

    async fn take(&self, spec: &ContainerSpec, image: &ImageFacts) -> Attempt<()> {
        let docker = &self.host.docker;
        docker.start(&spec.name).await.map_err(again)?;
        let pgdata = pgdata(image);
        let prepare = ["sh", "-c", PREPARE, "sh", &root_of(image), &pgdata].map(str::to_owned);
        let done = docker.exec(&spec.name, ROOT_USER, &prepare, Vec::new());
        ended("the volume cannot be prepared", &done.await.map_err(again)?)?;
        let mut command = [
            "pg_basebackup",
            "--host",
            &line::host(),
            "--username",
            "postgres",
            "--no-password",
            "--pgdata",
            &pgdata,
            "--write-recovery-conf",
            "--wal-method",
            "stream",
            "--create-slot",
            "--slot",
            SLOT,
            "--checkpoint",
            "fast",
        ]
        .map(str::to_owned)
        .to_vec();
        if self.rate_bytes_per_s > 0 {
            let kib = (self.rate_bytes_per_s >> 10).clamp(RATES_KIB.0, RATES_KIB.1);
            command.push(format!("--max-rate={kib}"));
        }
        let done = docker.exec(&spec.name, POSTGRES_USER, &command, Vec::new());
        ended("pg_basebackup", &done.await.map_err(again)?)
    }
}

/// What a copy of this database will have to hold, and an end to what an earlier copy has left there. An error where none can be made.
async fn fits(tenant: &TenantPlan, line: &Line, image: &ImageFacts) -> Attempt<u64> {
    let own = line.cluster(&tenant.name.database()).await.map_err(again)?;
    let unlogged = own.number(sql::UNLOGGED).await.map_err(again)?;
    drop(own);
    if unlogged > 0 {
        return Err(super::unlogged(unlogged));
    }
    let there = line.cluster("postgres").await.map_err(again)?;
    let version = there.number(sql::VERSION).await.map_err(again)?;
    check_major(version, &image.postgres_major)?;
    there.number(&sql::drop_slot()).await.map_err(again)?;
    there.number(sql::SIZE).await.map_err(again)
}

/// A standby of another major version does not start. Of an image that does not say which it has nothing is known.
fn check_major(version: u64, ours: &str) -> Attempt<()> {
    let theirs = version / 10_000;
    if ours.is_empty() || theirs.to_string() == ours {
        return Ok(());
    }
    Err(JobError::Never(format!(
        "its database is one of PostgreSQL {theirs}, and the image here has PostgreSQL {ours}"
    )))
}

/// Shows what has come of so many bytes, and returns it.
fn shown(progress: &Progress, line: &Line, bytes: u64) -> u64 {
    let came = line.meter.bytes();
    progress.begin(came.min(bytes), bytes);
    came
}

fn pgdata(image: &ImageFacts) -> String {
    let known = image.pgdata.clone();
    known.unwrap_or_else(|| default_pgdata(&image.postgres_major))
}

/// Where the volume is mounted: at the cluster, or above it.
fn root_of(image: &ImageFacts) -> String {
    postgres_target(image).to_owned()
}

/// Where the cluster lies in its volume: empty, or with a slash at its end.
pub(super) fn cluster_at(image: &ImageFacts) -> String {
    let pgdata = pgdata(image);
    let below = pgdata.strip_prefix(&root_of(image)).unwrap_or_default();
    match below.trim_matches('/') {
        "" => String::new(),
        below => format!("{below}/"),
    }
}

fn container(tenant: &TenantPlan, line: &Line, image: &ImageFacts) -> ContainerSpec {
    let label = |key: &str, value: String| (key.to_owned(), value);
    let (_, memory_bytes) = split_memory(tenant.size.memory_bytes);
    ContainerSpec {
        name: init_name(&tenant.name),
        image: image.id.clone(),
        command: vec!["sleep".to_owned(), LONGEST_S.to_owned()],
        user: String::new(),
        env: BTreeMap::new(),
        labels: BTreeMap::from([
            label(LABEL_TENANT, tenant.name.to_string()),
            label(LABEL_UID, tenant.uid.to_string()),
            label(LABEL_ROLE, ROLE.to_owned()),
        ]),
        mounts: vec![
            Mount {
                source: MountSource::Volume(tenant.name.postgres_volume()),
                target: root_of(image),
            },
            Mount {
                source: MountSource::File(line.directory.display().to_string()),
                target: line::host(),
            },
        ],
        network: "none".to_owned(),
        aliases: Vec::new(),
        ports: Vec::new(),
        limits: Limits {
            memory_bytes,
            nano_cpus: u64::from(tenant.size.cpu_millis) * 1_000_000 / 2,
            pids: 100,
        },
        shm_bytes: None,
        cap_add: ["CHOWN", "DAC_OVERRIDE", "FOWNER"]
            .map(str::to_owned)
            .to_vec(),
        init: true,
        stop_grace_s: 1,
        restart: false,
        nofile: None,
        device: None,
    }
}

/// How a program ended; its last words are an operator's to read.
fn ended(what: &str, output: &ExecOutput) -> Attempt<()> {
    if output.code == 0 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    let plain = last.unwrap_or("no message").chars();
    let plain: String = plain
        .filter(|c| !c.is_control())
        .take(MAX_TOLD_CHARS)
        .collect();
    Err(again(format!(
        "{what} ended with code {}: {plain}",
        output.code
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_at_the_top_of_its_volume_or_since_18_in_a_directory_of_its_version() {
        let of = |major: &str, pgdata: Option<&str>| {
            cluster_at(&ImageFacts {
                postgres_major: major.to_owned(),
                pgdata: pgdata.map(str::to_owned),
                ..ImageFacts::default()
            })
        };
        assert_eq!(of("15", None), "");
        assert_eq!(of("15", Some("/var/lib/postgresql/data/own")), "own/");
        assert_eq!(of("18", None), "18/docker/");
    }

    #[test]
    fn a_database_of_another_major_version_is_not_followed() {
        assert_eq!(check_major(150_004, "15"), Ok(()));
        assert_eq!(check_major(150_004, ""), Ok(()));
        let why = check_major(160_001, "15").unwrap_err();
        assert!(matches!(why, JobError::Never(why) if why.contains("PostgreSQL 16,")));
    }

    #[test]
    fn a_program_that_fails_is_quoted_briefly() {
        let output = ExecOutput {
            code: 1,
            stdout: Vec::new(),
            stderr: b"first\npg_basebackup: error: \x1bslot \"x\"\n\n".to_vec(),
        };
        let why = ended("pg_basebackup", &output).unwrap_err();
        let wanted = "pg_basebackup ended with code 1: pg_basebackup: error: slot \"x\"";
        assert_eq!(why, JobError::Again(wanted.to_owned()));
    }
}

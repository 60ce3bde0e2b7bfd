//! The peers: docker compose with the agent's own compose file, and Swarm services of the same shape.
//!
//! Not here: what is compared (the parent).

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_proto::plan::TenantPlan;
use isyone_tests::e2e::{
    bare::Bare,
    docker::Docker,
    process::{Output, run},
};

use super::{IMAGES, PATIENCE, ours::TenantFiles};
use crate::samples::timed;

/// Gives both services a health check that asks what the agent's probes ask.
const HEALTH: &str = "services:
  odoo:
    healthcheck: {test: [CMD, /bin/standin, health], interval: 100ms, timeout: 5s, retries: 100}
  postgres:
    healthcheck: {test: [CMD, /bin/pg_isready], interval: 100ms, timeout: 5s, retries: 100}
";

fn succeeded(what: &str, output: Output) -> Result<String> {
    ensure!(
        output.code == 0,
        "{what}: {}{}",
        output.stdout,
        output.stderr
    );
    Ok(output.stdout)
}

/// Makes the volumes that the tenant's files declare external.
fn make_volumes(docker: &Docker, plan: &TenantPlan) -> Result<()> {
    for volume in [plan.name.postgres_volume(), plan.name.odoo_volume()] {
        succeeded(
            "docker volume create",
            docker.run(&[
                "volume",
                "create",
                "--label",
                "one.isy.tenant=bench",
                &volume,
            ]),
        )?;
    }
    Ok(())
}

fn remove_volumes(docker: &Docker, plan: &TenantPlan) -> Result<()> {
    let volumes = [plan.name.postgres_volume(), plan.name.odoo_volume()];
    let begin = Instant::now();
    loop {
        let output = docker.run(&["volume", "rm", "-f", &volumes[0], &volumes[1]]);
        if output.code == 0 {
            return Ok(());
        }
        // A service's containers disappear a moment after the service.
        ensure!(
            begin.elapsed() < PATIENCE,
            "docker volume rm: {}",
            output.stderr
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One project of Docker Compose.
#[derive(Debug)]
pub(super) struct Compose<'a> {
    docker: &'a Docker,
    files: TenantFiles,
    file: PathBuf,
    health: PathBuf,
}

impl<'a> Compose<'a> {
    pub(super) fn new(bare: &'a Bare, files: &TenantFiles) -> Self {
        let file = files
            .dir
            .join(format!("docker-compose-{}.yml", files.plan.name));
        let health = files.dir.join("health.yml");
        Self {
            docker: &bare.docker,
            files: files.clone(),
            file,
            health,
        }
    }

    fn compose(&self, health: bool, args: &[&str]) -> Result<()> {
        let mut command = Command::new("docker");
        command
            .env("DOCKER_HOST", self.docker.host())
            .arg("compose")
            .arg("-f")
            .arg(&self.file);
        if health {
            command.arg("-f").arg(&self.health);
        }
        succeeded("docker compose", run(command.args(args))).map(drop)
    }

    /// Brings it up (timed) and takes it down.
    pub(super) fn round(&self, health: bool) -> Result<Duration> {
        std::fs::write(&self.health, HEALTH).with_context(|| self.health.display().to_string())?;
        make_volumes(self.docker, &self.files.plan)?;
        let up: &[&str] = if health {
            &["up", "-d", "--wait"]
        } else {
            &["up", "-d"]
        };
        let ((), took) = timed(|| self.compose(health, up))?;
        self.down()?;
        Ok(took)
    }

    /// Takes it down and removes its volumes.
    pub(super) fn down(&self) -> Result<()> {
        self.compose(false, &["down", "--timeout", "1"])?;
        remove_volumes(self.docker, &self.files.plan)
    }

    /// Brings it up and leaves it running.
    pub(super) fn up_to_stay(&self) -> Result<()> {
        make_volumes(self.docker, &self.files.plan)?;
        self.compose(false, &["up", "-d"])
    }

    /// `up` again, when there is nothing to do.
    pub(super) fn up_again(&self) -> Result<()> {
        self.compose(false, &["up", "-d"])
    }
}

/// The tenant as two Swarm services.
#[derive(Debug)]
pub(super) struct Swarm<'a> {
    docker: &'a Docker,
    files: TenantFiles,
}

const NETWORK: &str = "isyone-bench";

impl<'a> Swarm<'a> {
    /// Makes the daemon a single-node swarm until this is dropped.
    pub(super) fn new(bare: &'a Bare, files: &TenantFiles) -> Result<Self> {
        let docker = &bare.docker;
        if docker.run(&["node", "ls"]).code != 0 {
            succeeded(
                "docker swarm init",
                docker.run(&["swarm", "init", "--advertise-addr", &bare.address]),
            )?;
        }
        docker.run(&["network", "rm", NETWORK]);
        let network = [
            "network",
            "create",
            "--driver",
            "overlay",
            "--subnet",
            "10.231.0.0/24",
            NETWORK,
        ];
        succeeded("docker network create", docker.run(&network))?;
        Ok(Self {
            docker,
            files: files.clone(),
        })
    }

    fn create(&self, name: &str, image: &str, args: &[String]) -> Result<()> {
        let mut all: Vec<String> = [
            "service",
            "create",
            "--quiet",
            "--name",
            name,
            "--network",
            NETWORK,
        ]
        .map(str::to_owned)
        .to_vec();
        for option in [
            "--endpoint-mode=dnsrr",
            "--update-monitor=1ms",
            "--no-resolve-image",
            "--cap-drop=ALL",
            "--init",
            "--container-label=one.isy.tenant=bench",
            "--log-driver=json-file",
            "--log-opt=max-size=10m",
            "--log-opt=max-file=3",
            "--limit-cpu=0.5",
        ] {
            all.push(option.to_owned());
        }
        all.extend(args.iter().cloned());
        all.push(image.to_owned());
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        succeeded("docker service create", self.docker.run(&all)).map(drop)
    }

    fn services(&self) -> Result<()> {
        let plan = &self.files.plan;
        let mount = |volume: &str, target: &str| {
            format!("--mount=type=volume,source={volume},target={target}")
        };
        let bind = |file: &str, target: &str| {
            let mut text = String::new();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "--mount=type=bind,source={}/{file},target={target},readonly",
                self.files.dir.display()
            );
            text
        };
        let publish = |host: u16, container: u16| {
            format!("--publish=mode=host,published={host},target={container}")
        };
        let memory = |share: u64| format!("--limit-memory={}", plan.size.memory_bytes * share / 4);
        self.create(
            "bench_postgres",
            IMAGES[1],
            &[
                mount(&plan.name.postgres_volume(), "/var/lib/postgresql/data"),
                bind("postgres_password", "/run/secrets/postgres_password"),
                memory(1),
                "--limit-pids=300".to_owned(),
            ],
        )?;
        self.create(
            "bench_odoo",
            IMAGES[0],
            &[
                mount(&plan.name.odoo_volume(), "/var/lib/odoo"),
                bind("odoo.conf", "/etc/odoo/odoo.conf"),
                publish(plan.http_port, 8069),
                publish(plan.websocket_port, 8072),
                memory(3),
                "--limit-pids=256".to_owned(),
            ],
        )
    }

    /// Starts both services (timed) and removes them again.
    pub(super) fn round(&self) -> Result<Duration> {
        make_volumes(self.docker, &self.files.plan)?;
        let ((), took) = timed(|| self.services())?;
        let tasks = self
            .docker
            .run(&["service", "ls", "--format", "{{.Replicas}}"])
            .ok();
        ensure!(
            tasks.lines().filter(|l| *l == "1/1").count() == 2,
            "not both tasks run: {tasks}"
        );
        succeeded(
            "docker service rm",
            self.docker
                .run(&["service", "rm", "bench_postgres", "bench_odoo"]),
        )?;
        remove_volumes(self.docker, &self.files.plan)?;
        Ok(took)
    }
}

impl Drop for Swarm<'_> {
    /// Leaves the swarm: the daemon's data outlives the bench.
    fn drop(&mut self) {
        self.docker.run(&["network", "rm", NETWORK]);
        self.docker.run(&["swarm", "leave", "--force"]);
    }
}

//! The floor: the same containers as one of isyone's tenants, started with `docker run` on volumes that are already
//! filled.
//!
//! All options are copied from a live tenant, so that both sides run the same. Not here: what is compared (the parent).

use std::{
    cell::Cell as Counter,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::{cell::Cell, docker::Docker, process::run};
use serde_json::Value;

use super::{Created, await_login_page, host_address};

/// Ports that no tenant gets.
const PORTS: (u16, u16) = (18_069, 18_072);
const NETWORK: &str = "floor";
const VOLUMES: [&str; 2] = ["floor_pgdata", "floor_odoo"];
const CONTAINERS: [&str; 2] = ["floor_postgres", "floor_odoo"];
/// Label of the floor's objects: the cell removes everything that carries it, whatever happens.
const LABEL: &str = "one.isy.tenant=floor";

pub(super) struct Floor {
    docker: Docker,
    address: SocketAddr,
    websocket: SocketAddr,
    /// Odoo's and PostgreSQL's containers, as `docker inspect` describes them.
    odoo: Value,
    postgres: Value,
    /// The tenant's directory.
    tenant: PathBuf,
    /// A copy of the tenant's files, with the floor's own names in odoo.conf.
    files: PathBuf,
    /// The snapshot; `None` for stand-ins, which have no data.
    golden: Option<Golden>,
    /// Number of the host's CPUs.
    cpus: String,
    rounds: Counter<u32>,
}

struct Golden {
    dir: PathBuf,
    database: String,
    password: String,
}

impl Floor {
    /// Modelled on a created tenant; `real` if it has a database.
    pub(super) fn new(cell: &Cell, model: &Created, real: bool) -> Result<Self> {
        let host = &cell.hosts[0];
        let inspect = |container: String| -> Result<Value> {
            Ok(serde_json::from_str(
                &host.docker.run(&["inspect", &container]).ok(),
            )?)
        };
        let (odoo, postgres) = (
            inspect(format!("odoo_{}", model.name))?,
            inspect(format!("postgres_{}", model.name))?,
        );
        let from = host.data.join("tenants").join(&model.name).canonicalize()?;
        let files = cell.dir.path().join("floor");
        std::fs::create_dir_all(&files)?;
        let conf = std::fs::read_to_string(from.join("odoo.conf"))?;
        let password = conf_value(&conf, "db_password")?;
        let golden = if real {
            Some(golden(&host.data.join("golden"), password)?)
        } else {
            None
        };
        let mut text = conf.replace(&format!("postgres_{}", model.name), CONTAINERS[0]);
        if let Some(golden) = &golden {
            text = text.replace(&format!("odoo_{}", model.name), &golden.database);
        }
        // With owners and modes; writing keeps those of the file that is there.
        copy(&from.join("."), &files)?;
        std::fs::write(files.join("odoo.conf"), &text)?;
        let address = host_address(cell)?;
        Ok(Self {
            docker: host.docker.clone(),
            address: SocketAddr::new(address, PORTS.0),
            websocket: SocketAddr::new(address, PORTS.1),
            odoo: odoo[0].clone(),
            postgres: postgres[0].clone(),
            tenant: from,
            files,
            golden,
            cpus: host
                .docker
                .run(&["info", "--format", "{{.NCPU}}"])
                .ok()
                .trim()
                .to_owned(),
            rounds: Counter::new(0),
        })
    }

    fn docker(&self, args: &[&str]) -> Result<String> {
        let output = self.docker.run(args);
        ensure!(
            output.code == 0,
            "docker {}: {}",
            args.join(" "),
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Prepares, starts both containers, waits for the page, removes everything: the time from start to page.
    pub(super) fn round(&self) -> Result<Duration> {
        self.rounds.set(self.rounds.get() + 1);
        self.prepare()?;
        let (postgres, odoo) = (self.run_postgres(), self.run_odoo());
        let begin = Instant::now();
        self.docker(&postgres.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.docker(&odoo.iter().map(String::as_str).collect::<Vec<_>>())?;
        await_login_page(self.address, begin)?;
        let took = begin.elapsed();
        let restarts = self.docker.inspect(CONTAINERS[1], "{{.RestartCount}}");
        ensure!(
            restarts == "0",
            "the floor's Odoo was restarted {restarts} times, so it is no floor"
        );
        self.remove();
        Ok(took)
    }

    fn remove(&self) {
        self.docker
            .run(&["rm", "-fv", CONTAINERS[0], CONTAINERS[1]]);
        self.docker.run(&["volume", "rm", VOLUMES[0], VOLUMES[1]]);
        self.docker.run(&["network", "rm", NETWORK]);
    }

    /// Makes the network and the volumes, and copies the snapshot with the role's password set.
    fn prepare(&self) -> Result<()> {
        self.remove();
        self.docker(&[
            "network",
            "create",
            "--label",
            LABEL,
            "--subnet",
            "10.230.0.0/28",
            NETWORK,
        ])?;
        let mut places = Vec::new();
        for volume in VOLUMES {
            self.docker(&["volume", "create", "--label", LABEL, volume])?;
            let place = self.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", volume])?;
            places.push(PathBuf::from(place.trim()));
        }
        let Some(golden) = &self.golden else {
            return Ok(());
        };
        copy(&golden.dir.join("pgdata/."), &places[0])?;
        copy(
            &golden.dir.join("filestore/."),
            &places[1].join("filestore"),
        )?;
        let owner = self.docker(&[
            "run",
            "--rm",
            "--entrypoint",
            "/bin/sh",
            text(&self.odoo["Config"]["Image"])?,
            "-c",
            "id -u; id -g",
        ])?;
        let owner: Vec<&str> = owner.split_whitespace().collect();
        let chown = run(Command::new("chown")
            .arg("-R")
            .arg(owner.join(":"))
            .arg(&places[1]));
        ensure!(chown.code == 0, "{}", chown.stderr);
        // A PostgreSQL sets the role's password and is stopped cleanly again.
        let postgres = self.run_postgres();
        self.docker(&postgres.iter().map(String::as_str).collect::<Vec<_>>())?;
        let sql = format!(
            "ALTER ROLE odoo WITH LOGIN NOSUPERUSER NOCREATEDB PASSWORD '{}'",
            golden.password
        );
        let begin = Instant::now();
        while self
            .docker
            .run(&["exec", CONTAINERS[0], "psql", "-U", "postgres", "-c", &sql])
            .code
            != 0
        {
            ensure!(
                begin.elapsed() < Duration::from_secs(60),
                "the floor's PostgreSQL does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.docker(&["stop", CONTAINERS[0]])?;
        self.docker(&["rm", CONTAINERS[0]]).map(drop)
    }

    /// The `docker run` options that both containers share.
    fn common(&self, name: &str, model: &Value) -> Vec<String> {
        let host = &model["HostConfig"];
        let mut args: Vec<String> = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            NETWORK,
            "--label",
            LABEL,
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--memory={}", host["Memory"]));
        args.push(format!("--memory-swap={}", host["MemorySwap"]));
        args.push(format!("--cpus={}", self.cpus));
        args.push(format!("--pids-limit={}", host["PidsLimit"]));
        args.push(format!("--shm-size={}", host["ShmSize"]));
        args.push(format!("--init={}", host["Init"]));
        for option in [
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges:true",
            "--restart=unless-stopped",
            "--log-driver=json-file",
        ] {
            args.push(option.to_owned());
        }
        args.extend(["--log-opt=max-size=10m", "--log-opt=max-file=3"].map(str::to_owned));
        let capabilities = host["CapAdd"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        args.extend(capabilities.map(|c| format!("--cap-add={c}")));
        args
    }

    fn finish(&self, mut args: Vec<String>, model: &Value) -> Vec<String> {
        args.push(
            model["Config"]["Image"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
        let command = model["Config"]["Cmd"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        args.extend(command.map(str::to_owned));
        args
    }

    /// The tenant's mounts, with the floor's volumes and files in place of the tenant's.
    fn mounts(&self, model: &Value, volume: &str) -> Vec<String> {
        let all = model["HostConfig"]["Mounts"]
            .as_array()
            .into_iter()
            .flatten();
        let mount = |mount: &Value| {
            let (source, target) = (mount["Source"].as_str()?, mount["Target"].as_str()?);
            if mount["Type"] == "volume" {
                return Some(format!(
                    "--mount=type=volume,source={volume},target={target}"
                ));
            }
            let own = Path::new(source)
                .strip_prefix(&self.tenant)
                .ok()
                .map(|name| self.files.join(name));
            let source = own.unwrap_or_else(|| PathBuf::from(source));
            Some(format!(
                "--mount=type=bind,source={},target={target},readonly",
                source.display()
            ))
        };
        all.filter_map(mount).collect()
    }

    fn run_postgres(&self) -> Vec<String> {
        let mut args = self.common(CONTAINERS[0], &self.postgres);
        args.extend(self.mounts(&self.postgres, VOLUMES[0]));
        args.push("--env=POSTGRES_PASSWORD_FILE=/run/secrets/postgres_password".to_owned());
        self.finish(args, &self.postgres)
    }

    fn run_odoo(&self) -> Vec<String> {
        let mut args = self.common(CONTAINERS[1], &self.odoo);
        args.extend(self.mounts(&self.odoo, VOLUMES[1]));
        args.push(format!("--publish={}:8069", self.address));
        args.push(format!("--publish={}:8072", self.websocket));
        self.finish(args, &self.odoo)
    }
}

/// The host's only snapshot.
fn golden(store: &Path, password: String) -> Result<Golden> {
    let entry = std::fs::read_dir(store)?
        .next()
        .context("the host has no golden snapshot")??;
    let meta: Value = serde_json::from_slice(&std::fs::read(entry.path().join("meta.json"))?)?;
    Ok(Golden {
        dir: entry.path(),
        database: text(&meta["database"])?.to_owned(),
        password,
    })
}

fn text(value: &Value) -> Result<&str> {
    value
        .as_str()
        .with_context(|| format!("a text in place of {value}"))
}

fn conf_value(conf: &str, key: &str) -> Result<String> {
    let line = conf
        .lines()
        .find_map(|l| l.strip_prefix(key)?.trim_start().strip_prefix('='));
    Ok(line
        .with_context(|| format!("{key} in odoo.conf"))?
        .trim()
        .to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = run(Command::new("cp").arg("-a").arg(from).arg(to));
    ensure!(copied.code == 0, "{}", copied.stderr);
    Ok(())
}

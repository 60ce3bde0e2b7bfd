//! What an operator does without us: Odoo and PostgreSQL by `docker run` on one host are stopped, what they have goes to another host, and
//! there they are started.
//!
//! Not here: what that is compared with (the parent).

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use isyone_tests::e2e::{cell::Cell, docker::Docker, http::get, process::run};

const DATABASE: &str = "hand";
const POSTGRES: &str = "hand_postgres";
const ODOO: &str = "hand_odoo";
const VOLUMES: [&str; 2] = ["hand_pgdata", "hand_odoo"];
/// A port that no tenant gets.
const PORT: u16 = 18_269;
const PATIENCE: Duration = Duration::from_secs(120);

/// How it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The directories of both.
    Copy,
    /// A dump into a database that is there, and Odoo's files.
    Dump,
}

struct Host {
    docker: Docker,
    address: String,
}

/// Odoo on one host, and room on another.
pub(super) struct ByHand {
    from: Host,
    to: Host,
}

impl Host {
    fn docker(&self, args: &[&str]) -> Result<String> {
        let output = self.docker.run(args);
        let words = args.join(" ");
        ensure!(output.code == 0, "docker {words}: {}", output.stderr);
        Ok(output.stdout.trim().to_owned())
    }

    fn run_postgres(&self) -> Result<()> {
        let volume = format!("{}:/var/lib/postgresql/data", VOLUMES[0]);
        let head = ["run", "-d", "--name", POSTGRES, "--network", "hand"];
        let env = ["-e", "POSTGRES_PASSWORD=hand", "-e", "POSTGRES_USER=odoo"];
        let tail = ["-v", &volume, "postgres:15"];
        self.docker(&[&head[..], &env, &tail].concat())?;
        let begin = Instant::now();
        let asks = ["exec", POSTGRES, "pg_isready", "-q", "-h", "127.0.0.1"];
        while self.docker.run(&asks).code != 0 {
            ensure!(begin.elapsed() < PATIENCE, "PostgreSQL does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn odoo(&self, how: &[&str], more: &[&str]) -> Result<()> {
        let volume = format!("{}:/var/lib/odoo", VOLUMES[1]);
        let head = ["run", "--network", "hand", "-v", &volume];
        let env = ["-e", "HOST=hand_postgres", "-e", "PASSWORD=hand"];
        let tail = ["odoo:19.0", "odoo", "-d", DATABASE];
        let words = [&head[..], how, &env, &tail, more].concat();
        self.docker(&words).map(drop)
    }

    fn run_odoo(&self) -> Result<()> {
        let port = format!("{}:{PORT}:8069", self.address);
        self.odoo(&["-d", "--name", ODOO, "-p", &port], &["--workers=0"])?;
        let address = format!("{}:{PORT}", self.address).parse()?;
        let begin = Instant::now();
        while get(address, "hand", "/web/login").status != 200 {
            ensure!(begin.elapsed() < PATIENCE, "plain Odoo does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn place(&self, volume: &str) -> Result<String> {
        self.docker(&["volume", "create", volume])?;
        self.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", volume])
    }

    fn clear(&self) {
        self.docker.run(&["rm", "-fv", ODOO, POSTGRES]);
        self.docker.run(&["volume", "rm", VOLUMES[0], VOLUMES[1]]);
    }
}

impl ByHand {
    pub(super) fn start(cell: &Cell) -> Result<Self> {
        let host = |index: usize| Host {
            docker: cell.hosts[index].docker.clone(),
            address: cell.hosts[index].address.clone(),
        };
        let hand = Self {
            from: host(0),
            to: host(1),
        };
        for host in [&hand.from, &hand.to] {
            host.docker(&["network", "create", "--subnet", "10.231.0.0/28", "hand"])?;
        }
        hand.from.run_postgres()?;
        let init = ["-i", "base", "--without-demo=all", "--stop-after-init"];
        hand.from.odoo(&["--rm"], &init)?;
        hand.from.run_odoo()?;
        Ok(hand)
    }

    /// Makes its database so large.
    pub(super) fn grow(&self, mib: u64) -> Result<()> {
        let make = format!(
            "drop table if exists filler; create table filler as select g as id, (select string_agg(md5(g::text || s), '') \
             from generate_series(1, 30) s) as t from generate_series(1, {mib} * 1024) g; checkpoint"
        );
        for part in make.split("; ") {
            let psql = ["exec", POSTGRES, "psql", "-q", "-U", "odoo", "-d", DATABASE];
            self.from.docker(&[&psql[..], &["-c", part]].concat())?;
        }
        Ok(())
    }

    /// It goes, and comes back without a clock; returns for how long nobody was answered.
    pub(super) fn goes(&self, way: Way) -> Result<Duration> {
        self.to.clear();
        if way == Way::Dump {
            self.to.run_postgres()?;
            let make = ["exec", POSTGRES, "createdb", "-U", "odoo", DATABASE];
            self.to.docker(&make)?;
        }
        let begin = Instant::now();
        self.from.docker(&["stop", ODOO])?;
        match way {
            Way::Copy => {
                self.from.docker(&["stop", POSTGRES])?;
                self.copy(VOLUMES[0])?;
                self.copy(VOLUMES[1])?;
                self.to.run_postgres()?;
            }
            Way::Dump => {
                self.pipe(
                    &format!("docker exec {POSTGRES} pg_dump -U odoo -Fc -Z0 {DATABASE}"),
                    &format!("docker exec -i {POSTGRES} pg_restore -U odoo -d {DATABASE}"),
                )?;
                self.copy(VOLUMES[1])?;
            }
        }
        self.to.run_odoo()?;
        let took = begin.elapsed();
        eprintln!("  by hand, {way:?}: {:.2} s", took.as_secs_f64());
        self.to.clear();
        self.from.docker(&["start", POSTGRES, ODOO])?;
        Ok(took)
    }

    fn copy(&self, volume: &str) -> Result<()> {
        let (from, to) = (self.from.place(volume)?, self.to.place(volume)?);
        self.pipe(&format!("tar c -C {from} ."), &format!("tar x -C {to}"))
    }

    fn pipe(&self, from: &str, to: &str) -> Result<()> {
        let script = format!(
            "DOCKER_HOST={} {from} | DOCKER_HOST={} {to}",
            self.from.docker.host(),
            self.to.docker.host()
        );
        let done = run(Command::new("bash").args(["-o", "pipefail", "-ec", &script]));
        ensure!(done.code == 0, "{from}: {}", done.stderr);
        Ok(())
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        for host in [&self.from, &self.to] {
            host.clear();
            host.docker.run(&["network", "rm", "hand"]);
        }
    }
}

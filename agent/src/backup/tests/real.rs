//! A base backup and shipments of a real PostgreSQL, restored by stock PostgreSQL from what lies in the repository. Where there is none on
//! this machine, or no root to run it as its user, there is nothing to try.
//!
//! Not here: containers (the end-to-end tests).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use isyone_backup::{
    Job, Snapshot, Stop,
    source::{Producer, Program},
};
use isyone_proto::{
    backup::{BackupWork, Counts, Fault},
    plan::TenantPlan,
};
use tonic::async_trait;

use super::{
    super::{
        Tenants,
        chain::{Position, SegmentSize},
        cluster::Stream,
        words::Problem,
    },
    world::World,
};
use crate::{base::clock::now_ms, tenant::kept::Kept};

/// A cluster of its own, and the programs for it.
pub(super) struct Cluster {
    pub(super) dir: PathBuf,
    programs: PathBuf,
}

pub(super) fn programs() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.flatten().map(|v| v.path().join("bin")).collect();
    found.retain(|bin| bin.join("pg_basebackup").exists() && bin.join("initdb").exists());
    found.sort();
    found.pop()
}

impl Cluster {
    /// A program of PostgreSQL's, as its user.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "--",
            ])
            .arg(self.programs.join(program))
            .current_dir(&self.dir)
            .env("PGHOST", &self.dir)
            .env("PGUSER", "postgres");
        command
    }

    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        // What a server inherits would keep the test's pipes open.
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let output = match program {
            "pg_ctl" => {
                let status = command
                    .args(arguments)
                    .stdout(log.try_clone().unwrap())
                    .stderr(log)
                    .status();
                assert!(status.unwrap().success(), "{}", self.log());
                return String::new();
            }
            _ => command.args(arguments).output().unwrap(),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub(super) fn sql(&self, statement: &str) -> String {
        self.run(
            "psql",
            &[
                "-X", "-A", "-t", "-F", " ", "-d", "postgres", "-c", statement,
            ],
        )
    }

    pub(super) fn begin(&self, data: &str, settings: &str) {
        let conf = self.dir.join(data).join("postgresql.conf");
        let before = fs::read_to_string(&conf).unwrap();
        let sockets = self.dir.display();
        let own =
            format!("listen_addresses = ''\nunix_socket_directories = '{sockets}'\nfsync = off\n");
        fs::write(conf, format!("{before}\n{own}{settings}")).unwrap();
        let log = self.dir.join("server.log").display().to_string();
        self.run("pg_ctl", &["-D", data, "-w", "-l", &log, "start"]);
    }

    pub(super) fn end(&self, data: &str) {
        self.run("pg_ctl", &["-D", data, "-w", "-m", "fast", "stop"]);
    }

    pub(super) fn make(programs: PathBuf, dir: &Path) -> Self {
        let cluster = Self {
            dir: dir.to_owned(),
            programs,
        };
        for folder in ["wal", "odoo", "restored"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let script = include_str!("../../plan/postgres/archive.sh");
        let spool = dir.join("wal").display().to_string();
        let script = format!("spool={spool} limit_kib=524288 patience_kib=131072\n{script}");
        fs::write(dir.join("archive"), script).unwrap();
        for path in dir.ancestors().take(3) {
            let _ = Command::new("chmod").arg("a+x").arg(path).status();
        }
        let owned = Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(dir)
            .status();
        assert!(owned.unwrap().success());
        let arguments = [
            "-D",
            "pgdata",
            "--data-checksums",
            "--wal-segsize=1",
            "-A",
            "trust",
            "-U",
            "postgres",
        ];
        cluster.run("initdb", &arguments);
        let archive = dir.join("archive").display().to_string();
        let settings = format!(
            "archive_mode = on\narchive_timeout = 60\narchive_command = 'sh {archive} \"%p\" \"%f\"'\n"
        );
        cluster.begin("pgdata", &settings);
        cluster
    }
}

impl Drop for Cluster {
    /// A test that failed leaves no server behind.
    fn drop(&mut self) {
        for data in ["pgdata", "restored", "new"] {
            let pid = fs::read_to_string(self.dir.join(data).join("postmaster.pid"));
            let pid = pid.unwrap_or_default();
            if let Some(pid) = pid.lines().next() {
                let _ = Command::new("kill").args(["-QUIT", pid]).status();
            }
        }
    }
}

/// The cluster as backups see it.
pub(super) struct Real(pub(super) Arc<Cluster>);

#[async_trait]
impl Tenants for Real {
    async fn kept(&self, _: &TenantPlan) -> Result<Kept, Problem> {
        let at = |name: &str| self.0.dir.join(name);
        Ok(Kept {
            postgres: at("pgdata"),
            odoo: at("odoo"),
            spool: at("wal"),
        })
    }

    async fn is_up(&self, _: &TenantPlan) -> Result<bool, Problem> {
        Ok(self.0.dir.join("pgdata/postmaster.pid").exists())
    }

    async fn position(&self, _: &TenantPlan, switch: bool) -> Result<Position, Problem> {
        let at = now_ms();
        if switch {
            self.0.sql("SELECT pg_switch_wal()");
        }
        let answer = self.0.sql(super::super::cluster::POSITION);
        let numbers: Vec<u64> = answer.split(' ').map(|n| n.parse().unwrap()).collect();
        Ok(Position {
            at,
            lsn: numbers[0],
            timeline: u32::try_from(numbers[1]).unwrap(),
            size: SegmentSize::try_from(numbers[2]).unwrap(),
            archives: numbers[3] == 1,
        })
    }

    async fn counts(&self, _: &TenantPlan) -> Result<Counts, Problem> {
        let statement = "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM ir_attachment WHERE store_fname IS NOT NULL)";
        let mut psql = self.0.command("psql");
        psql.args(["-X", "-A", "-t", "-F", " ", "-d", "odoo_alfa", "-c"]);
        let output = psql.arg(statement).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let mut numbers = said.split_whitespace().map(|n| n.parse().unwrap());
        let (Some(relations), Some(attachments)) = (numbers.next(), numbers.next()) else {
            return Err(Problem::new(Fault::Source, "no Odoo"));
        };
        Ok(Counts {
            database_bytes: 1,
            relations,
            attachments,
        })
    }

    async fn stream(
        &self,
        plan: &TenantPlan,
        stream: Stream,
        _: &Stop,
    ) -> Result<Box<dyn Producer>, Problem> {
        let words = super::super::cluster::words(stream, &plan.name);
        // Without `timeout` and its arguments.
        let mut command = self.0.command(&words[4]);
        command.args(&words[5..]);
        Ok(Box::new(Program::start(&mut command).unwrap()))
    }
}

/// Puts all segments of all snapshots into a folder.
fn all_segments(world: &World, to: &Path) {
    let repository = world.repository("own");
    let reader = repository.reader(&Job::default()).unwrap();
    let has_log = |snapshot: &Snapshot| snapshot.parts.iter().any(|part| part == "wal");
    for snapshot in world.snapshots("own").into_iter().filter(has_log) {
        for entry in reader.list(&snapshot, "wal").unwrap() {
            let mut file = fs::File::create(to.join(&entry.name)).unwrap();
            reader
                .copy(&snapshot, &format!("wal/{}", entry.name), &mut file)
                .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_postgresql_starts_from_what_was_shipped() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let cluster = Arc::new(Cluster::make(programs, dir.path()));
    let world = World::of(Arc::new(Real(cluster.clone())));
    cluster.sql("CREATE TABLE rows AS SELECT generate_series(1, 20000) AS n");
    world.job(BackupWork::Base, "own").await.unwrap();
    cluster.sql("INSERT INTO rows SELECT generate_series(20001, 50000)");
    world.ship().await.unwrap();
    cluster.sql("INSERT INTO rows VALUES (50001)");
    world.job(BackupWork::Ship, "own").await.unwrap();
    cluster.sql("INSERT INTO rows VALUES (50002)"); // never shipped
    cluster.end("pgdata");
    assert_ne!(world.restic("own", &["check", "--read-data"]), Some(false));
    let restored = cluster.dir.join("restored");
    let snapshots = world.snapshots("own");
    let base = snapshots
        .iter()
        .find(|s| s.parts.iter().any(|part| part == "database.tar"))
        .unwrap();
    let tar = cluster.dir.join("database.tar");
    let reader = world.repository("own").reader(&Job::default()).unwrap();
    reader
        .copy(base, "database.tar", &mut fs::File::create(&tar).unwrap())
        .unwrap();
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(&tar)
        .arg("-C")
        .arg(&restored)
        .status();
    assert!(unpacked.unwrap().success());
    let log = cluster.dir.join("log-of-restored");
    fs::create_dir(&log).unwrap();
    all_segments(&world, &log);
    let owned = Command::new("sh")
        .arg("-c")
        .arg("chown -R postgres:postgres . && chmod 700 restored")
        .current_dir(&cluster.dir)
        .status();
    assert!(owned.unwrap().success());
    cluster.run("pg_verifybackup", &["-n", "restored"]);
    fs::write(restored.join("recovery.signal"), "").unwrap();
    let log = log.display();
    cluster.begin(
        "restored",
        &format!("archive_mode = off\nrestore_command = 'cp {log}/%f \"%p\"'\n"),
    );
    let mut count = String::new();
    for _ in 0..100 {
        count = cluster.sql("SELECT count(*), max(n), pg_is_in_recovery() FROM rows");
        if count.ends_with(" f") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    cluster.end("restored");
    assert_eq!(count, "50001 50001 f");
}

//! A real PostgreSQL of this machine with the settings that tenants have, without Docker: what a cluster is born with, and that
//! archiving neither loses a segment while there is room nor fills a disk when there is none.
//!
//! Not here: the program on its own (the agent's plan::postgres), a tenant's container (e2e).

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use isyone_agent::{
    plan::{
        facts::ImageFacts,
        postgres::{self, INITDB_ARGS, SPOOL_TARGET, TARGET},
    },
    testing::{tenant_plan, world::render},
};
use isyone_proto::plan::{TenantPlan, WalSpool};
use isyone_tests::fleet::wait_for;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
/// PostgreSQL does not run as root; this user owns nothing.
const NOBODY: u32 = 65_534;

/// Where this machine has PostgreSQL's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop()
}

/// A cluster in a directory of its own.
struct Cluster {
    programs: PathBuf,
    dir: TempDir,
    user: u32,
}

impl Cluster {
    /// Makes it as a tenant's is made, and starts it.
    fn start(programs: PathBuf, plan: &TenantPlan) -> Self {
        let root = rustix::process::geteuid().is_root();
        let user = if root {
            NOBODY
        } else {
            rustix::process::geteuid().as_raw()
        };
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Self {
            programs,
            dir,
            user,
        };
        for place in ["", "data", "postgres", "wal"] {
            fs::create_dir_all(cluster.place(place)).unwrap();
            chown(cluster.place(place), Some(user), None).unwrap();
        }
        let mut initdb = vec!["--no-sync", "--username=postgres", "--auth=trust", "-D"];
        let data = cluster.text("data");
        initdb.push(&data);
        initdb.extend(INITDB_ARGS.split(' '));
        cluster.run("initdb", &initdb);
        cluster.configure(plan);
        cluster.serve(
            "data",
            &format!(
                "-c config_file={}",
                cluster.text("postgres/postgresql.conf")
            ),
        );
        cluster
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.place(name).display().to_string()
    }

    /// Writes the files of a plan, as its container would see them.
    fn configure(&self, plan: &TenantPlan) {
        let image = ImageFacts {
            postgres_major: "15".into(),
            pgdata: Some(self.text("data")),
            ..ImageFacts::default()
        };
        for file in postgres::files(plan, &render(plan).postgres, &image) {
            let text = file.content.replace(TARGET, &self.text("postgres"));
            let text = text.replace(SPOOL_TARGET, &self.text("wal"));
            fs::write(self.place(&file.name), text).unwrap();
        }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Output {
        let program = self.programs.join(program);
        let mut command = Command::new("setpriv");
        let user = self.user.to_string();
        command
            .args(["--reuid", &user, "--clear-groups"])
            .arg(program);
        command.args(arguments).current_dir(self.dir.path());
        command.output().expect("setpriv is there")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn serve(&self, data: &str, options: &str) {
        let socket = self.text("");
        let options = format!("-c listen_addresses= -c unix_socket_directories={socket} {options}");
        let (log, data) = (self.text(&format!("{data}.log")), self.text(data));
        self.run(
            "pg_ctl",
            &["-D", &data, "-w", "-s", "-l", &log, "-o", &options, "start"],
        );
    }

    fn stop(&self, data: &str) {
        self.run(
            "pg_ctl",
            &["-D", &self.text(data), "-w", "-s", "-m", "fast", "stop"],
        );
    }

    fn sql(&self, query: &str) -> String {
        let socket = self.text("");
        self.run(
            "psql",
            &["-X", "-h", &socket, "-U", "postgres", "-Atc", query],
        )
    }

    /// Segments that wait to be archived.
    fn waiting(&self) -> usize {
        let query = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'";
        self.sql(query).parse().unwrap()
    }

    /// Writes so many segments, and waits until none waits.
    fn write_segments(&self, number: usize) {
        for _ in 0..number {
            self.sql("insert into t select repeat('x', 500) from generate_series(1, 100)");
            self.sql("select pg_switch_wal()");
        }
        wait_for("all segments to be archived", SOON, || self.waiting() == 0);
    }

    /// Segments in the spool, and their bytes.
    fn spooled(&self) -> (usize, u64) {
        let entries = fs::read_dir(self.place("wal")).unwrap();
        let sizes = entries.filter_map(|entry| {
            let entry = entry.unwrap();
            let is_segment = entry.file_name().len() == 24;
            is_segment.then(|| entry.metadata().unwrap().len())
        });
        sizes.fold((0, 0), |(number, bytes), size| (number + 1, bytes + size))
    }

    fn failures(&self) -> String {
        self.sql("select failed_count from pg_stat_archiver")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for data in ["data", "copy"] {
            // It may not run, or not be there.
            self.command(
                "pg_ctl",
                &["-D", &self.text(data), "-m", "immediate", "stop"],
            );
        }
    }
}

fn is_born_ready(cluster: &Cluster) {
    for (setting, value) in [
        ("data_checksums", "on"),
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "1GB"),
        ("min_wal_size", "32MB"),
        ("archive_mode", "on"),
        ("archive_command", "true"),
        ("archive_timeout", "0"),
        ("wal_level", "replica"),
        ("max_slot_wal_keep_size", "512MB"),
        ("hba_file", &cluster.text("data/pg_hba.conf")),
    ] {
        assert_eq!(cluster.sql(&format!("show {setting}")), value, "{setting}");
    }
}

/// A copy begins with a base backup, follows the spool, and ends as the cluster itself: without any of our files.
fn a_copy_follows(cluster: &Cluster) {
    let (socket, copy) = (cluster.text(""), cluster.text("copy"));
    cluster.run(
        "pg_basebackup",
        &[
            "-h", &socket, "-U", "postgres", "-D", &copy, "-X", "none", "-c", "fast",
        ],
    );
    cluster.write_segments(5);
    let rows = cluster.sql("select count(*) from t");
    cluster.stop("data");
    let fetch = format!("restore_command = 'cp {}/%f %p'\n", cluster.text("wal"));
    fs::write(cluster.place("copy/postgresql.auto.conf"), fetch).unwrap();
    fs::write(cluster.place("copy/recovery.signal"), "").unwrap();
    cluster.serve("copy", "");
    wait_for("the copy to be open", SOON, || {
        cluster.sql("select pg_is_in_recovery()") == "f"
    });
    assert_eq!(cluster.sql("select count(*) from t"), rows);
    assert_eq!(cluster.sql("show archive_mode"), "off");
    cluster.stop("copy");
    cluster.serve(
        "data",
        &format!(
            "-c config_file={}",
            cluster.text("postgres/postgresql.conf")
        ),
    );
}

/// As if the bound were less: the least that a plan can say takes long to write.
fn set_bound(program: &Path, kib: u64) {
    let text = fs::read_to_string(program).unwrap();
    let bound = text.split("limit_kib=").nth(1).unwrap();
    let bound = bound.split(' ').next().unwrap();
    let text = text.replace(&format!("limit_kib={bound}"), &format!("limit_kib={kib}"));
    fs::write(program, text).unwrap();
}

#[test]
fn a_cluster_is_born_ready_and_its_archive_is_bounded() {
    let Some(programs) = programs() else {
        println!("skipped: this machine has no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let mut plan = tenant_plan("alfa");
    let cluster = Cluster::start(programs, &plan);
    is_born_ready(&cluster);
    cluster.sql("create table t (x text)");
    cluster.write_segments(3);
    assert_eq!(cluster.spooled().0, 0, "nothing is to be shipped");

    plan.wal_spool = Some(WalSpool::default());
    cluster.configure(&plan);
    cluster.sql("select pg_reload_conf()");
    wait_for("the new command", SOON, || {
        cluster.sql("show archive_timeout") == "1min"
    });
    a_copy_follows(&cluster);
    let (number, bytes) = cluster.spooled();
    assert!(number >= 5 && bytes == (number as u64) << 20);
    assert!(!cluster.place("wal/gap").exists());

    set_bound(&cluster.place("postgres/archive"), (bytes >> 10) + 3 * 1024);
    cluster.write_segments(10);
    let full = cluster.spooled().0;
    assert!((number + 3..number + 6).contains(&full), "{number} {full}");
    let gap = fs::read_to_string(cluster.place("wal/gap")).unwrap();
    assert_eq!(gap.trim().len(), 24 + 1 + 24, "{gap}");
    assert_eq!(cluster.failures(), "0");
    cluster.configure(&plan);
    cluster.write_segments(2);
    assert!(cluster.spooled().0 > full, "there is room again");
}

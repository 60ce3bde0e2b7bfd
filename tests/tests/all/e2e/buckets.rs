//! A bucket has a copy of the backups: the coordinator's disk is lost with all that was on it, and coordinator and tenant come back from
//! the bucket alone. Then the tenant is deleted for good. The server is in this process; its trouble is tested beside the code
//! (isyone-bucket).

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use isyone_bucket::testing::{ACCESS_KEY, BUCKET, SECRET_KEY, Server};
use isyone_tests::e2e::{
    beside, binary,
    cell::{Cell, Shape},
    enabled,
    odoo::User,
    process::run,
    wait_for,
};

use super::{
    backups::{CONFIG, MINUTE, another_base, answers, attach, marks, shipped, sql},
    shredded::deleted_for_good,
};

/// Files with the bucket's keys.
struct Keys(tempfile::TempDir);

impl Keys {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, content) in [("access", ACCESS_KEY), ("secret", SECRET_KEY)] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).expect("a key");
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, mode).expect("its mode");
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

fn files(folder: &Path) -> Vec<String> {
    let read = std::fs::read_dir(folder);
    let entries = read.into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits until the bucket has every snapshot that there is.
fn copied(cell: &Cell, server: &Server, uid: &str) {
    let data = cell.dir.path().join("coordinator/backups").join(uid);
    wait_for("the copy", 3 * MINUTE, || {
        let here = files(&data.join("snapshots"));
        let there = files(&server.files().join(uid).join("snapshots"));
        (!here.is_empty() && here == there).then_some(())
    });
}

fn checked_by_restic(cell: &Cell, server: &Server, uid: &str) {
    let key = cell.json(&["backup", "key", "alfa"]);
    let mut restic = Command::new("restic");
    restic
        .args(["--no-cache", "--no-lock", "check", "--read-data", "--repo"])
        .arg(server.files().join(uid))
        .env(
            "RESTIC_PASSWORD",
            key["password"].as_str().expect("a password"),
        );
    let said = run(&mut restic).ok();
    assert!(said.contains("no errors were found"), "{said}");
}

/// Everything on the coordinator's disk is gone; another one is made of the keys and the bucket, as docs/operations.md says.
fn rebuilt_from_the_bucket(cell: &mut Cell, server: &Server, keys: &Keys) {
    let path = |name: &str| cell.dir.path().join(name);
    let (data, saved, passphrase) = (path("coordinator"), path("isyone.keys"), path("passphrase"));
    std::fs::write(&passphrase, "correct horse battery staple").expect("a passphrase");
    let coordinator = |words: &[&str]| {
        let mut command = Command::new(binary("isy-coordinator"));
        command.args(words).arg("--data-dir").arg(&data);
        command
    };
    let mut save = coordinator(&["backup-keys"]);
    let with = ["--passphrase-file".as_ref(), passphrase.as_os_str()];
    run(save.arg("--out").arg(&saved).args(with)).ok();
    // This long a commit may take to be shipped.
    thread::sleep(Duration::from_secs(10));
    cell.coordinator = None;
    std::fs::remove_dir_all(&data).expect("the disk");
    let mut back = coordinator(&["restore-keys"]);
    run(back.arg("--from").arg(&saved).args(with)).ok();
    let url = format!("{}/{BUCKET}/isyone", server.endpoint());
    let mut restore = coordinator(&["restore", "--from-bucket", &url]);
    restore.args(["--access-key-file", &keys.path("access")]);
    let said = run(restore.args(["--secret-key-file", &keys.path("secret")])).ok();
    assert!(said.contains("1 hosts, 1 tenants"), "{said}");
    cell.start_coordinator();
    cell.wait_host("h1", "ready");
}

#[test]
fn a_copy_in_a_bucket_outlives_the_coordinators_disk() {
    const NAME: &str = "a_copy_in_a_bucket_outlives_the_coordinators_disk";
    if !enabled(NAME) {
        return;
    }
    let _beside = beside();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (server, keys) = (Server::start(runtime.handle()), Keys::new());
    let config = format!(
        "{CONFIG}[backup.buckets.far]\nendpoint=\"{}\"\nbucket=\"{BUCKET}\"\nprefix=\"isyone\"\naccess_key_file=\"{}\"\nsecret_key_file=\"{}\"\n",
        server.endpoint(),
        keys.path("access"),
        keys.path("secret")
    );
    let mut cell = Cell::start(&Shape {
        // Of one test, as long as the process.
        config: Box::leak(config.into_boxed_str()),
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    answers(&cell, "alfa");
    sql(&cell, "alfa", "create table mark (round integer)");
    attach(&User::admin(&cell, "alfa"), "one");
    cell.isyctl(&["backup", "create", "alfa"]).ok();
    another_base(&cell, "alfa", 0);
    sql(&cell, "alfa", "insert into mark values (1), (2)");
    shipped(&cell, "alfa");
    let shown = cell.json(&["backup", "status", "alfa"]);
    let uid = shown["tenant_uid"].as_str().expect("a uid").to_owned();
    copied(&cell, &server, &uid);
    checked_by_restic(&cell, &server, &uid);
    let status = cell.isyctl(&["backup", "status"]).ok();
    assert!(status.contains("far") && status.contains("up"), "{status}");
    rebuilt_from_the_bucket(&mut cell, &server, &keys);
    let repository = cell.dir.path().join("coordinator/backups").join(&uid);
    wait_for("the repository", 2 * MINUTE, || {
        repository.join("config").exists().then_some(())
    });
    let words = [
        "tenant", "restore", "alfa", "--to", "latest", "--as", "beta", "--live",
    ];
    cell.isyctl(&words).ok();
    answers(&cell, "beta");
    assert_eq!(marks(&cell, "beta"), "1 2");
    let logs = cell.logs();
    assert!(!logs.contains(SECRET_KEY), "a log shows the secret key");
    // Backups go on, and the bucket follows.
    let were = cell.json(&["backup", "list", "alfa"]);
    let were = were
        .as_array()
        .map_or(0, |all| all.iter().filter(|b| b["work"] == "base").count());
    cell.isyctl(&["backup", "create", "alfa"]).ok();
    another_base(&cell, "alfa", were);
    copied(&cell, &server, &uid);
    let begun = Instant::now();
    deleted_for_good(&mut cell, &uid, &server.files());
    println!("deleted for good in {:.1} s", begun.elapsed().as_secs_f64());
}

//! A tenant that is deleted for good: with its key every copy of its backups is noise. The key is looked for, in all its forms, in every
//! file of the coordinator's disk, of the bucket and of the agent's; and a state of the coordinator from before, which is still kept, does
//! not open a copy of the repository that somebody has made.
//!
//! Not here: the tenant and its bucket (buckets), what is left beside a copy that runs (the coordinator's tests).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use isyone_backup::{Key, Repository, store::Local};
use isyone_coordinator::{
    base::{
        config::{Config, Span},
        secrets::Sealer,
    },
    shipping::{
        folder::Folder,
        format::Series,
        rebuilt::{self, Rebuilt},
    },
    writer::store::{Store as _, sqlite::SqliteStore},
};
use isyone_fleet::{desired::Fleet, written};
use isyone_tests::e2e::{
    binary,
    cell::Cell,
    process::{Output, run},
    wait_for,
};
use uuid::Uuid;

use super::backups::MINUTE;

/// What a deleted tenant leaves is kept for so long, and so long after a start nothing is removed.
const SHORTLY: Span = Span::seconds(5);

/// The key of one tenant's backups, as it may lie somewhere.
struct Traces(Vec<(&'static str, Vec<u8>)>);

impl Traces {
    fn of(state: &Rebuilt, sealer: &Sealer, tenant: Uuid) -> Self {
        let record = state.fleet.backup_keys.get(&tenant).expect("a key");
        let key = sealer.open_backup_key(record).expect("it opens");
        let bytes = key.bytes();
        let base64 = |part: &[u8]| BASE64.encode(part).into_bytes();
        Self(vec![
            ("sealed", record.key.0.as_bytes().to_vec()),
            ("in hexadecimal digits", key.expose().as_bytes().to_vec()),
            ("as it is", bytes.to_vec()),
            ("in base64", base64(&bytes)),
            // As restic has its parts.
            ("its first part", base64(&bytes[..32])),
            ("its second part", base64(&bytes[32..48])),
            (
                "restic's password",
                Key::new(bytes).restic_password().into_bytes(),
            ),
        ])
    }

    /// Where it is, and in which form.
    fn found(&self, directories: &[&Path]) -> Vec<(PathBuf, &'static str)> {
        let mut found = Vec::new();
        for (form, bytes) in &self.0 {
            let mut grep = Command::new("grep");
            grep.args(["-r", "-l", "-a"]).env("LC_ALL", "C");
            match bytes.is_ascii() {
                true => grep.args(["-F", "-e", &String::from_utf8_lossy(bytes)]),
                false => grep.args(["-P", "-e", &escaped(bytes)]),
            };
            // A file may be replaced while it is looked at: that is an error of its, and no other file's.
            let said = run(grep.args(directories)).stdout;
            found.extend(said.lines().map(|path| (path.into(), *form)));
        }
        found
    }
}

/// As much of it as lies in one line: sixteen bytes are enough to be nobody else's.
fn escaped(bytes: &[u8]) -> String {
    let mut windows = bytes.windows(16);
    let within = windows.find(|part| !part.contains(&b'\n'));
    let hex = |byte: &u8| format!("\\x{byte:02x}");
    within.expect("a line").iter().map(hex).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// `alfa`, whose uid this is, with a copy in the bucket whose files these are.
pub(super) fn deleted_for_good(cell: &mut Cell, uid: &str, bucket: &Path) {
    let data = cell.dir.path().join("coordinator");
    let agent = cell.hosts[0].data.clone();
    let everywhere = [&*data, bucket, &agent];
    let tenant: Uuid = uid.parse().expect("a uid");
    let sealer = Sealer::load(&data.join("seal.key"), None).expect("the sealing key");
    let shipped = || {
        let folder = Folder::found(&data.join("backups")).expect("a destination");
        rebuilt::read(&folder, &sealer, None).expect("a state")
    };
    let before = shipped();
    let traces = Traces::of(&before, &sealer, tenant);
    let stolen = cell.dir.path().join("stolen");
    let mut copy = Command::new("cp");
    let repository = data.join("backups").join(uid);
    run(copy.arg("-r").arg(&repository).arg(&stolen)).ok();
    let found = traces.found(&everywhere);
    for (directory, form) in [(&data, "sealed"), (&agent, "in hexadecimal digits")] {
        let is_there = |(path, is): &(PathBuf, &str)| path.starts_with(directory) && *is == form;
        assert!(found.iter().any(is_there), "{form}: {found:?}");
    }

    shortly(cell, &data);
    cell.isyctl(&["tenant", "delete", "alfa", "--yes"]).ok();
    cell.wait_phase("alfa", "quarantined", MINUTE);
    let purge = ["tenant", "delete", "alfa", "--purge", "--yes"];
    cell.isyctl(&purge).ok();
    wait_for("its backups to go", 2 * MINUTE, || {
        let is_gone = !repository.exists() && files(&bucket.join(uid)).is_empty();
        is_gone.then_some(())
    });
    // What is committed is shipped within 10 s.
    wait_for("its key to be nowhere", MINUTE, || {
        let found = traces.found(&everywhere);
        found.is_empty().then_some(())
    });
    assert_eq!(shipped().fleet.backup_keys.get(&tenant), None);
    as_an_operator_would(cell, before.series, (&sealer, tenant), &stolen);
}

/// So that nobody waits for weeks. In its own start, so that nothing before was removed early.
fn shortly(cell: &mut Cell, data: &Path) {
    cell.coordinator = None;
    let file = data.join("coordinator.toml");
    let mut config = Config::load(&file).expect("its configuration");
    config.lifecycle.clock_hold = SHORTLY;
    config.backup.on_purpose = SHORTLY;
    fs::write(&file, config.to_toml()).expect("its configuration");
    cell.start_coordinator();
    cell.wait_host("h1", "ready");
}

fn opens_nothing(fleet: &Fleet, sealer: &Sealer, tenant: Uuid, repository: &Path) {
    assert!(fleet.tenants.values().any(|known| known.uid == tenant));
    assert_eq!(fleet.backup_keys.get(&tenant), None);
    for record in fleet.backup_keys.values() {
        let key = sealer.open_backup_key(record).expect("it opens");
        let store = Arc::new(Local::new(repository));
        let opened = Repository::open(store, &Key::new(key.bytes()));
        assert!(opened.is_err(), "by the key of {}", record.name);
    }
}

/// Somebody has the keys of before, too, and rebuilds a coordinator as it was.
fn as_an_operator_would(
    cell: &Cell,
    state: Series,
    (sealer, tenant): (&Sealer, Uuid),
    stolen: &Path,
) {
    let path = |name: &str| cell.dir.path().join(name);
    let other = path("another");
    let coordinator = |words: &[&str]| -> Output {
        let mut command = Command::new(binary("isy-coordinator"));
        run(command.args(words).arg("--data-dir").arg(&other))
    };
    let text = |name: &str| path(name).display().to_string();
    let (keys, passphrase, from) = (
        text("isyone.keys"),
        text("passphrase"),
        text("coordinator/backups"),
    );
    let words = [
        "restore-keys",
        "--from",
        &keys,
        "--passphrase-file",
        &passphrase,
    ];
    coordinator(&words).ok();
    let state = state.to_string();
    let words = ["restore", "--from", &from, "--state", &state];
    let refused = coordinator(&words);
    assert_ne!(refused.code, 0, "{refused:?}");
    let why = "the keys of these tenants' backups are not there";
    let names = refused.stderr.contains(why) && refused.stderr.contains("alfa");
    assert!(names, "{refused:?}");
    coordinator(&[&words[..], &["--without-backup-keys"]].concat()).ok();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let contents = runtime.block_on(async {
        let database = other.join("isyone.db");
        let mut store = SqliteStore::open(&database).await.expect("a database");
        store.load().await.expect("its content")
    });
    let fleet = written::fleet(contents).expect("a fleet");
    opens_nothing(&fleet, sealer, tenant, stolen);
}

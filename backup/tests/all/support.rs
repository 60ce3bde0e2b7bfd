//! Folders, keys, contents and a stock restic for the tests.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use isyone_backup::{
    Existing, Job, Key, Label, Part, Purpose, Repository, Snapshot, Store, Target,
    source::Plain,
    store::{Local, Name},
};
use jiff::Timestamp;

/// Two o'clock in the night of 2026-11-01, UTC.
pub(crate) const T0: i64 = 1_793_498_400;

pub(crate) fn key(byte: u8) -> Key {
    Key::new([byte; 64])
}

pub(crate) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(T0 + seconds).unwrap()
}

pub(crate) fn label(purpose: Purpose, seconds: i64) -> Label {
    Label {
        purpose,
        time: time(seconds),
        host: "h1".to_owned(),
        tags: vec!["tenant:alfa".to_owned()],
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A destination with a repository in it, and a folder to work in.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) repository: Repository,
    pub(crate) job: Job,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Local::new(folder.path().join("repository")));
        let job = Job::default();
        let repository = Repository::create(store, &key(1), &job).unwrap();
        Self {
            folder,
            repository,
            job,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::new(Local::new(self.path("repository")))
    }

    /// A filestore as Odoo lays it out.
    pub(crate) fn filestore(&self, files: u64) -> PathBuf {
        let root = self.path("filestore");
        for n in 0..files {
            let name = format!("{:02x}/{:040x}", n % 7, n.wrapping_mul(0x9E37_79B9));
            write(&root.join(name), &noise(n + 1, 1000 + 37 * n as usize));
        }
        root
    }

    pub(crate) fn write(&self, label: &Label, parts: Vec<Part>) -> Snapshot {
        let written = self.repository.write(label, parts, None, &self.job);
        self.repository.snapshot(written.unwrap().snapshot).unwrap()
    }

    pub(crate) fn read(&self, snapshot: &Snapshot, path: &str) -> Vec<u8> {
        let mut content = Vec::new();
        let reader = self.repository.reader(&self.job).unwrap();
        reader.copy(snapshot, path, &mut content).unwrap();
        content
    }

    pub(crate) fn names(&self) -> Vec<Name> {
        let listing = self.repository.snapshots().unwrap();
        assert_eq!(listing.damaged, []);
        listing.snapshots.iter().map(|s| s.name).collect()
    }

    /// Stock restic on the repository, with the exported key.
    pub(crate) fn restic(&self, arguments: &[&str]) -> Option<String> {
        restic(&self.path("repository"), &key(1), arguments)
    }
}

/// What restic printed; `None` where there is no restic and the tests may do without.
pub(crate) fn restic(repository: &Path, key: &Key, arguments: &[&str]) -> Option<String> {
    let command = Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", key.restic_password())
        .output();
    let output = match command {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !is_whole_run() => {
            eprintln!("SKIPPED: there is no restic; `cargo xtask setup` installs it");
            return None;
        }
        Err(e) => panic!("restic: {e}"),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "restic {arguments:?}: {said}{error}"
    );
    Some(said)
}

/// As `cargo xtask test` runs it, after setting up: then nothing is skipped.
fn is_whole_run() -> bool {
    std::env::var_os("ISYONE_E2E").is_some_and(|value| value == "1")
}

pub(crate) fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub(crate) fn open(folder: &Path) -> OwnedFd {
    fs::File::open(folder).unwrap().into()
}

pub(crate) fn stream(name: &str, content: Vec<u8>) -> Part {
    Part::stream(name, move || Ok(Plain(io::Cursor::new(content))))
}

pub(crate) fn target(folder: &Path) -> Target {
    fs::create_dir_all(folder).unwrap();
    Target {
        folder: open(folder),
        existing: Existing::Refuse,
        owner: None,
        most_bytes: u64::MAX,
        most_entries: 1_000_000,
    }
}

/// All files below a folder, with their contents.
pub(crate) fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

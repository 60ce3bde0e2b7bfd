//! Copies in buckets that keep what is removed: a real server with versions and object lock (moto, in Python). Pruning and removing go on
//! as elsewhere, nothing is asked for without end, nothing is lost, and what a thief removes or puts over another can be had back.
//!
//! Not here: a key that may not delete, a server that has trouble (copies).

mod support;

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use isyone_backup::{
    Job, Key, Known, Repository, Share, Snapshot, Store as _, copy, only_in_copy,
    store::{File, Kind, Local},
};
use isyone_bucket::{Access, Bucket, InBucket, Patience, Removals};
use tokio_util::sync::CancellationToken;

const TENANT: &str = "0192e4a0-0000-7000-8000-000000000001";
const LOCKED: &str = "locked";
const LOCK: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
const VERSIONS: &str =
    "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";

/// An interpreter with moto. One named by `ISYONE_PYTHON` must work; otherwise `python3` is used if it does.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("ISYONE_PYTHON").filter(|path| !path.is_empty());
    let named = named.map(PathBuf::from);
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let mut check = Command::new(&python);
    let checked = check.args(["-c", "import moto.server"]).output();
    let able = checked.is_ok_and(|output| output.status.success());
    let shown = python.display();
    assert!(able || named.is_none(), "{shown} cannot import moto.server");
    able.then_some(python)
}

/// The server; it ends when it is dropped, what it holds as well.
struct Moto {
    server: Child,
    address: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Moto {
    fn start() -> Option<Self> {
        let Some(python) = python() else {
            println!("skipped: python3 has no moto, and ISYONE_PYTHON names no other");
            return None;
        };
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(server.stderr.take().unwrap()).lines();
        let address = said.by_ref().find_map(|line| {
            let line = line.unwrap();
            Some(line.split_once("http://")?.1.trim().to_owned())
        });
        // Nobody reads what it says of each request; a full pipe would stop it.
        std::thread::spawn(move || said.count());
        let address = address.expect("an address");
        let moto = Self { server, address };
        moto.put(LOCKED, "x-amz-bucket-object-lock-enabled: true\r\n", "");
        moto.put(&format!("{LOCKED}?object-lock"), "", LOCK);
        moto.put("versions", "", "");
        moto.put("versions?versioning", "", VERSIONS);
        moto.put("plain", "", "");
        Some(moto)
    }

    /// As an administrator of the server does; it asks nobody who he is.
    fn put(&self, path: &str, header: &str, content: &str) {
        let said = self.ask("PUT", path, header, content);
        assert!(said.starts_with("HTTP/1.1 200"), "{path}: {said}");
    }

    fn ask(&self, method: &str, path: &str, header: &str, content: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (address, length) = (&self.address, content.len());
        write!(
            stream,
            "{method} /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}Content-Length: {length}\r\n\r\n{content}"
        )
        .unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// How many files, and marks of removal, of all versions there are.
    fn versions(&self, bucket: &str) -> (usize, usize) {
        let listed = self.ask("GET", &format!("{bucket}?versions&max-keys=1000"), "", "");
        let count = |word: &str| listed.matches(word).count();
        (count("<Version>"), count("<DeleteMarker>"))
    }
}

struct World {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    moto: Moto,
    repository: Repository,
    job: Job,
}

fn key() -> Key {
    Key::new([7; 64])
}

impl World {
    fn new() -> Option<Self> {
        let moto = Moto::start()?;
        let folder = tempfile::tempdir().unwrap();
        let local = Arc::new(Local::new(folder.path().join("local")));
        let job = Job::default();
        Some(Self {
            repository: Repository::create(local, &key(), &job).unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            folder,
            moto,
            job,
        })
    }

    fn bucket(&self, name: &str) -> Bucket {
        let access = Access {
            endpoint: format!("http://{}", self.moto.address),
            bucket: name.to_owned(),
            region: "us-east-1".to_owned(),
            prefix: "isyone".to_owned(),
            access_key: "nobody-asks".to_owned().into(),
            secret_key: "nobody-asks".to_owned().into(),
        };
        let runtime = self.runtime.handle().clone();
        Bucket::new(
            &access,
            Patience::default(),
            runtime,
            CancellationToken::new(),
        )
        .unwrap()
    }

    fn there(&self) -> InBucket {
        InBucket::new(self.bucket(LOCKED), TENANT)
    }

    fn local(&self) -> Local {
        Local::new(self.folder.path().join("local"))
    }

    fn write(&self, number: u8) -> Snapshot {
        let content = vec![number; 200_000];
        support::base(&self.repository, &self.job, number, content)
    }

    fn copied(&self, known: &mut Known) -> u64 {
        let copied = copy(&self.local(), &self.there(), known, &self.job);
        copied.unwrap().files
    }

    /// Whether the copy holds so many snapshots, and all that they need.
    fn is_good(&self, snapshots: u64) -> bool {
        let there = Repository::open(Arc::new(self.there()), &key()).unwrap();
        let report = there.verify(Share::All, &self.job).unwrap();
        report.is_good() && report.snapshots == snapshots
    }
}

#[test]
fn what_becomes_of_removals_is_found_out() {
    let Some(world) = World::new() else { return };
    for (name, expected) in [
        ("plain", Removals::Final),
        ("versions", Removals::Hidden),
        (LOCKED, Removals::Kept),
    ] {
        let bucket = world.bucket(name);
        assert_eq!(bucket.try_out("isyone-check").unwrap(), expected, "{name}");
        assert_eq!(bucket.list("").unwrap(), [], "{name}");
    }
    let none = world.bucket("missing").try_out("isyone-check").unwrap_err();
    assert!(
        matches!(none, isyone_bucket::BucketError::NoBucket),
        "{none:?}"
    );
}

#[test]
fn what_is_pruned_is_hidden_once_and_kept_below() {
    let Some(world) = World::new() else { return };
    let (old, _) = (world.write(1), world.write(2));
    let mut known = Known::default();
    let files = world.copied(&mut known);
    assert!(files > 4 && world.is_good(2));
    world.repository.forget(&[old.name]).unwrap();
    // Marked first, removed by the next.
    world.repository.prune(0, &world.job).unwrap();
    world.repository.prune(0, &world.job).unwrap();
    world.copied(&mut known);
    let there = world.there();
    let only = only_in_copy(&world.local(), &there).unwrap();
    let forgettable: BTreeSet<_> = only.into_iter().collect();
    let tidied = world.repository.tidy_copy(&there, &forgettable).unwrap();
    assert!(tidied.removed > 0 && tidied.refused.is_none(), "{tidied:?}");
    assert!(world.is_good(1));
    let (versions, marks) = world.moto.versions(LOCKED);
    assert_eq!(marks as u64, tidied.removed);
    // Again: what is hidden is not there, and nothing is put or hidden a second time.
    let again = world
        .repository
        .tidy_copy(&there, &BTreeSet::new())
        .unwrap();
    assert_eq!((again.removed, again.only_there), (0, 0));
    let mut known = Known::list(&there).unwrap();
    assert_eq!(world.copied(&mut known), 0);
    assert_eq!(world.moto.versions(LOCKED), (versions, marks));
}

#[test]
fn a_removed_repository_is_hidden_and_nobody_takes_its_files_for_good() {
    let Some(world) = World::new() else { return };
    world.write(1);
    let files = world.copied(&mut Known::default());
    let there = world.there();
    assert_eq!(
        there.remove_all().unwrap() as u64 + 1,
        files,
        "config goes first"
    );
    assert!(there.list(Kind::Config).unwrap().is_empty());
    assert!(there.list(Kind::Pack).unwrap().is_empty());
    assert_eq!(
        there.remove_all().unwrap(),
        0,
        "nothing is left to be removed"
    );
    // The first one again hides `config`, which was hidden.
    let (versions, marks) = world.moto.versions(LOCKED);
    assert_eq!(versions as u64, files);
    assert!(marks as u64 >= files);
}

/// Who has taken over the coordinator puts something over a file: the one before is still there, below.
#[test]
fn what_is_put_over_a_file_hides_it() {
    let Some(world) = World::new() else { return };
    world.write(1);
    world.copied(&mut Known::default());
    let (pack, _) = world.there().list(Kind::Pack).unwrap()[0];
    let key = format!("{TENANT}/{}", File::new(Kind::Pack, pack).path());
    let (before, _) = world.moto.versions(LOCKED);
    world.bucket(LOCKED).put(&key, "nothing").unwrap();
    assert!(!world.is_good(1));
    assert_eq!(world.moto.versions(LOCKED), (before + 1, 0));
}

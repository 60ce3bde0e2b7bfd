//! Copies of repositories in a bucket of a server in the process, with trouble.

mod support;

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use isyone_backup::{
    Job, Key, Known, Pace, Repository, Share, Snapshot, Store, copy, only_in_copy,
    store::{File, Kind, Local, StoreError},
};
use isyone_bucket::{
    Access, Bucket, BucketError, InBucket, Removals,
    testing::{self, Server, Trouble},
};

use tokio_util::sync::CancellationToken;

const TENANT: &str = "0192e4a0-0000-7000-8000-000000000001";

fn key() -> Key {
    Key::new([7; 64])
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
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

/// A repository on a disk, and a server.
struct World {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    server: Server,
    repository: Repository,
    job: Job,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let local = Arc::new(Local::new(folder.path().join("local")));
        let job = Job::default();
        Self {
            server: Server::start(runtime.handle()),
            repository: Repository::create(local, &key(), &job).unwrap(),
            runtime,
            folder,
            job,
        }
    }

    fn write(&self, number: u8) -> Snapshot {
        let content = noise(number.into(), 3_000_000);
        support::base(&self.repository, &self.job, number, content)
    }

    fn local(&self) -> Local {
        Local::new(self.folder.path().join("local"))
    }

    fn bucket_of(&self, access: &Access) -> Bucket {
        Bucket::new(
            access,
            testing::impatient(),
            self.runtime.handle().clone(),
            CancellationToken::new(),
        )
        .unwrap()
    }

    fn there(&self) -> InBucket {
        InBucket::new(self.bucket_of(&self.server.access()), TENANT)
    }

    fn copy(&self, known: &mut Known) -> Result<isyone_backup::Copied, isyone_backup::Error> {
        copy(&self.local(), &self.there(), known, &self.job)
    }

    fn copied(&self) -> Known {
        let mut known = Known::list(&self.there()).unwrap();
        self.copy(&mut known).unwrap();
        known
    }

    fn count(&self, kind: Kind) -> usize {
        self.there().list(kind).unwrap().len()
    }
}

/// Stock restic on the files that the bucket holds. Not through the server: this one takes the empty `delimiter` of restic's listing for
/// one, and then lists nothing.
fn restic(world: &World, arguments: &[&str]) -> Option<String> {
    let place = world.server.files().join(TENANT);
    let output = Command::new("restic")
        .args(["--no-cache", "--no-lock", "--repo"])
        .arg(place)
        .args(arguments)
        .env("RESTIC_PASSWORD", key().restic_password())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            assert!(
                std::env::var_os("ISYONE_E2E").is_none(),
                "there is no restic"
            );
            eprintln!("SKIPPED: there is no restic");
            return None;
        }
        Err(e) => panic!("restic: {e}"),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{error}");
    Some(said)
}

#[test]
fn a_copy_is_whole_and_stock_restic_reads_it() {
    let world = World::new();
    world.write(1);
    let second = world.write(2);
    let mut known = world.copied();
    let report = Repository::open(Arc::new(world.there()), &key());
    let report = report.unwrap().verify(Share::All, &world.job).unwrap();
    assert!(report.is_good() && report.snapshots == 2, "{report:?}");
    if let Some(said) = restic(&world, &["check", "--read-data"]) {
        assert!(said.contains("no errors were found"), "{said}");
        let name = second.name.to_string();
        let back = world.folder.path().join("back");
        let target = back.display().to_string();
        restic(&world, &["restore", &name, "--target", &target]);
        let restored = fs::read(back.join("database.tar")).unwrap();
        assert!(restored == noise(2, 3_000_000));
    }
    // Again: nothing is put a second time, by whoever knows and by whoever has to look.
    let puts = world.server.puts();
    assert_eq!(world.copy(&mut known).unwrap().files, 0);
    world.copied();
    assert_eq!(world.server.puts(), puts);
    world.write(3);
    assert!(world.copy(&mut known).unwrap().files >= 3);
    assert_eq!(world.count(Kind::Snapshot), 3);
}

#[test]
fn what_comes_back_from_a_bucket_is_what_was_there() {
    let world = World::new();
    let snapshot = world.write(1);
    world.copied();
    let back = Local::new(world.folder.path().join("back"));
    back.create().unwrap();
    let mut known = Known::list(&back).unwrap();
    copy(&world.there(), &back, &mut known, &world.job).unwrap();
    let repository = Repository::open(Arc::new(back), &key()).unwrap();
    assert!(repository.verify(Share::All, &world.job).unwrap().is_good());
    assert_eq!(
        repository.snapshots().unwrap().snapshots[0].name,
        snapshot.name
    );
}

/// Where the error is that a job met at the bucket.
fn met(error: &isyone_backup::Error) -> &StoreError {
    error.store().unwrap_or_else(|| panic!("{error:?}"))
}

fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[test]
fn a_server_that_refuses_is_named_by_what_it_refuses() {
    let world = World::new();
    let bucket = |change: &dyn Fn(&mut Access)| {
        let mut access = world.server.access();
        change(&mut access);
        world.bucket_of(&access).check().unwrap_err()
    };
    let wrong_secret = bucket(&|access| access.secret_key = "another-secret".to_owned().into());
    assert!(
        matches!(wrong_secret, BucketError::WrongKey(_)),
        "{wrong_secret:?}"
    );
    let wrong_key = bucket(&|access| access.access_key = "nobody".to_owned().into());
    assert!(
        matches!(wrong_key, BucketError::WrongKey(_) | BucketError::Denied(_)),
        "{wrong_key:?}"
    );
    let none = bucket(&|access| access.bucket = "missing".to_owned());
    assert!(matches!(none, BucketError::NoBucket), "{none:?}");
    let nobody = bucket(&|access| access.endpoint = "http://127.0.0.1:9".to_owned());
    assert!(nobody.is_unreachable(), "{nobody:?}");
    for error in [&wrong_secret, &wrong_key, &none, &nobody] {
        let text = format!("{error} {error:?}");
        assert!(
            !text.contains("secret") || !text.contains("a-secret-that"),
            "{text}"
        );
        assert!(!text.contains("another-secret"), "{text}");
    }
    let debug = format!("{:?} {:?}", world.server.access(), world.there());
    assert!(!debug.contains(testing::SECRET_KEY), "{debug}");
}

#[test]
fn a_server_that_is_full_dies_or_hangs_leaves_a_copy_that_is_right_and_goes_on() {
    let world = World::new();
    world.write(1);
    let mut known = world.copied();
    world.write(2);
    type Is = fn(&StoreError) -> bool;
    let troubles: [(Trouble, Is); 3] = [
        (Trouble::Full, |e| matches!(e, StoreError::Full(_))),
        (Trouble::Dies, |e| matches!(e, StoreError::Unreachable(_))),
        (Trouble::Slow(Duration::from_secs(30)), |e| {
            matches!(e, StoreError::Unreachable(_))
        }),
    ];
    for (trouble, is_so) in troubles {
        world.server.has(trouble);
        let error = world.copy(&mut known).unwrap_err();
        assert!(is_so(met(&error)), "{trouble:?}: {}", shown(&error));
        world.server.has(Trouble::None);
        assert_eq!(world.count(Kind::Snapshot), 1, "{trouble:?}");
        let report = Repository::open(Arc::new(world.there()), &key());
        let report = report.unwrap().verify(Share::All, &world.job).unwrap();
        assert!(report.is_good(), "{trouble:?}: {report:?}");
    }
    world.copy(&mut known).unwrap();
    assert_eq!(world.count(Kind::Snapshot), 2);
    restic(&world, &["check", "--read-data"]);
}

/// Fails if a snapshot is there before all that it needs, or a repository is one while it is being removed.
#[test]
fn whatever_is_cut_off_where_a_copy_holds_whole_snapshots_and_half_a_repository_is_none() {
    let world = World::new();
    world.write(1);
    let mut known = world.copied();
    world.write(2);
    // As many files as a snapshot has: each time one more is taken.
    for round in 0.. {
        world.server.has(Trouble::FullFrom(world.server.puts() + 1));
        let copied = world.copy(&mut known);
        let report = Repository::open(Arc::new(world.there()), &key());
        let report = report.unwrap().verify(Share::All, &world.job).unwrap();
        assert!(report.is_good(), "{round}: {report:?}");
        if copied.is_ok() {
            assert!(round > 1 && report.snapshots == 2, "{round}");
            break;
        }
        assert_eq!(report.snapshots, 1, "{round}");
    }
    world
        .server
        .has(Trouble::LockedFrom(world.server.removes() + 1));
    let refused = world.there().remove_all().unwrap_err();
    assert!(matches!(refused, BucketError::Denied(_)), "{refused:?}");
    assert_eq!(world.count(Kind::Config), 0);
    assert!(world.count(Kind::Pack) > 0);
}

/// The file of a pack in the bucket.
fn pack(world: &World) -> std::path::PathBuf {
    let mut packs = world.there().list(Kind::Pack).unwrap();
    packs.sort_by_key(|(_, bytes)| *bytes);
    let (name, _) = packs.last().unwrap();
    let path = File::new(Kind::Pack, *name).path();
    world.server.files().join(TENANT).join(path)
}

fn flip(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

#[test]
fn a_flipped_byte_in_the_bucket_is_found_and_named() {
    let world = World::new();
    let snapshot = world.write(1);
    world.copied();
    let path = pack(&world);
    flip(&path);
    let there = Repository::open(Arc::new(world.there()), &key()).unwrap();
    let report = there.verify(Share::All, &world.job).unwrap();
    assert!(!report.is_good() && report.affected.contains(&snapshot.name));
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(
        format!("{:?}", report.damages).contains(&name[..8]),
        "{report:?}"
    );
}

#[test]
fn a_file_that_is_damaged_here_is_not_brought_there_and_named() {
    let world = World::new();
    world.write(1);
    world.copied();
    let before = world.local().list(Kind::Pack).unwrap();
    world.write(2);
    let packs = world.local().list(Kind::Pack).unwrap();
    let (name, _) = packs.iter().find(|pack| !before.contains(pack)).unwrap();
    let file = File::new(Kind::Pack, *name);
    flip(&world.folder.path().join("local").join(file.path()));
    let mut known = Known::list(&world.there()).unwrap();
    let error = world.copy(&mut known).unwrap_err();
    assert!(
        shown(&error).contains(&name.to_string()),
        "{}",
        shown(&error)
    );
    assert_eq!(world.count(Kind::Snapshot), 1);
}

#[test]
fn pruning_reaches_the_bucket_and_losing_does_not() {
    let world = World::new();
    let (old, kept) = (world.write(1), world.write(2));
    world.copied();
    let packs = world.count(Kind::Pack);
    world.repository.forget(&[old.name]).unwrap();
    world.repository.prune(0, &world.job).unwrap();
    // Marked first, removed by the next.
    world.repository.prune(0, &world.job).unwrap();
    world.copied();
    let there = world.there();
    let only = only_in_copy(&world.local(), &there).unwrap();
    assert_eq!(only, [old.name]);
    // Nobody says that it may be forgotten: it stays, with all that it needs.
    let tidied = world
        .repository
        .tidy_copy(&there, &Default::default())
        .unwrap();
    assert_eq!((tidied.removed, tidied.only_there), (0, 1));
    world.server.has(Trouble::Locked);
    let forgettable = only.into_iter().collect();
    let tidied = world.repository.tidy_copy(&there, &forgettable).unwrap();
    assert!(
        matches!(tidied.refused, Some(StoreError::Denied(_))),
        "{tidied:?}"
    );
    world.server.has(Trouble::None);
    let tidied = world.repository.tidy_copy(&there, &forgettable).unwrap();
    assert!(tidied.removed > 1 && tidied.only_there == 0, "{tidied:?}");
    assert!(world.count(Kind::Pack) < packs);
    restic(&world, &["check", "--read-data"]);
    // What is only lost here is not removed there.
    let there_before = world.count(Kind::Pack);
    let lost = world.local().list(Kind::Pack).unwrap();
    world
        .local()
        .remove(File::new(Kind::Pack, lost[0].0))
        .unwrap();
    world
        .repository
        .tidy_copy(&there, &Default::default())
        .unwrap();
    world
        .local()
        .remove(File::new(Kind::Snapshot, kept.name))
        .unwrap();
    world
        .repository
        .tidy_copy(&there, &Default::default())
        .unwrap();
    assert_eq!(world.count(Kind::Pack), there_before);
    assert_eq!(world.count(Kind::Snapshot), 1);
    assert!(there.remove_all().unwrap() > 0);
    for kind in [
        Kind::Config,
        Kind::Key,
        Kind::Pack,
        Kind::Index,
        Kind::Snapshot,
    ] {
        assert!(there.list(kind).unwrap().is_empty(), "{kind:?}");
    }
}

/// A server that has lost the end of a file, or holds files of others between ours.
#[test]
fn what_is_not_our_file_is_put_again_or_left_alone() {
    let world = World::new();
    world.write(1);
    world.copied();
    let path = pack(&world);
    let content = fs::read(&path).unwrap();
    fs::write(&path, &content[..content.len() - 1]).unwrap();
    let mut known = Known::list(&world.there()).unwrap();
    assert_eq!(world.copy(&mut known).unwrap().files, 1);
    assert!(fs::read(&path).unwrap() == content);
    let there = world.server.files().join(TENANT);
    let name = path.file_name().unwrap().to_str().unwrap();
    let others = [
        format!("data/{name}"),
        format!("data/zz/{name}"),
        format!("snapshots/old/{name}"),
        "snapshots/note.txt".to_owned(),
    ];
    let count = |world: &World| [Kind::Pack, Kind::Snapshot].map(|kind| world.count(kind));
    let before = count(&world);
    for other in &others {
        fs::create_dir_all(there.join(other).parent().unwrap()).unwrap();
        fs::write(there.join(other), "somebody's").unwrap();
    }
    assert_eq!(count(&world), before);
}

#[test]
fn a_file_that_is_larger_than_it_may_be_is_not_fetched() {
    let world = World::new();
    world.write(1);
    world.copied();
    let there = world.there();
    let (name, bytes) = there.list(Kind::Pack).unwrap()[0];
    let file = File::new(Kind::Pack, name);
    assert_eq!(there.read(file, bytes).unwrap().len() as u64, bytes);
    let error = there.read(file, bytes - 1).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
}

/// As a bucket with object lock at Amazon's asks.
#[test]
fn each_file_is_put_with_a_sum_of_its_content() {
    let world = World::new();
    world.write(1);
    world.server.has(Trouble::WantsSums);
    world.copied();
    assert_eq!(world.count(Kind::Snapshot), 1);
}

#[test]
fn what_becomes_of_removals_is_found_out() {
    let world = World::new();
    let bucket = world.bucket_of(&world.server.access());
    assert_eq!(bucket.try_out("isyone-check").unwrap(), Removals::Final);
    assert_eq!(bucket.list("").unwrap(), []);
    world.server.has(Trouble::Locked);
    assert_eq!(bucket.try_out("isyone-check").unwrap(), Removals::Refused);
}

#[test]
fn another_repository_is_never_written_over() {
    let (world, other) = (World::new(), World::new());
    world.write(1);
    world.copied();
    let mut known = Known::list(&world.there()).unwrap();
    let error = copy(&other.local(), &world.there(), &mut known, &world.job).unwrap_err();
    assert!(
        matches!(error, isyone_backup::Error::OtherRepository { .. }),
        "{error:?}"
    );
}

#[test]
fn a_rate_is_held_and_a_copy_that_is_stopped_ends() {
    let world = World::new();
    world.write(1);
    let mut known = Known::default();
    let job = Job {
        destination: vec![Arc::new(Pace::new(2_000_000))],
        ..Job::default()
    };
    let began = std::time::Instant::now();
    copy(&world.local(), &world.there(), &mut known, &job).unwrap();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
    world.write(2);
    job.stop.stop();
    let stopped = copy(&world.local(), &world.there(), &mut known, &job);
    assert!(matches!(stopped, Err(isyone_backup::Error::Stopped)));
}

//! What must hold of a destination whatever happens: cut off at any step, full, gone, seen by another. Each state that is read back is
//! one that was committed, not older than the last that was said to be there, with the keys that it needs and none that was deleted.
//!
//! Not here: the loops and a whole coordinator (tests/loopback).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
};

use isyone_fleet::{
    backups::Repository,
    desired::{
        Fleet, Sealed,
        backups::{BackupKey, Made, TenantBackups},
    },
    testing::{Bench, name, resources},
    written,
};
use isyone_proto::plan::Secret;
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    folder::Folder,
    format::{Configuration, Part, Series},
    rebuilt::{self, ReadError, Rebuilt},
    ship::{MAX_BATCHES, Ship, ShipError, without_keys},
};
use crate::base::secrets::Sealer;

/// Between two things that happen, milliseconds: the retention and the looks see days and minutes pass.
const SHORT_MS: i64 = 3_000;
const LONG_MS: i64 = 9 * 3_600_000;
const BEGAN: i64 = 1_764_000_000_000;

fn configuration() -> Configuration {
    Configuration {
        text: "text".to_owned(),
        mail_passwords: [(None, Secret::new("hunter2"))].into(),
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A tenant, and the key of its backups one commit later.
    Create,
    /// Something is in a tenant's repository.
    BackUp(usize),
    /// A tenant's key is deleted, and then what is noted of its backups.
    Shred(usize),
    Forget(usize),
    Wait(bool),
    Ship,
    /// Cut off after so many file operations; and whether the coordinator starts anew then.
    CutOff(usize, bool),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Create),
        2 => (0..8_usize).prop_map(Step::BackUp),
        2 => (0..8_usize).prop_map(Step::Shred),
        1 => (0..8_usize).prop_map(Step::Forget),
        2 => any::<bool>().prop_map(Step::Wait),
        4 => Just(Step::Ship),
        4 => (0..12_usize, any::<bool>()).prop_map(|(after, restart)| Step::CutOff(after, restart)),
        1 => Just(Step::Restart),
    ]
}

/// A coordinator's commits, and the destination that they are shipped to.
struct World {
    place: tempfile::TempDir,
    sealer: Arc<Sealer>,
    bench: Bench,
    /// All states so far, the newest last.
    committed: Vec<Fleet>,
    /// How many of them there were when a shipment was last said to be there.
    there: Option<usize>,
    ship: Ship,
    created: usize,
    now: i64,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let sealer = Arc::new(Sealer::ephemeral());
        let mut bench = Bench::default();
        bench.host("h1", resources(64, 256, 4_000));
        let mut world = Self {
            ship: Ship::new(Folder::new(place.path()), sealer.clone(), configuration()),
            committed: vec![Fleet::default()],
            there: None,
            created: 0,
            now: BEGAN,
            place,
            sealer,
            bench,
        };
        world.commit();
        world
    }

    fn folder(&self) -> Folder {
        Folder::new(self.place.path())
    }

    fn commit(&mut self) {
        self.committed.push(self.bench.state.fleet.clone());
    }

    fn change(&mut self, change: impl FnOnce(&mut Fleet)) {
        change(&mut self.bench.state.fleet);
        self.commit();
    }

    fn create(&mut self) {
        let tenant = format!("t{}", self.created);
        self.created += 1;
        self.bench.create(&tenant, "small").unwrap();
        self.commit();
        let uid = self.bench.state.fleet.tenants[tenant.as_str()].uid;
        let key = BackupKey {
            tenant: uid,
            name: name(&tenant),
            key: Sealed(format!("key of {tenant}").into()),
            made_at: self.now,
            delete_at: None,
        };
        self.change(|fleet| fleet.put_backup_key(Arc::new(key)));
    }

    /// The uid of one of the tenants that have a key.
    fn one(&self, number: usize) -> Option<Uuid> {
        let mut keys = self.bench.state.fleet.backup_keys.keys();
        keys.nth(number).copied()
    }

    fn back_up(&mut self, uid: Uuid) {
        let key = self.bench.state.fleet.backup_keys[&uid].clone();
        let mut of = TenantBackups::new(uid, key.name.clone());
        let made = Made {
            repository: Repository {
                base_at: Some(self.now),
                ..Repository::default()
            },
            ..Made::default()
        };
        of.made.insert(name("there"), made);
        self.change(|fleet| drop(fleet.backups.insert(uid, Arc::new(of))));
    }

    fn shred(&mut self, uid: Uuid) {
        let now = self.now;
        self.change(|fleet| {
            let of = fleet.backup_keys[&uid].name.clone();
            let tenants = fleet.tenants.values().find(|tenant| tenant.uid == uid);
            if let Some(tenant) = tenants.map(|tenant| tenant.name.clone()) {
                fleet.remove_tenant(&tenant);
            }
            fleet.remove_backup_key(uid);
            let mut left = TenantBackups::new(uid, of);
            left.shredded_at = Some(now);
            fleet.backups.insert(uid, Arc::new(left));
        });
    }

    fn ship(&mut self) -> Result<(), ShipError> {
        let shipped = self.ship.ship(&self.bench.state.fleet, self.now);
        if shipped.is_ok() {
            self.there = Some(self.committed.len() - 1);
        }
        shipped
    }

    fn start_with(&mut self, folder: Folder) {
        self.ship = Ship::new(folder, self.sealer.clone(), configuration());
    }

    /// The disk, or the machine, goes away after so many operations.
    fn cut_off(&mut self, after: usize, restarts: bool) {
        let mut folder = self.folder();
        let left = Arc::new(AtomicUsize::new(after));
        folder.cut_after(left.clone());
        self.start_with(folder);
        // Unless it gets through.
        let _ = self.ship();
        left.store(usize::MAX, std::sync::atomic::Ordering::Relaxed);
        if restarts {
            self.start_with(self.folder());
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Create if self.created < 8 => self.create(),
            Step::Create => {}
            Step::BackUp(number) => {
                if let Some(uid) = self.one(number) {
                    self.back_up(uid);
                }
            }
            Step::Shred(number) => {
                if let Some(uid) = self.one(number) {
                    self.shred(uid);
                }
            }
            Step::Forget(number) => {
                let backups = &self.bench.state.fleet.backups;
                let mut gone = backups.values().filter(|of| of.shredded_at.is_some());
                if let Some(uid) = gone.nth(number).map(|of| of.tenant) {
                    self.change(|fleet| drop(fleet.backups.remove(&uid)));
                }
            }
            Step::Wait(long) => self.now += if long { LONG_MS } else { SHORT_MS },
            Step::Ship => self.ship().unwrap(),
            Step::CutOff(after, restarts) => self.cut_off(after, restarts),
            Step::Restart => self.start_with(self.folder()),
        }
    }

    fn read(&self) -> Result<Rebuilt, ReadError> {
        rebuilt::read(&self.folder(), &self.sealer, None)
    }

    /// Reads the destination back as it is now.
    fn check(&self) {
        let rebuilt = match (self.read(), self.there) {
            (Ok(rebuilt), _) => rebuilt,
            (Err(_), None) => return,
            (Err(error), Some(_)) => panic!("{error}"),
        };
        assert!(rebuilt.lost_keys.is_empty(), "{:?}", rebuilt.lost_keys);
        let bare = without_keys(&rebuilt.fleet);
        let same = |fleet: &Fleet| without_keys(fleet) == bare;
        let which = self.committed.iter().rposition(same);
        let which = which.expect("a state that some commit has made");
        assert!(Some(which) >= self.there, "{which} {:?}", self.there);
        for (uid, key) in &rebuilt.fleet.backup_keys {
            let later = &self.committed[which..];
            assert!(
                later
                    .iter()
                    .any(|fleet| fleet.backup_keys.get(uid) == Some(key))
            );
        }
        let database = written::fleet(rebuilt.contents).unwrap();
        assert_eq!(database, rebuilt.fleet);
    }

    /// What is said to be there is there, and nothing else of keys, in whatever file.
    fn check_shipped(&self) {
        let newest = &self.bench.state.fleet;
        assert_eq!(self.read().unwrap().fleet, *newest);
        let keys = rebuilt::keys(&self.folder(), &self.sealer).unwrap();
        assert_eq!(keys, newest.backup_keys);
        let all = self.folder().series().unwrap();
        assert!(all.len() <= 10, "{all:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(96) })]

    #[test]
    fn whatever_is_cut_off_where_a_committed_state_is_there(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check();
        }
        world.ship().unwrap();
        world.check_shipped();
    }
}

/// All files below, with their contents.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn a_deleted_key_is_in_no_file_that_is_kept() {
    let mut world = World::new();
    world.create();
    world.back_up(world.one(0).unwrap());
    world.ship().unwrap();
    // Once more, so that what is there is known and added to.
    world.create();
    world.ship().unwrap();
    let open = |world: &World, path: &Path, bytes: &[u8]| {
        let file_name = path.file_name().unwrap().to_str().unwrap();
        let part = Part::of_series(file_name).unwrap_or(match file_name {
            "keys" => Part::Keys,
            _ => Part::Configuration,
        });
        let (_, content) = super::format::read(bytes, &world.sealer, part).unwrap();
        format!("{:?}", content.writes)
    };
    let has_key = |world: &World| -> Vec<String> {
        let all = files(world.place.path());
        let with = all
            .iter()
            .filter(|(path, bytes)| open(world, path, bytes).contains("key of t0"));
        let named = with.map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned());
        named.collect()
    };
    assert_eq!(has_key(&world), ["keys"]);
    world.shred(world.one(0).unwrap());
    world.ship().unwrap();
    assert!(has_key(&world).is_empty());
    assert!(
        files(world.place.path()).len() > 3,
        "the states before are still there"
    );
    // An old state is read without it, and that is said.
    let series = world.folder().series().unwrap()[0];
    fs::remove_file(world.folder().root().join(format!("{series}/000001"))).unwrap();
    let before = rebuilt::read(&world.folder(), &world.sealer, Some(series)).unwrap();
    assert_eq!(before.lost_keys, [name("t0")]);
}

#[test]
fn a_full_copy_is_made_when_changes_are_many_a_day_is_over_or_the_key_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("seal.key");
    let mut world = World::new();
    world.sealer = Arc::new(Sealer::create(&key).unwrap());
    world.start_with(world.folder());
    let series = |world: &World| world.folder().series().unwrap();
    for n in 0..=MAX_BATCHES {
        world.change(|fleet| fleet.plan_digest = n.to_string());
        world.ship().unwrap();
    }
    assert_eq!(series(&world).len(), 1);
    assert_eq!(world.read().unwrap().batches, MAX_BATCHES);
    world.ship().unwrap();
    assert_eq!(series(&world).len(), 2, "they are many");
    world.now += 86_400_001;
    world.ship().unwrap();
    let day = series(&world);
    assert_eq!(day.len(), 2, "a day is over, and the last one of it stays");
    world.sealer.rotate().unwrap();
    world.ship().unwrap();
    world.sealer.forget_old().unwrap();
    world.ship().unwrap();
    assert_eq!(world.read().unwrap().fleet, world.bench.state.fleet);
    let restarted = Arc::new(Sealer::load(&key, None).unwrap());
    let read = rebuilt::read(&world.folder(), &restarted, None).unwrap();
    assert_eq!(read.configuration, Some(configuration()));
    let listed = rebuilt::list(&world.folder(), &restarted).unwrap();
    assert_eq!(listed.len(), 1, "the others need the key of before");
}

#[test]
fn what_is_damaged_is_said_and_what_lies_before_it_is_used() {
    let mut world = World::new();
    world.ship().unwrap();
    world.now += SHORT_MS;
    world.start_with(world.folder());
    let mut states = Vec::new();
    for _ in 0..3 {
        world.ship().unwrap();
        states.push(without_keys(&world.bench.state.fleet));
        world.create();
    }
    let newest = *world.folder().series().unwrap().last().unwrap();
    let path = |part: &str| world.folder().root().join(format!("{newest}/{part}"));
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    };
    flip(&path("000002"));
    let read = world.read().unwrap();
    assert_eq!((read.batches, read.notes.len()), (1, 1), "{:?}", read.notes);
    assert_eq!(without_keys(&read.fleet), states[1]);
    flip(&path("base"));
    let read = world.read().unwrap();
    assert_eq!(read.notes.len(), 1, "{:?}", read.notes);
    assert!(read.series < newest);
    let none = rebuilt::read(&world.folder(), &Sealer::ephemeral(), None).unwrap_err();
    assert!(matches!(none, ReadError::None(_)), "{none}");
    let missing = rebuilt::read(&world.folder(), &world.sealer, Some(Series(1)));
    assert!(matches!(missing, Err(ReadError::NoSeries(_))));
    // A file of another state in its place is not taken.
    fs::copy(
        world.folder().root().join(format!("{}/base", read.series)),
        path("base"),
    )
    .unwrap();
    let swapped = world.read().unwrap();
    assert!(
        swapped.notes[0].contains("of the state"),
        "{:?}",
        swapped.notes
    );
}

#[test]
fn what_was_removed_there_is_written_anew_although_nothing_has_changed() {
    let mut world = World::new();
    world.create();
    world.ship().unwrap();
    for gone in ["keys", "configuration", ""] {
        let path = world.folder().root().join(gone);
        match gone.is_empty() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
        world.now += 60_001;
        world.ship().unwrap();
        world.check_shipped();
        assert!(world.read().unwrap().notes.is_empty(), "{gone}");
    }
    let away = world.place.path().with_extension("away");
    fs::rename(world.place.path(), &away).unwrap();
    world.create();
    assert!(world.ship().is_err());
    assert!(!world.place.path().exists(), "nothing is made in its place");
    fs::rename(&away, world.place.path()).unwrap();
    world.ship().unwrap();
    world.check_shipped();
}

#[test]
fn only_one_coordinator_ships_and_not_one_of_before() {
    let mut world = World::new();
    world.ship().unwrap();
    let old = world.bench.state.fleet.clone();
    world.create();
    world.ship().unwrap();
    let again = || {
        Ship::new(
            world.folder(),
            world.sealer.clone(),
            Configuration::default(),
        )
    };
    // A machine that was replaced comes back.
    let refused = again().ship(&old, world.now + 1).unwrap_err();
    assert!(matches!(refused, ShipError::Newer { .. }), "{refused}");
    // Unless somebody has said that its state is the right one.
    let mut raised = old;
    raised.incarnation += 1;
    let mut other = again();
    other.ship(&raised, world.now + 1).unwrap();
    // Then the first one must not go on.
    world.now += 60_001;
    let another = world.ship().unwrap_err();
    assert!(matches!(another, ShipError::Another(_)), "{another}");
    let kept = rebuilt::keys(&world.folder(), &world.sealer).unwrap();
    assert_eq!(kept, raised.backup_keys);
}

//! Snapshots as an enemy would write them: nothing leaves the target, nothing costs more than was allowed.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{
    job::Job,
    key::Key,
    repository::Repository,
    seal,
    snapshot::{self, Label, Purpose},
    store::{Kind, Local, Store},
    write::Writer,
};

/// A repository to which anything can be written, by somebody who has the key.
struct Enemy {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    key: Key,
    repository: Repository,
    job: Job,
}

impl Enemy {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Local::new(folder.path().join("repository")));
        let (key, job) = (Key::new([1; 64]), Job::default());
        let repository = Repository::create(store.clone(), &key, &job).unwrap();
        Self {
            folder,
            store,
            key,
            repository,
            job,
        }
    }

    fn writer(&self) -> Writer<'_> {
        Writer {
            store: &self.store,
            key: &self.key,
            job: &self.job,
        }
    }

    /// Writes a blob under a name that need not be its own.
    fn blob(&self, content: &[u8], name: Name, kind: &str) {
        let packed = zstd::bulk::compress(content, 3).unwrap();
        let pack = seal::encrypt(&self.key, &packed);
        let length = pack.len();
        let pack = self.writer().put(Kind::Pack, pack).unwrap();
        let index = json!({ "packs": [{ "id": pack.to_string(), "blobs": [{
            "id": name.to_string(), "type": kind, "offset": 0, "length": length,
            "uncompressed_length": content.len(),
        }] }] });
        self.index(&index);
    }

    fn index(&self, index: &Value) {
        let sealed = seal::close_file(&self.key, index.to_string().as_bytes());
        self.writer().put(Kind::Index, sealed).unwrap();
    }

    fn data(&self, content: &[u8]) -> Name {
        let name = seal::name_of(content);
        self.blob(content, name, "data");
        name
    }

    fn tree(&self, nodes: &[Value]) -> Name {
        let json = json!({ "nodes": nodes }).to_string();
        let name = seal::name_of(json.as_bytes());
        self.blob(json.as_bytes(), name, "tree");
        name
    }

    fn snapshot(&self, tree: Name) -> Snapshot {
        let label = Label {
            purpose: Purpose::Base,
            time: Timestamp::from_second(1).unwrap(),
            host: "h1".to_owned(),
            tags: Vec::new(),
        };
        let file = snapshot::blank(&label);
        let name = snapshot::commit(&self.store, &self.key, file, tree).unwrap();
        self.repository.snapshot(name).unwrap()
    }

    fn target(&self) -> Target {
        let path = self.folder.path().join("target");
        fs::create_dir_all(&path).unwrap();
        Target {
            folder: fs::File::open(path).unwrap().into(),
            existing: Existing::Refuse,
            owner: None,
            most_bytes: 1 << 20,
            most_entries: 1000,
        }
    }

    fn restore(&self, nodes: &[Value]) -> Result<Restored, Error> {
        let snapshot = self.snapshot(self.tree(nodes));
        let reader = self.repository.reader(&self.job)?;
        let restored = reader.restore(&snapshot, "", &self.target());
        let measured = reader.measure(&snapshot, "");
        assert!(
            restored.is_err() || measured.is_ok(),
            "what is measured first and refused is never begun"
        );
        restored
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> Value {
        let blob = self.data(content);
        json!({ "name": name, "type": "file", "size": content.len(), "content": [blob.to_string()] })
    }
}

fn refusal(restored: Result<Restored, Error>) -> Refusal {
    match restored {
        Err(Error::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_harmless_one_is_restored() {
    let enemy = Enemy::new();
    let inner = enemy.tree(&[enemy.file("b", b"two")]);
    let folder = json!({ "name": "d", "type": "dir", "subtree": inner.to_string() });
    let restored = enemy.restore(&[enemy.file("a", b"one"), folder]).unwrap();
    assert_eq!(
        (restored.files, restored.folders, restored.bytes),
        (2, 1, 6)
    );
    assert_eq!(fs::read(enemy.path("target/d/b")).unwrap(), b"two");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let enemy = Enemy::new();
    let elsewhere = enemy.path("elsewhere");
    let absolute = elsewhere.to_str().unwrap();
    // The escapes are those of the format.
    for name in [
        "..",
        ".",
        "",
        "../elsewhere",
        absolute,
        "a/b",
        r"\x2e\x2e",
        r"..\x2felsewhere",
    ] {
        let file = enemy.file(name, b"evil");
        assert_eq!(refusal(enemy.restore(&[file])), Refusal::Name, "{name:?}");
        let inner = enemy.tree(&[enemy.file("elsewhere", b"evil")]);
        let folder = json!({ "name": name, "type": "dir", "subtree": inner.to_string() });
        assert_eq!(refusal(enemy.restore(&[folder])), Refusal::Name, "{name:?}");
    }
    assert!(!elsewhere.exists());
    assert_eq!(fs::read_dir(enemy.path("target")).unwrap().count(), 0);
}

#[test]
fn links_and_devices_are_refused() {
    let enemy = Enemy::new();
    for node in [
        json!({ "name": "a", "type": "symlink", "linktarget": "/etc" }),
        json!({ "name": "a", "type": "dev", "device": 2049 }),
        json!({ "name": "a", "type": "chardev", "device": 259 }),
        json!({ "name": "a", "type": "fifo" }),
        json!({ "name": "a", "type": "socket" }),
    ] {
        assert_eq!(refusal(enemy.restore(&[node])), Refusal::Special);
    }
    assert_eq!(fs::read_dir(enemy.path("target")).unwrap().count(), 0);
}

/// Fails if a single file can be had by a name that leads elsewhere, through a link, or with another length than it says.
#[test]
fn a_single_file_is_had_by_its_own_name_and_nothing_else() {
    let enemy = Enemy::new();
    let inner = enemy.tree(&[enemy.file("b", b"two")]);
    let mut swollen = enemy.file("swollen", b"three");
    swollen["size"] = json!(1_u64 << 50);
    let mut none = enemy.file("none", b"");
    none["content"] = json!(["00".repeat(32)]);
    let snapshot = enemy.snapshot(enemy.tree(&[
        json!({ "name": "d", "type": "dir", "subtree": inner.to_string() }),
        json!({ "name": "..", "type": "dir", "subtree": inner.to_string() }),
        json!({ "name": "l", "type": "symlink", "linktarget": "d" }),
        enemy.file("a/b", b"x"),
        swollen,
        none,
    ]));
    let reader = enemy.repository.reader(&enemy.job).unwrap();
    let found = reader.file(&snapshot, "/d//b").unwrap();
    let mut content = Vec::new();
    assert_eq!(found.bytes(), 3);
    assert_eq!(reader.write(&found, &mut content).unwrap(), 3);
    assert_eq!(content, b"two");
    let absent = |path: &str| {
        let error = reader.file(&snapshot, path).unwrap_err();
        assert!(matches!(error, Error::NoEntry { .. }), "{path}: {error}");
    };
    for path in ["../b", "d/../d/b", "d/./b", "l/b", "a/b", "d/b/c", "d/c"] {
        absent(path);
    }
    for (path, why) in [
        ("d", Refusal::Folder),
        ("", Refusal::Folder),
        ("l", Refusal::Special),
    ] {
        match reader.file(&snapshot, path) {
            Err(Error::Refused { refusal, .. }) => assert_eq!(refusal, why),
            other => panic!("{path}: {other:?}"),
        }
    }
    for (path, why) in [("swollen", Fault::Size), ("none", Fault::NotIndexed)] {
        match reader.file(&snapshot, path) {
            Err(Error::Content { fault, .. }) => assert_eq!(fault, why),
            other => panic!("{path}: {other:?}"),
        }
    }
    let listed = reader.list(&snapshot, "").unwrap();
    let kept = listed
        .iter()
        .filter(|e| e.kind != crate::EntryKind::Special);
    let kept: Vec<_> = kept.map(|entry| entry.name.as_str()).collect();
    assert_eq!(kept, ["d", "swollen", "none"]);
}

/// Somebody else laid links into the target while we restore.
#[test]
fn links_in_the_target_are_not_followed() {
    let enemy = Enemy::new();
    let elsewhere = enemy.path("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    enemy.target();
    symlink(elsewhere.join("new"), enemy.path("target/a")).unwrap();
    symlink(&elsewhere, enemy.path("target/d")).unwrap();
    let inner = enemy.tree(&[enemy.file("b", b"two")]);
    let folder = || json!({ "name": "d", "type": "dir", "subtree": inner.to_string() });
    assert_eq!(
        refusal(enemy.restore(&[enemy.file("a", b"x")])),
        Refusal::Exists
    );
    assert_eq!(refusal(enemy.restore(&[folder()])), Refusal::Exists);
    let snapshot = enemy.snapshot(enemy.tree(&[enemy.file("a", b"x"), folder()]));
    let reader = enemy.repository.reader(&enemy.job).unwrap();
    let mut target = enemy.target();
    target.existing = Existing::Keep;
    let restored = reader.restore(&snapshot, "", &target);
    assert!(
        matches!(restored, Err(Error::Restore { .. })),
        "{restored:?}"
    );
    assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 0);
}

#[test]
fn modes_and_owners_are_not_the_snapshots_to_choose() {
    let enemy = Enemy::new();
    let mut file = enemy.file("a", b"#!");
    for (key, value) in [
        ("mode", json!(0o106_777)),
        ("uid", json!(12345)),
        ("gid", json!(12345)),
    ] {
        file[key] = value;
    }
    enemy.restore(&[file]).unwrap();
    let meta = fs::metadata(enemy.path("target/a")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o777);
    assert_ne!(meta.uid(), 12345);
}

#[test]
fn a_folder_in_itself_ends() {
    let enemy = Enemy::new();
    let own = Name([9; 32]);
    let json = json!({ "nodes": [{ "name": "d", "type": "dir", "subtree": own.to_string() }] });
    enemy.blob(json.to_string().as_bytes(), own, "tree");
    let snapshot = enemy.snapshot(own);
    let reader = enemy.repository.reader(&enemy.job).unwrap();
    // Its content is not what its name says, so it ends at once.
    let measured = reader.measure(&snapshot, "");
    assert!(
        matches!(
            measured,
            Err(Error::Content {
                fault: Fault::Altered,
                ..
            })
        ),
        "{measured:?}"
    );
    let report = enemy
        .repository
        .verify(crate::verify::Share::All, &enemy.job)
        .unwrap();
    assert!(!report.is_good());
}

#[test]
fn folders_that_multiply_or_lie_deep_end() {
    let enemy = Enemy::new();
    let mut tree = enemy.tree(&[]);
    let mut snapshots = 0;
    for depth in 0..40 {
        let links = ["a", "b"]
            .map(|name| json!({ "name": name, "type": "dir", "subtree": tree.to_string() }));
        tree = enemy.tree(&links);
        if ![7, 9, 29, 33, 39].contains(&depth) {
            continue;
        }
        snapshots += 1;
        let snapshot = enemy.snapshot(tree);
        let reader = enemy.repository.reader(&enemy.job).unwrap();
        let restored = reader.restore(&snapshot, "", &enemy.target());
        fs::remove_dir_all(enemy.path("target")).unwrap();
        match depth {
            7 => assert!(restored.is_ok(), "{restored:?}"),
            9 | 29 => assert!(
                matches!(restored, Err(Error::TooMuch { what: "files", .. })),
                "{depth}: {restored:?}"
            ),
            _ => assert_eq!(refusal(restored), Refusal::Depth),
        }
    }
    // Each folder is looked at once, however often it appears.
    let report = enemy
        .repository
        .verify(crate::verify::Share::All, &enemy.job);
    assert_eq!(report.unwrap().snapshots, snapshots);
}

#[test]
fn contents_beyond_what_was_allowed_are_refused_before_they_are_written() {
    let enemy = Enemy::new();
    let blob = enemy.data(&[0; 1 << 19]).to_string();
    let file = |blobs: usize, size: usize| json!({ "name": "a", "type": "file", "size": size, "content": vec![&blob; blobs] });
    let restored = enemy.restore(&[file(100, 100 << 19)]);
    assert!(
        matches!(
            restored,
            Err(Error::TooMuch {
                what: "bytes",
                most: 1_048_576
            })
        ),
        "{restored:?}"
    );
    // A file says that it is small, and is not; or large, and is not.
    for lie in [0, 1, 1 << 19] {
        let restored = enemy.restore(&[file(100, lie)]);
        assert!(
            matches!(
                restored,
                Err(Error::Content {
                    fault: Fault::Size,
                    ..
                })
            ),
            "{restored:?}"
        );
    }
    assert_eq!(fs::read_dir(enemy.path("target")).unwrap().count(), 0);
    let restored = enemy.restore(&[file(2, 2 << 19)]).unwrap();
    assert_eq!(restored.bytes, 1 << 20);
}

#[test]
fn a_blob_that_is_not_what_its_name_says_is_not_restored() {
    let enemy = Enemy::new();
    let name = seal::name_of(b"invoice: 10");
    enemy.blob(b"invoice: 99", name, "data");
    let file = json!({ "name": "a", "type": "file", "size": 11, "content": [name.to_string()] });
    let restored = enemy.restore(&[file]);
    assert!(
        matches!(&restored, Err(Error::Content { fault: Fault::Altered, path, .. }) if path == "a"),
        "{restored:?}"
    );
    assert!(
        !enemy.path("target/a").exists(),
        "half a file does not stay"
    );
}

#[test]
fn places_that_are_not_in_the_pack_are_errors() {
    let enemy = Enemy::new();
    let name = enemy.data(b"one");
    let pack = enemy.store.list(Kind::Pack).unwrap()[0].0.to_string();
    for (offset, length) in [
        (0, u32::MAX),
        (u32::MAX, 40),
        (0, 0),
        (1 << 20, 300 << 10),
        (3, 31),
    ] {
        let wanted = seal::name_of(&[offset.to_le_bytes(), length.to_le_bytes()].concat());
        enemy.index(&json!({ "packs": [{ "id": pack, "blobs": [{
            "id": wanted.to_string(), "type": "data", "offset": offset, "length": length,
        }] }] }));
        let size = u64::from(length).saturating_sub(32);
        let file =
            json!({ "name": "a", "type": "file", "size": size, "content": [wanted.to_string()] });
        let mut to = Vec::new();
        let snapshot = enemy.snapshot(enemy.tree(&[file]));
        let reader = enemy.repository.reader(&enemy.job).unwrap();
        let copied = reader.copy(&snapshot, "a", &mut to);
        assert!(matches!(copied, Err(Error::Content { .. })), "{copied:?}");
    }
    assert_eq!(name, seal::name_of(b"one"));
}

/// An index file of some kilobytes that unpacks to gigabytes would cost whoever opens the repository its memory.
#[test]
fn an_index_that_unpacks_to_too_much_is_named() {
    let enemy = Enemy::new();
    let zeros = vec![b' '; 200 << 20];
    let packed = zstd::bulk::compress(&zeros, 3).unwrap();
    drop(zeros);
    let sealed = seal::encrypt(&enemy.key, &[&[2], &packed[..]].concat());
    assert!(sealed.len() < 100_000);
    let name = enemy.writer().put(Kind::Index, sealed).unwrap();
    let reader = enemy.repository.reader(&enemy.job).unwrap();
    assert_eq!(reader.damaged()[0].1, Fault::Swollen);
    let pruned = enemy.repository.prune(0, &enemy.job);
    assert!(
        matches!(&pruned, Err(Error::Damaged { file, fault: Fault::Swollen }) if file.name == name),
        "{pruned:?}"
    );
    let parts = vec![crate::source::Part::bytes("a", "x")];
    let label = Label {
        purpose: Purpose::Base,
        time: Timestamp::from_second(1).unwrap(),
        host: String::new(),
        tags: Vec::new(),
    };
    let written = enemy.repository.write(&label, parts, None, &enemy.job);
    assert!(
        matches!(
            &written,
            Err(Error::Damaged {
                fault: Fault::Swollen,
                ..
            })
        ),
        "rustic would have unpacked it: {written:?}"
    );
}

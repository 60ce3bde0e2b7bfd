//! A source that lies, and a target that is not empty. Not here: the line between them.

use std::{fs, path::Path};

use isyone_proto::pb::agent::v1::{FileEntry, PeerVolume};
use tokio::sync::mpsc;

use super::*;
use crate::jobs::fetch::manifest::Builder;

fn manifest(of_database: &[(&str, u64)]) -> Manifest {
    files(PeerVolume::Postgres, of_database)
}

fn files(of: PeerVolume, files: &[(&str, u64)]) -> Manifest {
    let mut list = spool::Writer::new(&std::env::temp_dir()).unwrap();
    let mut builder = Builder::default();
    let mut add = |volume: PeerVolume, path: &str, size: Option<u64>| {
        let wire = FileEntry {
            volume: volume.into(),
            path: path.as_bytes().to_vec(),
            directory: size.is_none(),
            size: size.unwrap_or(0),
            mode: if size.is_none() { 0o700 } else { 0o600 },
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime_ns: 1_000_000_007,
        };
        let entry = builder.add(&wire).unwrap();
        list.add(&Ask::whole(entry)).unwrap();
    };
    add(PeerVolume::Postgres, "", None);
    add(PeerVolume::Postgres, "base", None);
    let all = |add: &mut dyn FnMut(PeerVolume, &str, Option<u64>)| {
        for (path, size) in files {
            add(of, path, Some(*size));
        }
    };
    if of == PeerVolume::Postgres {
        all(&mut add);
    }
    add(PeerVolume::Odoo, "", None);
    if of == PeerVolume::Odoo {
        all(&mut add);
    }
    Manifest {
        facts: builder.finish().unwrap(),
        list: list.finish().unwrap(),
    }
}

fn offsets(asks: &Asks) -> Vec<u64> {
    asks.list.read().map(|ask| ask.unwrap().offset).collect()
}

struct Site {
    dir: tempfile::TempDir,
    places: Places,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            postgres: dir.path().join("p"),
            odoo: dir.path().join("o"),
        };
        fs::create_dir(&places.postgres).unwrap();
        fs::create_dir(&places.odoo).unwrap();
        Self { dir, places }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.places.postgres.join(path)
    }
}

fn sent(pieces: Vec<Piece>) -> Receiver<Piece> {
    let (send, receive) = mpsc::channel(64);
    for piece in pieces {
        assert!(send.try_send(piece).is_ok());
    }
    receive
}

fn data(text: &str) -> Piece {
    Piece::Data(text.as_bytes().to_vec())
}

fn digest(text: &str) -> Piece {
    Piece::Sha256(Sha256::digest(text).to_vec())
}

fn names(at: &Path) -> Vec<String> {
    let entries = fs::read_dir(at).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_target_that_is_not_empty_becomes_what_the_list_says_and_no_link_leads_out() {
    let site = Site::new();
    let outside = site.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "k").unwrap();
    fs::write(outside.join("b"), "not ours").unwrap();
    // Links where the list has a directory and a file, scrap, a file that is longer, a directory in a file's place.
    std::os::unix::fs::symlink(&outside, site.at("base")).unwrap();
    std::os::unix::fs::symlink(outside.join("kept"), site.at("c")).unwrap();
    fs::create_dir_all(site.at("scrap/deep")).unwrap();
    fs::write(site.at("scrap/deep/file"), "x").unwrap();
    fs::create_dir(site.at("d")).unwrap();
    fs::write(site.at("e"), "longer").unwrap();
    fs::write(site.at("f"), "abc").unwrap();
    let list = manifest(&[("base/b", 3), ("c", 3), ("d", 3), ("e", 3), ("f", 3)]);
    let target = Target::open(&site.places).unwrap();
    let asks = target.prepare(&list).unwrap();
    assert_eq!(
        offsets(&asks),
        [0, 0, 0, 0, 3],
        "what is here is asked for at its end"
    );
    let mut pieces = Vec::new();
    for text in ["one", "two", "san", "yon"] {
        pieces.extend([data(text), digest(text)]);
    }
    pieces.push(digest("abc"));
    let differ = target.write(&asks, &mut sent(pieces)).unwrap();
    assert_eq!(differ.asks.list.count, 0);
    target.finish(&list).unwrap();
    assert_eq!(names(&site.places.postgres), ["base", "c", "d", "e", "f"]);
    assert_eq!(fs::read(site.at("base/b")).unwrap(), b"one");
    assert_eq!(fs::read(site.at("e")).unwrap(), b"yon");
    assert_eq!(fs::read(outside.join("b")).unwrap(), b"not ours");
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"k");
    assert_eq!(offsets(&target.prepare(&list).unwrap()), [3; 5]);
}

/// The second pass over a tenant that runs: what is not looked into again is here all the same.
#[test]
fn files_that_have_not_changed_count_as_here() {
    let site = Site::new();
    let list = files(PeerVolume::Odoo, &[("a", 3), ("b", 4)]);
    let target = Target::open_beside(&site.places).unwrap();
    let asks = target.prepare(&list).unwrap();
    assert_eq!((asks.list.count, asks.here), (2, 0));
    let pieces = vec![data("one"), digest("one"), data("four"), digest("four")];
    target.write(&asks, &mut sent(pieces)).unwrap();
    let asks = target.prepare(&list).unwrap();
    assert_eq!((asks.list.count, asks.here), (0, 7));
}

/// A restore in its place must not begin one again that its log has had before the move.
#[test]
fn the_timeline_of_what_came_is_known() {
    for at in ["", "18/docker/"] {
        let site = Site::new();
        let target = Target::open(&site.places).unwrap();
        assert_eq!(target.timeline(), None);
        let mut control = [0u8; 80];
        control[48] = 4;
        fs::create_dir_all(site.at(&format!("{at}global"))).unwrap();
        fs::write(site.at(&format!("{at}global/pg_control")), control).unwrap();
        assert_eq!(target.timeline(), Some(4));
    }
}

/// Written in place, its other name, which may be listed too, would change as well.
#[test]
fn a_file_with_another_name_makes_way() {
    let site = Site::new();
    fs::write(site.at("x"), "old").unwrap();
    fs::hard_link(site.at("x"), site.at("y")).unwrap();
    let list = manifest(&[("x", 3), ("y", 3)]);
    let target = Target::open(&site.places).unwrap();
    let asks = target.prepare(&list).unwrap();
    assert_eq!(
        offsets(&asks),
        [0, 3],
        "with the first gone, the second is alone"
    );
    let mut pieces = sent(vec![data("new"), digest("new"), digest("old")]);
    assert_eq!(target.write(&asks, &mut pieces).unwrap().bytes, 0);
    assert_eq!(fs::read(site.at("x")).unwrap(), b"new");
    assert_eq!(fs::read(site.at("y")).unwrap(), b"old");
}

#[test]
fn content_that_is_not_what_its_digest_says_is_not_kept() {
    let site = Site::new();
    fs::create_dir(site.at("base")).unwrap();
    fs::write(site.at("base/half"), "wrong").unwrap();
    let list = manifest(&[("base/half", 8), ("base/short", 8), ("base/wrong", 3)]);
    let target = Target::open(&site.places).unwrap();
    let asks = target.prepare(&list).unwrap();
    assert_eq!(offsets(&asks), [5, 0, 0]);
    let mut pieces = sent(vec![
        data("ght"),
        digest("all right"),
        data("short"),
        digest("short"),
        data("abc"),
        Piece::Sha256(vec![]),
    ]);
    let differ = target.write(&asks, &mut pieces).unwrap();
    assert_eq!((differ.asks.list.count, differ.bytes), (3, 19));
    assert_eq!(differ.examples.len(), 3);
    assert_eq!(offsets(&differ.asks), [0; 3]);
    for name in ["half", "short", "wrong"] {
        let left = fs::metadata(site.at("base").join(name)).unwrap();
        assert_eq!(left.len(), 0, "{name}");
    }
}

#[test]
fn more_than_was_listed_and_less_than_was_asked_for_end_the_attempt() {
    let site = Site::new();
    let list = manifest(&[("base/a", 3)]);
    let target = Target::open(&site.places).unwrap();
    let asks = || target.prepare(&list).unwrap();
    let mut more = sent(vec![data("ab"), data("cd")]);
    let refused = target.write(&asks(), &mut more).err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    assert!(fs::metadata(site.at("base/a")).unwrap().len() <= 3);
    let cut = target.write(&asks(), &mut sent(vec![data("c")]));
    assert_eq!(cut.err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn one_job_at_a_time_holds_the_volumes_and_a_dropped_one_stops() {
    let site = Site::new();
    let target = Arc::new(Target::open(&site.places).unwrap());
    let second = Target::open(&site.places).err().unwrap();
    assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
    let list = manifest(&[("base/a", 3)]);
    drop(GiveUp(target.clone()));
    let stopped = target.prepare(&list).err().unwrap();
    assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    drop(target);
    assert!(Target::open(&site.places).is_ok());
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A measurement: `cargo test -p isyone-agent --lib -- --ignored --nocapture two_million`. It needs two million inodes for
/// the walk of what is here, so by default only the lists are of that size.
#[test]
#[ignore = "a measurement that takes a minute"]
fn lists_of_two_million_files_take_some_megabytes() {
    let count = 2 * LIMITS.entries as u64 - 300;
    let before = resident_bytes();
    let mut most = 0;
    let mut builder = Builder::default();
    let mut list = spool::Writer::new(&std::env::temp_dir()).unwrap();
    let mut add = |volume: PeerVolume, path: String, size: Option<u64>| {
        let wire = FileEntry {
            volume: volume.into(),
            path: path.into_bytes(),
            directory: size.is_none(),
            size: size.unwrap_or(0),
            ..FileEntry::default()
        };
        list.add(&Ask::whole(builder.add(&wire).unwrap())).unwrap();
    };
    add(PeerVolume::Postgres, String::new(), None);
    add(PeerVolume::Odoo, String::new(), None);
    for directory in 0..256u64 {
        add(PeerVolume::Odoo, format!("{directory:02x}"), None);
        for file in 0..count / 256 {
            let name = format!("{directory:02x}/{file:050x}");
            add(PeerVolume::Odoo, name, Some(file % 2));
        }
        most = most.max(resident_bytes());
    }
    let manifest = Manifest {
        facts: builder.finish().unwrap(),
        list: list.finish().unwrap(),
    };
    // As `prepare` makes of a target that has all of it.
    let mut asks = manifest.list.another().unwrap();
    for ask in manifest.list.read() {
        let ask = ask.unwrap();
        if ask.entry.size.is_some() {
            let known = Known::Whole([7; 32]);
            asks.add(&Ask { known, ..ask }).unwrap();
        }
    }
    let asks = asks.finish().unwrap();
    assert_eq!(asks.read().count() as u64, count / 256 * 256);
    most = most.max(resident_bytes());
    let mib = most.saturating_sub(before) >> 20;
    println!("{} entries: {mib} MiB of memory", manifest.list.count);
    assert!(mib < 64);
}

//! A spool as PostgreSQL fills it, and as somebody would who wants root to fall into it.

use std::fs;

use super::*;

const MIB: u64 = 1 << 20;

struct Site {
    dir: tempfile::TempDir,
    root: Root,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        Self { dir, root }
    }

    fn file(&self, name: &str, bytes: u64) {
        let file = fs::File::create(self.dir.path().join(name)).unwrap();
        file.set_len(bytes).unwrap();
    }

    fn list(&self) -> Listed {
        list(&self.root, SegmentSize::try_from(MIB).unwrap()).unwrap()
    }
}

#[test]
fn segments_are_listed_in_order_and_other_things_are_none() {
    let site = Site::new();
    for name in ["000000010000000000000003", "000000010000000000000002"] {
        site.file(name, MIB);
    }
    site.file(".new", MIB);
    site.file("00000002.history", 40);
    site.file("000000010000000000000002.00000028.backup", 300);
    site.file("000000010000000000000004.partial", MIB);
    site.file("000000010000000000000005", MIB - 1); // cut off
    site.file("000000010000000000001000", MIB); // no such segment of 1 MiB
    site.file("readme", 5);
    fs::create_dir(site.dir.path().join("000000010000000000000006")).unwrap();
    std::os::unix::fs::symlink(
        "/etc/passwd",
        site.dir.path().join("000000010000000000000007"),
    )
    .unwrap();
    fs::write(
        site.dir.path().join("gap"),
        "000000010000000000000008 000000010000000000000009\n",
    )
    .unwrap();
    let listed = site.list();
    let names: Vec<_> = listed.names().iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["000000010000000000000002", "000000010000000000000003"]
    );
    assert_eq!((listed.others.len(), listed.odd), (3, 4));
    assert!(listed.bytes > 5 * MIB - 2 && !listed.overfull);
    assert_eq!(listed.gap.map(|gap| gap.last.number), Some(9));
}

#[test]
fn a_gap_that_our_program_did_not_write_is_none() {
    let site = Site::new();
    for text in [
        "",
        "x y\n",
        "000000010000000000000008\n",
        "000000010000000000000009 000000010000000000000008\n",
        "000000010000000000000008 000000010000000000000009 x",
    ] {
        fs::write(site.dir.path().join("gap"), text).unwrap();
        assert_eq!(site.list().gap, None, "{text:?}");
    }
    forget_gap(&site.root).unwrap();
    forget_gap(&site.root).unwrap();
    assert!(!site.dir.path().join("gap").exists());
}

#[test]
fn removing_follows_nothing() {
    let site = Site::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("f"), "theirs").unwrap();
    let name = "000000010000000000000002".to_owned();
    std::os::unix::fs::symlink(outside.path().join("f"), site.dir.path().join(&name)).unwrap();
    remove(&site.root, &[name.clone(), "none".to_owned()]).unwrap();
    assert!(!site.dir.path().join(&name).exists() && outside.path().join("f").exists());
}

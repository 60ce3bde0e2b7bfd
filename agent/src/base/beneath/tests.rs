//! What a tenant lays out, and what root makes of it. Not here: paths (path).

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
};

use super::*;

const LIMITS: Limits = Limits {
    entries: 1_000,
    path_bytes: 100_000,
};

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

/// A volume with everything in it that a tenant may lay out, and a secret beside it.
fn trapped() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "s").unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    drop(UnixListener::bind(dir.path().join("outside/socket")).unwrap());
    let volume = dir.path().join("volume");
    fs::create_dir_all(volume.join("sub/deeper")).unwrap();
    fs::write(volume.join("sub/file"), "data").unwrap();
    symlink("../secret", volume.join("link")).unwrap();
    symlink("../outside", volume.join("out")).unwrap();
    symlink("sub", volume.join("in")).unwrap();
    symlink("/dev/zero", volume.join("zero")).unwrap();
    symlink("/proc/self/root", volume.join("magic")).unwrap();
    rustix::fs::mkfifoat(CWD, volume.join("pipe"), Mode::RWXU).unwrap();
    // The socket's file stays when its listener goes.
    drop(UnixListener::bind(volume.join("socket")).unwrap());
    let root = Root::open(&volume).unwrap();
    (dir, root)
}

#[test]
fn only_files_and_directories_are_opened_and_no_link_is_followed() {
    let (_dir, root) = trapped();
    let mut text = String::new();
    let (mut file, size) = root.file(&path("sub/file")).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), size), ("data", 4));
    assert_eq!(root.text(&path("sub/file"), 3).unwrap(), "dat");
    for trap in [
        "link",
        "zero",
        "pipe",
        "socket",
        "magic",
        "sub",
        "in/file",
        "out/x",
        "magic/etc/passwd",
    ] {
        assert!(root.file(&path(trap)).is_err(), "{trap}");
    }
    for trap in [
        "link", "zero", "pipe", "socket", "sub", "in/file", "out/new",
    ] {
        assert!(root.writable(&path(trap)).is_err(), "{trap}");
    }
    for trap in ["in", "out", "magic", "pipe", "sub/file"] {
        assert!(root.directory(&path(trap)).is_err(), "{trap}");
        assert!(root.make_directory(&path(trap)).is_err(), "{trap}");
    }
    for trap in ["link", "sub/file", "out/socket", "zero", "pipe"] {
        assert!(root.socket(&path(trap)).is_err(), "{trap}");
    }
    assert!(root.socket(&path("socket")).is_ok());
}

#[test]
fn a_walk_meets_everything_once_in_order_and_enters_no_link() {
    let (_dir, root) = trapped();
    let mut met = Vec::new();
    root.walk(LIMITS, &mut |found| {
        met.push((found.path, found.kind));
        Ok(())
    })
    .unwrap();
    let wanted = [
        ("", Kind::Directory),
        ("in", Kind::Other("link")),
        ("link", Kind::Other("link")),
        ("magic", Kind::Other("link")),
        ("out", Kind::Other("link")),
        ("pipe", Kind::Other("pipe")),
        ("socket", Kind::Other("socket")),
        ("sub", Kind::Directory),
        ("sub/deeper", Kind::Directory),
        (
            "sub/file",
            Kind::File {
                size: 4,
                linked: false,
            },
        ),
        ("zero", Kind::Other("link")),
    ];
    assert_eq!(met, wanted.map(|(text, kind)| (path(text), kind)));
    assert!(met.is_sorted_by(|a, b| a.0 < b.0), "in the order of paths");
    for limits in [
        Limits {
            entries: 10,
            ..LIMITS
        },
        Limits {
            path_bytes: 40,
            ..LIMITS
        },
    ] {
        assert!(root.walk(limits, &mut |_| Ok(())).is_err());
    }
}

#[test]
fn removing_a_tree_leaves_what_its_links_point_to() {
    let (dir, root) = trapped();
    fs::write(dir.path().join("outside/kept"), "k").unwrap();
    for name in ["out", "link", "magic", "sub", "pipe", "socket", "gone"] {
        root.remove(&path(name)).unwrap();
    }
    assert!(root.remove(&RelPath::root()).is_err());
    assert!(dir.path().join("outside/kept").exists() && dir.path().join("secret").exists());
    assert_eq!(fs::read_dir(dir.path().join("volume")).unwrap().count(), 2);
}

#[test]
fn what_is_written_gets_its_rights_and_time_and_two_names_of_one_file_are_refused() {
    let (dir, root) = trapped();
    root.make_directory(&path("new")).unwrap();
    root.make_directory(&path("new")).unwrap();
    let mut file = root.writable(&path("new/file")).unwrap();
    file.write_all(b"x").unwrap();
    let own = meta(&file).unwrap();
    let wanted = Meta {
        mode: 0o640,
        mtime_ns: -1,
        ..own
    };
    set_meta(
        &file,
        &Meta {
            mode: 0o6640,
            ..wanted
        },
    )
    .unwrap();
    assert_eq!(meta(&file).unwrap(), wanted);
    let on_disk = fs::metadata(dir.path().join("volume/new/file")).unwrap();
    assert_eq!(on_disk.permissions().mode() & 0o7777, 0o640);
    assert_eq!((on_disk.mtime(), on_disk.mtime_nsec()), (-1, 999_999_999));
    fs::hard_link(
        dir.path().join("secret"),
        dir.path().join("volume/new/second"),
    )
    .unwrap();
    assert!(root.writable(&path("new/second")).is_err());
    sync(root.directory(&RelPath::root()).unwrap()).unwrap();
    let (free, total) = root.space().unwrap();
    assert!(free <= total && total > 0);
}

#[test]
fn a_directory_swapped_for_a_link_while_it_is_walked_leads_nowhere() {
    let (dir, root) = trapped();
    let volume = dir.path().join("volume");
    let mut met = 0;
    let walked = root.walk(LIMITS, &mut |found| {
        met += 1;
        if found.path == path("sub") {
            fs::rename(volume.join("sub"), volume.join("moved")).unwrap();
            symlink("../outside", volume.join("sub")).unwrap();
        }
        Ok(())
    });
    assert!(walked.is_err() && met < 11);
}

#[test]
fn the_root_of_a_process_is_its_own() {
    let pid = i32::try_from(std::process::id()).unwrap();
    let root = Root::of_process(pid).unwrap();
    assert!(root.socket(&path("proc")).is_err());
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().canonicalize().unwrap().join("s");
    let _listener = UnixListener::bind(&place).unwrap();
    let below = place.to_str().unwrap().trim_start_matches('/');
    assert!(root.socket(&path(below)).is_ok());
}

#[test]
fn what_no_attempt_can_mend_is_known_as_such() {
    probe().unwrap();
    for (errno, for_good) in [
        (rustix::io::Errno::NOSYS, true),
        (rustix::io::Errno::XDEV, true),
        (rustix::io::Errno::IO, false),
        (rustix::io::Errno::LOOP, false),
    ] {
        assert_eq!(is_for_good(&errno.into()), for_good, "{errno}");
    }
}

/// With `RestrictSUIDSGID=` systemd answers `openat2` with ENOSYS; without the capability no `/proc/<pid>/root` opens.
#[test]
fn the_shipped_unit_lets_the_agent_open_tenants_files() {
    let unit = include_str!("../../../../docs/deploy/isy-agent.service");
    assert!(!unit.lines().any(|l| l.starts_with("RestrictSUIDSGID")));
    let set = unit
        .lines()
        .find(|l| l.starts_with("CapabilityBoundingSet="));
    assert!(set.is_some_and(|set| set.contains("CAP_SYS_PTRACE")));
}

#[test]
fn a_survey_sees_everything_once_and_opens_files_only() {
    let (_dir, root) = trapped();
    let (mut seen, mut opened, mut directories) = (Vec::new(), 0, 0);
    let mut entered = |_: BorrowedFd<'_>| {
        directories += 1;
        Ok(())
    };
    root.survey(&mut entered, &mut |entry| {
        seen.push(entry.name.to_string_lossy().into_owned());
        opened += usize::from(entry.file()?.is_some());
        Ok(())
    })
    .unwrap();
    seen.sort();
    let all = [
        "deeper", "file", "in", "link", "magic", "out", "pipe", "socket", "sub", "zero",
    ];
    assert_eq!(
        (seen, opened, directories),
        (all.map(str::to_owned).to_vec(), 1, 3)
    );
}

/// Each level alone is within the bounds; what a walk holds of all of them together must be, too.
#[test]
fn the_names_of_all_levels_are_bounded_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut at = dir.path().to_owned();
    for _ in 0..10 {
        for number in 0..10 {
            fs::write(at.join(format!("{number}{}", "x".repeat(200))), "").unwrap();
        }
        at = at.join("!"); // before the others
        fs::create_dir(&at).unwrap();
    }
    let root = Root::open(dir.path()).unwrap();
    let walk = |path_bytes| {
        let limits = Limits {
            entries: 1_000,
            path_bytes,
        };
        let mut met = 0;
        let walked = root.walk(limits, &mut |_| {
            met += 1;
            Ok(())
        });
        (walked.is_ok(), met)
    };
    assert_eq!(walk(100_000), (true, 111));
    // The paths met before the last level's names are few bytes, all levels' names together some 20,000: it ends on the way
    // down, before any file was met.
    let (walked, met) = walk(15_000);
    assert!(!walked && met < 10, "{met}");
}

/// Where temporary files are on a btrfs (`TMPDIR`). Fails when a tenant's read-only subvolume is in the way of what is to be removed.
#[test]
fn a_read_only_subvolume_is_removed_like_any_directory() {
    let dir = tempfile::tempdir().unwrap();
    if !rustix::fs::statfs(dir.path()).is_ok_and(|found| btrfs::is_btrfs(&found)) {
        return println!("not run: temporary files are not on a btrfs");
    }
    let at = |path: &str| dir.path().join(path).display().to_string();
    let make = |words: &[&str]| {
        let words = ["subvolume"].iter().chain(words);
        let words: Vec<_> = words.map(std::ffi::OsStr::new).collect();
        btrfs::btrfs(&words).unwrap();
    };
    fs::create_dir(at("d")).unwrap();
    make(&["create", &at("d/a")]);
    fs::write(at("d/a/f"), "data").unwrap();
    make(&["snapshot", "-r", &at("d/a"), &at("d/b")]);
    let root = Root::open(dir.path()).unwrap();
    root.remove(&path("d")).unwrap();
    assert!(!dir.path().join("d").exists());
}

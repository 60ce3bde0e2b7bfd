//! A source that fails leaves no snapshot, and what failed is named.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use isyone_backup::{
    Error, Pace, Part, Purpose,
    source::{Plain, Program, WhyLeftOut},
};

use crate::support::{World, contents, label, noise, open, stream, target};

/// Gives bytes, and then an error.
struct FailsAfter(usize);

impl Read for FailsAfter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.0);
        self.0 -= length;
        match length {
            0 => Err(io::Error::other("the link was cut")),
            length => {
                buffer[..length].fill(7);
                Ok(length)
            }
        }
    }
}

fn fails(world: &World, parts: Vec<Part>, path: &str) -> String {
    let result = world
        .repository
        .write(&label(Purpose::Base, 0), parts, None, &world.job);
    assert_eq!(world.names(), [], "no snapshot is left");
    match result {
        Err(Error::Source { path: said, source }) => {
            assert_eq!(said, path);
            source.to_string()
        }
        other => panic!("{other:?}"),
    }
}

fn sh(script: &str) -> Part {
    let script = script.to_owned();
    Part::stream("database.tar", move || {
        Program::start(Command::new("sh").args(["-c", &script]))
    })
}

#[test]
fn a_program_that_exits_with_0_is_a_part() {
    let world = World::new();
    let snapshot = world.write(&label(Purpose::Base, 0), vec![sh("seq 100000")]);
    let content = world.read(&snapshot, "database.tar");
    assert!(content.ends_with(b"99999\n100000\n"), "{}", content.len());
}

#[test]
fn a_producer_that_dies_leaves_no_snapshot() {
    let world = World::new();
    let more = || Part::bytes("manifest.json", "{}");
    let said = fails(
        &world,
        vec![sh("seq 300000; echo no room >&2; exit 3"), more()],
        "database.tar",
    );
    assert!(
        said.contains("exit status: 3") && said.contains("no room"),
        "{said}"
    );
    let said = fails(&world, vec![sh("seq 300000; kill -9 $$")], "database.tar");
    assert!(said.contains("signal: 9"), "{said}");
    let said = fails(&world, vec![sh("exit 1"), more()], "database.tar");
    assert!(said.contains("exit status: 1"), "{said}");
    let cut = Part::stream("database.tar", || Ok(Plain(FailsAfter(9_000_000))));
    let said = fails(&world, vec![cut, more()], "database.tar");
    assert_eq!(said, "the link was cut");
    let none = Part::stream("database.tar", || {
        Program::start(&mut Command::new("/no/such/program"))
    });
    fails(&world, vec![none], "database.tar");
    world.write(&label(Purpose::Base, 0), vec![sh("true")]);
}

#[test]
fn a_file_that_cannot_be_opened_leaves_no_snapshot() {
    let world = World::new();
    let filestore = world.filestore(30);
    let (name, _) = contents(&filestore).swap_remove(11);
    let part = || vec![Part::folder("filestore", open(&filestore))];
    fs::set_permissions(filestore.join(&name), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(filestore.join(&name)).is_err() {
        fails(&world, part(), &format!("filestore/{}", name.display()));
    } else {
        eprintln!("SKIPPED: root may open everything; the next test is for root as well");
    }
}

/// The kernel has files that can be opened and not read: loopback has no speed.
#[test]
fn a_file_that_cannot_be_read_leaves_no_snapshot() {
    let folder = Path::new("/sys/devices/virtual/net/lo");
    if fs::read(folder.join("speed")).is_ok() || !folder.join("speed").exists() {
        eprintln!("SKIPPED: there is no file here that cannot be read");
        return;
    }
    let world = World::new();
    let names = ["mtu", "speed"].map(Into::into).to_vec();
    let part = vec![
        Part::entries("filestore", open(folder), names),
        Part::bytes("manifest.json", "{}"),
    ];
    // `mtu` is shorter than the kernel says, which is a failure as well: whichever is met first.
    let result = world
        .repository
        .write(&label(Purpose::Base, 0), part, None, &world.job);
    assert!(
        matches!(&result, Err(Error::Source { path, .. }) if path.starts_with("filestore/")),
        "{result:?}"
    );
    assert_eq!(world.names(), []);
    let part = vec![Part::entries(
        "filestore",
        open(folder),
        vec!["speed".into()],
    )];
    fails(&world, part, "filestore/speed");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_leaves_no_snapshot() {
    let world = World::new();
    let file = world.path("wal/000000010000000000000001");
    crate::support::write(&file, &noise(3, 64 << 20));
    let shrinks = Part::folder("wal", open(&world.path("wal")));
    let stop = Arc::new(AtomicBool::new(false));
    let (told, path) = (stop.clone(), file);
    let shrinker = std::thread::spawn(move || {
        let mut length = 60 << 20;
        while !told.load(Ordering::Relaxed) && length > 0 {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(length).unwrap();
            length -= 1 << 20;
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut job = world.job.clone();
    job.source = vec![Arc::new(Pace::new(40 << 20))];
    let result = world
        .repository
        .write(&label(Purpose::Increment, 0), vec![shrinks], None, &job);
    stop.store(true, Ordering::Relaxed);
    shrinker.join().unwrap();
    // Where the shrinking was over before the file was listed, it is as it was listed.
    if let Ok(written) = &result {
        let snapshot = world.repository.snapshot(written.snapshot).unwrap();
        let reader = world.repository.reader(&world.job).unwrap();
        let bytes = reader.measure(&snapshot, "wal").unwrap().bytes;
        assert_eq!(bytes, written.bytes);
    } else {
        assert!(matches!(result, Err(Error::Source { .. })), "{result:?}");
        assert_eq!(world.names(), []);
    }
}

#[test]
fn a_folder_that_is_too_deep_leaves_no_snapshot() {
    let world = World::new();
    let deep = "d/".repeat(40);
    crate::support::write(&world.path("filestore").join(deep).join("f"), b"x");
    let part = vec![Part::folder("filestore", open(&world.path("filestore")))];
    let path = format!("filestore{}", "/d".repeat(32));
    let said = fails(&world, part, &path);
    assert_eq!(said, "too deep");
}

#[test]
fn links_and_pipes_are_not_followed_but_said() {
    let world = World::new();
    let filestore = world.filestore(5);
    symlink("/etc/passwd", filestore.join("00/link")).unwrap();
    symlink("/etc", filestore.join("etc")).unwrap();
    let made = Command::new("mkfifo").arg(filestore.join("pipe")).status();
    assert!(made.unwrap().success());
    let part = vec![Part::folder("filestore", open(&filestore))];
    let written = world
        .repository
        .write(&label(Purpose::Increment, 0), part, None, &world.job)
        .unwrap();
    let special = |path: &str| (path.to_owned(), WhyLeftOut::Special);
    assert_eq!(written.files, 5);
    assert_eq!(
        written.left_out.first,
        [
            special("filestore/00/link"),
            special("filestore/etc"),
            special("filestore/pipe")
        ]
    );
    let snapshot = world.repository.snapshot(written.snapshot).unwrap();
    let reader = world.repository.reader(&world.job).unwrap();
    reader
        .restore(&snapshot, "filestore", &target(&world.path("new")))
        .unwrap();
    assert_eq!(contents(&world.path("new")).len(), 5);
}

#[test]
fn what_vanishes_between_listing_and_reading_is_said() {
    let world = World::new();
    let filestore = world.filestore(5);
    let names = ["00", "none"].map(Into::into).to_vec();
    let part = vec![Part::entries("filestore", open(&filestore), names)];
    let written = world
        .repository
        .write(&label(Purpose::Increment, 0), part, None, &world.job)
        .unwrap();
    assert_eq!(
        (written.files, &written.left_out.first[..]),
        (
            1,
            &[("filestore/none".to_owned(), WhyLeftOut::Vanished)][..]
        )
    );
}

/// "Database first, then the files": a part begins when the one before has ended, not when there is a processor for it.
#[test]
fn parts_are_read_one_after_the_other() {
    let world = World::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    struct Slow(Arc<Mutex<Vec<&'static str>>>, usize);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(20));
            if self.1 == 0 {
                self.0.lock().unwrap().push("end of the database");
                return Ok(0);
            }
            self.1 -= 1;
            buffer[0] = 7;
            Ok(1)
        }
    }
    let filestore = world.filestore(3);
    let (slow, begun) = (order.clone(), order.clone());
    let new_file = filestore.join("00/new");
    let parts = vec![
        Part::stream("manifest.json", move || {
            begun.lock().unwrap().push("begin of the manifest");
            Ok(Plain(io::Cursor::new("{}")))
        }),
        Part::folder("filestore", open(&filestore)),
        Part::stream("database.tar", move || {
            // A file that Odoo adds while the database is read must be among the files.
            fs::write(new_file, b"new").unwrap();
            Ok(Plain(Slow(slow, 10)))
        }),
    ];
    let snapshot = world.write(&label(Purpose::Base, 0), parts);
    let expected = ["end of the database", "begin of the manifest"];
    assert_eq!(order.lock().unwrap()[..], expected);
    assert_eq!(world.read(&snapshot, "filestore/00/new"), b"new");
    assert_eq!(world.read(&snapshot, "database.tar"), [7; 10]);
}

#[test]
fn a_job_that_is_stopped_leaves_no_snapshot_and_does_not_wait() {
    let world = World::new();
    let mut job = world.job.clone();
    job.source = vec![Arc::new(Pace::new(1000))];
    let stop = job.stop.clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        stop.stop();
    });
    let start = Instant::now();
    let parts = vec![stream("database.tar", noise(1, 1_000_000))];
    let result = world
        .repository
        .write(&label(Purpose::Base, 0), parts, None, &job);
    stopper.join().unwrap();
    assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(world.names(), []);
}

#[test]
fn a_rate_is_held() {
    let world = World::new();
    let mut job = world.job.clone();
    job.source = vec![Arc::new(Pace::new(2_000_000))];
    let start = Instant::now();
    let parts = vec![stream("database.tar", noise(1, 3_000_000))];
    world
        .repository
        .write(&label(Purpose::Base, 0), parts, None, &job)
        .unwrap();
    // Half a second's worth goes at once.
    assert!(start.elapsed() >= Duration::from_millis(900));
}

#[test]
fn chosen_files_are_in_the_snapshot_with_their_folders_and_nothing_else() {
    let world = World::new();
    let root = world.filestore(20);
    let names: Vec<_> = [3, 10]
        .map(|n: u64| format!("{:02x}/{:040x}", n % 7, n.wrapping_mul(0x9E37_79B9)))
        .into();
    let paths = || names.iter().map(std::path::Path::new);
    let part = Part::paths("filestore", open(&root), paths());
    let written =
        world
            .repository
            .write(&label(Purpose::Increment, 0), vec![part], None, &world.job);
    let written = written.unwrap();
    assert_eq!(written.files, 2);
    let snapshot = world.repository.snapshot(written.snapshot).unwrap();
    for name in &names {
        let kept = world.read(&snapshot, &format!("filestore/{name}"));
        assert_eq!(kept, std::fs::read(root.join(name)).unwrap());
    }
    // One that is not there any more, and ways out.
    for (odd, is_fine) in [
        ("00/none", true),
        ("../x", false),
        ("00/../../x", false),
        ("/etc", false),
    ] {
        let part = Part::paths("filestore", open(&root), [std::path::Path::new(odd)]);
        let written =
            world
                .repository
                .write(&label(Purpose::Increment, 1), vec![part], None, &world.job);
        assert_eq!(written.is_ok(), is_fine, "{odd}: {written:?}");
    }
}

#[test]
fn names_of_parts_are_one_step_and_different() {
    let world = World::new();
    for wrong in ["", ".", "..", "a/b", "/a", "a\nb", "a\"b"] {
        let parts = vec![Part::bytes(wrong, "x")];
        let result = world
            .repository
            .write(&label(Purpose::Base, 0), parts, None, &world.job);
        assert!(matches!(result, Err(Error::PartName(_))), "{wrong:?}");
    }
    let parts = vec![Part::bytes("a", "x"), Part::bytes("a", "y")];
    let result = world
        .repository
        .write(&label(Purpose::Base, 0), parts, None, &world.job);
    assert!(matches!(result, Err(Error::PartName(_))));
}

//! Much data: memory stays bounded, and every byte comes back.

use std::{
    io::{self, Read},
    path::Path,
    process::Command,
};

use isyone_backup::{Part, Purpose, Share, source::Plain};

use crate::support::{World, label, open, stream};

/// How much, in megabytes: enough to see that memory does not grow with it.
const SMALL_MB: u64 = 96;

/// Bytes that neither compress nor repeat, made as they are read.
struct Noise {
    state: u64,
    left: u64,
}

impl Noise {
    const fn new(seed: u64, bytes: u64) -> Self {
        Self {
            state: seed | 1,
            left: bytes,
        }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        for chunk in buffer[..length].chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes()[..chunk.len()]);
        }
        self.left -= length as u64;
        Ok(length)
    }
}

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() / 1024
}

/// Backs up `mb` megabytes, restores and verifies them in this process, and says what its memory came to.
fn run(mb: u64, files: &Path) -> String {
    let world = World::new();
    let before = status("VmRSS:");
    let bytes = mb << 20;
    let start = std::time::Instant::now();
    let parts = vec![
        Part::stream("database.tar", move || Ok(Plain(Noise::new(7, bytes / 2)))),
        Part::folder("filestore", open(files)),
    ];
    let snapshot = world.write(&label(Purpose::Base, 0), parts);
    let (wrote, peak_written) = (start.elapsed(), status("VmHWM:"));
    let reader = world.repository.reader(&world.job).unwrap();
    let target = crate::support::target(&world.path("new"));
    let restored = reader.restore(&snapshot, "", &target).unwrap();
    let report = world.repository.verify(Share::All, &world.job).unwrap();
    assert!(report.is_good(), "{report:?}");
    assert!(restored.bytes >= bytes * 9 / 10, "{restored:?}");
    format!(
        "{} MB, {} files: written in {:.1} s; at most {} MB of memory while writing, {} in the end, {before} before",
        restored.bytes >> 20,
        restored.files,
        wrote.as_secs_f32(),
        peak_written,
        status("VmHWM:")
    )
}

/// In a process of its own: the other tests' memory is none of it.
#[test]
fn memory_does_not_grow_with_the_data() {
    let mb = std::env::var("ISYONE_BACKUP_MB").map_or(SMALL_MB, |mb| mb.parse().unwrap());
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "many::child", "--nocapture"])
        .env("ISYONE_BACKUP_CHILD", mb.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{output:?}");
    let line = said.lines().find(|line| line.contains("at most"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    eprintln!("{line}");
    let peak = line.split("at most ").nth(1).unwrap();
    let peak: u64 = peak.split(' ').next().unwrap().parse().unwrap();
    assert!(peak <= 200, "{line}");
}

/// Half of [`memory_does_not_grow_with_the_data`]; by itself it does nothing.
#[test]
fn child() {
    let Ok(mb) = std::env::var("ISYONE_BACKUP_CHILD") else {
        return;
    };
    let mb: u64 = mb.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Half of it in files, of 500 kB as Odoo's are.
    for n in 0..mb {
        let path = folder.path().join(format!("{:02x}/{n:040x}", n % 256));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = std::fs::File::create(path).unwrap();
        io::copy(&mut Noise::new(n * 2 + 100, 1 << 19), &mut file).unwrap();
    }
    println!("{}", run(mb, folder.path()));
}

#[test]
fn two_backups_at_once_into_one_repository() {
    let world = World::new();
    let write = |seed: u64, seconds| {
        let parts = vec![
            Part::stream("database.tar", move || {
                Ok(Plain(Noise::new(seed, 5_000_000)))
            }),
            stream("same", crate::support::noise(1, 2_000_000)),
        ];
        world.write(&label(Purpose::Base, seconds), parts)
    };
    let both = std::thread::scope(|scope| {
        let both = [5, 6].map(|seed| scope.spawn(move || write(seed, seed.cast_signed())));
        both.map(|thread| thread.join().unwrap())
    });
    assert_eq!(world.names(), both.map(|snapshot| snapshot.name));
    let report = world.repository.verify(Share::All, &world.job).unwrap();
    assert!(report.is_good(), "{report:?}");
    world.restic(&["check", "--read-data"]);
}

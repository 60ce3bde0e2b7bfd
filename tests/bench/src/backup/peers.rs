//! What somebody would do without isyone: Debian's `restic`, and `pg_dump | zstd`, each into a directory of this machine.
//!
//! Not here: isyone's side (ours).

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::process::run;

use super::{
    Side,
    cost::{Around, Cost, grown, size_of},
    data::{DATABASE, Data},
};
use crate::{metrics::children, process::Watched};

/// How often the most memory of a running program is read. It never shrinks, so only what came in the last of these is missed.
const LOOK: Duration = Duration::from_millis(10);
const PASSWORD: &str = "bench";

/// What both of them have.
struct Place<'a> {
    data: &'a Data,
    around: &'a Around,
    folder: PathBuf,
}

impl Place<'_> {
    /// Measures `work`, which returns its largest program's memory and where it has stored.
    fn measured(&self, into: &Path, work: impl FnOnce() -> Result<u64>) -> Result<Cost> {
        let before = size_of(into)?;
        let (own, around) = (children()?, self.around.cpu()?);
        let begin = Instant::now();
        let memory = work()?;
        let took = begin.elapsed();
        Ok(Cost {
            took,
            own: children()?.saturating_sub(own),
            around: self.around.cpu()?.saturating_sub(around),
            memory,
            keeper_memory: None,
            stored: grown(into, before)?,
        })
    }
}

/// The most memory that a program has until it ends, which it must do well.
fn until_end(mut child: Child, name: &str) -> Result<u64> {
    let watched = Watched::new(child.id())?;
    let mut most = 0;
    loop {
        most = most.max(watched.peak().unwrap_or(0)); // one that has just ended has none
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{name}: {status}");
            return Ok(most);
        }
        sleep(LOOK);
    }
}

/// Runs `from | into`; both must end well. The memory of the second.
fn piped(mut from: Command, mut into: Command, name: &str) -> Result<u64> {
    let mut first = from
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{from:?}"))?;
    let output = first.stdout.take().context("its output")?;
    // Ours is dropped with it: who writes into nothing ends.
    let second = into.stdin(output).stdout(Stdio::null()).spawn();
    let most = second
        .with_context(|| format!("{into:?}"))
        .and_then(|second| until_end(second, name));
    let ended = first.wait()?;
    let most = most?;
    ensure!(ended.success(), "{from:?}: {ended}");
    Ok(most)
}

/// Debian's restic, of the same stream of PostgreSQL's and the same files: two snapshots, because it takes a stream or files.
pub(super) struct Restic<'a> {
    place: Place<'a>,
    number: u32,
}

impl<'a> Restic<'a> {
    pub(super) fn new(data: &'a Data, around: &'a Around, folder: PathBuf) -> Result<Self> {
        let version = run(Command::new("restic").arg("version"));
        ensure!(version.code == 0, "restic: {}", version.stderr);
        let place = Place {
            data,
            around,
            folder,
        };
        Ok(Self { place, number: 0 })
    }

    pub(super) fn version() -> String {
        let version = run(Command::new("restic").arg("version")).stdout;
        version
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn repository(&self) -> PathBuf {
        self.place.folder.join(format!("restic-{}", self.number))
    }

    fn restic(&self, words: &[&str]) -> Command {
        let mut restic = Command::new("restic");
        restic
            .args(["--quiet", "--repo"])
            .arg(self.repository())
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_CACHE_DIR", self.place.folder.join("restic-cache"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        restic
    }

    fn back_up(&self) -> Result<u64> {
        let base = [
            "pg_basebackup",
            "-D",
            "-",
            "-F",
            "tar",
            "-X",
            "fetch",
            "-c",
            "fast",
            "-U",
            "postgres",
            "-w",
        ];
        let database = piped(
            self.place.data.in_postgres(&base),
            self.restic(&["backup", "--stdin", "--stdin-filename", "database.tar"]),
            "restic",
        )?;
        let mut files = self.restic(&["backup"]);
        let files = files.arg(&self.place.data.filestore).spawn()?;
        Ok(database.max(until_end(files, "restic")?))
    }
}

impl Side for Restic<'_> {
    fn first(&mut self) -> Result<Cost> {
        self.number += 1;
        self.place.measured(&self.repository(), || {
            let made = self.restic(&["init"]).status()?;
            ensure!(made.success(), "restic init: {made}");
            self.back_up()
        })
    }

    fn again(&mut self) -> Result<Cost> {
        self.place.measured(&self.repository(), || self.back_up())
    }
}

/// A dump and an archive of the files, whole each time.
pub(super) struct Dump<'a> {
    place: Place<'a>,
    number: u32,
}

impl<'a> Dump<'a> {
    pub(super) fn new(data: &'a Data, around: &'a Around, folder: PathBuf) -> Self {
        let place = Place {
            data,
            around,
            folder,
        };
        Self { place, number: 0 }
    }

    fn zstd(&self, name: &str) -> Command {
        let mut zstd = Command::new("zstd");
        let name = format!("{name}-{}.zst", self.number);
        zstd.args(["-q", "-o"])
            .arg(self.place.folder.join("dumps").join(name));
        zstd
    }
}

impl Side for Dump<'_> {
    fn first(&mut self) -> Result<Cost> {
        self.number += 1;
        let folder = self.place.folder.join("dumps");
        std::fs::create_dir_all(&folder)?;
        let data = self.place.data;
        self.place.measured(&folder, || {
            let dump = data.in_postgres(&["pg_dump", "-U", "postgres", "-w", "-d", DATABASE]);
            let database = piped(dump, self.zstd("database.sql"), "zstd")?;
            let mut tar = Command::new("tar");
            tar.arg("-C").arg(&data.filestore).args(["-cf", "-", "."]);
            Ok(database.max(piped(tar, self.zstd("files.tar"), "zstd")?))
        })
    }

    /// It knows nothing of what was before.
    fn again(&mut self) -> Result<Cost> {
        self.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]);
        sh
    }

    #[test]
    fn a_pipe_counts_only_when_both_ends_ended_well() {
        let well = piped(shell("echo a"), shell("cat; sleep 0.1"), "cat").unwrap();
        assert!(well > 100_000, "{well} bytes");
        assert!(piped(shell("echo a; exit 1"), shell("cat"), "cat").is_err());
        assert!(piped(shell("echo a"), shell("cat; exit 1"), "cat").is_err());
    }
}

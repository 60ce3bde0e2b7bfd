//! What one backup costs: its time, processor time and memory of the programs that make it, processor time of those around them, and what
//! it adds to where it goes.
//!
//! Not here: who makes it (ours, peers), what becomes of the figures (the parent).

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use isyone_agent::metrics::containers::{Reader, Subject};
use isyone_tests::e2e::cell::Cell;

use crate::{metrics::Engine, samples::Samples};

/// One backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) took: Duration,
    /// Processor time of the programs that make it.
    pub(super) own: Duration,
    /// Processor time of PostgreSQL's container and the engine meanwhile.
    pub(super) around: Duration,
    /// The most memory that the largest of its programs had at a time.
    pub(super) memory: u64,
    /// The same of the program that keeps it, where that is another one.
    pub(super) keeper_memory: Option<u64>,
    /// Bytes that it added to where it went.
    pub(super) stored: u64,
}

/// Costs of several backups, each quantity by itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Costs {
    pub(super) took: Samples,
    pub(super) own: Samples,
    /// With PostgreSQL and the engine.
    pub(super) all: Samples,
    pub(super) memory: Samples,
    pub(super) keeper_memory: Samples,
    pub(super) stored: Samples,
}

impl Costs {
    pub(super) fn push(&mut self, cost: &Cost) {
        self.took.push(cost.took.as_secs_f64());
        self.own.push(cost.own.as_secs_f64());
        self.all.push((cost.own + cost.around).as_secs_f64());
        self.memory.push(cost.memory as f64);
        if let Some(memory) = cost.keeper_memory {
            self.keeper_memory.push(memory as f64);
        }
        self.stored.push(cost.stored as f64);
    }
}

/// What works for a backup whoever makes it: the tenant's PostgreSQL, and the engine that its output goes through.
pub(super) struct Around {
    engine: Engine,
    postgres: Subject,
}

impl Around {
    pub(super) fn of(cell: &Cell, tenant: &str) -> Result<Self> {
        let container = format!("postgres_{tenant}");
        let field = |format: &str| cell.hosts[0].docker.inspect(&container, format);
        let pid = field("{{.State.Pid}}").parse().context("no process")?;
        Ok(Self {
            engine: Engine::of(cell),
            postgres: Subject {
                id: field("{{.Id}}"),
                pid,
                ..Subject::default()
            },
        })
    }

    /// Processor time so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let measured = Reader::default().measure(vec![self.postgres.clone()]);
        let postgres = measured.first().context("PostgreSQL does not run")?;
        Ok(self.engine.cpu()? + Duration::from_secs_f64(postgres.figures.cpu_s))
    }
}

/// Bytes of all files below a directory; none where there is none.
pub(super) fn size_of(directory: &Path) -> Result<u64> {
    if !directory.exists() {
        return Ok(0);
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        // A file under another name while it is written may be gone by now.
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        bytes += match meta.is_dir() {
            true => size_of(&path)?,
            false => meta.len(),
        };
    }
    Ok(bytes)
}

/// What a directory has grown by.
pub(super) fn grown(directory: &Path, before: u64) -> Result<u64> {
    let after = size_of(directory)?;
    ensure!(after > before, "{} has not grown", directory.display());
    Ok(after - before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_as_large_as_all_its_files_and_one_that_is_not_there_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(size_of(&dir.path().join("none")).unwrap(), 0);
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), [7; 1_000]).unwrap();
        std::fs::write(dir.path().join("d"), [7; 10]).unwrap();
        assert_eq!(size_of(dir.path()).unwrap(), 1_010);
        assert_eq!(grown(dir.path(), 10).unwrap(), 1_000);
        assert!(grown(dir.path(), 1_010).is_err());
    }
}

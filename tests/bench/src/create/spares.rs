//! The copies of the snapshot that the agent makes before anybody asks for a tenant: waits until it has made them, and takes them
//! away, so that a create has to copy while its clock runs.
//!
//! Not here: which creates are compared (the parent).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::cell::Cell;

use super::PATIENCE;

/// The agent's folder in Docker's data directory.
const FOLDER: &str = "isyone-spares";
/// Prefix of what the agent is copying, or removing.
const HALF: &str = "half-";
/// When nothing has changed for so long, no copy is missing: the agent begins one a second after it has become idle.
const STILL: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Spares {
    /// `None`: stand-ins have no snapshot, so there is nothing to copy.
    folder: Option<PathBuf>,
}

impl Spares {
    /// Those of the cell's host; `real`: tenants have databases.
    pub(super) fn new(cell: &Cell, real: bool) -> Result<Self> {
        if !real {
            return Ok(Self { folder: None });
        }
        let info = cell.hosts[0]
            .docker
            .run(&["info", "--format", "{{.DockerRootDir}}"]);
        ensure!(info.code == 0, "docker info: {}", info.stderr);
        Ok(Self {
            folder: Some(Path::new(info.stdout.trim()).join(FOLDER)),
        })
    }

    fn names(folder: &Path) -> Result<BTreeSet<String>> {
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            Ok(entry?.file_name().to_string_lossy().into_owned())
        };
        entries.map(name).collect()
    }

    /// Waits until the agent copies nothing and misses nothing: from then on it leaves the machine to what is measured.
    pub(super) fn settle(&self) -> Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let begin = Instant::now();
        let (mut seen, mut since) = (Self::names(folder)?, Instant::now());
        while since.elapsed() < STILL {
            ensure!(
                begin.elapsed() < PATIENCE,
                "the agent does not end copying: {seen:?}"
            );
            sleep(LOOK);
            let now = Self::names(folder)?;
            if now != seen || now.iter().any(|name| name.starts_with(HALF)) {
                (seen, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// Takes all away, once the agent has made them; it makes others only after the next create.
    pub(super) fn remove(&self) -> Result<()> {
        self.settle()?;
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        for name in Self::names(folder)? {
            std::fs::remove_dir_all(folder.join(name))?;
        }
        Ok(())
    }
}

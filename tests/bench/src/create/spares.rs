//! Spare copies of the snapshot, which the agent makes before anybody asks for a tenant: waits for them, or removes
//! them so that a create has to copy while it is being timed.
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

/// The agent's folder of copies in Docker's data directory.
const FOLDER: &str = "isyone/spares";
/// Name prefix of a copy in progress, or one being removed.
const HALF: &str = "half-";
/// After this long without a change no copy is missing: the agent starts one a second after it becomes idle.
const STILL: Duration = Duration::from_secs(2);
/// Pause between two checks.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Spares {
    /// `None` for stand-ins: they have no snapshot, so there is nothing to copy.
    folder: Option<PathBuf>,
}

impl Spares {
    /// The spares of the cell's host; `real` if tenants have databases.
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

    /// Waits until the agent is not copying and no copy is missing: from then on it does not disturb the measurement.
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

    /// Waits for the copies and removes them; the agent makes new ones only after the next create.
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

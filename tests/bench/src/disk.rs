//! Where benches keep their data (on a disk, below the results folder), and how long that disk takes to make a write
//! durable.
//!
//! Not in /tmp: on many systems it is in memory, where a commit costs nothing. Not here: what is written (each bench).

use std::{fs::File, io::Write as _, path::Path};

use anyhow::{Context as _, Result, bail};
use procfs::process::{MountInfo, Process};
use serde::{Deserialize, Serialize};

use crate::samples::{Samples, timed};

/// File systems in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// Number of durable writes to measure; enough for a median.
const SYNCS: usize = 21;
/// Data of each write: the size of an SQLite page.
const PAGE: [u8; 4_096] = [7; 4_096];

/// The disk that holds the benches' data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) file_system: String,
    /// Time for a write of 4 KiB and its fsync: median, in seconds.
    pub(crate) fsync_s: f64,
}

impl Disk {
    /// Puts all temporary files of this process into `folder`. Refuses a folder in memory, except in a small run, whose
    /// figures mean nothing.
    pub(crate) fn put_temporary_files_on(folder: &Path, small: bool) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let folder = folder.canonicalize()?;
        let mounts = Process::myself()?.mountinfo()?;
        let file_system = file_system(&folder, &mounts.0)
            .unwrap_or("unknown")
            .to_owned();
        if IN_MEMORY.contains(&file_system.as_str()) && !small {
            bail!(
                "{} is on {file_system}, in memory: what is measured there is not durable; choose a folder on a disk with --out",
                folder.display()
            );
        }
        if let Err(other) = tempfile::env::override_temp_dir(&folder) {
            bail!("temporary files are in {} already", other.display());
        }
        Ok(Self {
            file_system,
            fsync_s: fsync(&folder)?,
        })
    }

    /// The disk as reports show it.
    pub(crate) fn show(&self) -> String {
        format!(
            "{}, {:.2} ms for a write of 4 KiB with fsync",
            self.file_system,
            self.fsync_s * 1e3
        )
    }
}

/// The file system of the innermost mount that holds the folder; at the same mount point, the last mount hides the
/// others.
fn file_system<'a>(folder: &Path, mounts: &'a [MountInfo]) -> Option<&'a str> {
    let holds = mounts
        .iter()
        .filter(|mount| folder.starts_with(&mount.mount_point));
    holds
        .max_by_key(|mount| depth(&mount.mount_point))
        .map(|mount| mount.fs_type.as_str())
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

fn fsync(folder: &Path) -> Result<f64> {
    let mut file: File = tempfile::tempfile_in(folder)?;
    let mut taken = Samples::default();
    for _ in 0..SYNCS {
        let write = || {
            file.write_all(&PAGE)?;
            Ok(file.sync_all()?)
        };
        taken.push(timed(write)?.1.as_secs_f64());
    }
    Ok(taken.median())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_last_mount_counts() {
        let line = |point: &str, kind: &str| {
            MountInfo::from_line(&format!(
                "36 35 98:0 / {point} rw,noatime master:1 - {kind} /dev/x rw"
            ))
            .unwrap()
        };
        let mounts = [
            line("/tmp/a", "ext4"),
            line("/", "xfs"),
            line("/tmp", "ext4"),
            line("/tmp", "tmpfs"),
            line("/t", "btrfs"),
        ];
        let of = |path: &str| file_system(Path::new(path), &mounts);
        assert_eq!(
            [of("/tmp/b"), of("/tmp/a/b"), of("/var"), of("/tmpx")],
            [Some("tmpfs"), Some("ext4"), Some("xfs"), Some("xfs")]
        );
    }

    #[test]
    fn a_write_takes_time() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fsync(dir.path()).unwrap() > 0.0);
    }
}

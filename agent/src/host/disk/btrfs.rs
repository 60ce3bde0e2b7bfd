//! Btrfs: a tenant's volume is a subvolume, which the file system counts and can hold to a limit, where an operator has turned
//! its quotas on (`btrfs quota enable`). Works through the program `btrfs`. Blocking.
//!
//! Not here: when (measure).

use std::{io, path::Path};

use super::measure::{Held, Quota};
use crate::base::{
    btrfs::{SUBVOLUME, btrfs, is_btrfs},
    fsutil,
};

/// Quota groups of a btrfs.
#[derive(Debug)]
pub(super) struct Btrfs;

impl Btrfs {
    /// Whether a directory is on one.
    pub(super) fn is_at(directory: &Path) -> bool {
        rustix::fs::statfs(directory).is_ok_and(|found| is_btrfs(&found))
    }
}

impl Quota for Btrfs {
    fn make(&self, directory: &Path) -> io::Result<bool> {
        // Without quotas a subvolume would only keep spares from being renamed into it.
        let parent = directory.parent().unwrap_or(directory);
        if show(parent).is_none() {
            return Ok(false);
        }
        btrfs(&[
            "subvolume".as_ref(),
            "create".as_ref(),
            directory.as_os_str(),
        ])?;
        Ok(true)
    }

    fn used(&self, directory: &Path) -> Option<Held> {
        if fsutil::inode(directory).ok()? != SUBVOLUME {
            return None;
        }
        show(directory)
    }

    fn hold(&self, directory: &Path, bytes: u64) -> io::Result<()> {
        let bytes = bytes.to_string();
        btrfs(&[
            "qgroup".as_ref(),
            "limit".as_ref(),
            bytes.as_ref(),
            directory.as_os_str(),
        ])
        .map(drop)
    }
}

/// The quota group of the subvolume that a directory is in; `None` where there are no quotas.
fn show(directory: &Path) -> Option<Held> {
    let shown = btrfs(&[
        "qgroup".as_ref(),
        "show".as_ref(),
        "--raw".as_ref(),
        "-r".as_ref(),
        "-f".as_ref(),
        directory.as_os_str(),
    ]);
    match shown {
        Ok(text) => parse(&text),
        Err(e) => {
            tracing::debug!("no quota of {}: {e}", directory.display());
            None
        }
    }
}

/// The line of the subvolume's own group: its name, referenced and exclusive bytes, and the limit of the former.
fn parse(text: &str) -> Option<Held> {
    let own = text
        .lines()
        .find(|line| line.trim_start().starts_with("0/"))?;
    let mut words = own.split_ascii_whitespace().skip(1);
    let bytes = words.next()?.parse().ok()?;
    let limit = words.nth(1)?;
    Some(Held {
        bytes,
        limit: limit.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_prints_is_understood() {
        let new = "Qgroupid    Referenced    Exclusive Max referenced   Path\n\
                   --------    ----------    --------- --------------   ----\n\
                   0/257          4210688      4210688     1073741824   tenants/alfa/odoo\n";
        let held = Held {
            bytes: 4_210_688,
            limit: Some(1 << 30),
        };
        assert_eq!(parse(new), Some(held));
        let old = "qgroupid         rfer         excl     max_rfer\n\
                   --------         ----         ----     --------\n\
                   0/5             16384        16384         none\n";
        let free = Held {
            bytes: 16_384,
            limit: None,
        };
        assert_eq!(parse(old), Some(free));
        assert_eq!(parse("ERROR: quotas not enabled"), None);
    }
}

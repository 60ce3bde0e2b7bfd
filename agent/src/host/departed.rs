//! `departed` beside the plan's file: the epochs of tenants that the plan names no more, a line for each. It is only appended
//! to, so that a plan costs nothing for those of years; and written anew when most of its lines are of no more use.
//!
//! Not here: what is remembered and why (plan::held), when it is written (ledger).

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::base::fsutil;

/// File beside the plan's.
const FILE: &str = "departed";
/// Lines that may be of no more use before the file is written anew.
const SLACK: usize = 1_000;

/// The file.
#[derive(Debug)]
pub(super) struct Departed {
    path: PathBuf,
    lines: usize,
    /// Its end is not a whole line, or nobody knows: nothing can be appended to it.
    torn: bool,
}

impl Departed {
    /// Reads the one beside `plan`. A last line that is not whole was never relied on: the plan that it was for was not taken.
    /// The third value tells of lines within that cannot be read; they are left out.
    pub(super) fn open(plan: &Path) -> io::Result<(Self, BTreeMap<Uuid, u64>, Option<String>)> {
        let path = plan.with_file_name(FILE);
        let bytes = match fsutil::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            bytes => bytes?,
        };
        let mut epochs = BTreeMap::new();
        let (mut lines, mut odd) = (0, 0);
        let whole = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        for line in bytes[..whole].split_inclusive(|b| *b == b'\n') {
            lines += 1;
            match parse(line) {
                Some((uid, epoch)) => {
                    let seen: &mut u64 = epochs.entry(uid).or_default();
                    *seen = (*seen).max(epoch);
                }
                None => odd += 1,
            }
        }
        let warning = (odd > 0).then(|| {
            format!(
                "{odd} of {lines} lines of {} cannot be read: of these tenants, which have left, a copy would not be known to be old",
                path.display()
            )
        });
        let torn = whole < bytes.len();
        Ok((Self { path, lines, torn }, epochs, warning))
    }

    /// Adds those who leave, durably. `all`: what is then remembered.
    pub(super) fn add(
        &mut self,
        leavers: &[(Uuid, u64)],
        all: &BTreeMap<Uuid, u64>,
    ) -> io::Result<()> {
        if leavers.is_empty() {
            return Ok(());
        }
        let lines = self.lines + leavers.len();
        if self.torn || lines > 2 * all.len() + SLACK {
            let all = all.iter().map(|(uid, epoch)| (*uid, *epoch));
            let lines = all.len();
            fsutil::write_atomic(&self.path, text(all).as_bytes(), 0o600, true)?;
            (self.lines, self.torn) = (lines, false);
            return Ok(());
        }
        self.torn = true; // until it is known to be whole
        let text = text(leavers.iter().copied());
        fsutil::append(&self.path, text.as_bytes(), 0o600)?;
        (self.lines, self.torn) = (lines, false);
        Ok(())
    }
}

fn text(epochs: impl Iterator<Item = (Uuid, u64)>) -> String {
    let mut text = String::new();
    for (uid, epoch) in epochs {
        let _ = writeln!(text, "{uid} {epoch}"); // into memory
    }
    text
}

fn parse(line: &[u8]) -> Option<(Uuid, u64)> {
    let (uid, epoch) = str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
    Some((uid.parse().ok()?, epoch.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u64) -> Uuid {
        Uuid::from_u128(n.into())
    }

    #[test]
    fn what_was_added_is_read_again_and_a_torn_end_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let plan = dir.path().join("plan.json");
        let (mut file, mut all, warning) = Departed::open(&plan).unwrap();
        assert!(all.is_empty() && warning.is_none());
        for n in 0..5 {
            all.insert(uid(n), n + 1);
            file.add(&[(uid(n), n + 1)], &all).unwrap();
        }
        let path = dir.path().join("departed");
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let (mut file, mut found, warning) = Departed::open(&plan).unwrap();
            assert!(warning.is_none(), "{warning:?}");
            assert_eq!(
                found.len(),
                whole[..end].iter().filter(|b| **b == b'\n').count()
            );
            found.insert(uid(9), 9);
            file.add(&[(uid(9), 9)], &found).unwrap();
            let (_, again, warning) = Departed::open(&plan).unwrap();
            assert_eq!((again, warning), (found, None));
        }
        std::fs::write(&path, [b"oh\n", &whole[..]].concat()).unwrap();
        let (_, found, warning) = Departed::open(&plan).unwrap();
        assert_eq!(found, all);
        assert!(warning.unwrap().starts_with("1 of 6 lines"));
    }

    #[test]
    fn a_tenant_that_comes_and_goes_does_not_make_it_grow() {
        let dir = tempfile::tempdir().unwrap();
        let plan = dir.path().join("plan.json");
        let (mut file, mut all, _) = Departed::open(&plan).unwrap();
        for epoch in 0..3_000 {
            all.insert(uid(1), epoch);
            file.add(&[(uid(1), epoch)], &all).unwrap();
        }
        let text = std::fs::read_to_string(dir.path().join("departed")).unwrap();
        assert!(text.lines().count() <= SLACK + 2);
        assert_eq!(Departed::open(&plan).unwrap().1, all);
    }
}

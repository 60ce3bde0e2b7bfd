//! The spool of a tenant: finished segments of its log that wait to be shipped, in a directory that PostgreSQL's user writes. What lies
//! there may be anything: names, kinds and sizes are checked, nothing is followed, and a list is bounded.
//!
//! Not here: which segments are needed (chain), putting them there (`plan/postgres/archive.sh`).

use std::{collections::BTreeMap, ffi::CStr, io};

use isyone_proto::{
    backup::{Segment, Segments},
    plan::UnixMs,
};

use super::chain::SegmentSize;
use crate::base::beneath::{Lying, RelPath, Root};

/// Most names that are looked at: at the largest spool, of segments of 1 MiB, there are some thousands.
const MOST_NAMES: usize = 100_000;
/// The file that says which segments were let go.
const GAP: &str = "gap";
/// A line of two names; more of it is not ours.
const GAP_BYTES: u64 = 200;

/// What lies in a spool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Segments of the right size, sorted, with when they were finished.
    pub segments: BTreeMap<Segment, UnixMs>,
    /// Histories of timelines, and whatever else PostgreSQL archives besides segments.
    pub others: Vec<String>,
    /// Bytes of all of it.
    pub bytes: u64,
    /// Segments of another size, or that are no files: never shipped.
    pub odd: u64,
    /// What was let go, as PostgreSQL's own program says.
    pub gap: Option<Segments>,
    /// There is more than is ever looked at.
    pub overfull: bool,
}

impl Listed {
    pub fn names(&self) -> Vec<Segment> {
        self.segments.keys().copied().collect()
    }
}

/// Whether it is a name of PostgreSQL's that is no segment: a timeline's history, a backup's, a part of a segment.
fn is_other(name: &str) -> bool {
    let digits = |text: &str, count| {
        text.len() == count
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    };
    match name.split_once('.') {
        Some((timeline, "history")) => digits(timeline, 8),
        Some((segment, "partial")) => digits(segment, 24),
        Some((segment, rest)) => {
            let backup = rest.split_once('.');
            digits(segment, 24)
                && backup.is_some_and(|(offset, end)| digits(offset, 8) && end == "backup")
        }
        None => false,
    }
}

/// Looks at a spool. Blocking.
pub(super) fn list(spool: &Root, size: SegmentSize) -> io::Result<Listed> {
    let mut listed = Listed::default();
    let mut left = MOST_NAMES;
    spool.entries(&mut |name: &CStr, found: Lying| {
        let Some(rest) = left.checked_sub(1) else {
            listed.overfull = true;
            return false;
        };
        left = rest;
        listed.bytes = listed.bytes.saturating_add(found.bytes);
        let Some(name) = name.to_str().ok().filter(|name| !name.starts_with('.')) else {
            return true; // under way, or nothing of ours
        };
        match name.parse::<Segment>() {
            Ok(segment) if found.is_file && found.bytes == size.bytes() && size.has(segment) => {
                listed.segments.insert(segment, found.mtime_ms);
            }
            Ok(_) => listed.odd += 1,
            Err(_) if found.is_file && is_other(name) => listed.others.push(name.to_owned()),
            Err(_) => {}
        }
        true
    })?;
    listed.others.sort();
    listed.gap = gap(spool);
    Ok(listed)
}

/// What was let go; nothing where the file does not say it as our program does.
fn gap(spool: &Root) -> Option<Segments> {
    let path = RelPath::parse(GAP.as_bytes()).ok()?;
    let text = spool.text(&path, GAP_BYTES).ok()?;
    let mut words = text.split_whitespace().map(str::parse::<Segment>);
    match (words.next()?, words.next()?, words.next()) {
        (Ok(first), Ok(last), None) if first.timeline == last.timeline && first <= last => {
            Some(Segments { first, last })
        }
        _ => None,
    }
}

/// Takes the word of what was let go away: a base backup begins another chain. Blocking.
pub(super) fn forget_gap(spool: &Root) -> io::Result<()> {
    remove(spool, &[GAP.to_owned()])
}

/// Removes files by their names. One that is gone is no error, one that is no file is left. Blocking.
pub(super) fn remove(spool: &Root, names: &[String]) -> io::Result<()> {
    names.iter().try_for_each(|name| spool.unlink(name))
}

#[cfg(test)]
mod tests;

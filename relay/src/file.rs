//! The file of routes: its text, where it is another than the one that was read last.
//!
//! Not here: what the text says (routes), and when it is looked at (relay).

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use crate::routes::MAX_TEXT_BYTES;

/// What tells one file from another.
pub(crate) type Stamp = (u64, u64, i64, i64);

/// The file's text, where it is another than the one that was seen.
pub(crate) fn read(path: &Path, seen: Option<Stamp>) -> io::Result<Option<(Stamp, Vec<u8>)>> {
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    let stamp = (
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    );
    if seen == Some(stamp) {
        return Ok(None);
    }
    let mut text = Vec::new();
    let most = MAX_TEXT_BYTES as u64 + 1; // one more than allowed is refused when it is read
    io::Read::read_to_end(&mut io::Read::take(file, most), &mut text)?;
    Ok(Some((stamp, text)))
}

//! A clock of one of our programs that a test sets: libfaketime, by a file that the program's clock follows within a second.
//!
//! Only the time of day: what measures how long something takes goes on as it was, as when somebody sets a machine's clock. Not here:
//! what becomes of the programs.

use std::path::{Path, PathBuf};

/// Longer than a certificate, a quarantine, and what sends a tenant to sleep; the coordinator's own certificate is renewed within it.
pub const FORWARD: &str = "+60d";
pub const BACK: &str = "-60d";

/// The clock of a program, or of several.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, kept in this file; `None`: there is no libfaketime here.
    pub fn new(file: &Path) -> Option<Self> {
        let clock = Self {
            library: library()?,
            file: file.to_owned(),
        };
        clock.set("+0d");
        Some(clock)
    }

    /// Sets it: `+40d`, `-40d`, and `+0d` for right.
    pub fn set(&self, off: &str) {
        // Replaced as a whole: a program may read it at this moment.
        let new = self.file.with_extension("new");
        std::fs::write(&new, off).expect("a file");
        std::fs::rename(&new, &self.file).expect("a file");
    }

    /// What a program needs in its environment to have this clock.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file)),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }
}

/// For programs with threads, wherever the distribution has it.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let inside = folders.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    inside
        .chain([PathBuf::from("/usr/lib64/faketime/libfaketimeMT.so.1")])
        .find(|path| path.exists())
}

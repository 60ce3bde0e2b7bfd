//! The agent opens files by their path in `base/` only. Clippy says so of each call; here is what makes sure that clippy is asked of
//! every kind of call, and that nobody tells it to look away.
//!
//! Not here: the calls themselves (agent/clippy.toml).

use std::collections::BTreeMap;

use super::{
    entries, none,
    workspace::{Crate, read},
};

/// What goes where a path leads, through any link on the way, by where it is found.
const BY_PATH: [(&str, &str); 7] = [
    (
        "std::fs",
        "canonicalize copy create_dir create_dir_all exists hard_link metadata read read_dir read_link read_to_string remove_dir \
         remove_dir_all remove_file rename set_permissions symlink_metadata write File::create File::create_new File::open \
         File::options OpenOptions::open DirBuilder::create",
    ),
    ("std::os::unix::fs", "chown chroot lchown symlink"),
    (
        "std::path::Path",
        "canonicalize exists is_dir is_file is_symlink metadata read_dir read_link symlink_metadata try_exists",
    ),
    (
        "tokio::fs",
        "canonicalize copy create_dir create_dir_all hard_link metadata read read_dir read_link read_to_string remove_dir \
         remove_dir_all remove_file rename set_permissions symlink symlink_metadata try_exists write File::create File::create_new \
         File::open File::options OpenOptions::open DirBuilder::create",
    ),
    (
        "rustix::fs",
        "access chmod chmodat chown chownat getxattr lgetxattr link linkat listxattr llistxattr lremovexattr lsetxattr lstat mkdir \
         mkdirat mkfifoat mknodat open openat openat2 readlink readlinkat readlinkat_raw removexattr rename renameat renameat_with \
         rmdir setxattr stat statat statx symlink symlinkat unlink unlinkat utimensat",
    ),
    ("std::time::SystemTime", "now"),
    ("jiff::Timestamp", "now"),
];

/// Where the agent's own code may say that a call is meant, how often, and why.
const EXCUSED: [(&str, usize, &str); 7] = [
    ("agent/src/base/beneath/mod.rs", 1, "opens by handle"),
    ("agent/src/base/clock.rs", 1, "the clock"),
    (
        "agent/src/base/fsutil.rs",
        1,
        "where the agent alone writes",
    ),
    ("agent/src/base/kernel.rs", 1, "/proc and /sys"),
    ("agent/src/base/tree/mod.rs", 1, "copies by handle"),
    ("agent/src/lib.rs", 2, "code for tests only"),
    (
        "agent/src/main.rs",
        1,
        "a token's file, as whoever joins names it",
    ),
];

#[test]
fn clippy_is_asked_of_every_call_that_follows_a_path() {
    let said = entries("agent/clippy.toml");
    let missing = BY_PATH.iter().flat_map(|(place, names)| {
        names
            .split_whitespace()
            .map(move |name| format!("{place}::{name}"))
    });
    none(
        missing
            .filter(|path| {
                let entry = format!("{{ path = \"{path}\",");
                !said.iter().any(|said| said.starts_with(&entry))
            })
            .map(|path| format!("agent/clippy.toml does not name {path}"))
            .collect(),
    );
}

/// How often a text names the lint, alone or as one of a group.
fn named(text: &str) -> usize {
    ["disallowed_methods", "clippy::all", "clippy::style"]
        .iter()
        .map(|lint| text.matches(lint).count())
        .sum()
}

#[test]
fn nobody_tells_clippy_to_look_away() {
    let agent = Crate::read("agent").unwrap();
    let texts = agent.sources.keys().map(|file| (file, read(file).unwrap()));
    let found: BTreeMap<&str, usize> = texts
        .map(|(file, text)| (file.as_str(), named(&text)))
        .filter(|(_, times)| *times > 0)
        .collect();
    let excused: BTreeMap<&str, usize> = EXCUSED
        .into_iter()
        .map(|(file, times, _)| (file, times))
        .collect();
    assert_eq!(found, excused, "who names the lint, and how often");
    let manifest = read("agent/Cargo.toml").unwrap();
    assert!(manifest.contains("[lints]\nworkspace = true\n"));
    let workspace = read("Cargo.toml").unwrap();
    assert!(workspace.contains("\ndisallowed_methods = \"deny\""));
}

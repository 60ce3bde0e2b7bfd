//! The workspace's sources on disk, and what a crate consists of.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    edges::{self, Edges},
    source::Source,
};

/// The workspace's root folder.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file's text, by its path from the workspace root.
pub(super) fn read(file: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(file)).map_err(|e| format!("{file}: {e}"))
}

/// All Rust files below a folder, by their paths from the workspace root, sorted.
pub(super) fn rust_files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(Path::new(folder), &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    let entries = std::fs::read_dir(root().join(folder))
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.expect("a folder's entry can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = folder.join(&name);
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // Cargo's own folder; a module may have that name.
        let is_output = folder.as_os_str().is_empty() && name == "target";
        if is_folder && !is_output && !name.starts_with('.') {
            walk(&path, found);
        } else if !is_folder && name.ends_with(".rs") {
            found.push(path.to_string_lossy().into_owned());
        }
    }
}

/// The contents of a crate's `src` folder, without its tests.
#[derive(Debug, Default)]
pub(super) struct Crate {
    /// Modules directly below the root.
    pub(super) tops: BTreeSet<String>,
    pub(super) edges: Edges,
    /// The sources, by file.
    pub(super) sources: BTreeMap<String, Source>,
}

impl Crate {
    pub(super) fn read(folder: &str) -> Result<Self, String> {
        let src = format!("{folder}/src");
        let mut files = BTreeMap::new();
        let mut tests = BTreeSet::new();
        for file in rust_files(&src) {
            let path = module_path(&file[src.len() + 1..]);
            let source = Source::of(&read(&file)?);
            for name in &source.test_modules {
                tests.insert([path.clone(), vec![name.clone()]].concat());
            }
            files.insert(file, (path, source));
        }
        if files.is_empty() {
            return Err(format!("{src} has no sources"));
        }
        files.retain(|_, (path, _)| !(1..=path.len()).any(|n| tests.contains(&path[..n])));
        let tops = files.values().filter_map(|(path, _)| path.first().cloned());
        let mut found = Self {
            tops: tops.collect(),
            ..Self::default()
        };
        let root = files.get(&format!("{src}/lib.rs"));
        let exported = edges::exported(root.map_or(&[], |(_, s)| &s.tokens[..]), &found.tops);
        for (file, (path, source)) in &files {
            edges::add(&mut found.edges, (file, path), &source.tokens, &exported);
        }
        found.sources = files.into_iter().map(|(f, (_, s))| (f, s)).collect();
        Ok(found)
    }
}

/// The module in a file below `src`. Roots (`lib.rs`, `main.rs`, binaries) have no name.
pub(super) fn module_path(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if ["lib", "main"].contains(&path) || path.starts_with("bin/") {
        return Vec::new();
    }
    path.split('/').map(str::to_owned).collect()
}

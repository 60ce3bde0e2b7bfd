//! Replaces files atomically: write aside, sync, rename. A reader sees the old file or the new one, never a partial
//! one.
//!
//! Not here: the files' content, and the files of the store.

use std::{
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

/// Replaces `path` with a file of mode `mode`. Writes in the same directory, so the rename cannot cross file systems.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|d| !d.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    replace_from(dir, path, &[content], mode)
}

/// Like [`replace`], but takes the content in pieces, and writes the unfinished file in `scratch`, so that a watcher of
/// `path`'s directory sees only one event. Both must be on one file system ([`scratch_for`]).
pub fn replace_from(
    scratch: &Path,
    path: &Path,
    pieces: &[impl AsRef<[u8]>],
    mode: u32,
) -> io::Result<()> {
    let permissions = std::fs::Permissions::from_mode(mode);
    let mut file = tempfile::Builder::new()
        .prefix(".isyone-")
        .permissions(permissions.clone())
        .tempfile_in(scratch)?;
    for piece in pieces {
        file.write_all(piece.as_ref())?;
    }
    // The umask may have cleared bits.
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(directory(path))?.sync_all()
}

/// The directory that contains `path`.
pub fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|d| !d.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// The first candidate that is on the file system of `path`'s directory and where we can create files; `path`'s
/// directory if there is none.
pub fn scratch_for<'a>(path: &'a Path, candidates: &[&'a Path]) -> &'a Path {
    let own = directory(path);
    let device = |dir: &Path| std::fs::metadata(dir).map(|m| m.dev()).ok();
    let wanted = device(own);
    candidates
        .iter()
        .find(|dir| wanted.is_some() && device(dir) == wanted && tempfile::tempfile_in(dir).is_ok())
        .copied()
        .unwrap_or(own)
}

/// Whether group and others have no access to the file; `false` if its metadata cannot be read.
pub fn is_private(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"1", 0o600).unwrap();
        assert!(is_private(&path));
        replace(&path, b"2", 0o644).unwrap();
        assert!(!is_private(&path));
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn scratch_is_on_the_same_file_system() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("watched")).unwrap();
        let path = dir.path().join("watched/x.yml");
        assert_eq!(
            scratch_for(&path, &[Path::new("/proc"), dir.path()]),
            dir.path()
        );
        assert_eq!(
            scratch_for(&path, &[Path::new("/proc")]),
            dir.path().join("watched")
        );
    }
}

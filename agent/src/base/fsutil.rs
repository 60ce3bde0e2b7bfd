//! Files that must be complete or absent: written to a temporary file, then renamed.
//!
//! Not here: what the files contain.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

/// Owner of a file: user and group.
pub type Owner = (u32, u32);

/// Replaces `path` by a rename. With `durable`, the new content survives a power loss after the call.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    write_owned(path, bytes, mode, None, durable)
}

fn write_owned(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<Owner>,
    durable: bool,
) -> io::Result<()> {
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let mut file = tempfile::Builder::new()
        .prefix(".isy-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(dir)?;
    file.write_all(bytes)?;
    // The umask may have removed bits that a container's user needs.
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some((uid, gid)) = owner {
        let meta = file.as_file().metadata()?;
        if (meta.uid(), meta.gid()) != (uid, gid) {
            std::os::unix::fs::fchown(file.as_file(), Some(uid), Some(gid))?;
        }
    }
    if durable {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|e| e.error)?;
    if durable {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// True when `path` has exactly this content, mode and owner.
pub fn is_current(path: &Path, bytes: &[u8], mode: u32, owner: Option<Owner>) -> bool {
    let Ok(meta) = fs::metadata(path) else {
        return false;
    };
    let owner_ok = owner.is_none_or(|o| o == (meta.uid(), meta.gid()));
    owner_ok && meta.mode() & 0o777 == mode && fs::read(path).is_ok_and(|found| found == bytes)
}

/// Writes only if something differs; returns whether it wrote.
pub fn write_if_changed(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<Owner>,
) -> io::Result<bool> {
    if is_current(path, bytes, mode, owner) {
        return Ok(false);
    }
    write_owned(path, bytes, mode, owner, false)?;
    Ok(true)
}

/// Whether a directory has no entry but what every file system of its own has at its root.
pub fn is_empty(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a directory that only its owner may enter; an existing one is given that mode.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Runs blocking file work off the runtime's threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_file_system_is_empty_and_what_is_not_there_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        assert!(is_empty(dir.path()).unwrap());
        fs::write(dir.path().join("f"), "").unwrap();
        assert!(!is_empty(dir.path()).unwrap());
        assert!(is_empty(&dir.path().join("g")).is_err());
    }

    #[test]
    fn writes_only_on_change_and_with_the_asked_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(write_if_changed(&path, b"a", 0o600, None).unwrap());
        assert!(!write_if_changed(&path, b"a", 0o600, None).unwrap());
        assert!(write_if_changed(&path, b"a", 0o644, None).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }
}

//! Files and directories of the agent's own, by their paths: every directory above them is root's alone, so that nobody
//! else decides where a path leads. Files that must be complete or absent are written to a temporary file, then renamed.
//!
//! Together with [`super::tree`], [`super::beneath`] and [`super::kernel`] this is all that opens files by name; clippy
//! keeps `std::fs` away from the rest of the agent. Blocking. Not here: anything that a tenant's program may write to
//! (tree, beneath), and what the files contain.

#![expect(
    clippy::disallowed_methods,
    reason = "the agent's own directories: nobody else lays anything out in them"
)]

use std::{
    ffi::OsString,
    fs, io,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::{AtFlags, CWD, FallocateFlags, StatxFlags, fallocate};

use super::beneath::Root;

/// Owner of a file: user and group.
pub type Owner = (u32, u32);

/// How the names of files begin that are not written to their end yet.
const UNFINISHED: &str = ".isy-";

/// Whether a file of this name is one that was not written to its end.
pub fn is_unfinished(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes())
}

/// Writes a file that must not be there; `AlreadyExists` if it is. It is there with all of its content or not at all.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = unfinished(path, mode)?;
    file.write_all(bytes)?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    Ok(())
}

fn unfinished(path: &Path, mode: u32) -> io::Result<tempfile::NamedTempFile> {
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::other("a file needs a directory"))?;
    tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(dir)
}

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
    let mut file = unfinished(path, mode)?;
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
    match path.parent() {
        Some(dir) if durable => fs::File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
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

/// Whether a directory, which may be a volume's, has no entry but what every file system of its own has at its root.
pub fn is_empty(directory: &Path) -> io::Result<bool> {
    Root::open(directory)?.is_empty()
}

/// Makes a directory that only its owner may enter; an existing one is given that mode.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Gives a directory of ours to a user.
pub fn give_directory(path: &Path, (user, group): Owner) -> io::Result<()> {
    let held = open_directory(path)?;
    std::os::unix::fs::fchown(held, Some(user), Some(group))
}

/// What is in a directory, sorted by name.
pub struct Own {
    pub name: OsString,
    pub path: PathBuf,
    /// Itself, not what a link leads to.
    pub is_directory: bool,
}

/// All that is in a directory.
pub fn list(directory: &Path) -> io::Result<Vec<Own>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        found.push(Own {
            is_directory: entry.file_type()?.is_dir(),
            path: entry.path(),
            name: entry.file_name(),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Whether something of this name is there, if only a link that leads nowhere.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether a directory is there, without following a link.
pub fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// The number of a file or directory in its file system; a link's own.
pub fn inode(path: &Path) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.ino())
}

/// A file's content.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// A regular file's content; `InvalidData` where it is none, or has more than `most` bytes.
pub fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_file() && meta.len() <= most {
        return fs::read(path);
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// At most the first `most` bytes of a file.
pub fn read_head(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, most), &mut head)?;
    Ok(head)
}

/// Bytes of a file, or of a link itself.
pub fn size(path: &Path) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.len())
}

/// A text file's content.
pub fn read_text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// What tells one file's content from another's that took its place: bytes, and seconds since 1970.
pub fn stamp(path: &Path) -> io::Result<(u64, i64)> {
    let meta = fs::metadata(path)?;
    Ok((meta.len(), meta.mtime()))
}

/// When a file was changed last.
pub fn modified(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// Writes a file that nobody reads before its directory is complete.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)
}

/// Opens a file, or makes it, and empties it.
pub fn create(path: &Path) -> io::Result<fs::File> {
    fs::File::create(path)
}

/// Opens a program's log to write at its end, for its owner only. One that has `most` bytes is set aside first, as `<path>.1`, in place
/// of the one before.
pub fn open_log(path: &Path, most: u64) -> io::Result<fs::File> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() >= most) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        fs::rename(path, aside)?;
    }
    let file = fs::File::options().create(true).append(true).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Writes at the end of a file, or makes it, so that a power loss takes nothing back. What is written may be there in part
/// after an error.
pub fn append(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let is_new = !exists(path);
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    if is_new {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    match path.parent() {
        Some(directory) if is_new => sync_entries(directory),
        _ => Ok(()),
    }
}

/// Who may do what, as in `chmod`.
pub fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.mode())
}

/// Sets room aside: a file of so many bytes of the disk, which are nobody else's until it is removed. Fails where the file system cannot
/// promise that.
pub fn set_aside(path: &Path, bytes: u64) -> io::Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.len() == bytes {
        return Ok(());
    }
    let set = || -> io::Result<()> {
        file.set_len(0)?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
    };
    set().inspect_err(|_| {
        let _ = fs::remove_file(path); // half of it is no promise
    })
}

/// Renames something within a file system; replaces a file, and an empty directory.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Removes a file or a link.
pub fn remove_file(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Removes an empty directory.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    fs::remove_dir(path)
}

/// Removes a directory of ours with all that is in it, following no link. What tenants fill is removed by
/// [`super::tree::remove_all`].
pub fn remove_tree(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path)
}

/// Makes a directory; an error where there is something.
pub fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}

/// Makes a directory and those above it; one that is there is fine.
pub fn make_directories(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Gives a file or directory its rights.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a link whose text says something, and that leads nowhere.
pub fn make_link(text: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(text, path)
}

/// The text of a link.
pub fn link_text(path: &Path) -> io::Result<PathBuf> {
    fs::read_link(path)
}

/// The path without links.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// A handle on a directory, to flush it or what is written below it.
pub fn open_directory(path: &Path) -> io::Result<fs::File> {
    fs::File::open(path)
}

/// Makes sure that a power loss leaves a directory's entries as they are.
pub fn sync_entries(directory: &Path) -> io::Result<()> {
    open_directory(directory)?.sync_all()
}

/// What a rename cannot leave: the mount where the kernel tells it (since 5.8), and the file system.
pub fn mount(path: &Path) -> io::Result<(Option<u64>, u64)> {
    let device = fs::symlink_metadata(path)?.dev();
    let wanted = StatxFlags::MNT_ID;
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted);
    let told = found.ok().filter(|s| s.stx_mask & wanted.bits() != 0);
    Ok((told.map(|s| s.stx_mnt_id), device))
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
    fn a_log_is_gone_on_with_until_it_is_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (text, old) in [("a", None), ("bc", None), ("d", Some("abc"))] {
            let mut file = open_log(&path, 3).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            let aside = fs::read_to_string(dir.path().join("log.1")).ok();
            assert_eq!(aside.as_deref(), old);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "d");
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

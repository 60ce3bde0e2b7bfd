//! One directory below a handle, whose entries somebody else makes: what lies in it, and taking files out of it.
//!
//! Not here: trees (walk).

use std::{ffi::CStr, io};

use rustix::{
    fs::{AtFlags, Dir, FileType, statat, unlinkat},
    io::Errno,
};

use super::{RelPath, Root};

/// An entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lying {
    /// It is a regular file.
    pub is_file: bool,
    pub bytes: u64,
    pub mtime_ms: i64,
}

impl Root {
    /// Visits what is in the directory itself, in no order, until `visit` has enough.
    pub fn entries(&self, visit: &mut dyn FnMut(&CStr, Lying) -> bool) -> io::Result<()> {
        let directory = self.directory(&RelPath::root())?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue, // gone meanwhile
                stat => stat?,
            };
            let millis = i64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1_000_000;
            let lying = Lying {
                is_file: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
                bytes: u64::try_from(stat.st_size).unwrap_or(0),
                mtime_ms: stat.st_mtime.saturating_mul(1_000).saturating_add(millis),
            };
            if !visit(name, lying) {
                break;
            }
        }
        Ok(())
    }

    /// Takes a file out of the directory. That there is none is no error, and neither is a directory of the name, which stays. A link
    /// goes itself.
    pub fn unlink(&self, name: &str) -> io::Result<()> {
        let path = RelPath::root()
            .join(name.as_bytes())
            .map_err(io::Error::other)?;
        let directory = self.directory(&RelPath::root())?;
        match unlinkat(&directory, path.as_path(), AtFlags::empty()) {
            Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            removed => Ok(removed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_seen_as_they_are_and_only_files_and_links_are_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("f"), "theirs").unwrap();
        std::fs::write(dir.path().join("file"), "12345").unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("f"), dir.path().join("link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let names = || {
            let mut names = Vec::new();
            let mut visit = |name: &CStr, lying: Lying| {
                names.push((name.to_str().unwrap().to_owned(), lying.is_file));
                true
            };
            root.entries(&mut visit).unwrap();
            names.sort();
            names
        };
        let all = [("file", true), ("folder", false), ("link", false)];
        assert_eq!(
            names(),
            all.map(|(name, is_file)| (name.to_owned(), is_file))
        );
        for name in ["file", "folder", "link", "none"] {
            root.unlink(name).unwrap();
        }
        assert_eq!(names(), [("folder".to_owned(), false)]);
        for odd in ["..", "folder/x", ""] {
            assert!(root.unlink(odd).is_err(), "{odd}");
        }
        assert!(outside.path().join("f").exists());
    }
}

//! Unpacks a base backup's tar as it comes out of the repository. What is in it is hostile: only files and folders are made, below one
//! handle, never through a link, of one owner, and no more than they may be.
//!
//! Blocking. Not here: which snapshot (fill).

use std::io::{self, Read};

use isyone_backup::{Error, Reader, Snapshot};
use tar::EntryType;

use super::super::words::{Problem, problem};
use crate::base::{
    beneath::{Meta, RelPath, Root, set_meta},
    fsutil::Owner,
};

/// Files and folders: a database of a hundred thousand tables has some hundred thousand.
const MOST_ENTRIES: u64 = 4_000_000;
/// What is buffered between reading and writing.
const PIECE: usize = 1 << 20;

/// Where a database is unpacked, and how much of it at most.
pub(super) struct Site<'a> {
    pub root: &'a Root,
    pub owner: Owner,
    pub most_bytes: u64,
}

/// Unpacks a part of a snapshot.
pub(super) fn unpack(
    reader: &Reader,
    snapshot: &Snapshot,
    part: &str,
    into: &Site<'_>,
) -> Result<(), Problem> {
    let broken = |e: &io::Error| Problem::disk("no pipe can be made", e);
    let (from, mut to) = io::pipe().map_err(|e| broken(&e))?;
    let (copied, unpacked) = std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || untar(from, into));
        let copied = reader.copy(snapshot, part, &mut to);
        drop(to); // the end of what it reads
        let unpacked = unpacking.join();
        (
            copied,
            unpacked.unwrap_or_else(|_| Err(io::Error::other("it failed"))),
        )
    });
    match (copied, unpacked) {
        // Whoever reads no more has said why.
        (Err(Error::Restore { .. }) | Ok(_), Err(e)) => {
            Err(Problem::disk("the base backup cannot be unpacked", &e))
        }
        (Err(e), _) => Err(problem(&e)),
        (Ok(_), Ok(())) => Ok(()),
    }
}

fn refused(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the base backup {what}"),
    )
}

fn untar(from: impl Read, into: &Site<'_>) -> io::Result<()> {
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(PIECE, from));
    let (mut entries, mut bytes) = (0u64, 0u64);
    for entry in archive.entries()? {
        let mut entry = entry?;
        entries += 1;
        bytes = bytes.saturating_add(entry.size());
        if entries > MOST_ENTRIES || bytes > into.most_bytes {
            return Err(refused("is larger than it may be"));
        }
        let path = entry.path_bytes().into_owned();
        let path = path.strip_prefix(b"./").unwrap_or(&path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let path = RelPath::parse(path).map_err(io::Error::other)?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                into.root.make_directory(&path)?;
                own(into.root.directory(&path)?, into.owner, 0o700)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                let mut file = into.root.writable(&path)?;
                io::copy(&mut entry, &mut file)?;
                own(&file, into.owner, 0o600)?;
            }
            EntryType::Symlink => return Err(refused("has tablespaces elsewhere")),
            _ => return Err(refused("holds more than files and folders")),
        }
    }
    // The end of a tar is not the end of what comes.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

/// Gives what was made its owner and rights; its time is now.
pub(super) fn own(of: impl std::os::fd::AsFd, (uid, gid): Owner, mode: u32) -> io::Result<()> {
    let mtime_ns = crate::base::clock::now_ms().saturating_mul(1_000_000);
    let meta = Meta {
        mode,
        uid,
        gid,
        mtime_ns,
    };
    set_meta(of, &meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own user: nobody else's can be given away without being root.
    fn me() -> Owner {
        (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        )
    }

    fn tar_of(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(0o4777);
            header.set_size(content.len() as u64);
            // Not by `set_path`, which refuses what we must refuse ourselves.
            header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            if *kind == EntryType::Symlink {
                header.set_size(0);
                header.set_link_name(content).unwrap();
            }
            header.set_cksum();
            let content = if *kind == EntryType::Symlink {
                ""
            } else {
                content
            };
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn untarred(tar: &[u8], most_bytes: u64) -> (tempfile::TempDir, io::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let into = Site {
            root: &root,
            owner: me(),
            most_bytes,
        };
        let done = untar(tar, &into);
        (dir, done)
    }

    #[test]
    fn files_and_folders_are_made_with_rights_of_ours() {
        use std::os::unix::fs::PermissionsExt as _;
        let tar = tar_of(&[
            ("base/", EntryType::Directory, ""),
            ("base/1", EntryType::Regular, "one"),
            ("PG_VERSION", EntryType::Regular, "15\n"),
        ]);
        let (dir, done) = untarred(&tar, 1_000);
        done.unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("base/1").as_str(), read("PG_VERSION").as_str()),
            ("one", "15\n")
        );
        let mode = std::fs::metadata(dir.path().join("base/1"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o7777, 0o600);
    }

    #[test]
    fn what_is_hostile_is_refused() {
        for (tar, why) in [
            (tar_of(&[("../out", EntryType::Regular, "x")]), "out"),
            (tar_of(&[("/etc/x", EntryType::Regular, "x")]), "absolute"),
            (tar_of(&[("a", EntryType::Symlink, "/etc")]), "a link"),
            (tar_of(&[("a", EntryType::Fifo, "")]), "a pipe"),
            (
                tar_of(&[("a", EntryType::Regular, "too much for it")]),
                "size",
            ),
        ] {
            let (dir, done) = untarred(&tar, 10);
            assert!(done.is_err(), "{why}");
            assert!(!dir.path().join("../out").exists());
        }
        let cut = tar_of(&[("a", EntryType::Regular, "0123456789")]);
        let (_dir, done) = untarred(&cut[..515], 1_000);
        assert!(done.is_err(), "cut off");
    }
}

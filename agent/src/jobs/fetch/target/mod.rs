//! The receiving end of a copy: volumes that a job fills. Blocking; one job at a time holds them. What comes is checked
//! against the list, and nothing is written but regular files and directories that the list names.
//!
//! Not here: the line (the parent), whether these volumes may be written (tenant::copies).

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use isyone_proto::plan::Role;
use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Receiver;

use super::manifest::{Entry, Manifest};
use crate::{
    base::beneath::{Kind, Limits, RelPath, Root, set_meta},
    peer::{CHUNK, LIMITS},
    tenant::copies::Places,
};

/// After this many bytes what was written goes to disk: gigabytes that wait in memory stall every neighbour when they
/// are flushed at once.
const FLUSH_EVERY: u64 = 32 << 20;

/// Both volumes, held against other jobs.
pub(super) struct Target {
    postgres: Root,
    odoo: Root,
    /// The locks; they end with the last user of this, also when the job was cancelled meanwhile.
    _held: [std::os::fd::OwnedFd; 2],
    /// The job has been dropped: what still runs in the background stops soon.
    given_up: AtomicBool,
}

/// Tells the blocking work of a job that was dropped.
pub(super) struct GiveUp(pub(super) Arc<Target>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.given_up.store(true, Ordering::Relaxed);
    }
}

/// A file to ask for: which entry, and from where on.
pub(super) struct Ask {
    pub(super) entry: usize,
    pub(super) offset: u64,
    /// Over what is here, up to `offset`.
    digest: Option<Box<Sha256>>,
}

impl Ask {
    /// A file from its beginning.
    pub(super) fn whole(entry: usize) -> Self {
        Self {
            entry,
            offset: 0,
            digest: None,
        }
    }
}

/// What comes over the line.
pub(super) enum Piece {
    Data(Vec<u8>),
    /// The end of a file: the digest of all of it.
    Sha256(Vec<u8>),
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Target {
    /// Opens and locks both volumes; `WouldBlock` while an earlier attempt is ending.
    pub(super) fn open(places: &Places) -> io::Result<Self> {
        let (postgres, odoo) = (Root::open(&places.postgres)?, Root::open(&places.odoo)?);
        let hold = |root: &Root| {
            let handle = root.directory(&RelPath::root())?;
            flock(&handle, FlockOperation::NonBlockingLockExclusive)?;
            Ok::<_, io::Error>(handle)
        };
        Ok(Self {
            _held: [hold(&postgres)?, hold(&odoo)?],
            postgres,
            odoo,
            given_up: AtomicBool::new(false),
        })
    }

    fn root(&self, volume: Role) -> &Root {
        match volume {
            Role::Postgres => &self.postgres,
            Role::Odoo => &self.odoo,
        }
    }

    fn go_on(&self) -> io::Result<()> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        Ok(())
    }

    /// Free bytes, and the size of the file system, of the fuller volume.
    pub(super) fn space(&self) -> io::Result<(u64, u64)> {
        Ok(self.postgres.space()?.min(self.odoo.space()?))
    }

    /// Removes what the list does not name, makes its directories, and looks at what is here of its files.
    pub(super) fn prepare(&self, manifest: &Manifest) -> io::Result<Vec<Ask>> {
        let mut here = vec![0u64; manifest.entries.len()];
        for volume in [Role::Postgres, Role::Odoo] {
            self.prune(volume, manifest, &mut here)?;
        }
        let mut asks = Vec::new();
        for (at, entry) in manifest.entries.iter().enumerate() {
            self.go_on()?;
            match entry.size {
                None => self.root(entry.volume).make_directory(&entry.path)?,
                // Longer than listed: nothing of it is believed.
                Some(size) if here[at] == 0 || here[at] > size => asks.push(Ask::whole(at)),
                Some(_) => asks.push(self.digest_of(entry, at)?),
            }
        }
        Ok(asks)
    }

    fn prune(&self, volume: Role, manifest: &Manifest, here: &mut [u64]) -> io::Result<()> {
        // Twice the bounds of a list: what is here may be another one's scrap.
        let limits = Limits {
            entries: 2 * LIMITS.entries,
            path_bytes: 2 * LIMITS.path_bytes,
        };
        let mut strange: Vec<RelPath> = Vec::new();
        self.root(volume).walk(limits, &mut |found| {
            self.go_on()?;
            let listed = manifest.find(volume, &found.path);
            match (found.kind, listed.map(|at| (at, manifest.entries[at].size))) {
                (Kind::Directory, Some((_, None))) => {}
                (Kind::File { size }, Some((at, Some(_)))) => here[at] = size,
                _ => {
                    let inside = strange.last().is_some_and(|outer| {
                        let outer = [outer.bytes(), b"/"].concat();
                        found.path.bytes().starts_with(&outer)
                    });
                    if !inside {
                        strange.push(found.path);
                    }
                }
            }
            Ok(())
        })?;
        strange
            .iter()
            .try_for_each(|path| self.root(volume).remove(path))
    }

    /// Reads what is here of a file, so that only the rest is asked for.
    fn digest_of(&self, entry: &Entry, at: usize) -> io::Result<Ask> {
        let (mut file, size) = self.root(entry.volume).file(&entry.path)?;
        let (mut digest, mut offset) = (Sha256::new(), 0u64);
        let mut piece = vec![0; CHUNK];
        while offset < size {
            self.go_on()?;
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            digest.update(&piece[..read]);
            offset += read as u64;
        }
        let _ = fadvise(&file, 0, None, Advice::DontNeed); // only advice
        Ok(Ask {
            entry: at,
            offset,
            digest: Some(Box::new(digest)),
        })
    }

    /// Writes the files that were asked for, in that order. Returns those whose content was not the source's: they are
    /// empty now.
    pub(super) fn write(
        &self,
        manifest: &Manifest,
        asks: Vec<Ask>,
        pieces: &mut Receiver<Piece>,
    ) -> io::Result<Vec<usize>> {
        let mut differ = Vec::new();
        for ask in asks {
            let entry = &manifest.entries[ask.entry];
            let at = ask.entry;
            let file = self.root(entry.volume).writable(&entry.path)?;
            let mut writer = Writer::begin(file, entry, ask)?;
            let same = loop {
                self.go_on()?;
                match pieces.blocking_recv() {
                    Some(Piece::Data(data)) => writer.write(&data)?,
                    Some(Piece::Sha256(theirs)) => break writer.end(&theirs)?,
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                }
            };
            if !same {
                differ.push(at);
            }
        }
        Ok(differ)
    }

    /// Gives the directories their owners, rights and times, and brings everything to disk.
    pub(super) fn finish(&self, manifest: &Manifest) -> io::Result<()> {
        // Inner ones first: what is made in a directory changes its time.
        for entry in manifest.entries.iter().rev().filter(|e| e.size.is_none()) {
            set_meta(self.root(entry.volume).directory(&entry.path)?, &entry.meta)?;
        }
        self.postgres.sync()?;
        self.odoo.sync()
    }
}

/// One file that is being written.
struct Writer<'a> {
    file: File,
    entry: &'a Entry,
    size: u64,
    at: u64,
    flushed: u64,
    digest: Box<Sha256>,
}

impl<'a> Writer<'a> {
    fn begin(mut file: File, entry: &'a Entry, ask: Ask) -> io::Result<Self> {
        file.set_len(ask.offset)?;
        file.seek(SeekFrom::Start(ask.offset))?;
        Ok(Self {
            file,
            entry,
            size: entry.size.unwrap_or(0),
            at: ask.offset,
            flushed: ask.offset,
            digest: ask.digest.unwrap_or_default(),
        })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let end = self.at.saturating_add(data.len() as u64);
        if end > self.size {
            let path = &self.entry.path;
            return Err(invalid(format!("{path} has more bytes than were listed")));
        }
        self.file.write_all(data)?;
        self.digest.update(data);
        self.at = end;
        if end - self.flushed >= FLUSH_EVERY {
            self.file.sync_data()?;
            self.flushed = end;
            let _ = fadvise(&self.file, 0, None, Advice::DontNeed); // only advice
        }
        Ok(())
    }

    /// Whether the file is the source's; if not, nothing of it is kept.
    fn end(self, theirs: &[u8]) -> io::Result<bool> {
        let ours = self.digest.finalize();
        if self.at != self.size || ours.as_slice() != theirs {
            self.file.set_len(0)?;
            return Ok(false);
        }
        set_meta(&self.file, &self.entry.meta)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;

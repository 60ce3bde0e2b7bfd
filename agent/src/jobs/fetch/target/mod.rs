//! The receiving end of a copy: volumes that a job fills. Blocking; one job at a time holds them. What comes is checked
//! against the list, and nothing is written but regular files and directories that the list names.
//!
//! Not here: the line (the parent), whether these volumes may be written (tenant::copies).

use std::{
    cmp::Ordering,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::RangeInclusive,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use isyone_proto::plan::Role;
use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Receiver;

use super::{
    manifest::{Entry, Manifest, place},
    spool::{self, Ask, Known, Reader, Spool},
    words::EXAMPLES,
};
use crate::{
    base::beneath::{self, Found, Kind, Limits, RelPath, Root, set_meta},
    peer::{CHUNK, LIMITS},
    plan::standby::{CONTROL_FILE, control_timeline},
    tenant::copies::Places,
};

/// After this many bytes what was written goes to disk: gigabytes that wait in memory stall every neighbour when they
/// are flushed at once.
const FLUSH_EVERY: u64 = 32 << 20;

/// Bytes of a control file that are looked at.
const CONTROL_START: u64 = 64;
/// Versions of PostgreSQL whose images have a directory for each.
const MAJORS: RangeInclusive<u32> = 18..=40;

/// Both volumes, held against other jobs; of a copy that is kept up with one that runs, Odoo's alone.
pub(super) struct Target {
    /// `None`: a PostgreSQL runs on it, which nobody else may touch.
    postgres: Option<Root>,
    odoo: Root,
    /// The volumes' own directories, locked, open since before anything was written. The locks end with the last user of
    /// this, also when the job was cancelled meanwhile.
    held: Vec<OwnedFd>,
    /// The job has been dropped: what still runs in the background stops soon.
    given_up: AtomicBool,
    /// Files that were gone, or other ones, when they were asked for.
    gone: AtomicU64,
}

/// Tells the blocking work of a job that was dropped.
pub(super) struct GiveUp(pub(super) Arc<Target>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.given_up.store(true, Relaxed);
    }
}

/// Files of which a part is here and whose digest so far is remembered; of more the part is not used. A cut line leaves
/// one, and a tenant that comes back has few files that have only grown.
const PARTS: usize = 4_096;

/// What to ask for, and what is here already.
pub(super) struct Asks {
    pub(super) list: Spool,
    parts: Vec<Sha256>,
    /// Bytes that are here.
    pub(super) here: u64,
}

/// Files that were not the source's, to be asked for from their beginning.
pub(super) struct Differ {
    pub(super) asks: Asks,
    pub(super) bytes: u64,
    /// Some of them, for people.
    pub(super) examples: Vec<String>,
}

/// What comes over the line.
pub(super) enum Piece {
    Data(Vec<u8>),
    /// The end of a file: the digest of all of it.
    Sha256(Vec<u8>),
    /// Instead of that: it is gone, or another one, where it was listed.
    Gone,
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Target {
    /// Opens and locks both volumes; `WouldBlock` while an earlier attempt is ending.
    pub(super) fn open(places: &Places) -> io::Result<Self> {
        let (postgres, odoo) = (Root::open(&places.postgres)?, Root::open(&places.odoo)?);
        Self::hold(Some(postgres), odoo)
    }

    /// The same of a copy whose PostgreSQL runs: only Odoo's files come, and those that have not changed since the last time are not
    /// looked into.
    pub(super) fn open_beside(places: &Places) -> io::Result<Self> {
        Self::hold(None, Root::open(&places.odoo)?)
    }

    fn hold(postgres: Option<Root>, odoo: Root) -> io::Result<Self> {
        let mut held = Vec::new();
        for root in postgres.iter().chain([&odoo]) {
            let handle = root.directory(&RelPath::root())?;
            flock(&handle, FlockOperation::NonBlockingLockExclusive)?;
            held.push(handle);
        }
        Ok(Self {
            held,
            postgres,
            odoo,
            given_up: AtomicBool::new(false),
            gone: AtomicU64::new(0),
        })
    }

    fn root(&self, volume: Role) -> io::Result<&Root> {
        match volume {
            Role::Odoo => Ok(&self.odoo),
            Role::Postgres => self
                .postgres
                .as_ref()
                .ok_or_else(|| invalid("files of the database came, which runs".to_owned())),
        }
    }

    /// Files that were gone, or other ones, when they were asked for.
    pub(super) fn gone(&self) -> u64 {
        self.gone.load(Relaxed)
    }

    fn go_on(&self) -> io::Result<()> {
        if self.given_up.load(Relaxed) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        Ok(())
    }

    /// Free bytes, and the size of the file system, of the fuller volume.
    pub(super) fn space(&self) -> io::Result<(u64, u64)> {
        let odoo = self.odoo.space()?;
        let postgres = self.postgres.as_ref().map(Root::space).transpose()?;
        Ok(postgres.map_or(odoo, |space| space.min(odoo)))
    }

    /// The timeline of the database that has come, as far as its control file says. Those of [`MAJORS`] may lie in a directory of theirs.
    pub(super) fn timeline(&self) -> Option<u32> {
        let nested = MAJORS.map(|major| format!("{major}/docker/{CONTROL_FILE}"));
        let read = |path: String| {
            let path = RelPath::parse(path.as_bytes()).ok()?;
            let (file, _) = self.postgres.as_ref()?.file(&path).ok()?;
            let mut bytes = Vec::new();
            file.take(CONTROL_START).read_to_end(&mut bytes).ok()?;
            control_timeline(&bytes)
        };
        std::iter::once(CONTROL_FILE.to_owned())
            .chain(nested)
            .find_map(read)
    }

    /// Removes what the list does not name, makes its directories, and looks at what is here of its files. The list and
    /// a walk have the same order, so they are gone through side by side.
    pub(super) fn prepare(&self, manifest: &Manifest) -> io::Result<Asks> {
        let mut preparing = Preparing {
            target: self,
            listed: manifest.list.read(),
            next: None,
            asks: manifest.list.another()?,
            parts: Vec::new(),
            here: 0,
        };
        preparing.step()?;
        let volumes = [Role::Postgres, Role::Odoo].into_iter();
        for volume in volumes.filter(|v| *v == Role::Odoo || self.postgres.is_some()) {
            // Twice the bounds of a list: what is here may be another one's scrap.
            let limits = Limits {
                entries: 2 * LIMITS.entries,
                path_bytes: 2 * LIMITS.path_bytes,
            };
            let walked = self.root(volume)?;
            walked.walk(limits, &mut |found| preparing.met(volume, &found))?;
        }
        while preparing.next.is_some() {
            preparing.take(0)?;
        }
        Ok(Asks {
            list: preparing.asks.finish()?,
            parts: preparing.parts,
            here: preparing.here,
        })
    }

    /// The digest of what is here of a file, and how much that is.
    fn digest_of(&self, entry: &Entry) -> io::Result<(Sha256, u64)> {
        let (mut file, size) = self.root(entry.volume)?.file(&entry.path)?;
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
        Ok((digest, offset))
    }

    /// Writes the files that were asked for, in that order. Those whose content was not the source's are empty then.
    pub(super) fn write(&self, asks: &Asks, pieces: &mut Receiver<Piece>) -> io::Result<Differ> {
        let mut again = asks.list.another()?;
        let (mut bytes, mut examples) = (0u64, Vec::new());
        for ask in asks.list.read() {
            let ask = ask?;
            let entry = &ask.entry;
            let root = self.root(entry.volume)?;
            let file = root.writable(&entry.path)?;
            let mut writer = Writer::begin(file, &ask, &asks.parts)?;
            let same = loop {
                self.go_on()?;
                match pieces.blocking_recv() {
                    Some(Piece::Data(data)) => writer.write(&data)?,
                    Some(Piece::Sha256(theirs)) => break writer.end(&theirs)?,
                    Some(Piece::Gone) => {
                        root.remove(&entry.path)?;
                        self.gone.fetch_add(1, Relaxed);
                        break true;
                    }
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                }
            };
            if !same {
                bytes = bytes.saturating_add(entry.size.unwrap_or(0));
                if examples.len() < EXAMPLES {
                    examples.push(entry.path.to_string());
                }
                again.add(&Ask::whole(ask.entry))?;
            }
        }
        let asks = Asks {
            list: again.finish()?,
            parts: Vec::new(),
            here: 0,
        };
        Ok(Differ {
            asks,
            bytes,
            examples,
        })
    }

    /// Gives the directories their owners, rights and times, and brings everything to disk.
    pub(super) fn finish(&self, manifest: &Manifest) -> io::Result<()> {
        let set = |entry: &Entry| {
            let directory = self.root(entry.volume)?.directory(&entry.path)?;
            set_meta(directory, &entry.meta)
        };
        // Inner ones first, as the outer one's rights may close them; there are as many open as the tree is deep.
        let mut around: Vec<Entry> = Vec::new();
        for ask in manifest.list.read() {
            let entry = ask?.entry;
            if entry.size.is_some() {
                continue;
            }
            self.go_on()?;
            while around.last().is_some_and(|outer| !is_in(&entry, outer)) {
                around.pop().iter().try_for_each(set)?;
            }
            around.push(entry);
        }
        around.iter().rev().try_for_each(set)?;
        self.held.iter().try_for_each(beneath::sync)
    }
}

fn is_in(entry: &Entry, outer: &Entry) -> bool {
    let rest = entry.path.bytes().strip_prefix(outer.path.bytes());
    let below = rest.is_some_and(|rest| outer.path.is_root() || rest.first() == Some(&b'/'));
    entry.volume == outer.volume && below
}

/// A list and a walk, side by side.
struct Preparing<'a> {
    target: &'a Target,
    listed: Reader,
    /// The next entry that has not been dealt with.
    next: Option<Entry>,
    asks: spool::Writer,
    parts: Vec<Sha256>,
    here: u64,
}

impl Preparing<'_> {
    fn step(&mut self) -> io::Result<()> {
        self.next = self.listed.next().transpose()?.map(|ask| ask.entry);
        Ok(())
    }

    /// The walk has come to this: what is listed before it is not here.
    fn met(&mut self, volume: Role, found: &Found) -> io::Result<()> {
        self.target.go_on()?;
        loop {
            let order = self.next.as_ref().map(|next| {
                let order = place(next.volume).cmp(&place(volume));
                order.then_with(|| next.path.cmp(&found.path))
            });
            match order {
                Some(Ordering::Less) => self.take(0)?,
                Some(Ordering::Equal) => break,
                Some(Ordering::Greater) | None => {
                    return self.target.root(volume)?.remove(&found.path);
                }
            }
        }
        let directory = self.next.as_ref().is_some_and(|next| next.size.is_none());
        if let Some(size) = self.unchanged(found) {
            self.here = self.here.saturating_add(size);
            return self.step();
        }
        match found.kind {
            Kind::Directory if directory => self.step(),
            // One with other names is never written: it makes way.
            Kind::File {
                size,
                linked: false,
            } if !directory => self.take(size),
            _ => {
                self.target.root(volume)?.remove(&found.path)?;
                self.take(0)
            }
        }
    }

    /// The bytes of the next entry if it is a file that came before and has the size and time that it had: while its source runs that
    /// must do, as nobody could look into all files while a tenant waits. What a file's name stands for, Odoo never changes.
    fn unchanged(&self, found: &Found) -> Option<u64> {
        let (Kind::File { size, linked }, Some(next)) = (&found.kind, &self.next) else {
            return None;
        };
        let is_quick = self.target.postgres.is_none() && !linked;
        (is_quick && next.size == Some(*size) && next.meta == found.meta).then_some(*size)
    }

    /// Deals with the next entry, of which so many bytes are here.
    fn take(&mut self, here: u64) -> io::Result<()> {
        self.target.go_on()?;
        let Some(entry) = self.next.take() else {
            return Ok(());
        };
        match entry.size {
            None => self
                .target
                .root(entry.volume)?
                .make_directory(&entry.path)?,
            Some(size) => {
                let ask = self.ask(entry, size, here)?;
                self.here = self.here.saturating_add(ask.offset);
                self.asks.add(&ask)?;
            }
        }
        self.step()
    }

    /// Reads what is here of a file, so that only the rest is asked for.
    fn ask(&mut self, entry: Entry, size: u64, here: u64) -> io::Result<Ask> {
        // Longer than listed: nothing of it is believed.
        if here == 0 || here > size || here < size && self.parts.len() >= PARTS {
            return Ok(Ask::whole(entry));
        }
        let (digest, offset) = self.target.digest_of(&entry)?;
        let known = match offset.cmp(&size) {
            Ordering::Equal => Known::Whole(digest.finalize().into()),
            Ordering::Less => {
                self.parts.push(digest);
                Known::Part(u32::try_from(self.parts.len() - 1).unwrap_or(u32::MAX))
            }
            Ordering::Greater => return Ok(Ask::whole(entry)),
        };
        Ok(Ask {
            entry,
            offset,
            known,
        })
    }
}

/// One file that is being written.
struct Writer<'a> {
    file: File,
    entry: &'a Entry,
    size: u64,
    at: u64,
    flushed: u64,
    digest: Sha256,
    /// The digest of a file that is here as a whole.
    whole: Option<[u8; 32]>,
}

impl<'a> Writer<'a> {
    fn begin(mut file: File, ask: &'a Ask, parts: &[Sha256]) -> io::Result<Self> {
        file.set_len(ask.offset)?;
        file.seek(SeekFrom::Start(ask.offset))?;
        let mut writer = Self {
            file,
            entry: &ask.entry,
            size: ask.entry.size.unwrap_or(0),
            at: ask.offset,
            flushed: ask.offset,
            digest: Sha256::new(),
            whole: None,
        };
        match ask.known {
            Known::Nothing => {}
            Known::Whole(digest) => writer.whole = Some(digest),
            Known::Part(number) => {
                let part = parts.get(number as usize);
                writer.digest = part.cloned().ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(writer)
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
        let ours = self.whole.unwrap_or_else(|| self.digest.finalize().into());
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

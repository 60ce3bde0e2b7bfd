//! Proves that what lies in a repository is what was written, and names what is not: the file, and which contents of which
//! snapshots it costs.
//!
//! Not here: whether a database starts from it; that is shown by restoring it.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    error::{Error, Fault},
    index::Place,
    limits,
    reader::{self, At, Reader},
    snapshot::{Listing, Snapshot},
    store::{File, Kind, Name, StoreError},
    tree::{self, What},
};

/// How many of the packs are read. Which ones a part holds follows from their names, so all parts together are all packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    All,
    /// From 0.
    Part {
        number: u32,
        of: u32,
    },
}

impl Share {
    fn holds(self, pack: Name) -> bool {
        match self {
            Self::All => true,
            Self::Part { number, of } => {
                let [a, b, c, d, ..] = pack.0;
                u32::from_be_bytes([a, b, c, d]) % of.max(1) == number
            }
        }
    }
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    File {
        file: File,
        fault: Fault,
    },
    /// A file or folder that cannot be restored, with the pack that it needs.
    Content {
        snapshot: Name,
        path: String,
        file: Option<File>,
        fault: Fault,
    },
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub packs: u64,
    pub bytes: u64,
    pub snapshots: u64,
    /// Files of all snapshots, the same in several of them counted once.
    pub files: u64,
    pub damages: Vec<Damage>,
    /// Damages beyond those named.
    pub more: u64,
    /// Snapshots that cannot be restored whole.
    pub affected: BTreeSet<Name>,
}

impl Report {
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.damages.is_empty()
    }

    fn add(&mut self, damage: Damage) {
        if self.damages.len() < limits::NAMED {
            self.damages.push(damage);
        } else {
            self.more += 1;
        }
    }
}

pub(crate) fn run(reader: &Reader, listing: Listing, share: Share) -> Result<Report, Error> {
    let mut check = Check {
        reader,
        report: Report::default(),
        bad: HashMap::new(),
        trees: HashMap::new(),
    };
    let damaged = reader.damaged().iter().chain(&listing.damaged);
    for (file, fault) in damaged {
        let (file, fault) = (*file, *fault);
        check.report.add(Damage::File { file, fault });
    }
    check.packs(share)?;
    for snapshot in &listing.snapshots {
        check.snapshot(snapshot)?;
    }
    Ok(check.report)
}

struct Check<'a> {
    reader: &'a Reader,
    report: Report,
    /// Packs that are not as they were written.
    bad: HashMap<Name, Fault>,
    /// Folders that were looked at, and whether all in them is well.
    trees: HashMap<Name, bool>,
}

impl Check<'_> {
    fn packs(&mut self, share: Share) -> Result<(), Error> {
        let store = self.reader.store();
        let listed = store.list(Kind::Pack);
        let listed = listed.map_err(|e| Error::of_store(&store.place(), e))?;
        let listed: HashSet<Name> = listed.into_iter().map(|(name, _)| name).collect();
        for (pack, places) in self.reader.index.by_pack() {
            if !listed.contains(&pack.name) {
                // Damage where a snapshot needs it; else it was being deleted.
                self.bad.insert(pack.name, Fault::Missing);
            } else if share.holds(pack.name)
                && let Some(fault) = self.pack(pack, &places)?
            {
                self.bad.insert(pack.name, fault);
                self.report.add(Damage::File { file: pack, fault });
            }
        }
        Ok(())
    }

    /// Reads a pack and opens everything in it.
    fn pack(&mut self, pack: File, places: &[Place]) -> Result<Option<Fault>, Error> {
        let content = match self.reader.fetch_pack(pack) {
            Ok(content) => content,
            Err(StoreError::Absent(_)) => return Ok(Some(Fault::Missing)),
            Err(StoreError::TooLarge { .. }) => return Ok(Some(Fault::Swollen)),
            Err(StoreError::Failed(_)) => return Ok(Some(Fault::Unreadable)),
            Err(e) => return Err(Error::of_store(&self.reader.store().place(), e)),
        };
        self.report.packs += 1;
        self.report.bytes += content.len() as u64;
        if crate::seal::name_of(&content) != pack.name {
            return Ok(Some(Fault::Altered));
        }
        let opens = |place: &Place| {
            let begin = place.offset as usize;
            let sealed = content.get(begin..begin + place.length as usize);
            reader::open(self.reader.key(), sealed.ok_or(Fault::Size)?, place).map(drop)
        };
        Ok(places.iter().find_map(|place| opens(place).err()))
    }

    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.report.snapshots += 1;
        if !self.folder(snapshot.name, snapshot.tree, "", 0)? {
            self.report.affected.insert(snapshot.name);
        }
        Ok(())
    }

    /// Whether a folder and everything in it is well.
    fn folder(
        &mut self,
        snapshot: Name,
        tree: Name,
        path: &str,
        depth: usize,
    ) -> Result<bool, Error> {
        if let Some(known) = self.trees.get(&tree) {
            return Ok(*known);
        }
        let at = At { snapshot, path };
        let items = match self.reader.folder(tree, at) {
            Ok(_) if depth > limits::DEPTH => Err(at.content(None, Fault::Malformed)),
            read => read,
        };
        let items = match items {
            Ok(items) => items,
            Err(e) => {
                self.content(e)?;
                self.trees.insert(tree, false);
                return Ok(false);
            }
        };
        let mut is_well = true;
        for item in items {
            let path = tree::join(path, &item.name);
            let at = At {
                snapshot,
                path: &path,
            };
            is_well &= match &item.what {
                What::File { content, .. } => self.file(content, at)?,
                What::Folder(Some(inner)) => self.folder(snapshot, *inner, &path, depth + 1)?,
                What::Folder(None) => {
                    self.content(at.content(None, Fault::Malformed))?;
                    false
                }
                What::Special => true,
            };
        }
        self.trees.insert(tree, is_well);
        Ok(is_well)
    }

    fn file(&mut self, content: &[Name], at: At<'_>) -> Result<bool, Error> {
        self.report.files += 1;
        let fault = |blob: &Name| match self.reader.index.data(*blob) {
            None => Some((None, Fault::NotIndexed)),
            Some(place) => {
                let pack = self.reader.index.pack(&place);
                let fault = self.bad.get(&pack.name);
                fault.map(|fault| (Some(pack), *fault))
            }
        };
        match content.iter().find_map(fault) {
            None => Ok(true),
            Some((file, fault)) => {
                self.content(at.content(file, fault))?;
                Ok(false)
            }
        }
    }

    /// Takes damage of a content into the report; other errors end the check.
    fn content(&mut self, error: Error) -> Result<(), Error> {
        match error {
            Error::Content {
                snapshot,
                path,
                file,
                fault,
            } => {
                self.report.add(Damage::Content {
                    snapshot,
                    path,
                    file,
                    fault,
                });
                Ok(())
            }
            other => Err(other),
        }
    }
}

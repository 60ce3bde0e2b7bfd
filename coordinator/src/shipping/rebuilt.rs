//! Reads a state back from a destination: the newest one that is whole, or one that is asked for.
//!
//! What is damaged is said and what lies before it is used. Whatever is read may be anybody's until it has opened.
//! Not here: making a database of it (crate::backup), raising the incarnation (crate::rebuild).

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use isyone_fleet::{
    desired::{Fleet, backups::BackupKey},
    written::{self, Contents, RecordKind, Records, UnreadableRecord, Write},
};
use isyone_proto::{ids::TenantName, plan::UnixMs, tls::error_chain};
use uuid::Uuid;

use super::{
    folder::Folder,
    format::{self, Configuration, Content, Damage, Head, Part, Series},
};
use crate::base::secrets::Sealer;

/// Why no state can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the folder cannot be read")]
    Io(#[from] std::io::Error),
    #[error("there is no state of a coordinator")]
    Empty,
    #[error("there is no state {0}; `--list` shows those that there are")]
    NoSeries(Series),
    /// With the reason for each.
    #[error(
        "no state opens: is seal.key in the data directory that of the time when it was shipped?\n{}",
        .0.join("\n")
    )]
    None(Vec<String>),
    #[error("the state")]
    Record(#[from] UnreadableRecord),
}

/// A state as it was read.
#[derive(Debug)]
pub struct Rebuilt {
    pub series: Series,
    /// Files of changes after the full copy.
    pub batches: u32,
    /// The time of the state.
    pub at: UnixMs,
    pub fleet: Fleet,
    /// The same as records.
    pub contents: Contents,
    /// Keys of backups that the state relies on and that are not there.
    pub lost_keys: Vec<TenantName>,
    pub configuration: Option<Configuration>,
    /// What was damaged, or is not used for another reason.
    pub notes: Vec<String>,
}

/// A state that could be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub series: Series,
    pub batches: u32,
    /// The time of the newest state in it.
    pub at: UnixMs,
}

fn part(
    folder: &Folder,
    sealer: &Sealer,
    series: Series,
    part: Part,
) -> Result<(Head, Content), Damage> {
    let (head, content) = format::read(folder.open(series, part)?, sealer, part)?;
    let is_its_own = matches!(part, Part::Keys | Part::Configuration) || head.series == series;
    match is_its_own {
        true => Ok((head, content)),
        false => Err(Damage::Misplaced(format!("of the state {}", head.series))),
    }
}

/// How far a series is, by its last file that opens; `None` if none does, or it is not ours.
pub(super) fn age(folder: &Folder, sealer: &Sealer, series: Series) -> Option<(u16, u64)> {
    let parts = folder.parts(series).ok()?;
    parts.keys().rev().find_map(|name| {
        let read = part(folder, sealer, series, *name).ok()?;
        Some(read.0.age())
    })
}

/// The keys of a destination; `None`: there are none, or they do not open.
pub(super) fn keys(folder: &Folder, sealer: &Sealer) -> Option<OrdMap<Uuid, Arc<BackupKey>>> {
    let (_, content) = part(folder, sealer, Series(0), Part::Keys).ok()?;
    let mut keys = OrdMap::new();
    for write in &content.writes {
        if let Write::Put(value) = write {
            let key: BackupKey = serde_json::from_str(&value.body()).ok()?;
            keys.insert(key.tenant, Arc::new(key));
        }
    }
    Some(keys)
}

/// All states, oldest first; those without a full copy are none.
pub fn list(folder: &Folder, sealer: &Sealer) -> Result<Vec<Listed>, ReadError> {
    let mut listed = Vec::new();
    for series in folder.series()? {
        let parts = folder.parts(series)?;
        let last = parts.keys().next_back().copied();
        let Some(last) = last.filter(|_| parts.contains_key(&Part::Base)) else {
            continue;
        };
        if let Ok((head, _)) = part(folder, sealer, series, last) {
            let batches = match last {
                Part::Batch(number) => number,
                _ => 0,
            };
            listed.push(Listed {
                series,
                batches,
                at: head.at,
            });
        }
    }
    Ok(listed)
}

/// A series as records.
struct Replayed {
    records: Records,
    batches: u32,
    at: UnixMs,
}

/// The full copy and all changes up to the first that is missing or damaged.
fn replay(
    folder: &Folder,
    sealer: &Sealer,
    series: Series,
    notes: &mut Vec<String>,
) -> Result<Replayed, Damage> {
    let (head, content) = part(folder, sealer, series, Part::Base)?;
    let mut replayed = Replayed {
        records: Records::default(),
        batches: 0,
        at: head.at,
    };
    replayed.records.apply(&content.writes);
    let parts = folder.parts(series)?;
    let newest = match parts.keys().next_back() {
        Some(Part::Batch(number)) => *number,
        _ => 0,
    };
    for number in 1..=newest {
        match part(folder, sealer, series, Part::Batch(number)) {
            Ok((head, content)) => {
                replayed.records.apply(&content.writes);
                (replayed.batches, replayed.at) = (number, head.at);
            }
            Err(damage) => {
                let unused = newest - number + 1;
                let why = error_chain(&damage);
                notes.push(format!("{series}/{}: {why}; it and what follows, {unused} in all, are not used: the state is that before them", Part::Batch(number)));
                break;
            }
        }
    }
    Ok(replayed)
}

/// The newest state that can be read, or the one that is asked for.
pub fn read(folder: &Folder, sealer: &Sealer, asked: Option<Series>) -> Result<Rebuilt, ReadError> {
    let mut all = folder.series()?;
    if let Some(asked) = asked {
        all.retain(|series| *series == asked);
        if all.is_empty() {
            return Err(ReadError::NoSeries(asked));
        }
    }
    let mut notes = Vec::new();
    for series in all.iter().rev() {
        match replay(folder, sealer, *series, &mut notes) {
            Ok(replayed) => return with_keys(folder, sealer, *series, replayed, notes),
            Err(damage) => {
                notes.push(format!(
                    "{series}/base: {}; the state is not used",
                    error_chain(&damage)
                ));
            }
        }
    }
    match notes.is_empty() {
        true => Err(ReadError::Empty),
        false => Err(ReadError::None(notes)),
    }
}

fn with_keys(
    folder: &Folder,
    sealer: &Sealer,
    series: Series,
    mut replayed: Replayed,
    mut notes: Vec<String>,
) -> Result<Rebuilt, ReadError> {
    let bare = written::fleet(replayed.records.contents())?;
    let keys = match part(folder, sealer, series, Part::Keys) {
        Ok((_, content)) => content.writes,
        Err(damage) => {
            notes.push(format!("keys: {}", error_chain(&damage)));
            Vec::new()
        }
    };
    let needed = may_have_keys(&bare);
    let keys: Vec<Write> = keys.into_iter().filter(|key| is_of(key, &needed)).collect();
    replayed.records.apply(&keys);
    let contents = replayed.records.contents();
    let fleet = written::fleet(contents.clone())?;
    let configuration = match part(folder, sealer, series, Part::Configuration) {
        Ok((_, content)) => content.configuration,
        Err(damage) => {
            notes.push(format!("configuration: {}", error_chain(&damage)));
            None
        }
    };
    Ok(Rebuilt {
        series,
        batches: replayed.batches,
        at: replayed.at,
        lost_keys: lost_keys(&fleet),
        fleet,
        contents,
        configuration,
        notes,
    })
}

/// Tenants, and those of whom backups are left; not those whose key was deleted, should the file still have it.
fn may_have_keys(fleet: &Fleet) -> BTreeSet<String> {
    let kept = fleet.backups.values().filter(|of| of.shredded_at.is_none());
    let of_backups = kept.map(|of| of.tenant);
    let of_tenants = fleet.tenants.values().map(|tenant| tenant.uid);
    of_backups
        .chain(of_tenants)
        .map(|uid: Uuid| uid.to_string())
        .collect()
}

fn is_of(write: &Write, needed: &BTreeSet<String>) -> bool {
    match write {
        Write::Put(value) => {
            let (kind, id) = value.key();
            kind == RecordKind::BackupKey && needed.contains(&*id)
        }
        _ => false,
    }
}

/// Whose backups are there without a key. Another would be made for them, and what is there would be lost for good.
fn lost_keys(fleet: &Fleet) -> Vec<TenantName> {
    let made = fleet.backups.values();
    let made = made.filter(|of| of.shredded_at.is_none() && !of.made.is_empty());
    let lost = made.filter(|of| !fleet.backup_keys.contains_key(&of.tenant));
    lost.map(|of| of.name.clone()).collect()
}

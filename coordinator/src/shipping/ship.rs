//! One destination's copy of the state: what is there, and what to write so that it is the present one.
//!
//! A series is a full copy and small files of changes; another is begun when they have become many, at each start, and whenever
//! something is not as it was left. The keys of tenants' backups are in none of them but in a file of their own, which has the latest
//! ones only: whose key is deleted cannot be read from any copy. **New keys are there before a state that relies on them, deleted ones
//! go after it**: whatever is cut off where, a state that is read back finds the keys it needs.
//! Blocks. Not here: when (the parent), how it is read back (rebuilt).

use std::{collections::BTreeMap, io, sync::Arc};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};
use isyone_fleet::{
    desired::{Fleet, Sealed, backups::BackupKey},
    written::{self, RecordValue, Write},
};
use isyone_proto::plan::UnixMs;
use uuid::Uuid;

use super::{
    folder::Folder,
    format::{self, Configuration, Head, Part, Series},
    rebuilt, retention,
};
use crate::base::secrets::Sealer;

/// Most files of changes in a series: what is read one after the other when it is read back.
pub(super) const MAX_BATCHES: u32 = 200;
/// Changes of so many bytes are begun anew, or of as many as the full copy has.
const MAX_BATCH_BYTES: u64 = 4 << 20;
/// Another full copy is made after this time all the same, milliseconds: there is one of each day.
const MAX_AGE_MS: i64 = 86_400_000;
/// How often we look whether everything is as it was left, milliseconds.
const LOOK_MS: i64 = 60_000;
/// What a value is sealed for that tells whether the sealing key was replaced.
const KEY_CHECK: &str = "state/key";

/// Why a destination does not have the present state.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    #[error("it cannot be written to")]
    Io(#[from] io::Error),
    /// Whoever starts last may ship; see [`Self::Newer`].
    #[error("another coordinator ships its state there since ({0}): only one may run")]
    Another(Series),
    /// We run on an old copy, or a machine that was replaced has come back.
    #[error(
        "it has a newer state than ours (incarnation and event {theirs:?}, ours {ours:?}): does another coordinator run? If ours is right, raise-incarnation, or move {folder} away"
    )]
    Newer {
        theirs: (u16, u64),
        ours: (u16, u64),
        folder: String,
    },
}

/// The series that is being written.
struct Open {
    name: Series,
    /// What it leads to, without keys.
    of: Fleet,
    parts: BTreeMap<Part, u64>,
    last: u32,
    begun_at: UnixMs,
    /// Something that the sealing key of its files has sealed.
    sealed: Sealed,
}

impl Open {
    fn is_full(&self, now: UnixMs) -> bool {
        let base = self.parts.get(&Part::Base).copied().unwrap_or(0);
        let batches = self.parts.values().sum::<u64>().saturating_sub(base);
        let age = now - self.begun_at;
        self.last >= MAX_BATCHES
            || batches > base.max(MAX_BATCH_BYTES)
            || !(0..MAX_AGE_MS).contains(&age)
    }
}

/// The keys of a destination's file, and its size.
type Keys = (OrdMap<Uuid, Arc<BackupKey>>, u64);

pub struct Ship {
    folder: Folder,
    sealer: Arc<Sealer>,
    configuration: Configuration,
    /// The highest name that was there when we began, or that we gave.
    newest: Option<Series>,
    begun: bool,
    looked_at: Option<UnixMs>,
    open: Option<Open>,
    /// `None`: not known.
    keys: Option<Keys>,
    /// The size of the file with the configuration, once it is there.
    configured: Option<u64>,
}

impl Ship {
    pub fn new(folder: Folder, sealer: Arc<Sealer>, configuration: Configuration) -> Self {
        Self {
            folder,
            sealer,
            configuration,
            newest: None,
            begun: false,
            looked_at: None,
            open: None,
            keys: None,
            configured: None,
        }
    }

    /// Makes the destination's copy that of this fleet. When it is `Ok`, it is. After an error it is what it was, or something in
    /// between that some commit has made; the next call goes on.
    pub fn ship(&mut self, fleet: &Fleet, now: UnixMs) -> Result<(), ShipError> {
        let shipped = self.try_ship(fleet, now);
        if shipped.is_err() {
            // Look at everything before the next time.
            self.looked_at = None;
        }
        shipped
    }

    fn try_ship(&mut self, fleet: &Fleet, now: UnixMs) -> Result<(), ShipError> {
        self.begin(fleet)?;
        self.look(now)?;
        let bare = without_keys(fleet);
        self.put_keys(&self.keys_of_both(fleet), fleet, now)?;
        let goes_on = self
            .open
            .as_ref()
            .is_some_and(|open| self.goes_on(open, now));
        match &mut self.open {
            Some(open) if goes_on => add(&self.folder, &self.sealer, open, bare, now)?,
            _ => self.begin_series(bare, now)?,
        }
        self.put_keys(&fleet.backup_keys, fleet, now)?;
        self.put_configuration(fleet, now)?;
        if !goes_on {
            self.tidy(now);
        }
        Ok(())
    }

    /// Once: what is there already, and whether we may add to it.
    fn begin(&mut self, fleet: &Fleet) -> Result<(), ShipError> {
        if self.begun {
            return Ok(());
        }
        self.folder.make()?;
        self.folder.sweep()?;
        let there = self.folder.series()?;
        let age = |series: &Series| rebuilt::age(&self.folder, &self.sealer, *series);
        let ours = (fleet.incarnation, fleet.last_event);
        if let Some(theirs) = there.iter().rev().find_map(age).filter(|age| *age > ours) {
            let folder = self.folder.place();
            return Err(ShipError::Newer {
                theirs,
                ours,
                folder,
            });
        }
        (self.newest, self.begun) = (there.last().copied(), true);
        Ok(())
    }

    /// Now and then: whether everything is as we left it. What is not is written anew.
    fn look(&mut self, now: UnixMs) -> Result<(), ShipError> {
        let is_recent = |at: UnixMs| (0..LOOK_MS).contains(&(now - at));
        if self.looked_at.is_some_and(is_recent) {
            return Ok(());
        }
        self.folder.make()?;
        let there = self.folder.series()?;
        if let Some(other) = there.last().filter(|last| Some(**last) > self.newest) {
            return Err(ShipError::Another(*other));
        }
        if let Some(open) = &self.open
            && self.folder.parts(open.name).ok().as_ref() != Some(&open.parts)
        {
            self.open = None;
        }
        let size = |part| self.folder.size(part).ok();
        let keys = size(Part::Keys);
        if self.keys.as_ref().map(|(_, size)| *size) != keys {
            self.keys = rebuilt::keys(&self.folder, &self.sealer).zip(keys);
        }
        if self.configured != size(Part::Configuration) {
            self.configured = None;
        }
        self.looked_at = Some(now);
        Ok(())
    }

    fn goes_on(&self, open: &Open, now: UnixMs) -> bool {
        !open.is_full(now)
            && self.sealer.open(KEY_CHECK, &open.sealed).is_ok()
            && self.sealer.reseal(KEY_CHECK, &open.sealed).is_none()
    }

    fn begin_series(&mut self, bare: Fleet, now: UnixMs) -> Result<(), ShipError> {
        let after = self.newest.map_or(0, |newest| newest.0 + 1);
        let name = Series(now.max(after));
        // Also when it fails: a name is given once.
        self.newest = Some(name);
        let head = head(name, Part::Base, now, &bare);
        let writes = written::everything(&bare);
        self.folder.begin(name)?;
        let size = self.folder.put(name, Part::Base, |out| {
            format::write(out, &self.sealer, &head, &writes, None)
        });
        let size = size.inspect_err(|_| {
            // It is nothing yet; without room there must not be one more each time.
            let _ = self.folder.remove(name);
        })?;
        self.open = Some(Open {
            name,
            of: bare,
            parts: BTreeMap::from([(Part::Base, size)]),
            last: 0,
            begun_at: now,
            sealed: self.sealer.seal(KEY_CHECK, b""),
        });
        // Anew with each series: by the sealing key of now, and whatever has become of them.
        (self.keys, self.configured) = (None, None);
        Ok(())
    }

    /// Those that the fleet has, and those that only the file still has.
    fn keys_of_both(&self, fleet: &Fleet) -> OrdMap<Uuid, Arc<BackupKey>> {
        let mut keys = fleet.backup_keys.clone();
        let there = self.keys.iter();
        let only_there = there.flat_map(|(there, _)| there.diff(&fleet.backup_keys));
        for item in only_there {
            if let DiffItem::Remove(uid, key) = item {
                keys.insert(*uid, key.clone());
            }
        }
        keys
    }

    fn put_keys(
        &mut self,
        keys: &OrdMap<Uuid, Arc<BackupKey>>,
        fleet: &Fleet,
        now: UnixMs,
    ) -> Result<(), ShipError> {
        let same = |there: &Keys| there.0.ptr_eq(keys) || there.0 == *keys;
        if self.keys.as_ref().is_some_and(same) {
            return Ok(());
        }
        let put = |key: &Arc<BackupKey>| Write::Put(RecordValue::BackupKey(key.clone()));
        let writes: Vec<Write> = keys.values().map(put).collect();
        // Until it is known which of the two are there.
        self.keys = None;
        let size = self.put_one(Part::Keys, fleet, now, &writes, None)?;
        self.keys = Some((keys.clone(), size));
        Ok(())
    }

    fn put_configuration(&mut self, fleet: &Fleet, now: UnixMs) -> Result<(), ShipError> {
        if self.configured.is_none() {
            let it = Some(&self.configuration);
            self.configured = Some(self.put_one(Part::Configuration, fleet, now, &[], it)?);
        }
        Ok(())
    }

    /// Replaces a file that is not of a series.
    fn put_one(
        &self,
        part: Part,
        fleet: &Fleet,
        now: UnixMs,
        writes: &[Write],
        configuration: Option<&Configuration>,
    ) -> Result<u64, ShipError> {
        let series = self.newest.unwrap_or(Series(0));
        let head = head(series, part, now, fleet);
        let put = self.folder.put(series, part, |out| {
            format::write(out, &self.sealer, &head, writes, configuration)
        });
        Ok(put?)
    }

    /// Removes series whose time is over. What cannot be removed stays; the log says so.
    fn tidy(&self, now: UnixMs) {
        let tidied = || -> io::Result<()> {
            let all = self.folder.series()?;
            let kept = retention::kept(&all, now);
            for series in all.iter().filter(|series| !kept.contains(series)) {
                self.folder.remove(*series)?;
            }
            Ok(())
        };
        if let Err(error) = tidied() {
            let folder = self.folder.place();
            tracing::warn!(%folder, %error, "old copies of the coordinator's state are not removed");
        }
    }
}

/// Adds what has changed; nothing, if nothing has.
fn add(
    folder: &Folder,
    sealer: &Sealer,
    open: &mut Open,
    bare: Fleet,
    now: UnixMs,
) -> Result<(), ShipError> {
    let writes = written::between(&open.of, &bare);
    if writes.is_empty() {
        return Ok(());
    }
    let part = Part::Batch(open.last + 1);
    let head = head(open.name, part, now, &bare);
    let size = folder.put(open.name, part, |out| {
        format::write(out, sealer, &head, &writes, None)
    })?;
    open.parts.insert(part, size);
    (open.last, open.of) = (open.last + 1, bare);
    Ok(())
}

fn head(series: Series, part: Part, now: UnixMs, fleet: &Fleet) -> Head {
    Head::new(series, part, now, (fleet.incarnation, fleet.last_event))
}

/// Two maps of another length; everything else is shared.
pub(super) fn without_keys(fleet: &Fleet) -> Fleet {
    let mut bare = fleet.clone();
    (bare.backup_keys, bare.key_ends) = (OrdMap::new(), OrdSet::new());
    bare
}

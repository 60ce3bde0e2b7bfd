//! Removes from a bucket what was pruned here: snapshots that only the bucket has go if retention, which looks at both together, keeps
//! none of them; then what no snapshot needs.
//!
//! Blocks. Not here: what makes that safe (isyone-backup's copy), what is kept (its retention).

use std::{collections::BTreeMap, sync::Arc};

use isyone_backup::{
    self as backup, Job, Known, Repository, Tidied,
    store::{Kind, Name},
};
use isyone_fleet::backups::Policy;
use isyone_proto::{backup::RepositoryRef, ids::ShortName};
use jiff::Timestamp;

use super::{
    super::upkeep::{Upkeep, UpkeepError},
    Copies,
};

/// Brings everything there once more, and then removes. Nobody prunes meanwhile.
pub(super) fn tidy(
    upkeep: &Upkeep,
    copies: &Copies,
    of: &RepositoryRef,
    (plan, policy): (&ShortName, &Policy),
    (known, job): (&mut Known, &Job),
) -> Result<Tidied, UpkeepError> {
    let _turn = upkeep.at_work.blocking_lock();
    let repository = upkeep.open(of)?;
    let local = upkeep.places.local(of);
    let local = local.ok_or_else(|| UpkeepError::NoPlace(of.destination.clone()))?;
    let there = Arc::new(copies.repository(of.tenant));
    backup::copy(&local, &*there, known, job)?;
    let only = backup::only_in_copy(&local, &*there)?;
    let mut forgettable = std::collections::BTreeSet::new();
    if !only.is_empty() {
        let theirs = Repository::open(there.clone(), &upkeep.key(of.tenant)?)?;
        let mut snapshots = repository.snapshots()?.snapshots;
        for name in &only {
            match theirs.snapshot(*name) {
                Ok(snapshot) => snapshots.push(snapshot),
                // It stays, and with it whatever it may need.
                Err(backup::Error::Damaged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let arrived = arrived(copies, of, &only)?;
        forgettable = upkeep.forgettable(of, &snapshots, arrived, plan, policy);
    }
    let tidied = repository.tidy_copy(&*there, &forgettable)?;
    if tidied.removed > 0 {
        *known = Known::list(&*there)?;
    }
    Ok(tidied)
}

/// When they came there.
fn arrived(
    copies: &Copies,
    of: &RepositoryRef,
    only: &[Name],
) -> Result<BTreeMap<Name, Timestamp>, UpkeepError> {
    let folder = format!("{}/{}/", of.tenant, Kind::Snapshot.folder());
    let listed = copies.bucket.list(&folder)?;
    let named = listed.into_iter().filter_map(|object| {
        let name: Name = object.key.rsplit('/').next()?.parse().ok()?;
        let at = Timestamp::try_from(object.put_at?).ok()?;
        only.contains(&name).then_some((name, at))
    });
    Ok(named.collect())
}

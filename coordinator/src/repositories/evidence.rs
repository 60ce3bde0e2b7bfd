//! What is known here of the snapshots in a tenant's repository, but for what they say of themselves: whether somebody has ordered them,
//! and when they came. For retention, which believes nobody who may have been taken over.
//!
//! Not here: what follows (isyone-backup's retention).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use isyone_backup::{
    Evidence, Snapshot,
    store::{File, Kind, Name},
};
use isyone_fleet::state::State;
use isyone_proto::{backup::RepositoryRef, plan::UnixMs};
use jiff::Timestamp;

use super::places::Places;

/// A snapshot's time in its repository is the one that its host has told; no more than this apart.
const TOLD_WITHIN_MS: u64 = 60_000;

/// All of it. Blocks.
pub(super) fn of(
    state: &State,
    places: &Places,
    of: &RepositoryRef,
    snapshots: &[Snapshot],
) -> Evidence {
    let times: Vec<_> = snapshots
        .iter()
        .map(|s| (s.name, s.time.as_millisecond()))
        .collect();
    Evidence {
        ordered: ordered(state, of, &times),
        arrived: arrived(places, of, snapshots),
    }
}

/// When snapshots came here, by their files. One whose file does not tell is kept as if it had just come.
fn arrived(
    places: &Places,
    of: &RepositoryRef,
    snapshots: &[Snapshot],
) -> BTreeMap<Name, Timestamp> {
    let Some(place) = places.get(&of.destination) else {
        return BTreeMap::new();
    };
    let directory = place.repository(of.tenant);
    let arrived = |name: Name| {
        let path = directory.join(File::new(Kind::Snapshot, name).path());
        let modified = fs::metadata(path).and_then(|data| data.modified()).ok()?;
        Some((name, Timestamp::try_from(modified).ok()?))
    };
    snapshots.iter().filter_map(|s| arrived(s.name)).collect()
}

/// What a tenant's hosts have made there on order; not what a host only says that it has made, and not what says another time in its
/// repository than its host has told.
fn ordered(state: &State, of: &RepositoryRef, times: &[(Name, UnixMs)]) -> BTreeSet<Name> {
    let backups = state.fleet.backups.get(&of.tenant);
    let made = backups.and_then(|backups| backups.made.get(&of.destination));
    let all = made.into_iter().flat_map(|made| &made.snapshots);
    let told: BTreeMap<_, _> = all
        .filter(|known| !known.only_said)
        .map(|known| (known.name.0, known.at))
        .collect();
    let as_told = |(name, time): &&(Name, UnixMs)| {
        let at = told.get(&name.0);
        at.is_some_and(|at| at.abs_diff(*time) <= TOLD_WITHIN_MS)
    };
    let found = times.iter().filter(as_told);
    found.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isyone_fleet::desired::{
        Fleet,
        backups::{Made, SnapshotMade, TenantBackups},
    };
    use isyone_proto::backup::{BackupPurpose, BackupWork, SnapshotName};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn ordered_is_what_answers_an_order_and_says_the_same_time_everywhere() {
        let (tenant, destination) = (Uuid::from_u128(1), "main".parse().unwrap());
        let of = RepositoryRef {
            tenant,
            destination,
        };
        let told = |number: u8, only_said| SnapshotMade {
            name: SnapshotName([number; 32]),
            work: BackupWork::Base,
            purpose: BackupPurpose::Scheduled,
            at: 1_000_000,
            ended_at: 1_000_000,
            read_bytes: 1,
            stored_bytes: 1,
            labels: Vec::new(),
            only_said,
        };
        let there = |number: u8, ms| (Name([number; 32]), ms);
        let mut backups = TenantBackups::new(tenant, "alfa".parse().unwrap());
        let made = Made {
            snapshots: vec![told(1, false), told(2, false), told(3, true)],
            ..Made::default()
        };
        backups.made.insert(of.destination.clone(), made);
        let mut fleet = Fleet::default();
        fleet.backups.insert(tenant, Arc::new(backups));
        let year = 365 * 24 * 3_600_000;
        let all = [
            there(1, 1_000_000),
            there(2, 1_000_000 + year),
            there(3, 1_000_000),
            there(4, 1_000_000),
        ];
        let found = ordered(&State::new(fleet, 0), &of, &all);
        assert_eq!(found, BTreeSet::from([Name([1; 32])]));
    }
}

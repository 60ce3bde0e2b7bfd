//! How full a tenant's disk is, in bytes and in files, measured against its plan, and what follows from that. Pure.
//!
//! Not here: measuring (the agent), refusing uploads (the edge, by the coordinator's configuration).

/// What follows from how full a tenant's disk is; each step includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum DiskState {
    /// There is room.
    #[default]
    Free,
    /// Operators are warned.
    Warned,
    /// The edges refuse uploads.
    UploadsRefused,
    /// Odoo is stopped; PostgreSQL runs, and nobody is connected to it over the network.
    Stopped,
    /// It went on filling: PostgreSQL is stopped as well.
    DatabaseStopped,
}

/// For each state: the share of the plan's disk, per mille, from which on it holds, and below which it ends. Between the
/// two it stays as it is, so that a tenant at a border does not stop and start with each file.
const STEPS: [(DiskState, u64, u64); 4] = [
    // Room above the limit for whoever makes room: what is deleted in PostgreSQL is written to its log first.
    (DiskState::DatabaseStopped, 1100, 1050),
    (DiskState::Stopped, 1000, 950),
    (DiskState::UploadsRefused, 950, 900),
    (DiskState::Warned, 800, 750),
];

/// A plan has one file or directory for so many bytes of its disk, as mkfs.ext4 gives a file system: who is within it cannot
/// take the inodes of those who share his disk.
const BYTES_PER_INODE: u64 = 16 << 10;
/// Every plan has as many, however small: a database of Odoo's alone is some thousands of files.
const LEAST_INODES: u64 = 10_000;

/// Files and directories that a plan with so large a disk has; 0: there is no limit, as there is none for bytes.
pub const fn inodes_of(limit_bytes: u64) -> u64 {
    let share = limit_bytes / BYTES_PER_INODE;
    match limit_bytes {
        0 => 0,
        _ if share < LEAST_INODES => LEAST_INODES,
        _ => share,
    }
}

/// The state of something of which `used` is used of `limit` (0: there is no limit), after it was in `before` under the same
/// limit; `None`: that is not known.
pub fn decide(used: u64, limit: u64, before: Option<DiskState>) -> DiskState {
    if limit == 0 {
        return DiskState::Free;
    }
    let reaches =
        |permille: u64| u128::from(used) * 1000 >= u128::from(limit) * u128::from(permille);
    let holds = |(state, begins, ends): &(DiskState, u64, u64)| {
        reaches(*begins) || (before >= Some(*state) && reaches(*ends))
    };
    let step = STEPS.iter().find(|step| holds(step));
    step.map_or(DiskState::Free, |(state, ..)| *state)
}

/// What keeps a tenant within its plan's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DiskMeans {
    /// What it uses is counted now and then, and acted upon.
    #[default]
    Counted,
    /// Besides, the file system refuses what Odoo's volume would hold beyond the plan.
    Quota,
}

/// Where a tenant's data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskPlace {
    /// PostgreSQL's volume.
    Postgres,
    /// Odoo's volume.
    Odoo,
    /// What its containers have written beside these.
    Beside,
}

/// What a tenant's disk was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// Both volumes, and what its containers have written beside them, bytes.
    pub bytes: u64,
    /// Files and directories there.
    pub inodes: u64,
    /// Where directories are nested so deep that what is below them was not counted.
    pub too_deep: Option<DiskPlace>,
}

impl DiskUse {
    /// So many bytes, in no files.
    pub const fn of_bytes(bytes: u64) -> Self {
        Self {
            bytes,
            inodes: 0,
            too_deep: None,
        }
    }
}

/// What a disk's state is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskCause {
    /// The bytes used.
    Bytes,
    /// The number of files and directories.
    Inodes,
    /// What is nested too deep to be counted: a larger plan does not help.
    Depth(DiskPlace),
}

/// A tenant's disk, as its host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disk {
    /// Both volumes, and what its containers have written beside them, bytes.
    pub used_bytes: u64,
    /// The plan's, bytes.
    pub limit_bytes: u64,
    /// Files and directories there.
    pub used_inodes: u64,
    /// How many the plan has ([`inodes_of`]); 0: they are not limited, or its host does not count them.
    pub limit_inodes: u64,
    /// Where directories are nested too deep to be counted; then it is as if full.
    pub too_deep: Option<DiskPlace>,
    /// What follows: the worst of all.
    pub state: DiskState,
    /// What follows from the bytes alone. Known on its host; elsewhere as `state`.
    pub by_bytes: DiskState,
    /// Likewise, from the number of files and directories.
    pub by_inodes: DiskState,
    /// What keeps it within the limit.
    pub means: DiskMeans,
}

impl DiskState {
    /// Whether Odoo must not run.
    pub fn stops_odoo(self) -> bool {
        self >= Self::Stopped
    }

    /// Whether PostgreSQL must not run either.
    pub fn stops_postgres(self) -> bool {
        self >= Self::DatabaseStopped
    }
}

impl Disk {
    /// The disk after a measurement, or under another limit; `before` is what was known until then. What held under
    /// another limit does not count: a larger plan frees a tenant at once. What could not be counted is as much as the
    /// plan's disk, whatever that is: else nesting were a way past it.
    pub fn after(before: Option<&Self>, used: DiskUse, limit_bytes: u64, means: DiskMeans) -> Self {
        let same = before.filter(|before| before.limit_bytes == limit_bytes);
        let limit_inodes = inodes_of(limit_bytes);
        let by_bytes = decide(used.bytes, limit_bytes, same.map(|before| before.by_bytes));
        let by_inodes = decide(
            used.inodes,
            limit_inodes,
            same.map(|before| before.by_inodes),
        );
        let counted = by_bytes.max(by_inodes);
        let hides = used.too_deep.is_some() && limit_bytes > 0;
        Self {
            used_bytes: used.bytes,
            limit_bytes,
            used_inodes: used.inodes,
            limit_inodes,
            too_deep: used.too_deep,
            state: match hides {
                true => counted.max(DiskState::Stopped),
                false => counted,
            },
            by_bytes,
            by_inodes,
            means,
        }
    }

    /// What it was found to hold.
    pub fn used(&self) -> DiskUse {
        DiskUse {
            bytes: self.used_bytes,
            inodes: self.used_inodes,
            too_deep: self.too_deep,
        }
    }

    /// What its state is about: the nearest of its limits.
    pub fn cause(&self) -> DiskCause {
        let share = |used: u64, limit: u64| {
            let share = u128::from(used) * 1000;
            share.checked_div(u128::from(limit)).unwrap_or(0)
        };
        let bytes = (self.by_bytes, share(self.used_bytes, self.limit_bytes));
        let inodes = (self.by_inodes, share(self.used_inodes, self.limit_inodes));
        match self.too_deep {
            Some(place) => DiskCause::Depth(place),
            None if inodes > bytes => DiskCause::Inodes,
            None => DiskCause::Bytes,
        }
    }

    /// How many more bytes take it to the next state; `None`: there is none.
    pub fn until_next(&self) -> Option<u64> {
        self.until(self.used_bytes, self.limit_bytes)
    }

    /// Likewise, how many more files and directories.
    pub fn until_next_inodes(&self) -> Option<u64> {
        self.until(self.used_inodes, self.limit_inodes)
    }

    fn until(&self, used: u64, limit: u64) -> Option<u64> {
        let next = STEPS.iter().rev().find(|(state, ..)| *state > self.state);
        let (_, begins, _) = next.filter(|_| limit > 0)?;
        let from = u128::from(limit) * u128::from(*begins) / 1000;
        Some(u64::try_from(from).unwrap_or(u64::MAX).saturating_sub(used))
    }

    /// Share of the limit that is used, percent, rounded down; 0 without a limit.
    pub fn percent(&self) -> u64 {
        percent(self.used_bytes, self.limit_bytes)
    }

    /// Likewise of files and directories.
    pub fn inodes_percent(&self) -> u64 {
        percent(self.used_inodes, self.limit_inodes)
    }
}

fn percent(used: u64, limit: u64) -> u64 {
    let share = (u128::from(used) * 100).checked_div(u128::from(limit));
    u64::try_from(share.unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{DiskState::*, *};

    const ALL: [DiskState; 5] = [Free, Warned, UploadsRefused, Stopped, DatabaseStopped];

    fn before() -> impl Strategy<Value = Option<DiskState>> {
        proptest::option::of(proptest::sample::select(&ALL[..]))
    }

    #[test]
    fn a_disk_fills_and_is_freed_again() {
        let mut state = None;
        for (used, expected) in [
            (0, Free),
            (799, Free),
            (800, Warned),
            (760, Warned),
            (949, Warned),
            (950, UploadsRefused),
            (999, UploadsRefused),
            (1000, Stopped),
            (1099, Stopped),
            (1100, DatabaseStopped),
            (5000, DatabaseStopped),
            (1050, DatabaseStopped),
            (1049, Stopped),
            (950, Stopped),
            (949, UploadsRefused),
            (900, UploadsRefused),
            (899, Warned),
            (750, Warned),
            (749, Free),
            (1000, Stopped),
            (10, Free),
        ] {
            let now = decide(used, 1000, state);
            assert_eq!(now, expected, "{used} after {state:?}");
            state = Some(now);
        }
    }

    #[test]
    fn a_larger_plan_frees_at_once() {
        let full = Disk::after(None, DiskUse::of_bytes(1000), 1000, DiskMeans::Counted);
        assert_eq!(full.state, Stopped);
        let same = Disk::after(
            Some(&full),
            DiskUse::of_bytes(960),
            1000,
            DiskMeans::Counted,
        );
        assert_eq!(same.state, Stopped);
        let beyond = Disk::after(
            Some(&full),
            DiskUse::of_bytes(1100),
            1000,
            DiskMeans::Counted,
        );
        assert_eq!(beyond.state, DatabaseStopped);
        let raised = Disk::after(
            Some(&beyond),
            DiskUse::of_bytes(1060),
            1060,
            DiskMeans::Counted,
        );
        assert_eq!(raised.state, Stopped, "PostgreSQL runs, Odoo does not");
        let raised = Disk::after(
            Some(&full),
            DiskUse::of_bytes(1000),
            1040,
            DiskMeans::Counted,
        );
        assert_eq!((raised.state, raised.percent()), (UploadsRefused, 96));
        assert_eq!(
            Disk::after(
                Some(&full),
                DiskUse::of_bytes(1000),
                2000,
                DiskMeans::Counted
            )
            .state,
            Free
        );
    }

    fn used(bytes: u64, inodes: u64) -> DiskUse {
        DiskUse {
            bytes,
            inodes,
            too_deep: None,
        }
    }

    #[test]
    fn files_have_a_limit_of_their_own_which_grows_with_the_plan() {
        const GIB: u64 = 1 << 30;
        assert_eq!(inodes_of(10 * GIB), 655_360);
        assert_eq!((inodes_of(1), inodes_of(0)), (10_000, 0));
        let mut disk = Disk::default();
        for (inodes, expected) in [
            (50_000, Free),
            (53_000, Warned),
            (62_500, UploadsRefused),
            (65_536, Stopped),
            (63_000, Stopped),
            (62_000, UploadsRefused),
            (1_000, Free),
        ] {
            disk = Disk::after(Some(&disk), used(7, inodes), GIB, DiskMeans::Counted);
            assert_eq!(disk.state, expected, "{inodes}");
            assert_eq!(disk.cause(), DiskCause::Inodes);
        }
        let full = Disk::after(None, used(7, 65_536), GIB, DiskMeans::Counted);
        assert_eq!((full.inodes_percent(), full.percent()), (100, 0));
        let raised = Disk::after(Some(&full), full.used(), 2 * GIB, DiskMeans::Counted);
        assert_eq!(raised.state, Free);
    }

    /// Fails when one state is remembered for both: what was stopped for its files would stay so for bytes that never were
    /// beyond their limit.
    #[test]
    fn bytes_and_files_remember_each_their_own_state() {
        let limit = inodes_of(1_000);
        let full = Disk::after(None, used(960, limit), 1_000, DiskMeans::Counted);
        assert_eq!((full.state, full.cause()), (Stopped, DiskCause::Inodes));
        let freed = Disk::after(Some(&full), used(960, 0), 1_000, DiskMeans::Counted);
        assert_eq!(
            (freed.state, freed.cause()),
            (UploadsRefused, DiskCause::Bytes)
        );
    }

    #[test]
    fn what_cannot_be_counted_is_full_under_any_plan_until_it_can() {
        let deep = DiskUse {
            too_deep: Some(DiskPlace::Odoo),
            ..used(7, 7)
        };
        let full = Disk::after(None, deep, 1 << 30, DiskMeans::Counted);
        let cause = DiskCause::Depth(DiskPlace::Odoo);
        assert_eq!((full.state, full.cause()), (Stopped, cause));
        let raised = Disk::after(Some(&full), full.used(), 1 << 40, DiskMeans::Counted);
        assert_eq!(raised.state, Stopped);
        let unlimited = Disk::after(None, deep, 0, DiskMeans::Counted);
        assert_eq!(unlimited.state, Free);
        let freed = Disk::after(Some(&full), used(7, 7), 1 << 30, DiskMeans::Counted);
        assert_eq!(freed.state, Free);
    }

    proptest! {
        #[test]
        fn more_is_never_freer_and_the_past_never_makes_it_so(
            used in any::<u64>(), more in any::<u64>(), limit in any::<u64>(), before in before()
        ) {
            let now = decide(used, limit, before);
            prop_assert!(decide(used.saturating_add(more), limit, before) >= now);
            prop_assert!(now >= decide(used, limit, None));
            prop_assert!(now <= before.unwrap_or(Free).max(decide(used, limit, None)));
        }

        #[test]
        fn measuring_again_changes_nothing(used in any::<u64>(), limit in any::<u64>(), before in before()) {
            let now = decide(used, limit, before);
            prop_assert_eq!(decide(used, limit, Some(now)), now);
        }

        #[test]
        fn at_the_limit_it_stops_and_with_room_it_does_not(limit in 1..u64::MAX, before in before()) {
            prop_assert!(decide(limit, limit, before).stops_odoo() && !decide(limit, limit, before).stops_postgres());
            let beyond = limit.saturating_add(limit / 10 + 1);
            prop_assert!(decide(beyond, limit, before).stops_postgres() || beyond == u64::MAX);
            prop_assert_eq!(decide(limit / 10 * 7, limit, before), Free);
            prop_assert_eq!(decide(limit, 0, before), Free);
        }

        #[test]
        fn the_way_to_the_next_state_is_as_long_as_it_says(used in 0u64..4_000, limit in 0u64..2_000, before in before()) {
            let state = decide(used, limit, before);
            let disk = Disk { used_bytes: used, limit_bytes: limit, used_inodes: used, limit_inodes: limit, state, ..Disk::default() };
            prop_assert_eq!(disk.until_next(), disk.until_next_inodes());
            match disk.until_next() {
                // Rounded down: a byte early at most.
                Some(more) => prop_assert!(decide(used + more + 1, limit, Some(disk.state)) > disk.state),
                None => prop_assert!(disk.state == DatabaseStopped || limit == 0),
            }
        }
    }
}

//! How full a tenant's disk is, measured against its plan, and what follows from that. Pure.
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

/// The state of a disk of which `used_bytes` are used of `limit_bytes` (0: there is no limit), after it was in `before`
/// under the same limit; `None`: that is not known.
pub fn decide(used_bytes: u64, limit_bytes: u64, before: Option<DiskState>) -> DiskState {
    if limit_bytes == 0 {
        return DiskState::Free;
    }
    let reaches = |permille: u64| {
        u128::from(used_bytes) * 1000 >= u128::from(limit_bytes) * u128::from(permille)
    };
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

/// A tenant's disk, as its host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disk {
    /// Both volumes, and what its containers have written beside them, bytes.
    pub used_bytes: u64,
    /// The plan's, bytes.
    pub limit_bytes: u64,
    /// What follows.
    pub state: DiskState,
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
    /// another limit does not count: a larger plan frees a tenant at once.
    pub fn after(
        before: Option<&Self>,
        used_bytes: u64,
        limit_bytes: u64,
        means: DiskMeans,
    ) -> Self {
        let same = before.filter(|before| before.limit_bytes == limit_bytes);
        Self {
            used_bytes,
            limit_bytes,
            state: decide(used_bytes, limit_bytes, same.map(|before| before.state)),
            means,
        }
    }

    /// How many more bytes take it to the next state; `None`: there is none.
    pub fn until_next(&self) -> Option<u64> {
        let next = STEPS.iter().rev().find(|(state, ..)| *state > self.state);
        let (_, begins, _) = next.filter(|_| self.limit_bytes > 0)?;
        let from = u128::from(self.limit_bytes) * u128::from(*begins) / 1000;
        Some(
            u64::try_from(from)
                .unwrap_or(u64::MAX)
                .saturating_sub(self.used_bytes),
        )
    }

    /// Share of the limit that is used, percent, rounded down; 0 without a limit.
    pub fn percent(&self) -> u64 {
        let share = u128::from(self.used_bytes) * 100;
        let percent = share.checked_div(u128::from(self.limit_bytes)).unwrap_or(0);
        u64::try_from(percent).unwrap_or(u64::MAX)
    }
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
        let full = Disk::after(None, 1000, 1000, DiskMeans::Counted);
        assert_eq!(full.state, Stopped);
        let same = Disk::after(Some(&full), 960, 1000, DiskMeans::Counted);
        assert_eq!(same.state, Stopped);
        let beyond = Disk::after(Some(&full), 1100, 1000, DiskMeans::Counted);
        assert_eq!(beyond.state, DatabaseStopped);
        let raised = Disk::after(Some(&beyond), 1060, 1060, DiskMeans::Counted);
        assert_eq!(raised.state, Stopped, "PostgreSQL runs, Odoo does not");
        let raised = Disk::after(Some(&full), 1000, 1040, DiskMeans::Counted);
        assert_eq!((raised.state, raised.percent()), (UploadsRefused, 96));
        assert_eq!(
            Disk::after(Some(&full), 1000, 2000, DiskMeans::Counted).state,
            Free
        );
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
            let disk = Disk { used_bytes: used, limit_bytes: limit, state: decide(used, limit, before), means: DiskMeans::Counted };
            match disk.until_next() {
                // Rounded down: a byte early at most.
                Some(more) => prop_assert!(decide(used + more + 1, limit, Some(disk.state)) > disk.state),
                None => prop_assert!(disk.state == DatabaseStopped || limit == 0),
            }
        }
    }
}

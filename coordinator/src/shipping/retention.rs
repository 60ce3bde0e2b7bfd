//! Which series stay at a destination. Pure.
//!
//! Not here: removing the others (ship).

use std::collections::BTreeSet;

use isyone_proto::plan::UnixMs;

use super::format::Series;

/// The newest ones, so that one which is damaged does not cost everything.
const LAST: usize = 2;
/// And the last one of each of so many days, for who notices a mistake a day later.
const DAYS: i64 = 7;
const DAY_MS: i64 = 86_400_000;

/// Those that stay; the newest always does.
pub(super) fn kept(all: &[Series], now: UnixMs) -> BTreeSet<Series> {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let day = |series: &Series| series.0.div_euclid(DAY_MS);
    let oldest_day = now.div_euclid(DAY_MS) - DAYS;
    let mut kept: BTreeSet<Series> = sorted.iter().rev().take(LAST).copied().collect();
    let last_of_its_day = sorted
        .windows(2)
        .filter(|pair| day(&pair[0]) != day(&pair[1]));
    let daily = last_of_its_day.map(|pair| pair[0]);
    // A clock that was ahead has named some that no day of ours ends.
    kept.extend(daily.filter(|series| (oldest_day..=oldest_day + DAYS).contains(&day(series))));
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_newest_stay_one_of_each_day_and_never_more(
            times in prop::collection::btree_set(0..30 * DAY_MS, 1..200),
            now in 0..31 * DAY_MS,
        ) {
            let all: Vec<Series> = times.into_iter().map(Series).collect();
            let kept = kept(&all, now);
            prop_assert!(kept.len() <= LAST + DAYS as usize + 1);
            prop_assert!(kept.contains(all.last().unwrap()));
            for series in &all {
                let day = series.0.div_euclid(DAY_MS);
                let is_recent = (now.div_euclid(DAY_MS) - DAYS..=now.div_euclid(DAY_MS)).contains(&day);
                let newest = all.iter().rfind(|other| other.0.div_euclid(DAY_MS) == day);
                if is_recent {
                    prop_assert!(kept.contains(newest.unwrap()));
                }
            }
            // What is kept is kept again.
            let again: Vec<Series> = kept.iter().copied().collect();
            prop_assert_eq!(super::kept(&again, now), kept);
        }
    }
}

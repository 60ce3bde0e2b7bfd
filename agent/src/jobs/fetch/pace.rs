//! How slowly a source may give before an attempt ends: a job that waits holds one of the host's few turns, so who drips
//! gives it up to the next job in the queue, and is tried again after that. Pure.
//!
//! Only the time counts that is spent waiting for the source, not that of our own disk and rate.
//! Not here: the waiting (the parent).

use std::time::Duration;

use crate::peer::STALL;

/// What must come within [`STALL`] of waiting: some 17 KiB/s, which is less than any line between two hosts gives, and at
/// which a copy could not end within its day anyway.
const LEAST: u64 = 1 << 20;
/// What an entry counts as beside its bytes: a busy disk finds more than the 256 small files a minute that this asks for.
const ENTRY: u64 = 4 << 10;

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    Bytes(usize),
    /// So many entries of a list, or the end of a file.
    Entries(usize),
    /// A sign of life while the source compares what is here.
    Working,
}

#[derive(Debug)]
pub(super) struct Pace {
    waited: Duration,
    moved: u64,
    /// What the source compares for an entry without sending it, on average.
    compared: u64,
    /// Signs of life that count: an honest source sends no more.
    signs: u64,
}

impl Pace {
    /// Of a list.
    pub(super) fn of_list() -> Self {
        Self::of_files(0, 0, 0)
    }

    /// Of that many files, of which `here` bytes are only compared, with a sign of life after each `sign`.
    pub(super) fn of_files(files: u64, here: u64, sign: u64) -> Self {
        Self {
            waited: Duration::ZERO,
            moved: 0,
            compared: here.checked_div(files).unwrap_or(0),
            signs: here.checked_div(sign).unwrap_or(0),
        }
    }

    /// How long the next message may take.
    pub(super) fn left(&self) -> Duration {
        STALL.saturating_sub(self.waited)
    }

    /// Something came after this long.
    pub(super) fn came(&mut self, after: Duration, what: Came) {
        self.waited += after;
        self.moved += match what {
            Came::Bytes(bytes) => bytes as u64,
            Came::Entries(entries) => (entries as u64).saturating_mul(ENTRY + self.compared),
            Came::Working if self.signs > 0 => {
                self.signs -= 1;
                LEAST
            }
            Came::Working => 0,
        };
        if self.moved >= LEAST {
            (self.waited, self.moved) = (Duration::ZERO, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds until a source is given up that sends this once a second; `None`: it is not within an hour.
    fn given_up(mut pace: Pace, what: Came) -> Option<usize> {
        (0..3_600).find(|_| {
            pace.came(SECOND, what);
            pace.left().is_zero()
        })
    }

    #[test]
    fn who_drips_is_given_up_and_who_is_only_slow_is_not() {
        let list = Pace::of_list;
        assert_eq!(given_up(list(), Came::Bytes(1)), Some(59));
        assert_eq!(given_up(list(), Came::Entries(1)), Some(59));
        assert_eq!(given_up(list(), Came::Bytes(18 << 10)), None);
        assert_eq!(given_up(list(), Came::Entries(5)), None);
        // Files that are here already are compared there, which takes as long as they are large.
        let compares = || Pace::of_files(1_000, 20 << 30, 64 << 20);
        assert_eq!(given_up(compares(), Came::Entries(1)), None);
        // Signs of life alone end with what there is to compare.
        assert_eq!(given_up(compares(), Came::Working), Some(320 + 59));
        assert_eq!(given_up(list(), Came::Working), Some(59));
    }

    #[test]
    fn time_counts_until_enough_has_come() {
        let mut pace = Pace::of_list();
        assert_eq!(pace.left(), STALL);
        pace.came(50 * SECOND, Came::Bytes(1 << 19));
        assert_eq!(pace.left(), STALL - 50 * SECOND);
        pace.came(9 * SECOND, Came::Bytes(1 << 19));
        assert_eq!(pace.left(), STALL);
    }
}

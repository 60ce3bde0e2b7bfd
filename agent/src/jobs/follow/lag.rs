//! How far a copy that follows is behind, in bytes and in time. Pure.
//!
//! Time is what of the other host's log of how long ago is all here: neither host's clock is compared with the other's. Not here: asking
//! them (the parent).

use std::{collections::VecDeque, time::Duration};

use isyone_proto::report::Behind;
use tokio::time::Instant;

/// Positions that are remembered; of a copy that is further behind, every other one is forgotten.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Lag {
    /// When the other one's log ended where, oldest first; of what is here, only the newest.
    seen: VecDeque<(Instant, u64)>,
    missing: u64,
}

impl Lag {
    /// The other one's log ends at `written` now, and `applied` of it is here.
    pub(super) fn note(&mut self, now: Instant, written: u64, applied: u64) {
        if self.seen.len() >= MOST {
            let mut at = 0;
            self.seen.retain(|_| {
                at += 1;
                at == 1 || at % 2 == 0
            });
        }
        self.seen.push_back((now, written));
        while self.seen.get(1).is_some_and(|(_, end)| *end <= applied) {
            self.seen.pop_front();
        }
        self.missing = written.saturating_sub(applied);
    }

    /// How far it is behind, with files as of a pass that began then; `None`: nobody has looked. `unseen`: it is not known how far it has
    /// come since the last look, so that is as long ago as what it had then, at least.
    pub(super) fn behind(&self, now: Instant, pass: Instant, unseen: bool) -> Option<Behind> {
        let ms = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let (first, last) = (self.seen.front()?.0, self.seen.back()?.0);
        let whole = match (self.missing > 0, unseen) {
            (true, _) => first,
            (false, true) => last,
            (false, false) => now,
        };
        Some(Behind {
            bytes: self.missing,
            ms: ms(now.saturating_duration_since(whole)),
            files_ms: ms(now.saturating_duration_since(pass)),
            unlogged: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_as_old_as_the_newest_end_of_the_log_that_it_has() {
        let begin = Instant::now();
        let at = |s: u64| begin + Duration::from_secs(s);
        let mut lag = Lag::default();
        assert_eq!(lag.behind(begin, begin, false), None);
        let told = |lag: &Lag, now: u64| {
            let behind = lag.behind(at(now), begin, false).unwrap();
            (behind.bytes, behind.ms / 1000)
        };
        lag.note(at(0), 100, 100);
        assert_eq!(told(&lag, 0), (0, 0));
        lag.note(at(5), 200, 100);
        assert_eq!(told(&lag, 5), (100, 5));
        lag.note(at(10), 300, 150);
        assert_eq!(told(&lag, 10), (150, 10));
        lag.note(at(15), 300, 250);
        assert_eq!(told(&lag, 15), (50, 10));
        lag.note(at(20), 300, 300);
        assert_eq!(told(&lag, 20), (0, 0));
        assert_eq!(told(&lag, 25), (0, 0));
        let behind = |unseen| lag.behind(at(25), at(7), unseen).unwrap();
        assert_eq!(behind(false).files_ms, 18_000);
        // What was written since the last look is not known.
        assert_eq!((behind(true).bytes, behind(true).ms), (0, 5_000));
    }

    #[test]
    fn one_that_never_comes_up_takes_no_more_memory() {
        let begin = Instant::now();
        let mut lag = Lag::default();
        lag.note(begin, 0, 0);
        for s in 1..10_000 {
            lag.note(begin + Duration::from_secs(s), s, 0);
            assert!(lag.seen.len() <= MOST);
        }
        let now = begin + Duration::from_secs(9_999);
        assert_eq!(lag.behind(now, now, false).unwrap().ms, 9_999_000);
    }
}

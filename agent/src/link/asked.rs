//! When the reports of a session were begun that are not acknowledged yet: what an acknowledgement grants counts from then.
//!
//! Not here: what it grants (host::leases).

use std::collections::VecDeque;

/// So many at most; the coordinator acknowledges each at once, so that one which it has not by then is none.
const MOST: usize = 64;

/// Reports of one session.
#[derive(Debug, Default)]
pub(super) struct Asked(VecDeque<(u64, u64)>);

impl Asked {
    /// A report of this number was begun at this moment of the machine's time since its boot.
    pub(super) fn note(&mut self, sequence: u64, at_ms: u64) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((sequence, at_ms));
    }

    /// It is acknowledged: when it was begun. `None`: there is no such report, or it was acknowledged before.
    pub(super) fn answered(&mut self, sequence: u64) -> Option<u64> {
        let at = self.0.iter().position(|(number, _)| *number == sequence)?;
        // Those before it are not acknowledged any more.
        self.0.drain(..=at).next_back().map(|(_, at_ms)| at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_report_counts_once_and_from_its_own_beginning() {
        let mut asked = Asked::default();
        for n in 1..=3 {
            asked.note(n, n * 10);
        }
        assert_eq!(asked.answered(2), Some(20));
        assert_eq!((asked.answered(1), asked.answered(2)), (None, None));
        assert_eq!((asked.answered(9), asked.answered(3)), (None, Some(30)));
        for n in 4..=4 + MOST as u64 {
            asked.note(n, n * 10);
        }
        assert_eq!(asked.0.len(), MOST);
        assert_eq!((asked.answered(4), asked.answered(5)), (None, Some(50)));
    }
}

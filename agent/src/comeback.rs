//! When an agent comes back after its session ended. Pure: how sessions ended goes in, a span of waiting comes out; where in it the
//! agent comes back is drawn evenly (full jitter), so that a fleet that lost its coordinator at one moment does not knock at one.
//!
//! Not here: sessions (link), drawing (clock).

use std::time::Duration;

use crate::{clock::backoff, link::SessionError};

/// Bounds of the back-off between sessions: quick after a coordinator's restart, polite to one that is down.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(15);
/// Bounds of the back-off after another agent with our identity took the session over: two machines with one identity (a
/// cloned disk) would otherwise take it from each other for ever. Short at first, because the other one may just have been
/// an agent that is ending.
const DISPLACED_FIRST: Duration = Duration::from_secs(4);
const DISPLACED_CAP: Duration = Duration::from_secs(600);
/// A session that lived so long was a good one: the next failure starts the back-off anew.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// The longest absence that a coordinator can ask for: whatever it says, a host is back within two minutes.
const ASKED_CAP: Duration = Duration::from_secs(60);

/// A wait is drawn evenly from this span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// At least.
    pub least: Duration,
    /// At most.
    pub most: Duration,
}

impl Span {
    fn up_to(most: Duration) -> Self {
        Self { least: Duration::ZERO, most }
    }
}

/// Remembers how the last sessions went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Comeback {
    attempt: u32,
    displaced: u32,
}

impl Comeback {
    /// How long to wait after a session that ended like this and lived (or tried to) for `lived`.
    pub fn after(&mut self, ended: &Result<(), SessionError>, lived: Duration) -> Span {
        if lived > GOOD_SESSION {
            self.attempt = 0;
        }
        let attempt = self.attempt;
        self.attempt = self.attempt.saturating_add(1);
        let usual = backoff(attempt, RETRY_FIRST, RETRY_CAP);
        match ended {
            // For a fresh certificate.
            Ok(()) => Span::up_to(Duration::ZERO),
            Err(SessionError::Displaced) => {
                let wait = backoff(self.displaced, DISPLACED_FIRST, DISPLACED_CAP);
                self.displaced = self.displaced.saturating_add(1);
                Span { least: wait / 2, most: wait }
            }
            // It says itself when it can take us; twice that, so that those who heard the same do not come at once.
            Err(SessionError::Later { after, .. }) => {
                let after = (*after).min(ASKED_CAP);
                Span { least: after, most: (after * 2).max(usual) }
            }
            Err(SessionError::Tls(_) | SessionError::Ended(_)) => Span::up_to(usual),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::jitter;

    fn broken() -> Result<(), SessionError> {
        Err(SessionError::Ended("connection reset".to_owned()))
    }

    #[test]
    fn the_first_try_is_quick_and_later_ones_are_rarer_but_never_rarer_than_the_cap() {
        let mut comeback = Comeback::default();
        let waits: Vec<_> = (0..20).map(|_| comeback.after(&broken(), Duration::ZERO)).collect();
        assert_eq!(waits[0], Span::up_to(Duration::from_millis(200)));
        assert_eq!(waits[1], Span::up_to(Duration::from_millis(400)));
        assert!(waits.iter().all(|w| w.least.is_zero() && w.most <= RETRY_CAP));
        assert_eq!(waits[19].most, RETRY_CAP);
        let anew = comeback.after(&broken(), Duration::from_secs(31));
        assert_eq!(anew.most, RETRY_FIRST);
    }

    #[test]
    fn what_the_coordinator_asks_for_is_kept_within_bounds() {
        let mut comeback = Comeback::default();
        let later =
            |seconds| Err(SessionError::Later { why: String::new(), after: Duration::from_secs(seconds) });
        let span = comeback.after(&later(4), Duration::ZERO);
        assert_eq!((span.least, span.most), (Duration::from_secs(4), Duration::from_secs(8)));
        let span = comeback.after(&later(1_000_000), Duration::ZERO);
        assert_eq!((span.least, span.most), (ASKED_CAP, ASKED_CAP * 2));
        // A coordinator that keeps saying "at once" is still backed off from.
        let waits: Vec<_> = (0..20).map(|_| comeback.after(&later(0), Duration::ZERO).most).collect();
        assert_eq!(waits[19], RETRY_CAP);
    }

    /// Ten thousand agents lose their coordinator at one moment; it is back after five seconds. At which second each one's first
    /// successful try begins.
    fn fleet_comes_back() -> Vec<f64> {
        let one = |_| {
            let (mut comeback, mut at) = (Comeback::default(), Duration::ZERO);
            loop {
                let span = comeback.after(&broken(), Duration::ZERO);
                at += span.least + jitter(span.most - span.least);
                if at >= Duration::from_secs(5) {
                    return at.as_secs_f64();
                }
            }
        };
        (0..10_000).map(one).collect()
    }

    #[test]
    fn a_fleet_does_not_come_back_in_one_moment_and_is_back_soon() {
        let back = fleet_comes_back();
        let mut by_second = [0_u32; 30];
        for at in &back {
            by_second[*at as usize] += 1;
        }
        assert!(by_second.iter().all(|n| *n < 4_000), "{by_second:?}");
        assert!(back.iter().all(|at| *at < 21.0), "{by_second:?}");
    }

    #[test]
    fn a_taken_identity_is_left_alone_for_longer_each_time() {
        let mut comeback = Comeback::default();
        let waits: Vec<_> =
            (0..9).map(|_| comeback.after(&Err(SessionError::Displaced), Duration::ZERO)).collect();
        assert_eq!(waits[0], Span { least: Duration::from_secs(2), most: Duration::from_secs(4) });
        assert_eq!(waits[8].most, DISPLACED_CAP);
    }
}

//! How long an agent waits before it comes back after its session ended. Pure: takes how sessions ended, returns a span
//! of waiting times; the wait is drawn uniformly from it (full jitter), so that a fleet that lost its coordinator at
//! one moment does not come back at one moment. Only the coordinator knows the fleet's size: each Welcome says how wide
//! the span must be, and that is remembered.
//!
//! Not here: sessions (session), drawing (clock).

use std::time::Duration;

use crate::{base::clock::backoff, link::error::SessionError};

/// Bounds of the back-off between sessions: quick after a coordinator's restart, polite to one that is down.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(15);
/// Bounds of the back-off after another agent with our identity took the session over: otherwise two machines with one
/// identity (a cloned disk) would take it from each other for ever. Short at first, because the other agent may just
/// have been one that is shutting down.
const DISPLACED_FIRST: Duration = Duration::from_secs(4);
const DISPLACED_CAP: Duration = Duration::from_secs(600);
/// A session that lived this long was a good one: the next failure restarts the back-off.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// The longest absence that a coordinator can ask for: whatever it says, a host is back within two minutes.
const ASKED_CAP: Duration = Duration::from_secs(60);
/// The widest spread that a coordinator can ask for; documented in the protocol.
const SPREAD_CAP: Duration = Duration::from_secs(30);

/// A wait is drawn uniformly from this span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitSpan {
    pub least: Duration,
    pub most: Duration,
}

impl WaitSpan {
    fn up_to(most: Duration) -> Self {
        Self {
            least: Duration::ZERO,
            most,
        }
    }
}

/// Remembers how the last sessions went and what the last Welcome said. Not across restarts of the agent: agents start
/// at different moments anyway.
#[derive(Debug, Clone, Copy, Default)]
pub struct Comeback {
    attempt: u32,
    displaced: u32,
    spread: Duration,
}

impl Comeback {
    /// Records a successful session and the spread that its Welcome asks for.
    pub fn welcomed(&mut self, spread_ms: u32) {
        self.spread = Duration::from_millis(spread_ms.into()).min(SPREAD_CAP);
    }

    /// What kept it away is over, whatever that was: as after a first failure.
    pub fn anew(&mut self) -> WaitSpan {
        self.attempt = 0;
        WaitSpan::up_to(RETRY_FIRST.max(self.spread))
    }

    /// How long to wait after a session that ended like this and lived (or was attempted) for `lived`.
    pub fn after(&mut self, ended: &Result<(), SessionError>, lived: Duration) -> WaitSpan {
        if lived > GOOD_SESSION {
            self.attempt = 0;
        }
        let attempt = self.attempt;
        self.attempt = self.attempt.saturating_add(1);
        // Also after failed attempts: otherwise a coordinator that takes seconds to start would get the whole fleet in
        // the first, short steps of the back-off.
        let usual = backoff(attempt, RETRY_FIRST, RETRY_CAP).max(self.spread);
        match ended {
            // We ended it, for a fresh certificate.
            Ok(()) => WaitSpan::up_to(Duration::ZERO),
            // Only one host is affected, so no storm; it has a back-off of its own.
            Err(SessionError::Displaced) => {
                let wait = backoff(self.displaced, DISPLACED_FIRST, DISPLACED_CAP);
                self.displaced = self.displaced.saturating_add(1);
                WaitSpan {
                    least: wait / 2,
                    most: wait,
                }
            }
            // The coordinator said when it can take us. Up to twice that, so that hosts told the same do not all come
            // at once.
            Err(SessionError::Later { after, .. }) => {
                let after = (*after).min(ASKED_CAP);
                WaitSpan {
                    least: after,
                    most: (after * 2).max(usual),
                }
            }
            Err(SessionError::Tls(_) | SessionError::Ended(_)) => WaitSpan::up_to(usual),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::jitter;

    fn broken() -> Result<(), SessionError> {
        Err(SessionError::Ended("connection reset".to_owned()))
    }

    #[test]
    fn the_first_try_is_quick_and_later_ones_are_rarer_but_never_rarer_than_the_cap() {
        let mut comeback = Comeback::default();
        let waits: Vec<_> = (0..20)
            .map(|_| comeback.after(&broken(), Duration::ZERO))
            .collect();
        assert_eq!(waits[0], WaitSpan::up_to(Duration::from_millis(200)));
        assert_eq!(waits[1], WaitSpan::up_to(Duration::from_millis(400)));
        assert!(
            waits
                .iter()
                .all(|w| w.least.is_zero() && w.most <= RETRY_CAP)
        );
        assert_eq!(waits[19].most, RETRY_CAP);
        let anew = comeback.after(&broken(), Duration::from_secs(31));
        assert_eq!(anew.most, RETRY_FIRST);
    }

    /// A host whose address came late waited for up to the cap besides.
    #[test]
    fn a_host_that_can_reach_others_again_comes_soon_but_not_with_all_others() {
        let mut comeback = Comeback::default();
        for _ in 0..20 {
            comeback.after(&broken(), Duration::ZERO);
        }
        assert_eq!(comeback.anew(), WaitSpan::up_to(RETRY_FIRST));
        let next = comeback.after(&broken(), Duration::ZERO);
        assert_eq!(next, WaitSpan::up_to(RETRY_FIRST));
        comeback.welcomed(4_000);
        assert_eq!(comeback.anew().most, Duration::from_secs(4));
    }

    #[test]
    fn what_the_coordinator_asks_for_is_kept_within_bounds() {
        let mut comeback = Comeback::default();
        let later = |seconds| {
            Err(SessionError::Later {
                why: String::new(),
                after: Duration::from_secs(seconds),
            })
        };
        let span = comeback.after(&later(4), Duration::ZERO);
        assert_eq!(
            (span.least, span.most),
            (Duration::from_secs(4), Duration::from_secs(8))
        );
        let span = comeback.after(&later(1_000_000), Duration::ZERO);
        assert_eq!((span.least, span.most), (ASKED_CAP, ASKED_CAP * 2));
        // The agent still backs off from a coordinator that keeps saying "at once".
        let waits: Vec<_> = (0..20)
            .map(|_| comeback.after(&later(0), Duration::ZERO).most)
            .collect();
        assert_eq!(waits[19], RETRY_CAP);
    }

    #[test]
    fn while_there_is_no_session_the_span_is_never_narrower_than_the_last_welcome_said() {
        let mut comeback = Comeback::default();
        comeback.welcomed(1_000);
        let waits: Vec<_> = (0..8)
            .map(|_| comeback.after(&broken(), Duration::ZERO))
            .collect();
        let most =
            [1_000, 1_000, 1_000, 1_600, 3_200, 6_400, 12_800, 15_000].map(Duration::from_millis);
        assert_eq!(waits, most.map(WaitSpan::up_to));
        comeback.welcomed(20_000);
        let waits: Vec<_> = (0..8)
            .map(|_| comeback.after(&broken(), Duration::ZERO))
            .collect();
        assert_eq!(waits, [WaitSpan::up_to(Duration::from_secs(20)); 8]);
        // A fleet that has become small again, or an older coordinator.
        comeback.welcomed(0);
        assert_eq!(
            comeback.after(&broken(), Duration::from_secs(31)),
            WaitSpan::up_to(RETRY_FIRST)
        );
    }

    #[test]
    fn the_spread_is_bounded_and_changes_neither_our_own_wish_nor_what_others_ask_for() {
        let mut comeback = Comeback::default();
        comeback.welcomed(u32::MAX);
        assert_eq!(
            comeback.after(&broken(), Duration::ZERO),
            WaitSpan::up_to(SPREAD_CAP)
        );
        assert_eq!(
            comeback.after(&Ok(()), Duration::ZERO),
            WaitSpan::up_to(Duration::ZERO)
        );
        let displaced = comeback.after(&Err(SessionError::Displaced), Duration::ZERO);
        assert_eq!(
            displaced,
            WaitSpan {
                least: DISPLACED_FIRST / 2,
                most: DISPLACED_FIRST
            }
        );
        let later = |seconds| {
            Err(SessionError::Later {
                why: String::new(),
                after: Duration::from_secs(seconds),
            })
        };
        let span = comeback.after(&later(4), Duration::ZERO);
        assert_eq!(
            (span.least, span.most),
            (Duration::from_secs(4), SPREAD_CAP)
        );
        let span = comeback.after(&later(40), Duration::ZERO);
        assert_eq!(
            (span.least, span.most),
            (Duration::from_secs(40), Duration::from_secs(80))
        );
    }

    /// Ten thousand agents with this spread lose their coordinator at the same moment, for `down` seconds. Returns how
    /// many start their first successful attempt in each second after that.
    fn fleet_comes_back(spread_ms: u32, down: u64) -> [u32; 30] {
        let down = Duration::from_secs(down);
        let one = |_| {
            let (mut comeback, mut at) = (Comeback::default(), Duration::ZERO);
            comeback.welcomed(spread_ms);
            loop {
                let span = comeback.after(&broken(), Duration::ZERO);
                at += span.least + jitter(span.most - span.least);
                if at >= down {
                    return (at - down).as_secs();
                }
            }
        };
        let mut by_second = [0_u32; 30];
        for second in (0..10_000).map(one) {
            by_second[second as usize] += 1;
        }
        by_second
    }

    fn is_empty(seconds: &[u32]) -> bool {
        seconds.iter().all(|n| *n == 0)
    }

    #[test]
    fn a_fleet_does_not_come_back_in_one_moment_and_is_back_soon() {
        let back = fleet_comes_back(0, 5);
        assert!(back.iter().all(|n| *n < 4_000), "{back:?}");
        assert!(is_empty(&back[16..]), "{back:?}");
    }

    /// The coordinator tells a fleet of this size 20 s, which is 500 agents per second. Waits drawn from 0 to 20 s
    /// average 10 s, so after a long outage the first second sees twice that, and the later ones fewer and fewer.
    #[test]
    fn a_fleet_that_knows_its_size_comes_back_at_the_rate_that_the_coordinator_takes() {
        for (down, most) in [(0, 600), (5, 800), (60, 1_150)] {
            let back = fleet_comes_back(20_000, down);
            assert!(back.iter().all(|n| *n < most), "{down}: {back:?}");
            assert!(is_empty(&back[20..]), "{down}: {back:?}");
        }
    }

    #[test]
    fn a_taken_identity_is_left_alone_for_longer_each_time() {
        let mut comeback = Comeback::default();
        let waits: Vec<_> = (0..9)
            .map(|_| comeback.after(&Err(SessionError::Displaced), Duration::ZERO))
            .collect();
        assert_eq!(
            waits[0],
            WaitSpan {
                least: Duration::from_secs(2),
                most: Duration::from_secs(4)
            }
        );
        assert_eq!(waits[8].most, DISPLACED_CAP);
    }
}

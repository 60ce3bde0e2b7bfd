//! Retries: what is worth one, and how long to wait before it. Pure; randomness is an argument.
//!
//! A busy coordinator says how long to wait; one that restarts is asked with growing pauses. Each pause is random (full
//! jitter), so that many clients that were turned away do not return together. Retries are bounded in number
//! ([`MAX_ATTEMPTS`]) and in time (by the caller). Not here: which calls may be repeated (client).

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::status::{self, Transport};

/// Attempts at most. With the pauses below they take eight seconds on average: long enough for a coordinator's restart.
pub const MAX_ATTEMPTS: u32 = 6;
/// How long to keep trying without `--timeout`. A person who has waited this long looks for another cause.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Upper bound of the first pause; it doubles each time.
const FIRST: Duration = Duration::from_millis(500);
/// Upper bound of any pause.
const CAP: Duration = Duration::from_secs(8);
/// Upper bound for the delay that a coordinator asks for.
const MAX_ASKED: Duration = Duration::from_secs(30);

/// Why a retry may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The coordinator sheds load, and may have said for how long.
    Busy(Option<Duration>),
    /// The coordinator is away for a moment, or the connection was lost.
    Away,
}

impl Reason {
    /// The reason, worded for error messages.
    pub fn words(self) -> &'static str {
        match self {
            Self::Busy(_) => "the coordinator is busy",
            Self::Away => "the coordinator does not answer",
        }
    }
}

/// Why to retry a read that ended like this, if at all. An exhausted quota without a retry delay is permanent: no
/// retry.
pub fn reason(status: &Status) -> Option<Reason> {
    if let Some(asked) = status::busy(status) {
        return Some(Reason::Busy(asked));
    }
    match status::transport(status) {
        Some(Transport::Lost) => Some(Reason::Away),
        Some(_) => None,
        // The coordinator answered that a host is away; retrying at once does not bring it back.
        None if status
            .get_error_details()
            .error_info()
            .is_some_and(|i| i.reason == "AGENT_UNAVAILABLE") =>
        {
            None
        }
        None => (status.code() == Code::Unavailable).then_some(Reason::Away),
    }
}

/// The pause after attempt number `attempt` (from 1), with `chance` in 0..1.
pub fn pause(attempt: u32, reason: Reason, chance: f64) -> Duration {
    let most = FIRST
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(CAP);
    let jitter = most.mul_f64(chance.clamp(0.0, 1.0));
    match reason {
        // The requested delay is the minimum; jitter spreads out clients that were given the same one.
        Reason::Busy(Some(asked)) => asked.min(MAX_ASKED) + jitter,
        Reason::Busy(None) | Reason::Away => jitter,
    }
}

/// The pause before reopening a stream that was lost `times` times in a row: at most two seconds, because somebody is
/// watching.
pub fn stream_pause(times: u32, lost: &Status, chance: f64) -> Duration {
    pause(times.min(3), reason(lost).unwrap_or(Reason::Away), chance)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use isyone_proto::error;
    use tonic_types::ErrorDetails;

    use super::*;

    fn shed(seconds: u64) -> Status {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(seconds)));
        Status::with_error_details(Code::ResourceExhausted, "too many", details)
    }

    #[test]
    fn what_is_worth_asking_again() {
        let told = |reason| error::status(Code::ResourceExhausted, reason, "x", HashMap::new());
        assert_eq!(
            reason(&shed(2)),
            Some(Reason::Busy(Some(Duration::from_secs(2))))
        );
        assert_eq!(reason(&told("OVERLOADED")), Some(Reason::Busy(None)));
        assert_eq!(reason(&told(status::NO_HOST_FITS)), None);
        assert_eq!(reason(&Status::unavailable("stopping")), Some(Reason::Away));
        let host_away = error::status(Code::Unavailable, "AGENT_UNAVAILABLE", "x", HashMap::new());
        assert_eq!(reason(&host_away), None, "the coordinator did answer");
        for code in [
            Code::NotFound,
            Code::Internal,
            Code::DeadlineExceeded,
            Code::Aborted,
        ] {
            assert_eq!(reason(&Status::new(code, "x")), None, "{code:?}");
        }
    }

    #[test]
    fn pauses_grow_are_bounded_and_drawn_from_the_whole_range() {
        let most: Vec<_> = (1..=MAX_ATTEMPTS)
            .map(|n| pause(n, Reason::Away, 1.0).as_millis())
            .collect();
        assert_eq!(most, [500, 1000, 2000, 4000, 8000, 8000]);
        assert_eq!(pause(3, Reason::Away, 0.0), Duration::ZERO);
        assert_eq!(pause(u32::MAX, Reason::Away, 1.0), CAP);
    }

    #[test]
    fn a_busy_coordinator_is_left_alone_as_long_as_it_asks() {
        let asked = |seconds| Reason::Busy(Some(Duration::from_secs(seconds)));
        assert_eq!(pause(1, asked(2), 0.0), Duration::from_secs(2));
        assert_eq!(pause(1, asked(2), 0.5), Duration::from_millis(2_250));
        assert_eq!(pause(1, asked(9_999), 0.0), MAX_ASKED);
    }
}

//! Judges a host's state from the time of its last report. Pure.
//!
//! Not here: what follows from it (placement filters, events, phases).

use isyone_types::plan::UnixMs;

use crate::{observed::HostObserved, settings::Liveness};

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// No report since the coordinator started: neither good nor bad.
    Unknown,
    /// Fresh report, and Docker answers.
    Ready,
    /// Fresh report, but Docker does not answer, or the agent cannot keep what it stands for, as limits between tenants.
    Degraded,
    /// No report for the suspect time.
    Suspect,
    /// No report for the lost time.
    Lost,
}

/// The host's state, and the milliseconds since its last report. `since` is when it could first report (the later of the
/// coordinator's start and its joining): a host that has not done so stays unknown until the lost time has passed.
pub fn judge(
    observed: Option<&HostObserved>,
    since: UnixMs,
    now: UnixMs,
    settings: &Liveness,
) -> (HostState, i64) {
    let docker_works = observed.is_none_or(|host| host.docker_error.is_empty());
    judge_silence(
        observed.and_then(|host| host.reported_at),
        docker_works,
        since,
        now,
        settings,
    )
}

/// Like [`judge`], from the two facts that matter.
pub fn judge_silence(
    reported_at: Option<UnixMs>,
    docker_works: bool,
    since: UnixMs,
    now: UnixMs,
    settings: &Liveness,
) -> (HostState, i64) {
    let Some(at) = reported_at else {
        let silence = (now - since).max(0);
        return (
            if silence >= settings.lost_ms {
                HostState::Lost
            } else {
                HostState::Unknown
            },
            silence,
        );
    };
    let silence = (now - at).max(0);
    let state = if silence >= settings.lost_ms {
        HostState::Lost
    } else if silence >= settings.suspect_ms {
        HostState::Suspect
    } else if !docker_works {
        HostState::Degraded
    } else {
        HostState::Ready
    };
    (state, silence)
}

/// Since when a host that has never spoken could have: the later of its joining and our start. Who joined by a clock that was ahead
/// is not waited for until then.
pub(crate) fn heard_from(joined_at: UnixMs, started_at: UnixMs, now: UnixMs) -> UnixMs {
    match is_to_come(joined_at, now) {
        true => started_at,
        false => joined_at.max(started_at),
    }
}

/// A clock that is put back by so little is no trouble, milliseconds: what is waited for takes that much longer.
const PUT_BACK_MS: i64 = 60_000;

/// Whether a moment that should be over is so far ahead that the clock must have been put back since.
pub(crate) fn is_to_come(moment: UnixMs, now: UnixMs) -> bool {
    moment > now.saturating_add(PUT_BACK_MS)
}

impl HostState {
    /// One lower-case word, for events and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_judged_by_time_and_never_speaking_is_unknown_first() {
        let settings = Liveness {
            report_interval_ms: 5_000,
            suspect_ms: 20_000,
            lost_ms: 60_000,
        };
        assert_eq!(judge(None, 0, 1_000, &settings).0, HostState::Unknown);
        assert_eq!(judge(None, 0, 60_000, &settings).0, HostState::Lost);
        let mut host = HostObserved {
            reported_at: Some(100_000),
            ..HostObserved::default()
        };
        for (now, state) in [
            (100_000, HostState::Ready),
            (120_000, HostState::Suspect),
            (160_000, HostState::Lost),
            (90_000, HostState::Ready),
        ] {
            assert_eq!(judge(Some(&host), 0, now, &settings).0, state, "{now}");
        }
        host.docker_error = "no daemon".into();
        assert_eq!(
            judge(Some(&host), 0, 100_001, &settings).0,
            HostState::Degraded
        );
    }
}

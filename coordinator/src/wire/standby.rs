//! A tenant's standby in terms of the public protocol.
//!
//! Not here: its other copies (shown).

use isyone_fleet::{
    change::FILLED_AT_ONCE, desired::Standby, settings::Settings, state::State, views,
};
use isyone_proto::{
    ids::HostName,
    pb::v1,
    plan::UnixMs,
    report::{Behind, JobReport, JobState},
};

pub(super) fn shown(
    (state, settings, now): (&State, &Settings, UnixMs),
    host: &HostName,
    standby: &Standby,
) -> v1::TenantCopy {
    let (judged, _) = views::host_state(state, settings, host, now);
    let silent = views::is_silent(judged);
    let job = state.observed.job(host, standby.job);
    let behind = views::behind(state, host, standby.job, now);
    v1::TenantCopy {
        host: host.to_string(),
        role: v1::CopyRole::Standby.into(),
        expire_time: None,
        // The older it is, the more it says: nobody knows of a silent host how far it has come since.
        lag: behind.map(|behind| v1::Lag {
            bytes: behind.bytes,
            milliseconds: behind.ms,
            files_milliseconds: behind.files_ms,
        }),
        message: match (silent, standby) {
            (true, _) => "its host is silent".to_owned(),
            (false, Standby { anew: true, .. }) => {
                "made anew: what it had is being let go".to_owned()
            }
            (false, Standby { waits: true, .. }) => format!(
                "waits for its turn: {FILLED_AT_ONCE} standbys at a time are filled from or to a host"
            ),
            (false, _) => job.map(|job| words(job, behind)).unwrap_or_default(),
        },
        filled: job.is_some_and(|job| job.filled) && standby.is_kept_up(),
        takes_over_after_milliseconds: standby.takes_over_after_ms.unwrap_or(0),
        leased: standby.leased,
        apart: standby
            .apart
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

fn words(job: &JobReport, behind: Option<Behind>) -> String {
    let unlogged = behind.map_or(0, |behind| behind.unlogged);
    match job.state {
        JobState::Running if job.behind.is_none() && job.bytes_total > 0 => format!(
            "on its way: {} of {} MiB",
            job.bytes_done >> 20,
            job.bytes_total >> 20
        ),
        JobState::Running if unlogged > 0 => {
            format!("{unlogged} of its tables are UNLOGGED, and would be empty there")
        }
        JobState::Waiting => "waits for its turn to be copied".to_owned(),
        JobState::Failed => format!("made anew after a while: {}", job.message),
        _ => job.message.clone(),
    }
}

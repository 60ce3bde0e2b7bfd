//! A tenant's standby in terms of the public protocol.
//!
//! Not here: its other copies (shown).

use isyone_fleet::{desired::Standby, settings::Settings, state::State, views};
use isyone_proto::{
    ids::HostName,
    pb::v1,
    plan::UnixMs,
    report::{JobReport, JobState},
};

pub(super) fn shown(
    (state, settings, now): (&State, &Settings, UnixMs),
    host: &HostName,
    standby: &Standby,
) -> v1::TenantCopy {
    let (judged, _) = views::host_state(state, settings, host, now);
    // What a silent host said last is no news of how far behind it is now.
    let silent = views::is_silent(judged);
    let job = state.observed.job(host, standby.job);
    let heard = job.filter(|job| !silent && job.state == JobState::Running);
    v1::TenantCopy {
        host: host.to_string(),
        role: v1::CopyRole::Standby.into(),
        expire_time: None,
        lag: heard.and_then(|job| job.behind).map(|behind| v1::Lag {
            bytes: behind.bytes,
            milliseconds: behind.ms,
            files_milliseconds: behind.files_ms,
        }),
        message: match (silent, standby.anew) {
            (true, _) => "its host is silent".to_owned(),
            (false, true) => "made anew: what it had is being let go".to_owned(),
            (false, false) => job.map(words).unwrap_or_default(),
        },
    }
}

fn words(job: &JobReport) -> String {
    match job.state {
        JobState::Running if job.behind.is_none() && job.bytes_total > 0 => format!(
            "on its way: {} of {} MiB",
            job.bytes_done >> 20,
            job.bytes_total >> 20
        ),
        JobState::Waiting => "waits for its turn to be copied".to_owned(),
        _ => job.message.clone(),
    }
}

//! What an operation waits for, as data: for `op list`, and to tell trouble from patience.
//!
//! Not here: when the waiting ends (the procedures).

use std::fmt;

use isyone_types::{
    ids::HostName,
    report::{JobReport, JobState, TenantProgress},
};

use super::{Scene, live};
use crate::{observed::CopyObserved, views};

/// Why an operation does not go on yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// The host works on it, or is about to.
    Host(HostName),
    /// The host has not reported for this many seconds.
    Silent(HostName, i64),
    /// The host is there, but its Docker does not answer, for this reason.
    Docker(HostName, String),
    /// The host cannot take its plan.
    Refused(HostName, String),
    /// The host's last attempt failed; it tries again.
    Failing(HostName, String),
    /// The host copies data.
    Copying {
        host: HostName,
        done: u64,
        /// 0 while that is not known.
        total: u64,
        /// What is unusual about how it goes; empty otherwise.
        how: String,
    },
    /// The host has a copy that is kept up, but the tenant would pause for longer than was allowed if it came over now.
    Pause {
        host: HostName,
        estimate_ms: u32,
        allowed_ms: u32,
    },
    /// The host copies for others first.
    Queued(HostName),
    /// Edges have not taken up the route yet.
    Edges,
    /// Whoever was held while a tenant moved is being served.
    Callers,
}

impl Waiting {
    /// What is wrong, if something is and not just patience is needed.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Refused(_, why) | Self::Failing(_, why) | Self::Docker(_, why) => Some(why),
            Self::Host(_)
            | Self::Silent(..)
            | Self::Copying { .. }
            | Self::Pause { .. }
            | Self::Queued(_)
            | Self::Edges
            | Self::Callers => None,
        }
    }

    /// How much of it is done, 0 to 100, where that can be told.
    pub fn percent(&self) -> u32 {
        match self {
            Self::Copying { done, total, .. } if *total > 0 => {
                u32::try_from(u128::from(*done) * 100 / u128::from(*total))
                    .unwrap_or(100)
                    .min(100)
            }
            _ => 0,
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match self {
            Self::Host(host) => write!(f, "host {host}"),
            Self::Silent(host, seconds) => write!(f, "host {host}, silent for {seconds} s"),
            Self::Docker(host, why) => write!(f, "host {host}: {why}"),
            Self::Refused(host, why) => write!(f, "host {host}, which refuses its plan: {why}"),
            Self::Failing(host, why) => write!(f, "host {host}, which tries again: {why}"),
            Self::Copying {
                host,
                done,
                total,
                how,
            } => {
                write!(f, "host {host}, which copies: {}", done / MIB)?;
                if *total > 0 {
                    write!(f, " of {}", total / MIB)?;
                }
                f.write_str(" MiB")?;
                if !how.is_empty() {
                    write!(f, ", {how}")?;
                }
                Ok(())
            }
            Self::Pause {
                host,
                estimate_ms,
                allowed_ms,
            } => {
                let seconds = |ms: &u32| live::seconds(i64::from(*ms));
                let (pause, allowed) = (seconds(estimate_ms), seconds(allowed_ms));
                write!(
                    f,
                    "a quieter moment: coming over to host {host} would take {pause} now, and {allowed} are allowed"
                )
            }
            Self::Queued(host) => write!(f, "queued: host {host} copies for others first"),
            Self::Edges => f.write_str("edges"),
            Self::Callers => f.write_str("the requests that waited: they are served now"),
        }
    }
}

/// What a host that has not converged is waited for.
pub(super) fn for_host(scene: &Scene<'_>, host: &HostName) -> Waiting {
    let (judged, silence_ms) = views::host_state(scene.state, scene.settings, host, scene.now);
    if views::is_silent(judged) {
        return Waiting::Silent(host.clone(), silence_ms / 1000);
    }
    if let Some(why) = views::refused_plan(scene.state, scene.tenant, host) {
        return Waiting::Refused(host.clone(), why);
    }
    if let Some(why) = views::docker_is_away(scene.state, host) {
        return Waiting::Docker(host.clone(), why);
    }
    match views::copy(scene.state, scene.tenant, host) {
        CopyObserved::Present(seen)
            if seen.report.generation == scene.tenant.generation
                && seen.report.progress == TenantProgress::Failing =>
        {
            Waiting::Failing(host.clone(), seen.report.message.to_string())
        }
        _ => Waiting::Host(host.clone()),
    }
}

/// What a job that is not done is waited for.
pub(super) fn for_job(scene: &Scene<'_>, host: &HostName, job: Option<&JobReport>) -> Waiting {
    match job {
        Some(job) if job.state == JobState::Retrying => {
            Waiting::Failing(host.clone(), job.message.clone())
        }
        Some(job) if job.state == JobState::Waiting => Waiting::Queued(host.clone()),
        Some(job) => Waiting::Copying {
            host: host.clone(),
            done: job.bytes_done,
            total: job.bytes_total,
            how: job.message.clone(),
        },
        None => for_host(scene, host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_how_far_it_is_and_what_is_unusual() {
        let copying = |total: u64, how: &str| Waiting::Copying {
            host: "h2".parse().unwrap(),
            done: 3 << 20,
            total,
            how: how.to_owned(),
        };
        let text = copying(0, "").to_string();
        assert_eq!(text, "host h2, which copies: 3 MiB");
        let text = copying(9 << 20, "through the coordinator: h1 is far").to_string();
        assert_eq!(
            text,
            "host h2, which copies: 3 of 9 MiB, through the coordinator: h1 is far"
        );
    }
}

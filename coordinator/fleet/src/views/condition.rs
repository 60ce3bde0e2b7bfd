//! What is to be said of a host's tenants when something is wrong with the host itself, by its own word.
//!
//! Not here: its silence (liveness), its tenants' own reports (the parent).

use isyone_types::ids::HostName;

use super::Phase;
use crate::state::State;

/// What is to be said of a host's tenants and operations while its Docker does not answer: what was last reported of them is old.
pub fn docker_is_away(state: &State, host: &HostName) -> Option<String> {
    let seen = state.observed.hosts.get(host)?;
    let away = seen.condition.docker_away;
    away.then(|| format!("Docker on {host} does not answer"))
}

/// What is to be said of a host whose disk of tenants' data is full.
pub fn disk_is_full(state: &State, host: &HostName) -> Option<String> {
    let seen = state.observed.hosts.get(host)?;
    let full = &seen.condition.full;
    (!full.is_empty()).then(|| format!("on host {host}, {full}"))
}

/// What is said of a tenant whose host's disk is full: it may stop at any moment, or that is why it has.
pub(super) fn with_full_disk(
    state: &State,
    host: &HostName,
    phase: Phase,
    message: &str,
) -> String {
    let full = disk_is_full(state, host).filter(|_| {
        matches!(
            phase,
            Phase::Running | Phase::Failing | Phase::Updating | Phase::Creating
        )
    });
    match full {
        Some(full) if message.is_empty() => full,
        Some(full) if !message.contains(&full) => format!("{full}; {message}"),
        Some(_) | None => message.to_owned(),
    }
}

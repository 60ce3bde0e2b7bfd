//! What a probed target is told: numbers while it is well and its host speaks, nothing otherwise.

use isyone_monitoring::probe;
use isyone_proto::{
    ids::{HostName, TenantName},
    plan::{Role, UnixMs},
};

use crate::{
    fleet::Tenant,
    liveness::{self, HostState},
    observed::{Container, Progress, TenantObserved},
    settings::Settings,
    state::State,
    views,
};

/// Why there are no numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Down {
    /// 404.
    NoSuchTarget,
    /// 503, so that `up` is 0.
    Because(String),
}

/// Milliseconds since the host's last word; an error when it is silent or its Docker is.
fn host_age(state: &State, settings: &Settings, host: &HostName, now: UnixMs) -> Result<u64, Down> {
    let seen = state.observed.hosts.get(host).map(AsRef::as_ref);
    let (judged, silence) = liveness::judge(seen, state.started_at, now, &settings.liveness);
    match judged {
        HostState::Ready => Ok(u64::try_from(silence).unwrap_or(0)),
        other => Err(Down::Because(format!("host {host} is {}", other.word()))),
    }
}

/// A tenant's container that runs and answers.
fn healthy<'a>(
    state: &'a State,
    settings: &Settings,
    name: &TenantName,
    role: Role,
    now: UnixMs,
) -> Result<(&'a Tenant, &'a TenantObserved, &'a Container, u64), Down> {
    let tenant = state.fleet.tenants.get(name).ok_or(Down::NoSuchTarget)?;
    let age = host_age(state, settings, &tenant.placement.host, now)?;
    let observed =
        views::observed(state, tenant).ok_or_else(|| Down::Because("not reported yet".to_owned()))?;
    let container = observed.report.containers.iter().find(|c| c.role == Some(role));
    match container {
        Some(container) if container.state == "running" && container.healthy => {
            Ok((tenant, observed, container, age))
        }
        Some(container) => {
            let health = if container.healthy { "healthy" } else { "not healthy" };
            Err(Down::Because(format!("{} is {}, {health}", container.name, container.state)))
        }
        None => Err(Down::Because("there is no container".to_owned())),
    }
}

fn sample(container: &Container) -> probe::Container {
    probe::Container {
        name: container.name.clone(),
        restarts: container.restarts,
        oom_kills: container.oom_kills,
        started: container.started_at.map(|ms| ms / 1000),
    }
}

pub(super) fn odoo(
    state: &State,
    settings: &Settings,
    name: &TenantName,
    now: UnixMs,
) -> Result<String, Down> {
    let (tenant, observed, container, age) = healthy(state, settings, name, Role::Odoo, now)?;
    let (report, size) = (&observed.report, tenant.size);
    // The container may be well while what runs in it does not answer.
    if report.progress == Progress::Unhealthy {
        return Err(Down::Because(report.message.clone()));
    }
    let usage = report.usage.unwrap_or_default();
    Ok(probe::odoo(&probe::Odoo {
        container: Some(sample(container)),
        cpu_millis: usage.cpu_millis,
        memory_bytes: usage.memory_bytes,
        disk_bytes: usage.disk_bytes,
        cpu_limit_millis: size.cpu_millis,
        memory_limit_bytes: size.memory_bytes,
        health_latency_ms: report.health_latency_ms,
        report_age_ms: age,
    }))
}

pub(super) fn postgres(
    state: &State,
    settings: &Settings,
    name: &TenantName,
    now: UnixMs,
) -> Result<String, Down> {
    let (_, _, container, age) = healthy(state, settings, name, Role::Postgres, now)?;
    Ok(probe::postgres(&sample(container), age))
}

pub(super) fn host(state: &State, settings: &Settings, name: &HostName, now: UnixMs) -> Result<String, Down> {
    if !state.fleet.hosts.contains_key(name) {
        return Err(Down::NoSuchTarget);
    }
    let age = host_age(state, settings, name, now)?;
    let seen = state.observed.hosts.get(name).ok_or(Down::NoSuchTarget)?;
    let (r, index) = (&seen.resources, state.fleet.by_host.get(name));
    Ok(probe::host(&probe::Host {
        cpus: r.cpus,
        cpu_used_permille: r.cpu_used_permille,
        memory_total_bytes: r.memory_total_bytes,
        memory_available_bytes: r.memory_available_bytes,
        disk_total_bytes: r.disk_total_bytes,
        disk_available_bytes: r.disk_available_bytes,
        load1_milli: r.load1_milli,
        pressure_permille: r
            .pressure
            .map(|p| [p.cpu_some_permille, p.memory_some_permille, p.io_some_permille]),
        tenants: index.map_or(0, |i| u32::try_from(i.tenants.len()).unwrap_or(u32::MAX)),
        reserved_memory_bytes: index.map_or(0, |i| i.memory_bytes),
        reserved_cpu_millis: index.map_or(0, |i| u32::try_from(i.cpu_millis).unwrap_or(u32::MAX)),
        agent_memory_bytes: r.agent_memory_bytes,
        agent_cpu_permille: r.agent_cpu_permille,
        report_age_ms: age,
    }))
}

//! Reports: to the wire as they are, from the wire bounded and checked. A tenant's report that cannot be parsed is left
//! out and logged; the rest still counts, or one odd container would blind the coordinator to a whole host.
//!
//! Not here: what follows from a report (isyone-fleet's change).

use std::mem;

use super::{MAX_TENANTS_PER_HOST, parse, parse_optional, timestamp, unix_ms};
use crate::{
    error::FieldError,
    ids::TenantName,
    operation::{OperationState, Step},
    pb::{agent::v1 as agent, v1},
    plan::UnixMs,
    report::{
        ContainerReport, HostReport, HostResources, ImageDigest, Pressure, Strain, Stuck,
        TenantProgress, TenantReport, Traffic, Usage, Which,
    },
};

/// Longest message or step detail that is kept, bytes: a page of text.
pub const MAX_MESSAGE: usize = 4_096;
/// A tenant has two containers; a few more are leftovers worth seeing, hundreds are not.
const MAX_CONTAINERS: usize = 8;
/// The agent has ten named steps.
const MAX_STEPS: usize = 64;
/// Longest container state, name or digest, bytes.
pub(super) const MAX_WORD: usize = 256;

/// Cuts a text to at most `max` bytes, at a character boundary, and drops control characters other than line breaks.
pub fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        text.truncate(end);
    }
    // Nearly every text is plain, and there are several for each tenant in each report.
    let is_plain = |b: u8| b.is_ascii() && (!b.is_ascii_control() || b == b'\n');
    if !text.bytes().all(is_plain) {
        text.retain(|c| !c.is_control() || c == '\n');
    }
    text
}

/// A tenant's report that could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The name in the report, shortened.
    pub tenant: String,
    /// Why it could not be parsed.
    pub error: FieldError,
}

/// Parses a whole report received at `now`; also returns what had to be left out.
pub fn parse_report(
    wire: agent::Report,
    now: UnixMs,
) -> Result<(HostReport, Vec<LeftOut>), FieldError> {
    if wire.tenants.len() > MAX_TENANTS_PER_HOST {
        let problem = format!("more than {MAX_TENANTS_PER_HOST}");
        return Err(FieldError::new("tenants", problem));
    }
    let resources = wire
        .resources
        .ok_or_else(|| FieldError::new("resources", "must be set"))?;
    let mut left_out = Vec::new();
    let mut tenants = Vec::with_capacity(wire.tenants.len());
    for mut status in wire.tenants {
        let name = mem::take(&mut status.name);
        match tenant(&name, status, now) {
            Ok(report) => tenants.push(report),
            Err(error) => left_out.push(LeftOut {
                tenant: shortened(name, MAX_WORD),
                error,
            }),
        }
    }
    let report = HostReport {
        resources: self::resources(&resources),
        docker_error: shortened(wire.docker_error, MAX_MESSAGE),
        tenants,
        complete: wire.complete,
        jobs: super::jobs::reports(wire.jobs)?,
        condition: wire
            .condition
            .map(super::condition::parsed)
            .unwrap_or_default(),
    };
    Ok((report, left_out))
}

fn resources(r: &v1::HostResources) -> HostResources {
    HostResources {
        cpus: r.cpus,
        cpu_used_permille: r.cpu_used_permille.min(1000),
        memory_total_bytes: r.memory_total_bytes,
        memory_available_bytes: r.memory_available_bytes.min(r.memory_total_bytes),
        disk_total_bytes: r.disk_total_bytes,
        disk_available_bytes: r.disk_available_bytes.min(r.disk_total_bytes),
        load1_milli: r.load1_milli,
        pressure: r.pressure.map(|p| Pressure {
            cpu_some_permille: p.cpu_some_permille,
            memory_some_permille: p.memory_some_permille,
            io_some_permille: p.io_some_permille,
        }),
        agent_memory_bytes: r.agent_memory_bytes,
        agent_cpu_permille: r.agent_cpu_permille,
    }
}

/// `name` as in the report; `status` is without it.
fn tenant(
    name: &str,
    status: agent::TenantStatus,
    now: UnixMs,
) -> Result<TenantReport, FieldError> {
    if status.containers.len() > MAX_CONTAINERS || status.steps.len() > MAX_STEPS {
        return Err(FieldError::new(
            "containers",
            "too many containers or steps",
        ));
    }
    let name: TenantName = parse("name", name)?;
    let progress = match agent::Progress::try_from(status.progress) {
        Ok(agent::Progress::Working) => TenantProgress::Working,
        Ok(agent::Progress::Converged) => TenantProgress::Converged,
        Ok(agent::Progress::Failing) => TenantProgress::Failing,
        Ok(agent::Progress::Unhealthy) => TenantProgress::Unhealthy,
        Ok(agent::Progress::Unspecified) | Err(_) => {
            return Err(FieldError::new("progress", "unknown"));
        }
    };
    Ok(TenantReport {
        uid: parse("uid", &status.uid)?,
        epoch: status.epoch,
        generation: status.generation,
        progress,
        message: shortened(status.message, MAX_MESSAGE).into(),
        stuck: Stuck::of(status.blocked, status.unfit),
        containers: status
            .containers
            .into_iter()
            .map(|c| container(&name, c))
            .collect(),
        usage: status.usage.map(|usage| Usage {
            cpu_millis: usage.cpu_millis,
            memory_bytes: usage.memory_bytes,
            disk_bytes: usage.disk_bytes,
        }),
        traffic: status.traffic.map(|traffic| visitors(&traffic, now)),
        strain: status.strain.as_ref().map(strain),
        operation: parse_optional("operation_id", &status.operation_id)?,
        steps: status
            .steps
            .into_iter()
            .map(step)
            .collect::<Result<_, _>>()?,
        absent: status.absent,
        health_latency_ms: status.health_latency_ms,
        volume_repairs: u32::try_from(status.volume_repairs).unwrap_or(u32::MAX),
        modules_cut_off: u16::try_from(status.modules_cut_off).unwrap_or(u16::MAX),
        installs_finished: u32::try_from(status.installs_finished).unwrap_or(u32::MAX),
        held_ms: u16::try_from(status.held_ms).unwrap_or(u16::MAX),
        disk: status.disk.and_then(super::size::disk),
        backup: match status.backup {
            Some(backup) => {
                let backup = super::backup::report(backup, now);
                Some(Box::new(backup.map_err(|e| e.within("backup"))?))
            }
            None => None,
        },
        name,
    })
}

fn visitors(traffic: &v1::Traffic, now: UnixMs) -> Traffic {
    let last_active = traffic.last_active_time.as_ref();
    Traffic {
        requests_per_minute: traffic.requests_per_minute,
        errors_per_minute: traffic.errors_per_minute,
        latency_p95_ms: traffic.latency_p95_ms,
        websockets: traffic.websockets,
        active_users: traffic.active_users,
        // The tenant reports this itself: nobody was active in the future.
        last_active_at: last_active.map(|at| unix_ms(at).min(now)),
        mails_failed: traffic.mails_failed.map(short),
    }
}

/// What is too large for few bytes is as large as fits.
fn short(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

fn strain(strain: &v1::Strain) -> Strain {
    Strain {
        busy_permille: strain.busy_permille.map(short),
        waits_per_minute: strain.waits_per_minute.map(short),
        memory_permille: short(strain.memory_permille),
        throttled_permille: short(strain.throttled_permille),
    }
}

fn container(tenant: &TenantName, c: v1::Container) -> ContainerReport {
    ContainerReport {
        which: Which::of(tenant, &shortened(c.name, MAX_WORD)),
        state: shortened(c.state, MAX_WORD).as_str().into(),
        healthy: c.healthy,
        restarts: c.restarts,
        oom_kills: c.oom_kills,
        image_digest: ImageDigest::parse(&c.image_digest),
        exit_code: c.exit_code,
        started_at: c.start_time.as_ref().map(unix_ms),
    }
}

fn step(step: v1::OperationStep) -> Result<Step, FieldError> {
    let state = match v1::OperationState::try_from(step.state) {
        Ok(v1::OperationState::Pending) => OperationState::Pending,
        Ok(v1::OperationState::Running) => OperationState::Running,
        Ok(v1::OperationState::Retrying) => OperationState::Retrying,
        Ok(v1::OperationState::Succeeded) => OperationState::Succeeded,
        Ok(v1::OperationState::Failed) => OperationState::Failed,
        Ok(v1::OperationState::Cancelled) => OperationState::Cancelled,
        Ok(v1::OperationState::Skipped) => OperationState::Skipped,
        Ok(v1::OperationState::Unspecified) | Err(_) => {
            return Err(FieldError::new("steps.state", "unknown"));
        }
    };
    Ok(Step {
        name: shortened(step.name, MAX_WORD),
        state,
        started_at: step.start_time.as_ref().map(unix_ms),
        ended_at: step.end_time.as_ref().map(unix_ms),
        detail: shortened(step.detail, MAX_MESSAGE),
        progress_percent: step.progress_percent.min(100),
    })
}

impl From<&HostReport> for agent::Report {
    /// Without sequence and time, which the session adds.
    fn from(report: &HostReport) -> Self {
        Self {
            sequence: 0,
            time: None,
            resources: Some((&report.resources).into()),
            docker_error: report.docker_error.clone(),
            tenants: report.tenants.iter().map(Into::into).collect(),
            complete: report.complete,
            jobs: report.jobs.iter().map(Into::into).collect(),
            condition: Some((&report.condition).into()),
        }
    }
}

impl From<&HostResources> for v1::HostResources {
    fn from(r: &HostResources) -> Self {
        Self {
            cpus: r.cpus,
            cpu_used_permille: r.cpu_used_permille,
            memory_total_bytes: r.memory_total_bytes,
            memory_available_bytes: r.memory_available_bytes,
            disk_total_bytes: r.disk_total_bytes,
            disk_available_bytes: r.disk_available_bytes,
            load1_milli: r.load1_milli,
            pressure: r.pressure.map(|p| v1::Pressure {
                cpu_some_permille: p.cpu_some_permille,
                memory_some_permille: p.memory_some_permille,
                io_some_permille: p.io_some_permille,
            }),
            agent_memory_bytes: r.agent_memory_bytes,
            agent_cpu_permille: r.agent_cpu_permille,
        }
    }
}

impl From<&TenantReport> for agent::TenantStatus {
    fn from(report: &TenantReport) -> Self {
        Self {
            name: report.name.to_string(),
            uid: report.uid.to_string(),
            epoch: report.epoch,
            generation: report.generation,
            progress: agent::Progress::from(report.progress).into(),
            message: report.message.to_string(),
            blocked: report.stuck != Stuck::No,
            unfit: report.stuck == Stuck::Unfit,
            containers: containers(report),
            usage: report.usage.map(Into::into),
            operation_id: report
                .operation
                .map(|id| id.to_string())
                .unwrap_or_default(),
            steps: report.steps.iter().map(Into::into).collect(),
            absent: report.absent,
            health_latency_ms: report.health_latency_ms,
            volume_repairs: report.volume_repairs.into(),
            modules_cut_off: report.modules_cut_off.into(),
            installs_finished: report.installs_finished.into(),
            held_ms: report.held_ms.into(),
            traffic: report.traffic.map(Into::into),
            strain: report.strain.map(Into::into),
            disk: report.disk.map(Into::into),
            backup: report.backup.as_deref().map(Into::into),
        }
    }
}

impl From<TenantProgress> for agent::Progress {
    fn from(progress: TenantProgress) -> Self {
        match progress {
            TenantProgress::Working => Self::Working,
            TenantProgress::Converged => Self::Converged,
            TenantProgress::Failing => Self::Failing,
            TenantProgress::Unhealthy => Self::Unhealthy,
        }
    }
}

/// A tenant's containers, as both protocols show them.
pub fn containers(report: &TenantReport) -> Vec<v1::Container> {
    let shown = |container: &ContainerReport| v1::Container {
        name: container.which.name(&report.name),
        state: container.state.as_str().to_owned(),
        healthy: container.healthy,
        restarts: container.restarts,
        oom_kills: container.oom_kills,
        image_digest: container
            .image_digest
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
        exit_code: container.exit_code,
        start_time: container.started_at.map(timestamp),
    };
    report.containers.iter().map(shown).collect()
}

impl From<Usage> for v1::Usage {
    fn from(usage: Usage) -> Self {
        Self {
            cpu_millis: usage.cpu_millis,
            memory_bytes: usage.memory_bytes,
            disk_bytes: usage.disk_bytes,
        }
    }
}

impl From<Traffic> for v1::Traffic {
    fn from(traffic: Traffic) -> Self {
        Self {
            requests_per_minute: traffic.requests_per_minute,
            errors_per_minute: traffic.errors_per_minute,
            latency_p95_ms: traffic.latency_p95_ms,
            websockets: traffic.websockets,
            active_users: traffic.active_users,
            last_active_time: traffic.last_active_at.map(timestamp),
            mails_failed: traffic.mails_failed.map(u32::from),
        }
    }
}

impl From<Strain> for v1::Strain {
    fn from(strain: Strain) -> Self {
        Self {
            busy_permille: strain.busy_permille.map(Into::into),
            waits_per_minute: strain.waits_per_minute.map(Into::into),
            memory_permille: strain.memory_permille.into(),
            throttled_permille: strain.throttled_permille.into(),
        }
    }
}

impl From<OperationState> for v1::OperationState {
    fn from(state: OperationState) -> Self {
        match state {
            OperationState::Pending => Self::Pending,
            OperationState::Running => Self::Running,
            OperationState::Retrying => Self::Retrying,
            OperationState::Succeeded => Self::Succeeded,
            OperationState::Failed => Self::Failed,
            OperationState::Cancelled => Self::Cancelled,
            OperationState::Skipped => Self::Skipped,
        }
    }
}

impl From<&Step> for v1::OperationStep {
    fn from(step: &Step) -> Self {
        Self {
            name: step.name.clone(),
            state: v1::OperationState::from(step.state).into(),
            start_time: step.started_at.map(timestamp),
            end_time: step.ended_at.map(timestamp),
            detail: step.detail.clone(),
            progress_percent: step.progress_percent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str) -> agent::TenantStatus {
        agent::TenantStatus {
            name: name.to_owned(),
            uid: uuid::Uuid::from_u128(1).to_string(),
            progress: agent::Progress::Converged.into(),
            containers: vec![v1::Container {
                name: format!("odoo_{name}"),
                ..v1::Container::default()
            }],
            ..agent::TenantStatus::default()
        }
    }

    #[test]
    fn one_odd_tenant_does_not_cost_the_others_their_word() {
        let odd = agent::TenantStatus {
            progress: 99,
            ..status("beta")
        };
        let report = agent::Report {
            resources: Some(v1::HostResources::default()),
            tenants: vec![status("alfa"), odd, status("$(id)"), status("gama")],
            ..agent::Report::default()
        };
        let (parsed, left_out) = parse_report(report, 0).unwrap();
        let names: Vec<_> = parsed.tenants.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["alfa", "gama"]);
        let left_out: Vec<_> = left_out.iter().map(|l| l.tenant.as_str()).collect();
        assert_eq!(left_out, ["beta", "$(id)"]);
        assert_eq!(
            parsed.tenants[0].containers[0].which,
            Which::Its(crate::plan::Role::Odoo)
        );
    }

    #[test]
    fn size_is_bounded() {
        let many = vec![status("alfa"); MAX_TENANTS_PER_HOST + 1];
        let report = agent::Report {
            tenants: many,
            ..agent::Report::default()
        };
        assert!(parse_report(report, 0).is_err());
        assert_eq!(shortened("ää".to_owned(), 3), "ä");
        assert_eq!(shortened("a\u{1b}[31m\nb".to_owned(), 99), "a[31m\nb");
        assert_eq!(shortened("ä\u{85}\n\u{7f}b".to_owned(), 99), "ä\nb");
    }
}

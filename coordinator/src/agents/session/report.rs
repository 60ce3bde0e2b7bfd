//! Reports from the wire: bounded, checked. A tenant's status that cannot be read is left out and logged; the rest of the
//! report still counts, or one odd container would blind us to a whole host.

use isyone_proto::{
    convert::{self, MAX_TENANTS_PER_HOST, parse_optional, unix_ms},
    error::FieldError,
    ids::{HostName, TenantName},
    pb::{agent::v1 as wire, v1},
    plan::Role,
};
use isyone_telemetry::{child_span, tracing::Span};
use tonic::Status;

use crate::{base::clock, writer::traces::Traces};
use isyone_fleet::{
    observed::{
        Container, ImageDigest, Pressure, Progress, Report, Resources, TenantReport, Traffic,
        Usage, container_state,
    },
    operation::{OperationState, Step},
};

/// Longest message or step detail that is kept: a page of text.
pub(super) const MAX_MESSAGE: usize = 4_096;
/// A tenant has two containers; more are leftovers worth seeing, not hundreds.
const MAX_CONTAINERS: usize = 8;
/// The agent names ten steps.
const MAX_STEPS: usize = 64;
/// Docker's words for states, names and digests.
const MAX_WORD: usize = 256;

/// At most `max` bytes of a text, cut between characters, without control characters other than line breaks.
pub(super) fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        text.truncate(end);
    }
    text.retain(|c| !c.is_control() || c == '\n');
    text
}

pub(super) fn parse_all(host: &HostName, tenants: Vec<wire::TenantStatus>) -> Vec<TenantReport> {
    let read = tenants.into_iter().filter_map(|status| {
        let name = shortened(status.name.clone(), MAX_WORD);
        tenant(status)
            .inspect_err(|error| tracing::warn!(%host, tenant = name, %error, "status left out"))
            .ok()
    });
    read.collect()
}

/// The whole report.
pub(super) fn parse(host: &HostName, wire: wire::Report) -> Result<Report, Status> {
    if wire.tenants.len() > MAX_TENANTS_PER_HOST {
        let problem = format!("more than {MAX_TENANTS_PER_HOST}");
        return Err(FieldError::new("tenants", problem).into());
    }
    let resources = wire
        .resources
        .ok_or_else(|| FieldError::new("resources", "must be set"))?;
    Ok(Report {
        resources: self::resources(&resources),
        docker_error: shortened(wire.docker_error, MAX_MESSAGE),
        tenants: parse_all(host, wire.tenants),
        complete: wire.complete,
    })
}

/// A span for a report that says how a traced operation came out; the first, should it be several. Those on the way there are left
/// out: they come many times a second, and the agent's own spans say the same.
pub(super) fn in_trace(traces: &Traces, report: &Report) -> Span {
    let mut told = report
        .tenants
        .iter()
        .filter(|t| t.progress != Progress::Working);
    let first = told.find_map(|t| {
        let operation = traces.of(t.operation);
        (!operation.is_disabled()).then_some((operation, t))
    });
    let Some((operation, tenant)) = first else {
        return Span::none();
    };
    child_span!(&operation, "report", tenant = %tenant.name, progress = ?tenant.progress)
}

fn resources(r: &v1::HostResources) -> Resources {
    Resources {
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

fn tenant(status: wire::TenantStatus) -> Result<TenantReport, FieldError> {
    if status.containers.len() > MAX_CONTAINERS || status.steps.len() > MAX_STEPS {
        return Err(FieldError::new(
            "containers",
            "too many containers or steps",
        ));
    }
    let name: TenantName = convert::parse("name", &status.name)?;
    let progress = match wire::Progress::try_from(status.progress) {
        Ok(wire::Progress::Working) => Progress::Working,
        Ok(wire::Progress::Converged) => Progress::Converged,
        Ok(wire::Progress::Failing) => Progress::Failing,
        Ok(wire::Progress::Unhealthy) => Progress::Unhealthy,
        Ok(wire::Progress::Unspecified) | Err(_) => {
            return Err(FieldError::new("progress", "unknown"));
        }
    };
    Ok(TenantReport {
        uid: convert::parse("uid", &status.uid)?,
        epoch: status.epoch,
        generation: status.generation,
        progress,
        message: shortened(status.message, MAX_MESSAGE),
        containers: exactly(status.containers.into_iter().map(|c| container(&name, c))),
        usage: status.usage.map(|usage| Usage {
            cpu_millis: usage.cpu_millis,
            memory_bytes: usage.memory_bytes,
            disk_bytes: usage.disk_bytes,
        }),
        traffic: status.traffic.map(|traffic| Traffic {
            requests_per_minute: traffic.requests_per_minute,
            errors_per_minute: traffic.errors_per_minute,
            latency_p95_ms: traffic.latency_p95_ms,
            websockets: traffic.websockets,
            active_users: traffic.active_users,
            // The tenant's own word: nobody was there tomorrow.
            last_active_at: traffic
                .last_active_time
                .as_ref()
                .map(|at| unix_ms(at).min(clock::now_ms())),
        }),
        operation: parse_optional("operation_id", &status.operation_id)?,
        steps: status
            .steps
            .into_iter()
            .map(step)
            .collect::<Result<_, _>>()?,
        absent: status.absent,
        health_latency_ms: status.health_latency_ms,
        name,
    })
}

/// In a vector without room to spare: it is kept until the next word on the tenant.
fn exactly<T>(values: impl ExactSizeIterator<Item = T>) -> Vec<T> {
    let mut exact = Vec::with_capacity(values.len());
    exact.extend(values);
    exact
}

fn container(tenant: &TenantName, c: v1::Container) -> Container {
    let role = match c.name.as_str() {
        name if name == tenant.odoo_container() => Some(Role::Odoo),
        name if name == tenant.postgres_container() => Some(Role::Postgres),
        _ => None,
    };
    Container {
        name: shortened(c.name, MAX_WORD),
        role,
        state: container_state(shortened(c.state, MAX_WORD)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str) -> wire::TenantStatus {
        wire::TenantStatus {
            name: name.to_owned(),
            uid: uuid::Uuid::from_u128(1).to_string(),
            progress: wire::Progress::Converged.into(),
            containers: vec![v1::Container {
                name: format!("odoo_{name}"),
                ..v1::Container::default()
            }],
            ..wire::TenantStatus::default()
        }
    }

    #[test]
    fn one_odd_tenant_does_not_cost_the_others_their_word() {
        let host = "h1".parse().unwrap();
        let odd = wire::TenantStatus {
            progress: 99,
            ..status("beta")
        };
        let report = wire::Report {
            resources: Some(v1::HostResources::default()),
            tenants: vec![status("alfa"), odd, status("$(id)"), status("gama")],
            ..wire::Report::default()
        };
        let parsed = parse(&host, report).unwrap();
        let names: Vec<_> = parsed.tenants.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["alfa", "gama"]);
        assert_eq!(parsed.tenants[0].containers[0].role, Some(Role::Odoo));
    }

    #[test]
    fn size_is_bounded() {
        let host = "h1".parse().unwrap();
        let many = vec![status("alfa"); MAX_TENANTS_PER_HOST + 1];
        let report = wire::Report {
            tenants: many,
            ..wire::Report::default()
        };
        assert!(parse(&host, report).is_err());
        assert_eq!(shortened("ää".to_owned(), 3), "ä");
        assert_eq!(shortened("a\u{1b}[31m\nb".to_owned(), 99), "a[31m\nb");
    }
}

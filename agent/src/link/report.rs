//! Statuses and resources in their wire form, and which of them a report carries. Pure.
//!
//! Not here: sending (session).

use std::collections::{HashMap, HashSet};

use isyone_proto::{
    convert::timestamp,
    ids::TenantName,
    pb::{agent::v1 as agent, v1},
    plan::UnixMs,
};

use crate::{
    host::{
        board::{BoardEntry, ContainerStatus, TenantProgress},
        resources::HostUse,
    },
    plan::state::{StepRecord, StepState},
};

/// Every so many reports names every tenant: usage and latencies move slowly, and a coordinator that lost something
/// learns it again.
const COMPLETE_EVERY: u64 = 6;
/// A report's other parts are far below the message limit; the details are what could grow.
const MAX_MESSAGE_CHARS: usize = 2000;

/// Remembers what one session has been told.
#[derive(Debug, Default)]
pub struct Reporter {
    sequence: u64,
    regular: u64,
    told: HashMap<TenantName, u64>,
}

/// What goes into a report beside the tenants.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub host: HostUse,
    /// Docker's trouble and other warnings.
    pub docker_error: String,
    /// Every tenant of the plan has been looked at, so who is missing is absent.
    pub all_known: bool,
    /// Time of the report.
    pub now: UnixMs,
}

impl Reporter {
    /// The next report: `regular` ones are complete every now and then, those in between carry what has changed.
    pub fn next(
        &mut self,
        entries: Vec<BoardEntry>,
        around: &Surroundings,
        regular: bool,
    ) -> agent::Report {
        let due = self.sequence == 0 || (regular && self.regular.is_multiple_of(COMPLETE_EVERY));
        let everything = due && around.all_known;
        self.sequence += 1;
        self.regular += u64::from(regular);
        let mut tenants = Vec::new();
        for entry in &entries {
            if due || self.told.get(&entry.name) != Some(&entry.revision) {
                self.told.insert(entry.name.clone(), entry.revision);
                tenants.push(tenant(entry));
            }
        }
        if self.told.len() > entries.len() {
            let there: HashSet<&TenantName> = entries.iter().map(|e| &e.name).collect();
            self.told.retain(|name, _| there.contains(name));
        }
        agent::Report {
            sequence: self.sequence,
            time: Some(timestamp(around.now)),
            resources: Some(resources(&around.host)),
            docker_error: around.docker_error.clone(),
            tenants,
            complete: everything,
        }
    }
}

fn resources(host: &HostUse) -> v1::HostResources {
    v1::HostResources {
        cpus: host.cpus,
        cpu_used_permille: host.cpu_used_permille,
        memory_total_bytes: host.memory_total,
        memory_available_bytes: host.memory_available,
        disk_total_bytes: host.disk_total,
        disk_available_bytes: host.disk_available,
        load1_milli: host.load1_milli,
        pressure: host.pressure.map(|[cpu, memory, io]| v1::Pressure {
            cpu_some_permille: cpu,
            memory_some_permille: memory,
            io_some_permille: io,
        }),
        agent_memory_bytes: host.agent_memory,
        agent_cpu_permille: host.agent_cpu_permille,
    }
}

fn tenant(entry: &BoardEntry) -> agent::TenantStatus {
    let status = &entry.status;
    let progress = match status.progress {
        TenantProgress::Working => agent::Progress::Working,
        TenantProgress::Converged => agent::Progress::Converged,
        TenantProgress::Failing => agent::Progress::Failing,
        TenantProgress::Unhealthy => agent::Progress::Unhealthy,
    };
    let containers = status.containers.iter().enumerate();
    agent::TenantStatus {
        name: entry.name.to_string(),
        uid: status.uid.to_string(),
        epoch: status.epoch,
        generation: status.generation,
        progress: progress.into(),
        message: status.message.chars().take(MAX_MESSAGE_CHARS).collect(),
        containers: containers
            .map(|(at, c)| container(c, entry.oom_kills.get(at).copied().unwrap_or(0)))
            .collect(),
        usage: entry.measured.then_some(v1::Usage {
            cpu_millis: entry.usage.cpu_millis,
            memory_bytes: entry.usage.memory_bytes,
            disk_bytes: entry.usage.disk_bytes,
        }),
        operation_id: status
            .operation
            .map(|id| id.to_string())
            .unwrap_or_default(),
        steps: status
            .operation
            .map(|_| status.steps.iter().map(step).collect())
            .unwrap_or_default(),
        absent: status.absent,
        health_latency_ms: entry.latency_ms,
        traffic: entry.traffic.map(|t| v1::Traffic {
            requests_per_minute: t.requests_per_minute,
            errors_per_minute: t.errors_per_minute,
            latency_p95_ms: t.latency_p95_ms,
            websockets: t.websockets,
            active_users: t.active_users,
            last_active_time: t.last_active_ms.map(timestamp),
        }),
    }
}

fn container(c: &ContainerStatus, oom_kills: u32) -> v1::Container {
    v1::Container {
        name: c.name.clone(),
        state: c.state.clone(),
        healthy: c.healthy,
        restarts: c.restarts,
        oom_kills,
        image_digest: c.image_digest.clone(),
        exit_code: c.exit_code,
        start_time: c.started_ms.map(timestamp),
    }
}

fn step(record: &StepRecord) -> v1::OperationStep {
    let state = match record.state {
        StepState::Pending => v1::OperationState::Pending,
        StepState::Running => v1::OperationState::Running,
        StepState::Retrying => v1::OperationState::Retrying,
        StepState::Succeeded => v1::OperationState::Succeeded,
        StepState::Skipped => v1::OperationState::Skipped,
    };
    v1::OperationStep {
        name: record.name.clone(),
        state: state.into(),
        start_time: record.start_ms.map(timestamp),
        end_time: record.end_ms.map(timestamp),
        detail: record.detail.clone(),
        progress_percent: record.percent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::board::{StatusBoard, TenantStatus};

    fn status(message: &str) -> TenantStatus {
        TenantStatus {
            uid: uuid::Uuid::nil(),
            epoch: 1,
            generation: 1,
            progress: TenantProgress::Working,
            message: message.into(),
            containers: vec![],
            operation: None,
            steps: vec![],
            absent: false,
            volumes: vec![],
        }
    }

    #[test]
    fn only_changes_travel_between_complete_reports() {
        let board = StatusBoard::default();
        let (alfa, beta) = ("alfa".parse().unwrap(), "beta".parse().unwrap());
        board.set(&alfa, status(""));
        board.set(&beta, status(""));
        let around = Surroundings {
            all_known: true,
            ..Default::default()
        };
        let mut reporter = Reporter::default();
        let first = reporter.next(board.entries(), &around, true);
        assert!(first.complete && first.tenants.len() == 2);
        assert!(
            reporter
                .next(board.entries(), &around, true)
                .tenants
                .is_empty()
        );
        board.set(&beta, status("news"));
        let change = reporter.next(board.entries(), &around, false);
        assert!(!change.complete && change.tenants.len() == 1 && change.tenants[0].name == "beta");
        let complete = (0..COMPLETE_EVERY)
            .filter(|_| reporter.next(board.entries(), &around, true).complete)
            .count();
        assert_eq!(complete, 1);
    }

    #[test]
    fn what_was_not_measured_is_not_reported_as_nothing() {
        let board = StatusBoard::default();
        let alfa = "alfa".parse().unwrap();
        board.set(&alfa, status(""));
        assert_eq!(tenant(&board.entries()[0]).usage, None);
        board.set_usage(
            &alfa,
            crate::host::board::TenantUsage {
                cpu_millis: 7,
                ..Default::default()
            },
        );
        assert_eq!(
            tenant(&board.entries()[0])
                .usage
                .map(|usage| usage.cpu_millis),
            Some(7)
        );
    }

    #[test]
    fn silence_about_a_tenant_not_yet_looked_at_is_not_absence() {
        let mut reporter = Reporter::default();
        let around = Surroundings {
            all_known: false,
            ..Default::default()
        };
        assert!(!reporter.next(vec![], &around, true).complete);
    }
}

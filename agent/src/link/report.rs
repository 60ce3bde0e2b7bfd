//! What a report says, and which tenants it carries. Pure.
//!
//! Not here: sending (session).

use std::{
    collections::{HashMap, HashSet},
    iter,
};

use isyone_proto::{
    convert::timestamp,
    ids::TenantName,
    operation::{OperationState, Step},
    pb::agent::v1 as agent,
    plan::UnixMs,
    report::{
        ContainerReport, HostCondition, HostReport, HostResources, ImageDigest, JobReport, Stuck,
        TenantReport, Usage, Which,
    },
};

use crate::{
    host::board::{BoardEntry, ContainerStatus},
    plan::state::{StepRecord, StepState},
};

/// One in this many regular reports names every tenant: usage and latencies change slowly, and a coordinator that lost
/// something learns it again.
const COMPLETE_EVERY: u64 = 6;
/// The other parts of a report are far below the message limit; only the details could grow.
const MAX_MESSAGE_CHARS: usize = 2000;

/// Remembers what has been reported in one session.
#[derive(Debug, Default)]
pub struct Reporter {
    sequence: u64,
    regular: u64,
    told: HashMap<TenantName, u64>,
}

/// What a report contains besides the tenants.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub host: HostResources,
    /// Docker's error and other warnings.
    pub docker_error: String,
    /// Every tenant of the plan has been looked at, so one that is missing is absent.
    pub all_known: bool,
    /// All jobs of the plan.
    pub jobs: Vec<JobReport>,
    /// How the host itself is.
    pub condition: HostCondition,
    /// Time of the report.
    pub now: UnixMs,
}

impl Reporter {
    /// Builds the next report: `regular` ones are complete every so often, all others carry only what has changed.
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
        let report = HostReport {
            resources: around.host,
            docker_error: around.docker_error.clone(),
            tenants,
            complete: everything,
            jobs: around.jobs.clone(),
            condition: around.condition.clone(),
        };
        agent::Report {
            sequence: self.sequence,
            time: Some(timestamp(around.now)),
            ..agent::Report::from(&report)
        }
    }
}

fn tenant(entry: &BoardEntry) -> TenantReport {
    let status = &entry.status;
    let kills = entry.oom_kills.iter().copied().chain(iter::repeat(0));
    TenantReport {
        name: entry.name.clone(),
        uid: status.uid,
        epoch: status.epoch,
        generation: status.generation,
        progress: status.progress,
        message: status.message.chars().take(MAX_MESSAGE_CHARS).collect(),
        stuck: Stuck::of(status.blocked, status.unfit),
        containers: status
            .containers
            .iter()
            .zip(kills)
            .map(|(c, oom_kills)| container(&entry.name, c, oom_kills))
            .collect(),
        usage: entry.measured.then_some(Usage {
            cpu_millis: entry.usage.cpu_millis,
            memory_bytes: entry.usage.memory_bytes,
            disk_bytes: entry.usage.disk_bytes,
        }),
        traffic: entry.traffic,
        strain: entry.strain,
        operation: status.operation,
        steps: status
            .operation
            .map(|_| status.steps.iter().map(step).collect())
            .unwrap_or_default(),
        absent: status.absent,
        health_latency_ms: entry.latency_ms,
        volume_repairs: u32::try_from(status.volume_repairs).unwrap_or(u32::MAX),
        modules_cut_off: u16::try_from(status.modules_cut_off).unwrap_or(u16::MAX),
        installs_finished: u32::try_from(status.installs_finished).unwrap_or(u32::MAX),
        held_ms: u16::try_from(entry.held_ms).unwrap_or(u16::MAX),
        disk: entry.disk,
        backup: entry.backup.clone(),
    }
}

fn container(tenant: &TenantName, c: &ContainerStatus, oom_kills: u32) -> ContainerReport {
    ContainerReport {
        which: Which::of(tenant, &c.name),
        state: c.state.as_str().into(),
        healthy: c.healthy,
        restarts: c.restarts,
        oom_kills,
        image_digest: ImageDigest::parse(&c.image_digest),
        exit_code: c.exit_code,
        started_at: c.started_ms,
    }
}

fn step(record: &StepRecord) -> Step {
    Step {
        name: record.name.clone(),
        state: match record.state {
            StepState::Pending => OperationState::Pending,
            StepState::Running => OperationState::Running,
            StepState::Retrying => OperationState::Retrying,
            StepState::Succeeded => OperationState::Succeeded,
            StepState::Skipped => OperationState::Skipped,
        },
        started_at: record.start_ms,
        ended_at: record.end_ms,
        detail: record.detail.clone(),
        progress_percent: record.percent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isyone_proto::report::TenantProgress;

    use crate::host::board::{StatusBoard, TenantStatus};

    fn status(message: &str) -> TenantStatus {
        TenantStatus {
            uid: uuid::Uuid::nil(),
            epoch: 1,
            generation: 1,
            progress: TenantProgress::Working,
            message: message.into(),
            blocked: false,
            unfit: false,
            containers: vec![],
            operation: None,
            steps: vec![],
            own_database: true,
            absent: false,
            volumes: vec![],
            volume_repairs: 0,
            modules_cut_off: 0,
            installs_finished: 0,
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

    /// Odoo may not tell how busy it is; what its containers use is known all the same.
    #[test]
    fn what_a_tenant_is_short_of_is_reported_as_far_as_it_is_known() {
        let board = StatusBoard::default();
        let alfa = "alfa".parse().unwrap();
        board.set(&alfa, status(""));
        let told = || tenant(&board.entries()[0]).strain;
        assert_eq!(told(), None);
        board.set_usage(
            &alfa,
            crate::host::board::TenantUsage {
                memory_permille: 910,
                ..Default::default()
            },
        );
        let strain = told().unwrap();
        assert_eq!((strain.memory_permille, strain.busy_permille), (910, None));
        let work = crate::host::board::Work {
            busy_permille: 850,
            waits_per_minute: 3,
        };
        board.set_work(&alfa, Some(work));
        let strain = told().unwrap();
        let of_odoo = (strain.busy_permille, strain.waits_per_minute);
        assert_eq!(of_odoo, (Some(850), Some(3)));
        board.set_work(&alfa, None);
        assert_eq!(told().unwrap().busy_permille, None);
    }

    #[test]
    fn every_report_names_all_jobs() {
        let board = StatusBoard::default();
        let job = JobReport {
            id: uuid::Uuid::from_u128(7),
            state: isyone_proto::report::JobState::Running,
            bytes_done: 0,
            bytes_total: 0,
            backup: None,
            fault: None,
            proof: None,
            message: String::new(),
            pause_ms: None,
            behind: None,
            filled: false,
            granted_ms: None,
        };
        board.set_job(job);
        board.set_job_bytes(uuid::Uuid::from_u128(7), 5, 9);
        board.set_job_bytes(uuid::Uuid::from_u128(8), 1, 1);
        let around = Surroundings {
            jobs: board.jobs(),
            ..Default::default()
        };
        let mut reporter = Reporter::default();
        for regular in [true, false] {
            let told = reporter.next(vec![], &around, regular).jobs;
            assert_eq!(told.len(), 1);
            assert_eq!((told[0].bytes_done, told[0].bytes_total), (5, 9));
        }
        board.remove_job(uuid::Uuid::from_u128(7));
        assert!(board.jobs().is_empty());
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

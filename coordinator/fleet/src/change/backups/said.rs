//! What hosts say of backups: jobs that have ended, and how far each destination is. What lasts is written down, seldom.
//!
//! Not here: giving orders (the parent), what follows for people (views/backups).

use std::sync::Arc;

use isyone_types::{
    backup::{
        BackupMade, BackupPurpose, BackupReport, BackupWork, DestinationReport, Fault, MakeBackup,
    },
    ids::{HostName, ShortName},
    plan::UnixMs,
    report::{JobReport, JobState},
};

use super::super::Edit;
use crate::{
    backups::is_believable,
    desired::{
        Tenant,
        backups::{Asked, BackupOrder, Made, SnapshotMade, TenantBackups},
    },
    event::EventKind,
};

/// What a host says of one tenant is written down at most so often.
pub const WRITE_EVERY_MS: i64 = 60_000;
/// A point that moves on is written down so often: after a restart, and until its host speaks again, it is known to this.
pub const POINT_EVERY_MS: i64 = 3_600_000;

/// How far a host's clock may be behind ours before its backups are not believed.
const CLOCK_BEHIND_MS: i64 = 3_600_000;

impl Edit<'_> {
    /// A host's word on its jobs that make backups.
    pub(in crate::change) fn backup_jobs(&mut self, host: &HostName, jobs: &[Arc<JobReport>]) {
        // Nearly always there is none.
        let operations = &self.state.fleet.operations;
        let ours = jobs
            .iter()
            .filter(|job| has_ended(job) && !operations.contains_key(&job.id));
        let ours: Vec<&Arc<JobReport>> = ours.collect();
        if ours.is_empty() {
            return;
        }
        for (of, order) in self.orders_at(host) {
            if let Some(job) = ours.iter().find(|job| job.id == order.id) {
                self.end_order(&of, &order, Some(&***job));
            }
        }
    }

    /// An order is over: by its job, or because nobody carries it out.
    pub(super) fn end_order(
        &mut self,
        of: &TenantBackups,
        order: &BackupOrder,
        job: Option<&JobReport>,
    ) {
        let now = self.stamp.now;
        let mut left = of.clone();
        left.order = None;
        let destination = &order.make.destination;
        let made = left.made.entry(destination.clone()).or_default();
        let snapshot = job.and_then(|job| job.backup.as_deref());
        let is_done = job.is_some_and(|job| job.state == JobState::Done);
        let answers = |made: &&BackupMade| is_believed(made, now) && is_after(made, order);
        match snapshot.filter(|made| is_done && answers(made)) {
            Some(snapshot) => {
                succeeded(made, snapshot, &order.make);
                if order.make.purpose == BackupPurpose::OnOrder {
                    left.asked = left
                        .asked
                        .take()
                        .and_then(|asked| served(asked, destination));
                }
            }
            None => failed(made, job, now),
        }
        let failures = made.failures;
        let why = made.failure.clone();
        self.put_backups(left);
        self.touch_host(&order.host);
        let tenant = self.state.fleet.tenants.get(&of.name).cloned();
        let is_news = job.is_some_and(|job| job.fault != Some(Fault::NotNow));
        if failures > 0 && is_news {
            let message = format!("{destination}: {why} ({failures} times in a row)");
            let host = Some(&order.host);
            self.event(
                EventKind::BackupFailed,
                tenant.as_deref(),
                host,
                None,
                message,
            );
        }
    }

    /// A host's word on a tenant's backups: what is news and lasts is written down.
    pub(in crate::change) fn take_backups(&mut self, tenant: &Tenant, report: &BackupReport) {
        let now = self.stamp.now;
        let Some(of) = self.state.fleet.backups.get(&tenant.uid).cloned() else {
            return;
        };
        let Some(policy) = self.settings.backups.policy(&tenant.spec.plan) else {
            return;
        };
        let mut changed: Option<TenantBackups> = None;
        for said in &report.destinations {
            if !policy.destinations.contains(&said.name) {
                continue; // one that was taken away, or that nobody has named
            }
            let known = of.made.get(&said.name).cloned().unwrap_or_default();
            if let Some(news) = worth_writing(&known, said, now) {
                let left = changed.get_or_insert_with(|| (*of).clone());
                left.made.insert(said.name.clone(), news);
            }
        }
        if let Some(left) = changed {
            self.put_backups(left);
        }
    }
}

pub(super) fn has_ended(job: &JobReport) -> bool {
    matches!(job.state, JobState::Done | JobState::Failed)
}

/// A wish after it was fulfilled at a destination; none when that was the last.
pub(super) fn served(mut asked: Asked, destination: &ShortName) -> Option<Asked> {
    asked.left.retain(|left| left != destination);
    (!asked.left.is_empty()).then_some(asked)
}

fn is_believed(made: &BackupMade, now: UnixMs) -> bool {
    is_believable(made.at, now) && is_believable(made.ended_at, now)
}

/// What was made before the order came is no answer to it. Were it one, it would be ordered again at once, and a host that was taken
/// over would be told to make as many backups as it takes to push out all others.
fn is_after(made: &BackupMade, order: &BackupOrder) -> bool {
    made.at >= order.since.saturating_sub(CLOCK_BEHIND_MS)
}

fn succeeded(made: &mut Made, snapshot: &BackupMade, ordered: &MakeBackup) {
    made.failures = 0;
    made.failed_at = None;
    made.failure = "".into();
    remember(made, snapshot, Some(ordered));
}

/// Remembers a snapshot, with the order that it answers, where that is known.
fn remember(made: &mut Made, snapshot: &BackupMade, ordered: Option<&MakeBackup>) {
    let newest = match snapshot.work {
        BackupWork::Base | BackupWork::Stopped => &mut made.repository.base_at,
        BackupWork::Dump => &mut made.dump_at,
        BackupWork::Ship => return, // its repository knows
    };
    *newest = (*newest).max(Some(snapshot.at));
    made.remember(SnapshotMade {
        name: snapshot.snapshot,
        work: snapshot.work,
        purpose: ordered.map_or(BackupPurpose::Scheduled, |make| make.purpose),
        at: snapshot.at,
        ended_at: snapshot.ended_at,
        read_bytes: snapshot.read_bytes,
        stored_bytes: snapshot.stored_bytes,
        labels: ordered.map_or_else(Vec::new, |make| make.labels.clone()),
        only_said: ordered.is_none(),
    });
}

fn failed(made: &mut Made, job: Option<&JobReport>, now: UnixMs) {
    made.failures = made.failures.saturating_add(1);
    made.failed_at = Some(now);
    made.failure = match job {
        None => "its host did not carry the order out".into(),
        Some(job) if job.state == JobState::Done => {
            "its host says that it is done, and not what it made, or a time that has not come, or was before it was ordered"
                .into()
        }
        Some(job) => job.message.as_str().into(),
    };
}

/// What is to be written down of a host's word; `None` when it says nothing new that lasts, or said it just now.
fn worth_writing(known: &Made, said: &DestinationReport, now: UnixMs) -> Option<Made> {
    if (known.written_at..known.written_at.saturating_add(WRITE_EVERY_MS)).contains(&now) {
        return None;
    }
    let believed = |at: Option<UnixMs>| at.filter(|at| is_believable(*at, now));
    let mut news = known.clone();
    let repository = &mut news.repository;
    repository.base_at = repository.base_at.max(believed(said.base_at));
    repository.gap_since = said.gap_since;
    repository.failing_since = said.trouble.as_ref().map(|trouble| trouble.since);
    if let Some(newest) = said
        .newest
        .as_ref()
        .filter(|newest| is_believed(newest, now))
    {
        // The job's word was lost, and why it was made is not known any more; or a host that was taken over has invented it.
        remember(&mut news, newest, None);
    }
    let shipped = known.repository.shipped_to.max(believed(said.shipped_to));
    let moved = shipped.unwrap_or(0) - known.repository.shipped_to.unwrap_or(0);
    if news == *known && moved < POINT_EVERY_MS {
        return None;
    }
    news.repository.shipped_to = shipped;
    news.written_at = now;
    Some(news)
}

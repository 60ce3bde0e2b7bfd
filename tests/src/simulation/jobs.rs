//! Modelled jobs: copying a stopped tenant's data from another host, with the leave of that host's plan; backups, proofs of them, and
//! filling a new tenant from one.
//!
//! Not here: the agents' real jobs and streams, which have tests of their own.

use isyone_agent::plan::state::{Database, TenantState};
use isyone_proto::{
    backup::{BackupMade, Counts, RestoreOrder, SnapshotName},
    ids::HostName,
    plan::{JobOrder, JobWork, Role},
    proof::Proof,
    report::{JobReport, JobState},
};
use rand::RngExt as _;
use uuid::Uuid;

use super::{
    Simulation,
    host::{Copy, Data, SimHost},
};

/// Steps that a copy takes.
const PIECES: u64 = 4;

/// A job's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimJob {
    pub order: JobOrder,
    pub state: JobState,
    pub pieces: u64,
    /// What the source held when copying began.
    pub began_with: Option<Data>,
    /// How long the tenant would pause, where it keeps a copy up.
    pub pause_ms: Option<u32>,
    /// That copy is a whole one.
    pub filled: bool,
}

impl SimJob {
    /// The snapshot that it has made.
    fn made(&self) -> Option<BackupMade> {
        let JobWork::Backup(make) = &self.order.work else {
            return None;
        };
        (self.state == JobState::Done).then(|| BackupMade {
            snapshot: SnapshotName([7; 32]),
            work: make.work,
            at: 1,
            ended_at: 1,
            read_bytes: PIECES << 20,
            stored_bytes: PIECES << 20,
            files: 1,
            left_out: 0,
            segments: None,
            counts: Counts::default(),
        })
    }
}

impl SimJob {
    /// What it has found of a backup: nothing is damaged.
    fn proven(&self) -> Option<Proof> {
        let JobWork::Verify(verify) = &self.order.work else {
            return None;
        };
        (self.state == JobState::Done).then(|| Proof {
            base: verify.restore.base,
            base_at: 1,
            reached: None,
            ended_at: 1,
            is_restorable: true,
            damages: Vec::new(),
            more: 0,
            left_out: Vec::new(),
            relations: 1,
            attachments: 1,
            bytes: PIECES << 20,
        })
    }
}

impl From<&SimJob> for JobReport {
    fn from(job: &SimJob) -> Self {
        Self {
            id: job.order.id,
            state: job.state,
            bytes_done: job.pieces << 20,
            bytes_total: PIECES << 20,
            message: match job.state {
                JobState::Failed => "no space left on device".to_owned(),
                JobState::Retrying => "the other host is not reached".to_owned(),
                _ => String::new(),
            },
            backup: job.made().map(Box::new),
            fault: None,
            pause_ms: job.pause_ms,
            behind: None,
            filled: job.filled,
            granted_ms: None,
            proof: job.proven().map(Box::new),
        }
    }
}

impl SimHost {
    /// Records new orders, and forgets jobs that the plan does not name any more.
    pub(super) fn adopt_jobs(&mut self) {
        let orders = self.held.plan.as_ref().map_or(&[][..], |plan| &plan.jobs);
        self.jobs
            .retain(|id, _| orders.iter().any(|order| order.id == *id));
        for order in orders {
            let copy = self.copies.get(&order.tenant);
            let filled = copy.is_some_and(|copy| copy.world.state.is_filled());
            let job = self.jobs.entry(order.id).or_insert_with(|| SimJob {
                filled,
                order: order.clone(),
                state: JobState::Waiting,
                pieces: 0,
                began_with: None,
                pause_ms: None,
            });
            // It goes on under other terms, unless it has ended.
            if !matches!(job.state, JobState::Done | JobState::Failed) {
                job.order.clone_from(order);
            }
        }
    }

    /// Whether this host lets another one read a tenant's data now.
    fn grants(&self, order: &JobOrder, to: &HostName, now: i64) -> bool {
        let plan = self.held.plan.as_ref();
        plan.is_some_and(|plan| {
            plan.grants.iter().any(|grant| {
                grant.peer == *to
                    && grant.tenant == order.tenant
                    && grant.uid == order.uid
                    && grant.operation == order.operation
                    && now < grant.expires_at
            })
        })
    }
}

impl Simulation {
    /// One piece of one job of a host, if it has any to do.
    pub(super) fn job_step(&mut self, host: &HostName) -> bool {
        if self.hosts[host].off {
            return false;
        }
        let open = |job: &&SimJob| !matches!(job.state, JobState::Done | JobState::Failed);
        let jobs: Vec<SimJob> = self.hosts[host]
            .jobs
            .values()
            .filter(open)
            .cloned()
            .collect();
        if jobs.is_empty() {
            return false;
        }
        // Copies that are kept up never end: each has its turn.
        let first = self.rng.random_range(0..jobs.len());
        let mut turns = jobs.iter().cycle().skip(first).take(jobs.len()).cloned();
        turns.any(|job| self.one_job_step(host, job))
    }

    fn one_job_step(&mut self, host: &HostName, job: SimJob) -> bool {
        let before = job.clone();
        // One that is kept up for good has many more steps, and is not made anew within a run.
        let stands = matches!(job.order.work, JobWork::Follow { standing: true, .. });
        let one_in = if stands { 3_000 } else { 60 };
        let full =
            self.shape.fault_permille > 0 && !self.healing && self.rng.random_ratio(1, one_in);
        let next = if full {
            SimJob {
                state: JobState::Failed,
                ..job
            }
        } else {
            match job.order.work.clone() {
                JobWork::Fetch { from, .. } => self.copied(host, &from, job),
                JobWork::Follow { from, last, .. } => self.followed(host, &from, last, job),
                JobWork::Restore(restore) => self.restored(host, job, &restore),
                JobWork::Backup(_) | JobWork::Verify(_) => SimJob {
                    state: JobState::Done,
                    ..job
                },
            }
        };
        // One that only keeps a copy up has nothing to do most of the time.
        let has_worked = next != before;
        if let Some(sim) = self.hosts.get_mut(host) {
            sim.jobs.insert(next.order.id, next);
        }
        has_worked
    }

    /// The job after one more piece.
    fn copied(&mut self, host: &HostName, from: &HostName, job: SimJob) -> SimJob {
        let retry = |job: SimJob| SimJob {
            state: JobState::Retrying,
            ..job
        };
        let reached = |source: &&SimHost| self.reach(host, &source.name) && !source.off;
        let Some(source) = self.hosts.get(from).filter(reached) else {
            return retry(job);
        };
        let copy = source.copies.get(&job.order.tenant);
        let Some(copy) = copy.filter(|c| !c.runs() && source.grants(&job.order, host, self.now))
        else {
            return retry(job);
        };
        let held = copy.data;
        let began_with = if job.pieces == 0 {
            held
        } else {
            job.began_with
        };
        if held != began_with || held.is_none() {
            // The comparison at the end finds files that differ: it begins anew.
            return SimJob {
                pieces: 0,
                began_with: None,
                ..retry(job)
            };
        }
        let pieces = job.pieces + 1;
        let whole = pieces >= PIECES;
        let ready = Database::Ready { synced: true };
        if whole && !self.complete(host, &job.order, held, ready) {
            return retry(job);
        }
        SimJob {
            state: if whole {
                JobState::Done
            } else {
                JobState::Running
            },
            pieces,
            began_with,
            ..job
        }
    }

    /// One more piece of a backup, of whatever was in it: it is the new tenant's from now on.
    fn restored(&mut self, host: &HostName, job: SimJob, restore: &RestoreOrder) -> SimJob {
        let pieces = job.pieces + 1;
        let copies = self.hosts.get(host).map(|sim| &sim.copies);
        let copy = copies.and_then(|copies| copies.get(&job.order.tenant));
        // In its place: as much as was there. What a restore to an earlier moment leaves out was asked for.
        let aside = copy.and_then(|copy| copy.aside);
        let held = Some(aside.unwrap_or(Data {
            uid: job.order.uid,
            value: 0,
        }));
        let database = match restore.rekey {
            true => Database::Restored {
                source: "odoo_alfa".to_owned(),
                neutralise: restore.neutralise,
            },
            false => Database::Ready { synced: true },
        };
        let whole = pieces >= PIECES;
        if whole && !self.complete(host, &job.order, held, database) {
            // Not made yet: as the agent does, it is begun anew.
            return SimJob {
                state: JobState::Retrying,
                pieces: 0,
                ..job
            };
        }
        SimJob {
            state: match whole {
                true => JobState::Done,
                false => JobState::Running,
            },
            pieces,
            ..job
        }
    }

    /// What the other host has of the tenant, if it is reached and lets it be read.
    fn source(&self, host: &HostName, from: &HostName, order: &JobOrder) -> Option<&Copy> {
        let reached = |source: &&SimHost| self.reach(host, &source.name) && !source.off;
        let source = self.hosts.get(from).filter(reached)?;
        let copy = source.copies.get(&order.tenant)?;
        source.grants(order, host, self.now).then_some(copy)
    }

    /// The job after one more piece of a copy that is kept up: first all of it, then whatever has changed, and at last what was
    /// written until the other one was stopped.
    fn followed(&mut self, host: &HostName, from: &HostName, last: bool, job: SimJob) -> SimJob {
        let retry = SimJob {
            state: JobState::Retrying,
            pause_ms: None,
            ..job.clone()
        };
        let pause_ms = match job.pause_ms {
            Some(short) if short < 5_000 => short,
            _ => [300, 1_000, 9_000][self.rng.random_range(0..3usize)],
        };
        let Some(source) = self.source(host, from, &job.order) else {
            return retry;
        };
        // What lost its power and was not told to go on yet has no database that sends anything.
        if source.world.unasked {
            return retry;
        }
        let (held, is_stopped) = (source.data, !source.runs());
        let copies = self.hosts.get_mut(host).map(|sim| &mut sim.copies);
        let Some(copy) = copies.and_then(|copies| copies.get_mut(&job.order.tenant)) else {
            return retry;
        };
        let mut running = SimJob {
            state: JobState::Running,
            pieces: (job.pieces + 1).min(PIECES),
            pause_ms: None,
            ..job.clone()
        };
        let is_up = copy.world.observed.is_up(Role::Postgres);
        let has_volumes = copy.has_volumes();
        let state = &mut copy.world.state;
        if let Some(end) = was_complete(state, job.order.id, last) {
            return SimJob {
                state: end,
                ..running
            };
        }
        match state.database {
            Database::Incoming if state.uid != job.order.uid || !has_volumes => {
                return retry;
            }
            Database::Incoming if running.pieces < PIECES => return running,
            Database::Incoming => {
                state.database = Database::Following { complete: false };
                state.copied_by = None;
                copy.data = held;
                if let Some(sim) = self.hosts.get_mut(host) {
                    sim.wake(&running.order.tenant);
                }
                return running;
            }
            // Its PostgreSQL is started by the tenant's loop.
            Database::Following { complete: false } if !is_up => return running,
            Database::Following { complete: false } => {
                copy.data = held;
                state.copied_by = Some(job.order.id);
                running.filled = true;
                if !last || !is_stopped {
                    return SimJob {
                        pause_ms: Some(pause_ms),
                        ..running
                    };
                }
                state.database = Database::Following { complete: true };
                state.copied_by = Some(job.order.id);
                state.settings = "of the copy".to_owned();
            }
            _ => return retry,
        }
        SimJob {
            state: JobState::Done,
            ..running
        }
    }

    /// Records that a copy is complete; false while its volumes are not there.
    fn complete(
        &mut self,
        host: &HostName,
        order: &JobOrder,
        data: Option<Data>,
        database: Database,
    ) -> bool {
        let copies = self.hosts.get_mut(host).map(|sim| &mut sim.copies);
        let Some(copy) = copies.and_then(|copies| copies.get_mut(&order.tenant)) else {
            return false;
        };
        let state = &mut copy.world.state;
        if state.uid != order.uid || state.database != Database::Incoming || !copy.has_volumes() {
            return false;
        }
        let state = &mut copy.world.state;
        state.database = database;
        state.copied_by = Some(order.id);
        state.settings = "of the copy".to_owned();
        copy.data = data;
        true
    }
}

/// What becomes of a job whose copy is complete: it was this one's doing; or the tenant went on where it was, and it follows again.
fn was_complete(state: &mut TenantState, job: Uuid, last: bool) -> Option<JobState> {
    if state.database != (Database::Following { complete: true }) {
        return None;
    }
    if state.copied_by == Some(job) {
        return Some(JobState::Done);
    }
    if last {
        return Some(JobState::Failed);
    }
    state.database = Database::Following { complete: false };
    state.copied_by = Some(job);
    Some(JobState::Running)
}

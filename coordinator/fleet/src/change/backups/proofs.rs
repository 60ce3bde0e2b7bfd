//! How proofs of backups change what is stored: orders begin and end, operators ask for some, what hosts have found is remembered.
//!
//! Like a backup, a proof is an order and no operation. Not here: whose turn it is (backups/proofs, views/proofs), what a host is told
//! (views/proofs).

use std::sync::Arc;

use isyone_types::{
    backup::Fault,
    ids::{HostName, ShortName, TenantName},
    proof::Proof,
    report::{JobReport, JobState},
};
use uuid::Uuid;

use super::{
    super::{ChangeError, Edit, Outcome},
    MOST_ORDERS, NAMED,
    said::{has_ended, served},
};
use crate::{
    backups::{ProofTurn, is_believable},
    desired::backups::{Asked, Made, ProofOrder, Proven, TenantBackups},
    event::EventKind,
    views,
};

impl Edit<'_> {
    /// Orders what has its turn, as far as it still is as it was when that was decided.
    pub(in crate::change) fn order_proofs(
        &mut self,
        turns: &[ProofTurn],
    ) -> Result<Outcome, ChangeError> {
        for turn in turns {
            self.order_proof(turn);
        }
        Ok(Outcome::Done)
    }

    fn order_proof(&mut self, turn: &ProofTurn) {
        let fleet = &self.state.fleet;
        let of = fleet.backups.get(&turn.tenant).cloned();
        let Some(of) = of.filter(|of| of.proving.is_none()) else {
            return;
        };
        let tenant = fleet.tenants.get(&of.name).cloned();
        let Some(tenant) = tenant.filter(|tenant| tenant.uid == of.tenant) else {
            return;
        };
        let able = { fleet.hosts.get(&turn.host) }.is_some_and(|host| host.proves_backups);
        let made = of.made.get(&turn.destination);
        let is_there =
            made.is_some_and(|made| made.snapshots.iter().any(|s| s.name == turn.of.base));
        let has_key = fleet.backup_keys.contains_key(&of.tenant);
        // One at a time on a host.
        let is_free = fleet.proving_at(&turn.host).next().is_none();
        let has_place = self.orders_at(&turn.host).len() < MOST_ORDERS;
        if !(able && is_there && has_key && is_free && has_place) {
            return;
        }
        let order = ProofOrder {
            id: self.stamp_of(&tenant).id,
            host: turn.host.clone(),
            destination: turn.destination.clone(),
            base: turn.of.base,
            base_at: turn.of.base_at,
            to: turn.of.to,
            since: self.stamp.now,
        };
        self.put_backups(TenantBackups {
            proving: Some(order),
            ..(*of).clone()
        });
        self.touch_host(&turn.host);
    }

    /// Remembers since when repositories can be proven, once for each.
    pub(in crate::change) fn proofs_begin(
        &mut self,
        repositories: &[(Uuid, ShortName)],
    ) -> Result<Outcome, ChangeError> {
        for (tenant, destination) in repositories {
            let Some(of) = self.state.fleet.backups.get(tenant).cloned() else {
                continue;
            };
            let mut of = (*of).clone();
            // One of which nothing is known any more gets no record by this.
            let Some(made) = of.made.get_mut(destination) else {
                continue;
            };
            if made.proofs.since.is_none() {
                made.proofs.since = Some(self.stamp.now);
                self.put_backups(of);
            }
        }
        Ok(Outcome::Done)
    }

    /// Ends orders that nobody carries out any more. Who asks may have judged by another clock than ours.
    pub(in crate::change) fn end_proof_orders(
        &mut self,
        orders: &[(Uuid, Uuid)],
    ) -> Result<Outcome, ChangeError> {
        for (tenant, id) in orders {
            let of = self.state.fleet.backups.get(tenant).cloned();
            if let Some(of) = of
                && let Some(order) = of.proving.clone().filter(|order| order.id == *id)
                && views::is_proof_given_up(self.state, self.settings, &of, &order, self.stamp.now)
            {
                self.end_proof(&of, &order, None);
            }
        }
        Ok(Outcome::Done)
    }

    /// An operator wants proofs now: they come before all others, at each destination where there is a backup.
    pub(in crate::change) fn ask_for_proofs(
        &mut self,
        tenants: &[TenantName],
    ) -> Result<Outcome, ChangeError> {
        let now = self.stamp.now;
        let provers = views::provers(self.state, self.settings, now);
        let mut asked = Vec::new();
        for name in tenants {
            let tenant = self.tenant(name)?;
            let problem = views::no_proof(self.state, self.settings, &tenant, &provers, now);
            if let Some(problem) = problem {
                return Err(ChangeError::NotProvable {
                    name: name.clone(),
                    problem,
                });
            }
            let policy = self.settings.backups.policy(&tenant.spec.plan);
            let of = self.state.fleet.backups.get(&tenant.uid).cloned();
            let (Some(policy), Some(of)) = (policy, of) else {
                continue; // it would have been a problem
            };
            let there = |name: &&_| views::has_backup(self.state, &tenant, name);
            let wish = Asked {
                at: now,
                by: self.stamp.actor.clone(),
                labels: Vec::new(),
                left: policy.destinations.iter().filter(there).cloned().collect(),
            };
            asked.push((tenant, of, wish));
        }
        // Of many at once one event: they would push all others out.
        let many = asked.len() > NAMED;
        if many {
            let message = format!("of {} tenants", asked.len());
            self.event(EventKind::BackupProofAsked, None, None, None, message);
        }
        for (tenant, of, wish) in asked {
            let message = format!("asked for at {}", super::listed(&wish.left));
            let mut of = (*of).clone();
            // Who asks now does not wait for a pause after old failures.
            for made in of.made.values_mut() {
                (made.proofs.failures, made.proofs.failed_at) = (0, None);
                made.proofs.failure = "".into();
            }
            of.proof_asked = Some(wish);
            self.put_backups(of);
            if !many {
                let kind = EventKind::BackupProofAsked;
                self.event(kind, Some(&tenant), None, None, message);
            }
        }
        Ok(Outcome::Done)
    }

    /// A host's word on its jobs that prove backups.
    pub(in crate::change) fn proof_jobs(&mut self, host: &HostName, jobs: &[Arc<JobReport>]) {
        // Nearly always there is none.
        let tenants: Vec<Uuid> = self.state.fleet.proving_at(host).copied().collect();
        for tenant in tenants {
            let Some(of) = self.state.fleet.backups.get(&tenant).cloned() else {
                continue;
            };
            let Some(order) = of.proving.clone() else {
                continue;
            };
            let job = jobs.iter().find(|job| job.id == order.id && has_ended(job));
            if let Some(job) = job {
                self.end_proof(&of, &order, Some(&**job));
            }
        }
    }

    /// A proof is over: by its job, or because nobody carries it out.
    fn end_proof(&mut self, of: &TenantBackups, order: &ProofOrder, job: Option<&JobReport>) {
        let now = self.stamp.now;
        let mut left = of.clone();
        left.proving = None;
        let made = left.made.entry(order.destination.clone()).or_default();
        let found = job
            .filter(|job| job.state == JobState::Done)
            .and_then(|job| job.proof.as_deref())
            .filter(|proof| proof.base == order.base && is_believable(proof.ended_at, now));
        let news = match found {
            Some(found) => {
                proven(made, order, found, now);
                let asked = left.proof_asked.take();
                left.proof_asked = asked.and_then(|asked| served(asked, &order.destination));
                news_of(order, found)
            }
            None => failed(made, order, job, now),
        };
        self.put_backups(left);
        self.touch_host(&order.host);
        let tenant = self.state.fleet.tenants.get(&of.name).cloned();
        let tenant = tenant.filter(|tenant| tenant.uid == of.tenant);
        if let (Some((kind, message)), Some(tenant)) = (news, tenant) {
            self.event(kind, Some(&tenant), Some(&order.host), None, message);
        }
    }
}

fn proven(made: &mut Made, order: &ProofOrder, found: &Proof, now: i64) {
    made.repository.proven = Some((order.since, found.is_restorable));
    let proofs = &mut made.proofs;
    (proofs.failures, proofs.failed_at) = (0, None);
    proofs.failure = "".into();
    if found.is_restorable {
        proofs.good_at = Some(now);
    }
    proofs.last = Some(Box::new(Proven {
        host: order.host.clone(),
        begun_at: order.since,
        base_at: order.base_at,
        found: found.clone(),
    }));
}

/// Nothing is told of what is as it should be.
fn news_of(order: &ProofOrder, found: &Proof) -> Option<(EventKind, String)> {
    if found.is_good() {
        return None;
    }
    let kind = match found.is_restorable {
        true => EventKind::BackupIncomplete,
        false => EventKind::BackupDamaged,
    };
    let more = match found.more {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let damages = found.damages.join("; ");
    Some((kind, format!("{}: {damages}{more}", order.destination)))
}

fn failed(
    made: &mut Made,
    order: &ProofOrder,
    job: Option<&JobReport>,
    now: i64,
) -> Option<(EventKind, String)> {
    let proofs = &mut made.proofs;
    proofs.failures = proofs.failures.saturating_add(1);
    proofs.failed_at = Some(now);
    proofs.failure = match job {
        None => "its host did not carry it out".into(),
        Some(job) if job.state == JobState::Done => {
            "its host says that it is done, and not what it has found, or a time that has not come"
                .into()
        }
        Some(job) => job.message.as_str().into(),
    };
    let is_news = job.is_some_and(|job| job.fault != Some(Fault::NotNow));
    is_news.then(|| {
        let (why, times) = (&proofs.failure, proofs.failures);
        let message = format!("{}: {why} ({times} times in a row)", order.destination);
        (EventKind::BackupProofFailed, message)
    })
}

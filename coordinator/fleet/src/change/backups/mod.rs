//! How tenants' backups change what is stored: keys are made and deleted, orders begin and end, what hosts made is remembered.
//!
//! A backup is an order and no operation: it changes nothing of a tenant and keeps nobody from changing it; and each night's would
//! push all operations out of memory. A host's word counts for what it has made itself, and is no more often written down than
//! [`WRITE_EVERY_MS`], whatever it says.
//! Not here: whose turn it is (backups, views/backups), pruning and removing repositories (the coordinator's `repositories`).

mod proofs;
mod said;

use std::sync::Arc;

use isyone_types::{
    backup::{BackupPurpose, BackupWork, MakeBackup, SnapshotName},
    ids::{HostName, ShortName, TenantName},
    plan::MAX_JOBS_PER_HOST,
};
use uuid::Uuid;

pub use self::said::{POINT_EVERY_MS, WRITE_EVERY_MS};
use super::{ChangeError, Edit, Outcome};
use crate::{
    backups::{Turn, Wanted, Work},
    desired::{
        Sealed, Tenant,
        backups::{Asked, BackupKey, BackupOrder, Gone, TenantBackups},
    },
    event::EventKind,
    views,
    written::{RecordKind, RecordValue, Write},
};

/// Jobs of a host that backups take at most: others have room beside them.
const MOST_ORDERS: usize = MAX_JOBS_PER_HOST / 4;
/// Tenants of one request that have an event each.
const NAMED: usize = 20;
/// How many keys one tick deletes, so that a tick stays short.
const MAX_PER_TICK: usize = 100;

/// A key that was made for a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    pub name: TenantName,
    pub uid: Uuid,
    /// Sealed for [`BackupKey::sealed_for`].
    pub key: Sealed,
}

/// What an operator asks to be backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskForBackup {
    pub tenants: Vec<TenantName>,
    /// Kept with the snapshots.
    pub labels: Vec<ShortName>,
}

/// Arguments of [`Command::RestoreTenant`](super::Command::RestoreTenant).
#[derive(Debug, Clone)]
pub struct RestoreTenant {
    /// The tenant that was backed up.
    pub source: TenantName,
    /// Up to where.
    pub wanted: Wanted,
    /// From there, where it is given; else from where most is reached.
    pub destination: Option<ShortName>,
    /// The new tenant; `secrets` are sealed for its `uid`. The source's own name: in its place.
    pub name: TenantName,
    pub uid: Uuid,
    pub secrets: Sealed,
    /// Only there; else where placement finds room.
    pub host: Option<HostName>,
    /// It is used as it is: not neutralised before its first start.
    pub live: bool,
    /// A new one is meant, under whatever name.
    pub as_new: bool,
    pub request_id: Option<String>,
}

/// What a tenant can be restored to, in words, and whether that is what was promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedBackups {
    /// The tenant's uid.
    pub tenant: Uuid,
    pub is_bad: bool,
    pub sentence: String,
}

impl Edit<'_> {
    pub(in crate::change) fn put_backup_keys(
        &mut self,
        keys: Vec<NewKey>,
    ) -> Result<Outcome, ChangeError> {
        for NewKey { name, uid, key } in keys {
            let fleet = &self.state.fleet;
            let tenant = fleet.tenants.get(&name).filter(|t| t.uid == uid).cloned();
            // Never replaced: what was made with a key needs it.
            let Some(tenant) = tenant.filter(|_| !fleet.backup_keys.contains_key(&uid)) else {
                continue;
            };
            self.put_backup_key(BackupKey {
                tenant: uid,
                name: name.clone(),
                key,
                made_at: self.stamp.now,
                delete_at: None,
            });
            self.put_backups(TenantBackups::new(uid, name));
            self.touch_host(&tenant.placement.host);
        }
        Ok(Outcome::Done)
    }

    /// Orders what has its turn, as far as it still is as it was when that was decided.
    pub(in crate::change) fn order_backups(
        &mut self,
        turns: &[Turn],
    ) -> Result<Outcome, ChangeError> {
        for turn in turns {
            self.order_backup(turn);
        }
        Ok(Outcome::Done)
    }

    fn order_backup(&mut self, turn: &Turn) {
        let fleet = &self.state.fleet;
        let Some(of) = fleet.backups.get(&turn.tenant).cloned() else {
            return;
        };
        let tenant = fleet.tenants.get(&of.name).cloned();
        let Some(tenant) = tenant.filter(|t| t.uid == of.tenant) else {
            return;
        };
        let host = &tenant.placement.host;
        let able = fleet.hosts.get(host).is_some_and(|host| host.makes_backups);
        let policy = self.settings.backups.policy(&tenant.spec.plan);
        let goes_there = policy.is_some_and(|p| p.destinations.contains(&turn.destination));
        let fits = *host == turn.host && of.order.is_none() && able && goes_there;
        if !fits || self.orders_at(host).len() >= MOST_ORDERS {
            return;
        }
        let order = BackupOrder {
            id: self.stamp_of(&tenant).id,
            host: host.clone(),
            make: make(turn, &tenant, of.asked.as_ref()),
            since: self.stamp.now,
        };
        let order = Some(order);
        self.put_backups(TenantBackups {
            order,
            ..(*of).clone()
        });
        self.touch_host(host);
    }

    /// Ends orders that nobody carries out any more. Who asks may have judged by another clock than ours.
    pub(in crate::change) fn end_backup_orders(
        &mut self,
        orders: &[(Uuid, Uuid)],
    ) -> Result<Outcome, ChangeError> {
        for (tenant, id) in orders {
            let of = self.state.fleet.backups.get(tenant).cloned();
            if let Some(of) = of
                && let Some(order) = of.order.clone().filter(|order| order.id == *id)
                && views::is_order_given_up(self.state, self.settings, &of, &order, self.stamp.now)
            {
                self.end_order(&of, &order, None);
            }
        }
        Ok(Outcome::Done)
    }

    /// An operator wants backups now: they come before all others, at each destination. Whoever asks again has asked once.
    pub(in crate::change) fn ask_for_backups(
        &mut self,
        ask: AskForBackup,
    ) -> Result<Outcome, ChangeError> {
        let mut asked = Vec::new();
        for name in &ask.tenants {
            let tenant = self.tenant(name)?;
            if let Some(problem) = views::no_backups(self.state, self.settings, &tenant) {
                return Err(ChangeError::NoBackups {
                    name: name.clone(),
                    problem,
                });
            }
            let policy = self.settings.backups.policy(&tenant.spec.plan);
            let of = self.state.fleet.backups.get(&tenant.uid).cloned();
            let (Some(policy), Some(of)) = (policy, of) else {
                continue; // it would have been a problem
            };
            let wish = Asked {
                at: self.stamp.now,
                by: self.stamp.actor.clone(),
                labels: ask.labels.clone(),
                left: policy.destinations.clone(),
            };
            asked.push((tenant, of, wish));
        }
        // Of many at once one event: they would push all others out.
        let many = asked.len() > NAMED;
        if many {
            let message = format!("of {} tenants", asked.len());
            self.event(EventKind::BackupAsked, None, None, None, message);
        }
        for (tenant, of, wish) in asked {
            let message = format!("asked for at {}", listed(&wish.left));
            let mut of = (*of).clone();
            // Who asks now does not wait for a pause after old failures.
            for made in of.made.values_mut() {
                (made.failures, made.failed_at) = (0, None);
                made.failure = "".into();
            }
            of.asked = Some(wish);
            self.put_backups(of);
            if !many {
                self.event(EventKind::BackupAsked, Some(&tenant), None, None, message);
            }
        }
        Ok(Outcome::Done)
    }

    /// The log of before leads no further: a tenant that was restored in its place, or has returned, is backed up anew, before all
    /// others. So is one that has moved: its new host does not know of the log of before, and one that ran meanwhile has begun another
    /// timeline there.
    pub(in crate::change) fn back_up_soon(&mut self, tenant: &Tenant) {
        let policy = self.settings.backups.policy(&tenant.spec.plan);
        let of = self.state.fleet.backups.get(&tenant.uid).cloned();
        if let (Some(policy), Some(of)) = (policy, of) {
            // What somebody waits for already is made of it, with its labels.
            let asked = of.asked.clone().unwrap_or_else(|| Asked {
                at: self.stamp.now,
                by: self.stamp.actor.clone(),
                labels: Vec::new(),
                left: Vec::new(),
            });
            let wish = Asked {
                left: policy.destinations.clone(),
                ..asked
            };
            self.put_backups(TenantBackups {
                asked: Some(wish),
                ..(*of).clone()
            });
        }
    }

    /// A repository was pruned: these snapshots are no longer in it.
    pub(in crate::change) fn snapshots_forgotten(
        &mut self,
        tenant: Uuid,
        destination: &ShortName,
        names: &[SnapshotName],
    ) -> Result<Outcome, ChangeError> {
        let of = self.state.fleet.backups.get(&tenant).cloned();
        if let Some(mut left) = of.map(|of| (*of).clone())
            && let Some(made) = left.made.get_mut(destination)
        {
            made.snapshots.retain(|known| !names.contains(&known.name));
            made.pruned_at = Some(self.stamp.now);
            self.put_backups(left);
        }
        Ok(Outcome::Done)
    }

    /// What a host was ordered that is not over.
    fn orders_at(&self, host: &HostName) -> Vec<(Arc<TenantBackups>, BackupOrder)> {
        let fleet = &self.state.fleet;
        let placed = fleet
            .by_host
            .get(host)
            .into_iter()
            .flat_map(|index| &index.tenants);
        let of = placed.filter_map(|name| fleet.backups.get(&fleet.tenants.get(name)?.uid));
        let orders = of.filter_map(|of| Some((of.clone(), of.order.clone()?)));
        orders.filter(|(_, order)| order.host == *host).collect()
    }

    /// Tells of tenants that cannot be restored as was promised, and that they can again; each once.
    pub(in crate::change) fn backups_judged(
        &mut self,
        judged: Vec<JudgedBackups>,
    ) -> Result<Outcome, ChangeError> {
        for JudgedBackups {
            tenant,
            is_bad,
            sentence,
        } in judged
        {
            let of = self.state.fleet.backups.get(&tenant);
            let record = of
                .and_then(|of| self.state.fleet.tenants.get(&of.name))
                .cloned();
            let record = record.filter(|record| record.uid == tenant);
            let told = &mut self.state.told_backups;
            let kind = match (told.contains(&tenant), is_bad && record.is_some()) {
                (false, true) => {
                    told.insert(tenant);
                    EventKind::BackupLate
                }
                (true, false) => {
                    told.remove(&tenant);
                    EventKind::BackupRecovered
                }
                _ => continue,
            };
            if record.is_some() {
                self.event(kind, record.as_deref(), None, None, sentence);
            }
        }
        Ok(Outcome::Done)
    }

    /// Nothing of a tenant is left on any host. Its backups are kept for their time, with what it was; an order or a wish makes no sense any more.
    pub(in crate::change) fn backups_of_the_gone(&mut self, tenant: &Tenant) {
        let fleet = &self.state.fleet;
        let kept = self
            .settings
            .backups
            .kept_after_delete_ms(&tenant.spec.plan);
        if let Some(key) = fleet.backup_keys.get(&tenant.uid).cloned() {
            let delete_at = Some(self.stamp.now.saturating_add(kept));
            self.put_backup_key(BackupKey {
                delete_at,
                ..(*key).clone()
            });
        }
        let of = self.state.fleet.backups.get(&tenant.uid).cloned();
        let gone = Gone {
            spec: tenant.spec.clone(),
            size: tenant.size,
            stopped_since: views::stopped_since(tenant).unwrap_or(self.stamp.now),
        };
        if let Some(of) = of {
            if let Some(order) = &of.proving {
                self.touch_host(&order.host);
            }
            self.put_backups(TenantBackups {
                order: None,
                asked: None,
                proving: None,
                proof_asked: None,
                gone: Some(Box::new(gone)),
                ..(*of).clone()
            });
        }
    }

    /// Deletes keys whose time is over: from then on nobody can read what was made with them.
    pub(in crate::change) fn delete_keys(&mut self) {
        let now = self.stamp.now;
        let over = self.state.fleet.key_ends.iter();
        let over: Vec<Uuid> = over
            .take_while(|(end, _)| *end <= now)
            .take(MAX_PER_TICK)
            .map(|(_, id)| *id)
            .collect();
        for uid in over {
            let Some(key) = self.state.fleet.backup_keys.get(&uid).cloned() else {
                continue;
            };
            self.state.fleet.remove_backup_key(uid);
            let gone = Write::Delete(RecordKind::BackupKey, uid.to_string());
            self.effects.writes.push(gone);
            self.put_backups(TenantBackups {
                shredded_at: Some(now),
                ..TenantBackups::new(uid, key.name.clone())
            });
            let message = format!(
                "of the tenant `{}` that was deleted: its backups cannot be read any more",
                key.name
            );
            self.event(EventKind::BackupKeyDeleted, None, None, None, message);
        }
    }

    /// Nothing is left of the repositories of tenants whose key is deleted.
    pub(in crate::change) fn repositories_removed(
        &mut self,
        tenants: &[Uuid],
    ) -> Result<Outcome, ChangeError> {
        for tenant in tenants {
            let of = self.state.fleet.backups.get(tenant);
            if of.is_some_and(|of| of.shredded_at.is_some()) {
                self.state.fleet.remove_backups(*tenant);
                let gone = Write::Delete(RecordKind::Backups, tenant.to_string());
                self.effects.writes.push(gone);
            }
        }
        Ok(Outcome::Done)
    }

    pub(in crate::change) fn put_backup_key(&mut self, key: BackupKey) {
        let key = Arc::new(key);
        self.effects
            .writes
            .push(Write::Put(RecordValue::BackupKey(key.clone())));
        self.state.fleet.put_backup_key(key);
    }

    pub(in crate::change) fn put_backups(&mut self, of: TenantBackups) {
        let of = Arc::new(of);
        self.effects
            .writes
            .push(Write::Put(RecordValue::Backups(of.clone())));
        self.state.fleet.put_backups(of);
    }
}

/// What a host is told to make for a turn.
fn make(turn: &Turn, tenant: &Tenant, asked: Option<&Asked>) -> MakeBackup {
    let (work, purpose) = match turn.work {
        Work::Asked if views::stopped_since(tenant).is_some() => {
            (BackupWork::Stopped, BackupPurpose::OnOrder)
        }
        Work::Asked => (BackupWork::Base, BackupPurpose::OnOrder),
        Work::Stopped if tenant.is_deleted() => (BackupWork::Stopped, BackupPurpose::BeforeDelete),
        Work::Stopped => (BackupWork::Stopped, BackupPurpose::OnStop),
        Work::Base => (BackupWork::Base, BackupPurpose::Scheduled),
        Work::Dump => (BackupWork::Dump, BackupPurpose::Scheduled),
    };
    let labels = asked.filter(|_| turn.work == Work::Asked);
    MakeBackup {
        work,
        purpose,
        destination: turn.destination.clone(),
        labels: labels.map(|asked| asked.labels.clone()).unwrap_or_default(),
    }
}

fn listed(names: &[ShortName]) -> String {
    names
        .iter()
        .map(ShortName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

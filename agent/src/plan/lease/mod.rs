//! Leases of this host's tenants: what each may do now, what it is granted, and what it grants to others. Pure: moments are milliseconds of
//! the machine's time since its boot, and come in as arguments.
//!
//! A tenant that needs a lease runs for so long after the moment before its host asked, and whoever grants one counts from the moment in
//! which it answered; so the one is always over first. Nothing here makes a moment later than it was. Not here: asking and answering (peer,
//! link), the clock and the file (host::leases), who may take over (the coordinator).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use isyone_proto::{
    ids::{HostName, TenantName},
    plan::{DesiredState, HostPlan, JobWork, Lease, TenantPlan},
};
use uuid::Uuid;

/// How often in the time of a lease the host that keeps the standby is asked, and how seldom at most.
const ASKED: (u32, u64) = (8, 10_000);
/// The shortest pause between two questions: no lease that is offered needs as short a one.
const SHORTEST_PAUSE_MS: u64 = 100;

/// What a tenant's lease lets it do at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Standing {
    /// Whatever its plan says.
    #[default]
    Free,
    /// Nothing: it neither answers nor runs.
    Lapsed(Lapse),
    /// It lives here, and may not take over yet.
    Waits(Wait),
}

/// The same without what changes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Lapsed,
    Waits,
}

impl Standing {
    /// What holds it back, if anything does.
    pub fn hold(&self) -> Option<Hold> {
        match self {
            Self::Free => None,
            Self::Lapsed(_) => Some(Hold::Lapsed),
            Self::Waits(_) => Some(Hold::Waits),
        }
    }
}

/// A lease that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lapse {
    /// The host that could renew it beside the coordinator.
    pub renewer: HostName,
    pub for_ms: u32,
    /// There was one, as far as this host knows.
    pub was_granted: bool,
}

/// How long a copy waits before it takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub left_ms: u64,
    /// The host that must have stopped it by then, where that is remembered.
    pub from: Option<HostName>,
}

/// What a tenant that lives here needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    name: TenantName,
    for_ms: u32,
    renewer: HostName,
    address: Option<SocketAddr>,
}

/// What a copy here grants.
#[derive(Debug, Clone, Default)]
struct Gift {
    name: Option<TenantName>,
    /// To whom, while the plan in force says so.
    to: Option<HostName>,
    /// To whom it was last.
    was_to: Option<HostName>,
    /// When it was granted last.
    at_ms: Option<u64>,
    /// It takes over only so long after that.
    over_ms: Option<u32>,
}

/// A host that is asked to renew leases.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Renewer {
    pub host: HostName,
    pub address: SocketAddr,
}

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub tenants: Vec<(TenantName, Uuid)>,
    /// Between two of them.
    pub pause_ms: u64,
}

/// All leases of a host.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// This agent's start: of grants before it nothing is known.
    began_ms: u64,
    /// The coordinator has not answered since the machine started.
    unasked: bool,
    needs: BTreeMap<Uuid, Need>,
    /// When those were let go on, counted from before it was asked for.
    granted: BTreeMap<Uuid, u64>,
    /// Until when the relay is told that they may be answered for.
    told: BTreeMap<Uuid, u64>,
    /// Tenants that run without a lease under the plan in force.
    unbound: BTreeSet<Uuid>,
    gifts: BTreeMap<Uuid, Gift>,
    /// No grant to a tenant that is not in `gifts` any more was later.
    forgotten_ms: u64,
    /// Standing jobs, by the tenants whose copies they keep up.
    jobs: BTreeMap<Uuid, Uuid>,
}

impl Book {
    /// Of an agent that starts now; `granted` is what it had written down in the same boot.
    pub fn new(now_ms: u64, granted: BTreeMap<Uuid, u64>) -> Self {
        let past = granted.into_iter().map(|(uid, at)| (uid, at.min(now_ms)));
        Self {
            began_ms: now_ms,
            forgotten_ms: now_ms,
            granted: past.collect(),
            ..Self::default()
        }
    }

    /// Another plan is in force. A tenant that ran without a lease until now begins one: its host knows of it from this moment on, and
    /// nobody may count on it before this host has said so.
    pub fn adapt(&mut self, plan: &HostPlan, stale: &[TenantName], unasked: bool, now_ms: u64) {
        let before = std::mem::take(&mut self.unbound);
        self.unasked = unasked;
        self.needs.clear();
        let kept: BTreeMap<Uuid, Gift> = std::mem::take(&mut self.gifts);
        for tenant in &plan.tenants {
            let is_stale = stale.contains(&tenant.name);
            let runs = tenant.desired == DesiredState::Running && !is_stale && !unasked;
            if let Some(need) = need(tenant) {
                if before.contains(&tenant.uid) {
                    self.grant(tenant.uid, now_ms);
                }
                self.needs.insert(tenant.uid, need);
            } else if runs {
                self.unbound.insert(tenant.uid);
            }
            let gift = kept.get(&tenant.uid).cloned().unwrap_or_default();
            let gift = gift.under(tenant, is_stale);
            self.gifts.insert(tenant.uid, gift);
        }
        let left = kept
            .iter()
            .filter(|(uid, _)| !self.gifts.contains_key(*uid));
        let latest = left.filter_map(|(_, gift)| gift.at_ms).max();
        self.forgotten_ms = self.forgotten_ms.max(latest.unwrap_or(0));
        let needs = &self.needs;
        self.granted.retain(|uid, _| needs.contains_key(uid));
        self.told.retain(|uid, _| needs.contains_key(uid));
        let standing = |work: &JobWork| matches!(work, JobWork::Follow { standing: true, .. });
        let jobs = plan.jobs.iter().filter(|job| standing(&job.work));
        self.jobs = jobs.map(|job| (job.id, job.uid)).collect();
    }

    fn grant(&mut self, uid: Uuid, asked_ms: u64) {
        let at = self.granted.entry(uid).or_insert(asked_ms);
        *at = (*at).max(asked_ms);
    }

    /// The coordinator has acknowledged, under the plan in force, a report that was begun at that moment.
    pub fn acknowledged(&mut self, asked_ms: u64) {
        let all: Vec<Uuid> = self.needs.keys().copied().collect();
        for uid in all {
            self.grant(uid, asked_ms);
        }
    }

    /// A host that was asked at that moment lets these go on. After a boot it does not count before the coordinator has answered.
    pub fn renewed(&mut self, by: &HostName, tenants: &[Uuid], asked_ms: u64) {
        let asked = |uid: &&Uuid| self.needs.get(*uid).is_some_and(|need| need.renewer == *by);
        if self.unasked {
            return;
        }
        let counted: Vec<Uuid> = tenants.iter().filter(asked).copied().collect();
        for uid in counted {
            self.grant(uid, asked_ms);
        }
    }

    /// Until when a tenant may run; `None`: it needs no lease. Zero before it was ever granted one.
    fn until(&self, uid: &Uuid) -> Option<u64> {
        let need = self.needs.get(uid)?;
        let granted = self.granted.get(uid);
        Some(granted.map_or(0, |at| at.saturating_add(u64::from(need.for_ms))))
    }

    /// What a tenant may do now.
    pub fn standing(&self, uid: &Uuid, now_ms: u64) -> Standing {
        if let (Some(need), Some(until)) = (self.needs.get(uid), self.until(uid)) {
            if now_ms < until {
                return Standing::Free;
            }
            return Standing::Lapsed(Lapse {
                renewer: need.renewer.clone(),
                for_ms: need.for_ms,
                was_granted: self.granted.contains_key(uid),
            });
        }
        let left_ms = self
            .may_take_over(uid)
            .map_or(0, |at| at.saturating_sub(now_ms));
        if left_ms == 0 {
            return Standing::Free;
        }
        let from = self.gifts.get(uid).and_then(|gift| gift.was_to.clone());
        Standing::Waits(Wait { left_ms, from })
    }

    /// When a copy here may take over; `None`: its plan has it wait for nobody.
    fn may_take_over(&self, uid: &Uuid) -> Option<u64> {
        let over_ms = self.gifts.get(uid)?.over_ms?;
        Some(self.last_gift(uid).saturating_add(u64::from(over_ms)))
    }

    /// When a tenant that lives elsewhere was last let go on from here; this agent's start, if that is not known.
    fn last_gift(&self, uid: &Uuid) -> u64 {
        let at = self.gifts.get(uid).and_then(|gift| gift.at_ms);
        at.unwrap_or(0).max(self.began_ms).max(self.forgotten_ms)
    }

    /// All tenants that something holds back now.
    pub fn holds(&self, now_ms: u64) -> BTreeMap<Uuid, Hold> {
        let all = self.needs.keys().chain(self.gifts.keys());
        let hold = |uid: &Uuid| Some((*uid, self.standing(uid, now_ms).hold()?));
        all.filter_map(hold).collect()
    }

    /// Tenants whose lease is over now.
    pub fn lapsed(&self, now_ms: u64) -> BTreeMap<Uuid, TenantName> {
        let is_over = |uid: &Uuid| self.until(uid).is_some_and(|until| now_ms >= until);
        let over = self.needs.iter().filter(|(uid, _)| is_over(uid));
        over.map(|(uid, need)| (*uid, need.name.clone())).collect()
    }

    /// When the next of them changes by itself.
    pub fn next_change(&self, now_ms: u64) -> Option<u64> {
        let ends = self.needs.keys().filter_map(|uid| self.until(uid));
        let begins = self.gifts.keys().filter_map(|uid| self.may_take_over(uid));
        ends.chain(begins).filter(|at| *at > now_ms).min()
    }

    /// Whether the relay has to be told anew, of all: when less than half of a lease remains of what it knows, or that was too much.
    pub fn tell(&mut self, now_ms: u64) -> bool {
        let ends: BTreeMap<Uuid, u64> = self
            .needs
            .keys()
            .filter_map(|uid| Some((*uid, self.until(uid)?)))
            .collect();
        let is_due = |(uid, until): (&Uuid, &u64)| {
            let half = self
                .needs
                .get(uid)
                .map_or(0, |need| u64::from(need.for_ms) / 2);
            match self.told.get(uid) {
                None => true,
                Some(told) if told > until => true,
                Some(told) => told < until && told.saturating_sub(now_ms) < half,
            }
        };
        let is_due = ends.iter().any(is_due);
        if is_due {
            self.told = ends;
        }
        is_due
    }

    /// Until when the relay is told that a tenant may be answered for; `None`: for good.
    pub fn told(&self, name: &TenantName) -> Option<u64> {
        let (uid, _) = self.needs.iter().find(|(_, need)| need.name == *name)?;
        let told = self.told.get(uid).copied().unwrap_or(0);
        Some(told.min(self.until(uid).unwrap_or(0)))
    }

    /// When the tenants here were let go on.
    pub fn granted(&self) -> &BTreeMap<Uuid, u64> {
        &self.granted
    }

    /// Which hosts are asked to renew which leases.
    pub fn questions(&self) -> BTreeMap<Renewer, Question> {
        let mut all = BTreeMap::<Renewer, Question>::new();
        for (uid, need) in &self.needs {
            let Some(address) = need.address else {
                continue;
            };
            let renewer = Renewer {
                host: need.renewer.clone(),
                address,
            };
            let (often, seldom_ms) = ASKED;
            let pause_ms = u64::from(need.for_ms / often).clamp(SHORTEST_PAUSE_MS, seldom_ms);
            let question = all.entry(renewer).or_insert(Question {
                tenants: Vec::new(),
                pause_ms,
            });
            question.tenants.push((need.name.clone(), *uid));
            question.pause_ms = question.pause_ms.min(pause_ms);
        }
        all
    }

    /// Another host asks for a tenant; `true`: it is let go on, from this moment.
    pub fn gives(&mut self, to: &HostName, name: &TenantName, uid: Uuid, now_ms: u64) -> bool {
        let Some(gift) = self.gifts.get_mut(&uid) else {
            return false;
        };
        let gives = gift.to.as_ref() == Some(to) && gift.name.as_ref() == Some(name);
        if gives {
            gift.at_ms = Some(gift.at_ms.unwrap_or(0).max(now_ms));
        }
        gives
    }

    /// How long ago the tenant of a standing job was last let go on; `None`: by its plan it is not.
    pub fn given_ms(&self, job: &Uuid, now_ms: u64) -> Option<u64> {
        let uid = self.jobs.get(job)?;
        self.gifts.get(uid)?.to.as_ref()?;
        Some(now_ms.saturating_sub(self.last_gift(uid)))
    }
}

/// The lease that a tenant needs to run.
fn need(tenant: &TenantPlan) -> Option<Need> {
    match &tenant.lease {
        Some(Lease::Needed {
            for_ms,
            renewer,
            address,
        }) if tenant.desired == DesiredState::Running => Some(Need {
            name: tenant.name.clone(),
            for_ms: *for_ms,
            renewer: renewer.clone(),
            address: *address,
        }),
        _ => None,
    }
}

/// The host that a tenant's copy here lets go on.
pub fn granted_to(tenant: &TenantPlan) -> Option<&HostName> {
    match &tenant.lease {
        Some(Lease::Granted { to }) if tenant.desired == DesiredState::Standby => Some(to),
        _ => None,
    }
}

impl Gift {
    /// What becomes of it under another plan. When it was last granted stays.
    fn under(self, tenant: &TenantPlan, is_stale: bool) -> Self {
        let to = granted_to(tenant).filter(|_| !is_stale).cloned();
        let over_ms = match tenant.lease {
            Some(Lease::Over { after_ms }) if tenant.desired == DesiredState::Running => {
                Some(after_ms)
            }
            _ => None,
        };
        Self {
            name: Some(tenant.name.clone()),
            was_to: to.clone().or(self.was_to),
            to,
            at_ms: self.at_ms,
            over_ms,
        }
    }
}

#[cfg(test)]
mod tests;

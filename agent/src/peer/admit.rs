//! Who may have what of this host: pure checks against the plan in force, and the guard that repeats them while a call
//! lasts.
//!
//! Not here: who is granted what (the coordinator).

use std::{sync::Arc, time::Duration};

use isyone_proto::{
    ids::HostName,
    pb::agent::v1::PeerTenant,
    plan::{DesiredState, HostPlan, TenantPlan, UnixMs},
};
use tokio::{sync::watch, time::sleep};
use tonic::Status;

use crate::{
    base::clock::now_ms,
    host::{database::Of, ledger::InForce},
    plan::lease::granted_to,
};

/// How often a running call is checked beside plans that arrive: its grant or its certificate may have expired.
const CHECK: Duration = Duration::from_secs(1);

/// Who calls, from the certificate of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub host: HostName,
    /// End of the certificate, seconds since the Unix epoch.
    pub not_after: i64,
}

impl Of {
    /// Parses the wire form; `None` for what names nobody.
    pub fn parse(wire: Option<&PeerTenant>) -> Option<Self> {
        let wire = wire?;
        Some(Self {
            tenant: wire.tenant.parse().ok()?,
            uid: wire.tenant_uid.parse().ok()?,
        })
    }

    /// The wire form.
    pub fn to_wire(&self) -> PeerTenant {
        PeerTenant {
            tenant: self.tenant.to_string(),
            tenant_uid: self.uid.to_string(),
            live: false,
        }
    }
}

/// What of a tenant is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The files of a copy that is stopped.
    Files,
    /// Odoo's files, also while they change.
    LiveFiles,
    /// The database of one that runs.
    Database,
}

/// Longest reason that another host is told: what the engine or the disk says may be long.
const MAX_REASON_CHARS: usize = 400;

/// Why not. Our log has it always. Whoever has a live grant learns it, because the operation that the grant is for must say
/// what it waits for; anybody else learns only that it is so. It is about our records, the engine and the volumes as a whole,
/// never of what a tenant's files hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no plan")]
    NoPlan,
    #[error("its certificate has expired")]
    Certificate,
    #[error("no grant names it and this tenant")]
    NoGrant,
    #[error("its grant has expired")]
    Expired,
    #[error("the plan does not name this tenant")]
    NotHere,
    #[error("the tenant is to run here, so its files change")]
    Runs,
    #[error("no state.json of it is here that says whether its data is complete")]
    Unrecorded,
    #[error(
        "its state.json does not say that its data is complete, and nothing completes it while it is stopped; let it run here first"
    )]
    Incomplete,
    #[error("a container of it still runs")]
    StillUp,
    #[error("{0}")]
    Unready(String),
    /// No later attempt can do better, unless a person acts.
    #[error("{0}")]
    Unfit(String),
}

impl Refusal {
    /// What the other side hears.
    pub(super) fn to_status(&self) -> Status {
        match self {
            // In each of these a call may lack its grant.
            Self::NoPlan | Self::Certificate | Self::NoGrant | Self::Expired => {
                Status::permission_denied("not granted")
            }
            Self::NotHere | Self::Runs | Self::Unrecorded | Self::StillUp | Self::Unready(_) => {
                Status::aborted(self.told())
            }
            Self::Incomplete | Self::Unfit(_) => Status::failed_precondition(self.told()),
        }
    }

    fn told(&self) -> String {
        let text = self.to_string();
        let plain = text.chars().filter(|c| !c.is_control());
        let reason: String = plain.take(MAX_REASON_CHARS).collect();
        format!("refused: {reason}")
    }
}

/// Whether a plan grants this now.
pub(super) fn granted<'a>(
    plan: &'a HostPlan,
    peer: &HostName,
    of: &Of,
    wanted: Wanted,
    now: UnixMs,
) -> Result<&'a TenantPlan, Refusal> {
    let mut grants = plan
        .grants
        .iter()
        .filter(|g| g.peer == *peer && g.tenant == of.tenant && g.uid == of.uid)
        .peekable();
    if grants.peek().is_none() {
        return Err(Refusal::NoGrant);
    }
    let mut live = grants.filter(|g| now < g.expires_at).peekable();
    if live.peek().is_none() {
        return Err(Refusal::Expired);
    }
    if wanted == Wanted::LiveFiles && !live.any(|g| g.live) {
        return Err(Refusal::NoGrant);
    }
    let tenant = plan
        .tenants
        .iter()
        .find(|t| t.name == of.tenant && t.uid == of.uid)
        .ok_or(Refusal::NotHere)?;
    if wanted == Wanted::Files && tenant.desired == DesiredState::Running {
        return Err(Refusal::Runs);
    }
    Ok(tenant)
}

/// Whether a host has any live grant here, or a tenant whose standby is here: without one its connection ends.
pub(super) fn is_expected(plan: &HostPlan, peer: &HostName, now: UnixMs) -> bool {
    let is_granted = plan
        .grants
        .iter()
        .any(|g| g.peer == *peer && now < g.expires_at);
    is_granted || plan.tenants.iter().any(|t| granted_to(t) == Some(peer))
}

/// Whether a connection may go on.
pub(super) fn may_connect(
    plans: &watch::Receiver<InForce>,
    peer: &PeerIdentity,
    now: UnixMs,
) -> bool {
    let plan = plans.borrow().plan.clone();
    now / 1000 < peer.not_after && plan.is_some_and(|plan| is_expected(&plan, &peer.host, now))
}

/// Completes when a connection may not go on.
pub(super) async fn until_unexpected(mut plans: watch::Receiver<InForce>, peer: Arc<PeerIdentity>) {
    while may_connect(&plans, &peer, now_ms()) {
        if changed(&mut plans).await.is_none() {
            return;
        }
    }
}

/// Waits for news or the next check; `None` when the agent stops.
async fn changed(plans: &mut watch::Receiver<InForce>) -> Option<()> {
    tokio::select! {
        changed = plans.changed() => changed.ok(),
        () = sleep(CHECK) => Some(()),
    }
}

/// Watches one call.
pub(super) struct Guard {
    pub(super) peer: Arc<PeerIdentity>,
    pub(super) of: Of,
    wanted: Wanted,
    plans: watch::Receiver<InForce>,
}

impl Guard {
    pub(super) fn new(
        peer: Arc<PeerIdentity>,
        of: Of,
        wanted: Wanted,
        plans: watch::Receiver<InForce>,
    ) -> Self {
        Self {
            peer,
            of,
            wanted,
            plans,
        }
    }

    /// Whether the call may go on.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.tenant().map(drop)
    }

    /// The tenant as the plan in force has it, if the call may go on.
    pub(super) fn tenant(&self) -> Result<TenantPlan, Refusal> {
        let now = now_ms();
        if now / 1000 >= self.peer.not_after {
            return Err(Refusal::Certificate);
        }
        let plan = self.plans.borrow().plan.clone().ok_or(Refusal::NoPlan)?;
        granted(&plan, &self.peer.host, &self.of, self.wanted, now).cloned()
    }

    /// Completes when it may not.
    pub(super) async fn lost(&mut self) -> Refusal {
        loop {
            if let Err(why) = self.check() {
                return why;
            }
            if changed(&mut self.plans).await.is_none() {
                return Refusal::NoPlan;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::plan::PeerGrant;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{host_plan, tenant_plan};

    fn grant(of: &Of, peer: &str, expires_at: UnixMs) -> PeerGrant {
        PeerGrant {
            operation: Uuid::nil(),
            tenant: of.tenant.clone(),
            uid: of.uid,
            peer: peer.parse().unwrap(),
            expires_at,
            live: false,
        }
    }

    #[test]
    fn each_part_of_a_grant_must_fit() {
        let mut alfa = tenant_plan("alfa");
        alfa.desired = DesiredState::Suspended;
        let of = Of {
            tenant: alfa.name.clone(),
            uid: alfa.uid,
        };
        let mut plan = host_plan(1, vec![alfa, tenant_plan("beta")]);
        plan.grants = vec![grant(&of, "h2", 1_000)];
        let h2: HostName = "h2".parse().unwrap();
        let ask = |plan: &HostPlan, peer: &HostName, of: &Of, now| {
            granted(plan, peer, of, Wanted::Files, now).map(drop)
        };
        assert_eq!(ask(&plan, &h2, &of, 999), Ok(()));
        assert_eq!(ask(&plan, &h2, &of, 1_000), Err(Refusal::Expired));
        let h3 = "h3".parse().unwrap();
        assert_eq!(ask(&plan, &h3, &of, 0), Err(Refusal::NoGrant));
        let again = Of {
            uid: Uuid::nil(),
            ..of.clone()
        };
        assert_eq!(ask(&plan, &h2, &again, 0), Err(Refusal::NoGrant));
        let beta = Of {
            tenant: "beta".parse().unwrap(),
            ..of.clone()
        };
        assert_eq!(ask(&plan, &h2, &beta, 0), Err(Refusal::NoGrant));
        assert!(is_expected(&plan, &h2, 0) && !is_expected(&plan, &h3, 0));
        assert!(!is_expected(&plan, &h2, 1_000));
        plan.tenants[0].desired = DesiredState::Running;
        assert_eq!(ask(&plan, &h2, &of, 0), Err(Refusal::Runs));
        assert!(granted(&plan, &h2, &of, Wanted::Database, 0).is_ok());
        let live = |plan: &HostPlan, now| granted(plan, &h2, &of, Wanted::LiveFiles, now).map(drop);
        assert_eq!(live(&plan, 0), Err(Refusal::NoGrant), "it runs");
        plan.grants[0].live = true;
        assert_eq!(live(&plan, 0), Ok(()));
        assert_eq!(live(&plan, 1_000), Err(Refusal::Expired));
        assert_eq!(ask(&plan, &h2, &of, 0), Err(Refusal::Runs));
        plan.tenants[0].uid = Uuid::nil();
        assert_eq!(ask(&plan, &h2, &of, 0), Err(Refusal::NotHere));
    }

    #[test]
    fn only_whoever_has_a_grant_is_told_why_and_briefly() {
        use tonic::Code;
        for silent in [
            Refusal::NoPlan,
            Refusal::Certificate,
            Refusal::NoGrant,
            Refusal::Expired,
        ] {
            let status = silent.to_status();
            let said = (status.code(), status.message());
            assert_eq!(said, (Code::PermissionDenied, "not granted"), "{silent}");
        }
        let long = "no\nroom ".repeat(1_000);
        for (told, code) in [
            (Refusal::Runs, Code::Aborted),
            (Refusal::StillUp, Code::Aborted),
            (Refusal::Incomplete, Code::FailedPrecondition),
            (Refusal::Unready(long.clone()), Code::Aborted),
            (Refusal::Unfit(long), Code::FailedPrecondition),
        ] {
            let status = told.to_status();
            assert_eq!(status.code(), code, "{told}");
            let message = status.message();
            assert!(message.starts_with("refused: ") && message.len() < 500);
            assert!(!message.contains('\n'));
        }
    }

    proptest! {
        #[test]
        fn nothing_is_granted_without_a_live_grant_of_exactly_that(
            grants in proptest::collection::vec((0u8..3, 0u8..2, 0i64..4), 0..6),
            peer in 0u8..3, tenant in 0u8..2, now in 0i64..4,
        ) {
            let names = ["alfa", "beta"];
            let hosts = ["h1", "h2", "h3"];
            let mut tenants = names.map(tenant_plan).to_vec();
            tenants.iter_mut().for_each(|t| t.desired = DesiredState::Fenced);
            let of = |t: u8| Of { tenant: names[usize::from(t)].parse().unwrap(), uid: tenant_plan(names[usize::from(t)]).uid };
            let mut plan = host_plan(1, tenants);
            plan.grants = grants.iter().map(|(p, t, until)| grant(&of(*t), hosts[usize::from(*p)], *until)).collect();
            let wanted = grants.iter().any(|(p, t, until)| (*p, *t) == (peer, tenant) && now < *until);
            let host = hosts[usize::from(peer)].parse().unwrap();
            prop_assert_eq!(granted(&plan, &host, &of(tenant), Wanted::Files, now).is_ok(), wanted);
        }
    }
}

//! A tenant whose host is lost, and that has no standby, is restored from its newest backup on another host: under its name, with its keys,
//! passwords and domains.
//!
//! What was committed after that backup is lost with the host, and that is said before. Until all of it is there, the tenant lives on the lost
//! host, and goes on there should that come back. Not here: as which stages (procedures::relocate), from which backup (backups), as another tenant (restore).

use isyone_types::{backup::RestoreTo, ids::HostName};

use super::{
    Edit,
    failover::Proof,
    restore::{told, words},
    wrong_state,
};
use crate::{
    backups::{self, RestorePoint, Wanted},
    change::{ChangeError, Outcome, done_step},
    desired::{CopyRole, Stragglers, Tenant, TenantCopy, TenantPlacement},
    operation::{MoveStage, OperationKind, Procedure, Relocation},
    views::{self, utc},
};

impl Edit<'_> {
    /// `silent_ms`: for how long the host where it lives was not heard.
    pub(super) fn restore_elsewhere(
        &mut self,
        mut tenant: Tenant,
        silent_ms: i64,
        proof: Proof,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        let (name, from) = (tenant.name.clone(), tenant.placement.host.clone());
        let point = self.newest(&tenant)?;
        let place = self.place_elsewhere(&tenant)?;
        let to = place.host.clone();
        let lost = self.lost_since(&tenant, &point, silent_ms);
        if proof != Proof::Word {
            let problem = format!(
                "is restored on host {to} only if host {from} runs it no more, which nobody here can know: switch that machine off, or cut \
                 it off, and say so (`--is-down`). {lost}"
            );
            return Err(wrong_state(&name, problem));
        }
        let log = vec![done_step("place", lost, self.stamp.now)];
        tenant.last_epoch = place.epoch;
        tenant.copies.push(TenantCopy {
            place,
            role: CopyRole::Incoming,
            stragglers: Stragglers::Refused,
        });
        tenant.generation += 1;
        tenant.operation = self.stamp.id;
        let procedure = Procedure::Move(Relocation {
            from,
            to,
            generation: tenant.generation,
            stage: MoveStage::Prepare,
            source: None,
            leave_until: self.stamp.now,
            copying_since: None,
            live: None,
            lost: true,
            backup: Some(Box::new(point)),
        });
        let kind = OperationKind::Move;
        let operation = self.begin(kind, &tenant, procedure, request_id, log);
        self.put_tenant(tenant);
        self.drive(operation.id);
        let driven = self.state.fleet.operations.get(&operation.id).cloned();
        Ok(Outcome::Operation(driven.unwrap_or(operation)))
    }

    /// Its newest backup, and all of its log that has come; an error where there is none, or nobody can read it.
    fn newest(&self, tenant: &Tenant) -> Result<RestorePoint, ChangeError> {
        let refused = |problem: String| {
            let problem = format!(
                "has no standby, and cannot be restored: {problem}. Its data is on host {}: repair that",
                tenant.placement.host
            );
            wrong_state(&tenant.name, problem)
        };
        if !self.state.fleet.backup_keys.contains_key(&tenant.uid) {
            return Err(refused("there is no key of its backups".to_owned()));
        }
        let offers = views::offers(self.state, self.settings, tenant, self.stamp.now);
        backups::choose(&offers, Wanted::Latest).map_err(|why| refused(words(&why)))
    }

    /// The host with most room of those that restore, and where the tenant has nothing yet.
    fn place_elsewhere(&self, tenant: &Tenant) -> Result<TenantPlacement, ChangeError> {
        let decision = self.anywhere(tenant);
        let restores = |host: &HostName| {
            let record = self.state.fleet.hosts.get(host);
            record.is_some_and(|record| record.makes_backups) && tenant.place_on(host).is_none()
        };
        let fitting = decision.hosts.iter().filter(|judged| judged.fits());
        let chosen = fitting
            .map(|judged| &judged.host)
            .find(|host| restores(host));
        let Some(host) = chosen.cloned() else {
            return Err(ChangeError::NoHostFits {
                name: tenant.name.clone(),
                decision: Box::new(decision),
            });
        };
        self.incoming_place(tenant, &host, None)
    }

    /// What is lost, in words.
    fn lost_since(&self, tenant: &Tenant, point: &RestorePoint, silent_ms: i64) -> String {
        let now = self.stamp.now;
        let protection = views::protection(self.state, self.settings, tenant, now);
        let reaches = match point.to {
            RestoreTo::Backup => Some(point.base_at),
            RestoreTo::Time(at) => Some(at),
            RestoreTo::Latest => protection.and_then(|p| p.to).map(|(at, _)| at),
        };
        let since = reaches.map_or("that".to_owned(), |at| {
            format!("{} ({} min ago)", utc(at), (now - at).max(0) / 60_000)
        });
        format!(
            "Host {} was last heard {} s ago. It has no standby: it is restored from {}; what was committed after {since} is lost",
            tenant.placement.host,
            silent_ms / 1000,
            told(point)
        )
    }
}

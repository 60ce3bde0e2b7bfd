//! Commands on hosts: certificates, cordon, removal; and what agents send when they connect.
//!
//! Not here: how they come in (joining), reports (report), and signing certificates (the coordinator's base/pki).

use std::sync::Arc;

use isyone_types::{
    generation::Generation, identity::CertificateInfo, ids::HostName, plan::UnixMs,
};

use super::{ChangeError, Edit, Outcome, generations};
use crate::{
    desired::{Certificate, CopyRole, MAX_CERTIFICATES, Tenant},
    event::EventKind,
    liveness::HostState,
    observed::{Hello, HostObserved},
    views,
    written::{RecordKind, Write},
};

impl Edit<'_> {
    /// Keeps another certificate of a host; the oldest that nobody is connected with gives way. Whoever has one of them
    /// cannot push out what another uses: then it is the renewal that is refused.
    pub(super) fn renew_host(
        &mut self,
        name: &HostName,
        certificate: Certificate,
        in_use: &[String],
        asked_with: Option<&CertificateInfo>,
    ) -> Result<Outcome, ChangeError> {
        self.still_accepted(asked_with)?;
        let mut host = (*self.host(name)?).clone();
        let now_s = self.stamp.now / 1000;
        host.certificates.retain(|c| c.not_after > now_s);
        while host.certificates.len() >= MAX_CERTIFICATES {
            let idle = |c: &Certificate| !in_use.contains(&c.serial);
            let oldest = host.certificates.iter().position(idle);
            let oldest = oldest.ok_or_else(|| ChangeError::CertificatesInUse(name.clone()))?;
            host.certificates.remove(oldest);
        }
        host.certificates.push(certificate);
        Ok(Outcome::Host(self.put_host(host)))
    }

    pub(super) fn cordon_host(
        &mut self,
        name: &HostName,
        cordoned: bool,
    ) -> Result<Outcome, ChangeError> {
        let host = self.host(name)?;
        let mut changed = (*host).clone();
        // Whoever says so while it is being worked on means it, whatever becomes of that.
        if let Some(work) = &mut changed.maintenance {
            work.opens = false;
        }
        let was = std::mem::replace(&mut changed.cordoned, cordoned);
        if changed == *host {
            return Ok(Outcome::Host(host));
        }
        let host = self.put_host(changed);
        if was == cordoned {
            return Ok(Outcome::Host(host));
        }
        self.event(
            if cordoned {
                EventKind::HostCordoned
            } else {
                EventKind::HostUncordoned
            },
            None,
            Some(name),
            None,
            String::new(),
        );
        Ok(Outcome::Host(host))
    }

    pub(super) fn remove_host(&mut self, name: &HostName) -> Result<Outcome, ChangeError> {
        let host = self.host(name)?;
        self.let_left_copies_go(name)?;
        self.effects
            .writes
            .push(Write::Delete(RecordKind::Host, name.to_string()));
        self.retire_generation(&host);
        self.state.fleet.hosts.remove(name);
        self.state.observed.hosts.remove(name);
        self.state.told.remove(name);
        self.state.refresh(self.settings, name, self.stamp.now);
        self.effects.touched_hosts.insert(name.clone());
        self.event(
            EventKind::HostRemoved,
            None,
            Some(name),
            None,
            "its certificates are refused from now on".to_owned(),
        );
        Ok(Outcome::Host(host))
    }

    /// Refuses while tenants live on the host or are on their way there, and while a host that is not lost keeps copies
    /// that tenants have left. What a lost one keeps is forgotten with it.
    fn let_left_copies_go(&mut self, name: &HostName) -> Result<(), ChangeError> {
        let Some(index) = self.state.fleet.by_host.get(name) else {
            return Ok(());
        };
        let here: Vec<Arc<Tenant>> = index
            .tenants
            .iter()
            .filter_map(|tenant| self.state.fleet.tenants.get(tenant).cloned())
            .collect();
        let left: Vec<Option<UnixMs>> = here
            .iter()
            .filter_map(|tenant| match tenant.copy_on(name)? {
                (_, Some(CopyRole::Fenced { until })) => Some(*until),
                (_, Some(CopyRole::Discarded)) => Some(None),
                (_, Some(CopyRole::Incoming) | None) => None,
                // Nothing is lost with it.
                (_, Some(CopyRole::Standby(_))) => Some(None),
            })
            .collect();
        let (judged, _) = views::host_state(self.state, self.settings, name, self.stamp.now);
        if let Some(first) = here
            .first()
            .filter(|_| left.len() < here.len() || judged != HostState::Lost)
        {
            return Err(ChangeError::HostNotEmpty {
                host: name.clone(),
                count: here.len(),
                first: first.name.clone(),
                kept: left.len(),
                kept_until: left.into_iter().flatten().max(),
            });
        }
        for tenant in here {
            let mut left = (*tenant).clone();
            left.copies.retain(|copy| copy.place.host != *name);
            self.state.observed.forget_copy(&left.name, name);
            let left = self.put_tenant(left);
            self.event(
                EventKind::TenantCopyForgotten,
                Some(&left),
                Some(name),
                None,
                "the host was removed with a copy that the tenant had left".to_owned(),
            );
            self.forget_if_gone(&left.name);
        }
        Ok(())
    }

    /// An agent connected. Its report follows.
    pub(super) fn greet(
        &mut self,
        name: &HostName,
        hello: Hello,
        accepted_generation: Generation,
    ) -> Result<Outcome, ChangeError> {
        let host = self.host(name)?;
        self.heard(&host, accepted_generation);
        let host = self.host(name)?;
        let mut seen = self
            .state
            .observed
            .hosts
            .get(name)
            .map(|h| (**h).clone())
            .unwrap_or_default();
        let able = (hello.makes_backups, hello.proves_backups);
        if (host.makes_backups, host.proves_backups) != able {
            let mut host = (*host).clone();
            (host.makes_backups, host.proves_backups) = able;
            self.put_host(host);
            self.touch_host(name); // its plan has them, or no more
        }
        seen.hello = hello;
        seen.accepted_generation = accepted_generation;
        let trouble = generations::ahead(&host, accepted_generation).unwrap_or_default();
        // Told when it is new, not each time the agent comes back.
        if !trouble.is_empty() && trouble != seen.plan_error {
            let message = trouble.clone();
            self.event(EventKind::HostPlanAhead, None, Some(name), None, message);
        }
        seen.plan_error = trouble;
        self.observe_host(name, seen);
        Ok(Outcome::Done)
    }

    pub(super) fn plan_result(
        &mut self,
        name: &HostName,
        generation: Generation,
        mut error: String,
    ) -> Result<Outcome, ChangeError> {
        let host = self.host(name)?;
        let mut seen = self
            .state
            .observed
            .hosts
            .get(name)
            .map(|h| (**h).clone())
            .unwrap_or_default();
        if error.is_empty() {
            seen.accepted_generation = generation.min(host.plan_generation);
        } else if let Some(ahead) = generations::ahead(&host, seen.accepted_generation) {
            // The cause, and told already.
            error = ahead;
        } else if seen.plan_error != error {
            self.event(
                EventKind::HostPlanRefused,
                None,
                Some(name),
                None,
                error.clone(),
            );
        }
        seen.plan_error = error;
        self.observe_host(name, seen);
        Ok(Outcome::Done)
    }

    /// Stores what is known of a host, and updates its ranking.
    pub(super) fn observe_host(&mut self, name: &HostName, seen: HostObserved) {
        self.state
            .observed
            .hosts
            .insert(name.clone(), Arc::new(seen));
        self.state.refresh(self.settings, name, self.stamp.now);
    }
}

//! Commands on tenants' domains: who owns one, which is the primary, which no longer lead here.
//!
//! A domain by itself only concerns edges: the host's plan stays as it is. Another primary changes Odoo's own address,
//! so that is an operation on the host.
//! Not here: where a domain leads (the crate's domains).

use std::sync::Arc;

use isyone_types::{
    ids::TenantName,
    spec::{Domain, MAX_DOMAINS, TenantSpec},
};

use super::{AddDomains, ChangeError, Edit, Outcome};
use crate::{
    desired::{Fleet, Tenant, domains::DomainTrouble},
    domains,
    event::EventKind,
    operation::OperationKind,
    settings::Settings,
    written::{RecordKind, RecordValue, Write},
};

impl Edit<'_> {
    pub(super) fn add_domains(&mut self, add: AddDomains) -> Result<Outcome, ChangeError> {
        if let Some(done) = self.repeated_domains(&add.name, add.request_id.as_deref())? {
            return Ok(done);
        }
        let before = self.living(&add.name)?;
        let mut tenant = before.clone();
        let new: Vec<Domain> = add
            .domains
            .iter()
            .filter(|domain| !before.spec.domains.contains(domain))
            .cloned()
            .collect();
        tenant.spec.domains.extend(new.iter().cloned());
        if tenant.spec.domains.len() > MAX_DOMAINS {
            return Err(ChangeError::TooManyDomains(add.name));
        }
        self.check_domains(&add.name, &tenant.spec)?;
        if add.primary {
            // Without domains: the platform name, which is not among a tenant's domains.
            tenant.primary = add.domains.first().cloned();
        }
        if tenant.primary != before.primary {
            self.check_idle(&before, false)?;
        }
        for domain in &new {
            self.event(
                EventKind::DomainAdded,
                Some(&before),
                None,
                None,
                domain.to_string(),
            );
        }
        let unasked = tenant
            .primary
            .clone()
            .filter(|primary| {
                add.primary && !add.checked && before.primary.as_ref() != Some(primary)
            })
            .filter(|primary| {
                !self
                    .state
                    .fleet
                    .domain_troubles
                    .contains_key(primary.as_str())
            })
            .filter(|_| self.settings.domains_are_watched);
        let outcome = self.put_domains(&before, tenant, add.request_id)?;
        if let Some(domain) = unasked {
            // Nobody is redirected to it while it may lead elsewhere: its first good check starts the redirect.
            let (tenant, found) = (before.name.clone(), "DNS was not asked yet".to_owned());
            self.put_domain_trouble(DomainTrouble {
                domain,
                tenant,
                since: self.stamp.now,
                found,
                unasked: true,
            });
        }
        if add.checked {
            for domain in &add.domains {
                self.domain_reachable(domain, "DNS was asked by an operator")?;
            }
        }
        Ok(outcome)
    }

    pub(super) fn remove_domain(
        &mut self,
        name: &TenantName,
        domain: &Domain,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(done) = self.repeated_domains(name, request_id.as_deref())? {
            return Ok(done);
        }
        let before = self.living(name)?;
        if !before.spec.domains.contains(domain) {
            return Err(ChangeError::DomainNotFound {
                name: name.clone(),
                domain: domain.clone(),
            });
        }
        let mut tenant = before.clone();
        tenant.spec.domains.retain(|d| d != domain);
        tenant.primary = tenant.primary.filter(|primary| primary != domain);
        if tenant.primary != before.primary {
            self.check_idle(&before, false)?;
        }
        self.event(
            EventKind::DomainRemoved,
            Some(&before),
            None,
            None,
            domain.to_string(),
        );
        self.put_domains(&before, tenant, request_id)
    }

    fn repeated_domains(
        &self,
        name: &TenantName,
        request_id: Option<&str>,
    ) -> Result<Option<Outcome>, ChangeError> {
        let Some(operation) = self.repeated(&[OperationKind::Update], name, request_id)? else {
            return Ok(None);
        };
        let tenant = self.tenant(name)?;
        Ok(Some(Outcome::Domains {
            tenant,
            operation: Some(operation),
        }))
    }

    /// Stores the changes; with another primary this is an operation on the host.
    fn put_domains(
        &mut self,
        before: &Tenant,
        tenant: Tenant,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if tenant == *before {
            return Ok(Outcome::Domains {
                tenant: self.tenant(&tenant.name)?,
                operation: None,
            });
        }
        if tenant.primary == before.primary {
            return Ok(Outcome::Domains {
                tenant: self.store_tenant(tenant),
                operation: None,
            });
        }
        let name = tenant.name.clone();
        let primary = tenant.primary_name(&self.settings.base_domain);
        let operation = self.change(tenant, OperationKind::Update, request_id.into())?;
        let tenant = self.tenant(&name)?;
        self.event(
            EventKind::DomainPrimary,
            Some(&tenant),
            None,
            Some(operation.id),
            primary,
        );
        Ok(Outcome::Domains {
            tenant,
            operation: Some(operation),
        })
    }

    /// Records what the checks concluded. Ignored if the domain does not belong to the tenant any more.
    pub(super) fn domain_unreachable(
        &mut self,
        trouble: DomainTrouble,
    ) -> Result<Outcome, ChangeError> {
        let name = trouble.domain.to_string();
        let fleet = &self.state.fleet;
        let owner = fleet
            .by_domain
            .get(&name)
            .filter(|owner| **owner == trouble.tenant);
        let tenant = owner
            .and_then(|owner| fleet.tenants.get(owner))
            .filter(|t| !t.is_deleted())
            .cloned();
        // One that was only not asked for becomes one that was found.
        let known = fleet.domain_troubles.get(&name).is_some_and(|t| !t.unasked);
        let Some(tenant) = tenant.filter(|_| !known) else {
            return Ok(Outcome::Done);
        };
        let redirect = if tenant.primary.as_ref() == Some(&trouble.domain) {
            "; nobody is redirected to it until it does"
        } else {
            ""
        };
        let message = format!(
            "{name} does not lead to the edges: {}{redirect}",
            trouble.found
        );
        self.event(
            EventKind::DomainUnreachable,
            Some(&tenant),
            None,
            None,
            message,
        );
        self.put_domain_trouble(trouble);
        Ok(Outcome::Done)
    }

    fn put_domain_trouble(&mut self, trouble: DomainTrouble) {
        let trouble = Arc::new(trouble);
        self.effects
            .writes
            .push(Write::Put(RecordValue::DomainTrouble(trouble.clone())));
        self.state
            .fleet
            .domain_troubles
            .insert(trouble.domain.to_string(), trouble);
    }

    /// The domain leads here (again).
    pub(super) fn domain_reachable(
        &mut self,
        domain: &Domain,
        found: &str,
    ) -> Result<Outcome, ChangeError> {
        if let Some(trouble) = self.forget_domain_trouble(domain) {
            let tenant = self.state.fleet.tenants.get(&trouble.tenant).cloned();
            let again = if trouble.unasked { "" } else { " again" };
            let message = format!("{domain} leads to the edges{again}: {found}");
            self.event(
                EventKind::DomainRecovered,
                tenant.as_deref(),
                None,
                None,
                message,
            );
        }
        Ok(Outcome::Done)
    }

    /// Called when the tenant no longer has the domain, or it leads here again.
    pub(super) fn forget_domain_trouble(&mut self, domain: &Domain) -> Option<Arc<DomainTrouble>> {
        let trouble = self.state.fleet.domain_troubles.remove(domain.as_str())?;
        self.effects
            .writes
            .push(Write::Delete(RecordKind::DomainTrouble, domain.to_string()));
        Some(trouble)
    }

    /// Forgets all troubles when domains are no longer checked: no check could ever clear them.
    pub(super) fn forget_unwatched(&mut self) {
        if !self.settings.domains_are_watched {
            let troubles = self.state.fleet.domain_troubles.clone();
            for trouble in troubles.values() {
                self.forget_domain_trouble(&trouble.domain);
            }
        }
    }

    /// A customer's domain belongs to one tenant, and never to the platform.
    pub(super) fn check_domains(
        &self,
        name: &TenantName,
        spec: &TenantSpec,
    ) -> Result<(), ChangeError> {
        let refused = |domain| domain_refused(&self.state.fleet, self.settings, name, domain);
        spec.domains.iter().find_map(refused).map_or(Ok(()), Err)
    }
}

/// Why a tenant cannot have a domain, regardless of DNS.
pub fn domain_refused(
    fleet: &Fleet,
    settings: &Settings,
    name: &TenantName,
    domain: &Domain,
) -> Option<ChangeError> {
    let (text, base) = (domain.as_str(), settings.base_domain.as_str());
    let problem = match fleet.by_domain.get(text) {
        _ if domains::is_platform(domain, base) => {
            format!("lies under {base}, which belongs to the platform")
        }
        _ if domains::is_ours(domain) => {
            "is a name that the platform's parts use among themselves".to_owned()
        }
        // The dashboard may have been configured later: the tenant keeps its domain.
        Some(owner) if owner == name => return None,
        Some(owner) => format!("leads to tenant `{owner}` already"),
        None if settings.dashboard_hostname.as_deref() == Some(text) => {
            "leads to Traefik's dashboard ([edge.dashboard] hostname), which a tenant cannot have"
                .to_owned()
        }
        None => return None,
    };
    Some(ChangeError::DomainTaken {
        domain: text.to_owned(),
        problem,
    })
}

#[cfg(test)]
mod tests;

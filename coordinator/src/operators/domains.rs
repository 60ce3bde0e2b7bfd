//! `DomainService`: tenants' own domains. Asks DNS before it accepts one.
//!
//! Not here: what DNS' answer means (isyone_fleet::domains), later checks (edges/domains).

use std::ops::Bound;

use futures_util::future::join_all;
use isyone_fleet::{
    change::{self, AddDomains, Command, Outcome},
    desired::Tenant,
    domains::{self, Look, Verdict},
    state::State,
};
use isyone_proto::{
    convert::timestamp,
    error::FieldError,
    ids::TenantName,
    pb::v1::{self, domain_service_server::DomainService},
    spec::Domain,
};
use tonic::{Request, Response, Status};

use super::{Api, caller, page_size, request_id, tenant_name, tenants::unexpected};
use crate::{edges::domains::at as look_at, wire::status, writer::SubmitError};

impl Api {
    /// All names of a tenant, the platform's first.
    pub(super) fn domains_of(&self, state: &State, tenant: &Tenant) -> Vec<v1::Domain> {
        let own = tenant
            .spec
            .domains
            .iter()
            .map(|domain| self.domain(state, tenant, domain));
        std::iter::once(self.platform(tenant)).chain(own).collect()
    }

    fn platform(&self, tenant: &Tenant) -> v1::Domain {
        let name = tenant.platform_name(&self.parts.handle.settings().base_domain);
        v1::Domain {
            unicode_name: domains::unicode(&name),
            name,
            tenant: tenant.name.to_string(),
            primary: tenant.primary.is_none(),
            platform: true,
            ..v1::Domain::default()
        }
    }

    fn domain(&self, state: &State, tenant: &Tenant, domain: &Domain) -> v1::Domain {
        let seen = self.parts.domains.seen(domain.as_str());
        let trouble = state.fleet.domain_troubles.get(domain.as_str());
        let verdict = seen.as_ref().map(|seen| seen.verdict);
        let state = match (trouble, verdict) {
            // A good check is on its way to the store and takes precedence.
            (Some(trouble), _) if !trouble.unasked => v1::DomainState::Unreachable,
            (_, Some(Verdict::Here)) => v1::DomainState::Ok,
            (_, Some(Verdict::Elsewhere)) => v1::DomainState::Doubtful,
            (_, Some(Verdict::Unknown) | None) => v1::DomainState::Unknown,
        };
        let since = trouble
            .filter(|trouble| !trouble.unasked)
            .map(|t| t.since)
            .or_else(|| seen.as_ref().and_then(|seen| seen.since));
        let stored = || trouble.map(|t| t.found.clone()).unwrap_or_default();
        v1::Domain {
            name: domain.to_string(),
            unicode_name: domains::unicode(domain.as_str()),
            tenant: tenant.name.to_string(),
            primary: tenant.primary.as_ref() == Some(domain),
            platform: false,
            state: state.into(),
            found: seen.as_ref().map_or_else(stored, |seen| seen.found.clone()),
            since_time: since.map(timestamp),
            check_time: seen.map(|seen| timestamp(seen.at)),
        }
    }

    /// Conditions to check before asking DNS.
    fn check(&self, state: &State, tenant: &TenantName, domain: &Domain) -> Result<(), Status> {
        let base = &self.parts.handle.settings().base_domain;
        if domains::is_platform(domain, base) {
            let problem = format!("`{domain}` lies under {base}, which belongs to the platform");
            return Err(FieldError::new("domain", problem).into());
        }
        let refused =
            change::domain_refused(&state.fleet, self.parts.handle.settings(), tenant, domain);
        refused.map_or(Ok(()), |error| {
            Err(status::submit(SubmitError::Refused(error)))
        })
    }

    /// Makes the platform's own name primary again, so that none of the domains is.
    async fn platform_is_primary(
        &self,
        actor: String,
        name: TenantName,
        request_id: Option<String>,
    ) -> Result<Response<v1::AddDomainResponse>, Status> {
        let add = AddDomains {
            name,
            domains: Vec::new(),
            primary: true,
            checked: false,
            request_id,
        };
        let command = Command::AddDomains(Box::new(add));
        let outcome = self
            .parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?;
        let Outcome::Domains { tenant, operation } = outcome else {
            return Err(unexpected(&outcome));
        };
        let state = self.state();
        Ok(Response::new(v1::AddDomainResponse {
            domains: vec![self.platform(&tenant)],
            operation: operation.map(|operation| self.shown_operation(&state, &operation)),
            warning: String::new(),
        }))
    }

    /// Asks DNS; if a domain does not lead to the edges, refuses with what to set.
    async fn looks(&self, tenant: &Tenant, wanted: &[Domain]) -> Result<Vec<Look>, Status> {
        let looks = join_all(
            wanted
                .iter()
                .map(|domain| look_at(&*self.parts.dns, &self.parts.config, tenant, domain)),
        )
        .await;
        let platform = tenant.platform_name(&self.parts.handle.settings().base_domain);
        let problems: Vec<String> = wanted
            .iter()
            .zip(&looks)
            .filter_map(|(domain, look)| match look.verdict {
                Verdict::Here => None,
                _ if look.by.is_some() => Some(anothers(domain, look, tenant, &platform)),
                Verdict::Elsewhere if look.edges.is_empty() => {
                    Some(unknown(domain, look, &platform))
                }
                Verdict::Elsewhere => {
                    let advice = domains::advice(domain, &platform, &look.edges);
                    Some(format!(
                        "{domain} does not lead to the edges (found: {}): {advice}",
                        look.found
                    ))
                }
                Verdict::Unknown => Some(unknown(domain, look, &platform)),
            })
            .collect();
        match problems.join("; ") {
            problems if problems.is_empty() => Ok(looks),
            problems if looks.iter().any(|look| look.by.is_some()) => {
                Err(status::anothers_name(problems))
            }
            problems => Err(status::dns(problems)),
        }
    }
}

/// A domain that leads here through another tenant's name: a former customer may have left a CNAME behind.
fn anothers(domain: &Domain, look: &Look, tenant: &Tenant, platform: &str) -> String {
    let by = look.by.as_deref().unwrap_or_default();
    let advice = domains::advice(domain, platform, &look.edges);
    format!(
        "{domain} leads to {by}, which is not the name of tenant `{}`: that does not show that the domain is this customer's. Point it at {platform} first: {advice}",
        tenant.name
    )
}

fn unknown(domain: &Domain, look: &Look, platform: &str) -> String {
    let way_out = if look.edges.is_empty() {
        format!("see that {platform} resolves to the edges, or set [edge] public_addresses")
    } else {
        "try again when name servers answer".to_owned()
    };
    format!(
        "it cannot be told whether {domain} leads to the edges ({}): {way_out}",
        look.found
    )
}

fn parse(text: &str) -> Result<Domain, FieldError> {
    domains::parse(text).map_err(|e| FieldError::new("domain", e.to_string()))
}

/// `redirected`: it is the primary, and no check is pending.
fn unchecked(wanted: &[Domain], redirected: bool) -> String {
    let names = wanted
        .iter()
        .map(Domain::as_str)
        .collect::<Vec<_>>()
        .join(" and ");
    let all_the_same = if redirected {
        "; domains are not looked at by and by either ([dns] interval), so browsers are redirected to it all the same"
    } else {
        ""
    };
    format!(
        "DNS was not asked: until {names} leads to the edges, nobody gets here by it and it has no certificate{all_the_same}"
    )
}

/// The same domain with a leading `www.` added or removed.
fn sibling(domain: &Domain) -> Result<Domain, FieldError> {
    domains::sibling(domain).map_err(|e| FieldError::new("domain", e.to_string()))
}

#[tonic::async_trait]
impl DomainService for Api {
    async fn add_domain(
        &self,
        request: Request<v1::AddDomainRequest>,
    ) -> Result<Response<v1::AddDomainResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let (name, request_id) = (tenant_name(&asked.name)?, request_id(asked.request_id)?);
        let mut wanted = vec![parse(&asked.domain)?];
        if wanted[0].as_str() == name_of(self, &name) && !asked.with_www {
            if asked.primary {
                return self.platform_is_primary(actor, name, request_id).await;
            }
            let problem = format!(
                "`{}` leads to the tenant already; it can be made its primary again",
                wanted[0]
            );
            return Err(FieldError::new("domain", problem).into());
        }
        if asked.with_www {
            wanted.push(sibling(&wanted[0])?);
        }
        let state = self.state();
        let tenant = self.tenant(&state, &name)?;
        for domain in &wanted {
            self.check(&state, &name, domain)?;
        }
        let looks = if asked.skip_dns_check {
            Vec::new()
        } else {
            self.looks(tenant, &wanted).await?
        };
        // A domain that led here at its last check needs no new one.
        let known_good = |domain: &Domain| {
            self.parts
                .domains
                .seen(domain.as_str())
                .is_some_and(|seen| seen.verdict == Verdict::Here)
        };
        let checked = !asked.skip_dns_check || wanted.iter().all(known_good);
        let add = AddDomains {
            name,
            domains: wanted.clone(),
            primary: asked.primary,
            checked,
            request_id,
        };
        let command = Command::AddDomains(Box::new(add));
        let outcome = self
            .parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?;
        let Outcome::Domains { tenant, operation } = outcome else {
            return Err(unexpected(&outcome));
        };
        for (domain, look) in wanted.iter().zip(&looks) {
            self.parts.domains.found_good(domain.as_str(), look);
        }
        let redirected = asked.primary && !self.parts.config.dns.watches();
        let warning = if checked {
            String::new()
        } else {
            unchecked(&wanted, redirected)
        };
        let state = self.state();
        Ok(Response::new(v1::AddDomainResponse {
            domains: wanted
                .iter()
                .map(|domain| self.domain(&state, &tenant, domain))
                .collect(),
            operation: operation.map(|operation| self.shown_operation(&state, &operation)),
            warning,
        }))
    }

    async fn remove_domain(
        &self,
        request: Request<v1::RemoveDomainRequest>,
    ) -> Result<Response<v1::RemoveDomainResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let (name, request_id) = (tenant_name(&asked.name)?, request_id(asked.request_id)?);
        let domain = parse(&asked.domain)?;
        if domain.as_str() == name_of(self, &name) {
            let problem = format!(
                "`{domain}` is the platform's own name for the tenant; it cannot be removed"
            );
            return Err(FieldError::new("domain", problem).into());
        }
        let command = Command::RemoveDomain {
            name,
            domain,
            request_id,
        };
        let outcome = self
            .parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?;
        let Outcome::Domains { operation, .. } = outcome else {
            return Err(unexpected(&outcome));
        };
        let operation = operation.map(|operation| self.shown_operation(&self.state(), &operation));
        Ok(Response::new(v1::RemoveDomainResponse { operation }))
    }

    async fn list_domains(
        &self,
        request: Request<v1::ListDomainsRequest>,
    ) -> Result<Response<v1::ListDomainsResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let pages = self.pages("domains", &[&asked.name]);
        let after: String = pages.after(&asked.page_token)?.unwrap_or_default();
        let state = self.state();
        // A tenant has few names, in an order of their own: a single page.
        if !asked.name.is_empty() {
            let tenant = self.tenant(&state, &tenant_name(&asked.name)?)?;
            let domains = self.domains_of(&state, tenant);
            return Ok(Response::new(v1::ListDomainsResponse {
                domains,
                next_page_token: String::new(),
            }));
        }
        let from = if after.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(after.as_str())
        };
        let mut page: Vec<v1::Domain> = Vec::new();
        let mut next_page_token = String::new();
        for (name, owner) in state
            .fleet
            .by_domain
            .range::<_, str>((from, Bound::Unbounded))
        {
            if page.len() == size {
                next_page_token = pages.next(page.last().map(|last| &last.name));
                break;
            }
            let tenant = state.fleet.tenants.get(owner);
            let domain =
                tenant.and_then(|t| t.spec.domains.iter().find(|d| d.as_str() == name.as_str()));
            page.extend(
                tenant
                    .zip(domain)
                    .map(|(tenant, domain)| self.domain(&state, tenant, domain)),
            );
        }
        Ok(Response::new(v1::ListDomainsResponse {
            domains: page,
            next_page_token,
        }))
    }
}

fn name_of(api: &Api, tenant: &TenantName) -> String {
    format!("{tenant}.{}", api.parts.handle.settings().base_domain)
}

//! Tenants' own domains.

use isyone_proto::{
    error::status,
    pb::v1::{domain_service_server::DomainService, *},
};
use tonic::{Code, Request, Response, Status};

use super::{Fake, page};
use crate::support::{data, operations};

/// The domain selects the behaviour: `wrong.…` leads elsewhere, `late.…` is not checked.
#[tonic::async_trait]
impl DomainService for Fake {
    async fn add_domain(
        &self,
        request: Request<AddDomainRequest>,
    ) -> Result<Response<AddDomainResponse>, Status> {
        let asked = request.into_inner();
        if asked.domain.starts_with("wrong.") {
            let message = format!(
                "{} does not lead to the edges (found: A 203.0.113.9; no edge has 203.0.113.9): set CNAME {} → {}.isy.one, or {} A 192.0.2.80, and no other addresses",
                asked.domain, asked.domain, asked.name, asked.domain
            );
            return Err(status(
                Code::FailedPrecondition,
                "DNS_CHECK_FAILED",
                message,
                Default::default(),
            ));
        }
        if asked.domain.starts_with("old.") {
            let message = format!(
                "{} leads to beta.isy.one, which is not the name of tenant `{}`: that does not show that the domain is this customer's. Point it at {}.isy.one first: set CNAME {} → {}.isy.one, or {} A 192.0.2.80, and no other addresses",
                asked.domain, asked.name, asked.name, asked.domain, asked.name, asked.domain
            );
            return Err(status(
                Code::FailedPrecondition,
                "DOMAIN_LEADS_TO_ANOTHER",
                message,
                Default::default(),
            ));
        }
        if asked.domain.starts_with('*') {
            return Err(isyone_proto::error::FieldError::new(
                "domain",
                "`*.a.example` is a wildcard",
            )
            .into());
        }
        let platform = asked.domain == format!("{}.isy.one", asked.name);
        let own = data::domains(&asked.name).remove(usize::from(!platform));
        let domain = |name: String| Domain {
            unicode_name: name.clone(),
            name,
            primary: asked.primary,
            ..own.clone()
        };
        let mut domains = vec![domain(asked.domain.clone())];
        if asked.with_www {
            domains.push(domain(format!("www.{}", asked.domain)));
        }
        let operation = asked
            .primary
            .then(|| operations::operation(1, OperationKind::Update, &asked.name));
        let warning = if asked.skip_dns_check {
            "DNS was not asked".into()
        } else {
            String::new()
        };
        Ok(Response::new(AddDomainResponse {
            domains,
            operation,
            warning,
        }))
    }
    async fn remove_domain(
        &self,
        request: Request<RemoveDomainRequest>,
    ) -> Result<Response<RemoveDomainResponse>, Status> {
        let asked = request.into_inner();
        if asked.domain == "none.example" {
            let message = format!("tenant `{}` has no domain `none.example`", asked.name);
            return Err(status(
                Code::NotFound,
                "DOMAIN_NOT_FOUND",
                message,
                Default::default(),
            ));
        }
        let primary = asked.domain == "erp.example.com";
        let operation =
            primary.then(|| operations::operation(1, OperationKind::Update, &asked.name));
        Ok(Response::new(RemoveDomainResponse { operation }))
    }
    async fn list_domains(
        &self,
        request: Request<ListDomainsRequest>,
    ) -> Result<Response<ListDomainsResponse>, Status> {
        let asked = request.into_inner();
        let all = if asked.name.is_empty() {
            data::all_domains()
        } else {
            data::domains(&asked.name)
        };
        let (domains, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListDomainsResponse {
            domains,
            next_page_token,
        }))
    }
}

//! `OperatorService`: creates operators with a certificate, lists and revokes them.
//!
//! Not here: what a role may do (access), cutting a revoked operator's connections (server/loops).

use std::ops::Bound;

use isyone_fleet::change::{Command, Outcome};
use isyone_proto::{
    convert::parse,
    error::FieldError,
    ids::ShortName,
    pb::v1::{self, operator_service_server::OperatorService},
    tls::OperatorRole,
};
use tonic::{Request, Response, Status};

use super::{Api, caller, page_size, tenants::unexpected};
use crate::{
    base::clock,
    wire::{shown, status},
};

/// Longest lifetime of an operator's certificate: five years.
const MAX_TTL_DAYS: u32 = 1825;

fn role(wire: i32) -> Result<OperatorRole, FieldError> {
    match v1::Role::try_from(wire) {
        Ok(v1::Role::Monitor) => Ok(OperatorRole::Monitor),
        Ok(v1::Role::Viewer) => Ok(OperatorRole::Viewer),
        Ok(v1::Role::Operator) => Ok(OperatorRole::Operator),
        Ok(v1::Role::Admin) => Ok(OperatorRole::Admin),
        Ok(v1::Role::Unspecified) | Err(_) => Err(FieldError::new(
            "role",
            "must be monitor, viewer, operator or admin",
        )),
    }
}

#[tonic::async_trait]
impl OperatorService for Api {
    async fn create_operator(
        &self,
        request: Request<v1::CreateOperatorRequest>,
    ) -> Result<Response<v1::CreateOperatorResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let name: ShortName = parse("name", &asked.name)?;
        let role = role(asked.role)?;
        let ttl_s = match asked.ttl_days {
            0 => self.parts.config.certificates.operator_ttl.millis() / 1000,
            days if days <= MAX_TTL_DAYS => i64::from(days) * 86_400,
            days => {
                let problem = format!("{days} days are more than {MAX_TTL_DAYS} (five years)");
                return Err(FieldError::new("ttl_days", problem).into());
            }
        };
        let pki = &self.parts.pki;
        let issued = pki
            .sign_operator(&asked.csr_pem, &name, role, ttl_s, clock::now_seconds())
            .map_err(|e| status::pki(&e))?;
        // Worthless until its serial number is stored.
        let certificate = issued.record();
        let command = Command::CreateOperator {
            name,
            role,
            certificate,
        };
        match self
            .parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?
        {
            Outcome::Operator(operator) => Ok(Response::new(v1::CreateOperatorResponse {
                operator: Some(shown::operator(&operator)),
                certificate_pem: issued.pem,
                ca_pem: pki.ca_pem(),
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn list_operators(
        &self,
        request: Request<v1::ListOperatorsRequest>,
    ) -> Result<Response<v1::ListOperatorsResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let pages = self.pages("operators", &[]);
        let after: Option<ShortName> = pages.after(&asked.page_token)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state();
        let mut rest = state
            .fleet
            .operators
            .range((from, Bound::Unbounded))
            .map(|(_, operator)| operator);
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let more = rest.next().is_some();
        Ok(Response::new(v1::ListOperatorsResponse {
            next_page_token: pages.next(page.last().filter(|_| more).map(|o| o.name.as_str())),
            operators: page.into_iter().map(|o| shown::operator(o)).collect(),
        }))
    }

    async fn revoke_operator(
        &self,
        request: Request<v1::RevokeOperatorRequest>,
    ) -> Result<Response<v1::RevokeOperatorResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let name = parse("name", &request.get_ref().name)?;
        self.parts
            .handle
            .submit(actor, Command::RevokeOperator { name })
            .await
            .map_err(status::submit)?;
        Ok(Response::new(v1::RevokeOperatorResponse {}))
    }
}

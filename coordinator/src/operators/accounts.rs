//! `OperatorService`: creates operators with a certificate, renews, lists and revokes them.
//!
//! Not here: what a role may do (access), cutting a revoked operator's connections (server/loops).

use std::{collections::HashMap, ops::Bound};

use isyone_fleet::{
    change::{ChangeError, Command, Outcome, RenewOperator},
    desired::Operator,
};
use isyone_proto::{
    convert::parse,
    error::FieldError,
    ids::ShortName,
    pb::v1::{self, operator_service_server::OperatorService},
    tls::OperatorRole,
};
use tonic::{Code, Request, Response, Status};

use super::{Api, caller, page_size, shown_certificate, tenants::unexpected};
use crate::{
    base::{clock, pki::Issued},
    wire::{caller::Caller, shown, status},
    writer::SubmitError,
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

/// Whoever calls, by name and role.
fn operator_calling<T>(request: &Request<T>) -> Result<(ShortName, OperatorRole), Status> {
    match caller(request)? {
        Caller::Operator(name, role) => Ok((name, role)),
        Caller::Agent(_) | Caller::Stranger => Err(Status::permission_denied("for operators")),
    }
}

impl Api {
    fn ttl_s(&self, days: u32) -> Result<i64, FieldError> {
        match days {
            0 => Ok(self.parts.config.certificates.operator_ttl.millis() / 1000),
            days if days <= MAX_TTL_DAYS => Ok(i64::from(days) * 86_400),
            days => {
                let problem = format!("{days} days are more than {MAX_TTL_DAYS} (five years)");
                Err(FieldError::new("ttl_days", problem))
            }
        }
    }

    fn role_of(&self, name: &ShortName) -> Result<OperatorRole, Status> {
        let state = self.state();
        let known = state.fleet.operators.get(name).map(|known| known.role);
        known.ok_or_else(|| {
            let unknown = ChangeError::OperatorNotFound(name.clone());
            status::submit(SubmitError::Refused(unknown))
        })
    }

    /// Worthless until the store has it.
    fn sign(
        &self,
        csr_pem: &str,
        name: &ShortName,
        role: OperatorRole,
        ttl_s: i64,
    ) -> Result<Issued, Status> {
        let pki = &self.parts.pki;
        pki.sign_operator(csr_pem, name, role, ttl_s, clock::now_seconds())
            .map_err(|e| status::pki(&e))
    }

    async fn operator_command(
        &self,
        actor: String,
        command: Command,
    ) -> Result<v1::Operator, Status> {
        let done = self.parts.handle.submit(actor, command).await;
        match done.map_err(status::submit)? {
            Outcome::Operator(operator) => Ok(self.shown_operator(&operator)),
            other => Err(unexpected(&other)),
        }
    }

    fn shown_operator(&self, operator: &Operator) -> v1::Operator {
        let monitoring = &self.parts.config.monitoring;
        let is_prometheus = monitoring.certificate_dir.is_some()
            && operator.role == OperatorRole::Monitor
            && operator.name == monitoring.certificate_operator;
        shown::operator(operator, is_prometheus)
    }
}

#[tonic::async_trait]
impl OperatorService for Api {
    async fn create_operator(
        &self,
        request: Request<v1::CreateOperatorRequest>,
    ) -> Result<Response<v1::CreateOperatorResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let asked_with = Some(Box::new(shown_certificate(&request)?));
        let asked = request.into_inner();
        let name: ShortName = parse("name", &asked.name)?;
        let role = role(asked.role)?;
        let ttl_s = self.ttl_s(asked.ttl_days)?;
        let issued = self.sign(&asked.csr_pem, &name, role, ttl_s)?;
        let command = Command::CreateOperator {
            name,
            role,
            certificate: issued.record(),
            again: true,
            asked_with,
        };
        let operator = self.operator_command(actor, command).await?;
        Ok(Response::new(v1::CreateOperatorResponse {
            operator: Some(operator),
            certificate_pem: issued.pem,
            ca_pem: self.parts.pki.ca_pem(),
        }))
    }

    async fn renew_operator(
        &self,
        request: Request<v1::RenewOperatorRequest>,
    ) -> Result<Response<v1::RenewOperatorResponse>, Status> {
        let (who, its_role) = operator_calling(&request)?;
        let certificate = shown_certificate(&request)?;
        let asked = request.into_inner();
        let name: ShortName = parse("name", &asked.name)?;
        let is_own = name == who;
        if !is_own && its_role < OperatorRole::Admin {
            let message = format!(
                "operator `{who}` has the role {its_role}; another's certificate needs the role admin"
            );
            return Err(isyone_proto::error::status(
                Code::PermissionDenied,
                "PERMISSION_DENIED",
                message,
                HashMap::new(),
            ));
        }
        let role = match v1::Role::try_from(asked.role) {
            Ok(v1::Role::Unspecified) => self.role_of(&name)?,
            _ => role(asked.role)?,
        };
        if self.state().fleet.operators.contains_key(&name) {
            self.renewals.admit(&who, &name)?;
        }
        let mut ttl_s = self.ttl_s(asked.ttl_days)?;
        if is_own && its_role < OperatorRole::Admin {
            // Who was let in for a week does not give itself five years.
            ttl_s = ttl_s.min(certificate.not_after - clock::now_seconds());
        }
        let issued = self.sign(&asked.csr_pem, &name, role, ttl_s)?;
        let command = Command::RenewOperator(Box::new(RenewOperator {
            name,
            role,
            certificate: issued.record(),
            asked_with: Some(Box::new(certificate)),
        }));
        let operator = self.operator_command(who.to_string(), command).await?;
        Ok(Response::new(v1::RenewOperatorResponse {
            operator: Some(operator),
            certificate_pem: issued.pem,
            ca_pem: self.parts.pki.ca_pem(),
            old_is_accepted: is_own,
        }))
    }

    async fn retire_certificates(
        &self,
        request: Request<v1::RetireCertificatesRequest>,
    ) -> Result<Response<v1::Operator>, Status> {
        let (name, _) = operator_calling(&request)?;
        let command = Command::RetireCertificates {
            name: name.clone(),
            keep: Box::new(shown_certificate(&request)?),
        };
        let operator = self.operator_command(name.to_string(), command).await?;
        Ok(Response::new(operator))
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
            operators: page.into_iter().map(|o| self.shown_operator(o)).collect(),
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

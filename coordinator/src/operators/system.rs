//! `SystemService`: what this coordinator is, who it takes the caller to be, and which CAs it wants trusted.
//!
//! Not here: health, for which gRPC has a service of its own (server/grpc).

use isyone_fleet::change::Command;
use isyone_proto::{
    convert::timestamp,
    error::{self, FieldError},
    pb::v1::{self, system_service_server::SystemService},
    tls,
};
use tonic::{Code, Request, Response, Status};

use super::{Api, caller, shown_certificate};
use crate::{
    base::{clock, pki::rotation::Stage},
    wire::{caller::Caller, shown, status},
};

/// Certificates and requests for them have a kilobyte or two.
const MAX_PEM_BYTES: usize = 16 << 10;

#[tonic::async_trait]
impl SystemService for Api {
    async fn get_info(
        &self,
        request: Request<v1::GetInfoRequest>,
    ) -> Result<Response<v1::Info>, Status> {
        let Caller::Operator(name, role) = caller(&request)? else {
            return Err(Status::permission_denied("for operators"));
        };
        let (settings, config) = (self.parts.handle.settings(), &self.parts.config);
        Ok(Response::new(v1::Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            base_domain: settings.base_domain.clone(),
            plans: settings
                .plans
                .iter()
                .map(|(name, size)| (name.to_string(), (*size).into()))
                .collect(),
            default_plan: settings.defaults.plan.to_string(),
            caller_name: name.to_string(),
            caller_role: shown::role(role).into(),
            edge_url: config.edge.url.clone().unwrap_or_default(),
            prometheus_url: config.monitoring.prometheus_url.clone().unwrap_or_default(),
            editions: settings
                .editions
                .iter()
                .map(|(name, e)| (name.to_string(), e.odoo.to_string()))
                .collect(),
            start_time: Some(timestamp(self.parts.started_at)),
        }))
    }

    async fn get_trust(
        &self,
        _: Request<v1::GetTrustRequest>,
    ) -> Result<Response<v1::Trust>, Status> {
        Ok(Response::new(v1::Trust {
            ca_pem: self.parts.pki.ca_pem(),
        }))
    }

    async fn resign_certificate(
        &self,
        request: Request<v1::ResignCertificateRequest>,
    ) -> Result<Response<v1::ResignCertificateResponse>, Status> {
        let Caller::Operator(name, role) = caller(&request)? else {
            return Err(Status::permission_denied("for operators"));
        };
        let shown = shown_certificate(&request)?;
        let asked = request.into_inner();
        bounded("certificate_pem", &asked.certificate_pem)?;
        bounded("csr_pem", &asked.csr_pem)?;
        let pki = &self.parts.pki;
        let switched = pki
            .rotation()
            .is_some_and(|rotation| rotation.stage == Stage::Switched);
        if !switched || pki.signed_serial(&shown.serial_hex()) {
            let message = "this certificate needs no other CA: the fleet's is not being replaced, or has signed it";
            let none = std::collections::HashMap::new();
            let reason = "NOT_BEING_REPLACED";
            return Err(error::status(
                Code::FailedPrecondition,
                reason,
                message,
                none,
            ));
        }
        // The very certificate that this connection shows, and its key: whoever stole it gets nothing that lasts longer.
        let chain = tls::certificates("certificate", &asked.certificate_pem)
            .map_err(|e| FieldError::new("certificate_pem", e.to_string()))?;
        if tls::fingerprint(&chain[0]) != shown.sha256_hex() {
            let problem = "must be the certificate of this connection";
            return Err(FieldError::new("certificate_pem", problem.to_owned()).into());
        }
        let same = pki.same_key(&asked.csr_pem, &chain[0]);
        if !same.map_err(|e| status::pki(&e))? {
            let problem = "must be for the key of the certificate";
            return Err(FieldError::new("csr_pem", problem.to_owned()).into());
        }
        let now_s = clock::now_seconds();
        let ttl_s = shown.not_after - now_s;
        let issued = pki
            .sign_operator(&asked.csr_pem, &name, role, ttl_s, now_s)
            .map_err(|e| status::pki(&e))?;
        let certificate = issued.record();
        let actor = name.to_string();
        let command = Command::CreateOperator {
            name,
            role,
            certificate,
            again: false,
            asked_with: Some(Box::new(shown)),
        };
        let submitted = self.parts.handle.submit(actor, command).await;
        submitted.map_err(status::submit)?;
        Ok(Response::new(v1::ResignCertificateResponse {
            certificate_pem: issued.pem,
            ca_pem: pki.ca_pem(),
        }))
    }
}

/// Refuses what is longer than any certificate or request for one.
fn bounded(field: &'static str, pem: &str) -> Result<(), FieldError> {
    if pem.len() > MAX_PEM_BYTES {
        let problem = format!("has more than {MAX_PEM_BYTES} bytes");
        return Err(FieldError::new(field, problem));
    }
    Ok(())
}

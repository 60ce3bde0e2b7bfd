//! `CertificateService`: certificates of tenants' host names.
//!
//! Not here: judging a certificate (edges/certificates), ordering them (edges/acme).

use std::{collections::BTreeMap, ops::Bound};

use isyone_fleet::{
    change::{Command, Outcome},
    desired::{
        Fleet,
        certificates::{CertificateTrouble, EdgeCertificate, Origin},
    },
};
use isyone_proto::{
    convert::timestamp,
    echo::echo,
    error::FieldError,
    pb::v1::{self, certificate_service_server::CertificateService},
};
use tonic::{Request, Response, Status};

use super::{Api, caller, now, page_size, tenants::unexpected};
use crate::{edges::certificates::judge, wire::status};

/// Longest name of an uploaded certificate: that of a DNS label.
const MAX_NAME: usize = 63;
/// Longest name of any certificate: that of a wildcard host name.
const MAX_HOSTNAME: usize = 255;

#[tonic::async_trait]
impl CertificateService for Api {
    async fn list_certificates(
        &self,
        request: Request<v1::ListCertificatesRequest>,
    ) -> Result<Response<v1::ListCertificatesResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let pages = self.pages("certificates", &[]);
        let after: String = pages.after(&asked.page_token)?.unwrap_or_default();
        let state = self.state();
        let mut page = page(&state.fleet, &after, size + 1);
        let more = page.len() > size;
        page.truncate(size);
        let next_page_token = pages.next(page.last().filter(|_| more).map(|(name, ..)| name));
        let now = now();
        let certificates = page
            .into_iter()
            .map(|(name, c, t)| wire(&name, c, t, now))
            .collect();
        Ok(Response::new(v1::ListCertificatesResponse {
            certificates,
            next_page_token,
        }))
    }

    async fn get_certificate(
        &self,
        request: Request<v1::GetCertificateRequest>,
    ) -> Result<Response<v1::Certificate>, Status> {
        let name = certificate_name(request.into_inner().name)?;
        let state = self.state();
        let certificate = state.fleet.certificates.get(&name).map(AsRef::as_ref);
        let trouble = state
            .fleet
            .certificate_troubles
            .get(&name)
            .map(AsRef::as_ref);
        if certificate.is_none() && trouble.is_none() {
            let message = format!("there is no certificate `{}`", echo(&name));
            return Err(status::not_found("CERTIFICATE_NOT_FOUND", message));
        }
        let mut answer = wire(&name, certificate, trouble, now());
        answer.certificate_pem = certificate.map(|c| c.chain_pem.clone()).unwrap_or_default();
        Ok(Response::new(answer))
    }

    async fn add_certificate(
        &self,
        request: Request<v1::AddCertificateRequest>,
    ) -> Result<Response<v1::Certificate>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let key = zeroize::Zeroizing::new(asked.key_pem);
        let name = asked.name;
        if !is_name(&name) {
            let problem = format!(
                "`{}` is no name: 1 to {MAX_NAME} lower-case letters, digits and hyphens",
                echo(&name)
            );
            return Err(FieldError::new("name", problem).into());
        }
        let judged = judge(&asked.certificate_pem, &key, now() / 1000)?;
        if !self.parts.config.publishes_keys() {
            let message =
                "the coordinator gives edges no certificates: set [tls] mode = \"coordinator\"";
            return Err(status::not_configured(message));
        }
        let key = self
            .parts
            .sealer
            .seal(&EdgeCertificate::sealed_for(&name), key.as_bytes());
        let certificate = judged.kept(name, Origin::Uploaded, key);
        let command = Command::PutCertificate(Box::new(certificate));
        match self
            .parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?
        {
            Outcome::Certificate(stored) => Ok(Response::new(wire(
                &stored.name,
                Some(&stored),
                None,
                now(),
            ))),
            other => Err(unexpected(&other)),
        }
    }

    async fn remove_certificate(
        &self,
        request: Request<v1::RemoveCertificateRequest>,
    ) -> Result<Response<v1::RemoveCertificateResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let name = certificate_name(request.into_inner().name)?;
        let command = Command::RemoveCertificate {
            name,
            why: "removed by an operator".to_owned(),
        };
        self.parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?;
        Ok(Response::new(v1::RemoveCertificateResponse {}))
    }
}

/// The name of any certificate that there may be: an uploaded one's, or a host name.
fn certificate_name(name: String) -> Result<String, FieldError> {
    if (1..=MAX_HOSTNAME).contains(&name.len()) {
        return Ok(name);
    }
    let problem = format!("`{}` is no certificate's name", echo(&name));
    Err(FieldError::new("name", problem))
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
}

type Row<'a> = (
    String,
    Option<&'a EdgeCertificate>,
    Option<&'a CertificateTrouble>,
);

/// The certificates and troubles after `after`, by name.
fn page<'a>(fleet: &'a Fleet, after: &str, size: usize) -> Vec<Row<'a>> {
    let from = if after.is_empty() {
        Bound::Unbounded
    } else {
        Bound::Excluded(after)
    };
    let mut rows: BTreeMap<&String, Row<'a>> = BTreeMap::new();
    for (name, certificate) in fleet
        .certificates
        .range::<_, str>((from, Bound::Unbounded))
        .take(size)
    {
        rows.insert(name, (name.clone(), Some(&**certificate), None));
    }
    for (name, trouble) in fleet
        .certificate_troubles
        .range::<_, str>((from, Bound::Unbounded))
        .take(size)
    {
        rows.entry(name)
            .or_insert_with(|| (name.clone(), None, None))
            .2 = Some(&**trouble);
    }
    rows.into_values().take(size).collect()
}

fn wire(
    name: &str,
    certificate: Option<&EdgeCertificate>,
    trouble: Option<&CertificateTrouble>,
    now: i64,
) -> v1::Certificate {
    let valid = certificate.map(|c| now < c.not_after.saturating_mul(1000));
    let state = match (valid, trouble.is_some()) {
        (Some(true), false) => v1::CertificateState::Valid,
        (Some(true), true) => v1::CertificateState::RenewalFailing,
        (Some(false), _) => v1::CertificateState::Expired,
        (None, _) => v1::CertificateState::Failing,
    };
    let origin = match certificate.map(|c| c.origin) {
        Some(Origin::Uploaded) => v1::CertificateOrigin::Uploaded,
        Some(Origin::Acme) | None => v1::CertificateOrigin::Acme,
    };
    v1::Certificate {
        name: name.to_owned(),
        origin: origin.into(),
        state: state.into(),
        hostnames: certificate.map(|c| c.hostnames.clone()).unwrap_or_default(),
        not_before: certificate.map(|c| timestamp(c.not_before * 1000)),
        not_after: certificate.map(|c| timestamp(c.not_after * 1000)),
        issuer: certificate.map(|c| c.issuer.clone()).unwrap_or_default(),
        serial: certificate.map(|c| c.serial.clone()).unwrap_or_default(),
        failures: trouble.map_or(0, |t| t.failures),
        error: trouble.map(|t| t.error.clone()).unwrap_or_default(),
        retry_time: trouble.map(|t| timestamp(t.retry_at)),
        certificate_pem: String::new(),
    }
}

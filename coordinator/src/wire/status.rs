//! The table that maps the core's errors to gRPC: code, stable reason, details.
//!
//! Not here: parse errors, which isyone-proto makes; logging (operators/access).

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use isyone_fleet::change::{ChangeError, SpecField};
use isyone_proto::{
    error::{ERROR_DOMAIN, FieldError, status},
    pb::v1,
};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::shown;
use crate::{
    base::{pki::PkiError, secrets::SealError},
    writer::SubmitError,
};

/// Type URL of the placement table that accompanies `NO_HOST_FITS`.
pub const PLACEMENT_TYPE: &str = "type.googleapis.com/isyone.v1.Placement";

fn plain(code: Code, reason: &str, error: impl ToString) -> Status {
    status(code, reason, error.to_string(), HashMap::new())
}

/// For a command without an outcome.
pub fn submit(error: SubmitError) -> Status {
    match error {
        SubmitError::Refused(error) => change(&error),
        SubmitError::Overloaded(retry_after) => overloaded(error.to_string(), retry_after),
        SubmitError::NotStored(_) => plain(Code::Unavailable, "NOT_STORED", error),
        SubmitError::Unknown(_) => plain(Code::Unavailable, "OUTCOME_UNKNOWN", error),
        SubmitError::Stopping => plain(Code::Unavailable, "STOPPING", error),
    }
}

/// For a refusal under load: nothing was done, and a later try may work. Carries `google.rpc.RetryInfo`, so that
/// callers come back when there may be room, not at once.
pub fn overloaded(message: String, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info("OVERLOADED", ERROR_DOMAIN, HashMap::new());
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn change(error: &ChangeError) -> Status {
    use ChangeError as E;
    let (code, reason) = match error {
        E::TenantNotFound(_) => (Code::NotFound, "TENANT_NOT_FOUND"),
        E::TenantExists { .. } => (Code::AlreadyExists, "TENANT_EXISTS"),
        E::Quarantined { .. } => (Code::FailedPrecondition, "QUARANTINED"),
        E::BeingPurged(_) => (Code::FailedPrecondition, "BEING_PURGED"),
        E::WrongState { .. } => (Code::FailedPrecondition, "WRONG_STATE"),
        E::Busy { .. } => (Code::Aborted, "OPERATION_IN_PROGRESS"),
        E::Immutable { .. } => (Code::FailedPrecondition, "IMMUTABLE_FIELD"),
        E::NoHostFits { decision, name } => {
            let placement = shown::placement(name, decision, None);
            let bare = plain(Code::ResourceExhausted, "NO_HOST_FITS", error);
            return with_detail(bare, PLACEMENT_TYPE, &placement);
        }
        E::NoBackups { .. } => (Code::FailedPrecondition, "NO_BACKUPS"),
        E::NotProvable { .. } => (Code::FailedPrecondition, "NOT_PROVABLE"),
        E::NotRestorable { .. } => (Code::FailedPrecondition, "NOT_RESTORABLE"),
        E::DomainTaken { .. } => (Code::AlreadyExists, "DOMAIN_TAKEN"),
        E::TooManyDomains(_) => (Code::ResourceExhausted, "TOO_MANY_DOMAINS"),
        E::DomainNotFound { .. } => (Code::NotFound, "DOMAIN_NOT_FOUND"),
        E::UnknownPlan(_) => (Code::InvalidArgument, "UNKNOWN_PLAN"),
        E::RequestIdReused(_) => (Code::AlreadyExists, "REQUEST_ID_REUSED"),
        E::OperationNotFound(_) => (Code::NotFound, "OPERATION_NOT_FOUND"),
        E::NotCancellable { .. } => (Code::FailedPrecondition, "NOT_CANCELLABLE"),
        E::HostNotFound(_) => (Code::NotFound, "HOST_NOT_FOUND"),
        E::HostNotEmpty { .. } => (Code::FailedPrecondition, "HOST_NOT_EMPTY"),
        E::HostExists(_) => (Code::AlreadyExists, "HOST_EXISTS"),
        E::AddressTaken { .. } => (Code::AlreadyExists, "ADDRESS_TAKEN"),
        E::AddressRefused { .. } => {
            return FieldError::new("advertise_address", error.to_string()).into();
        }
        // Only the log says which of them it is.
        E::TokenRefused(why) => {
            tracing::warn!(why, "join token refused");
            let message = "the join token is wrong, used, revoked or expired, or for another host or network; make a new one with `isyctl host token`";
            return plain(Code::Unauthenticated, "TOKEN_REFUSED", message);
        }
        E::TokenNotFound(_) => (Code::NotFound, "TOKEN_NOT_FOUND"),
        E::TokenUsed { .. } => (Code::FailedPrecondition, "TOKEN_USED"),
        E::TooManyTokens => (Code::ResourceExhausted, "TOO_MANY_TOKENS"),
        E::OperatorNotFound(_) => (Code::NotFound, "OPERATOR_NOT_FOUND"),
        E::OperatorConflict { .. } => (Code::FailedPrecondition, "OPERATOR_CONFLICT"),
        E::AccessRefused { .. } => (Code::FailedPrecondition, "ACCESS_REFUSED"),
        E::CallerRefused(_) => (Code::PermissionDenied, "CERTIFICATE_REFUSED"),
        E::CertificatesInUse(_) => (Code::ResourceExhausted, "CERTIFICATES_IN_USE"),
        E::CertificateNotFound(_) => (Code::NotFound, "CERTIFICATE_NOT_FOUND"),
        // Never asked for by a call: the program raises it while the coordinator stands.
        E::LastIncarnation(_) => (Code::FailedPrecondition, "LAST_INCARNATION"),
        E::TooManyCertificates => (Code::ResourceExhausted, "TOO_MANY_CERTIFICATES"),
    };
    let metadata = match error {
        E::TenantExists { changes, fixed, .. } => HashMap::from([
            (
                "differences".to_owned(),
                isyone_fleet::change::spec_change::listed(changes, "; "),
            ),
            ("fixed".to_owned(), names(fixed)),
        ]),
        E::Immutable { fields, .. } => HashMap::from([("fixed".to_owned(), names(fields))]),
        E::RequestIdReused(operation) => {
            HashMap::from([("operation_id".to_owned(), operation.to_string())])
        }
        E::Busy {
            operation, stage, ..
        } => HashMap::from([
            ("operation_id".to_owned(), operation.to_string()),
            ("stage".to_owned(), (*stage).to_owned()),
        ]),
        E::HostNotEmpty { count, .. } => HashMap::from([("tenants".to_owned(), count.to_string())]),
        _ => HashMap::new(),
    };
    status(code, reason, error.to_string(), metadata)
}

fn names(fields: &[SpecField]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.as_str()).collect();
    names.join(" ")
}

/// For a certificate that could not be made.
pub fn pki(error: &PkiError) -> Status {
    match error {
        PkiError::BadRequest(why) => FieldError::new("csr_pem", why.clone()).into(),
        error => {
            tracing::error!(
                error = isyone_proto::tls::error_chain(error),
                "signing failed"
            );
            plain(
                Code::Internal,
                "SIGNING_FAILED",
                "the certificate could not be signed; see the coordinator's log",
            )
        }
    }
}

/// For secrets that do not open: the key is wrong, and the caller can do nothing about it.
pub fn seal(error: &SealError) -> Status {
    plain(Code::Internal, "SEALED", error)
}

/// For something that does not exist.
pub fn not_found(reason: &str, message: String) -> Status {
    plain(Code::NotFound, reason, message)
}

/// For what this configuration does not allow.
pub fn not_configured(message: impl ToString) -> Status {
    plain(Code::FailedPrecondition, "NOT_CONFIGURED", message)
}

/// For domains that, according to DNS, do not lead to the edges.
pub fn dns(message: String) -> Status {
    plain(Code::FailedPrecondition, "DNS_CHECK_FAILED", message)
}

/// For domains that lead here through another tenant's platform name.
pub fn anothers_name(message: String) -> Status {
    plain(Code::FailedPrecondition, "DOMAIN_LEADS_TO_ANOTHER", message)
}

/// For a host's agent that is needed now and is not connected or did not answer.
pub fn agent_away(message: String) -> Status {
    plain(Code::Unavailable, "AGENT_UNAVAILABLE", message)
}

/// Ends every stream when the coordinator stops.
pub fn stopping() -> Status {
    plain(
        Code::Unavailable,
        "STOPPING",
        "the coordinator is stopping; try again in a moment",
    )
}

/// Adds one more detail message to a status with details.
fn with_detail(bare: Status, type_url: &str, detail: &v1::Placement) -> Status {
    // We have just encoded it; if it does not decode, the plain status still says what matters.
    let Ok(mut details) = tonic_types::pb::Status::decode(bare.details()) else {
        return bare;
    };
    details.details.push(prost_types::Any {
        type_url: type_url.to_owned(),
        value: detail.encode_to_vec(),
    });
    Status::with_details(
        bare.code(),
        bare.message(),
        Bytes::from(details.encode_to_vec()),
    )
}

#[cfg(test)]
mod tests {
    use isyone_fleet::placement::{Decision, Judgement, Load, Rejection};

    use super::*;

    #[test]
    fn no_host_fits_carries_reason_and_table() {
        let judgement = Judgement {
            host: "h1".parse().unwrap(),
            tenants: 3,
            load: Load::default(),
            slot: None,
            rejections: vec![Rejection::Cordoned],
        };
        let decision = Decision {
            host: None,
            slot: None,
            reason: "none of 1 hosts fits".into(),
            hosts: vec![judgement],
            considered: 1,
            fitting: 0,
        };
        let error = ChangeError::NoHostFits {
            name: "alfa".parse().unwrap(),
            decision: Box::new(decision),
        };
        let status = submit(SubmitError::Refused(error));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            isyone_proto::error::reason(&status).as_deref(),
            Some("NO_HOST_FITS")
        );
        let details = tonic_types::pb::Status::decode(status.details())
            .unwrap()
            .details;
        let table = details
            .iter()
            .find(|d| d.type_url == PLACEMENT_TYPE)
            .unwrap();
        let placement = v1::Placement::decode(&*table.value).unwrap();
        assert_eq!(placement.hosts[0].reasons, ["cordoned"]);
    }

    #[test]
    fn a_refused_token_does_not_say_why() {
        let texts = ["unknown", "already used", "expired"].map(|why| {
            submit(SubmitError::Refused(ChangeError::TokenRefused(why)))
                .message()
                .to_owned()
        });
        assert!(texts[0] == texts[1] && texts[1] == texts[2]);
    }
}

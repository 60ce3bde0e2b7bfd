//! What a gRPC status means to a person: exit code, wording, what to do next. Pure; the caller passes the time to
//! compare the certificate's expiry with.

use std::time::Duration;

use isyone_proto::{echo::echo, pb::v1, tls};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    exit::{Exit, Failure},
    fields::flag_of,
    output::{placement, table::clean},
};

/// `ErrorInfo` reason of a create that fits on no host.
pub const NO_HOST_FITS: &str = "NO_HOST_FITS";
/// How rustls starts its message about an alert from the peer.
pub const ALERT: &str = "received fatal alert";
/// `ErrorInfo` reason of a change to a tenant that has an operation under way.
const IN_PROGRESS: &str = "OPERATION_IN_PROGRESS";
/// `ErrorInfo` reason of a create whose name is taken by a tenant with another spec.
const TENANT_EXISTS: &str = "TENANT_EXISTS";
/// What is left when some of what was asked for cannot be had by this tenant.
const FIXED_HINT: &str = "leave out what cannot be changed, or repeat what it was created with (`isyctl tenant show NAME`), or choose another name";
const PLACEMENT_URL: &str = "type.googleapis.com/isyone.v1.Placement";

/// The coordinator and our identity towards it, for error messages.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `host:port`.
    pub endpoint: String,
    pub context: String,
    /// The command that shows this context.
    pub show: String,
    /// When our certificate expires, in Unix seconds, if it can be read.
    pub certificate_end: Option<i64>,
}

/// A failure below gRPC: the coordinator did not answer the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// The coordinator does not accept our certificate. With TLS 1.3 this shows only after the handshake.
    CertificateRefused,
    /// The server at this address is not our coordinator.
    WrongServer,
    /// No connection, so nothing was sent.
    NotConnected,
    /// The connection broke: it is unknown whether the request arrived.
    Lost,
}

/// How a call failed below gRPC, if it did.
pub fn transport(status: &Status) -> Option<Transport> {
    let source = std::error::Error::source(status)?;
    let chain = tls::error_chain(source);
    if chain.contains(ALERT) {
        return Some(Transport::CertificateRefused);
    }
    if chain.contains("invalid peer certificate") {
        return Some(Transport::WrongServer);
    }
    let mut cause = Some(source);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return Some(Transport::NotConnected);
        }
        cause = error.source();
    }
    Some(Transport::Lost)
}

/// Whether the call may have been carried out all the same; only a retry with the same request id can tell.
pub fn outcome_unknown(status: &Status) -> bool {
    match transport(status) {
        Some(kind) => kind == Transport::Lost,
        None => matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded),
    }
}

/// Whether a watch that ended like this is worth reopening.
pub fn passing(status: &Status) -> bool {
    match transport(status) {
        Some(kind) => matches!(kind, Transport::Lost | Transport::NotConnected),
        None => {
            matches!(status.code(), Code::Unavailable | Code::Cancelled) || busy(status).is_some()
        }
    }
}

/// The delay that a coordinator shedding load asks for, if it names one; None when it does not shed load.
pub fn busy(status: &Status) -> Option<Option<Duration>> {
    if !matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) {
        return None;
    }
    let details = status.get_error_details();
    let overloaded = details
        .error_info()
        .is_some_and(|info| info.reason == "OVERLOADED");
    match details.retry_info() {
        Some(info) => Some(info.retry_delay),
        None => overloaded.then_some(None),
    }
}

/// The exit code for a status that the coordinator sent.
pub fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Done,
        Code::InvalidArgument => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

/// What was tried, with the values in it (between backticks) as short as in what the coordinator says.
fn shortened(doing: &str) -> String {
    let parts = doing.split('`').enumerate();
    let parts = parts.map(|(i, part)| {
        if i % 2 == 1 {
            echo(part)
        } else {
            part.to_owned()
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

/// The error for a failed call. `doing` completes "cannot …": "create tenant `alfa`".
pub fn failure(doing: &str, peer: &Peer, status: &Status, now_ms: i64) -> Failure {
    let doing = &shortened(doing);
    let failure = match transport(status) {
        Some(kind) => transport_failure(kind, doing, peer, now_ms),
        None => answer_failure(doing, peer, status),
    };
    let cause = format!("{:?}: {}", status.code(), tls::error_chain(status));
    failure.cause(cause)
}

/// The error for a call that timed out.
pub fn no_answer(doing: &str, peer: &Peer, waited: Duration) -> Failure {
    let doing = shortened(doing);
    let waited = humantime::format_duration(waited);
    Failure::new(
        Exit::Unavailable,
        format!(
            "cannot {doing}: no answer from the coordinator at {} within {waited}",
            peer.endpoint
        ),
    )
    .hint("try again, or wait longer with --timeout")
}

/// The error for a certificate that the coordinator does not accept.
pub fn refused(doing: &str, peer: &Peer, now_ms: i64) -> Failure {
    transport_failure(
        Transport::CertificateRefused,
        &shortened(doing),
        peer,
        now_ms,
    )
}

fn transport_failure(kind: Transport, doing: &str, peer: &Peer, now_ms: i64) -> Failure {
    let endpoint = &peer.endpoint;
    match kind {
        Transport::CertificateRefused => {
            let ended = peer.certificate_end.is_some_and(|end| end.saturating_mul(1000) < now_ms);
            let why = if ended { "it has expired" } else { "revoked, or of another coordinator?" };
            let message = format!("cannot {doing}: the coordinator at {endpoint} refused this certificate ({why})");
            Failure::new(Exit::Denied, message).hint(format!(
                "`{}` shows the certificate; an admin makes a new one with `isyctl operator create`",
                peer.show
            ))
        }
        Transport::WrongServer => Failure::new(
            Exit::Unavailable,
            format!("cannot {doing}: whoever answers at {endpoint} is not the coordinator that the context `{}` knows", peer.context),
        )
        .hint("is the address right? If the coordinator's CA was replaced or it was set up anew while this context was away, an admin makes another context: `isyctl operator create NAME`, then `isyctl context import FILE --force`"),
        Transport::NotConnected => {
            Failure::new(Exit::Unavailable, format!("cannot {doing}: no connection to the coordinator at {endpoint}"))
                .hint(format!("is it running, and is the address right? `{}`; -v shows the cause", peer.show))
        }
        Transport::Lost => {
            Failure::new(Exit::Unavailable, format!("cannot {doing}: the coordinator at {endpoint} closed the connection"))
                .hint("it may be restarting: try again; -v shows the cause")
        }
    }
}

fn answer_failure(doing: &str, peer: &Peer, status: &Status) -> Failure {
    let said = clean(status.message());
    // Busy counts as unavailable: a script may try again later.
    let exit = if busy(status).is_some() {
        Exit::Unavailable
    } else {
        exit_of(status.code())
    };
    let mut failure = Failure::new(exit, format!("cannot {doing}: {said}"));
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .map(|info| info.reason.as_str())
        .unwrap_or_default();
    if let Some(violations) = details
        .bad_request()
        .map(|bad| &bad.field_violations)
        .filter(|v| !v.is_empty())
    {
        failure.message = format!("cannot {doing}: the coordinator does not accept a value");
        let lines: Vec<String> = violations
            .iter()
            .map(|v| {
                let field = clean(&v.field);
                // Of a newer coordinator there is only its own name.
                let what = flag_of(&field).map_or(field, str::to_owned);
                format!("{what}: {}", clean(&v.description))
            })
            .collect();
        failure.message = format!("{}: {}", failure.message, lines.join("; "));
        failure.hint =
            Some("correct it and try again; `--help` shows what each option takes".to_owned());
        return failure;
    }
    if reason == NO_HOST_FITS {
        return no_host_fits(doing, status);
    }
    failure.hint = match (reason, details.error_info()) {
        (IN_PROGRESS, Some(info)) => Some(in_progress(doing, info.metadata.get("operation_id"))),
        (TENANT_EXISTS | "IMMUTABLE_FIELD", Some(info))
            if info.metadata.get("fixed").is_some_and(|f| !f.is_empty()) =>
        {
            Some(FIXED_HINT.to_owned())
        }
        _ => hint(doing, status.code(), reason, peer),
    };
    failure
}

/// The error with the table of hosts that comes with [`NO_HOST_FITS`].
fn no_host_fits(doing: &str, status: &Status) -> Failure {
    let failure = Failure::failed(format!("cannot {doing}: {}", clean(status.message())));
    no_host_fits_with(failure, attached_placement(status).as_ref())
}

/// Adds the table and a hint to a failure to place a tenant.
pub fn no_host_fits_with(mut failure: Failure, placement: Option<&v1::Placement>) -> Failure {
    failure.detail = placement
        .filter(|p| !p.hosts.is_empty())
        .map(|p| placement::table(p, false));
    failure.hint("add a host (`isyctl host token`), uncordon one, take a smaller --plan or drop --host and --label; nothing was stored")
}

fn attached_placement(status: &Status) -> Option<v1::Placement> {
    let rpc = tonic_types::Status::decode(status.details()).ok()?;
    let any = rpc
        .details
        .iter()
        .find(|any| any.type_url == PLACEMENT_URL)?;
    v1::Placement::decode(any.value.as_slice()).ok()
}

/// What to do about an operation under way, beside what the message says: waiting for it, or cancelling it.
fn in_progress(doing: &str, operation: Option<&String>) -> String {
    let id = operation.map_or_else(|| "ID".to_owned(), |id| clean(id));
    let shown = format!("`isyctl op show {id}` shows what it waits for");
    match doing.split(' ').next() {
        Some("suspend" | "delete") => format!("{shown}; --cancel-running cancels it for this one"),
        _ => shown,
    }
}

/// What to do next, chosen by the coordinator's reason or else by the code.
fn hint(doing: &str, code: Code, reason: &str, peer: &Peer) -> Option<String> {
    let text = match (reason, code) {
        (TENANT_EXISTS, _) => {
            "repeat the options it was created with, choose another name, or use --force to apply these to it"
        }
        ("DOMAIN_TAKEN", _) => {
            "a domain leads to one tenant: leave it out, or take it from the other one first"
        }
        ("DOMAIN_LEADS_TO_ANOTHER", _) => {
            "who owns the domain can change its DNS; name servers may show the old record for as long as its TTL says"
        }
        ("DNS_CHECK_FAILED", _) => {
            "name servers may show an old record for as long as its TTL says: try again then; --skip-dns-check adds it before that"
        }
        ("DOMAIN_NOT_FOUND", _) => "`isyctl tenant domain list NAME` shows the domains that it has",
        ("QUARANTINED", _) => {
            "`isyctl tenant undelete NAME` brings it back; `isyctl tenant delete NAME --purge` removes its data and frees the name"
        }
        ("HOST_NOT_EMPTY", _) => {
            "`isyctl tenant list --host NAME --deleted` shows them; `isyctl tenant move NAME --to HOST` takes one elsewhere"
        }
        ("UNKNOWN_PLAN", _) => "`isyctl version` shows the plans",
        ("OUTCOME_UNKNOWN", _) => {
            "look whether it was made (`isyctl op list`) before you try again"
        }
        ("OVERLOADED" | "STOPPING" | "NOT_STORED", _) => "try again in a moment",
        (_, Code::NotFound) => list_of(doing),
        (_, Code::PermissionDenied) => {
            "`isyctl version` shows your role; an admin can give another with `isyctl operator renew NAME --role ROLE`"
        }
        (_, Code::Unauthenticated) => {
            return Some(format!(
                "`{}` shows the certificate that was used",
                peer.show
            ));
        }
        (_, Code::Aborted) => {
            "something else changed it at the same time: look at `isyctl op list` and try again"
        }
        (_, Code::OutOfRange) => "start again without --after",
        (_, Code::ResourceExhausted) => "the coordinator is busy or at a limit: try again later",
        (_, Code::Unimplemented) => {
            "the coordinator may be older than this isyctl: `isyctl version` shows both"
        }
        (_, Code::Unavailable | Code::DeadlineExceeded) => {
            "try again; `isyctl host list` shows whether the host is there"
        }
        (_, Code::Internal | Code::Unknown | Code::DataLoss) => {
            "the coordinator's log has the details"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// The command that lists the right names.
fn list_of(doing: &str) -> &'static str {
    if doing.starts_with("show backup") {
        "`isyctl backup list` shows the backups"
    } else if doing.contains("certificate") {
        "`isyctl cert list` shows the certificates"
    } else if doing.contains("edge") {
        "`isyctl edge list` shows the edges"
    } else if doing.contains("join token") {
        "`isyctl host token list` shows the tokens"
    } else if doing.contains("host") {
        "`isyctl host list` shows the hosts"
    } else if doing.contains("operation") {
        "`isyctl op list` shows the operations; old ones are forgotten"
    } else if doing.contains("operator") {
        "`isyctl operator list` shows the operators"
    } else {
        "`isyctl tenant list --deleted` shows the tenants, and deleted ones that are still kept"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            endpoint: "c:7443".into(),
            context: "prod".into(),
            show: "isyctl context show".into(),
            certificate_end: Some(100),
        }
    }

    #[test]
    fn every_code_has_its_exit() {
        let table = [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::Unauthenticated, 4),
            (Code::PermissionDenied, 4),
            (Code::Unavailable, 5),
            (Code::DeadlineExceeded, 5),
            (Code::AlreadyExists, 1),
            (Code::FailedPrecondition, 1),
            (Code::ResourceExhausted, 1),
            (Code::Internal, 1),
        ];
        for (code, exit) in table {
            assert_eq!(
                failure("x", &peer(), &Status::new(code, "m"), 0)
                    .exit
                    .code(),
                exit,
                "{code:?}"
            );
        }
    }

    #[test]
    fn fields_are_named_as_the_person_typed_them() {
        let status = Status::from(isyone_proto::error::FieldError::new(
            "spec.domains[0]",
            "is no name",
        ));
        let failure = failure("create tenant `alfa`", &peer(), &status, 0);
        assert_eq!(failure.exit, Exit::Usage);
        assert!(
            failure.message.contains("a value: --domain: is no name"),
            "{failure}"
        );
    }

    #[test]
    fn what_was_typed_is_repeated_short_and_harmless() {
        let doing = format!("show tenant `\x1b[2J{}`", "x".repeat(100_000));
        let failure = failure(&doing, &peer(), &Status::not_found("m"), 0);
        let said = failure.to_string();
        assert!(
            said.contains("show tenant `\\u{1b}[2Jxxx") && said.len() < 500,
            "{said}"
        );
        assert!(!said.contains('\x1b'), "{said:?}");
    }

    #[test]
    fn what_the_coordinator_says_cannot_drive_the_terminal() {
        let failure = failure(
            "x",
            &peer(),
            &Status::failed_precondition("a\x1b[2Jb\nc"),
            0,
        );
        assert_eq!(failure.message, "cannot x: a\\u{1b}[2Jb c");
    }
}

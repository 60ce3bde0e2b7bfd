//! Errors that cross the border: a bad field found while parsing, and its gRPC form with google.rpc details.
//!
//! Not here: the errors inside a program; each module has its own and maps it in one table at the edge.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The `domain` of every `google.rpc.ErrorInfo` that isyone sends.
pub const ERROR_DOMAIN: &str = "isyone";

/// Most bytes of a status' message, and of each text of its details: four of them, in base64, stay below the 16 KiB of
/// headers that clients take.
const MAX_TEXT_BYTES: usize = 2_000;

/// One field of a request that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// Path of the field in the request, e.g. `spec.domains[2]`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

impl FieldError {
    /// A problem with `field`. A value that it repeats goes through [`crate::echo::echo`].
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The same problem, with the path prefixed by the message that contains the field.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self {
            field: format!("{parent}.{}", self.field),
            problem: self.problem,
        }
    }
}

impl From<FieldError> for Status {
    /// INVALID_ARGUMENT with `BadRequest` naming the field and `ErrorInfo` reason `INVALID_FIELD`.
    fn from(error: FieldError) -> Self {
        let message = bounded(error.to_string());
        let mut details =
            ErrorDetails::with_bad_request_violation(bounded(error.field), bounded(error.problem));
        details.set_error_info("INVALID_FIELD", ERROR_DOMAIN, HashMap::new());
        Self::with_error_details(Code::InvalidArgument, message, details)
    }
}

/// PERMISSION_DENIED for a field that others may set: with `BadRequest` naming it, so that clients name it as they do a
/// bad one, and `ErrorInfo` reason `PERMISSION_DENIED`.
pub fn denied(error: FieldError) -> Status {
    let message = bounded(error.to_string());
    let mut details =
        ErrorDetails::with_bad_request_violation(bounded(error.field), bounded(error.problem));
    details.set_error_info("PERMISSION_DENIED", ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(Code::PermissionDenied, message, details)
}

/// A status with an `ErrorInfo`. `reason` is UPPER_SNAKE and stable: programs match on it, people read `message`.
pub fn status(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
) -> Status {
    let metadata = metadata.into_iter().map(|(k, v)| (k, bounded(v)));
    Status::with_error_details(
        code,
        bounded(message.into()),
        ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata.collect::<HashMap<_, _>>()),
    )
}

/// Whatever was forgotten to be shortened: a status travels in headers, and one that does not fit into them arrives as a
/// broken connection.
fn bounded(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let end = text.floor_char_boundary(MAX_TEXT_BYTES);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The `ErrorInfo` reason of a status, if it carries one.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// The fields that a status says are wrong.
pub fn fields(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request();
    let violations = bad.map(|bad| bad.field_violations).unwrap_or_default();
    violations.into_iter().map(|v| v.field).collect()
}

/// The same status, telling the client to retry after this time and not before (`google.rpc.RetryInfo`).
pub fn retry_later(status: &Status, after: Duration) -> Status {
    let mut details = status.get_error_details();
    details.set_retry_info(Some(after));
    Status::with_error_details(status.code(), status.message(), details)
}

/// How long a status tells the client to wait before it retries.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_fits_into_headers_whatever_it_repeats() {
        let long = "ü\u{1b}".repeat(130_000);
        let metadata = HashMap::from([("differences".to_owned(), long.clone())]);
        for status in [
            status(Code::NotFound, "TENANT_NOT_FOUND", long.clone(), metadata),
            FieldError::new(long.clone(), long).into(),
        ] {
            let headers = status.into_http::<()>().into_parts().0.headers;
            let size: usize = headers
                .iter()
                .map(|(k, v)| k.as_str().len() + v.len() + 32)
                .sum();
            assert!(size < 16 << 10, "{size}");
        }
    }

    #[test]
    fn a_hint_to_come_back_leaves_the_reason_in_place() {
        let plain = status(Code::Unavailable, "STOPPING", "stopping", HashMap::new());
        assert_eq!(retry_after(&plain), None);
        let later = retry_later(&plain, Duration::from_secs(3));
        assert_eq!(retry_after(&later), Some(Duration::from_secs(3)));
        assert_eq!(
            (later.code(), reason(&later).as_deref()),
            (Code::Unavailable, Some("STOPPING"))
        );
    }
}

//! Errors that cross the border: a bad field found while parsing, and its gRPC form with google.rpc details.
//!
//! Not here: the errors inside a program; each module has its own and maps it in one table at the edge.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The `domain` of every `google.rpc.ErrorInfo` that isyone sends.
pub const ERROR_DOMAIN: &str = "isyone";

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
    /// A problem with `field`.
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
        let message = error.to_string();
        let mut details = ErrorDetails::with_bad_request_violation(error.field, error.problem);
        details.set_error_info("INVALID_FIELD", ERROR_DOMAIN, HashMap::new());
        Self::with_error_details(Code::InvalidArgument, message, details)
    }
}

/// A status with an `ErrorInfo`. `reason` is UPPER_SNAKE and stable: programs match on it, people read `message`.
pub fn status(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
) -> Status {
    Status::with_error_details(
        code,
        message,
        ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata),
    )
}

/// The `ErrorInfo` reason of a status, if it carries one.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
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

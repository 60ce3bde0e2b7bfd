//! Why a session with the coordinator ended.
//!
//! Not here: what follows from it (comeback).

use std::time::Duration;

use isyone_proto::{error, tls};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The channel could not be created.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The coordinator or the network ended it.
    #[error("{0}")]
    Ended(String),
    /// The coordinator ended it and said when it can take us again.
    #[error("{why}")]
    Later {
        /// Reason given by the coordinator.
        why: String,
        /// Stay away for at least this long.
        after: Duration,
    },
    /// The coordinator has a newer session with the same identity, which is not ours: we hold only one at a time.
    #[error(
        "another agent uses this host's identity: end it there, or remove the host and let each machine join under a name of its own"
    )]
    Displaced,
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        if status.code() == tonic::Code::Aborted {
            return Self::Displaced;
        }
        let chain = std::error::Error::source(&status)
            .map(|s| format!(": {}", tls::error_chain(s)))
            .unwrap_or_default();
        let why = format!("{:?}: {}{chain}", status.code(), status.message());
        match error::retry_after(&status) {
            Some(after) => Self::Later { why, after },
            None => Self::Ended(why),
        }
    }
}

/// The coordinator ended the stream without a reason.
pub fn gone() -> SessionError {
    SessionError::Ended("the coordinator ended the session".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_error_names_its_cause() {
        let error = SessionError::from(tonic::Status::permission_denied("host removed"));
        assert!(error.to_string().contains("PermissionDenied: host removed"));
    }
}

//! [`Docker`] over the Engine API with bollard.
//!
//! bollard 0.21 sends no API version (fussybeaver/bollard#736), so the daemon would answer in its own newest format: we
//! put the negotiated version before each path. Connects at the first call and again after a failure, so the agent may
//! start before Docker. Not here: any decision.

mod calls;
mod convert;
mod networks;
mod tail;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bollard::{Docker as Client, errors::Error as BollardError};

use super::{DockerError, Result};

/// Limit until the head of a response. Creating a network on a busy daemon takes seconds; a hanging daemon must be
/// noticed.
const CALL_TIMEOUT_S: u64 = 60;

/// The engine behind a socket.
pub struct Engine {
    address: String,
    client: ArcSwapOption<Client>,
}

impl Engine {
    /// `address` is `unix:///var/run/docker.sock` or `tcp://host:port`. Connects later.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            client: ArcSwapOption::empty(),
        }
    }

    async fn client(&self) -> Result<Arc<Client>> {
        if let Some(client) = self.client.load_full() {
            return Ok(client);
        }
        let fresh = if self.address.starts_with("unix://") || self.address.starts_with('/') {
            Client::connect_with_unix(&self.address, CALL_TIMEOUT_S, bollard::API_DEFAULT_VERSION)
        } else {
            Client::connect_with_http(&self.address, CALL_TIMEOUT_S, bollard::API_DEFAULT_VERSION)
        };
        let negotiated = fresh
            .map_err(unreachable)?
            .negotiate_version()
            .await
            .map_err(unreachable)?;
        let client = Arc::new(with_version_prefix(negotiated));
        self.client.store(Some(client.clone()));
        Ok(client)
    }

    /// Maps an error; forgets a lost connection, because another daemon version may come back.
    fn failed(&self, error: BollardError) -> DockerError {
        let error = classify(error);
        if matches!(error, DockerError::Unreachable(_)) {
            self.client.store(None);
        }
        error
    }

    async fn call<T, F>(&self, f: impl FnOnce(Arc<Client>) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, BollardError>>,
    {
        let client = self.client().await?;
        f(client).await.map_err(|e| self.failed(e))
    }

    /// Like `call`, but returns `None` for "not there".
    async fn find<T, F>(&self, f: impl FnOnce(Arc<Client>) -> F) -> Result<Option<T>>
    where
        F: Future<Output = std::result::Result<T, BollardError>>,
    {
        match self.call(f).await {
            Ok(found) => Ok(Some(found)),
            Err(DockerError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn with_version_prefix(client: Client) -> Client {
    let version = client.client_version();
    let prefix = format!("/v{}.{}", version.major_version, version.minor_version);
    client.with_request_modifier(move |mut request| {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |p| p.as_str())
            .to_owned();
        if !path.starts_with("/v1.") {
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = format!("{prefix}{path}").parse().ok();
            if let Ok(uri) = http::Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        request
    })
}

fn unreachable(error: BollardError) -> DockerError {
    DockerError::Unreachable(isyone_proto::tls::error_chain(&error))
}

fn classify(error: BollardError) -> DockerError {
    match error {
        BollardError::DockerResponseServerError {
            status_code: 404,
            message,
        } => DockerError::NotFound(message),
        BollardError::DockerResponseServerError {
            status_code: 409,
            message,
        } => DockerError::Conflict(message),
        BollardError::DockerResponseServerError { message, .. } => DockerError::Refused(message),
        BollardError::DockerStreamError { error } => DockerError::Refused(error),
        other => unreachable(other),
    }
}

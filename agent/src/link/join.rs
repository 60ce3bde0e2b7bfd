//! Joining a fleet: makes the key, exchanges token and CSR for a certificate, writes identity and `agent.toml`.
//!
//! The key never leaves the host. Not here: everything after (session).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{EnrollRequest, enrollment_service_client::EnrollmentServiceClient},
    tls,
    token::JoinToken,
};

use crate::{
    base::config::{AgentConfig, ConfigError, DataDir},
    host::identity::{IdentityError, Pems},
};

/// The coordinator signs at once; this allows for a slow network.
const ENROLL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why joining failed. A host never stays half-joined: `agent.toml` is written last.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// This host has joined before.
    #[error("this host has already joined as `{name}` (coordinator {endpoint}); nothing was changed. To join anew, remove {path} first", path = .path.display())]
    Already {
        name: HostName,
        endpoint: String,
        /// The settings file that says so.
        path: std::path::PathBuf,
    },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The secure channel could not be created.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The coordinator refused or did not answer.
    #[error("{0}")]
    Refused(String),
    /// No address to advertise was given or found.
    #[error(
        "the address that the edges reach this host at could not be found out; give it with --advertise"
    )]
    NoAddress,
}

/// What to join with.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// `host:port` of the enrolment service.
    pub coordinator: String,
    pub token: JoinToken,
    /// Name that this host asks for.
    pub name: HostName,
    /// Address for the edges; determined automatically when not given.
    pub advertise: Option<IpAddr>,
    pub labels: BTreeMap<String, String>,
}

/// This machine's name as a host name in the fleet; `host` when it is not a DNS label.
pub fn machine_name() -> String {
    let uname = rustix::system::uname();
    let text = uname.nodename().to_string_lossy().to_ascii_lowercase();
    let label = text.split('.').next().unwrap_or_default();
    if label.parse::<HostName>().is_ok() {
        label.to_owned()
    } else {
        "host".to_owned()
    }
}

pub async fn join(data: &DataDir, options: JoinOptions) -> Result<AgentConfig, JoinError> {
    match data.load_config() {
        Err(ConfigError::NotJoined(_)) => {}
        Err(e) => return Err(e.into()),
        Ok(known) => {
            return Err(JoinError::Already {
                name: known.name,
                endpoint: known.endpoint,
                path: data.config(),
            });
        }
    }
    data.create()?;
    let advertise = match options.advertise {
        Some(address) => address,
        None => own_address(&options.coordinator).ok_or(JoinError::NoAddress)?,
    };
    let (key, csr_pem) = tls::new_key_and_csr(options.name.as_str())?;
    let tls_config = Arc::new(ArcSwap::from(tls::pinned_config(&options.token.ca_pin)?));
    let channel = tls::channel(&options.coordinator, tls_config)?;
    let request = EnrollRequest {
        token_id: options.token.id.clone(),
        token_secret: options.token.secret.expose().to_owned(),
        host: options.name.to_string(),
        csr_pem,
        advertise_address: advertise.to_string(),
        labels: options.labels.clone().into_iter().collect(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut client = EnrollmentServiceClient::new(channel);
    let answer = tokio::time::timeout(ENROLL_TIMEOUT, client.enroll(request))
        .await
        .map_err(|_| {
            JoinError::Refused(format!(
                "{} did not answer within {} s",
                options.coordinator,
                ENROLL_TIMEOUT.as_secs()
            ))
        })?
        .map_err(|status| JoinError::Refused(refusal(&options.coordinator, &status)))?
        .into_inner();
    let pems = Pems {
        key,
        certificate: answer.certificate_pem,
        ca: answer.ca_pem,
    };
    pems.store(&data.identity())?;
    let config = AgentConfig {
        name: options.name,
        host_uid: answer.host_uid,
        endpoint: answer.agent_endpoint,
        advertise,
        labels: options.labels,
    };
    data.store_config(&config)?;
    Ok(config)
}

fn refusal(coordinator: &str, status: &tonic::Status) -> String {
    let words = match std::error::Error::source(status) {
        Some(source) => format!("{}: {}", status.message(), tls::error_chain(source)),
        None => status.message().to_owned(),
    };
    match status.code() {
        tonic::Code::Unauthenticated => {
            format!(
                "the coordinator refuses the token: {words}; ask for a new one with `isyctl host token`"
            )
        }
        tonic::Code::Unknown | tonic::Code::Unavailable => {
            format!(
                "no trusted connection to {coordinator}: {words}; check the address, and that the token is of this coordinator"
            )
        }
        _ => format!("the coordinator refuses: {words}"),
    }
}

/// The address from which this machine would reach the coordinator.
fn own_address(coordinator: &str) -> Option<IpAddr> {
    use std::net::ToSocketAddrs as _;
    let target: SocketAddr = coordinator.to_socket_addrs().ok()?.next()?;
    let any: IpAddr = if target.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        [0u16; 8].into()
    };
    // Sends no packet: connecting a UDP socket only consults the routing table.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|a| a.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_address_towards_loopback_is_loopback() {
        assert_eq!(own_address("127.0.0.1:7444"), Some([127, 0, 0, 1].into()));
        assert_eq!(own_address("nonsense"), None);
    }

    #[test]
    fn a_machine_name_is_a_host_name() {
        assert!(machine_name().parse::<HostName>().is_ok());
    }
}

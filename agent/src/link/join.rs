//! Joining a fleet: makes the key, exchanges token and CSR for a certificate, writes identity and `agent.toml`.
//!
//! The key never leaves the host. Not here: everything after (session).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{
        EnrollRequest, EnrollResponse, enrollment_service_client::EnrollmentServiceClient,
    },
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
    #[error(
        "this host has already joined as `{name}` (coordinator {endpoint}); nothing was changed. To join anew and keep its data, add --rejoin, with a token from `isyctl host token --host {name}`"
    )]
    Already { name: HostName, endpoint: String },
    /// Its tenants are this host's under its name; under another it would have none.
    #[error("this host is `{known}` and joins anew only as that: leave out --name {asked}")]
    OtherName { known: HostName, asked: HostName },
    /// The most frequent slip.
    #[error(
        "--coordinator {0} has no port: it is HOST:7444, as `isyctl host token` prints it (7443 is for operators and running agents)"
    )]
    NoPort(String),
    #[error(
        "--coordinator {coordinator}: this machine does not find that host ({why}); is the name right, and does DNS or /etc/hosts know it?"
    )]
    UnknownHost { coordinator: String, why: String },
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
    /// Name that this host asks for; else its own of before, or the machine's.
    pub name: Option<HostName>,
    /// Address for the edges; determined automatically when not given.
    pub advertise: Option<IpAddr>,
    pub labels: BTreeMap<String, String>,
    /// A host that has joined before gets a new identity; plan, tenants and snapshots stay.
    pub rejoin: bool,
}

/// This machine's name as a host name in the fleet; `host` when it is not a DNS label.
pub fn machine_name() -> HostName {
    let uname = rustix::system::uname();
    let text = uname.nodename().to_string_lossy().to_ascii_lowercase();
    let label = text.split('.').next().unwrap_or_default().parse();
    label.unwrap_or_else(|_| "host".parse().expect("it is a DNS label"))
}

/// A host that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub config: AgentConfig,
    /// An admin has to let it in before it gets tenants: its token was for any name.
    pub pending: bool,
}

pub async fn join(data: &DataDir, options: JoinOptions) -> Result<Joined, JoinError> {
    let known = match data.load_config() {
        Err(ConfigError::NotJoined(_)) => None,
        Err(e) => return Err(e.into()),
        Ok(known) if options.rejoin => Some(known),
        Ok(AgentConfig { name, endpoint, .. }) => {
            return Err(JoinError::Already { name, endpoint });
        }
    };
    let name = name_for(known.as_ref(), options.name.as_ref())?;
    let address = resolved(&options.coordinator)?;
    data.create()?;
    let before = known.as_ref().map(|known| known.advertise);
    let advertise = (options.advertise.or(before))
        .or_else(|| own_address(address))
        .ok_or(JoinError::NoAddress)?;
    let mut labels = options.labels.clone();
    if labels.is_empty() {
        labels = known.map(|known| known.labels).unwrap_or_default();
    }
    let (key, csr_pem) = tls::new_key_and_csr(name.as_str())?;
    let request = EnrollRequest {
        token_id: options.token.id.clone(),
        token_secret: options.token.secret.expose().to_owned(),
        host: name.to_string(),
        csr_pem,
        advertise_address: advertise.to_string(),
        labels: labels.clone().into_iter().collect(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer = enrolled(&options, request).await?;
    let pending = answer.pending;
    let pems = Pems {
        key,
        certificate: answer.certificate_pem,
        ca: answer.ca_pem,
    };
    pems.store(&data.identity())?;
    let config = AgentConfig {
        name,
        host_uid: answer.host_uid,
        endpoint: answer.agent_endpoint,
        advertise,
        labels,
    };
    data.store_config(&config)?;
    Ok(Joined { config, pending })
}

/// The name to ask for.
fn name_for(known: Option<&AgentConfig>, asked: Option<&HostName>) -> Result<HostName, JoinError> {
    match (known.map(|known| &known.name), asked) {
        (Some(known), Some(asked)) if known != asked => Err(JoinError::OtherName {
            known: known.clone(),
            asked: asked.clone(),
        }),
        (Some(name), _) | (None, Some(name)) => Ok(name.clone()),
        (None, None) => Ok(machine_name()),
    }
}

/// Where the coordinator is: looked up first, so that a slip is called by its name.
fn resolved(coordinator: &str) -> Result<SocketAddr, JoinError> {
    let port = coordinator
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    // All of a bare IPv6 address looks like host and port.
    if port.is_none() || coordinator.parse::<IpAddr>().is_ok() {
        return Err(JoinError::NoPort(coordinator.to_owned()));
    }
    let unknown = |why: String| JoinError::UnknownHost {
        coordinator: coordinator.to_owned(),
        why,
    };
    let mut found = coordinator
        .to_socket_addrs()
        .map_err(|e| unknown(e.to_string()))?;
    found.next().ok_or_else(|| unknown("no address".to_owned()))
}

/// Exchanges token and request for a certificate.
async fn enrolled(
    options: &JoinOptions,
    request: EnrollRequest,
) -> Result<EnrollResponse, JoinError> {
    let tls_config = Arc::new(ArcSwap::from(tls::pinned_config(&options.token.ca_pin)?));
    let channel = tls::channel(&options.coordinator, tls_config)?;
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
        .map_err(|status| JoinError::Refused(refusal(&options.coordinator, &status)))?;
    Ok(answer.into_inner())
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
fn own_address(target: SocketAddr) -> Option<IpAddr> {
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
        let there = SocketAddr::from(([127, 0, 0, 1], 7444));
        assert_eq!(own_address(there), Some([127, 0, 0, 1].into()));
    }

    /// Fails if a slip in --coordinator is answered with advice about another option.
    #[test]
    fn a_coordinator_without_a_port_or_that_nobody_knows_is_called_so() {
        for bare in [
            "192.0.2.1",
            "coordinator.example",
            "2001:db8::1",
            "c:",
            "c:x",
        ] {
            let said = resolved(bare).unwrap_err().to_string();
            assert!(
                said.contains("has no port: it is HOST:7444"),
                "{bare}: {said}"
            );
        }
        let said = resolved("nowhere.invalid:7444").unwrap_err().to_string();
        assert!(said.contains("does not find that host"), "{said}");
        assert!(resolved("[::1]:7444").is_ok() && resolved("127.0.0.1:7444").is_ok());
    }

    #[test]
    fn a_machine_name_is_a_host_name() {
        assert!(!machine_name().as_str().is_empty());
    }
}

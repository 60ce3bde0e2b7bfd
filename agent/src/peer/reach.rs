//! The way to another host's agent: directly where it can be reached, else through the coordinator, which passes on bytes
//! that only the two agents can read. Chosen anew for each connection. A host that is reached and is not who it should be,
//! or refuses us, is not asked again by the other way: that would only hide what is wrong.
//!
//! Not here: the other end (port), what is asked for (jobs).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_proto::{
    ids::{HostName, TenantName},
    pb::agent::v1::{
        RelayDown, RelayTo, RelayUp, agent_service_client::AgentServiceClient, relay_up,
    },
    tls,
};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::rustls::ClientConfig;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Status, async_trait, transport::Channel};
use uuid::Uuid;

use crate::base::bulk::{AnyConnection, Connection, PIECES, Pieces};

/// How long a host may take to be connected to before it counts as out of reach: longer than two lost packets cost.
const DIAL: Duration = Duration::from_secs(5);
/// How long the coordinator may take to have the other agent open its end, for which it gives that ten seconds.
const OPEN: Duration = Duration::from_secs(20);

/// Whose data is fetched, from where, and what for.
#[derive(Debug, Clone)]
pub struct Route {
    pub operation: Uuid,
    pub tenant: TenantName,
    pub from: HostName,
    /// Where that host's agent serves others.
    pub address: Option<SocketAddr>,
}

/// A connection's way.
#[derive(Debug)]
pub struct Reached {
    pub channel: Channel,
    /// For people, when it goes through the coordinator: that it does, and why.
    pub detour: Option<String>,
}

/// Makes connections through the coordinator.
#[async_trait]
pub trait Relay: Send + Sync + 'static {
    async fn open(&self, route: &Route) -> Result<AnyConnection, String>;
}

/// What connections to other hosts are made with.
#[derive(Clone)]
pub struct Reach {
    /// The newest identity.
    pub tls: Arc<ArcSwap<ClientConfig>>,
    pub relay: Arc<dyn Relay>,
}

impl Reach {
    /// Connects; `Err` says why neither way leads there.
    pub async fn connect(&self, route: &Route) -> Result<Reached, String> {
        let (host, relay) = (&route.from, &self.relay);
        let why = match route.address {
            None => "it has told no address".to_owned(),
            Some(address) => match dial(address).await {
                Ok(tcp) => return self.greet(tcp, host, None).await,
                Err(e) => e.kind().to_string(),
            },
        };
        let far = format!("{host} cannot be reached from here ({why})");
        tracing::info!(tenant = %route.tenant, address = ?route.address, "through the coordinator: {far}");
        let relayed = relay.open(route).await;
        let relayed = relayed.map_err(|e| format!("{far}, and the coordinator: {e}"))?;
        let detour = format!("through the coordinator: {far}");
        self.greet(relayed, host, Some(detour)).await
    }

    /// Does TLS with the other agent, whichever way leads there.
    async fn greet(
        &self,
        connection: impl Connection + 'static,
        host: &HostName,
        detour: Option<String>,
    ) -> Result<Reached, String> {
        match tls::peer_over(connection, host, self.tls.load_full()).await {
            Ok(channel) => Ok(Reached { channel, detour }),
            Err(e) => {
                let way = detour.map(|way| format!("{way}: ")).unwrap_or_default();
                Err(format!("{way}host {host}: {}", tls::error_chain(&e)))
            }
        }
    }
}

/// Connects without the coordinator's help.
pub(super) async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = timeout(DIAL, TcpStream::connect(address)).await;
    let tcp = tcp.map_err(|_| io::ErrorKind::TimedOut)??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// The coordinator's own relay, each time over a connection of its own.
pub struct CoordinatorRelay {
    /// `host:port` of the coordinator.
    pub endpoint: String,
    /// The newest identity.
    pub tls: Arc<ArcSwap<ClientConfig>>,
}

#[async_trait]
impl Relay for CoordinatorRelay {
    async fn open(&self, route: &Route) -> Result<AnyConnection, String> {
        let channel = tls::bulk_channel(&self.endpoint, self.tls.clone());
        let mut client = AgentServiceClient::new(channel.map_err(|e| e.to_string())?);
        let (up, messages) = mpsc::channel(PIECES);
        let to = RelayTo {
            operation_id: route.operation.to_string(),
            tenant: route.tenant.to_string(),
            host: route.from.to_string(),
        };
        let first = relay_up::Message::To(to);
        let _ = up.try_send(RelayUp {
            message: Some(first),
        }); // empty, so it has room
        let opened = timeout(OPEN, client.relay(ReceiverStream::new(messages))).await;
        let opened = opened.map_err(|_| format!("no answer within {} s", OPEN.as_secs()))?;
        let down = opened.map_err(|status| told(&status))?.into_inner();
        let pieces = down.map(|message| match message {
            Ok(RelayDown { data }) => Ok(data),
            // As text: a status would be taken for the other agent's answer.
            Err(status) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                told(&status),
            )),
        });
        let message = |data| RelayUp {
            message: Some(relay_up::Message::Data(data)),
        };
        Ok(Box::new(Pieces::new(Box::pin(pieces), up, message, client)))
    }
}

/// What the coordinator's answer means.
fn told(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => "it is of a version that passes no connections on".to_owned(),
        Code::PermissionDenied => "no operation under way has this host fetch that".to_owned(),
        _ => {
            let text = tls::error_chain(status);
            text.chars().filter(|c| !c.is_control()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_knows_no_relay_is_named() {
        let unknown = told(&Status::unimplemented("no such method"));
        assert!(unknown.contains("version"), "{unknown}");
        let refused = told(&Status::permission_denied("not granted"));
        assert!(refused.contains("no operation"), "{refused}");
    }
}

//! The port of other hosts' agents: TLS 1.3 with the host's own certificate, for agents that the plan in force grants
//! something, and nobody else. Strangers hold a handshake's place for seconds and nothing more.
//!
//! Not here: the calls (service).

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use isyone_proto::{
    ids::HostName,
    pb::agent::v1::peer_service_server::PeerServiceServer,
    tls::{Identity, certificate_info},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;

use super::{
    CHUNK,
    admit::{PeerIdentity, may_connect, until_unexpected},
    io::PeerIo,
    service::Peers,
    shares::Shares,
};
use crate::{base::clock::now_ms, host::ledger::InForce};

/// Handshakes under way: more connections are closed at once, so that strangers cannot pile up. They have nothing of the
/// places of those who are known.
const HANDSHAKES: usize = 32;
/// Of these, from one network (an IPv4 address, an IPv6 /64): a host begins one or two at a time, and several may come from
/// one address.
const HANDSHAKES_PER_NETWORK: usize = 8;
/// Limit for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections altogether: with all windows full of data that nobody takes each holds 8 MiB, and more hosts than these
/// never copy from one at the same time.
const CONNECTIONS: usize = 128;
/// Connections of one host: it needs one, and one more while the certificate changes; more are refused.
const CONNECTIONS_PER_HOST: usize = 4;
/// Calls on one connection: a few copies at once and a few connections of one standby.
const CALLS_PER_CONNECTION: u32 = 16;
/// What the other side may send ahead on one call: some pieces for a database. All calls of a connection together may
/// have as much each, so that one that is stuck does not hold up the others.
const WINDOW_BYTES: u32 = 512 << 10;
/// The largest message that is taken: a piece of data and its frame.
const MAX_REQUEST_BYTES: usize = 2 * CHUNK;
/// Between attempts to listen: the address may come up after us.
const LISTEN_RETRY: Duration = Duration::from_secs(5);
/// Pause after an error of the machine, not the peer (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The port, not yet listening.
pub struct PeerPort {
    pub address: SocketAddr,
    /// The newest identity.
    pub tls: Arc<ArcSwap<ServerConfig>>,
    pub plans: watch::Receiver<InForce>,
    pub peers: Peers,
}

impl PeerPort {
    /// Serves until `stop`. A port that cannot be opened is tried again. That is not on the board, whose warnings close
    /// the host to new tenants: they do not need it.
    pub async fn run(self, stop: CancellationToken) {
        let mut told = false;
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => {
                    tracing::info!(address = %self.address, "other hosts' agents are served");
                    return self.serve(listener, stop).await;
                }
                Err(e) if !told => {
                    tracing::error!(
                        "{} cannot be listened on, so no other host fetches data here: {e}",
                        self.address
                    );
                    told = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LISTEN_RETRY) => {}
            }
        }
    }

    /// Serves the connections of a listener until `stop`, which also cuts them.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let (admitted, incoming) = mpsc::channel(1);
        let service =
            PeerServiceServer::new(self.peers.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
        let server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(CALLS_PER_CONNECTION)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(CALLS_PER_CONNECTION * WINDOW_BYTES)
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled());
        let (served, ()) = tokio::join!(server, self.accept(listener, admitted, &stop));
        if let Err(e) = served {
            tracing::error!("other hosts' agents are not served any more: {e}");
        }
    }

    async fn accept(
        &self,
        listener: TcpListener,
        admitted: mpsc::Sender<std::io::Result<PeerIo>>,
        stop: &CancellationToken,
    ) {
        let handshakes = Shares::new(HANDSHAKES, HANDSHAKES_PER_NETWORK);
        let places = Arc::new(Shares::new(CONNECTIONS, CONNECTIONS_PER_HOST));
        let tasks = TaskTracker::new();
        loop {
            let (tcp, from) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(e) => {
                        tracing::debug!("no connection accepted from another host: {e}");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let Ok(turn) = handshakes.take(network(from.ip())) else {
                continue; // closed at once
            };
            let (acceptor, plans) = (TlsAcceptor::from(self.tls.load_full()), self.plans.clone());
            let (admitted, places, stop) = (admitted.clone(), places.clone(), stop.clone());
            tasks.spawn(async move {
                let greeted = greet(acceptor, tcp, plans, &places, &stop);
                if let Ok(Some(connection)) = timeout(HANDSHAKE_TIMEOUT, greeted).await {
                    drop(turn);
                    let _ = admitted.send(Ok(connection)).await; // the server may have ended
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Does the handshake, and admits a host that something is granted to.
async fn greet(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    plans: watch::Receiver<InForce>,
    places: &Shares<HostName>,
    stop: &CancellationToken,
) -> Option<PeerIo> {
    tcp.set_nodelay(true).ok()?;
    let stream = acceptor.accept(tcp).await.ok()?;
    let shown = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let info = certificate_info(shown?).ok()?;
    let Identity::Agent(host) = info.identity else {
        tracing::warn!(peer = %info.identity, "refused: not an agent");
        return None;
    };
    let peer = Arc::new(PeerIdentity {
        host,
        not_after: info.not_after,
    });
    if !may_connect(&plans, &peer, now_ms()) {
        tracing::warn!(peer = %peer.host, "refused: nothing is granted to it here");
        return None;
    }
    let place = places.take(peer.host.clone());
    let place = place.inspect_err(
        |full| tracing::warn!(peer = %peer.host, "refused another connection: {full}"),
    );
    let place = place.ok()?;
    let unexpected = until_unexpected(plans, peer.clone());
    let stop = stop.clone();
    let cut = async move {
        tokio::select! { () = stop.cancelled_owned() => {}, () = unexpected => {} }
    };
    Some(PeerIo::new(stream, peer, cut, place))
}

/// Whose share of the handshakes it is: the address, or what one customer of a provider has of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_or_a_64() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3::4"), "2001:db8:1:2::");
    }
}

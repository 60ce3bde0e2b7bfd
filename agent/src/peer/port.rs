//! The port of other hosts' agents: TLS 1.3 with the host's own certificate, for agents that the plan in force grants
//! something, and nobody else. Strangers hold a handshake's place for seconds and nothing more. Connections that come
//! through the coordinator are no other than those that come to the port.
//!
//! Not here: the calls (service), how connections come through the coordinator (link).

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use isyone_proto::{
    ids::HostName,
    pb::agent::v1::peer_service_server::PeerServiceServer,
    places::Places,
    plan::MAX_STANDBYS_PER_HOST,
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
};
use crate::{
    base::{bulk::AnyConnection, clock::now_ms, shares::Shares},
    host::ledger::InForce,
};

/// Handshakes under way, shared between networks so that strangers from a few of them neither pile up nor keep a host out.
/// They have nothing of the places of those who are known.
const HANDSHAKES: usize = 128;
/// Of these, from one network (an IPv4 address, an IPv6 /48): a host begins one or two at a time, and several may come from
/// one address.
const HANDSHAKES_PER_NETWORK: usize = 16;
/// Handshakes of those who come through the coordinator, which lets in those of a few moves at once.
const HANDSHAKES_RELAYED: usize = 8;
/// Stands for the network that connections come from which come through the coordinator.
const RELAYED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// Limit for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections altogether: with all windows full of data that nobody takes each holds 8 MiB, and more hosts than these
/// never copy from one at the same time. Beside them, each standby has one for good.
const CONNECTIONS: usize = 128 + MAX_STANDBYS_PER_HOST;
/// Connections of one host: it needs one, and one more while the certificate changes; and one for each standby, all of which may be on one
/// host. More are refused.
const CONNECTIONS_PER_HOST: usize = 4 + MAX_STANDBYS_PER_HOST;
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
    /// Connections that come through the coordinator.
    pub relayed: mpsc::Receiver<AnyConnection>,
}

impl PeerPort {
    /// Serves until `stop`, which also cuts connections.
    pub async fn run(self, stop: CancellationToken) {
        self.serve_from(None, stop).await;
    }

    /// Likewise, with a listener that is there.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        self.serve_from(Some(listener), stop).await;
    }

    async fn serve_from(self, listener: Option<TcpListener>, stop: CancellationToken) {
        let Self {
            address,
            tls,
            plans,
            peers,
            relayed,
        } = self;
        let (admitted, incoming) = mpsc::channel(1);
        let service = PeerServiceServer::new(peers).max_decoding_message_size(MAX_REQUEST_BYTES);
        let server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(CALLS_PER_CONNECTION)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(CALLS_PER_CONNECTION * WINDOW_BYTES)
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled());
        let doors = Doors {
            address,
            listener,
            told: false,
            relayed,
        };
        let hall = Hall {
            tls,
            plans,
            admitted,
            places: Arc::new(Shares::new(CONNECTIONS, CONNECTIONS_PER_HOST)),
            stop: stop.clone(),
        };
        let (served, ()) = tokio::join!(server, hall.receive(doors));
        if let Err(e) = served {
            tracing::error!("other hosts' agents are not served any more: {e}");
        }
    }
}

/// Where connections come from.
struct Doors {
    address: SocketAddr,
    listener: Option<TcpListener>,
    /// That it cannot be listened on, in the log.
    told: bool,
    relayed: mpsc::Receiver<AnyConnection>,
}

impl Doors {
    /// The next connection, and whose share of the handshakes it takes: those that come through the coordinator have places of their own.
    async fn next(&mut self) -> (AnyConnection, IpAddr) {
        let Self {
            address,
            listener,
            told,
            relayed,
        } = self;
        tokio::select! {
            (tcp, from) = accepted(*address, listener, told) => (Box::new(tcp), from),
            Some(connection) = relayed.recv() => (connection, RELAYED),
        }
    }
}

/// The port's next connection. A port that cannot be opened is tried again. That is not on the board, whose warnings close
/// the host to new tenants: they do not need it.
async fn accepted(
    address: SocketAddr,
    listener: &mut Option<TcpListener>,
    told: &mut bool,
) -> (TcpStream, IpAddr) {
    loop {
        let Some(open) = listener else {
            match TcpListener::bind(address).await {
                Ok(open) => {
                    tracing::info!(%address, "other hosts' agents are served");
                    *listener = Some(open);
                }
                Err(e) => {
                    if !std::mem::replace(told, true) {
                        tracing::error!(
                            "{address} cannot be listened on, so no other host fetches data here directly: {e}"
                        );
                    }
                    sleep(LISTEN_RETRY).await;
                }
            }
            continue;
        };
        match open.accept().await {
            Ok((tcp, from)) if tcp.set_nodelay(true).is_ok() => return (tcp, from.ip()),
            Ok(_) => {} // it has gone already
            Err(e) => {
                tracing::debug!("no connection accepted from another host: {e}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Where those who have come wait to be admitted.
struct Hall {
    tls: Arc<ArcSwap<ServerConfig>>,
    plans: watch::Receiver<InForce>,
    admitted: mpsc::Sender<std::io::Result<PeerIo>>,
    places: Arc<Shares<HostName>>,
    stop: CancellationToken,
}

impl Hall {
    async fn receive(self, mut doors: Doors) {
        let handshakes = Arc::new(Places::new(HANDSHAKES, HANDSHAKES_PER_NETWORK));
        // Strangers reach the port; they do not reach this.
        let relayed = Arc::new(Places::new(HANDSHAKES_RELAYED, HANDSHAKES_RELAYED));
        let tasks = TaskTracker::new();
        while let Some((connection, from)) = self.stop.run_until_cancelled(doors.next()).await {
            let places = if from == RELAYED {
                &relayed
            } else {
                &handshakes
            };
            let Ok(turn) = places.enter(from) else {
                continue; // closed at once
            };
            let (acceptor, plans) = (TlsAcceptor::from(self.tls.load_full()), self.plans.clone());
            let (admitted, places) = (self.admitted.clone(), self.places.clone());
            let stop = self.stop.clone();
            tasks.spawn(async move {
                let greeted = greet(acceptor, connection, plans, &places, &stop);
                let greeted = async {
                    tokio::select! { greeted = greeted => greeted, () = turn.lost() => None }
                };
                let greeted = timeout(HANDSHAKE_TIMEOUT, greeted).await;
                if let Ok(Some(connection)) = greeted {
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
    connection: AnyConnection,
    plans: watch::Receiver<InForce>,
    places: &Shares<HostName>,
    stop: &CancellationToken,
) -> Option<PeerIo> {
    let stream = acceptor.accept(connection).await.ok()?;
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

//! The port that Prometheus scrapes: TLS 1.3 with the host's own certificate, for client certificates of monitors only,
//! GET only.
//!
//! A client that has a certificate of our CA but is not on the list gets a 403 instead of being cut off: that is what
//! an operator who has just set up a scraper needs to see. Strangers hold a handshake's place for seconds, shared between
//! their networks, and those who are not on the list have a few places of their own. Not here: the pages (scrape).

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use isyone_proto::{
    identity::Identity,
    places::{Place, Places},
    tls::CertificateInfo,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{scrape::Scraper, target::Target, text};
use crate::{
    base::{
        clock::now_ms,
        shares::{Full as NoPlace, Share, Shares},
    },
    host::monitors::Monitors,
};

/// Handshakes under way, and those of one network (an IPv4 address, an IPv6 /48): a Prometheus opens some dozen at once
/// when it starts.
const HANDSHAKES: (usize, usize) = (128, 32);
/// Connections of those who may scrape, and of one of them: two Prometheus servers keep a few dozen each.
const MONITORS: (usize, usize) = (256, 128);
/// The same of others with a certificate of the fleet's, who get a 403.
const OTHERS: (usize, usize) = (16, 4);
/// Limit for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for the next request: longer than the usual scrape interval, so that connections are reused.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// At this age a connection is closed, so that the scraper reconnects with the current certificates.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Limit for the answer in progress when a connection is to end.
const LAST_ANSWER: Duration = Duration::from_secs(20);
/// Between attempts to listen: the address may come up after us.
const LISTEN_RETRY: Duration = Duration::from_secs(5);
/// Pause after an error of the machine, not the peer (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// A request is a line and a few headers.
const MAX_HEAD: usize = 16 << 10;

/// Places of those whose handshake is done.
struct Rooms {
    monitors: Shares<Identity>,
    others: Shares<Identity>,
}

impl Rooms {
    fn take(&self, peer: &CertificateInfo, is_monitor: bool) -> Result<Share, NoPlace> {
        let room = if is_monitor {
            &self.monitors
        } else {
            &self.others
        };
        room.take(peer.identity.clone())
    }
}

/// The port, not yet listening.
pub struct ScrapePort {
    pub address: SocketAddr,
    /// The newest identity.
    pub tls: Arc<ArcSwap<ServerConfig>>,
    pub monitors: Arc<Monitors>,
    pub scraper: Arc<Scraper>,
}

impl ScrapePort {
    /// Serves until `stop`. A port that cannot be opened is a warning and tried again: tenants do not need it.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => {
                    self.scraper.host().board.set_warning("metrics", "");
                    tracing::info!(address = %self.address, "metrics are served");
                    return Arc::new(self).serve(listener, stop).await;
                }
                Err(e) => {
                    let warning = format!(
                        "{} cannot be listened on, so nothing is measured here: {e}",
                        self.address
                    );
                    self.scraper.host().board.set_warning("metrics", &warning);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LISTEN_RETRY) => {}
            }
        }
    }

    /// Serves the connections of a listener until `stop`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let handshakes = Arc::new(Places::new(HANDSHAKES.0, HANDSHAKES.1));
        let rooms = Arc::new(Rooms {
            monitors: Shares::new(MONITORS.0, MONITORS.1),
            others: Shares::new(OTHERS.0, OTHERS.1),
        });
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, from)) => {
                    let Ok(turn) = handshakes.enter(from.ip()) else {
                        continue; // closed at once
                    };
                    let (port, rooms, stop) = (self.clone(), rooms.clone(), stop.clone());
                    connections.spawn(async move {
                        let greeted = port.greet(tcp, &turn, &stop).await;
                        drop(turn);
                        let Some((stream, peer)) = greeted else {
                            return;
                        };
                        match rooms.take(&peer, port.monitors.allow(&peer)) {
                            Ok(place) => port.connection(stream, peer, place, stop).await,
                            Err(full) => {
                                tracing::warn!(peer = %peer.identity, "a connection for metrics was refused: {full}");
                            }
                        }
                    });
                }
                Err(e) => {
                    tracing::debug!("no connection accepted for metrics: {e}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }

    /// Does the handshake, for as long as the place is its own.
    async fn greet(
        &self,
        tcp: TcpStream,
        turn: &Place,
        stop: &CancellationToken,
    ) -> Option<(TlsStream<TcpStream>, CertificateInfo)> {
        let acceptor = TlsAcceptor::from(self.tls.load_full());
        let handshake = tokio::select! {
            () = stop.cancelled() => return None,
            () = turn.lost() => return None,
            handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)) => handshake,
        };
        let stream = handshake.ok()?.ok()?;
        let shown = stream.get_ref().1.peer_certificates();
        let shown = shown.and_then(|chain| chain.first())?;
        let peer = isyone_proto::tls::certificate_info(shown).ok()?;
        Some((stream, peer))
    }

    async fn connection(
        self: Arc<Self>,
        stream: TlsStream<TcpStream>,
        peer: CertificateInfo,
        _place: Share,
        stop: CancellationToken,
    ) {
        let peer = Arc::new(peer);
        let port = self;
        let service = service_fn(move |request| {
            let (port, peer) = (port.clone(), peer.clone());
            async move { Ok::<_, Infallible>(port.answer(&peer, &request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // Ignored: the scraper reports how it ended.
            _ = connection.as_mut() => return,
            () = stop.cancelled() => {}
            () = sleep(MAX_AGE) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER, connection).await;
    }

    async fn answer(
        &self,
        peer: &CertificateInfo,
        request: &Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        // Checked for each request: revoking a certificate takes effect here, not when its connection ends.
        if now_ms() / 1000 >= peer.not_after || !self.monitors.allow(peer) {
            let why = format!(
                "{} may not scrape this host: it takes an operator with role monitor\n",
                peer.identity
            );
            return respond(403, why.into());
        }
        if request.method() != Method::GET {
            return respond(405, Bytes::from_static(b"only GET\n"));
        }
        match Target::parse(request.uri().path()) {
            Some(target) => {
                let page = self.scraper.page(&target).await;
                respond(page.status, page.body)
            }
            None => respond(
                404,
                Bytes::from_static(
                    b"/metrics /containers /tenants/<tenant>/odoo /tenants/<tenant>/postgres\n",
                ),
            ),
        }
    }
}

fn respond(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::BAD_GATEWAY);
    let kind = hyper::header::HeaderValue::from_static(text::CONTENT_TYPE);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;

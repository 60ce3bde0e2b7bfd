//! Where edges connect: one listener for each address of the routes, and what is done with a connection.
//!
//! A listener that a predecessor handed over is used in place of a new one, so that nobody who knocks meanwhile is refused.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    lease,
    ledger::locked,
    limits::ms,
    line::{Line, LineRules, LineState},
    serve::{self, Door},
    tenant::{Host, Role, Tenant},
};

/// Connections that wait to be accepted: a burst of one edge.
const BACKLOG: u32 = 1_024;
/// After a failure to accept (no file handles), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// When a silent peer is asked whether it is still there, how often, and how many times: a dead edge is forgotten after two minutes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(20), 3);

/// Whose requests come in at an address.
pub(crate) type Owner = (Arc<Tenant>, Role);

/// All listeners.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    open: HashMap<SocketAddr, Open>,
    inherited: HashMap<SocketAddr, std::net::TcpListener>,
}

#[derive(Debug)]
struct Open {
    owner: Arc<Mutex<Owner>>,
    socket: std::net::TcpListener,
    stop: CancellationToken,
}

impl Listeners {
    /// With what a predecessor handed over.
    pub(crate) fn inherit(&mut self, sockets: Vec<std::net::TcpListener>) {
        let with_address = sockets.into_iter();
        let with_address =
            with_address.filter_map(|socket| Some((socket.local_addr().ok()?, socket)));
        self.inherited.extend(with_address);
    }

    /// Listens at these addresses and no others. What failed comes back; ask again later.
    pub(crate) fn set(
        &mut self,
        wanted: HashMap<SocketAddr, Owner>,
        host: &Arc<Host>,
    ) -> Vec<(SocketAddr, io::Error)> {
        self.open.retain(|address, open| {
            let stays = wanted.contains_key(address);
            if !stays {
                open.stop.cancel();
            }
            stays
        });
        let mut failed = Vec::new();
        for (address, owner) in wanted {
            if let Some(open) = self.open.get(&address) {
                *locked(&open.owner) = owner;
                continue;
            }
            let inherited = self.inherited.remove(&address);
            match inherited.map_or_else(|| bound(address), Ok) {
                Ok(socket) => match start(socket, owner, host) {
                    Ok(open) => drop(self.open.insert(address, open)),
                    Err(error) => failed.push((address, error)),
                },
                Err(error) => failed.push((address, error)),
            }
        }
        self.inherited.clear();
        failed
    }

    /// Accepts nobody any more. The sockets stay open until this is dropped.
    pub(crate) fn stop(&self) {
        for open in self.open.values() {
            open.stop.cancel();
        }
    }

    /// Closes the sockets.
    pub(crate) fn close(&mut self) {
        self.stop();
        self.open.clear();
    }

    /// The sockets, for a successor.
    pub(crate) fn sockets(&self) -> io::Result<Vec<std::net::TcpListener>> {
        self.open
            .values()
            .map(|open| open.socket.try_clone())
            .collect()
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bound(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

fn start(socket: std::net::TcpListener, owner: Owner, host: &Arc<Host>) -> io::Result<Open> {
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket.try_clone()?)?;
    let open = Open {
        owner: Arc::new(Mutex::new(owner)),
        socket,
        stop: CancellationToken::new(),
    };
    let accepting = accept(
        listener,
        Arc::clone(&open.owner),
        Arc::clone(host),
        open.stop.clone(),
    );
    tokio::spawn(accepting);
    Ok(open)
}

async fn accept(
    listener: TcpListener,
    owner: Arc<Mutex<Owner>>,
    host: Arc<Host>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (tenant, role) = locked(&owner).clone();
                connection(&host, stream, peer, tenant, role);
            }
            Err(error) => {
                host.own.accept_failures.one();
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn connection(
    host: &Arc<Host>,
    stream: TcpStream,
    peer: SocketAddr,
    tenant: Arc<Tenant>,
    role: Role,
) {
    let Ok(place) = host.connections.take_one(tenant.id) else {
        // Nothing is read of it: whoever floods a tenant's port costs nothing but this.
        tenant.figures.connections_refused.one();
        return;
    };
    keep_alive(&stream);
    let (host, line) = (Arc::clone(host), Arc::new(LineState::default()));
    let door = Arc::new(Door {
        tenant,
        role,
        peer: peer.ip(),
        line: Arc::clone(&line),
    });
    let tasks = host.tasks.clone();
    tasks.spawn(async move {
        let tenant = Arc::clone(&door.tenant);
        let limits = &tenant.current().route.limits;
        let rules = LineRules {
            head_wait: ms(host.limits().head_wait_ms),
            reader_pause: ms(limits.reader_pause_ms),
            reader_rate: limits.reader_rate_bytes,
            window: ms(limits.rate_window_ms),
        };
        let stream = Line::new(stream, Arc::clone(&line), rules);
        serve_connection(&host, stream, door).await;
        tokio::select! {
            () = line.linger() => {}
            () = host.killed.cancelled() => {}
        }
        if line.was_cut() {
            tenant.figures.readers_cut.one();
        }
        drop(place);
    });
}

async fn serve_connection(host: &Host, stream: Line, door: Arc<Door>) {
    let limits = host.limits();
    let bytes = usize::try_from(limits.head_bytes).unwrap_or(usize::MAX);
    let tenant = Arc::clone(&door.tenant);
    let lapse = tenant.bell.next();
    let service = service_fn(move |request| serve::serve(Arc::clone(&door), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper counts idle time as well: the head's own time is the line's matter.
        .header_read_timeout(ms(limits.idle_ms))
        .max_headers(usize::try_from(limits.headers).unwrap_or(usize::MAX))
        .max_header_size(bytes)
        // Twice a head: what a body brings is passed on piece by piece.
        .max_buf_size(bytes.saturating_mul(2).max(MIN_BUFFER))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = pin!(served);
    tokio::select! {
        _ = &mut served => return,
        () = host.killed.cancelled() => return,
        () = host.closing.cancelled() => {}
        () = tenant.gone.cancelled() => {}
        () = lapse.cancelled() => {}
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        _ = served => {}
        () = host.killed.cancelled() => {}
        () = async { lapse.cancelled().await; tokio::time::sleep(lease::CLOSING).await } => {}
    }
}

/// hyper's buffer for reading and writing; below that large bodies get slow.
const MIN_BUFFER: usize = 128 * 1024;

fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt;
    let (idle, every, times) = KEEPALIVE;
    // None of these can be refused by a socket that is open; if one were, nothing else would suffer.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, idle);
    let _ = sockopt::set_tcp_keepintvl(stream, every);
    let _ = sockopt::set_tcp_keepcnt(stream, times);
}

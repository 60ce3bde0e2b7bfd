//! A connection to the PostgreSQL of a tenant on another host: a unix socket here, bytes over the peers' TLS, and the
//! database's own unix socket there. Each direction ends by itself, waits for the other side to take what it has, and
//! gives up when that takes nothing for a while: no timeout of PostgreSQL's helps on a unix socket.
//!
//! Not here: whose database may be reached (service), who uses the socket.

use std::{io, path::Path, sync::Arc, time::Duration};

use isyone_proto::pb::agent::v1::{
    TunnelDown, TunnelUp, peer_service_client::PeerServiceClient, tunnel_down, tunnel_up,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, Streaming, transport::Channel};

use super::{CHUNK, Of, QUEUE};
use crate::base::{
    beneath::{RelPath, Root},
    fsutil::blocking,
    throttle::Meter,
};

/// Name of the socket, as PostgreSQL's clients expect it in a directory given as the host.
pub const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// Bytes that nobody takes for this long end the connection: a sender that is stuck holds its replication slot, and with
/// it the source's disk.
const STUCK: Duration = Duration::from_secs(10);
/// Connections through one socket: a base backup has two, a standby one, and a person may look.
const AT_ONCE: usize = 8;
/// How long the other side may take to reach its database.
const OPEN: Duration = Duration::from_secs(10);

/// A message that carries one end's bytes.
trait Carries: Sized {
    fn data(bytes: Vec<u8>) -> Self;
    fn eof() -> Self;
    fn part(self) -> Part;
}

enum Part {
    Data(Vec<u8>),
    Eof,
    Other,
}

impl Carries for TunnelUp {
    fn data(bytes: Vec<u8>) -> Self {
        Self {
            message: Some(tunnel_up::Message::Data(bytes)),
        }
    }
    fn eof() -> Self {
        Self {
            message: Some(tunnel_up::Message::Eof(true)),
        }
    }
    fn part(self) -> Part {
        match self.message {
            Some(tunnel_up::Message::Data(bytes)) => Part::Data(bytes),
            Some(tunnel_up::Message::Eof(_)) => Part::Eof,
            Some(tunnel_up::Message::Of(_)) | None => Part::Other,
        }
    }
}

impl Carries for TunnelDown {
    fn data(bytes: Vec<u8>) -> Self {
        Self {
            message: Some(tunnel_down::Message::Data(bytes)),
        }
    }
    fn eof() -> Self {
        Self {
            message: Some(tunnel_down::Message::Eof(true)),
        }
    }
    fn part(self) -> Part {
        match self.message {
            Some(tunnel_down::Message::Data(bytes)) => Part::Data(bytes),
            Some(tunnel_down::Message::Eof(_)) => Part::Eof,
            Some(tunnel_down::Message::Open(_)) | None => Part::Other,
        }
    }
}

fn stuck() -> Status {
    Status::deadline_exceeded("bytes were taken by nobody for too long")
}

fn broken(e: &io::Error) -> Status {
    Status::aborted(e.to_string())
}

/// From the socket to the other side; ends with the socket's end.
async fn out_of<M: Carries, T>(
    mut socket: OwnedReadHalf,
    out: mpsc::Sender<T>,
    wrap: impl Fn(M) -> T,
    meter: &Meter,
) -> Result<(), Status> {
    let send = async |message| match timeout(STUCK, out.send(wrap(message))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_gone)) => Err(Status::cancelled("the other side has gone")),
        Err(_) => Err(stuck()),
    };
    loop {
        let mut piece = Vec::with_capacity(CHUNK / 4);
        let read = socket.read_buf(&mut piece).await.map_err(|e| broken(&e))?;
        if read == 0 {
            return send(M::eof()).await;
        }
        meter.pass(read as u64).await;
        send(M::data(piece)).await?;
    }
}

/// From the other side to the socket; ends with its end.
async fn in_to<M: Carries>(
    mut from: Streaming<M>,
    mut socket: OwnedWriteHalf,
    meter: &Meter,
) -> Result<(), Status> {
    loop {
        let message = from.message().await?;
        let message = message.ok_or_else(|| Status::cancelled("the other side has gone"))?;
        match message.part() {
            Part::Data(bytes) => {
                meter.pass(bytes.len() as u64).await;
                timeout(STUCK, socket.write_all(&bytes))
                    .await
                    .map_err(|_| stuck())?
                    .map_err(|e| broken(&e))?;
            }
            Part::Eof => {
                let _ = socket.shutdown().await; // its own end may have come first
                return Ok(());
            }
            Part::Other => return Err(Status::invalid_argument("bytes were expected")),
        }
    }
}

/// The end at the database. `meter` is of what goes out.
pub(super) async fn exit(
    socket: UnixStream,
    meter: &Meter,
    up: Streaming<TunnelUp>,
    out: mpsc::Sender<Result<TunnelDown, Status>>,
) -> Result<(), Status> {
    let open = TunnelDown {
        message: Some(tunnel_down::Message::Open(true)),
    };
    if out.send(Ok(open)).await.is_err() {
        return Ok(());
    }
    let (read, write) = socket.into_split();
    let unmetered = Meter::default();
    tokio::try_join!(out_of(read, out, Ok, meter), in_to(up, write, &unmetered)).map(drop)
}

/// The end where the socket is, for one connection.
async fn enter(socket: UnixStream, channel: Channel, meter: &Meter, of: &Of) -> Result<(), Status> {
    let mut client = PeerServiceClient::new(channel).max_decoding_message_size(2 * CHUNK);
    let (up, messages) = mpsc::channel(QUEUE);
    let first = TunnelUp {
        message: Some(tunnel_up::Message::Of(of.to_wire())),
    };
    let _ = up.try_send(first); // empty, so it has room
    let opened = async {
        let mut down = client
            .tunnel(ReceiverStream::new(messages))
            .await?
            .into_inner();
        match down.message().await?.and_then(|m| m.message) {
            Some(tunnel_down::Message::Open(_)) => Ok(down),
            _ => Err(Status::aborted("the other side did not open")),
        }
    };
    let down = timeout(OPEN, opened).await.map_err(|_| stuck())??;
    let (read, write) = socket.into_split();
    let unmetered = Meter::default();
    let up = out_of(read, up, |message| message, &unmetered);
    tokio::try_join!(up, in_to(down, write, meter)).map(drop)
}

/// Serves the socket in `directory`, which only those may enter who may have the database, until `stop`. Connections
/// end with it. `meter` is of what comes in, through all of them.
pub async fn serve(
    directory: &Path,
    (channel, meter): (Channel, Arc<Meter>),
    of: Of,
    stop: CancellationToken,
) -> io::Result<()> {
    let place = directory.join(SOCKET_NAME);
    // Whoever may enter the directory may also lay something out in it.
    let below = directory.to_owned();
    let (root, socket) = blocking(move || {
        let name = RelPath::parse(SOCKET_NAME.as_bytes()).map_err(io::Error::other)?;
        let root = Root::open(&below)?;
        root.remove(&name)?; // an earlier life's, if there is one
        Ok((Arc::new(root), name))
    })
    .await?;
    let listener = UnixListener::bind(&place)?;
    // The directory decides who comes here: the container's user is not ours.
    let (held, made) = (root.clone(), socket.clone());
    blocking(move || held.open_to_all(&made)).await?;
    let (turns, of) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(of));
    let tasks = TaskTracker::new();
    let served = loop {
        let socket = tokio::select! {
            () = stop.cancelled() => break Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(e) => break Err(e),
            },
        };
        let Ok(turn) = turns.clone().try_acquire_owned() else {
            tracing::warn!(tenant = %of.tenant, "{AT_ONCE} connections to its far database are open");
            continue; // closed at once
        };
        let (channel, meter, of) = (channel.clone(), meter.clone(), of.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            if let Err(status) = enter(socket, channel, &meter, &of).await {
                let why = status.message().escape_debug();
                tracing::warn!(tenant = %of.tenant, "a connection to its far database ended: {why}");
            }
            drop(turn);
        }));
    };
    tasks.close();
    tasks.wait().await;
    let _ = blocking(move || root.remove(&socket)).await; // the next life removes it, too
    served
}

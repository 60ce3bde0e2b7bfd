//! The calls of other hosts' agents. Each is checked against the plan in force when it begins and while it lasts; who
//! has no grant learns nothing but that, our log has the reason.
//!
//! Not here: the checks (admit), the disk (source), the database (tunnel).

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{
        ListRequest, ListResponse, PeerTenant, PeerVolume, ReadRequest, ReadResponse,
        RenewLeasesRequest, RenewLeasesResponse, TunnelDown, TunnelUp,
        peer_service_server::PeerService, read_request, read_response, tunnel_up,
    },
    plan::{MAX_STANDBYS_PER_HOST, Role},
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{
    AHEAD, Databases, Of, QUEUE, STALL,
    admit::{Guard, PeerIdentity, Refusal, Wanted},
    renewals,
    source::{self, Roots, Want},
    tunnel,
};
use crate::{
    base::{
        beneath::{self, RelPath},
        fsutil::blocking,
        shares::{Share, Shares},
        throttle::{Meter, Throttle},
    },
    host::{Host, ledger::InForce},
    tenant::copies::{self, Copy},
};

/// Calls for files at work at the same time, all hosts together; each holds a thread and some buffers.
const CALLS: usize = 64;
/// Of these, of one host: two jobs that list and read, and the passes of its standbys, each of which takes a moment in a minute and comes
/// again when it is refused. So few, because data that nobody takes fills 8 MiB for each.
const CALLS_PER_HOST: usize = 16;
/// Connections to databases, of all hosts and of one, as that may have all standbys of this host's tenants: each follows, and is asked how
/// far it is; at its beginning there are two more. They hold buffers and no thread.
const TUNNELS: usize = 4 * MAX_STANDBYS_PER_HOST + 16;
/// How long the first message of a call may take.
const FIRST: Duration = Duration::from_secs(10);
/// How long the last word of a call may wait for a slow reader.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The service; clones are the same one.
#[derive(Clone)]
pub struct Peers {
    pub(super) host: Arc<Host>,
    pub(super) plans: watch::Receiver<InForce>,
    rate: Arc<Throttle>,
    turns: Arc<Shares<HostName>>,
    tunnels: Arc<Shares<HostName>>,
    /// Tenants whose follower has ended, as long as that may have left something.
    pub(super) watched: Arc<Mutex<Vec<Of>>>,
    pub(super) databases: Arc<dyn Databases>,
}

/// A volume on the wire.
pub fn volume_to_wire(role: Role) -> PeerVolume {
    match role {
        Role::Postgres => PeerVolume::Postgres,
        Role::Odoo => PeerVolume::Odoo,
    }
}

/// The volume that a message names, if it names one.
pub fn volume_of(wire: i32) -> Option<Role> {
    match PeerVolume::try_from(wire) {
        Ok(PeerVolume::Postgres) => Some(Role::Postgres),
        Ok(PeerVolume::Odoo) => Some(Role::Odoo),
        Ok(PeerVolume::Unspecified) | Err(_) => None,
    }
}

/// To whoever does not even say what for.
fn refused() -> Status {
    Refusal::NoGrant.to_status()
}

type Answer<T> = Result<Response<ReceiverStream<Result<T, Status>>>, Status>;
type Out<T> = mpsc::Sender<Result<T, Status>>;

impl Peers {
    /// `rate_bytes_per_s`: all that is read here for other hosts, together; 0: no limit.
    pub fn new(
        host: Arc<Host>,
        plans: watch::Receiver<InForce>,
        rate_bytes_per_s: u64,
        databases: Arc<dyn Databases>,
    ) -> Self {
        Self {
            host,
            plans,
            rate: Arc::new(Throttle::new(rate_bytes_per_s)),
            turns: Arc::new(Shares::new(CALLS, CALLS_PER_HOST)),
            tunnels: Arc::new(Shares::new(TUNNELS, TUNNELS)),
            watched: Arc::default(),
            databases,
        }
    }

    /// Admits a call, or says no.
    fn guard(
        &self,
        peer: Option<Arc<PeerIdentity>>,
        of: Option<Of>,
        wanted: Wanted,
    ) -> Result<(Guard, Share), Status> {
        // A connection without an identity cannot come through the port.
        let (Some(peer), Some(of)) = (peer, of) else {
            return Err(refused());
        };
        let guard = Guard::new(peer, of, wanted, self.plans.clone());
        guard.check().map_err(|why| tell(&guard, &why))?;
        let places = match wanted {
            Wanted::Database => &self.tunnels,
            Wanted::Files | Wanted::LiveFiles => &self.turns,
        };
        let turn = places.take(guard.peer.host.clone());
        let turn = turn.map_err(|full| {
            tracing::warn!(peer = %guard.peer.host, "refused another call: {full}");
            Status::resource_exhausted("too many calls at once")
        });
        Ok((guard, turn?))
    }

    /// The volumes of a copy that is stopped; of one that runs, as far as they may be read then.
    async fn roots(&self, guard: &Guard, wanted: Wanted) -> Result<Roots, Status> {
        let unready = |e: String| tell(guard, &Refusal::Unready(e));
        let plan = guard.tenant().map_err(|why| tell(guard, &why))?;
        let copy = copies::find(&self.host, &plan).await;
        match copy.map_err(|e| unready(e.to_string()))? {
            Copy::Complete(_) => {}
            Copy::Unrecorded => return Err(tell(guard, &Refusal::Unrecorded)),
            // One that was never promoted would start as a standby elsewhere, too, of a database that has gone.
            Copy::Incoming | Copy::Following | Copy::Followed(_) | Copy::Closed => {
                return Err(tell(guard, &Refusal::Incomplete));
            }
        }
        let tenant = &guard.of.tenant;
        let is_live = wanted == Wanted::LiveFiles;
        let up = copies::is_up(&self.host, tenant).await;
        if up.map_err(|e| unready(e.to_string()))? && !is_live {
            return Err(tell(guard, &Refusal::StillUp));
        }
        let refuse = |for_good: bool, why: String| {
            let refusal = if for_good {
                Refusal::Unfit
            } else {
                Refusal::Unready
            };
            tell(guard, &refusal(why))
        };
        let places = copies::places(&self.host, tenant, guard.of.uid)
            .await
            .map_err(|e| unready(e.to_string()))?
            .map_err(|why| refuse(why.is_for_good(), why.to_string()))?;
        let opened = blocking(move || Roots::open(&places, is_live)).await;
        opened.map_err(|e| {
            let why = format!("its volumes cannot be opened: {e}");
            refuse(beneath::is_for_good(&e), why)
        })
    }
}

/// Whose files are asked for, and which.
fn asked_of(wire: Option<&PeerTenant>) -> (Option<Of>, Wanted) {
    let wanted = match wire.is_some_and(|wire| wire.live) {
        true => Wanted::LiveFiles,
        false => Wanted::Files,
    };
    (Of::parse(wire), wanted)
}

/// Logs a refusal, and says what the peer hears of it.
fn tell(guard: &Guard, why: &Refusal) -> Status {
    tracing::warn!(peer = %guard.peer.host, tenant = %guard.of.tenant, "refused: {why}");
    why.to_status()
}

/// Works for as long as the guard holds, then says the last word.
async fn within<T>(mut guard: Guard, out: Out<T>, work: impl Future<Output = Result<(), Status>>) {
    let outcome = tokio::select! {
        biased;
        why = guard.lost() => Err(tell(&guard, &why)),
        () = out.closed() => return,
        done = work => done,
    };
    if let Err(status) = outcome {
        let _ = timeout(LAST_WORD, out.send(Err(status))).await; // it may read no more
    }
}

/// Passes messages on, each when the one before has been taken.
async fn pump<T>(
    mut from: mpsc::Receiver<Result<T, Status>>,
    out: &Out<T>,
    rate: &Throttle,
    bytes: impl Fn(&T) -> u64,
) -> Result<(), Status> {
    let stalled = || Status::deadline_exceeded("nothing moved for too long");
    loop {
        let message = timeout(STALL, from.recv()).await.map_err(|_| stalled())?;
        let Some(message) = message else {
            return Ok(());
        };
        let message = message?;
        rate.pass(bytes(&message)).await;
        let sent = timeout(STALL, out.send(Ok(message))).await;
        if sent.map_err(|_| stalled())?.is_err() {
            return Ok(()); // it has gone
        }
    }
}

/// Takes in which files are wanted, until the other side has asked for all.
async fn take_wants(
    mut asked: Streaming<ReadRequest>,
    wants: mpsc::Sender<Want>,
) -> Result<(), Status> {
    while let Some(message) = asked.message().await? {
        let Some(read_request::Message::File(file)) = message.message else {
            return Err(Status::invalid_argument("a file was expected"));
        };
        let path =
            RelPath::parse(&file.path).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let volume = volume_of(file.volume)
            .ok_or_else(|| Status::invalid_argument("a volume was expected"))?;
        let want = Want {
            volume,
            path,
            offset: file.offset,
            size: file.size,
        };
        if wants.send(want).await.is_err() {
            return Ok(()); // reading has failed, and says so itself
        }
    }
    Ok(())
}

#[async_trait]
impl PeerService for Peers {
    type ListStream = ReceiverStream<Result<ListResponse, Status>>;
    type ReadStream = ReceiverStream<Result<ReadResponse, Status>>;
    type TunnelStream = ReceiverStream<Result<TunnelDown, Status>>;

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListResponse> {
        let (of, wanted) = asked_of(request.get_ref().of.as_ref());
        let (guard, turn) = self.guard(peer_of(&request), of, wanted)?;
        let roots = self.roots(&guard, wanted).await?;
        let (out, answers) = mpsc::channel(QUEUE);
        let rate = self.rate.clone();
        tokio::spawn(async move {
            let (found, list) = mpsc::channel(QUEUE);
            let walk = tokio::task::spawn_blocking(move || source::list(&roots, &found));
            let work = pump(list, &out, &rate, |_| 0);
            within(guard, out.clone(), work).await;
            let _ = walk.await; // ends when nobody listens
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn read(&self, request: Request<Streaming<ReadRequest>>) -> Answer<ReadResponse> {
        let peer = peer_of(&request);
        let mut asked = request.into_inner();
        let first = timeout(FIRST, asked.message())
            .await
            .map_err(|_| refused())??;
        let (of, wanted) = match first.and_then(|m| m.message) {
            Some(read_request::Message::Of(of)) => asked_of(Some(&of)),
            _ => (None, Wanted::Files),
        };
        let (guard, turn) = self.guard(peer, of, wanted)?;
        let roots = self.roots(&guard, wanted).await?;
        let (out, answers) = mpsc::channel(QUEUE);
        let rate = self.rate.clone();
        tokio::spawn(async move {
            let (wants, mut wanted) = mpsc::channel(AHEAD);
            let (found, pieces) = mpsc::channel(QUEUE);
            let reader =
                tokio::task::spawn_blocking(move || source::read(&roots, &mut wanted, &found));
            let bytes = |message: &ReadResponse| match &message.message {
                Some(read_response::Message::Data(data)) => data.len() as u64,
                _ => 0,
            };
            let work = async {
                tokio::try_join!(take_wants(asked, wants), pump(pieces, &out, &rate, bytes))
                    .map(drop)
            };
            within(guard, out.clone(), work).await;
            let _ = reader.await; // ends when nobody asks or listens
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn renew_leases(
        &self,
        request: Request<RenewLeasesRequest>,
    ) -> Result<Response<RenewLeasesResponse>, Status> {
        let peer = peer_of(&request).ok_or_else(refused)?;
        let answer = renewals::answer(&self.host, &peer, &request.get_ref().tenants);
        answer.map(Response::new)
    }

    async fn tunnel(&self, request: Request<Streaming<TunnelUp>>) -> Answer<TunnelDown> {
        let peer = peer_of(&request);
        let mut up = request.into_inner();
        let first = timeout(FIRST, up.message())
            .await
            .map_err(|_| refused())??;
        let of = match first.and_then(|m| m.message) {
            Some(tunnel_up::Message::Of(of)) => Of::parse(Some(&of)),
            _ => None,
        };
        let (guard, turn) = self.guard(peer, of, Wanted::Database)?;
        let socket = self.databases.connect(&guard.of).await;
        let socket = socket.map_err(|e| tell(&guard, &Refusal::Unready(e.to_string())))?;
        let (out, answers) = mpsc::channel(QUEUE);
        let (of, service) = (guard.of.clone(), self.clone());
        let was_followed = self.is_followed(&of);
        let meter = Meter::new(vec![self.rate.clone()]);
        tokio::spawn(async move {
            within(guard, out.clone(), tunnel::exit(socket, &meter, up, out)).await;
            drop(turn);
            if was_followed {
                service.forget_follower(&of).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn peer_of<T>(request: &Request<T>) -> Option<Arc<PeerIdentity>> {
    request.extensions().get::<Arc<PeerIdentity>>().cloned()
}

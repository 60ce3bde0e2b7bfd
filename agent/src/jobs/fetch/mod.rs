//! Fetching a stopped copy of a tenant from another host: list, compare with what is here, read the rest, compare all
//! digests, look again whether the source is still what it was, and only then record that the copy is complete. Whatever
//! is cut off on the way is gone on with: files that are here are compared, not sent again.
//!
//! Not here: the source's end (peer), which copy may start (plan::diff).

mod manifest;
mod pace;
mod pass;
mod room;
mod source;
mod spool;
mod target;
mod words;

use std::{io, sync::Arc, time::Duration};

use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{PeerTenant, ReadFile, ReadRequest, ReadResponse, read_request, read_response},
    plan::{JobOrder, Role, TenantPlan},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tonic::{Streaming, async_trait, transport::Channel};

pub(super) use self::pass::Way;
pub use self::room::{Reserve, Room};
use self::{
    manifest::{Facts, Manifest},
    pace::{Came, Pace},
    source::{Source, other_end},
    target::{Asks, Differ, GiveUp, Piece, Target},
    words::{again, disk, skipped, stalled, told},
};
use super::{JobError, Progress, Work};
use crate::{
    base::fsutil::blocking,
    host::{Host, ledger::InForce},
    peer::{AHEAD, CHUNK, QUEUE, Reach, Route, WORKING_EVERY, volume_to_wire},
    plan::state::Database,
    tenant::copies::{self, Copy},
};

type Attempt<T> = Result<T, JobError>;

/// Fetches copies into this host's volumes.
pub struct Fetch {
    host: Arc<Host>,
    plans: watch::Receiver<InForce>,
    reach: Reach,
    reserve: Reserve,
}

#[async_trait]
impl Work for Fetch {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Attempt<()> {
        let (from, _) = other_end(order)?;
        let tenant = self.tenant(order)?;
        match copies::find(&self.host, &tenant).await.map_err(disk)? {
            Copy::Incoming => {}
            Copy::Following => {
                let why = "the copy here follows one that runs, and is not to be overwritten";
                return Err(JobError::Never(why.to_owned()));
            }
            Copy::Complete(Some(job)) if job == order.id => {
                // The agent ended before the job did, and with it what was noted.
                progress.note(self.left_behind(order, progress).await);
                return Ok(());
            }
            Copy::Complete(_) | Copy::Followed(_) => {
                let why = "the copy here is complete, and is never written again";
                return Err(JobError::Never(why.to_owned()));
            }
            Copy::Closed | Copy::Unrecorded => {
                return Err(self.closed(&tenant, "the volumes for it are not made yet"));
            }
        }
        let up = copies::is_up(&self.host, &order.tenant).await;
        if up.map_err(again)? {
            return Err(again("a container of it still runs here"));
        }
        let places = copies::places(&self.host, &order.tenant, order.uid).await;
        let places = places.map_err(again)?.map_err(|why| match &why {
            why if why.is_for_good() => JobError::Never(format!("on this host {why}")),
            why => self.closed(&tenant, &format!("on this host {why}")),
        })?;
        let target = Arc::new(
            blocking(move || Target::open(&places))
                .await
                .map_err(disk)?,
        );
        let _ended = GiveUp(target.clone());
        let mut source = self.source(order, progress).await?;
        let lists = self.host.data.jobs();
        let list = blocking(move || spool::Writer::new(&lists));
        let list = list.await.map_err(disk)?;
        let (manifest, end) = source.manifest(list).await?;
        if end.skipped > 0 {
            progress.note(skipped(&end));
        }
        let manifest = Arc::new(manifest);
        self.require_cluster(&tenant, from, &manifest.facts).await?;
        let copy = Incoming {
            tenant: &tenant,
            reserve: self.reserve,
            target,
            manifest,
        };
        copy.fill(&mut source, progress).await?;
        let (now, _list, _end) = source.list(None).await?;
        if now != copy.manifest.facts {
            return Err(again(format!(
                "the copy on host {from} has changed meanwhile"
            )));
        }
        let timeline = blocking(move || Ok(copy.target.timeline())).await;
        self.record(order, tenant, timeline.map_err(disk)?).await
    }
}

impl Fetch {
    pub fn new(
        host: Arc<Host>,
        plans: watch::Receiver<InForce>,
        reach: Reach,
        reserve: Reserve,
    ) -> Self {
        Self {
            host,
            plans,
            reach,
            reserve,
        }
    }

    pub(super) fn tenant(&self, order: &JobOrder) -> Attempt<TenantPlan> {
        let plan = self.plans.borrow().plan.clone();
        let tenant = plan.as_ref().and_then(|plan| {
            let named = |t: &&TenantPlan| t.name == order.tenant && t.uid == order.uid;
            plan.tenants.iter().find(named)
        });
        let none = || again("the plan does not name this tenant");
        tenant.cloned().ok_or_else(none)
    }

    /// Why the copy here cannot be filled: as the tenant's own loop says, where that waits for a person; else for now.
    fn closed(&self, tenant: &TenantPlan, why: &str) -> JobError {
        let status = self.host.board.get(&tenant.name);
        match status.filter(|status| status.blocked && status.is_about(tenant)) {
            Some(status) => JobError::Never(status.message.clone()),
            None => again(why),
        }
    }

    /// Refuses a copy without a database, on which PostgreSQL's image would begin a new one. A stand-in keeps no files; where
    /// its image is not here yet to tell, a volume without any file may be one's, and real images do not start on that either
    /// (plan::diff).
    async fn require_cluster(
        &self,
        tenant: &TenantPlan,
        from: &HostName,
        facts: &Facts,
    ) -> Attempt<()> {
        if facts.holds_cluster {
            return Ok(());
        }
        let (images, reference) = (&self.host.images, tenant.postgres_image.as_str());
        let image = images.facts(reference, Role::Postgres).await;
        let may_be_standin = match image.map_err(again)? {
            Some(image) => image.standin,
            None => !facts.has_postgres_files,
        };
        if may_be_standin {
            return Ok(());
        }
        Err(JobError::Never(format!(
            "the copy on host {from} has no PG_VERSION and global/pg_control: it is no database"
        )))
    }

    /// Connects to the host that has the copy, and shows which way that took.
    async fn source(&self, order: &JobOrder, progress: &Progress) -> Attempt<Source> {
        let (from, _) = other_end(order)?;
        let channel = self.connect(order, progress).await?;
        Ok(Source::over(channel, from, order))
    }

    /// A connection to the other host's agent.
    async fn connect(&self, order: &JobOrder, progress: &Progress) -> Attempt<Channel> {
        let (from, address) = other_end(order)?;
        let route = Route {
            operation: order.operation,
            tenant: order.tenant.clone(),
            from: from.clone(),
            address,
        };
        let reached = self.reach.connect(&route).await.map_err(again)?;
        if let Some(detour) = reached.detour {
            progress.tell(&detour);
        }
        Ok(reached.channel)
    }

    /// What a copy that is complete lacks of the source, in words; empty when nothing.
    async fn left_behind(&self, order: &JobOrder, progress: &Progress) -> String {
        let listed = async { self.source(order, progress).await?.list(None).await };
        match listed.await {
            Ok((_, _, end)) if end.skipped == 0 => String::new(),
            Ok((_, _, end)) => skipped(&end),
            Err(JobError::Again(why) | JobError::Never(why)) => {
                format!("whether links or sockets were not copied is not known any more: {why}")
            }
        }
    }

    /// The last step: from here on the copy is data, and may start.
    async fn record(
        &self,
        order: &JobOrder,
        tenant: TenantPlan,
        timeline: Option<u32>,
    ) -> Attempt<()> {
        let (host, id) = (self.host.clone(), order.id);
        let recorded = blocking(move || {
            let whole = Database::Ready { synced: true };
            copies::complete_as(&host, &tenant, id, (whole, timeline))
        });
        let recorded = recorded.await;
        if recorded.map_err(disk)? {
            return Ok(());
        }
        Err(again("the copy is not wanted any more"))
    }
}

/// A copy that is being filled.
struct Incoming<'a> {
    tenant: &'a TenantPlan,
    reserve: Reserve,
    target: Arc<Target>,
    manifest: Arc<Manifest>,
}

impl Incoming<'_> {
    /// Brings everything here, compared and on disk.
    async fn fill(&self, source: &mut Source, progress: &Progress) -> Attempt<()> {
        let asks = self.begin(progress).await?;
        let mut differ = self.read(source, asks, progress).await?;
        if differ.asks.list.count > 0 {
            // What was here already may be another file's beginning, or a power loss's: once more, from nothing.
            progress.discard(differ.bytes);
            differ = self.read(source, differ.asks, progress).await?;
        }
        if differ.asks.list.count > 0 {
            return Err(again(format!(
                "{} files came with another content than host {} has: {}",
                differ.asks.list.count,
                source.from,
                differ.examples.join(", ")
            )));
        }
        let (target, manifest) = (self.target.clone(), self.manifest.clone());
        blocking(move || target.finish(&manifest))
            .await
            .map_err(disk)
    }

    /// Looks at what is here, and whether the rest fits.
    async fn begin(&self, progress: &Progress) -> Attempt<Asks> {
        let room = Room {
            copy: self.manifest.facts.bytes,
            here: u64::MAX,
            size: self.tenant.size.disk_bytes,
            free: u64::MAX,
            total: 0,
            reserve: self.reserve,
        };
        room.check().map_err(JobError::Never)?; // before anything here is touched
        let (target, manifest) = (self.target.clone(), self.manifest.clone());
        let prepared = blocking(move || {
            let asks = target.prepare(&manifest)?;
            Ok((asks, target.space()?))
        });
        let (asks, (free, total)) = prepared.await.map_err(disk)?;
        let room = Room {
            here: asks.here,
            free,
            total,
            ..room
        };
        room.check().map_err(JobError::Never)?;
        progress.begin(asks.here, self.manifest.facts.bytes);
        Ok(asks)
    }

    /// Asks for files and writes them; returns those that differ.
    async fn read(&self, source: &mut Source, asks: Asks, progress: &Progress) -> Attempt<Differ> {
        let pace = Pace::of_files(asks.list.count, asks.here, WORKING_EVERY);
        let (ask, asked) = mpsc::channel(AHEAD);
        let (come, mut pieces) = mpsc::channel(QUEUE);
        let (of, list) = (source.asked_of(), asks.list.read());
        let asker = blocking(move || ask_all(of, list, &ask));
        let target = self.target.clone();
        let writer = blocking(move || target.write(&asks, &mut pieces));
        let receive = async {
            let answers = source.read(asked).await?;
            receive(answers, come, progress, pace, &source.from).await
        };
        let (asked, received, written) = tokio::join!(asker, receive, writer);
        asked.map_err(disk)?;
        match (received, written) {
            (_, Ok(differ)) => Ok(differ),
            (Err(why), Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Err(why),
            (Ok(()), Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(again(format!("host {} ended the call early", source.from)))
            }
            (_, Err(e)) => Err(disk(e)),
        }
    }
}

/// Asks for all files of a list. Blocking.
fn ask_all(of: PeerTenant, list: spool::Reader, ask: &mpsc::Sender<ReadRequest>) -> io::Result<()> {
    let send = |message| {
        let message = ReadRequest {
            message: Some(message),
        };
        ask.blocking_send(message).is_ok()
    };
    let mut listens = send(read_request::Message::Of(of));
    for file in list {
        if !listens {
            break; // the call has ended, and says why itself
        }
        let spool::Ask { entry, offset, .. } = file?;
        listens = send(read_request::Message::File(ReadFile {
            volume: volume_to_wire(entry.volume).into(),
            path: entry.path.bytes().to_vec(),
            offset,
            size: entry.size.unwrap_or(0),
        }));
    }
    Ok(())
}

/// The next message of a call, and how long it took.
async fn next<T>(
    answers: &mut Streaming<T>,
    pace: &Pace,
    from: &HostName,
) -> Attempt<(Option<T>, Duration)> {
    let since = Instant::now();
    let answer = timeout(pace.left(), answers.message()).await;
    let answer = answer.map_err(|_| stalled(from))?;
    let answer = answer.map_err(|status| told(from, &status))?;
    Ok((answer, since.elapsed()))
}

/// Passes on what comes, no faster than it is written and than the job may.
async fn receive(
    mut answers: Streaming<ReadResponse>,
    come: mpsc::Sender<Piece>,
    progress: &Progress,
    mut pace: Pace,
    from: &HostName,
) -> Attempt<()> {
    loop {
        let (answer, after) = next(&mut answers, &pace, from).await?;
        let Some(answer) = answer else {
            return Ok(());
        };
        pace.came(
            after,
            match &answer.message {
                Some(read_response::Message::Data(data)) => Came::Bytes(data.len()),
                Some(read_response::Message::Sha256(_) | read_response::Message::Gone(_)) => {
                    Came::Entries(1)
                }
                Some(read_response::Message::Working(_)) | None => Came::Working,
            },
        );
        let piece = match answer.message {
            Some(read_response::Message::Data(data)) if data.len() <= CHUNK => {
                progress.received(data.len() as u64).await;
                Piece::Data(data)
            }
            Some(read_response::Message::Sha256(digest)) => Piece::Sha256(digest),
            Some(read_response::Message::Gone(_)) => Piece::Gone,
            Some(read_response::Message::Working(_)) => continue,
            Some(read_response::Message::Data(_)) | None => {
                return Err(again(format!("host {from} sent what was not asked for")));
            }
        };
        if come.send(piece).await.is_err() {
            return Ok(()); // writing has failed, and says so itself
        }
    }
}

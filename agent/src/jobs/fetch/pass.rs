//! What keeping a copy up needs of its source: the files of an Odoo that runs, again and again, and single files of a database that has
//! stopped.
//!
//! Not here: when (jobs::follow), the database while it runs.

use std::{sync::Arc, time::Duration};

use isyone_proto::{
    pb::agent::v1::{ReadFile, ReadRequest, read_request, read_response},
    plan::{JobOrder, Role, TenantPlan},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tonic::transport::Channel;

use super::{
    Attempt, Fetch, Incoming, Source, next, other_end,
    pace::{Came, Pace},
    room::Room,
    spool,
    target::{GiveUp, Target},
    words::{again, disk, skipped, told},
};
use crate::{
    base::{
        beneath::{RelPath, Root},
        fsutil::blocking,
    },
    jobs::{JobError, Progress},
    peer::{AHEAD, volume_to_wire},
    tenant::copies,
};

/// Between looks at the room for what comes by itself.
const LOOK: Duration = Duration::from_secs(1);

/// One pass over all files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    /// How long it took.
    pub(crate) took: Duration,
    /// Files that were gone, or other ones, when they were asked for.
    pub(crate) gone: u64,
    /// What is neither a file nor a directory and did not come along, in words; empty when nothing.
    pub(crate) skipped: String,
}

/// The way to a copy's source, for as long as one attempt lasts.
pub(crate) struct Way<'a> {
    fetch: &'a Fetch,
    order: &'a JobOrder,
    progress: &'a Progress,
    /// The connection, which others use as well.
    pub(crate) channel: Channel,
}

impl<'a> Way<'a> {
    /// Connects.
    pub(crate) async fn open(
        fetch: &'a Fetch,
        order: &'a JobOrder,
        progress: &'a Progress,
    ) -> Attempt<Self> {
        Ok(Self {
            fetch,
            order,
            progress,
            channel: fetch.connect(order, progress).await?,
        })
    }

    /// The tenant as the plan in force has it.
    pub(crate) fn tenant(&self) -> Attempt<TenantPlan> {
        self.fetch.tenant(self.order)
    }

    fn source(&self, is_live: bool) -> Attempt<Source> {
        let (from, _) = other_end(self.order)?;
        let mut source = Source::over(self.channel.clone(), from, self.order);
        source.is_live = is_live;
        Ok(source)
    }

    /// What the volume of its database has room for.
    async fn room(&self, copy: u64) -> Attempt<Room> {
        let (tenant, order) = (self.tenant()?, self.order);
        let places = copies::places(&self.fetch.host, &order.tenant, order.uid).await;
        let places = places
            .map_err(again)?
            .map_err(|why| again(format!("on this host {why}")))?;
        let space = blocking(move || Root::open(&places.postgres)?.space()).await;
        let (free, total) = space.map_err(disk)?;
        Ok(Room {
            copy,
            here: 0,
            size: tenant.size.disk_bytes,
            free,
            total,
            reserve: self.fetch.reserve,
        })
    }

    /// Refuses a database of so many bytes that does not fit here, before any of it comes.
    pub(crate) async fn check_room(&self, bytes: u64) -> Attempt<()> {
        let room = self.room(bytes).await?;
        room.check().map_err(JobError::Never)
    }

    /// Ends when what comes by itself is more than a tenant of this size may have, or leaves too little room. `bytes`: what came so far.
    pub(crate) async fn is_out_of_room(&self, bytes: impl Fn() -> u64) -> JobError {
        loop {
            sleep(LOOK).await;
            match self.room(bytes()).await.map(|room| room.check_meanwhile()) {
                Ok(Err(why)) => return JobError::Never(why),
                Ok(Ok(())) => {}
                // Whoever works in the volume hears of it as well.
                Err(JobError::Again(why) | JobError::Never(why)) => {
                    tracing::warn!(tenant = %self.order.tenant, "the room for its copy is not known: {why}");
                }
            }
        }
    }

    /// Brings the files that have changed since the last time, and takes away what is gone.
    pub(crate) async fn pass(&self) -> Attempt<Passed> {
        let (begin, order) = (Instant::now(), self.order);
        let tenant = self.tenant()?;
        let host = &self.fetch.host;
        let places = copies::places(host, &order.tenant, order.uid).await;
        let places = places
            .map_err(again)?
            .map_err(|why| again(format!("on this host {why}")))?;
        let target = blocking(move || Target::open_beside(&places)).await;
        let target = Arc::new(target.map_err(disk)?);
        let _ended = GiveUp(target.clone());
        let mut source = self.source(true)?;
        let lists = host.data.jobs();
        let list = blocking(move || spool::Writer::new(&lists)).await;
        let (manifest, end) = source.manifest(list.map_err(disk)?).await?;
        let copy = Incoming {
            tenant: &tenant,
            reserve: self.fetch.reserve,
            target: target.clone(),
            manifest: Arc::new(manifest),
        };
        copy.fill(&mut source, self.progress).await?;
        Ok(Passed {
            took: begin.elapsed(),
            gone: target.gone(),
            skipped: if end.skipped == 0 {
                String::new()
            } else {
                skipped(&end)
            },
        })
    }

    /// The content of small files of the database, all of `size` bytes, in their order. It must have stopped.
    pub(crate) async fn database_files(
        &self,
        paths: &[RelPath],
        size: u64,
    ) -> Attempt<Vec<Vec<u8>>> {
        let mut source = self.source(false)?;
        let (ask, asked) = mpsc::channel(AHEAD);
        let messages = std::iter::once(read_request::Message::Of(source.asked_of()));
        let files = paths.iter().map(|path| {
            read_request::Message::File(ReadFile {
                volume: volume_to_wire(Role::Postgres).into(),
                path: path.bytes().to_vec(),
                offset: 0,
                size,
            })
        });
        let messages: Vec<_> = messages.chain(files).collect();
        let asking = async {
            for message in messages {
                let message = Some(message);
                if ask.send(ReadRequest { message }).await.is_err() {
                    break; // the call has ended, and says why itself
                }
            }
            drop(ask);
        };
        let reading = async {
            let answers = source.read(asked).await?;
            take_in(answers, paths.len(), size, &source).await
        };
        let ((), read) = tokio::join!(asking, reading);
        read
    }
}

/// Takes in so many files, none larger than it should be.
async fn take_in(
    mut answers: tonic::Streaming<isyone_proto::pb::agent::v1::ReadResponse>,
    count: usize,
    size: u64,
    source: &Source,
) -> Attempt<Vec<Vec<u8>>> {
    let mut pace = Pace::of_files(count as u64, 0, 1);
    let (mut files, mut file) = (Vec::with_capacity(count), Vec::new());
    while files.len() < count {
        let (answer, after) = next(&mut answers, &pace, &source.from).await?;
        let message = answer.and_then(|answer| answer.message);
        match message {
            Some(read_response::Message::Data(data))
                if (file.len() + data.len()) as u64 <= size =>
            {
                pace.came(after, Came::Bytes(data.len()));
                file.extend_from_slice(&data);
            }
            Some(read_response::Message::Sha256(_)) => {
                pace.came(after, Came::Entries(1));
                files.push(std::mem::take(&mut file));
            }
            Some(read_response::Message::Working(_)) => pace.came(after, Came::Working),
            _ => {
                let why = tonic::Status::aborted("it sent what was not asked for");
                return Err(told(&source.from, &why));
            }
        }
    }
    Ok(files)
}

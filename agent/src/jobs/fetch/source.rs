//! The host that has the copy: asking it for lists and for files.
//!
//! Not here: what is done with them (the parent), the other end (peer).

use std::net::SocketAddr;

use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{
        ListEnd, ListRequest, PeerTenant, ReadRequest, ReadResponse,
        peer_service_client::PeerServiceClient,
    },
    plan::{JobOrder, JobWork},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    Attempt,
    manifest::{Builder, Facts, Manifest},
    next,
    pace::{Came, Pace},
    spool,
    words::{again, disk, skipped, stalled, told},
};
use crate::{
    base::fsutil::blocking,
    jobs::JobError,
    peer::{Of, STALL},
};

/// The largest message that is taken: 500 entries with the longest paths.
const MAX_MESSAGE_BYTES: usize = 2 << 20;

type Client = PeerServiceClient<Channel>;

/// The host that has the copy, and where its agent is.
pub(super) fn other_end(order: &JobOrder) -> Attempt<(&HostName, Option<SocketAddr>)> {
    match &order.work {
        JobWork::Fetch { from, address } | JobWork::Follow { from, address, .. } => {
            Ok((from, *address))
        }
        JobWork::Backup(_) | JobWork::Restore(_) | JobWork::Verify(_) => {
            Err(JobError::Never("no order to copy".to_owned()))
        }
    }
}

/// The host that has the copy.
pub(super) struct Source {
    client: Client,
    pub(super) from: HostName,
    of: Of,
    /// Its files may change, and those of its database are not asked for.
    pub(super) is_live: bool,
}

impl Source {
    pub(super) fn over(channel: Channel, from: &HostName, order: &JobOrder) -> Self {
        Self {
            client: Client::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
            from: from.clone(),
            of: Of {
                tenant: order.tenant.clone(),
                uid: order.uid,
            },
            is_live: false,
        }
    }

    pub(super) fn asked_of(&self) -> PeerTenant {
        PeerTenant {
            live: self.is_live,
            ..self.of.to_wire()
        }
    }

    /// Asks for the list of the copy, checks it, and keeps it in `into`.
    pub(super) async fn manifest(&mut self, into: spool::Writer) -> Attempt<(Manifest, ListEnd)> {
        let (facts, list, end) = self.list(Some(into)).await?;
        let list = list.ok_or_else(|| again("the list was not kept"))?;
        let list = blocking(move || list.finish()).await.map_err(disk)?;
        Ok((Manifest { facts, list }, end))
    }

    /// Asks for the list of the copy, and checks it.
    pub(super) async fn list(
        &mut self,
        mut into: Option<spool::Writer>,
    ) -> Attempt<(Facts, Option<spool::Writer>, ListEnd)> {
        let from = self.from.clone();
        let request = ListRequest {
            of: Some(self.asked_of()),
        };
        let opened = timeout(STALL, self.client.list(request)).await;
        let opened = opened.map_err(|_| stalled(&from))?;
        let mut answers = opened.map_err(|status| told(&from, &status))?.into_inner();
        let tenant = &self.of.tenant;
        let refuse =
            |why: String| JobError::Never(format!("the list of {tenant} on host {from}: {why}"));
        let builder = match self.is_live {
            true => Builder::of_odoo(),
            false => Builder::default(),
        };
        let (mut builder, mut pace) = (builder, Pace::of_list());
        loop {
            let (answer, after) = next(&mut answers, &pace, &from).await?;
            let answer =
                answer.ok_or_else(|| again(format!("the list of host {from} was cut off")))?;
            pace.came(after, Came::Entries(answer.entries.len()));
            for entry in &answer.entries {
                let entry = builder.add(entry).map_err(refuse)?;
                if let Some(list) = &mut into {
                    // Into memory; a full buffer goes to the disk's cache.
                    list.add(&spool::Ask::whole(entry)).map_err(disk)?;
                }
            }
            if let Some(end) = answer.end {
                self.tell_of_skipped(&end);
                return Ok((builder.finish().map_err(refuse)?, into, end));
            }
        }
    }

    fn tell_of_skipped(&self, end: &ListEnd) {
        if end.skipped > 0 {
            tracing::warn!(tenant = %self.of.tenant, "{}", skipped(end));
        }
    }

    /// Asks for files' content; the answers come in the same order.
    pub(super) async fn read(
        &mut self,
        asked: mpsc::Receiver<ReadRequest>,
    ) -> Attempt<Streaming<ReadResponse>> {
        let answers = timeout(STALL, self.client.read(ReceiverStream::new(asked))).await;
        let answers = answers.map_err(|_| stalled(&self.from))?;
        Ok(answers
            .map_err(|status| told(&self.from, &status))?
            .into_inner())
    }
}

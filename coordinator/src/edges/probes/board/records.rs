//! What the board keeps of each tenant and edge, and how a probe counts among an edge's answers.
//!
//! Not here: the lock around it, and what is reported (mod.rs).

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use isyone_fleet::{
    desired::Tenant,
    liveness::HostState,
    probes::{
        answers::{self, Answers},
        judge::{self, Behind, Counts, Judgement, Probe, Told, Window},
    },
    settings::Settings,
    state::State,
};
use isyone_proto::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};
use uuid::Uuid;

use super::{EdgeSeen, TenantNews};

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) tenants: HashMap<TenantName, Record>,
    pub(super) edges: BTreeMap<SocketAddr, EdgeRecord>,
    pub(super) news: Vec<TenantNews>,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) uid: Uuid,
    /// The shard whose edges it is probed through. Cached: computing it looks at every shard, and pages need it for
    /// every tenant.
    pub(super) shard: Option<usize>,
    pub(super) probe: Arc<Probe>,
    pub(super) told: Told,
    pub(super) counted: Option<Counted>,
}

/// A tenant's share in an edge's answers.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) edge: SocketAddr,
    pub(super) host: HostName,
    pub(super) wrong: bool,
}

#[derive(Debug, Default)]
pub(super) struct EdgeRecord {
    pub(super) window: Window,
    pub(super) answers: Answers,
    pub(super) told_down: bool,
    pub(super) told_host: Option<HostName>,
}

impl EdgeRecord {
    pub(super) fn seen(&self, address: SocketAddr, counts: Counts, view: &Moment<'_>) -> EdgeSeen {
        EdgeSeen {
            address,
            counts,
            wrong: self.answers.blame_edge(|host| view.is_ready(host)),
        }
    }
}

impl Inner {
    /// Replaces what counts for a tenant.
    pub(super) fn count(&mut self, tenant: &Tenant, probe: &Probe) -> Option<Counted> {
        let before = self
            .tenants
            .get_mut(&tenant.name)
            .and_then(|record| record.counted.take());
        uncount(&mut self.edges, before);
        let (host, edge) = (tenant.placement.host.clone(), probe.edge);
        let wrong = answers::is_wrong(probe)?;
        self.edges
            .entry(edge)
            .or_default()
            .answers
            .add(&host, wrong);
        Some(Counted { edge, host, wrong })
    }
}

pub(super) fn uncount(edges: &mut BTreeMap<SocketAddr, EdgeRecord>, counted: Option<Counted>) {
    let Some(Counted { edge, host, wrong }) = counted else {
        return;
    };
    if let Some(record) = edges.get_mut(&edge) {
        record.answers.remove(&host, wrong);
    }
}

/// What is known of the hosts at one moment.
pub(super) struct Moment<'a> {
    pub(super) state: &'a State,
    pub(super) settings: &'a Settings,
    pub(super) now: UnixMs,
}

impl Moment<'_> {
    pub(super) fn host(&self, name: &HostName) -> HostState {
        self.state
            .host_state(&self.settings.liveness, name, self.now)
            .0
    }

    pub(super) fn is_ready(&self, name: &HostName) -> bool {
        self.host(name) == HostState::Ready
    }

    pub(super) fn judge(
        &self,
        tenant: &Tenant,
        probe: &Probe,
        counts: Counts,
        answers: Option<&Answers>,
    ) -> Judgement {
        let host = &tenant.placement.host;
        judge::judge(probe, counts, self.host(host), || match answers {
            Some(answers) if answers.blame_edge(|host| self.is_ready(host)).is_some() => {
                Behind::Edge
            }
            Some(answers) if answers.blames(host) => Behind::Host,
            _ => Behind::Tenant,
        })
    }
}

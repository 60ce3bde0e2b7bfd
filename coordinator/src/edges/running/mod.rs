//! Which edges poll their configuration, and how far they are, so that an operation is reported as done when visitors
//! get through, not a second earlier. Edges poll the configuration of everything or of their shard; we wait only for
//! those that serve the operation's tenant.
//!
//! That an edge was given a configuration says little, because Traefik builds its routes when it gets round to it. So
//! we ask the edge what it runs (ask); one that cannot be asked gets a time that is usually enough.
//!
//! What all edges run is told to the core (routes), which lets operations go on. Waiting is bounded in time, and without
//! effect where edges take files or none polls. Operators see the same knowledge, and an edge that does not take up
//! what it is given causes an event (watch).
//! Not here: the configuration (edges/publish), serving it (ports/http), how an edge is judged (isyone_fleet::edge).

mod ask;
pub(crate) mod collector;
pub(crate) mod routes;
pub mod watch;

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream};
use imbl::OrdMap;
use isyone_fleet::edge::{Edge, Runs, Versions};
pub use isyone_fleet::edge::{EdgeSeen, EdgeState};
use isyone_traefik::Rejected;
use tokio::sync::watch as channel;

use self::ask::Ask;
use crate::base::clock;

/// Most edges that we remember; more addresses than a fleet has edges.
const MAX_EDGES: usize = 1024;
/// Longest wait for edges. A slower one gets there without us waiting.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions to the same edge.
const AGAIN: Duration = Duration::from_millis(20);
/// How long we do not ask an edge again that could not be asked: it is behind a firewall, or does not answer on that
/// port.
const MUTE: Duration = Duration::from_secs(10);
/// Most edges asked at the same time when we ask all; with the maximum number of edges, none of which answers, that
/// takes half a minute.
const LOOKS: usize = 32;
/// From an edge's request to its new routes, when it cannot be asked: Traefik's throttle, and reading the document.
const TAKE_UP: Duration = Duration::from_millis(100);
/// The additional time to build the routes, for each tenant in the document: Traefik rebuilds all of them.
const TAKE_UP_PER_TENANT: Duration = Duration::from_micros(250);

/// What a look at a snapshot did to one scope's configuration. Scopes are those of `edges/publish`: 0 is everything, `n
/// + 1` is shard `n`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScopeProgress {
    /// The new version, if the configuration changed.
    pub changed: Option<String>,
    /// The configuration will change: it lacks changes of this snapshot.
    pub pending: bool,
    /// Tenants in it.
    pub tenants: u64,
}

/// How far a scope's publication has come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Publication {
    /// The newest snapshot whose changes are all in it.
    version: u64,
    /// Number of changes of the document.
    revision: u64,
    tenants: u64,
}

/// Routes that we leave out because Traefik would refuse them, by tenant; has no empty lists.
pub type LeftOut = OrdMap<String, Vec<Rejected>>;

/// A known edge, and the lock for asking it.
#[derive(Debug, Clone)]
struct Known {
    edge: Edge,
    /// One question at a time: a single answer serves all who wait for the same edge.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The edges that poll their configuration, and how far each scope and each edge is.
#[derive(Debug)]
pub struct Edges {
    edges: Mutex<HashMap<(IpAddr, usize), Known>>,
    /// The publication of each scope.
    published: channel::Sender<Vec<Publication>>,
    /// The past versions of each scope.
    versions: Mutex<Vec<Versions>>,
    asked: channel::Sender<()>,
    left_out: ArcSwap<LeftOut>,
    /// What the last round of questions to all edges found.
    looked: ArcSwap<Vec<EdgeSeen>>,
    ask: Ask,
}

impl Edges {
    /// For edges that answer on this port what they run.
    pub fn on(port: u16) -> Self {
        Self::new(Ask::on(port))
    }

    fn new(ask: Ask) -> Self {
        Self {
            edges: Mutex::default(),
            published: channel::Sender::default(),
            versions: Mutex::default(),
            asked: channel::Sender::default(),
            left_out: ArcSwap::default(),
            looked: ArcSwap::default(),
            ask,
        }
    }

    /// Records that the documents now show snapshot `version`, each scope as far as `progress` says.
    pub fn published(&self, version: u64, progress: &[ScopeProgress]) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.resize_with(progress.len(), Versions::default);
        let now = clock::monotonic();
        self.published.send_modify(|scopes| {
            scopes.resize(progress.len(), Publication::default());
            for ((scope, versions), progress) in scopes.iter_mut().zip(&mut *versions).zip(progress)
            {
                if let Some(changed) = &progress.changed {
                    scope.revision += 1;
                    scope.tenants = progress.tenants;
                    versions.push(changed, scope.revision, progress.tenants, now);
                }
                if !progress.pending {
                    scope.version = version;
                }
            }
        });
    }

    /// Notified whenever something was published, and sometimes when nothing was.
    pub(crate) fn publications(&self) -> channel::Receiver<Vec<Publication>> {
        self.published.subscribe()
    }

    /// Records that an edge is about to get a scope's present configuration.
    pub fn asked(&self, from: IpAddr, scope: usize, now: Instant) {
        let revision = self.published.borrow().get(scope).map_or(0, |p| p.revision);
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.retain(|_, known| !known.edge.forgotten(now));
        let full = edges.len() >= MAX_EDGES;
        match edges.entry((from, scope)) {
            Entry::Occupied(mut known) => known.get_mut().edge.ask(revision, now),
            Entry::Vacant(_) if full => {}
            Entry::Vacant(place) => drop(place.insert(Known {
                edge: Edge::new(revision, now),
                turn: Arc::default(),
            })),
        }
        drop(edges);
        self.asked.send_replace(());
    }

    /// Whether any edge polls a scope regularly, and whether one of those has an older revision than this.
    fn behind(&self, scope: usize, revision: u64, now: Instant) -> (bool, bool) {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |key: &(IpAddr, usize), e: &Edge| key.1 == scope && e.regular && !e.gone(now);
        let mut here = edges
            .iter()
            .filter(|(key, known)| here(key, &known.edge))
            .peekable();
        (
            here.peek().is_some(),
            here.any(|(_, known)| known.edge.revision < revision),
        )
    }

    /// The edges that poll a scope regularly.
    fn regular(&self, scope: usize) -> Vec<IpAddr> {
        let (edges, now) = (
            self.edges.lock().unwrap_or_else(PoisonError::into_inner),
            clock::monotonic(),
        );
        let here = |(key, known): &(&(IpAddr, usize), &Known)| {
            key.1 == scope && known.edge.regular && !known.edge.gone(now)
        };
        edges.iter().filter(here).map(|(key, _)| key.0).collect()
    }

    fn edge(&self, address: IpAddr, scope: usize) -> Option<Known> {
        self.edges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(address, scope))
            .cloned()
    }

    /// Records which version an edge runs.
    fn said(&self, address: IpAddr, scope: usize, version: String) {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = versions
            .get(scope)
            .map_or(0, |versions| versions.revision(&version));
        drop(versions);
        let runs = Runs {
            version,
            revision,
            said: clock::monotonic(),
        };
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges
            .entry((address, scope))
            .and_modify(|known| known.edge.say(runs));
    }

    fn mute(&self, address: IpAddr, scope: usize) {
        let until = Some(clock::monotonic() + MUTE);
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges
            .entry((address, scope))
            .and_modify(|known| known.edge.mute_until = until);
    }

    /// Waits, within bounds, until every edge that serves a tenant of this shard has snapshot `version`; false when not
    /// all had it in time.
    pub async fn take_up(&self, version: u64, shard: Option<usize>) -> bool {
        let own = own_scope(shard);
        let both = async {
            tokio::join!(self.take_up_scope(version, own), async {
                // Edges that take everything serve the tenant, too. If no edge does, do not wait: the document of
                // everything is published in any case, and may have to wait long for its turn.
                if own != 0 && self.behind(0, 0, clock::monotonic()).0 {
                    self.take_up_scope(version, 0).await;
                }
            })
        };
        tokio::time::timeout(PATIENCE, both).await.is_ok()
    }

    /// Waits, without a bound, until the document for this shard's edge shows snapshot `version`.
    pub async fn shown(&self, version: u64, shard: Option<usize>) {
        self.publication(version, own_scope(shard)).await;
    }

    async fn publication(&self, version: u64, scope: usize) -> Publication {
        let there =
            |scopes: &Vec<Publication>| scopes.get(scope).is_some_and(|p| p.version >= version);
        let mut published = self.published.subscribe();
        // We own the sender, so it cannot be gone.
        published
            .wait_for(there)
            .await
            .map(|p| p[scope])
            .unwrap_or_default()
    }

    async fn take_up_scope(&self, version: u64, scope: usize) {
        let publication = self.publication(version, scope).await;
        let mut asked = self.asked.subscribe();
        while self
            .behind(scope, publication.revision, clock::monotonic())
            .1
        {
            // Wake without a request, too: an edge may be gone.
            let _ = tokio::time::timeout(Duration::from_secs(1), asked.changed()).await;
        }
        // Given does not mean built: see the module.
        let tenants = u32::try_from(publication.tenants).unwrap_or(u32::MAX);
        let building = TAKE_UP + TAKE_UP_PER_TENANT.saturating_mul(tenants);
        for address in self.regular(scope) {
            self.built(address, scope, publication.revision, building)
                .await;
        }
    }

    /// Waits until an edge says that it runs this revision or a later one; waits for `building` if it cannot be asked.
    async fn built(&self, address: IpAddr, scope: usize, revision: u64, building: Duration) {
        let behind = || {
            let edge = self.edge(address, scope);
            edge.filter(|known| known.edge.lacks(revision))
        };
        while let Some(known) = behind() {
            let turn = known.turn.lock().await;
            // Meanwhile somebody else's question may have been answered, or the edge may be gone.
            let Some(Known { edge, .. }) = behind() else {
                return;
            };
            let mute = edge
                .mute_until
                .is_some_and(|until| clock::monotonic() < until);
            match if mute {
                None
            } else {
                self.ask.version(address).await
            } {
                Some(version) => self.said(address, scope, version),
                None if edge.runs.is_none() => {
                    if !mute {
                        self.mute(address, scope);
                    }
                    drop(turn);
                    return tokio::time::sleep_until((edge.given + building).into()).await;
                }
                // It has answered before, so it is probably busy.
                None => {}
            }
            drop(turn);
            if behind().is_some() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Asks each known edge that `which` selects, once, what it runs; bounded by their number and the time of a
    /// question.
    pub(crate) async fn look(&self, which: impl Fn(&EdgeSeen) -> bool) {
        let wanted = self.seen(clock::monotonic()).into_iter().filter(which);
        stream::iter(wanted)
            .for_each_concurrent(LOOKS, |edge| self.look_at(edge.address, edge.scope))
            .await;
    }

    async fn look_at(&self, address: IpAddr, scope: usize) {
        let Some(Known { edge, turn }) = self
            .edge(address, scope)
            .filter(|known| !known.edge.gone(clock::monotonic()))
        else {
            return;
        };
        // Somebody else is asking it; that answer will do.
        let Ok(_turn) = turn.try_lock() else {
            return;
        };
        if edge
            .mute_until
            .is_some_and(|until| clock::monotonic() < until)
        {
            return;
        }
        match self.ask.version(address).await {
            Some(version) => self.said(address, scope, version),
            None if edge.runs.is_none() => self.mute(address, scope),
            // It has answered before, so it is probably busy. Its last answer becomes stale in time.
            None => {}
        }
    }

    /// The edges, sorted by scope and address.
    pub(crate) fn seen(&self, now: Instant) -> Vec<EdgeSeen> {
        let versions = self
            .versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Versions::default();
        let of = |scope: usize| versions.get(scope).unwrap_or(&none);
        let known = edges.iter().filter(|(_, known)| !known.edge.forgotten(now));
        let mut seen: Vec<EdgeSeen> = known
            .filter_map(|(key, known)| known.edge.seen(*key, of(key.1), now))
            .collect();
        drop(edges);
        seen.sort_unstable_by_key(|edge| (edge.scope, edge.address));
        seen
    }

    /// Records that an event reported the edge as stuck, or as recovered.
    fn told(&self, edge: &EdgeSeen, stuck: bool) {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges
            .entry((edge.address, edge.scope))
            .and_modify(|known| known.edge.told = stuck);
    }

    /// Keeps what a round of questions to all edges found, for the metrics: between two rounds an edge that has taken up a new
    /// version looks as if it were behind.
    fn keep_look(&self, seen: &[EdgeSeen]) {
        self.looked.store(Arc::new(seen.to_vec()));
    }

    /// Records which routes the documents leave out.
    pub(crate) fn leave_out(&self, routes: LeftOut) {
        self.left_out.store(Arc::new(routes));
    }

    /// The routes currently left out, by tenant.
    pub(crate) fn left_out(&self) -> Arc<LeftOut> {
        self.left_out.load_full()
    }
}

/// The scope that a shard's edge gets: its share, or everything when there are no shards.
fn own_scope(shard: Option<usize>) -> usize {
    shard.map_or(0, |place| place + 1)
}

#[cfg(test)]
mod tests;

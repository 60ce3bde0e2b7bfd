//! Which edges ask for their configuration, and how far they are: so that an operation is told to be over when visitors
//! get through, not a second earlier. Edges ask for the configuration of everything or of their shard; only those that
//! serve the operation's tenant are waited for.
//!
//! What an edge was given says little: Traefik builds its routes when it gets round to it. So it is asked what it runs (ask);
//! one that cannot be asked is given a time that is usually enough.
//!
//! Only a courtesy to whoever watches: bounded in time, and without effect where edges take files or none asks.
//! Not here: the configuration (publish) and serving it (http).

mod ask;

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use ask::Ask;

/// Who has not asked for so long is no edge (any more). Traefik's usual poll is every second, at most every few.
const GONE: Duration = Duration::from_secs(10);
/// Edges remembered; more addresses than a fleet has edges.
const MAX_EDGES: usize = 1024;
/// Longest wait for edges. A slower one gets there by itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions to an edge.
const AGAIN: Duration = Duration::from_millis(20);
/// An edge that could not be asked is not asked again for so long: it is behind a firewall, or does not answer on that port.
const MUTE: Duration = Duration::from_secs(10);
/// Versions of a scope that are remembered. Pace lets some ten a second go out, so this is more than [`PATIENCE`] of them.
const MAX_VERSIONS: usize = 64;
/// From an edge's request to its new routes when it cannot be asked: Traefik's throttle, and reading them.
const TAKE_UP: Duration = Duration::from_millis(100);
/// And building them, for each tenant in the document: all are built anew.
const TAKE_UP_PER_TENANT: Duration = Duration::from_micros(250);

/// How one scope's configuration came out of a look at a snapshot. Scopes are those of `publish`: 0 is everything, others
/// are a shard's place and one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// It is another than before; this version.
    pub changed: Option<String>,
    /// It will change: the snapshot's changes are not in it yet.
    pub pending: bool,
    /// Tenants in it.
    pub tenants: u64,
}

/// How far a scope's publication is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Publication {
    /// The snapshot whose changes are all in it.
    version: u64,
    /// Counts the changes of the document.
    revision: u64,
    tenants: u64,
}

#[derive(Debug, Clone)]
struct Edge {
    asked: Instant,
    revision: u64,
    /// When it was given that revision.
    given: Instant,
    /// Asks regularly: a person's single look does not make an edge.
    regular: bool,
    /// The revision that it said it runs; none while it has said nothing.
    runs: Option<u64>,
    mute_until: Option<Instant>,
    /// One question at a time: many who wait for the same edge need one answer.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// See the module.
#[derive(Debug)]
pub struct Edges {
    edges: Mutex<HashMap<(IpAddr, usize), Edge>>,
    /// By scope.
    published: watch::Sender<Vec<Publication>>,
    /// By scope: the last versions with their revisions, the newest first.
    versions: Mutex<Vec<VecDeque<(String, u64)>>>,
    asked: watch::Sender<()>,
    ask: Ask,
}

impl Edges {
    /// Edges that can be asked on this port what they run.
    pub fn on(port: u16) -> Self {
        Self::new(Ask::on(port))
    }

    fn new(ask: Ask) -> Self {
        Self {
            edges: Mutex::default(),
            published: watch::Sender::default(),
            versions: Mutex::default(),
            asked: watch::Sender::default(),
            ask,
        }
    }

    /// The documents now show snapshot `version`, each scope as far as `progress` says.
    pub fn published(&self, version: u64, progress: &[Progress]) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.resize_with(progress.len(), VecDeque::new);
        self.published.send_modify(|scopes| {
            scopes.resize(progress.len(), Publication::default());
            for ((scope, versions), progress) in scopes.iter_mut().zip(&mut *versions).zip(progress) {
                if let Some(changed) = &progress.changed {
                    scope.revision += 1;
                    scope.tenants = progress.tenants;
                    versions.push_front((changed.clone(), scope.revision));
                    versions.truncate(MAX_VERSIONS);
                }
                if !progress.pending {
                    scope.version = version;
                }
            }
        });
    }

    /// Told whenever something was published; perhaps also when nothing was.
    pub(crate) fn publications(&self) -> watch::Receiver<Vec<Publication>> {
        self.published.subscribe()
    }

    /// Somebody is about to be given a scope's present configuration.
    pub fn asked(&self, from: IpAddr, scope: usize, now: Instant) {
        let revision = self.published.borrow().get(scope).map_or(0, |p| p.revision);
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.retain(|_, edge| now.duration_since(edge.asked) < GONE);
        let full = edges.len() >= MAX_EDGES;
        match edges.entry((from, scope)) {
            Entry::Occupied(mut known) => {
                let edge = known.get_mut();
                (edge.asked, edge.regular) = (now, true);
                if edge.revision != revision {
                    (edge.revision, edge.given) = (revision, now);
                }
            }
            Entry::Vacant(_) if full => {}
            Entry::Vacant(place) => {
                let (runs, mute_until, turn) = (None, None, Arc::default());
                let (asked, given) = (now, now);
                place.insert(Edge { asked, revision, given, regular: false, runs, mute_until, turn });
            }
        }
        drop(edges);
        self.asked.send_replace(());
    }

    /// Whether there are edges that ask regularly for a scope, and whether one has an older revision than that.
    fn behind(&self, scope: usize, revision: u64, now: Instant) -> (bool, bool) {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |key: &(IpAddr, usize), e: &Edge| {
            key.1 == scope && e.regular && now.duration_since(e.asked) < GONE
        };
        let mut here = edges.iter().filter(|(key, edge)| here(key, edge)).peekable();
        (here.peek().is_some(), here.any(|(_, edge)| edge.revision < revision))
    }

    /// A scope's edges that ask regularly.
    fn regular(&self, scope: usize) -> Vec<IpAddr> {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.iter().filter(|(key, edge)| key.1 == scope && edge.regular).map(|(key, _)| key.0).collect()
    }

    fn edge(&self, address: IpAddr, scope: usize) -> Option<Edge> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).get(&(address, scope)).cloned()
    }

    /// Keeps what an edge said; a version that nobody remembers is older than all that are.
    fn said(&self, address: IpAddr, scope: usize, version: &str) {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = versions.get(scope).and_then(|v| v.iter().find(|(known, _)| known == version));
        let runs = Some(revision.map_or(0, |(_, revision)| *revision));
        drop(versions);
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.entry((address, scope)).and_modify(|edge| edge.runs = runs);
    }

    fn mute(&self, address: IpAddr, scope: usize) {
        let until = Some(Instant::now() + MUTE);
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.entry((address, scope)).and_modify(|edge| edge.mute_until = until);
    }

    /// Waits until every edge that serves a tenant of this shard has what snapshot `version` says, within bounds.
    pub async fn take_up(&self, version: u64, shard: Option<usize>) {
        let own = own_scope(shard);
        let both = async {
            tokio::join!(self.take_up_scope(version, own), async {
                // Who takes everything serves the tenant as well. Published without regard to whether somebody asks,
                // everything may have to wait long for its turn.
                if own != 0 && self.behind(0, 0, Instant::now()).0 {
                    self.take_up_scope(version, 0).await;
                }
            })
        };
        let _ = tokio::time::timeout(PATIENCE, both).await;
    }

    /// Waits, without a bound, until what the edge of this shard gets shows snapshot `version`.
    pub async fn shown(&self, version: u64, shard: Option<usize>) {
        self.publication(version, own_scope(shard)).await;
    }

    async fn publication(&self, version: u64, scope: usize) -> Publication {
        let there = |scopes: &Vec<Publication>| scopes.get(scope).is_some_and(|p| p.version >= version);
        let mut published = self.published.subscribe();
        // The sender is ours: it cannot be gone.
        published.wait_for(there).await.map(|p| p[scope]).unwrap_or_default()
    }

    async fn take_up_scope(&self, version: u64, scope: usize) {
        let publication = self.publication(version, scope).await;
        let mut asked = self.asked.subscribe();
        while self.behind(scope, publication.revision, Instant::now()).1 {
            // Wakes also without a request: an edge may be gone.
            let _ = tokio::time::timeout(Duration::from_secs(1), asked.changed()).await;
        }
        // Given is not built: see the module.
        let tenants = u32::try_from(publication.tenants).unwrap_or(u32::MAX);
        let building = TAKE_UP + TAKE_UP_PER_TENANT.saturating_mul(tenants);
        for address in self.regular(scope) {
            self.built(address, scope, publication.revision, building).await;
        }
    }

    /// Waits until an edge says that it runs a revision or a later one; for `building` when it cannot be asked.
    async fn built(&self, address: IpAddr, scope: usize, revision: u64, building: Duration) {
        let behind = || {
            let edge = self.edge(address, scope);
            edge.filter(|edge| edge.runs.is_none_or(|runs| runs < revision))
        };
        while let Some(edge) = behind() {
            let turn = edge.turn.lock().await;
            // Somebody else's question may have been answered meanwhile, or the edge is gone.
            let Some(edge) = behind() else { return };
            let mute = edge.mute_until.is_some_and(|until| Instant::now() < until);
            match if mute { None } else { self.ask.version(address).await } {
                Some(version) => self.said(address, scope, &version),
                None if edge.runs.is_none() => {
                    if !mute {
                        self.mute(address, scope);
                    }
                    drop(turn);
                    return tokio::time::sleep_until(edge.given + building).await;
                }
                // It has answered before: busy, perhaps.
                None => {}
            }
            drop(turn);
            if behind().is_some() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// What the edge of a shard gets: its share, or everything when there are no shards.
fn own_scope(shard: Option<usize>) -> usize {
    shard.map_or(0, |place| place + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const SAME: Progress = Progress { changed: None, pending: false, tenants: 400 };
    const PENDING: Progress = Progress { pending: true, ..SAME };
    /// With 400 tenants.
    const TAKEN_UP: Duration = Duration::from_millis(200);

    fn changed() -> Progress {
        to("a")
    }

    fn to(version: &str) -> Progress {
        Progress { changed: Some(version.to_owned()), ..SAME }
    }

    /// Edges that cannot be asked.
    fn silent() -> Edges {
        Edges::new(Ask::with(|_| Box::pin(async { None })))
    }

    fn regular(edges: &Edges, scope: usize) {
        edges.asked(EDGE, scope, Instant::now());
        edges.asked(EDGE, scope, Instant::now());
    }

    fn ask_after(edges: &Arc<Edges>, scope: usize, ms: u64) {
        let edges = edges.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            edges.asked(EDGE, scope, Instant::now());
        });
    }

    async fn took(edges: &Edges, version: u64, shard: Option<usize>) -> Duration {
        let began = Instant::now();
        edges.take_up(version, shard).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn without_edges_nobody_waits() {
        let edges = silent();
        edges.published(3, &[changed()]);
        assert_eq!(took(&edges, 3, None).await, Duration::ZERO);
        // One look of a person is no edge.
        edges.asked(EDGE, 0, Instant::now());
        edges.published(4, &[changed()]);
        assert_eq!(took(&edges, 4, None).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_is_waited_for_until_it_has_asked_again() {
        let edges = Arc::new(silent());
        regular(&edges, 0);
        edges.published(5, &[changed()]);
        ask_after(&edges, 0, 700);
        assert_eq!(took(&edges, 5, None).await, Duration::from_millis(700) + TAKEN_UP);
        // It has this one already.
        edges.published(6, &[SAME]);
        assert_eq!(took(&edges, 6, None).await, Duration::ZERO);
        // One that waits for changes has each at once, but still has to build its routes.
        edges.published(7, &[changed()]);
        edges.asked(EDGE, 0, Instant::now());
        assert_eq!(took(&edges, 7, None).await, TAKEN_UP);
    }

    #[tokio::test(start_paused = true)]
    async fn only_edges_that_serve_the_tenant_are_waited_for() {
        let edges = Arc::new(silent());
        regular(&edges, 1);
        regular(&edges, 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        // Shard 0 (scope 1) changed; the edge of shard 1 has nothing to do with it.
        edges.published(5, &[changed(), changed(), SAME]);
        assert_eq!(took(&edges, 5, Some(1)).await, Duration::ZERO);
        ask_after(&edges, 1, 300);
        assert_eq!(took(&edges, 5, Some(0)).await, Duration::from_millis(300) + TAKEN_UP);
        // An edge with everything serves both.
        regular(&edges, 0);
        edges.published(6, &[changed(), changed(), SAME]);
        edges.asked(EDGE, 1, Instant::now());
        ask_after(&edges, 0, 400);
        assert_eq!(took(&edges, 6, Some(0)).await, Duration::from_millis(400) + TAKEN_UP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_waits_for_its_turn_is_waited_for() {
        let edges = Arc::new(silent());
        edges.published(5, &[PENDING, changed()]);
        // Nobody takes everything: its turn does not matter.
        assert_eq!(took(&edges, 5, Some(0)).await, Duration::ZERO);
        edges.published(6, &[PENDING, PENDING]);
        let later = edges.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(800)).await;
            later.published(7, &[PENDING, changed()]);
        });
        assert_eq!(took(&edges, 6, Some(0)).await, Duration::from_millis(800));
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_that_says_what_it_runs_is_waited_for_until_it_runs_it() {
        let runs = Arc::new(Mutex::new(Some("a".to_owned())));
        let (answer, begin) = (runs.clone(), Instant::now());
        let edges = Arc::new(Edges::new(Ask::with(move |_| {
            let answer = answer.lock().unwrap().clone();
            Box::pin(async { answer })
        })));
        edges.published(1, &[to("a")]);
        regular(&edges, 0);
        edges.published(2, &[to("b")]);
        edges.asked(EDGE, 0, Instant::now());
        // Built long after the usual time; meanwhile it does not even answer for a while.
        let later = runs.clone();
        tokio::spawn(async move {
            for (at_ms, version) in [(300, None), (900, Some("a")), (1_500, Some("b"))] {
                tokio::time::sleep_until(begin + Duration::from_millis(at_ms)).await;
                *later.lock().unwrap() = version.map(ToOwned::to_owned);
            }
        });
        let (first, second) = tokio::join!(took(&edges, 2, None), took(&edges, 2, None));
        assert!((1_500..1_600).contains(&first.as_millis()) && second <= first, "{first:?} {second:?}");
        // Built before the usual time is over.
        *runs.lock().unwrap() = Some("c".to_owned());
        edges.published(3, &[to("c")]);
        edges.asked(EDGE, 0, Instant::now());
        assert_eq!(took(&edges, 3, None).await, Duration::ZERO);
        // One that lost its memory runs something from before it.
        *runs.lock().unwrap() = Some("who knows".to_owned());
        edges.published(4, &[to("d")]);
        edges.asked(EDGE, 0, Instant::now());
        assert_eq!(took(&edges, 4, None).await, PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_that_cannot_be_asked_holds_up_nobody() {
        let edges = Arc::new(Edges::new(Ask::with(|_| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                None
            })
        })));
        edges.published(1, &[to("a")]);
        regular(&edges, 0);
        let begin = Instant::now();
        let waiters: Vec<_> = (0..100)
            .map(|_| {
                let edges = edges.clone();
                tokio::spawn(async move { edges.take_up(1, None).await })
            })
            .collect();
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(begin.elapsed(), Duration::from_secs(1), "one question for all of them");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_bounded_also_when_nothing_is_published() {
        assert_eq!(took(&silent(), 1, None).await, PATIENCE);
    }
}

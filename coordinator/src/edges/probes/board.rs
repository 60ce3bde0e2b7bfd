//! What the probes found, in memory only: after a restart nothing is known, and it fills within one round.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isyone_proto::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};
use uuid::Uuid;

use isyone_fleet::{
    desired::Tenant,
    liveness::{self, HostState},
    probes::{
        answers::{self, Answers, Tally},
        judge::{self, Behind, Counts, Judgement, News, Probe, Told, Window},
    },
    settings::Settings,
    state::State,
};

/// Rounds after which a probe says nothing any more.
const STALE_ROUNDS: i64 = 3;
/// Tenants' news that wait to be told; more are told after their next probe.
pub const MAX_NEWS: usize = 30;

/// What is known of a tenant, and whose trouble it is.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The last probe.
    pub probe: Arc<Probe>,
    /// What it means now.
    pub judgement: Judgement,
}

/// An edge address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeSeen {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections of about the last round.
    pub counts: Counts,
    /// It answers wrongly: for so many tenants.
    pub wrong: Option<Tally>,
}

impl EdgeSeen {
    /// Takes connections, and answers as it should.
    pub fn is_up(&self) -> bool {
        !self.counts.most_failed() && self.wrong.is_none()
    }
}

/// An edge that takes no more connections or answers wrongly, or works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeNews {
    /// As it is now.
    pub edge: EdgeSeen,
    /// What to tell of it.
    pub news: News,
}

/// A host that says it is well, but whose tenants cannot be reached, or can be again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNews {
    /// Which.
    pub host: HostName,
    /// Through which edge.
    pub edge: SocketAddr,
    /// What to tell of it.
    pub news: News,
}

/// A tenant's news, to be told.
#[derive(Debug, Clone)]
pub struct TenantNews {
    /// Whose.
    pub tenant: TenantName,
    /// What.
    pub news: News,
    /// Why.
    pub probe: Arc<Probe>,
}

/// See the module.
#[derive(Debug)]
pub struct ProbeBoard {
    interval_ms: i64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tenants: HashMap<TenantName, Record>,
    edges: BTreeMap<SocketAddr, EdgeRecord>,
    news: Vec<TenantNews>,
}

#[derive(Debug)]
struct Record {
    uid: Uuid,
    /// Whose edges it is asked for through. Working it out takes a look at every shard, and pages ask it of every tenant.
    shard: Option<usize>,
    probe: Arc<Probe>,
    told: Told,
    counted: Option<Counted>,
}

/// What of a tenant is in an edge's answers.
#[derive(Debug)]
struct Counted {
    edge: SocketAddr,
    host: HostName,
    wrong: bool,
}

#[derive(Debug, Default)]
struct EdgeRecord {
    window: Window,
    answers: Answers,
    told_down: bool,
    told_host: Option<HostName>,
}

impl EdgeRecord {
    fn seen(&self, address: SocketAddr, counts: Counts, view: &View<'_>) -> EdgeSeen {
        EdgeSeen {
            address,
            counts,
            wrong: self.answers.blame_edge(|host| view.is_ready(host)),
        }
    }
}

impl Inner {
    /// Replaces what is counted of a tenant.
    fn count(&mut self, tenant: &Tenant, probe: &Probe) -> Option<Counted> {
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

fn uncount(edges: &mut BTreeMap<SocketAddr, EdgeRecord>, counted: Option<Counted>) {
    let Some(Counted { edge, host, wrong }) = counted else {
        return;
    };
    if let Some(record) = edges.get_mut(&edge) {
        record.answers.remove(&host, wrong);
    }
}

/// What is known of hosts at a moment.
struct View<'a> {
    state: &'a State,
    settings: &'a Settings,
    now: UnixMs,
}

impl View<'_> {
    fn host(&self, name: &HostName) -> HostState {
        let host = self.state.observed.hosts.get(name).map(AsRef::as_ref);
        liveness::judge(
            host,
            self.state.started_at,
            self.now,
            &self.settings.liveness,
        )
        .0
    }

    fn is_ready(&self, name: &HostName) -> bool {
        self.host(name) == HostState::Ready
    }

    fn judge(
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

impl ProbeBoard {
    /// Empty. A round of probes takes so long.
    pub fn new(interval_ms: i64) -> Self {
        Self {
            interval_ms: interval_ms.max(1),
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a probe in. What it means is judged with what `state` knows of the tenant's host.
    pub fn take(&self, state: &State, settings: &Settings, tenant: &Tenant, probe: Probe) {
        let (now, probe) = (probe.at, Arc::new(probe));
        let mut guard = self.lock();
        let inner = &mut *guard;
        let edge = inner.edges.entry(probe.edge).or_default();
        edge.window.add(now, self.interval_ms, probe.connected());
        let counts = edge.window.counts(now, self.interval_ms);
        let counted = inner.count(tenant, &probe);
        let answers = inner.edges.get(&probe.edge).map(|edge| &edge.answers);
        let judgement = View {
            state,
            settings,
            now,
        }
        .judge(tenant, &probe, counts, answers);
        let room = inner.news.len() < MAX_NEWS;
        let new = || Record {
            uid: tenant.uid,
            shard: settings.shards.of(tenant.name.as_str()),
            probe: probe.clone(),
            told: Told::default(),
            counted: None,
        };
        let record = inner.tenants.entry(tenant.name.clone()).or_insert_with(new);
        if record.uid != tenant.uid {
            (record.uid, record.told) = (tenant.uid, Told::default());
        }
        (record.probe, record.counted) = (probe.clone(), counted);
        match record.told.hear(judgement) {
            Some(_) if !room => record.told.not_told(),
            Some(news) => inner.news.push(TenantNews {
                tenant: tenant.name.clone(),
                news,
                probe,
            }),
            None => {}
        }
    }

    /// What is known of a tenant; `None` when it was not asked lately.
    pub fn seen(
        &self,
        state: &State,
        settings: &Settings,
        tenant: &Tenant,
        now: UnixMs,
    ) -> Option<Seen> {
        let inner = self.lock();
        let record = inner
            .tenants
            .get(&tenant.name)
            .filter(|record| record.uid == tenant.uid)?;
        let fresh = now - record.probe.at <= STALE_ROUNDS * self.interval_ms;
        let probe = fresh.then(|| record.probe.clone())?;
        let edge = inner.edges.get(&probe.edge);
        let counts = edge
            .map(|e| e.window.counts(now, self.interval_ms))
            .unwrap_or_default();
        let answers = edge.map(|edge| &edge.answers);
        let judgement = View {
            state,
            settings,
            now,
        }
        .judge(tenant, &probe, counts, answers);
        Some(Seen { probe, judgement })
    }

    /// Whether a tenant that was asked for is that shard's.
    pub fn is_of_shard(&self, tenant: &TenantName, shard: usize) -> bool {
        self.lock()
            .tenants
            .get(tenant)
            .is_some_and(|record| record.shard == Some(shard))
    }

    /// The edges that were asked lately.
    pub fn edges(&self, state: &State, settings: &Settings, now: UnixMs) -> Vec<EdgeSeen> {
        let view = View {
            state,
            settings,
            now,
        };
        let seen = |(address, record): (&SocketAddr, &EdgeRecord)| {
            record.seen(*address, record.window.counts(now, self.interval_ms), &view)
        };
        self.lock()
            .edges
            .iter()
            .map(seen)
            .filter(|edge| edge.counts.tried > 0)
            .collect()
    }

    /// Whether most of an edge's connections failed lately.
    pub fn takes_no_connections(&self, edge: SocketAddr, now: UnixMs) -> bool {
        let inner = self.lock();
        inner
            .edges
            .get(&edge)
            .is_some_and(|e| e.window.counts(now, self.interval_ms).most_failed())
    }

    /// Tenants' news since the last call, at most [`MAX_NEWS`].
    pub fn take_news(&self) -> Vec<TenantNews> {
        std::mem::take(&mut self.lock().news)
    }

    /// Edges' news since the last call.
    pub fn take_edge_news(&self, state: &State, settings: &Settings, now: UnixMs) -> Vec<EdgeNews> {
        let (interval_ms, view) = (
            self.interval_ms,
            View {
                state,
                settings,
                now,
            },
        );
        let changed = |(address, record): (&SocketAddr, &mut EdgeRecord)| {
            let edge = record.seen(*address, record.window.counts(now, interval_ms), &view);
            let down = !edge.is_up();
            // Of an edge that nobody was asked through, nothing is known: neither up nor down.
            (edge.counts.tried > 0 && down != record.told_down).then(|| {
                record.told_down = down;
                EdgeNews {
                    edge,
                    news: if down { News::Down } else { News::Up },
                }
            })
        };
        self.lock().edges.iter_mut().filter_map(changed).collect()
    }

    /// News since the last call of hosts that report, but whose tenants get wrong answers. Of a silent host its silence is told.
    pub fn take_host_news(&self, state: &State, settings: &Settings, now: UnixMs) -> Vec<HostNews> {
        let view = View {
            state,
            settings,
            now,
        };
        let silent =
            |host: &HostName| matches!(view.host(host), HostState::Suspect | HostState::Lost);
        let mut news = Vec::new();
        for (edge, record) in &mut self.lock().edges {
            let blamed = record
                .answers
                .blamed_host()
                .filter(|host| !silent(host))
                .cloned();
            if blamed == record.told_host {
                continue;
            }
            let before = std::mem::replace(&mut record.told_host, blamed.clone());
            let one = |news| {
                move |host| HostNews {
                    host,
                    edge: *edge,
                    news,
                }
            };
            news.extend(
                before
                    .map(one(News::Up))
                    .into_iter()
                    .chain(blamed.map(one(News::Down))),
            );
        }
        news
    }

    /// Lets go of tenants that are not wanted any more and of edges that are not there any more.
    pub fn tidy(&self, wanted: impl Fn(&TenantName) -> bool, edges: &[SocketAddr]) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.edges.retain(|address, _| edges.contains(address));
        inner.tenants.retain(|name, record| {
            let keep = wanted(name);
            // An edge that comes back begins anew.
            if !keep
                || record
                    .counted
                    .as_ref()
                    .is_some_and(|c| !inner.edges.contains_key(&c.edge))
            {
                uncount(&mut inner.edges, record.counted.take());
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isyone_fleet::{
        probes::judge::Failure,
        testing::{Bench, name, resources},
    };

    const MINUTE: i64 = 60_000;

    fn edge() -> SocketAddr {
        ([192, 0, 2, 9], 443).into()
    }

    fn probe(at: UnixMs, failure: Option<Failure>) -> Probe {
        Probe {
            at,
            edge: edge(),
            duration_ms: 5,
            status: None,
            certificate_until_s: None,
            failure,
        }
    }

    struct Fixture {
        bench: Bench,
        board: ProbeBoard,
        tenants: Vec<Arc<Tenant>>,
    }

    impl Fixture {
        fn new(tenants: usize) -> Self {
            Self::on(&["h1"], tenants)
        }

        fn on(hosts: &[&str], tenants: usize) -> Self {
            let mut bench = Bench::default();
            bench.now = 1_000_000;
            for host in hosts {
                bench.host(host, resources(64, 512, 4096));
            }
            for n in 0..tenants {
                bench.create(&format!("t{n}"), "small").unwrap();
            }
            let tenants = bench.state.fleet.tenants.values().cloned().collect();
            Self {
                bench,
                board: ProbeBoard::new(MINUTE),
                tenants,
            }
        }

        fn round(&self, at: UnixMs, failure: impl Fn(usize) -> Option<Failure>) {
            for (n, tenant) in self.tenants.iter().enumerate() {
                self.board.take(
                    &self.bench.state,
                    &self.bench.settings,
                    tenant,
                    probe(at, failure(n)),
                );
            }
        }

        fn edge_news(&self, now: UnixMs) -> Vec<EdgeNews> {
            self.board
                .take_edge_news(&self.bench.state, &self.bench.settings, now)
        }

        fn host_news(&self, now: UnixMs) -> Vec<HostNews> {
            self.board
                .take_host_news(&self.bench.state, &self.bench.settings, now)
        }

        fn judged(&self, tenant: usize, now: UnixMs) -> Option<Judgement> {
            let seen = self.board.seen(
                &self.bench.state,
                &self.bench.settings,
                &self.tenants[tenant],
                now,
            );
            seen.map(|seen| seen.judgement)
        }
    }

    #[test]
    fn nothing_is_known_at_first_and_after_long_silence_and_of_another_incarnation() {
        let fixture = Fixture::new(1);
        assert_eq!(fixture.judged(0, 1_000_000), None);
        fixture.round(1_000_000, |_| None);
        assert_eq!(
            fixture.judged(0, 1_000_000 + 3 * MINUTE),
            Some(Judgement::Reachable)
        );
        assert_eq!(fixture.judged(0, 1_000_001 + 3 * MINUTE), None);
        let mut again = (*fixture.tenants[0]).clone();
        again.uid = Uuid::from_u128(99);
        let seen = fixture.board.seen(
            &fixture.bench.state,
            &fixture.bench.settings,
            &again,
            1_000_000,
        );
        assert!(seen.is_none());
    }

    #[test]
    fn who_was_asked_for_is_on_one_shards_page() {
        let mut fixture = Fixture::new(9);
        let of = |fixture: &Fixture, shard| {
            fixture
                .tenants
                .iter()
                .filter(|t| fixture.board.is_of_shard(&t.name, shard))
                .count()
        };
        fixture.bench.settings.shards =
            isyone_fleet::shards::Shards::new(vec![name("x"), name("y")]);
        assert_eq!((of(&fixture, 0), of(&fixture, 1)), (0, 0));
        fixture.round(1_000_000, |_| None);
        assert!(of(&fixture, 0) > 0 && of(&fixture, 0) + of(&fixture, 1) == 9);
    }

    #[test]
    fn a_dead_edge_is_told_once_and_no_tenant_is() {
        let fixture = Fixture::new(5);
        fixture.round(1_000_000, |_| None);
        assert!(fixture.edge_news(1_000_000).is_empty());
        for round in 1..5 {
            fixture.round(1_000_000 + round * MINUTE, |_| {
                Some(Failure::NotConnected("refused".into()))
            });
        }
        let now = 1_000_000 + 4 * MINUTE;
        assert_eq!(fixture.judged(3, now), Some(Judgement::EdgeDown));
        assert!(fixture.board.take_news().is_empty());
        let news = fixture.edge_news(now);
        assert_eq!(
            (news.len(), news[0].news, news[0].edge.address),
            (1, News::Down, edge())
        );
        assert!(fixture.edge_news(now).is_empty());
        fixture.round(now + MINUTE, |_| None);
        assert_eq!(fixture.edge_news(now + MINUTE)[0].news, News::Up);
    }

    #[test]
    fn one_tenant_down_is_told_after_two_probes() {
        let fixture = Fixture::new(5);
        let one = |n| (n == 2).then_some(Failure::Status(502));
        fixture.round(1_000_000, one);
        assert!(fixture.board.take_news().is_empty());
        fixture.round(1_005_000, one);
        let news = fixture.board.take_news();
        assert_eq!(
            (news.len(), news[0].news, news[0].tenant.as_str()),
            (1, News::Down, "t2")
        );
        fixture.round(1_010_000, |_| None);
        assert_eq!(fixture.board.take_news()[0].news, News::Up);
    }

    #[test]
    fn a_silent_host_explains_its_tenants() {
        let fixture = Fixture::new(3);
        // Its only report came at 1,000,000.
        for round in 1..4 {
            fixture.round(1_000_000 + round * MINUTE, |_| Some(Failure::Status(504)));
        }
        assert_eq!(
            fixture.judged(0, 1_000_000 + 3 * MINUTE),
            Some(Judgement::HostDown)
        );
        assert!(fixture.board.take_news().is_empty());
    }

    #[test]
    fn an_edge_that_answers_wrongly_for_everybody_is_told_and_no_tenant_is() {
        let fixture = Fixture::on(&["h1", "h2"], 6);
        fixture.round(1_000_000, |_| None);
        for (round, status) in [(1, 404), (2, 502), (3, 504)] {
            fixture.round(1_000_000 + round * 1000, |_| Some(Failure::Status(status)));
        }
        let now = 1_003_000;
        assert_eq!(fixture.judged(3, now), Some(Judgement::EdgeDown));
        assert!(fixture.board.take_news().is_empty() && fixture.host_news(now).is_empty());
        let news = fixture.edge_news(now);
        assert_eq!((news.len(), news[0].news), (1, News::Down));
        assert_eq!(news[0].edge.wrong, Some(Tally { asked: 6, wrong: 6 }));
        assert!(fixture.edge_news(now).is_empty());
        fixture.round(now + 1000, |_| None);
        assert_eq!(fixture.edge_news(now + 1000)[0].news, News::Up);
    }

    #[test]
    fn a_host_whose_tenants_all_fail_is_told_and_no_tenant_is() {
        let fixture = Fixture::on(&["h1", "h2"], 8);
        fixture.round(1_000_000, |_| None);
        let host = fixture.tenants[0].placement.host.clone();
        let there: Vec<bool> = fixture
            .tenants
            .iter()
            .map(|t| t.placement.host == host)
            .collect();
        assert_eq!(there.iter().filter(|there| **there).count(), 4);
        let gone = |n: usize| there[n].then_some(Failure::Status(504));
        (1..4).for_each(|round| fixture.round(1_000_000 + round * 1000, gone));
        let now = 1_003_000;
        assert_eq!(fixture.judged(0, now), Some(Judgement::HostDown));
        let news = |news| HostNews {
            host: host.clone(),
            edge: edge(),
            news,
        };
        assert_eq!(fixture.host_news(now), [news(News::Down)]);
        assert!(fixture.host_news(now).is_empty() && fixture.edge_news(now).is_empty());
        fixture.round(now + 1000, |_| None);
        assert_eq!(fixture.host_news(now + 1000), [news(News::Up)]);
    }

    #[test]
    fn more_news_than_fit_are_told_with_the_next_probe() {
        let fixture = Fixture::new(MAX_NEWS + 7);
        for round in 0..2 {
            fixture.round(1_000_000 + round, |_| Some(Failure::Status(500)));
        }
        assert_eq!(fixture.board.take_news().len(), MAX_NEWS);
        fixture.round(1_000_002, |_| Some(Failure::Status(500)));
        assert_eq!(fixture.board.take_news().len(), 7);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let fixture = Fixture::new(2);
        fixture.round(1_000_000, |_| None);
        fixture
            .board
            .tidy(|tenant| *tenant == name::<TenantName>("t1"), &[]);
        assert_eq!(
            (fixture.judged(0, 1_000_000), fixture.judged(1, 1_000_000)),
            (None, Some(Judgement::Reachable))
        );
        assert!(
            fixture
                .board
                .edges(&fixture.bench.state, &fixture.bench.settings, 1_000_000)
                .is_empty()
        );
    }
}

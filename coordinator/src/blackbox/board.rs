//! What the probes found, in memory only: after a restart nothing is known, and it fills within one round.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isyone_proto::{ids::TenantName, plan::UnixMs};
use uuid::Uuid;

use super::judge::{self, Counts, Judgement, News, Probe, Told, Window};
use crate::{fleet::Tenant, liveness, settings::Settings, state::State};

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
}

/// An edge that takes no more connections, or takes them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeNews {
    /// As it is now.
    pub edge: EdgeSeen,
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
pub struct Board {
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
    probe: Arc<Probe>,
    told: Told,
}

#[derive(Debug, Default)]
struct EdgeRecord {
    window: Window,
    told_down: bool,
}

impl Board {
    /// Empty. A round of probes takes so long.
    pub fn new(interval_ms: i64) -> Self {
        Self { interval_ms: interval_ms.max(1), inner: Mutex::default() }
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
        let judgement = judge(state, settings, tenant, &probe, counts, now);
        let room = inner.news.len() < MAX_NEWS;
        let record = inner
            .tenants
            .entry(tenant.name.clone())
            .and_modify(|record| {
                if record.uid != tenant.uid {
                    (record.uid, record.told) = (tenant.uid, Told::default());
                }
                record.probe = probe.clone();
            })
            .or_insert_with(|| Record { uid: tenant.uid, probe: probe.clone(), told: Told::default() });
        match record.told.take(judgement) {
            Some(_) if !room => record.told.not_told(),
            Some(news) => inner.news.push(TenantNews { tenant: tenant.name.clone(), news, probe }),
            None => {}
        }
    }

    /// What is known of a tenant; `None` when it was not asked lately.
    pub fn seen(&self, state: &State, settings: &Settings, tenant: &Tenant, now: UnixMs) -> Option<Seen> {
        let inner = self.lock();
        let record = inner.tenants.get(&tenant.name).filter(|record| record.uid == tenant.uid)?;
        let fresh = now - record.probe.at <= STALE_ROUNDS * self.interval_ms;
        let probe = fresh.then(|| record.probe.clone())?;
        let edge = inner.edges.get(&probe.edge);
        let counts = edge.map(|e| e.window.counts(now, self.interval_ms)).unwrap_or_default();
        drop(inner);
        let judgement = judge(state, settings, tenant, &probe, counts, now);
        Some(Seen { probe, judgement })
    }

    /// The edges that were asked lately.
    pub fn edges(&self, now: UnixMs) -> Vec<EdgeSeen> {
        let seen = |(address, record): (&SocketAddr, &EdgeRecord)| EdgeSeen {
            address: *address,
            counts: record.window.counts(now, self.interval_ms),
        };
        self.lock().edges.iter().map(seen).filter(|edge| edge.counts.tried > 0).collect()
    }

    /// Whether most of an edge's connections failed lately.
    pub fn takes_no_connections(&self, edge: SocketAddr, now: UnixMs) -> bool {
        let inner = self.lock();
        inner.edges.get(&edge).is_some_and(|e| e.window.counts(now, self.interval_ms).most_failed())
    }

    /// Tenants' news since the last call, at most [`MAX_NEWS`].
    pub fn take_news(&self) -> Vec<TenantNews> {
        std::mem::take(&mut self.lock().news)
    }

    /// Edges' news since the last call.
    pub fn take_edge_news(&self, now: UnixMs) -> Vec<EdgeNews> {
        let interval_ms = self.interval_ms;
        let changed = |(address, record): (&SocketAddr, &mut EdgeRecord)| {
            let counts = record.window.counts(now, interval_ms);
            let down = counts.most_failed();
            // Of an edge that nobody was asked through, nothing is known: neither up nor down.
            (counts.tried > 0 && down != record.told_down).then(|| {
                record.told_down = down;
                let news = if down { News::Down } else { News::Up };
                EdgeNews { edge: EdgeSeen { address: *address, counts }, news }
            })
        };
        self.lock().edges.iter_mut().filter_map(changed).collect()
    }

    /// Lets go of tenants that are not wanted any more and of edges that are not there any more.
    pub fn tidy(&self, wanted: impl Fn(&TenantName) -> bool, edges: &[SocketAddr]) {
        let mut inner = self.lock();
        inner.tenants.retain(|name, _| wanted(name));
        inner.edges.retain(|address, _| edges.contains(address));
    }
}

fn judge(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    probe: &Probe,
    edge: Counts,
    now: UnixMs,
) -> Judgement {
    let host = state.observed.hosts.get(&tenant.placement.host).map(AsRef::as_ref);
    let (host, _) = liveness::judge(host, state.started_at, now, &settings.liveness);
    judge::judge(probe, edge, host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        blackbox::judge::Failure,
        testing::{Bench, name, resources},
    };

    const MINUTE: i64 = 60_000;

    fn edge() -> SocketAddr {
        ([192, 0, 2, 9], 443).into()
    }

    fn probe(at: UnixMs, failure: Option<Failure>) -> Probe {
        Probe { at, edge: edge(), duration_ms: 5, status: None, certificate_until_s: None, failure }
    }

    struct Fixture {
        bench: Bench,
        board: Board,
        tenants: Vec<Arc<Tenant>>,
    }

    impl Fixture {
        fn new(tenants: usize) -> Self {
            let mut bench = Bench::default();
            bench.now = 1_000_000;
            bench.host("h1", resources(64, 512, 4096));
            for n in 0..tenants {
                bench.create(&format!("t{n}"), "small").unwrap();
            }
            let tenants = bench.state.fleet.tenants.values().cloned().collect();
            Self { bench, board: Board::new(MINUTE), tenants }
        }

        fn round(&self, at: UnixMs, failure: impl Fn(usize) -> Option<Failure>) {
            for (n, tenant) in self.tenants.iter().enumerate() {
                self.board.take(&self.bench.state, &self.bench.settings, tenant, probe(at, failure(n)));
            }
        }

        fn judged(&self, tenant: usize, now: UnixMs) -> Option<Judgement> {
            let seen = self.board.seen(&self.bench.state, &self.bench.settings, &self.tenants[tenant], now);
            seen.map(|seen| seen.judgement)
        }
    }

    #[test]
    fn nothing_is_known_at_first_and_after_long_silence_and_of_another_incarnation() {
        let fixture = Fixture::new(1);
        assert_eq!(fixture.judged(0, 1_000_000), None);
        fixture.round(1_000_000, |_| None);
        assert_eq!(fixture.judged(0, 1_000_000 + 3 * MINUTE), Some(Judgement::Reachable));
        assert_eq!(fixture.judged(0, 1_000_001 + 3 * MINUTE), None);
        let mut again = (*fixture.tenants[0]).clone();
        again.uid = Uuid::from_u128(99);
        let seen = fixture.board.seen(&fixture.bench.state, &fixture.bench.settings, &again, 1_000_000);
        assert!(seen.is_none());
    }

    #[test]
    fn a_dead_edge_is_told_once_and_no_tenant_is() {
        let fixture = Fixture::new(5);
        fixture.round(1_000_000, |_| None);
        assert!(fixture.board.take_edge_news(1_000_000).is_empty());
        for round in 1..5 {
            fixture.round(1_000_000 + round * MINUTE, |_| Some(Failure::NotConnected("refused".into())));
        }
        let now = 1_000_000 + 4 * MINUTE;
        assert_eq!(fixture.judged(3, now), Some(Judgement::EdgeDown));
        assert!(fixture.board.take_news().is_empty());
        let news = fixture.board.take_edge_news(now);
        assert_eq!((news.len(), news[0].news, news[0].edge.address), (1, News::Down, edge()));
        assert!(fixture.board.take_edge_news(now).is_empty());
        fixture.round(now + MINUTE, |_| None);
        assert_eq!(fixture.board.take_edge_news(now + MINUTE)[0].news, News::Up);
    }

    #[test]
    fn one_tenant_down_is_told_after_two_probes() {
        let fixture = Fixture::new(5);
        let one = |n| (n == 2).then_some(Failure::Status(502));
        fixture.round(1_000_000, one);
        assert!(fixture.board.take_news().is_empty());
        fixture.round(1_005_000, one);
        let news = fixture.board.take_news();
        assert_eq!((news.len(), news[0].news, news[0].tenant.as_str()), (1, News::Down, "t2"));
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
        assert_eq!(fixture.judged(0, 1_000_000 + 3 * MINUTE), Some(Judgement::HostDown));
        assert!(fixture.board.take_news().is_empty());
    }

    #[test]
    fn more_news_than_fit_are_told_with_the_next_probe() {
        let fixture = Fixture::new(MAX_NEWS + 7);
        for round in 0..2 {
            fixture.round(1_000_000 + round, |_| Some(Failure::Status(404)));
        }
        assert_eq!(fixture.board.take_news().len(), MAX_NEWS);
        fixture.round(1_000_002, |_| Some(Failure::Status(404)));
        assert_eq!(fixture.board.take_news().len(), 7);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let fixture = Fixture::new(2);
        fixture.round(1_000_000, |_| None);
        fixture.board.tidy(|tenant| *tenant == name::<TenantName>("t1"), &[]);
        assert_eq!(
            (fixture.judged(0, 1_000_000), fixture.judged(1, 1_000_000)),
            (None, Some(Judgement::Reachable))
        );
        assert!(fixture.board.edges(1_000_000).is_empty());
    }
}

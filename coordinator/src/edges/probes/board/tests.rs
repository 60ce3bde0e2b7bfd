//! What is reported about tenants, edges and hosts, and when; a fleet whose probes go as each test says.

use isyone_fleet::{
    probes::judge::Failure,
    testing::{Bench, name, resources},
};
use uuid::Uuid;

use super::*;

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
    fixture.bench.settings.shards = isyone_fleet::shards::Shards::new(vec![name("x"), name("y")]);
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

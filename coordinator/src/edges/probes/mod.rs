//! Looks at each tenant through its edge, as visitors do, and keeps what it found in memory. Off the writer's path: it reads
//! snapshots, and hands in an event only when a judgement changes.
//!
//! `ask` makes one probe, `board` keeps what was found, `places` says how many run at once, `page` shows it to Prometheus, and this
//! loop goes round. Bounded: so many at once, for each edge too, so many a second, each in so much time and so many bytes read.
//! Not here: whose turn it is, whose trouble it is and who is behind wrong answers (isyone_fleet::probes); what a host tells of a
//! tenant's containers (isyone_fleet::observed).

pub mod ask;
pub mod board;
pub mod page;
pub mod places;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use isyone_fleet::{
    change::Command,
    desired::Tenant,
    event::EventKind,
    probes::{judge::News, rota::Rota},
    settings::Settings,
    state::State,
    views,
};
use isyone_proto::ids::TenantName;
use tokio::{
    net::lookup_host,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::{
    ask::{AskError, Asker},
    board::{EdgeNews, HostNews, ProbeBoard},
    places::Places,
};
use crate::{
    base::{
        clock,
        config::{Config, UrlScheme},
        secrets,
    },
    writer::Handle,
};

/// Between looks at whose turn it is: short, so that turns are spread well.
const LOOK: Duration = Duration::from_millis(200);
/// Between looks at what there is to tell.
const TELL: Duration = Duration::from_secs(2);
/// How often edges' names are resolved, and what is gone is forgotten.
const TIDY: Duration = Duration::from_secs(60);
/// Edge addresses of one shard that are used; more are alike.
const MAX_ADDRESSES: usize = 16;

/// The edges' addresses: of everything, or of each shard in the configuration's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Addresses(Vec<Vec<SocketAddr>>);

impl Addresses {
    /// Where this tenant is asked for in that round: each of its edges has its turn, and in one round half of the tenants go
    /// through one, half through the other.
    fn of(&self, settings: &Settings, tenant: &TenantName, round: u64) -> Option<SocketAddr> {
        let own = self
            .0
            .get(settings.shards.of(tenant.as_str()).unwrap_or(0))?;
        let letters: u64 = tenant.as_str().bytes().map(u64::from).sum();
        let place = (letters + round) % u64::try_from(own.len()).ok().filter(|n| *n > 0)?;
        own.get(usize::try_from(place).ok()?).copied()
    }

    fn all(&self) -> Vec<SocketAddr> {
        self.0.iter().flatten().copied().collect()
    }
}

/// How to ask, by the configuration; `None` when nobody is to be asked.
pub fn asker(config: &Config) -> Result<Option<Asker>, AskError> {
    let probes = &config.probes;
    if !probes.enabled || config.edges_to_probe().iter().all(Vec::is_empty) {
        return Ok(None);
    }
    let timeout = probes.timeout.get();
    match config.url_scheme {
        UrlScheme::Http => Ok(Some(Asker::plain(timeout))),
        UrlScheme::Https => {
            let ca_file = probes
                .ca_file
                .as_ref()
                .map(|file| config.data_dir.join(file));
            Asker::encrypted(timeout, probes.verify_certificates, ca_file.as_deref()).map(Some)
        }
    }
}

/// What probing through the edges needs of the coordinator.
#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) handle: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) board: Arc<ProbeBoard>,
    pub(crate) stop: CancellationToken,
}

/// Asks until the coordinator stops.
pub(crate) async fn run(prober: Arc<Prober>, asker: Asker) {
    tokio::join!(ask_all(&prober, asker), tell_all(&prober));
}

async fn ask_all(prober: &Arc<Prober>, asker: Asker) {
    let (probes, names) = (&prober.config.probes, prober.config.edges_to_probe());
    let (asker, mut places) = (Arc::new(asker), Places::default());
    let (mut rota, mut running) = (Rota::default(), JoinSet::new());
    let (mut addresses, mut tidied) = (Addresses::default(), None::<Instant>);
    let mut looks = interval(LOOK);
    // When a look took long, the turns since then are not made up for.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = prober.stop.cancelled() => return,
        }
        let state = prober.handle.snapshot();
        if tidied.is_none_or(|at| at.elapsed() >= TIDY) {
            addresses = resolve(&names, addresses).await;
            prober.board.tidy(
                |name| state.fleet.tenants.get(name).is_some_and(|t| wanted(t)),
                &addresses.all(),
            );
            places.share(&addresses.all(), probes.concurrency);
            tidied = Some(Instant::now());
        }
        while running.try_join_next().is_some() {}
        let turns = rota.next(
            &state.fleet.tenants,
            LOOK,
            probes.interval.get(),
            wanted,
            secrets::chance,
        );
        for turn in turns {
            let settings = prober.handle.settings();
            let Some(edge) = addresses.of(settings, &turn.tenant.name, rota.rounds()) else {
                continue;
            };
            let Some(places) = places.of(edge) else {
                continue;
            };
            let (prober, asker) = (prober.clone(), asker.clone());
            running.spawn(async move {
                tokio::time::sleep(turn.after).await;
                // Left out: the next round asks through another edge, or when there is room.
                let failing = prober.board.takes_no_connections(edge, clock::now_ms());
                let Some(_place) = places.enter(failing).await else {
                    return;
                };
                one(&prober, &asker, edge, &turn.tenant).await;
            });
        }
    }
}

/// As long as it should run, once it did: who was never there is not missed.
fn wanted(tenant: &Tenant) -> bool {
    views::monitored(tenant)
}

async fn one(prober: &Prober, asker: &Asker, edge: SocketAddr, tenant: &Tenant) {
    let settings = prober.handle.settings();
    let hostname = format!("{}.{}", tenant.name, settings.base_domain);
    let authority = settings
        .url_port
        .map_or_else(|| hostname.clone(), |port| format!("{hostname}:{port}"));
    let probe = asker
        .ask(edge, &hostname, &authority, clock::now_ms())
        .await;
    let state = prober.handle.snapshot();
    // What was asked for is another one by now, or shall not run any more: its failure means nothing.
    let same = |now: &Arc<Tenant>| {
        now.uid == tenant.uid && now.placement == tenant.placement && wanted(now)
    };
    if let Some(tenant) = state
        .fleet
        .tenants
        .get(&tenant.name)
        .filter(|now| same(now))
    {
        prober.board.take(&state, settings, tenant, probe);
    }
}

/// The addresses behind the names; those from before where a name cannot be resolved now.
async fn resolve(names: &[Vec<String>], before: Addresses) -> Addresses {
    let mut addresses = Vec::with_capacity(names.len());
    for (place, names) in names.iter().enumerate() {
        let mut found = Vec::new();
        for name in names {
            match lookup_host(name).await {
                Ok(more) => found.extend(more),
                Err(error) => {
                    tracing::warn!(edge = name, %error, "an edge's name cannot be resolved; tried again")
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found.truncate(MAX_ADDRESSES);
        addresses.push(if found.is_empty() {
            before.0.get(place).cloned().unwrap_or_default()
        } else {
            found
        });
    }
    Addresses(addresses)
}

async fn tell_all(prober: &Prober) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(TELL) => {}
            () = prober.stop.cancelled() => return,
        }
        let state = prober.handle.snapshot();
        let (settings, now) = (prober.handle.settings(), clock::now_ms());
        for news in prober.board.take_edge_news(&state, settings, now) {
            tell(prober, edge_event(&news)).await;
        }
        for news in prober.board.take_host_news(&state, settings, now) {
            tell(prober, host_event(&news)).await;
        }
        for news in prober.board.take_news() {
            if state.fleet.tenants.contains_key(&news.tenant) {
                tell(prober, tenant_event(news)).await;
            }
        }
    }
}

async fn tell(prober: &Prober, event: Command) {
    if let Err(error) = prober.handle.submit("coordinator", event).await {
        tracing::warn!(%error, "what the probes found could not be stored as an event");
    }
}

fn edge_event(news: &EdgeNews) -> Command {
    let (address, counts) = (news.edge.address, news.edge.counts);
    let (kind, message) = match (news.news, news.edge.wrong) {
        (News::Down, Some(wrong)) if !counts.most_failed() => (
            EventKind::EdgeDown,
            format!(
                "edge {address} answers 404, 502, 503, 504 or nothing for {} of {} tenants",
                wrong.wrong, wrong.asked
            ),
        ),
        (News::Down, _) => (
            EventKind::EdgeDown,
            format!(
                "edge {address} took {} of {} connections",
                counts.tried - counts.failed,
                counts.tried
            ),
        ),
        (News::Up, _) => (EventKind::EdgeUp, format!("edge {address} works again")),
    };
    Command::Note { kind, message }
}

fn host_event(news: &HostNews) -> Command {
    let (host, edge) = (&news.host, news.edge);
    let (kind, message) = match news.news {
        News::Down => (
            EventKind::HostUnreachable,
            format!(
                "host {host} reports, but its tenants do not answer through edge {edge}: look at the way from there to the host's ports"
            ),
        ),
        News::Up => (
            EventKind::HostReachable,
            format!(
                "host {host} is no longer the one whose tenants do not answer through edge {edge}"
            ),
        ),
    };
    Command::Note { kind, message }
}

fn tenant_event(news: board::TenantNews) -> Command {
    let edge = news.probe.edge;
    let (kind, message) = match (news.news, &news.probe.failure) {
        (News::Up, _) => (
            EventKind::TenantReachable,
            format!("answers again through edge {edge}"),
        ),
        (News::Down, Some(why)) => (
            EventKind::TenantUnreachable,
            format!("through edge {edge}: {why}"),
        ),
        (News::Down, None) => (EventKind::TenantUnreachable, format!("through edge {edge}")),
    };
    Command::Audit {
        kind,
        tenant: news.tenant,
        message,
    }
}

/// The page for Prometheus: of all tenants or of one shard's.
pub fn page(handle: &Handle, board: &ProbeBoard, state: &State, shard: Option<usize>) -> String {
    let (settings, now) = (handle.settings(), clock::now_ms());
    let ours = |tenant: &Tenant| shard.is_none_or(|shard| board.is_of_shard(&tenant.name, shard));
    let rows = state
        .fleet
        .tenants
        .values()
        .filter(|t| wanted(t) && ours(t))
        .filter_map(|tenant| {
            let seen = board.seen(state, settings, tenant, now)?;
            Some(page::Row {
                tenant: tenant.name.as_str(),
                host: tenant.placement.host.as_str(),
                seen,
            })
        });
    page::render(rows.collect(), &board.edges(state, settings, now))
}

#[cfg(test)]
mod tests {
    use isyone_fleet::{shards::Shards, testing};

    use super::*;

    #[test]
    fn each_edge_has_its_turn_and_a_shards_tenants_go_through_its_own() {
        let (a, b): (SocketAddr, SocketAddr) =
            (([192, 0, 2, 1], 80).into(), ([192, 0, 2, 2], 80).into());
        let mut settings = testing::settings();
        let both = Addresses(vec![vec![a, b]]);
        let rounds: Vec<_> = (0..4)
            .map(|round| both.of(&settings, &testing::name("alfa"), round))
            .collect();
        assert!(
            rounds[0] != rounds[1] && rounds[0] == rounds[2] && rounds[1] == rounds[3],
            "{rounds:?}"
        );
        assert_eq!(
            Addresses(vec![vec![]]).of(&settings, &testing::name("alfa"), 0),
            None
        );
        settings.shards = Shards::new(vec![testing::name("x"), testing::name("y")]);
        let shards = Addresses(vec![vec![a], vec![b]]);
        for n in 0..20 {
            let tenant = testing::name(&format!("t-{n}"));
            let own = if settings.shards.of(&format!("t-{n}")) == Some(0) {
                a
            } else {
                b
            };
            assert_eq!(shards.of(&settings, &tenant, n), Some(own));
        }
    }

    #[tokio::test]
    async fn a_name_that_is_away_for_a_moment_keeps_its_addresses() {
        let edge: SocketAddr = ([127, 0, 0, 1], 8443).into();
        let first = resolve(&[vec!["127.0.0.1:8443".to_owned()]], Addresses::default()).await;
        assert_eq!(first.all(), [edge]);
        let later = resolve(&[vec!["no port".to_owned()]], first.clone()).await;
        assert_eq!(later, first);
    }
}

//! Probes each tenant through its edge, as visitors reach it, and keeps the results in memory. Off the writer's path:
//! it reads snapshots, and submits an event only when a judgement changes.
//!
//! `ask` makes one probe, `board` keeps the results, `places` limits how many run at once, `page` shows them to
//! Prometheus, and this module runs the loop. Bounded: so many at once, in all and for each edge; so many a second;
//! each in so much time and with so many bytes read.
//! Not here: whose turn it is, whose fault a failure is and who causes wrong answers (isyone_fleet::probes); what a
//! host reports about a tenant's containers (isyone_fleet::observed).

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

/// Between looks at whose turn it is: short, to spread the turns well.
const LOOK: Duration = Duration::from_millis(200);
/// Between looks at what there is to report.
const TELL: Duration = Duration::from_secs(2);
/// How often we resolve edges' names and drop what is gone.
const TIDY: Duration = Duration::from_secs(60);
/// Most edge addresses that we use for one shard; further ones would show the same.
const MAX_ADDRESSES: usize = 16;

/// The edges' addresses: one list for everything, or one for each shard in the configuration's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Addresses(Vec<Vec<SocketAddr>>);

impl Addresses {
    /// The edge to probe this tenant through in that round. Its edges take turns, and in any one round, with two edges,
    /// half of the tenants go through each.
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

/// The asker for this configuration; `None` if there is nothing to probe.
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

/// What probing through the edges needs from the coordinator.
#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) handle: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) board: Arc<ProbeBoard>,
    pub(crate) stop: CancellationToken,
}

/// Probes until the coordinator stops.
pub(crate) async fn run(prober: Arc<Prober>, asker: Asker) {
    tokio::join!(ask_all(&prober, asker), tell_all(&prober));
}

async fn ask_all(prober: &Arc<Prober>, asker: Asker) {
    let (probes, names) = (&prober.config.probes, prober.config.edges_to_probe());
    let (asker, mut places) = (Arc::new(asker), Places::default());
    let (mut rota, mut running) = (Rota::default(), JoinSet::new());
    let (mut addresses, mut tidied) = (Addresses::default(), None::<Instant>);
    let mut looks = interval(LOOK);
    // After a slow look, do not make up for missed turns.
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
                // A probe left out here runs in the next round, through another edge or when there is room.
                let failing = prober.board.takes_no_connections(edge, clock::now_ms());
                let Some(_place) = places.enter(failing).await else {
                    return;
                };
                one(&prober, &asker, edge, &turn.tenant).await;
            });
        }
    }
}

/// Only tenants that should run and once did: nobody misses one that was never there.
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
    // Ignore the result if the tenant has been replaced or should not run any more.
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

/// Resolves the names to addresses; keeps the earlier addresses where a name does not resolve now.
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
    Command::Note {
        kind,
        host: None,
        message,
    }
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
    Command::Note {
        kind,
        host: Some(news.host.clone()),
        message,
    }
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

/// The page for Prometheus: all tenants, or one shard's.
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

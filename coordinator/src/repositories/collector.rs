//! Backups in our metrics: how tenants stand as of the last pass of the rota, and what room destinations have.
//!
//! The room is looked at by a loop of its own: a network file system that hangs must not hang a scrape.
//! Not here: what hosts ship (the agents' own pages).

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_proto::ids::ShortName;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    registry::Unit,
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    places::{Places, Space},
    rota::Standings,
    verified::{Of, Proofs},
};
use crate::base::metrics::Families;

/// How often destinations are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was last seen of each destination; `None`: it is not there.
pub type Rooms = ArcSwap<BTreeMap<ShortName, Option<Space>>>;

/// Looks at destinations until the coordinator stops.
pub async fn watch(places: Arc<Places>, rooms: Arc<Rooms>, stop: CancellationToken) {
    let mut looks: BTreeMap<ShortName, JoinHandle<std::io::Result<Space>>> = BTreeMap::new();
    loop {
        let mut seen = BTreeMap::new();
        for (name, place) in places.iter() {
            let place = place.clone();
            let look = looks
                .entry(name.clone())
                .or_insert_with(|| tokio::task::spawn_blocking(move || place.space()));
            // One that hangs is not begun a second time.
            let ended = timeout(PATIENCE, &mut *look).await;
            let space = ended.ok().and_then(|ended| {
                looks.remove(name);
                ended.ok()?.ok()
            });
            seen.insert(name.clone(), space);
        }
        rooms.store(Arc::new(seen));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Writes what is known at a scrape.
#[derive(Debug)]
pub struct BackupCollector {
    pub standings: Arc<ArcSwap<Standings>>,
    pub rooms: Arc<Rooms>,
    pub places: Arc<Places>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StandingLabel {
    standing: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabel {
    tenant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepositoryLabel {
    tenant: String,
    destination: String,
}

impl RepositoryLabel {
    fn of((tenant, destination): &Of) -> Self {
        Self {
            tenant: tenant.to_string(),
            destination: destination.to_string(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DestinationLabel {
    destination: String,
}

impl Collector for BackupCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let standings = self.standings.load();
        tenants(&mut families, &standings)?;
        proofs(&mut families, &standings.proofs)?;
        let reserve = |name: &ShortName| {
            let place = self.places.get(name);
            place.map_or(0, |place| place.reserve_bytes)
        };
        destinations(&mut families, &self.rooms.load(), reserve)
    }
}

fn tenants(families: &mut Families<'_>, standings: &Standings) -> fmt::Result {
    let by_standing = standings.by_standing.iter();
    families.gauges(
        "backup_tenants",
        "Tenants that are backed up, by what they would lose if their host died now",
        None,
        by_standing.map(|(standing, count)| (StandingLabel { standing }, *count)),
    )?;
    let worst = standings.worst.iter().map(|(tenant, _)| {
        let tenant = tenant.to_string();
        (TenantLabel { tenant }, 1)
    });
    families.gauges(
        "backup_unprotected",
        "1 for a tenant that would lose more than its plan allows; of the 200 that would lose most",
        None,
        worst,
    )?;
    let spools = standings.spools.iter().map(|(tenant, percent)| {
        let tenant = tenant.to_string();
        (TenantLabel { tenant }, *percent)
    });
    families.gauges(
        "backup_spool_percent",
        "How full the place is where a tenant's log waits to be shipped, from 25 on; of the 200 fullest",
        None,
        spools,
    )?;
    families.gauge(
        "backup_orders",
        "Backups that hosts make now",
        None,
        standings.orders,
    )?;
    families.gauge(
        "backup_waiting",
        "Backups that are due and wait for a place at a host or destination",
        None,
        standings.waiting,
    )
}

/// What proofs say of each tenant's repositories.
fn proofs(families: &mut Families<'_>, proofs: &Proofs) -> fmt::Result {
    let verified = proofs.verified.iter();
    families.gauges(
        "backup_last_verified_timestamp",
        "When a backup of the tenant there was last restored and found to be whole; of the 20000 for which that is longest ago",
        Some(&Unit::Seconds),
        verified.map(|(of, at)| (RepositoryLabel::of(of), at / 1000)),
    )?;
    let lists = [
        (
            "backup_unverified",
            "1 for a repository that nobody has proven for 10 days; of the first 200 by tenant",
            &proofs.late,
        ),
        (
            "backup_damaged",
            "1 for a repository whose newest backup was found to be damaged; of the first 200 by tenant",
            &proofs.damaged,
        ),
        (
            "backup_incomplete",
            "1 for a repository whose backup comes back without all files of attachments; of the first 200 by tenant",
            &proofs.incomplete,
        ),
        (
            "backup_proof_failing",
            "1 for a repository whose proof could not be carried out three times in a row; of the first 200 by tenant",
            &proofs.failing,
        ),
    ];
    for (name, help, list) in lists {
        let all = list.iter().map(|of| (RepositoryLabel::of(of), 1));
        families.gauges(name, help, None, all)?;
    }
    families.gauge(
        "backup_proofs",
        "Proofs that hosts make now",
        None,
        proofs.running,
    )?;
    families.gauge(
        "backup_proofs_waiting",
        "Proofs that are due and wait for a host with room or a destination",
        None,
        proofs.waiting,
    )
}

fn destinations(
    families: &mut Families<'_>,
    rooms: &BTreeMap<ShortName, Option<Space>>,
    reserve: impl Fn(&ShortName) -> u64,
) -> fmt::Result {
    let label = |name: &ShortName| DestinationLabel {
        destination: name.to_string(),
    };
    let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let there = || {
        rooms
            .iter()
            .filter_map(|(name, space)| Some((name, (*space)?)))
    };
    families.gauges(
        "backup_destination_up",
        "Whether a destination of backups is there",
        None,
        rooms
            .iter()
            .map(|(name, space)| (label(name), i64::from(space.is_some()))),
    )?;
    families.gauges(
        "backup_destination_size",
        "Size of a destination's file system",
        Some(&Unit::Bytes),
        there().map(|(name, space)| (label(name), bytes(space.total_bytes))),
    )?;
    families.gauges(
        "backup_destination_room",
        "What may still be added to a destination: its free space without what is kept free",
        Some(&Unit::Bytes),
        there().map(|(name, space)| {
            let room = space.free_bytes.saturating_sub(reserve(name));
            (label(name), bytes(room))
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::metrics;

    fn shown(collector: BackupCollector) -> String {
        let mut registry = metrics::registry();
        registry.register_collector(Box::new(collector));
        metrics::render(&registry)
    }

    /// Alerts match these names.
    #[test]
    fn alerts_find_what_they_ask_for() {
        let mut standings = Standings::default();
        standings.by_standing.insert("protected", 7);
        standings.worst.push(("alfa".parse().unwrap(), None));
        standings.spools.push(("alfa".parse().unwrap(), 60));
        let of: Of = ("alfa".parse().unwrap(), "a".parse().unwrap());
        standings.proofs.verified.push((of.clone(), 7_000));
        standings.proofs.late.push(of.clone());
        standings.proofs.damaged.push(of.clone());
        standings.proofs.incomplete.push(of.clone());
        standings.proofs.failing.push(of);
        let space = Space {
            total_bytes: 100,
            free_bytes: 40,
        };
        let rooms = BTreeMap::from([
            ("a".parse().unwrap(), Some(space)),
            ("b".parse().unwrap(), None),
        ]);
        let text = shown(BackupCollector {
            standings: Arc::new(ArcSwap::from_pointee(standings)),
            rooms: Arc::new(ArcSwap::from_pointee(rooms)),
            places: Arc::default(),
        });
        for line in [
            "isyone_backup_tenants{standing=\"protected\"} 7",
            "isyone_backup_unprotected{tenant=\"alfa\"} 1",
            "isyone_backup_spool_percent{tenant=\"alfa\"} 60",
            "isyone_backup_last_verified_timestamp_seconds{tenant=\"alfa\",destination=\"a\"} 7",
            "isyone_backup_unverified{tenant=\"alfa\",destination=\"a\"} 1",
            "isyone_backup_damaged{tenant=\"alfa\",destination=\"a\"} 1",
            "isyone_backup_incomplete{tenant=\"alfa\",destination=\"a\"} 1",
            "isyone_backup_proof_failing{tenant=\"alfa\",destination=\"a\"} 1",
            "isyone_backup_proofs_waiting 0",
            "isyone_backup_destination_up{destination=\"a\"} 1",
            "isyone_backup_destination_up{destination=\"b\"} 0",
            "isyone_backup_destination_size_bytes{destination=\"a\"} 100",
            "isyone_backup_destination_room_bytes{destination=\"a\"} 40",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("size_bytes{destination=\"b\"}"));
    }
}

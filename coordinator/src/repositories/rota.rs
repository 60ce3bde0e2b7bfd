//! The loop that has tenants backed up and their backups proven: makes keys for those that have none, orders what has its turn, ends
//! orders that nobody carries out, and tells when a tenant cannot be restored as was promised.
//!
//! Each pass looks at a snapshot and decides purely; the core looks again before it does anything. Not here: whose turn it is and
//! what a tenant would lose (isyone_fleet), making and proving backups (agents), how proofs stand (verified).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_fleet::{
    backups::{self, Limits, Night, Policy, Protection, Standing},
    change::{
        Command,
        backups::{JudgedBackups, NewKey},
    },
    desired::Tenant,
    settings::Settings,
    state::State,
    views,
};
use isyone_proto::{
    ids::{ShortName, TenantName},
    plan::{Lifecycle, UnixMs, WalSpool},
};
use tokio_util::sync::CancellationToken;

use super::verified::{self, Proofs};
use crate::{
    base::{clock, config::Config, secrets::Sealer},
    writer::Handle,
};

/// Pause between two passes, and what each tenant adds to it, so that of a processor they never take more than some per cent: with 100,000
/// it is 6 s.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_EACH: Duration = Duration::from_micros(50);
/// How much one pass does of each, so that a command stays short.
pub(super) const BATCH: usize = 200;
/// After a start, hosts have so long to say how far they are before anything is said of them, milliseconds.
const SILENCE_MS: i64 = 300_000;
/// A first backup may take its time: a host with many tenants makes one after the other, milliseconds.
const FIRST_MS: i64 = 6 * 3_600_000;
/// Tenants with a series of their own: those that would lose most.
const NAMED: usize = 200;

/// A spool has a series of its own from so full on: it is emptied every few minutes, and what is in it is a shipment.
const SPOOL_PERCENT: i64 = 25;

/// How tenants stand, as of the last pass.
#[derive(Debug, Clone, Default)]
pub struct Standings {
    pub by_standing: BTreeMap<&'static str, i64>,
    /// Tenants that cannot be restored as was promised, and what they would lose, milliseconds; those that would lose most. `None`: all.
    pub worst: Vec<(TenantName, Option<i64>)>,
    /// How full spools are, those that are fullest; when one is full its log gets a gap.
    pub spools: Vec<(TenantName, i64)>,
    /// Orders under way.
    pub orders: i64,
    /// Due, and waiting for a place.
    pub waiting: i64,
    pub proofs: Proofs,
}

/// What the loop needs.
#[derive(Debug)]
pub struct Rota {
    pub handle: Handle,
    pub config: Arc<Config>,
    pub sealer: Arc<Sealer>,
    pub standings: Arc<ArcSwap<Standings>>,
    pub stop: CancellationToken,
}

/// Runs until the coordinator stops.
pub async fn run(rota: Rota) {
    let rota = Arc::new(rota);
    loop {
        let tenants = rota.handle.snapshot().fleet.tenants.len();
        let tenants = u32::try_from(tenants).unwrap_or(u32::MAX);
        tokio::select! {
            () = tokio::time::sleep(PAUSE + PAUSE_EACH.saturating_mul(tenants)) => {}
            () = rota.stop.cancelled() => return,
        }
        let worker = rota.clone();
        // Of 100,000 tenants it takes some tenths of a second.
        match tokio::task::spawn_blocking(move || worker.pass()).await {
            Ok(commands) => submit(&rota, commands).await,
            Err(error) => tracing::error!(%error, "the rota of backups did not end well"),
        }
    }
}

async fn submit(rota: &Rota, commands: Vec<Command>) {
    for command in commands {
        let word = command.word();
        if let Err(error) = rota.handle.submit_patiently("coordinator", command).await {
            tracing::warn!(command = word, "not done yet, tried again: {error}");
        }
    }
}

impl Rota {
    fn pass(&self) -> Vec<Command> {
        let (state, settings, now) = (
            self.handle.snapshot(),
            self.handle.settings(),
            clock::now_ms(),
        );
        let mut commands = Vec::new();
        let keys: Vec<NewKey> = without_key(&state, settings)
            .take(BATCH)
            .map(|tenant| NewKey {
                name: tenant.name.clone(),
                uid: tenant.uid,
                key: self.sealer.new_backup_key(tenant.uid),
            })
            .collect();
        if !keys.is_empty() {
            commands.push(Command::PutBackupKeys(keys));
        }
        let rota = views::rota(&state, settings, now);
        if !rota.dead.is_empty() {
            commands.push(Command::EndBackupOrders(
                rota.dead.iter().take(BATCH).copied().collect(),
            ));
        }
        let mut nights: BTreeMap<Option<&ShortName>, Night> = BTreeMap::new();
        let subjects = rota.subjects.iter().map(|(subject, plan, policy)| {
            let night = nights
                .entry(*plan)
                .or_insert_with(|| self.night(*plan, policy, now));
            (subject, *policy, *night)
        });
        let subjects: Vec<_> = subjects.collect();
        let (mut begun, waiting) =
            backups::turns(subjects.into_iter(), &rota.running, Limits::default(), now);
        begun.truncate(BATCH);
        let (mut standings, judged) = judge(&state, settings, now);
        standings.proofs = verified::stand(&state, settings, now);
        commands.extend(verified::pass(&state, settings, now, &mut standings.proofs));
        standings.orders = count(rota.running.len() + begun.len());
        standings.waiting = count(waiting.len());
        self.standings.store(Arc::new(standings));
        if !begun.is_empty() {
            commands.push(Command::OrderBackups(begun));
        }
        if !judged.is_empty() {
            commands.push(Command::BackupsJudged(judged));
        }
        commands
    }

    /// The night of a plan's tenants that has begun last.
    fn night(&self, plan: Option<&ShortName>, policy: &Policy, now: UnixMs) -> Night {
        let zone = self.config.backup_zone(plan);
        policy.window.night(now, |at| ahead_s(&zone, at))
    }
}

/// How far a zone's clock is ahead of UTC at a time, seconds.
fn ahead_s(zone: &jiff::tz::TimeZone, at: UnixMs) -> i32 {
    let at = jiff::Timestamp::from_millisecond(at);
    at.map_or(0, |at| zone.to_offset(at).seconds())
}

pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Tenants of which backups are to be made, on hosts that can, and that have no key yet.
fn without_key<'a>(state: &'a State, settings: &'a Settings) -> impl Iterator<Item = &'a Tenant> {
    let fleet = &state.fleet;
    let tenants = fleet.tenants.values().map(AsRef::as_ref);
    tenants.filter(move |tenant: &&Tenant| {
        let host = fleet.hosts.get(&tenant.placement.host);
        !fleet.backup_keys.contains_key(&tenant.uid)
            && tenant.desired != Lifecycle::Purged
            && host.is_some_and(|host| host.makes_backups)
            && settings.backups.policy(&tenant.spec.plan).is_some()
    })
}

/// How all tenants stand, and of whom that is news.
fn judge(state: &State, settings: &Settings, now: UnixMs) -> (Standings, Vec<JudgedBackups>) {
    let (mut standings, mut judged) = (Standings::default(), Vec::new());
    let is_early = now - state.started_at < SILENCE_MS;
    for of in state.fleet.backups.values() {
        let tenant = state.fleet.tenants.get(&of.name);
        let Some(tenant) = tenant.filter(|tenant| tenant.uid == of.tenant) else {
            continue;
        };
        let Some(protection) = views::protection(state, settings, tenant, now) else {
            continue;
        };
        *standings
            .by_standing
            .entry(word(protection.standing))
            .or_default() += 1;
        let full = spool_percent(state, tenant).filter(|percent| *percent >= SPOOL_PERCENT);
        standings
            .spools
            .extend(full.map(|percent| (tenant.name.clone(), percent)));
        let is_bad = protection.is_bad() && !is_first(state, tenant, &protection, now);
        if is_bad {
            standings
                .worst
                .push((tenant.name.clone(), protection.loses_ms));
        }
        let is_news = is_bad != state.told_backups.contains(&tenant.uid);
        if is_news && !(is_early && is_bad) && judged.len() < BATCH {
            judged.push(JudgedBackups {
                tenant: tenant.uid,
                is_bad,
                sentence: protection.sentence(now),
            });
        }
    }
    // Everything is more than anything.
    let most = |(name, ms): &(TenantName, Option<i64>)| {
        (std::cmp::Reverse(ms.unwrap_or(i64::MAX)), name.clone())
    };
    standings.worst.sort_by_key(most);
    standings.worst.truncate(NAMED);
    let fullest = |(name, percent): &(TenantName, i64)| (std::cmp::Reverse(*percent), name.clone());
    standings.spools.sort_by_key(fullest);
    standings.spools.truncate(NAMED);
    (standings, judged)
}

/// How much of what a tenant's log may wait in is taken, as its host last said.
fn spool_percent(state: &State, tenant: &Tenant) -> Option<i64> {
    let said = views::observed(state, tenant)?.report.backup.as_deref()?;
    let bound = WalSpool::default().bound_bytes(tenant.size.disk_bytes);
    i64::try_from(said.spool_bytes.saturating_mul(100) / bound).ok()
}

/// Whether its first backup is still on its way.
fn is_first(state: &State, tenant: &Tenant, protection: &Protection, now: UnixMs) -> bool {
    let key = state.fleet.backup_keys.get(&tenant.uid);
    let since = tenant.activated_at.max(key.map(|key| key.made_at));
    protection.to.is_none() && since.is_some_and(|since| now - since < FIRST_MS)
}

/// A standing for programs.
pub fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::NothingToLose => "nothing_to_lose",
        Standing::Protected => "protected",
        Standing::Partly => "partly",
        Standing::Unknown => "unknown",
        Standing::NotProtected => "not_protected",
    }
}

#[cfg(test)]
mod tests {
    use isyone_fleet::{
        observed::Hello,
        testing::{Bench, name, resources},
    };

    use super::*;

    fn rota(bench: &Bench) -> Standings {
        judge(&bench.state, &bench.settings, bench.now).0
    }

    fn greet(bench: &mut Bench, makes_backups: bool) {
        let host = name("h1");
        let accepted_generation = bench.state.fleet.hosts["h1"].plan_generation;
        let hello = Hello {
            makes_backups,
            ..Hello::default()
        };
        bench
            .apply(Command::Greet {
                host,
                hello,
                accepted_generation,
            })
            .unwrap();
    }

    /// Fails if a tenant on a host whose agent makes no backups gets a key, or anything else.
    #[test]
    fn nothing_happens_where_the_agent_makes_none_or_they_are_off() {
        let mut bench = Bench::default();
        bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        bench.settle();
        let count = |bench: &Bench| without_key(&bench.state, &bench.settings).count();
        greet(&mut bench, true);
        assert_eq!(count(&bench), 0, "they are off");
        bench.settings.backups.standard = Some(Policy::standard(vec![name("coordinator")]));
        assert_eq!(count(&bench), 1);
        greet(&mut bench, false);
        assert_eq!(count(&bench), 0);
        assert!(rota(&bench).by_standing.is_empty());
    }

    #[test]
    fn a_zones_clock_is_read_as_it_was_then() {
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
        // 2026-11-01 and 2026-07-01.
        assert_eq!(ahead_s(&zone, 1_793_491_200_000), 3600);
        assert_eq!(ahead_s(&zone, 1_782_864_000_000), 7200);
        assert_eq!(ahead_s(&jiff::tz::TimeZone::UTC, 0), 0);
    }
}

//! How often one thing is told over and over: a token bucket for each tenant, or host, and family of kinds. What comes more
//! often is counted, and told as one event with the last of them, as soon as there is room. So whoever flaps, or was taken
//! over, keeps neither the log nor the store busy, and the newest event says how things stand.
//!
//! Only of what hosts and their tenants can repeat at will; what operators do is always told. In memory only: a restart
//! begins with full buckets. Pure: the time comes with the events.
//! Not here: whose events give way (log).

use imbl::{OrdMap, OrdSet};
use isyone_types::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};

use super::{Event, EventKind};

/// So many at once.
const BURST: i64 = 20;
/// Then one in this time, milliseconds.
const EVERY_MS: i64 = 300_000;
/// After so much time a bucket is full again, milliseconds.
const SPAN_MS: i64 = BURST * EVERY_MS;
/// How many entries one tick looks at, so that a tick stays short.
const MAX_PER_TICK: usize = 200;

/// What is told in turns: a kind and its counterparts share a bucket, so that the last one told is the last one that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    /// Whether a tenant is as it should be.
    Health,
    Memory,
    Volumes,
    Disk,
    /// Whether a tenant's backups are made.
    Backups,
    /// Whether a tenant answers through an edge.
    Answers,
    HostState,
    HostPlan,
    /// What a host has mended by itself.
    HostMended,
    /// Whether a host's tenants answer through an edge.
    HostAnswers,
}

impl Family {
    /// `None`: of what an operator ordered, what happens once, or what cannot be repeated often.
    fn of(kind: &EventKind) -> Option<Self> {
        Some(match kind {
            EventKind::TenantFailing | EventKind::TenantUnhealthy | EventKind::TenantRecovered => {
                Self::Health
            }
            EventKind::TenantOomKilled => Self::Memory,
            EventKind::TenantVolumesPutBack => Self::Volumes,
            EventKind::TenantDiskFilling
            | EventKind::TenantUploadsRefused
            | EventKind::TenantDiskFull
            | EventKind::TenantDatabaseStopped
            | EventKind::TenantDiskFreed => Self::Disk,
            EventKind::BackupDamaged
            | EventKind::BackupFailed
            | EventKind::BackupIncomplete
            | EventKind::BackupLate
            | EventKind::BackupProofFailed
            | EventKind::BackupPruneFailed
            | EventKind::BackupRecovered => Self::Backups,
            EventKind::TenantUnreachable | EventKind::TenantReachable => Self::Answers,
            EventKind::HostUnknown
            | EventKind::HostReady
            | EventKind::HostDegraded
            | EventKind::HostSuspect
            | EventKind::HostLost => Self::HostState,
            EventKind::HostMended => Self::HostMended,
            EventKind::HostPlanAhead | EventKind::HostPlanRefused => Self::HostPlan,
            EventKind::HostUnreachable | EventKind::HostReachable => Self::HostAnswers,
            _ => return None,
        })
    }
}

/// Whom it is about, and what.
type Key = (Option<TenantName>, Option<HostName>, Family);

#[derive(Debug, Clone)]
struct Pace {
    /// When the bucket is full again; each event moves it by [`EVERY_MS`].
    full_at: UnixMs,
    /// When to look at it next; its place in [`Paces::due`].
    due: UnixMs,
    untold: Option<Box<Untold>>,
}

/// Events that were not recorded.
#[derive(Debug, Clone)]
struct Untold {
    count: u64,
    /// The time of the first one.
    since: UnixMs,
    last: Event,
}

impl Untold {
    fn told(self, now: UnixMs) -> Event {
        let seconds = now.saturating_sub(self.since).max(0) / 1000;
        let mut message = format!("and {} more in {seconds} s", self.count);
        if !self.last.message.is_empty() {
            message = format!("{message}; the last: {}", self.last.message);
        }
        Event {
            at: now,
            message,
            ..self.last
        }
    }
}

/// The buckets from which something was taken, until they are full again: for each family at most as many as there are
/// tenants and hosts.
#[derive(Debug, Clone, Default)]
pub struct Paces {
    of: OrdMap<Key, Pace>,
    /// Kept true beside `of`.
    due: OrdSet<(UnixMs, Key)>,
}

impl Paces {
    /// Whether the event is to be recorded now. If not, it is counted.
    pub(crate) fn admit(&mut self, event: &Event) -> bool {
        let Some(family) = Family::of(&event.kind) else {
            return true;
        };
        let now = event.at;
        let key = (event.tenant.clone(), event.host.clone(), family);
        let Some(pace) = self.of.get_mut(&key) else {
            let full_at = now.saturating_add(EVERY_MS);
            self.due.insert((full_at, key.clone()));
            let pace = Pace {
                full_at,
                due: full_at,
                untold: None,
            };
            self.of.insert(key, pace);
            return true;
        };
        if let Some(untold) = &mut pace.untold {
            untold.count += 1;
            untold.last = event.clone();
            return false;
        }
        let taken = taken(pace.full_at, now);
        let admitted = taken <= now.saturating_add(SPAN_MS);
        let due = match admitted {
            true => taken,
            // When there is one in the bucket.
            false => taken - SPAN_MS,
        };
        self.due.remove(&(pace.due, key.clone()));
        pace.due = due;
        match admitted {
            true => pace.full_at = taken,
            false => {
                pace.full_at = taken - EVERY_MS;
                pace.untold = Some(Box::new(Untold {
                    count: 1,
                    since: now,
                    last: event.clone(),
                }));
            }
        }
        self.due.insert((due, key));
        admitted
    }

    /// What is to be told by now of what was counted. Forgets full buckets.
    pub(crate) fn tell(&mut self, now: UnixMs) -> Vec<Event> {
        let mut told = Vec::new();
        for _ in 0..MAX_PER_TICK {
            let first = self.due.get_min().filter(|(at, _)| *at <= now);
            // The clock was set back.
            let beyond = || {
                let last = self.due.get_max();
                last.filter(|(at, _)| *at > now.saturating_add(SPAN_MS))
            };
            let Some(next) = first.or_else(beyond).cloned() else {
                break;
            };
            self.due.remove(&next);
            let (_, key) = next;
            let Some(pace) = self.of.get_mut(&key) else {
                continue;
            };
            let Some(untold) = pace.untold.take() else {
                self.of.remove(&key);
                continue;
            };
            pace.full_at = taken(pace.full_at, now);
            pace.due = pace.full_at;
            self.due.insert((pace.due, key));
            told.push(untold.told(now));
        }
        told
    }
}

/// When a bucket is full again from which one more is taken. However the clock was set, it was never emptier than empty.
fn taken(full_at: UnixMs, now: UnixMs) -> UnixMs {
    let full_at = full_at.clamp(now, now.saturating_add(SPAN_MS));
    full_at.saturating_add(EVERY_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(at: UnixMs, kind: EventKind, tenant: &str) -> Event {
        Event {
            sequence: 0,
            at,
            kind,
            tenant: Some(tenant.parse().unwrap()),
            host: Some("h1".parse().unwrap()),
            actor: "host/h1".to_owned(),
            message: format!("at {at}"),
            operation: None,
        }
    }

    #[test]
    fn the_rest_is_told_once_with_the_last_of_them_and_nobody_else_notices() {
        let mut paces = Paces::default();
        let flap = |at: i64| match at % 2 {
            0 => event(at, EventKind::TenantFailing, "alfa"),
            _ => event(at, EventKind::TenantRecovered, "alfa"),
        };
        let told = (0..100).filter(|at| paces.admit(&flap(*at)));
        assert_eq!(told.count(), 20);
        // Other kinds, other tenants and what has no family are as before.
        assert!(paces.admit(&event(100, EventKind::TenantDiskFull, "alfa")));
        assert!(paces.admit(&event(100, EventKind::TenantFailing, "beta")));
        for at in 100..200 {
            assert!(paces.admit(&event(at, EventKind::OperationSucceeded, "alfa")));
        }
        assert_eq!(paces.tell(EVERY_MS - 1), []);
        let rest = paces.tell(EVERY_MS);
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].kind, EventKind::TenantRecovered);
        assert_eq!(
            (rest[0].at, rest[0].message.as_str()),
            (EVERY_MS, "and 80 more in 299 s; the last: at 99")
        );
        assert_eq!(paces.tell(2 * EVERY_MS), []);
        // Twenty rooms are empty at the start, and one is taken by the rest.
        assert_eq!(paces.tell(SPAN_MS + EVERY_MS), []);
        assert!(paces.of.is_empty() && paces.due.is_empty(), "{paces:?}");
    }

    proptest! {
        /// Whatever the times, also of a clock that is set back: nothing is lost, no more than the rate is told, and in the
        /// end nothing is remembered.
        #[test]
        fn no_more_than_the_rate_is_told_and_nothing_is_lost(
            steps in prop::collection::vec((0..3_u8, prop_oneof![
                20 => 0..20_000_i64,
                3 => 0..EVERY_MS * 3,
                1 => -EVERY_MS * 50..0,
            ]), 1..400),
        ) {
            let (mut paces, mut now) = (Paces::default(), 1_000_000_000);
            let (mut happened, mut told, mut counted) = (0_u64, 0_u64, 0_u64);
            let (mut forward, mut back) = (0, 0);
            let count = |rest: Vec<Event>| -> (u64, u64) {
                let more = rest.iter().map(|event| {
                    let words: Vec<&str> = event.message.split(' ').collect();
                    words[1].parse::<u64>().unwrap()
                });
                (rest.len() as u64, more.sum())
            };
            for (what, step) in steps {
                now += step;
                forward += step.max(0);
                back += i64::from(step < 0);
                if what == 0 {
                    let (events, more) = count(paces.tell(now));
                    told += events;
                    counted += more;
                } else {
                    happened += 1;
                    let admitted = paces.admit(&event(now, EventKind::TenantOomKilled, "alfa"));
                    told += u64::from(admitted);
                    counted += u64::from(admitted);
                }
                // Each jump back fills the bucket at most once.
                let most = BURST * (1 + back) + forward / EVERY_MS + 1;
                prop_assert!(told <= most as u64, "{told} of {most}");
                prop_assert_eq!(paces.of.len(), paces.due.len());
            }
            for _ in 0..3 {
                now += 2 * SPAN_MS;
                counted += count(paces.tell(now)).1;
            }
            prop_assert_eq!(counted, happened);
            prop_assert!(paces.of.is_empty());
        }
    }
}

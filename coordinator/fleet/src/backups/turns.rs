//! Whose turn it is to be backed up: spread over the night, bounded for each host and destination, the most urgent first.
//!
//! A tenant's place in the night is its own and stays the same, so that backups of one tenant are a day apart and a destination
//! is not asked for everything at one o'clock. Who missed its night gets its turn by day, before all others.
//!
//! Not here: increments (each agent ships its own, see [`super::Policy::next_shipment`]), and doing the work.

use std::collections::{BTreeMap, BTreeSet};

use isyone_types::{
    ids::{HostName, ShortName},
    plan::UnixMs,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::policy::{DAY, HOUR, MINUTE, Night, Policy, share};

/// Without a base for so long a tenant does not wait for its night any more. A night that was just missed is 24 h and some; two
/// nights' places are at most a window (12 h) apart.
pub const OVERDUE_MS: i64 = 37 * HOUR;
/// The first pause after a failure; it doubles.
pub const RETRY_MS: i64 = 10 * MINUTE;
/// The longest pause after failures.
pub const LONGEST_RETRY_MS: i64 = 2 * HOUR;
/// Places are given in the first part of a window, the rest is for those who waited: in eighths.
const PLACES_EIGHTHS: i64 = 6;

/// What is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// What an operator asked for, to be kept on purpose.
    Asked,
    /// A tenant stopped: its files as they are, once.
    Stopped,
    Base,
    /// The portable copy.
    Dump,
}

/// What is known of one tenant at one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub tenant: Uuid,
    pub host: HostName,
    pub destination: ShortName,
    /// Its host reports, and is able to.
    pub host_is_ready: bool,
    /// It has been restorable there since then; before there is nothing to back up.
    pub exists_since: Option<UnixMs>,
    /// Since when it does not run.
    pub stopped_since: Option<UnixMs>,
    /// When the last of each was made that succeeded.
    pub base_at: Option<UnixMs>,
    pub dump_at: Option<UnixMs>,
    /// An operator wants one, at once.
    pub is_asked_for: bool,
    /// Failures since, and the last of them.
    pub failures: u32,
    pub failed_at: Option<UnixMs>,
}

/// When something is to be made, and why then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Somebody waits for it: at once.
    Asked(Work),
    /// There is none: at once.
    Never(Work),
    /// It missed its night: at once.
    Overdue(Work),
    /// Its place in this night has come.
    Tonight(Work, UnixMs),
    /// Its place is still to come.
    Later(UnixMs),
    /// After failures.
    Retry(UnixMs),
    /// Nothing is to be made until something changes.
    Nothing,
}

impl Due {
    /// What is to begin now, if anything.
    #[must_use]
    pub const fn at_once(self) -> Option<Work> {
        match self {
            Self::Asked(work)
            | Self::Never(work)
            | Self::Overdue(work)
            | Self::Tonight(work, _) => Some(work),
            Self::Later(_) | Self::Retry(_) | Self::Nothing => None,
        }
    }
}

/// How much at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub per_host: usize,
    pub per_destination: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A base backup uses some two processors of a host.
            per_host: 1,
            // What a disk or a line of 1 Gbit/s takes without getting slower in total.
            per_destination: 8,
        }
    }
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub tenant: Uuid,
    pub host: HostName,
    pub destination: ShortName,
}

/// What begins now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub tenant: Uuid,
    pub host: HostName,
    pub destination: ShortName,
    pub work: Work,
}

/// Why something that is due does not begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    HostIsNotReady,
    /// The tenant is being backed up.
    Tenant,
    Host,
    Destination,
}

/// A tenant's place within a night.
fn place(subject: &Subject, night: Night) -> UnixMs {
    let places = (night.end - night.begin) * PLACES_EIGHTHS / 8;
    // Destinations of a tenant have different places: one after the other.
    let own = share(subject.tenant, subject.destination.as_str(), places);
    night.begin + own
}

/// What is next for a subject, and when.
#[must_use]
pub fn due(subject: &Subject, policy: &Policy, night: Night, now: UnixMs) -> Due {
    let next = wanted(subject, policy, night, now);
    if next.at_once().is_none() {
        return next;
    }
    match subject.failed_at {
        Some(failed) if subject.failures > 0 => {
            let doubled = RETRY_MS << (subject.failures - 1).min(10);
            let again = failed + doubled.min(LONGEST_RETRY_MS);
            // A clock that was set back does not make anybody wait longer.
            let waits = now < again && failed <= now;
            if waits { Due::Retry(again) } else { next }
        }
        _ => next,
    }
}

/// The same without failures.
fn wanted(subject: &Subject, policy: &Policy, night: Night, now: UnixMs) -> Due {
    let Some(exists) = subject.exists_since else {
        return Due::Nothing;
    };
    if subject.is_asked_for {
        return Due::Asked(Work::Asked);
    }
    if let Some(stopped) = subject.stopped_since {
        return match subject.base_at {
            Some(at) if at >= stopped => Due::Nothing,
            Some(_) => Due::Overdue(Work::Stopped),
            None => Due::Never(Work::Stopped),
        };
    }
    let Some(base) = subject.base_at else {
        return Due::Never(Work::Base);
    };
    if now - base > OVERDUE_MS {
        return Due::Overdue(Work::Base);
    }
    let place = place(subject, night);
    if base < night.begin && night.holds(now) {
        return tonight(Work::Base, place, now);
    }
    let nights = i64::from(policy.dump_nights);
    let dumped = subject.dump_at.unwrap_or(exists);
    // Half a day less: the place of a dump moves with how long the base took.
    let dump_is_due = nights > 0 && now - dumped > nights * DAY - DAY / 2;
    if dump_is_due && night.holds(now) {
        return tonight(Work::Dump, place, now);
    }
    // The next night's place, but for changed clocks.
    Due::Later(place + DAY)
}

fn tonight(work: Work, place: UnixMs, now: UnixMs) -> Due {
    if now < place {
        Due::Later(place)
    } else {
        Due::Tonight(work, place)
    }
}

/// The order of turns: what somebody waits for first, then what has none before what is overdue, before tonight's by their places; the rest so that equal inputs give
/// equal answers.
type Urgency<'a> = (Due, UnixMs, Uuid, &'a ShortName);

/// Begins what is due, as far as limits allow, and says of the rest that is due why it waits. `subjects` come with their policy
/// and the night by their clock.
#[must_use]
pub fn turns<'a>(
    subjects: impl Iterator<Item = (&'a Subject, &'a Policy, Night)>,
    running: &[Running],
    limits: Limits,
    now: UnixMs,
) -> (Vec<Turn>, Vec<(&'a Subject, Wait)>) {
    let mut busy = Busy::of(running);
    let mut wanting: Vec<(Urgency<'a>, Work, &'a Subject)> = subjects
        .filter_map(|(subject, policy, night)| {
            let due = due(subject, policy, night, now);
            let work = due.at_once()?;
            // Longest without a base first.
            let since = subject.base_at.or(subject.exists_since).unwrap_or(now);
            let urgency = (due, since, subject.tenant, &subject.destination);
            Some((urgency, work, subject))
        })
        .collect();
    wanting.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut begun, mut waiting) = (Vec::new(), Vec::new());
    for (_, work, subject) in wanting {
        match busy.refuses(subject, limits) {
            Some(wait) => waiting.push((subject, wait)),
            None => {
                busy.add(subject.tenant, &subject.host, &subject.destination);
                begun.push(Turn {
                    tenant: subject.tenant,
                    host: subject.host.clone(),
                    destination: subject.destination.clone(),
                    work,
                });
            }
        }
    }
    (begun, waiting)
}

/// What is in use.
#[derive(Default)]
struct Busy<'a> {
    tenants: BTreeSet<Uuid>,
    hosts: BTreeMap<&'a HostName, usize>,
    destinations: BTreeMap<&'a ShortName, usize>,
}

impl<'a> Busy<'a> {
    fn of(running: &'a [Running]) -> Self {
        let mut busy = Self::default();
        for job in running {
            busy.add(job.tenant, &job.host, &job.destination);
        }
        busy
    }

    fn add(&mut self, tenant: Uuid, host: &'a HostName, destination: &'a ShortName) {
        self.tenants.insert(tenant);
        *self.hosts.entry(host).or_default() += 1;
        *self.destinations.entry(destination).or_default() += 1;
    }

    fn refuses(&self, subject: &Subject, limits: Limits) -> Option<Wait> {
        let used = |count: Option<&usize>| count.copied().unwrap_or(0);
        let reasons = [
            (!subject.host_is_ready, Wait::HostIsNotReady),
            (self.tenants.contains(&subject.tenant), Wait::Tenant),
            (
                used(self.hosts.get(&subject.host)) >= limits.per_host,
                Wait::Host,
            ),
            (
                used(self.destinations.get(&subject.destination)) >= limits.per_destination,
                Wait::Destination,
            ),
        ];
        let first = reasons.into_iter().find(|(is_so, _)| *is_so);
        first.map(|(_, wait)| wait)
    }
}

//! What is kept of a plan's tenants, how much may be lost, and in which hours of the customer's night the large work is done.
//!
//! Not here: whose turn it is within them (turns).

use isyone_types::{ids::ShortName, plan::UnixMs};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// PostgreSQL closes a segment that was written to after this time (`archive_timeout`): no shipment can have more.
pub const ARCHIVE_TIMEOUT_MS: i64 = MINUTE;
/// Opening a repository and its round trips take seconds, whatever there is to ship.
const SHORTEST_SHIPPING_MS: i64 = 30_000;

/// Hours of the night, in the plan's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Minute of the day, by the customer's clock.
    pub begin_minute: u16,
    pub length_minutes: u16,
}

/// One occurrence of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Night {
    /// The day on which it begins, by the customer's clock; days are counted from 1970.
    pub day: i64,
    pub begin: UnixMs,
    pub end: UnixMs,
}

impl Night {
    #[must_use]
    pub const fn holds(&self, at: UnixMs) -> bool {
        self.begin <= at && at < self.end
    }
}

impl Window {
    /// The night that contains `now`, or else the last one before it. `offset` is how many seconds the customer's clock is ahead
    /// of UTC at a time.
    ///
    /// A night begins by the clock and lasts its length: where clocks are changed within it, it ends at another time.
    #[must_use]
    pub fn night(&self, now: UnixMs, offset: impl Fn(UnixMs) -> i32) -> Night {
        let ahead = |at| i64::from(offset(at)) * 1000;
        let today = (now + ahead(now)).div_euclid(DAY);
        let of = |day: i64| {
            let by_the_clock = day * DAY + i64::from(self.begin_minute) * MINUTE;
            // An hour that is left out or comes twice: the second guess is at most that hour off, and the same each time.
            let guess = by_the_clock - ahead(by_the_clock);
            let begin = by_the_clock - ahead(guess);
            Night {
                day,
                begin,
                end: begin + i64::from(self.length_minutes) * MINUTE,
            }
        };
        // Tomorrow's may have begun where clocks are set back over midnight.
        let nights = [today + 1, today, today - 1, today - 2].map(of);
        let begun = nights.into_iter().find(|night| night.begin <= now);
        begun.unwrap_or(nights[3])
    }
}

/// How many restorable states are kept of each age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    pub last: u16,
    pub daily: u16,
    pub weekly: u16,
    pub monthly: u16,
    /// For how long back every second can be restored, milliseconds.
    pub every_second_ms: i64,
    /// How long what was made before a deletion or an upgrade is kept, milliseconds.
    pub on_purpose_ms: i64,
}

/// A plan's backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How much may be lost with a host, milliseconds: what is promised to the customer (RPO).
    pub may_lose_ms: i64,
    /// A portable dump each so many nights; 0: none.
    pub dump_nights: u16,
    pub keep: Keep,
    pub window: Window,
    /// Each of them gets everything.
    pub destinations: Vec<ShortName>,
}

/// Why a policy cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error(
        "at least 2 minutes can be lost with a host: a minute until PostgreSQL closes a segment, and the time to ship it"
    )]
    TooLittleLoss,
    #[error("what may be lost is at most a day: there is a base backup each night")]
    TooMuchLoss,
    #[error("a window has between 30 minutes and 12 hours and begins within a day")]
    Window,
    #[error("the last backup is always kept, and no age more than 1000 times")]
    Keep,
    #[error(
        "every second can be restored for at most 100 days back, and what was made on purpose is kept for at most 10 years"
    )]
    Time,
    #[error("a destination is named once, and there are at most 4")]
    Destinations,
}

impl Policy {
    /// Each 5 minutes, a base each night between 1 and 5, a dump each week.
    #[must_use]
    pub fn standard(destinations: Vec<ShortName>) -> Self {
        Self {
            // Twice the shipping interval, and the minute before a segment is closed.
            may_lose_ms: 11 * MINUTE,
            dump_nights: 7,
            keep: Keep {
                last: 2,
                daily: 7,
                weekly: 4,
                monthly: 12,
                every_second_ms: 7 * DAY,
                on_purpose_ms: 30 * DAY,
            },
            window: Window {
                begin_minute: 60,
                length_minutes: 240,
            },
            destinations,
        }
    }

    /// # Errors
    /// It promises what cannot be held, or means nothing.
    pub fn check(&self) -> Result<(), PolicyError> {
        let Keep {
            last,
            daily,
            weekly,
            monthly,
            every_second_ms,
            on_purpose_ms,
        } = self.keep;
        let mut names: Vec<_> = self.destinations.iter().collect();
        names.sort();
        names.dedup();
        let wrong = [
            (self.may_lose_ms < 2 * MINUTE, PolicyError::TooLittleLoss),
            (self.may_lose_ms > DAY, PolicyError::TooMuchLoss),
            (
                self.window.begin_minute >= 1440
                    || !(30..=720).contains(&self.window.length_minutes),
                PolicyError::Window,
            ),
            (
                last == 0 || [last, daily, weekly, monthly].iter().any(|n| *n > 1000),
                PolicyError::Keep,
            ),
            (
                !(0..=100 * DAY).contains(&every_second_ms)
                    || !(0..=3650 * DAY).contains(&on_purpose_ms),
                PolicyError::Time,
            ),
            (
                names.len() != self.destinations.len() || names.len() > 4,
                PolicyError::Destinations,
            ),
        ];
        let first = wrong.into_iter().find(|(is_wrong, _)| *is_wrong);
        first.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// How often changes are shipped, milliseconds: so often that one shipment can fail and what is lost stays within what may be.
    #[must_use]
    pub const fn ship_every_ms(&self) -> i64 {
        let half = (self.may_lose_ms - ARCHIVE_TIMEOUT_MS) / 2;
        if half > SHORTEST_SHIPPING_MS {
            half
        } else {
            SHORTEST_SHIPPING_MS
        }
    }

    /// When the next shipment of a tenant is due after `now`: tenants of the same plan take turns through the interval.
    #[must_use]
    pub fn next_shipment(&self, tenant: Uuid, now: UnixMs) -> UnixMs {
        let every = self.ship_every_ms();
        let phase = share(tenant, "shipment", every);
        let last = (now - phase).div_euclid(every) * every + phase;
        last + every
    }
}

/// A number below `of` that is a tenant's own: evenly spread over tenants, the same each time.
pub(super) fn share(tenant: Uuid, what: &str, of: i64) -> i64 {
    let hash = Sha256::new_with_prefix(what)
        .chain_update(tenant.as_bytes())
        .finalize();
    let mut number = [0; 8];
    number.copy_from_slice(&hash[..8]);
    let scaled =
        (u128::from(u64::from_be_bytes(number)) * u128::from(of.max(0).unsigned_abs())) >> 64;
    i64::try_from(scaled).unwrap_or(0)
}

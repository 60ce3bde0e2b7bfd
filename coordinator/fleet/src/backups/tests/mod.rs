//! Policies, whole nights of turns, and judgements.

mod nights;
mod policies;
mod proofs;
mod protections;
mod restores;

use isyone_types::ids::{HostName, ShortName};
use uuid::Uuid;

use super::policy::{DAY, HOUR};

/// 2026-11-01 00:00 UTC.
pub(super) const T0: i64 = 1_793_491_200_000;

pub(super) fn short(name: &str) -> ShortName {
    name.parse().unwrap()
}

pub(super) fn host(number: usize) -> HostName {
    format!("h{number}").parse().unwrap()
}

pub(super) fn tenant(number: usize) -> Uuid {
    // Spread as real ones are.
    Uuid::from_u128((number as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
}

/// A clock that is this far ahead of UTC, and after `T0` + 12 days an hour less: as in Europe's autumn, but anywhere.
pub(super) fn changing(ahead_hours: i32) -> impl Fn(i64) -> i32 + Copy {
    move |at| {
        let summer = i32::from(at < T0 + 12 * DAY);
        (ahead_hours + summer) * 3600
    }
}

pub(super) fn changing_in_spring(ahead_hours: i32) -> impl Fn(i64) -> i32 + Copy {
    move |at| {
        let summer = i32::from(at >= T0 + 12 * DAY + 3 * HOUR);
        (ahead_hours + summer) * 3600
    }
}

//! The wall clock and the machine's time since its boot, read in this one place. Everything else goes by moments that do not jump.

use rustix::time::{ClockId, clock_gettime};

/// Changes with each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Milliseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads it"
)]
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Milliseconds since the machine was started, those included in which it was suspended.
pub(crate) fn boot_ms() -> u64 {
    let since = clock_gettime(ClockId::Boottime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(since.tv_sec)
        .saturating_mul(1_000)
        .saturating_add(part(since.tv_nsec) / 1_000_000)
}

/// Which boot that is; empty where the machine does not say.
pub(crate) fn boot_id() -> String {
    let text = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
    text.trim().to_owned()
}

//! The only module that reads the wall clock. Everything else takes the time as an argument.
//!
//! Here too: the runtime's monotonic clock as a standard `Instant`, for values that the core keeps. Not here: waits and
//! deadlines, which use tokio's timers.

use isyone_proto::plan::UnixMs;

/// Milliseconds since the Unix epoch, UTC.
pub fn now_ms() -> UnixMs {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let now = std::time::SystemTime::now();
    // A clock before 1970 was never set; certificate checks will report it.
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Seconds since the Unix epoch, as certificates count.
pub fn now_seconds() -> i64 {
    now_ms().div_euclid(1000)
}

/// Milliseconds since the machine's boot, also of those that it was suspended for (`CLOCK_BOOTTIME`).
pub fn steady_ms() -> i64 {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    since.tv_sec * 1000 + since.tv_nsec / 1_000_000
}

/// The runtime's monotonic clock, which tests can pause.
pub fn monotonic() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

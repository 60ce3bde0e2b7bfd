//! The only place that reads the wall clock. Everything else takes the time as an argument.
//!
//! Not here: monotonic time, which waits and deadlines take from tokio or std.

use isyone_proto::plan::UnixMs;

/// Milliseconds since the Unix epoch, UTC.
pub fn now_ms() -> UnixMs {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let now = std::time::SystemTime::now();
    // A clock before 1970 is a clock that was never set: certificates then say so.
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// The same in seconds, as certificates count.
pub fn now_seconds() -> i64 {
    now_ms().div_euclid(1000)
}

/// The runtime's monotonic clock, which tests can stop.
pub fn monotonic() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

//! The only place that reads the clock or draws random numbers. Everything else gets them as arguments.

use uuid::Uuid;

/// Milliseconds since the Unix epoch. `ISYCTL_NOW` (RFC 3339) replaces the clock, so that tests can pin the ages in
/// tables.
#[expect(clippy::disallowed_methods, reason = "the one clock of isyctl")]
pub fn now_ms() -> i64 {
    let pinned = std::env::var("ISYCTL_NOW")
        .ok()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    pinned.unwrap_or_else(jiff::Timestamp::now).as_millisecond()
}

/// A random number in 0..1.
pub fn chance() -> f64 {
    // The last 48 bits of a random UUID are all random.
    let bits = Uuid::new_v4().as_u128() & ((1 << 48) - 1);
    bits as f64 / (1u64 << 48) as f64
}

/// A fresh idempotency key: one per intended change, reused for its retries.
pub fn request_id() -> String {
    Uuid::new_v4().to_string()
}

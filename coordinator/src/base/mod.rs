//! What every acting part stands on: configuration, the certificate authority, the sealing key and randomness, the clock, files,
//! what is counted and timed.
//!
//! Not here: the Fleet and anything that knows of it beyond its types.

pub mod clock;
pub mod config;
pub mod files;
pub mod memory;
pub mod metrics;
pub mod pki;
pub mod secrets;
pub mod telemetry;
pub mod timings;

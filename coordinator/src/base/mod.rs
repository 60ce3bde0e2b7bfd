//! The foundation of every acting part: configuration, the certificate authority, the sealing key and randomness, the
//! clock, files, metrics and timings.
//!
//! Not here: the Fleet, and anything that knows more of it than its types.

pub mod backup_keys;
pub mod clock;
pub mod config;
pub mod files;
pub mod mail;
pub mod memory;
pub mod metrics;
pub mod pki;
pub mod rate;
pub mod secrets;
pub mod telemetry;
pub mod timings;

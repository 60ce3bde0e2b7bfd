//! Tenants as seen through their edges: which to probe next, what many wrong answers have in common, and where the
//! fault lies when one cannot be reached.
//!
//! Not here: sending probes and keeping their results (the coordinator's edges/probes).

pub mod answers;
pub mod judge;
pub mod rota;

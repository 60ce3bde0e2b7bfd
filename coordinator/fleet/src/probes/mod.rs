//! Tenants as seen through their edges: whose turn it is to be asked, what many wrong answers have in common, and whose
//! trouble it is when one cannot be reached.
//!
//! Not here: asking, and keeping the answers (the coordinator's edges/probes).

pub mod answers;
pub mod judge;
pub mod rota;

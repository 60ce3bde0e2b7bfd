//! The coordinator's core: one value, the Fleet, how commands change it, and views of it. All of it is pure and
//! synchronous: time, identifiers and secrets are arguments, so the same inputs give the same answer.
//!
//! Not here: anything that acts. The coordinator stores, listens, sends requests and draws random numbers; it depends
//! on this crate, and nothing here knows of it, of tokio or of wire types.

pub mod backups;
pub mod change;
pub mod desired;
pub mod domains;
pub mod edge;
pub mod event;
pub mod liveness;
pub mod observed;
pub mod operation;
pub mod orders;
pub mod placement;
#[cfg(feature = "planted")]
pub mod planted;
pub mod probes;
pub mod procedures;
pub mod rebalance;
pub mod settings;
pub mod shards;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod top;
pub mod views;
pub mod written;

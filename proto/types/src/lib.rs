//! The checked types that coordinator, agent and command line share: names, specs, plans, reports, who somebody is.
//!
//! Plain values, no I/O, nothing of the wire: the coordinator's pure core depends on them. Not here: the protocol and its
//! parsing (isyone-proto, which exports these types again).

#![warn(missing_docs)]

pub mod identity;
pub mod ids;
pub mod operation;
pub mod plan;
pub mod report;
pub mod spec;
pub mod token;

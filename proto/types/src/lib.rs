//! The checked types that coordinator, agent and command line share: names, specs, plans, their generations, reports, identities.
//!
//! Plain values without I/O and without wire types: the coordinator's pure core depends on them. Not here: the protocol
//! and its parsing (isyone-proto, which re-exports these types).

#![warn(missing_docs)]

pub mod backup;
pub mod callers;
pub mod disk;
pub mod echo;
pub mod finding;
pub mod generation;
pub mod identity;
pub mod ids;
pub mod jobs;
pub mod known;
pub mod lease;
pub mod mail;
pub mod network;
pub mod odoo;
pub mod operation;
pub mod plan;
pub mod proof;
pub mod report;
pub mod spec;
pub mod token;

//! The agent's side of the coordinator: joining, the session and its streams, reports, renewal.
//!
//! Nothing here can stop a tenant. Not here: what a plan causes (tenant), key and certificates on disk
//! (host::identity).

mod asked;
mod attempts;
pub mod comeback;
mod command;
pub mod error;
pub mod join;
mod lists;
pub mod renew;
pub mod report;
pub mod session;
pub mod streams;

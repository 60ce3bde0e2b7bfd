//! Bulk data between the agents of two hosts, over mutual TLS: what a stopped copy's volumes hold, and a connection to a
//! running copy's PostgreSQL. The coordinator's plan grants each for one tenant, one host and a time; without a live
//! grant there is no connection, and an open one ends. And the word by which hosts that keep standbys let others' tenants go on.
//!
//! It goes directly where the other host can be reached, else through the coordinator, unread.
//!
//! What comes from the other side is hostile input, and so is everything inside a tenant's volumes and containers. Not
//! here: what fetching is for (jobs), who is granted what (the coordinator).

mod admit;
mod followers;
mod io;
mod port;
mod reach;
mod renewals;
mod service;
mod source;
pub mod tunnel;

use std::time::Duration;

pub use self::{
    admit::PeerIdentity,
    port::PeerPort,
    reach::{CoordinatorRelay, Reach, Reached, Relay, Route},
    renewals::renew_leases,
    service::{Peers, volume_of, volume_to_wire},
    source::{LIMITS, WORKING_EVERY},
};
pub use crate::host::{
    cluster,
    database::{ContainerDatabases, Databases, Of},
};

/// Largest piece of data in one message.
pub const CHUNK: usize = 128 << 10;
/// Messages queued in front of a slow reader; beyond that whoever makes them waits.
pub const QUEUE: usize = 4;
/// Files asked for ahead, so that small ones do not wait for a round trip each.
pub const AHEAD: usize = 64;
/// A call on which nothing moves for this long has ended for us: longer than a piece may wait for its rate and than a
/// disk hangs while it flushes.
pub const STALL: Duration = Duration::from_secs(60);
/// Entries of one message of a list.
pub const BATCH: usize = 500;

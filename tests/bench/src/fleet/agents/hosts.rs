//! Where the fleet's hosts are, as simulated agents know it: all of them have been in the fleet for a while, so they have its list
//! on disk and say so, and the coordinator has nothing to tell.
//!
//! Not here: how a list is told and taken (isyone-proto's hosts).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use isyone_proto::hosts::digest;

/// What agents say of their list; all have the same.
#[derive(Clone)]
pub(super) struct KnownHosts(Arc<str>);

impl KnownHosts {
    pub(super) fn of(addresses: &BTreeSet<IpAddr>) -> Self {
        Self(digest(addresses).into())
    }

    pub(super) fn sha256(&self) -> &str {
        &self.0
    }
}

//! What becomes of visitors who still come to where a tenant does not run.
//!
//! Not here: who decides that (isyone-fleet), holding them and passing them on (the agent's relay).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What becomes of the requests that come to a copy whose Odoo does not run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Callers {
    /// They are refused, and edges show a page.
    #[default]
    Refused,
    /// They wait for so long at most, from when the host begins to hold them; afterwards they get the waiting page.
    Held {
        /// Milliseconds.
        most_ms: u32,
    },
    /// They go on to the tenant's new place, until edges go there by themselves.
    PassedOn {
        /// Address of the other host.
        address: IpAddr,
        /// Its port there that leads to Odoo's HTTP server.
        http_port: u16,
        /// Its port there that leads to Odoo's gevent server; `None`: without workers there is none.
        websocket_port: Option<u16>,
    },
}

impl Callers {
    /// Nothing out of the ordinary.
    pub fn are_refused(&self) -> bool {
        *self == Self::Refused
    }
}

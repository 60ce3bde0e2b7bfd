//! What a stack depends on beside the tenant's plan: facts of the host and of the images.
//!
//! Not here: finding them out (host).

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What of the host a stack depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Ports are published here only.
    pub advertise: IpAddr,
    /// A container cannot be given more.
    pub cpus: u32,
    /// Directory of the tenants' directories, absolute.
    pub tenants_dir: PathBuf,
    /// Directory of our own Odoo modules, absolute.
    pub addons_dir: PathBuf,
}

/// Facts of both images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Odoo's.
    pub odoo: ImageFacts,
    /// PostgreSQL's.
    pub postgres: ImageFacts,
}

/// An image as the stack needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Engine's id.
    pub id: String,
    /// Content digest that is reported.
    pub digest: String,
    /// It only poses as the real thing.
    pub standin: bool,
    /// Numbers of the user that reads odoo.conf or owns the cluster.
    pub uid: u32,
    pub gid: u32,
    /// `addons_path` of the image's own odoo.conf.
    pub addons_path: Option<String>,
    /// What this Odoo loads by itself, as `server_wide_modules` wants it.
    pub server_wide_modules: String,
    /// `PG_MAJOR`.
    pub postgres_major: String,
}

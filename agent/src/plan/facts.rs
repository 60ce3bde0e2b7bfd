//! What a stack depends on besides the tenant's plan: facts about the host and the images.
//!
//! Not here: collecting them (host).

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Facts about the host, and where it has the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Ports are open only on this address.
    pub advertise: IpAddr,
    /// CPUs of the host: the most that a container can be given.
    pub cpus: u32,
    /// Directory that holds the tenants' directories; absolute.
    pub tenants_dir: PathBuf,
    /// Directory of our own Odoo modules; absolute.
    pub addons_dir: PathBuf,
    /// The device that tenants' data is on, such as `/dev/sda`; `None`: none that the kernel limits.
    pub data_device: Option<String>,
    /// Largest packet of tenants' networks, where it is not Docker's usual one.
    pub mtu: Option<u16>,
    /// The host's relay listens at tenants' ports; else Docker publishes them.
    pub relays: bool,
    /// Home of the tenant that is looked at; `None`: it has none where this machine does not see Docker's volumes.
    pub home: Option<PathBuf>,
}

/// Facts about both images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    pub odoo: ImageFacts,
    pub postgres: ImageFacts,
}

/// An image as the stack needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Engine's id.
    pub id: String,
    /// Content digest, for reports.
    pub digest: String,
    /// It only poses as Odoo or PostgreSQL.
    pub standin: bool,
    /// Uid of the user that reads odoo.conf or owns the cluster.
    pub uid: u32,
    pub gid: u32,
    /// `addons_path` of the image's own odoo.conf.
    pub addons_path: Option<String>,
    /// What this Odoo loads by default, in the format of `server_wide_modules`.
    pub server_wide_modules: String,
    /// Major version of an Odoo; 0 where the image does not say. `None`: not Odoo, or read by an agent of before.
    #[serde(default)]
    pub odoo_major: Option<u32>,
    /// `PG_MAJOR`.
    pub postgres_major: String,
    /// Where a PostgreSQL has its cluster: `PGDATA`, or what its version says. `None`: not PostgreSQL, or read by an agent of before.
    #[serde(default)]
    pub pgdata: Option<String>,
}

//! `[edge]`: what every edge does for all tenants, and Traefik's dashboard. Reads the dashboard's users file.
//!
//! Not here: the section's fields (mod.rs) and what Traefik makes of them (isyone-traefik).

use std::{collections::BTreeSet, path::PathBuf};

use ipnet::IpNet;
use isyone_fleet::shards;
use isyone_proto::{ids::TenantName, spec::Domain};
use isyone_traefik as traefik;
use serde::{Deserialize, Serialize};

use super::{Bytes, Config, ConfigError, Edge, check::ensure, units};
use crate::base::files;

/// Every edge looks up the address of each request in this list.
const MAX_TRUSTED: usize = 256;
/// Odoo's own default; with less, importing an ordinary product list with pictures fails.
const MIN_UPLOAD: Bytes = Bytes::new(128 << 20);
/// Odoo holds an uploaded file in memory as a whole.
const MAX_UPLOAD: Bytes = Bytes::gib(64);
/// Most users of Traefik's dashboard.
const MAX_DASHBOARD_USERS: usize = 100;
/// Most cost (log2 of rounds) of a bcrypt hash: Traefik computes it for each request, and 10 already takes 60 ms of a
/// core.
const MAX_COST: u32 = 10;

/// Which pages may embed tenants' pages in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameOptions {
    /// Only the tenant's own pages.
    #[serde(rename = "SAMEORIGIN")]
    SameOrigin,
    /// None.
    #[serde(rename = "DENY")]
    Deny,
    /// Any: the header is not sent.
    #[serde(rename = "")]
    Unsaid,
}

impl FrameOptions {
    /// The header's value; `None`: it is not sent.
    pub fn header(self) -> Option<String> {
        match self {
            Self::SameOrigin => Some("SAMEORIGIN".to_owned()),
            Self::Deny => Some("DENY".to_owned()),
            Self::Unsaid => None,
        }
    }
}

/// Traefik's dashboard, for people on other machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    /// Default: `traefik.<base_domain>`.
    #[serde(default)]
    pub hostname: Option<Domain>,
    /// The users that get in, in the format of `htpasswd -B`; relative to the data directory.
    pub users_file: PathBuf,
    /// Client addresses or networks that get in; empty: all.
    #[serde(default, deserialize_with = "units::networks")]
    pub addresses: Vec<IpNet>,
}

impl Config {
    /// Host name of Traefik's dashboard, if it has one.
    pub fn dashboard_hostname(&self) -> Option<String> {
        let dashboard = self.edge.dashboard.as_ref()?;
        let own = || format!("traefik.{}", self.base_domain);
        Some(
            dashboard
                .hostname
                .as_ref()
                .map_or_else(own, ToString::to_string),
        )
    }

    /// Traefik's dashboard, with the users that their file has now.
    pub fn dashboard(&self) -> Result<Option<traefik::Dashboard>, ConfigError> {
        let Some((dashboard, hostname)) =
            self.edge.dashboard.as_ref().zip(self.dashboard_hostname())
        else {
            return Ok(None);
        };
        let path = self.data_dir.join(&dashboard.users_file);
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Io {
            path: path.clone(),
            source,
        })?;
        ensure(
            files::is_private(&path),
            "edge.dashboard.users_file",
            || format!("{} is readable by others: chmod 600 it", path.display()),
        )?;
        let users = users(&text).map_err(|problem| {
            ConfigError::at(
                "edge.dashboard.users_file",
                format!("{} {problem}", path.display()),
            )
        })?;
        Ok(Some(traefik::Dashboard {
            hostname,
            users,
            addresses: dashboard.addresses.clone(),
        }))
    }
}

/// Parses a users file. Errors never quote a line.
fn users(text: &str) -> Result<Vec<String>, String> {
    let mut users = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // Only bcrypt: the other hashes that Traefik accepts (MD5, SHA-1) are broken in no time.
        let cost = line
            .split_once(":$2")
            .and_then(|(_, hash)| hash.split('$').nth(1)?.parse::<u32>().ok());
        let Some(cost) = cost.filter(|_| traefik::is_user(line)) else {
            return Err(format!(
                "line {number} is not `name:hash` with a bcrypt hash: make it with `htpasswd -B`"
            ));
        };
        if cost > MAX_COST {
            return Err(format!(
                "line {number} has a hash of cost {cost}, above {MAX_COST}: each request would take long; make it with `htpasswd -B -C 8`"
            ));
        }
        users.push(line.to_owned());
    }
    match users.len() {
        0 => Err("names nobody: add a user with `htpasswd -B`".to_owned()),
        1..=MAX_DASHBOARD_USERS => Ok(users),
        many => Err(format!("has {many} users: at most {MAX_DASHBOARD_USERS}")),
    }
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let edge = &config.edge;
    for (key, value) in [
        ("rate_average", edge.rate_average),
        ("rate_burst", edge.rate_burst),
        ("in_flight", edge.in_flight),
    ] {
        ensure(value > 0, &format!("edge.{key}"), || {
            "must be at least 1".to_owned()
        })?;
    }
    ensure(
        edge.trusted_proxies.len() <= MAX_TRUSTED,
        "edge.trusted_proxies",
        || {
            format!(
                "{} are too many: at most {MAX_TRUSTED}",
                edge.trusted_proxies.len()
            )
        },
    )?;
    ensure(
        edge.trusted_proxies.iter().all(|net| net.prefix_len() > 0),
        "edge.trusted_proxies",
        || "must not be everybody: then each client could say that it is another".to_owned(),
    )?;
    ensure(
        (MIN_UPLOAD..=MAX_UPLOAD).contains(&edge.upload_limit),
        "edge.upload_limit",
        || "must be between \"128MiB\" and \"64GiB\"".to_owned(),
    )?;
    if let Some(hostname) = config.dashboard_hostname() {
        let label = hostname
            .strip_suffix(config.base_domain.as_str())
            .and_then(|rest| rest.strip_suffix('.'));
        let free = label.and_then(|label| label.parse::<TenantName>().ok());
        ensure(free.is_none(), "edge.dashboard.hostname", || {
            format!(
                "{hostname} may be a tenant's: take a reserved name, such as traefik.{}",
                config.base_domain
            )
        })?;
    }
    shards(edge)
}

fn shards(edge: &Edge) -> Result<(), ConfigError> {
    ensure(edge.shards.len() <= shards::MAX, "edge.shards", || {
        format!(
            "{} are too many: at most {}",
            edge.shards.len(),
            shards::MAX
        )
    })?;
    let mut known = BTreeSet::new();
    for name in &edge.shards {
        ensure(known.insert(name), "edge.shards", || {
            format!("`{name}` is there twice")
        })?;
    }
    ensure(
        edge.traefik_dir.is_none() || !edge.shards.is_empty(),
        "edge.traefik_dir",
        || {
            "has a file for each of edge.shards, and there are none; for one edge, set traefik_file"
                .to_owned()
        },
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const HASH: &str = "$2y$08$abcdefghijklmnopqrstuv";

    #[test]
    fn a_file_of_users_has_bcrypt_hashes_and_nothing_of_it_is_told() {
        let text = format!("# ops\n\nana:{HASH}\n bob:{HASH} \n");
        assert_eq!(
            users(&text).unwrap(),
            [format!("ana:{HASH}"), format!("bob:{HASH}")]
        );
        for bad in [
            "ana:{SHA}secret",
            "ana:$apr1$secret",
            "secret",
            &format!("a:b:{HASH}secret"),
        ] {
            let problem = users(&format!("bob:{HASH}\n{bad}\n")).unwrap_err();
            assert!(
                problem.starts_with("line 2 ") && !problem.contains("secret"),
                "{problem}"
            );
        }
        let slow = HASH.replace("08", "16");
        assert!(
            users(&format!("ana:{slow}\n"))
                .unwrap_err()
                .contains("cost 16")
        );
        assert!(users("# nobody\n").is_err());
        assert!(users(&format!("ana:{HASH}\n").repeat(MAX_DASHBOARD_USERS + 1)).is_err());
    }

    #[test]
    fn a_dashboard_needs_its_file_and_that_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let mut config =
            Config::parse("f", "[edge.dashboard]\nusers_file = \"dashboard.users\"").unwrap();
        config.data_dir = dir.path().to_owned();
        config.check().unwrap();
        assert!(matches!(config.dashboard(), Err(ConfigError::Io { .. })));
        let path = dir.path().join("dashboard.users");
        std::fs::write(&path, format!("ana:{HASH}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            config
                .dashboard()
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let dashboard = config.dashboard().unwrap().unwrap();
        assert_eq!(
            (dashboard.hostname.as_str(), dashboard.users.len()),
            ("traefik.isy.one", 1)
        );
        assert_eq!(Config::default().dashboard().unwrap(), None);
    }
}

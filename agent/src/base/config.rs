//! The agent's data directory and its `agent.toml`, written by `join` and read by `run`.
//!
//! Not here: key and certificates (host::identity), the plan (host::ledger).

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use isyone_proto::ids::HostName;
use serde::{Deserialize, Serialize};

use crate::base::fsutil;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No `agent.toml`.
    #[error("{path} is not there: this host has not joined a fleet; run `isy-agent join` first", path = .0.display())]
    NotJoined(PathBuf),
    /// Another agent works here: two would undo each other's work.
    #[error("another isy-agent works in {path}", path = .0.display())]
    InUse(PathBuf),
    /// `agent.toml` is there but invalid.
    #[error("{path} cannot be used: {why}", path = .path.display())]
    Bad { path: PathBuf, why: String },
    /// The file system refuses.
    #[error("{path}", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// What the agent learnt when it joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// This host's name, the same as in its certificate.
    pub name: HostName,
    /// UUID assigned by the coordinator.
    pub host_uid: String,
    /// `host:port` of the coordinator's AgentService.
    pub endpoint: String,
    /// Where the edges reach this host's tenant ports; ports are published on this address only.
    pub advertise: IpAddr,
    /// Labels it joined with.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Paths below the data directory.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Only names the directory; touches nothing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn config(&self) -> PathBuf {
        self.0.join("agent.toml")
    }
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }
    /// The last accepted plan.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("plan.json")
    }
    /// The directory that holds one directory per tenant.
    pub fn tenants(&self) -> PathBuf {
        self.0.join("tenants")
    }
    /// Our own Odoo modules, mounted into each Odoo.
    pub fn addons(&self) -> PathBuf {
        self.0.join("addons")
    }
    /// Who may scrape this host.
    pub fn monitors(&self) -> PathBuf {
        self.0.join("monitors.json")
    }
    /// Where the fleet's hosts are.
    pub fn hosts(&self) -> PathBuf {
        self.0.join("hosts.json")
    }
    /// What names of the packet filter have led to.
    pub fn names(&self) -> PathBuf {
        self.0.join("names.json")
    }
    /// What the engine last said about running containers.
    pub fn known(&self) -> PathBuf {
        self.0.join("containers.json")
    }
    /// When this host's tenants were last let go on.
    pub fn leases(&self) -> PathBuf {
        self.0.join("leases.json")
    }
    /// One record for each job.
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }
    /// What is known of tenants' backups at their destinations.
    pub fn backups(&self) -> PathBuf {
        self.0.join("backups")
    }
    /// Which directories for tenants' data were marked.
    pub fn tenants_dirs(&self) -> PathBuf {
        self.0.join("tenants-dirs.json")
    }
    /// Clean databases to copy from.
    pub fn golden(&self) -> PathBuf {
        self.0.join("golden")
    }
    /// What the host's relay keeps: its routes, its sockets, its spool, its log.
    pub fn relay(&self) -> PathBuf {
        self.0.join("relay")
    }
    /// Makes the directories, accessible to their owner only.
    pub fn create(&self) -> Result<(), ConfigError> {
        for dir in [
            self.0.clone(),
            self.identity(),
            self.tenants(),
            self.golden(),
            self.jobs(),
            self.relay(),
        ] {
            fsutil::private_dir(&dir).map_err(|e| ConfigError::Io(dir, e))?;
        }
        Ok(())
    }

    /// Makes sure that no second agent works here, for as long as the returned file stays open.
    pub fn lock(&self) -> Result<std::fs::File, ConfigError> {
        let path = self.0.join("agent.lock");
        let file = fsutil::create(&path).map_err(|e| ConfigError::Io(path.clone(), e))?;
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ConfigError::InUse(self.0.clone())),
            Err(e) => Err(ConfigError::Io(path, e.into())),
        }
    }

    /// Reads `agent.toml`.
    pub fn load_config(&self) -> Result<AgentConfig, ConfigError> {
        let path = self.config();
        match fsutil::read_text(&path) {
            Ok(text) => toml::from_str(&text).map_err(|e| ConfigError::Bad {
                path,
                why: e.to_string(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ConfigError::NotJoined(path)),
            Err(e) => Err(ConfigError::Io(path, e)),
        }
    }

    /// Writes `agent.toml`; the last step of a join.
    pub fn store_config(&self, config: &AgentConfig) -> Result<(), ConfigError> {
        let path = self.config();
        let text = toml::to_string(config).map_err(|e| ConfigError::Bad {
            path: path.clone(),
            why: e.to_string(),
        })?;
        fsutil::write_atomic(&path, text.as_bytes(), 0o600, true)
            .map_err(|e| ConfigError::Io(path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_reads_back_and_a_missing_one_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().join("d"));
        assert!(
            data.load_config()
                .unwrap_err()
                .to_string()
                .contains("isy-agent join")
        );
        data.create().unwrap();
        let config = AgentConfig {
            name: "h1".parse().unwrap(),
            host_uid: "u".into(),
            endpoint: "127.0.0.1:7443".into(),
            advertise: "192.0.2.7".parse().unwrap(),
            labels: BTreeMap::from([("zone".into(), "a".into())]),
        };
        data.store_config(&config).unwrap();
        assert_eq!(data.load_config().unwrap(), config);
        std::fs::write(data.config(), "name = 'h1'\nbogus = 1").unwrap();
        assert!(matches!(data.load_config(), Err(ConfigError::Bad { .. })));
    }
}

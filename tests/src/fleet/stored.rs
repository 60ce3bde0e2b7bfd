//! A fleet on data that an earlier version left behind (`tests/fixtures`): its database, its agents' directories, the
//! volumes of their engines. Containers are not included, as after a reboot of every host.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use isyone_agent::{base::config::DataDir, testing::fake_docker::FakeDocker};
use isyone_coordinator::{
    base::config::Config,
    writer::store::{Store as _, sqlite::SqliteStore},
};
use serde::Deserialize;

use super::{
    CONFIG, Fleet,
    node::{Agent, Coordinator, store_of},
    operator::Operator,
    runtime,
};

#[derive(Deserialize)]
struct Stored {
    /// File contents by path.
    files: BTreeMap<PathBuf, String>,
    /// Labels of each volume, by host.
    volumes: BTreeMap<String, BTreeMap<String, HashMap<String, String>>>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// A port that is free now. It must be chosen beforehand, because agents know the coordinator by a fixed address.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it has an address")
}

impl Fleet {
    /// Lays out a fixture; starts nothing.
    pub fn stored(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let from = fixture(name);
        let text = std::fs::read(from.join("files.json")).expect("the fixture is there");
        let stored: Stored = serde_json::from_slice(&text).expect("it can be read");
        let grpc = free_port();
        for (path, text) in &stored.files {
            let path = dir.path().join(path);
            let folder = path.parent().expect("files lie in folders");
            std::fs::create_dir_all(folder).expect("a folder can be made");
            let text = if path.ends_with("agent.toml") {
                moved(text, grpc)
            } else {
                text.clone()
            };
            std::fs::write(&path, text).expect("a file can be written");
            private(&path);
        }
        let mut config = Config::parse("fleet", CONFIG).expect("a configuration");
        config.data_dir = dir.path().join("coordinator");
        config.listen.grpc = grpc;
        let client = runtime("client");
        let database = dir.path().join("coordinator.db");
        std::fs::copy(from.join("coordinator.db"), &database).expect("the database is there");
        let contents = client.block_on(async {
            let mut store = SqliteStore::open(&database).await.expect("it opens");
            store.load().await.expect("every record can be read")
        });
        let agents = stored.volumes.into_iter().map(|(host, volumes)| {
            let dir = dir.path().join(&host);
            let docker = FakeDocker::new(&dir.join("docker"), 1);
            for (volume, labels) in volumes {
                docker.find_volume(&volume, labels);
            }
            Agent::new(&host, DataDir::new(dir.join("agent")), docker)
        });
        let agents = agents.collect();
        let context = dir.path().join("admin.toml");
        Self {
            coordinator: Coordinator::over(config, store_of(contents)),
            agents,
            admin: client.block_on(async { Operator::open(&context, grpc) }),
            client,
            dir,
        }
    }
}

/// An agent's configuration with the coordinator's address replaced.
fn moved(text: &str, endpoint: SocketAddr) -> String {
    let mut config: toml::Table = text.parse().expect("an agent's configuration");
    config.insert("endpoint".to_owned(), endpoint.to_string().into());
    config.to_string()
}

/// Sets the file mode that programs require: they refuse keys that others can read.
fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).expect("our own file");
}

//! Tenants and hosts → Prometheus: target groups for `http_sd` and `file_sd` (the same JSON).
//!
//! Metrics of a host and its tenants come from the host itself: each agent has one port, with a path for each tenant's
//! Odoo and PostgreSQL. Targets are addresses, not names, because Prometheus checks an agent's certificate against the
//! target when a job sets no server name. The names that dashboards use are in the label `instance`.
//!
//! Pure. Not here: what is known of a tenant (isyone-fleet::views), serving the documents (coordinator/ports/http),
//! what a host answers (agent/metrics), alerts and dashboards (deploy).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

/// Port in `instance="odoo_alfa:8069"`: Odoo's own, whatever port is published.
pub const ODOO_PORT: u16 = 8069;
/// Port in `instance="postgres_alfa:9187"`: that of PostgreSQL's exporter.
pub const POSTGRES_PORT: u16 = 9187;

/// A group of targets, named after its `job` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Every running tenant's Odoo.
    Odoo,
    /// Every running tenant's PostgreSQL.
    Postgres,
    Host,
    /// The tenants' containers on every host: one page per host.
    Containers,
    Traefik,
    /// What the coordinator finds when it probes tenants through the edges: one page per shard.
    Probes,
    /// The coordinator and the agents.
    Isyone,
}

impl Job {
    pub const ALL: [Self; 7] = [
        Self::Odoo,
        Self::Postgres,
        Self::Host,
        Self::Containers,
        Self::Traefik,
        Self::Probes,
        Self::Isyone,
    ];

    /// The name in the label, in `/sd/<job>` and in `<job>.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Odoo => "odoo",
            Self::Postgres => "postgres",
            Self::Host => "host",
            Self::Containers => "containers",
            Self::Traefik => "traefik",
            Self::Probes => "probes",
            Self::Isyone => "isyone",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|job| job.as_str() == name)
    }
}

/// A host: its name, and where its agent serves metrics.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    pub name: String,
    /// The advertised address: the one in the agent's certificate.
    pub address: IpAddr,
    pub port: u16,
}

/// A tenant that Prometheus should watch: one whose desired state is running.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenant {
    pub name: String,
    pub host: Host,
    /// Name of the tenant's plan (its size).
    pub plan: String,
}

/// What surrounds a document's groups. Each group starts with a comma and a line break; drop the first comma.
pub const FRAME: [&str; 2] = ["[", "\n]\n"];

#[derive(Serialize)]
struct Group<'a> {
    targets: [&'a str; 1],
    labels: BTreeMap<&'static str, &'a str>,
}

/// The group of a tenant's Odoo ([`Job::Odoo`]).
pub fn odoo(tenant: &Tenant) -> String {
    tenant_group(Job::Odoo, ODOO_PORT, tenant)
}

/// The group of a tenant's PostgreSQL ([`Job::Postgres`]).
pub fn postgres(tenant: &Tenant) -> String {
    tenant_group(Job::Postgres, POSTGRES_PORT, tenant)
}

/// The group of a host ([`Job::Host`]).
pub fn host(host: &Host) -> String {
    agent_group(Job::Host, host, "/metrics", &host.name, &[])
}

/// The group of a host's containers ([`Job::Containers`]). The page itself says which tenant each belongs to.
pub fn containers(host: &Host) -> String {
    agent_group(Job::Containers, host, "/containers", &host.name, &[])
}

/// The group of an edge ([`Job::Traefik`]) that serves its metrics at `address` (`host:port`).
pub fn edge(address: &str) -> String {
    group(address, Job::Traefik, &[("instance", address)])
}

/// The group of the probes ([`Job::Probes`]) of a shard's tenants, or of all tenants. `address` is the coordinator's
/// HTTP port.
pub fn probes(address: &str, shard: Option<&str>) -> String {
    let mut labels = vec![
        ("__metrics_path__", "/probes"),
        ("instance", shard.unwrap_or("coordinator")),
    ];
    labels.extend(shard.map(|shard| ("__param_shard", shard)));
    group(address, Job::Probes, &labels)
}

/// The group of the platform itself ([`Job::Isyone`]). `address` is the coordinator's HTTP port.
pub fn platform(address: &str) -> String {
    group(address, Job::Isyone, &[("instance", "coordinator")])
}

fn tenant_group(job: Job, port: u16, tenant: &Tenant) -> String {
    let (kind, name) = (job.as_str(), &tenant.name);
    let (path, instance) = (
        format!("/tenants/{name}/{kind}"),
        format!("{kind}_{name}:{port}"),
    );
    agent_group(
        job,
        &tenant.host,
        &path,
        &instance,
        &[("tenant", name), ("plan", &tenant.plan)],
    )
}

/// The group of one page that a host's agent serves.
fn agent_group(
    job: Job,
    host: &Host,
    path: &str,
    instance: &str,
    more: &[(&'static str, &str)],
) -> String {
    let own = [
        ("__scheme__", "https"),
        ("__metrics_path__", path),
        ("instance", instance),
        ("host", &host.name),
    ];
    let labels: Vec<_> = own.iter().chain(more).copied().collect();
    group(
        &SocketAddr::new(host.address, host.port).to_string(),
        job,
        &labels,
    )
}

fn group(address: &str, job: Job, labels: &[(&'static str, &str)]) -> String {
    let labels = labels
        .iter()
        .copied()
        .chain([("job", job.as_str())])
        .collect();
    let json = serde_json::to_string(&Group {
        targets: [address],
        labels,
    });
    // Serialising our own plain structs cannot fail: string keys only, no foreign impls.
    format!(",\n{}", json.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    //! `UPDATE_GOLDEN=1 cargo test -p isyone-monitoring` rewrites the golden files.
    use super::*;

    fn golden(name: &str, text: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("golden")
            .join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        assert_eq!(
            text,
            std::fs::read_to_string(&path).unwrap_or_default(),
            "{}",
            path.display()
        );
    }

    #[test]
    fn target_groups() {
        let hosts = [("h1", "192.0.2.11"), ("h2", "2001:db8::12")].map(|(name, address)| Host {
            name: name.into(),
            address: address.parse().unwrap(),
            port: 7482,
        });
        let tenants = [("alfa", 0), ("beta", 1)].map(|(name, on): (&str, usize)| Tenant {
            name: name.into(),
            host: hosts[on].clone(),
            plan: "standard".into(),
        });
        for job in Job::ALL {
            let groups: String = match job {
                Job::Odoo => tenants.iter().map(odoo).collect(),
                Job::Postgres => tenants.iter().map(postgres).collect(),
                Job::Host => hosts.iter().map(host).collect(),
                Job::Containers => hosts.iter().map(containers).collect(),
                Job::Traefik => edge("127.0.0.1:8082"),
                Job::Probes => {
                    probes("127.0.0.1:7480", None) + &probes("127.0.0.1:7480", Some("edge-1"))
                }
                Job::Isyone => platform("127.0.0.1:7480"),
            };
            let document = FRAME.join(groups.strip_prefix(',').unwrap());
            serde_json::from_str::<serde_json::Value>(&document).unwrap();
            golden(&format!("sd-{}.json", job.as_str()), &document);
            assert_eq!(Job::from_name(job.as_str()), Some(job));
        }
        assert_eq!(Job::from_name("nothing"), None);
    }
}

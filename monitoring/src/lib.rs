//! Tenants and hosts → Prometheus: target groups for `http_sd` and `file_sd` (the same JSON), and the text that a
//! target answers with ([`probe`]).
//!
//! Tenants live behind agents that dial out, so Prometheus cannot reach them: every target is the coordinator's own
//! HTTP port under a path of its own, which answers with what the host last reported, and with 503 when that is
//! stale or bad. So `up` tells the truth about the tenant, under the instance names that dashboards know.
//!
//! Pure. Not here: what is known of a tenant (coordinator/views), serving it (coordinator/http), alerts and dashboards.

use std::collections::BTreeMap;

use serde::Serialize;

pub mod probe;

/// Port in `instance="odoo_alfa:8069"`: Odoo's own, whatever is published.
pub const ODOO_PORT: u16 = 8069;
/// Port in `instance="postgres_alfa:9187"`: that of PostgreSQL's exporter.
pub const POSTGRES_PORT: u16 = 9187;

/// A group of targets, named as its `job` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Every running tenant's Odoo.
    Odoo,
    /// Every running tenant's PostgreSQL.
    Postgres,
    /// Every host.
    Host,
    /// The platform itself.
    Isyone,
}

impl Job {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Odoo, Self::Postgres, Self::Host, Self::Isyone];

    /// As in the label, in `/sd/<job>` and in `<job>.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Odoo => "odoo",
            Self::Postgres => "postgres",
            Self::Host => "host",
            Self::Isyone => "isyone",
        }
    }

    /// The job of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|job| job.as_str() == name)
    }
}

/// A tenant that Prometheus shall watch: one that shall run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenant {
    /// Name.
    pub name: String,
    /// Where it is placed.
    pub host: String,
    /// Its size's name.
    pub plan: String,
}

/// What is before and after a document's groups. Each group has a comma and a line break before it; the first comma goes.
pub const FRAME: [&str; 2] = ["[", "\n]\n"];

#[derive(Serialize)]
struct Group<'a> {
    targets: [&'a str; 1],
    labels: BTreeMap<&'static str, &'a str>,
}

/// The group of a tenant's Odoo ([`Job::Odoo`]), for the coordinator's HTTP port at `address` (`host:port`).
pub fn odoo(address: &str, tenant: &Tenant) -> String {
    tenant_group(address, Job::Odoo, ODOO_PORT, tenant)
}

/// The group of a tenant's PostgreSQL ([`Job::Postgres`]).
pub fn postgres(address: &str, tenant: &Tenant) -> String {
    tenant_group(address, Job::Postgres, POSTGRES_PORT, tenant)
}

/// The group of a host ([`Job::Host`]).
pub fn host(address: &str, host: &str) -> String {
    group(address, Job::Host, &format!("/probe/host/{host}"), host, &[("host", host)])
}

/// The group of the platform itself ([`Job::Isyone`]).
pub fn platform(address: &str) -> String {
    group(address, Job::Isyone, "/metrics", "coordinator", &[])
}

fn tenant_group(address: &str, job: Job, port: u16, tenant: &Tenant) -> String {
    let (kind, name) = (job.as_str(), &tenant.name);
    let (path, instance) = (format!("/probe/{kind}/{name}"), format!("{kind}_{name}:{port}"));
    group(address, job, &path, &instance, &[("tenant", name), ("host", &tenant.host), ("plan", &tenant.plan)])
}

fn group(address: &str, job: Job, path: &str, instance: &str, more: &[(&'static str, &str)]) -> String {
    let own = [("__metrics_path__", path), ("instance", instance), ("job", job.as_str())];
    let labels = own.iter().chain(more).copied().collect();
    let json = serde_json::to_string(&Group { targets: [address], labels });
    // Serialising our own plain structs cannot fail: string keys only, no foreign impls.
    format!(",\n{}", json.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    //! `UPDATE_GOLDEN=1 cargo test -p isyone-monitoring` rewrites the golden files.
    use super::*;

    #[test]
    fn target_groups() {
        let address = "127.0.0.1:7480";
        let tenants = [("alfa", "h1"), ("beta", "h2")].map(|(name, host)| Tenant {
            name: name.into(),
            host: host.into(),
            plan: "standard".into(),
        });
        for job in Job::ALL {
            let groups: String = match job {
                Job::Odoo => tenants.iter().map(|t| odoo(address, t)).collect(),
                Job::Postgres => tenants.iter().map(|t| postgres(address, t)).collect(),
                Job::Host => ["h1", "h2"].map(|h| host(address, h)).concat(),
                Job::Isyone => platform(address),
            };
            let document = FRAME.join(groups.strip_prefix(',').unwrap());
            let groups: serde_json::Value = serde_json::from_str(&document).unwrap();
            assert!(groups[0]["targets"][0] == address, "{document}");
            crate::probe::tests::golden(&format!("sd-{}.json", job.as_str()), &document);
            assert_eq!(Job::from_name(job.as_str()), Some(job));
        }
        assert_eq!(Job::from_name("nothing"), None);
    }
}

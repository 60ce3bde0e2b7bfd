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

/// Everything that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// Where Prometheus reaches the coordinator's HTTP port, `host:port`.
    pub address: String,
    /// In any order.
    pub tenants: Vec<Tenant>,
    /// Names, in any order.
    pub hosts: Vec<String>,
}

#[derive(Serialize)]
struct Group<'a> {
    targets: [&'a str; 1],
    labels: BTreeMap<&'static str, String>,
}

/// The target groups of one job: the body of `/sd/<job>` and of the `file_sd` file. Sorted; the same targets give the
/// same bytes.
pub fn render(job: Job, targets: &Targets) -> String {
    let mut groups: Vec<Group<'_>> = match job {
        Job::Odoo | Job::Postgres => targets.tenants.iter().map(|t| tenant_group(job, t, targets)).collect(),
        Job::Host => targets.hosts.iter().map(|host| host_group(host, targets)).collect(),
        Job::Isyone => vec![group(targets, job, "/metrics".to_owned(), "coordinator".to_owned())],
    };
    groups.sort_by(|a, b| a.labels.cmp(&b.labels));
    // Serialising our own plain structs cannot fail: string keys only, no foreign impls.
    serde_json::to_string_pretty(&groups).unwrap_or_default()
}

fn group(targets: &Targets, job: Job, path: String, instance: String) -> Group<'_> {
    let labels = BTreeMap::from([
        ("__metrics_path__", path),
        ("instance", instance),
        ("job", job.as_str().to_owned()),
    ]);
    Group { targets: [&targets.address], labels }
}

fn tenant_group<'a>(job: Job, tenant: &Tenant, targets: &'a Targets) -> Group<'a> {
    let port = if job == Job::Odoo { ODOO_PORT } else { POSTGRES_PORT };
    let (kind, name) = (job.as_str(), &tenant.name);
    let mut group = group(targets, job, format!("/probe/{kind}/{name}"), format!("{kind}_{name}:{port}"));
    group.labels.insert("tenant", name.clone());
    group.labels.insert("host", tenant.host.clone());
    group.labels.insert("plan", tenant.plan.clone());
    group
}

fn host_group<'a>(host: &str, targets: &'a Targets) -> Group<'a> {
    let mut group = group(targets, Job::Host, format!("/probe/host/{host}"), host.to_owned());
    group.labels.insert("host", host.to_owned());
    group
}

#[cfg(test)]
mod tests {
    //! `UPDATE_GOLDEN=1 cargo test -p isyone-monitoring` rewrites the golden files.
    use super::*;

    fn targets() -> Targets {
        let tenant =
            |name: &str, host: &str| Tenant { name: name.into(), host: host.into(), plan: "standard".into() };
        Targets {
            address: "127.0.0.1:7480".to_owned(),
            tenants: vec![tenant("beta", "h2"), tenant("alfa", "h1")],
            hosts: vec!["h2".to_owned(), "h1".to_owned()],
        }
    }

    #[test]
    fn target_groups() {
        for job in Job::ALL {
            crate::probe::tests::golden(
                &format!("sd-{}.json", job.as_str()),
                &(render(job, &targets()) + "\n"),
            );
            assert_eq!(Job::from_name(job.as_str()), Some(job));
        }
        assert_eq!(Job::from_name("nothing"), None);
    }

    #[test]
    fn no_tenant_is_an_empty_list_and_order_does_not_matter() {
        let empty = Targets { tenants: vec![], hosts: vec![], ..targets() };
        assert_eq!(render(Job::Odoo, &empty), "[]");
        let mut reversed = targets();
        reversed.tenants.reverse();
        assert_eq!(render(Job::Odoo, &reversed), render(Job::Odoo, &targets()));
    }
}

//! What the fleet, the daemons, the edge and Prometheus say.
//!
//! Not here: whether that agrees (isyone_tests::chaos::judge).

use std::collections::{BTreeMap, BTreeSet};

use isyone_tests::{
    chaos::{
        TENANTS,
        judge::{Facts, Host, Mark, Tenant},
        truth::OF_THIS_MACHINE,
    },
    e2e::{cell, http::get, process::run},
};
use serde_json::Value;

use super::Run;

fn word(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

impl Run {
    /// All tenants, deleted ones too; `None`: there is no coordinator to ask.
    pub(super) fn tenants(&self) -> Option<BTreeMap<String, Tenant>> {
        let listed = self.list(&["tenant", "list", "--deleted"])?;
        let tenant = |value: &Value| {
            let tenant = Tenant {
                phase: word(value, "phase"),
                message: word(value, "message"),
                host: word(value, "host"),
                uid: word(value, "uid"),
            };
            (word(value, "name"), tenant)
        };
        Some(listed.iter().map(tenant).collect())
    }

    pub(super) fn list(&self, words: &[&str]) -> Option<Vec<Value>> {
        if self.is_without_coordinator() {
            return None;
        }
        let answer = self.cell.isyctl(&[words, &["-o", "json"]].concat());
        let listed: Value = serde_json::from_str(&answer.stdout).ok()?;
        listed.as_array().cloned()
    }

    pub(super) fn facts(&self) -> Option<Facts> {
        let tenants = self.tenants()?;
        let states = self.list(&["host", "list"])?;
        let open = self.list(&["op", "list"])?;
        let open = open.iter().filter(|operation| operation["done"] != true);
        let open = open.map(|op| format!("{} of {}", word(op, "id"), word(op, "tenant")));
        let hosts = self.cell.hosts.iter().map(|host| {
            let said = states.iter().find(|value| value["name"] == host.name);
            let said = said.cloned().unwrap_or_default();
            let facts = Host {
                state: word(&said, "state"),
                message: word(&said, "message"),
                running: running(host),
                strays: strays(host),
            };
            (host.name.clone(), facts)
        });
        Some(Facts {
            hosts: hosts.collect(),
            open: open.collect(),
            routed: self.routed(),
            answering: self.answering(),
            targets: self.targets(),
            marks: self.found_marks(&tenants),
            firing: self.firing(),
            tenants,
        })
    }

    fn routed(&self) -> BTreeSet<String> {
        let routes = get(self.cell.http(), "localhost", "/traefik/config").body;
        let names = TENANTS.into_iter();
        names
            .filter(|name| routes.contains(&format!("`{name}.isy.one`")))
            .map(str::to_owned)
            .collect()
    }

    fn answering(&self) -> BTreeSet<String> {
        let answers = |name: &&str| {
            let host = format!("{name}.isy.one");
            get(self.cell.edge(), &host, "/web/health").status == 200
        };
        let names = TENANTS.into_iter();
        names.filter(answers).map(str::to_owned).collect()
    }

    fn targets(&self) -> BTreeSet<String> {
        let answer = get(self.cell.http(), "localhost", "/sd/odoo").body;
        let groups: Value = serde_json::from_str(&answer).unwrap_or_default();
        let groups = groups.as_array().cloned().unwrap_or_default();
        let named = groups.iter().map(|group| word(&group["labels"], "tenant"));
        named.collect()
    }

    /// What each tenant's data has now, where the fleet says that it lies.
    fn found_marks(&self, tenants: &BTreeMap<String, Tenant>) -> BTreeMap<String, Mark> {
        let mut marks = self.marks.clone();
        for (name, mark) in &mut marks {
            let host = tenants.get(name).and_then(|t| self.index_of(&t.host));
            mark.found =
                host.and_then(|host| std::fs::read_to_string(self.mark_of(name, host)).ok());
        }
        marks
    }

    fn firing(&self) -> Vec<String> {
        let alerts = self.watch.query("ALERTS{alertstate=\"firing\"}");
        let named = alerts.iter().map(|alert| &alert["metric"]);
        named
            .filter(|alert| !OF_THIS_MACHINE.contains(&word(alert, "alertname").as_str()))
            .map(|alert| {
                let (name, tenant) = (word(alert, "alertname"), word(alert, "tenant"));
                format!("{name} {tenant}{}", word(alert, "host"))
            })
            .collect()
    }
}

/// Tenants' containers that run.
fn running(host: &cell::Host) -> BTreeSet<String> {
    let words = [
        "ps",
        "--filter",
        "label=one.isy.tenant",
        "--format",
        "{{.Names}}",
    ];
    let listed = host.docker.run(&words).stdout;
    listed.lines().map(str::to_owned).collect()
}

/// Bridges by Docker's names that Docker does not list.
fn strays(host: &cell::Host) -> Vec<String> {
    let links = run(host
        .command("ip")
        .args(["-o", "link", "show", "type", "bridge"]))
    .stdout;
    let listed = host.docker.run(&["network", "ls", "-q"]).stdout;
    let known: BTreeSet<String> = listed.lines().map(|id| format!("br-{id}")).collect();
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    names
        .filter(|name| name.starts_with("br-") && !known.contains(*name))
        .map(str::to_owned)
        .collect()
}

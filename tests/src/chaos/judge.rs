//! What must be true of a fleet at rest: it, Docker, the edge's routes, Prometheus' targets and the tenants' data say the same.
//!
//! Not here: how it is found out (the test), whether alerts were true (truth).

use std::collections::{BTreeMap, BTreeSet};

/// What the fleet says of a tenant.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    pub phase: String,
    pub message: String,
    /// Name of its host.
    pub host: String,
    pub uid: String,
}

/// A host as the fleet and its own daemon have it.
#[derive(Debug, Clone, Default)]
pub struct Host {
    pub state: String,
    pub message: String,
    /// Tenants' containers that run.
    pub running: BTreeSet<String>,
    /// Bridges by Docker's names which Docker does not have.
    pub strays: Vec<String>,
}

/// What was written into a tenant's data, and what is there now.
#[derive(Debug, Clone, Default)]
pub struct Mark {
    /// Whose it is: a name may be given again.
    pub uid: String,
    pub word: String,
    pub found: Option<String>,
}

/// Everything that is compared.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub tenants: BTreeMap<String, Tenant>,
    pub hosts: BTreeMap<String, Host>,
    /// Operations that are not over.
    pub open: Vec<String>,
    /// Tenants that the edge's configuration names.
    pub routed: BTreeSet<String>,
    /// Tenants whose pages answer through the edge.
    pub answering: BTreeSet<String>,
    /// Tenants that Prometheus is told to ask.
    pub targets: BTreeSet<String>,
    pub marks: BTreeMap<String, Mark>,
    /// Alerts that fire now.
    pub firing: Vec<String>,
}

/// What does not agree, in words; empty: all of it does.
pub fn disagreements(facts: &Facts) -> Vec<String> {
    let mut wrong = Vec::new();
    hosts(facts, &mut wrong);
    for (name, tenant) in &facts.tenants {
        match tenant.phase.as_str() {
            "running" => runs(facts, name, &mut wrong),
            "suspended" | "quarantined" => rests(facts, name, &mut wrong),
            phase => wrong.push(format!("{name} is {phase}: {}", tenant.message)),
        }
        marked(facts, name, tenant, &mut wrong);
    }
    for (kind, names) in [
        ("the edge", &facts.routed),
        ("Prometheus", &facts.targets),
        ("a page", &facts.answering),
    ] {
        let unknown = names
            .iter()
            .filter(|name| !facts.tenants.contains_key(*name));
        wrong.extend(unknown.map(|name| format!("{kind} has {name}, which the fleet has not")));
    }
    wrong.extend(facts.open.iter().map(|id| format!("{id} is not over")));
    wrong.extend(facts.firing.iter().map(|alert| format!("{alert} fires")));
    wrong
}

/// Each runs what the fleet has there, and nothing else.
fn hosts(facts: &Facts, wrong: &mut Vec<String>) {
    for (name, host) in &facts.hosts {
        if host.state != "ready" {
            wrong.push(format!("{name} is {}: {}", host.state, host.message));
        }
        let strays = host.strays.iter();
        wrong.extend(strays.map(|bridge| format!("{bridge} is still on {name}")));
        let here = facts
            .tenants
            .iter()
            .filter(|(_, tenant)| tenant.host == *name && tenant.phase == "running");
        let planned: BTreeSet<String> = here
            .flat_map(|(tenant, _)| [format!("odoo_{tenant}"), format!("postgres_{tenant}")])
            .collect();
        let missing = planned.difference(&host.running);
        wrong.extend(missing.map(|container| format!("{container} does not run on {name}")));
        let more = host.running.difference(&planned);
        wrong.extend(more.map(|container| format!("{container} runs on {name}")));
    }
}

fn runs(facts: &Facts, name: &str, wrong: &mut Vec<String>) {
    for (has, what) in [
        (facts.routed.contains(name), "has no route"),
        (facts.answering.contains(name), "does not answer"),
        (facts.targets.contains(name), "is no target of Prometheus"),
    ] {
        if !has {
            wrong.push(format!("{name} runs and {what}"));
        }
    }
}

fn rests(facts: &Facts, name: &str, wrong: &mut Vec<String>) {
    if facts.answering.contains(name) {
        wrong.push(format!("{name} is to rest and answers"));
    }
    if facts.targets.contains(name) {
        wrong.push(format!("{name} is to rest and a target of Prometheus"));
    }
}

fn marked(facts: &Facts, name: &str, tenant: &Tenant, wrong: &mut Vec<String>) {
    let mark = facts.marks.get(name).filter(|mark| mark.uid == tenant.uid);
    let Some(mark) = mark else { return };
    if mark.found.as_ref() != Some(&mark.word) {
        let (word, found) = (&mark.word, &mark.found);
        wrong.push(format!("{name}'s data has {found:?} in place of {word:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(phase: &str) -> Tenant {
        Tenant {
            phase: phase.to_owned(),
            host: "h1".to_owned(),
            uid: "u".to_owned(),
            ..Tenant::default()
        }
    }

    /// alfa runs, beta rests, gama was purged.
    fn healthy() -> Facts {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let host = |running: &[&str]| Host {
            state: "ready".to_owned(),
            running: set(running),
            ..Host::default()
        };
        let mark = Mark {
            uid: "u".to_owned(),
            word: "w".to_owned(),
            found: Some("w".to_owned()),
        };
        Facts {
            tenants: [("alfa", "running"), ("beta", "suspended")]
                .map(|(name, phase)| (name.to_owned(), tenant(phase)))
                .into(),
            hosts: [
                ("h1", host(&["odoo_alfa", "postgres_alfa"])),
                ("h2", host(&[])),
            ]
            .map(|(name, host)| (name.to_owned(), host))
            .into(),
            routed: set(&["alfa", "beta"]),
            answering: set(&["alfa"]),
            targets: set(&["alfa"]),
            marks: [("alfa".to_owned(), mark)].into(),
            ..Facts::default()
        }
    }

    fn only(change: impl FnOnce(&mut Facts)) -> String {
        let mut facts = healthy();
        change(&mut facts);
        let wrong = disagreements(&facts);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        wrong.into_iter().next().unwrap_or_default()
    }

    #[test]
    fn what_agrees_is_not_complained_of() {
        assert_eq!(disagreements(&healthy()), [""; 0]);
    }

    #[test]
    fn whatever_differs_is_said() {
        let host = |facts: &mut Facts, name: &str, change: &dyn Fn(&mut Host)| {
            change(facts.hosts.get_mut(name).expect("a host"));
        };
        let cases = [
            only(|f| {
                host(f, "h1", &|h| {
                    h.running.remove("odoo_alfa");
                })
            }),
            only(|f| {
                host(f, "h2", &|h| {
                    h.running.insert("odoo_alfa".to_owned());
                })
            }),
            only(|f| host(f, "h2", &|h| h.state = "degraded".to_owned())),
            only(|f| host(f, "h2", &|h| h.strays.push("br-0".to_owned()))),
            only(|f| f.routed.clear()),
            only(|f| f.answering.clear()),
            only(|f| f.targets.clear()),
            only(|f| {
                f.targets.insert("beta".to_owned());
            }),
            only(|f| {
                f.routed.insert("gama".to_owned());
            }),
            only(|f| f.open.push("op".to_owned())),
            only(|f| f.firing.push("OdooDown alfa".to_owned())),
            only(|f| f.marks.get_mut("alfa").expect("a mark").found = None),
            only(|f| f.tenants.get_mut("beta").expect("one").phase = "failing".to_owned()),
        ];
        assert_eq!(cases[0], "odoo_alfa does not run on h1");
        assert_eq!(cases[1], "odoo_alfa runs on h2");
        assert_eq!(cases[11], "alfa's data has None in place of \"w\"");
    }

    #[test]
    fn the_mark_of_an_earlier_tenant_of_that_name_says_nothing() {
        let mut facts = healthy();
        if let Some(mark) = facts.marks.get_mut("alfa") {
            (mark.uid, mark.found) = ("before".to_owned(), None);
        }
        assert_eq!(disagreements(&facts), [""; 0]);
    }
}

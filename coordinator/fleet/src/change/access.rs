//! Who the edge lets in to a tenant. This does not concern the host: no plan changes, nothing restarts, and there is no
//! operation to watch.
//!
//! Not here: hashing passwords (the coordinator's operators/tenant_access).

use std::sync::Arc;

use isyone_types::ids::TenantName;

use super::{AccessChange, ChangeError, Edit, Outcome};
use crate::{desired::VisitorAccess, event::EventKind};

/// Largest number of networks; an edge compares each request's address with all of them.
pub const MAX_NETWORKS: usize = 64;
/// Largest number of users of the password prompt: a staging clone's testers. More people than that have accounts in
/// Odoo.
pub const MAX_USERS: usize = 32;

impl Edit<'_> {
    pub(super) fn set_access(
        &mut self,
        name: &TenantName,
        change: AccessChange,
    ) -> Result<Outcome, ChangeError> {
        let mut tenant = self.living(name)?;
        let refuse = |problem| ChangeError::AccessRefused {
            name: name.clone(),
            problem,
        };
        let (access, said) = changed(&tenant.access, change).map_err(refuse)?;
        if access == tenant.access {
            return Ok(Outcome::Changed(Arc::new(tenant)));
        }
        tenant.access = access;
        let tenant = self.store_tenant(tenant);
        self.event(
            EventKind::TenantAccessChanged,
            Some(&tenant),
            None,
            None,
            said.join("; "),
        );
        Ok(Outcome::Changed(tenant))
    }
}

/// The new access rules, and what changed, in words without hashes.
fn changed(
    before: &VisitorAccess,
    change: AccessChange,
) -> Result<(VisitorAccess, Vec<String>), String> {
    let (mut access, mut said) = (before.clone(), Vec::new());
    if let Some(mut networks) = change.networks {
        networks.sort();
        networks.dedup();
        if networks.len() > MAX_NETWORKS {
            return Err(format!(
                "can have at most {MAX_NETWORKS} networks, not {}",
                networks.len()
            ));
        }
        let list = networks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        said.push(format!(
            "networks: {}",
            if list.is_empty() {
                "all".to_owned()
            } else {
                list
            }
        ));
        access.addresses = networks.into();
    }
    if change.remove_all_users {
        access.users.clear();
        said.push("nobody is asked for a password".to_owned());
    }
    for gone in &change.remove_users {
        let count = access.users.len();
        access.users.retain(|line| name_of(line) != gone);
        if access.users.len() == count && !change.remove_all_users {
            return Err(format!("has no user `{gone}` for its password prompt"));
        }
        said.push(format!("user {gone} removed"));
    }
    let asked = !before.users.is_empty() && !change.remove_all_users;
    if asked && access.users.is_empty() && change.put_user.is_none() {
        return Err(
            "would be open to everybody without its last user; `--no-users` says that this is wanted"
                .to_owned(),
        );
    }
    if let Some(user) = change.put_user {
        let known = access.users.iter().any(|line| name_of(line) == user.name);
        access.users.retain(|line| name_of(line) != user.name);
        access.users.push(format!("{}:{}", user.name, user.hash));
        access.users.sort();
        if access.users.len() > MAX_USERS {
            return Err(format!(
                "can have at most {MAX_USERS} users for its password prompt"
            ));
        }
        let what = if known {
            "has another password"
        } else {
            "added"
        };
        said.push(format!("user {} {what}", user.name));
    }
    if let Some(rate) = change.rate {
        said.push(rate.map_or_else(
            || "rate: as for all".to_owned(),
            |rate| format!("rate: {} a second, {} at once", rate.average, rate.burst),
        ));
        access.rate = rate;
    }
    Ok((access, said))
}

/// The user name in a line as `htpasswd` writes it.
pub fn name_of(line: &str) -> &str {
    line.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::{Command, User},
        desired::Rate,
        testing::{Bench, name, resources},
    };

    fn set(bench: &mut Bench, change: AccessChange) -> Result<VisitorAccess, ChangeError> {
        let command = Command::SetAccess {
            name: name("alfa"),
            change: Box::new(change),
        };
        match bench.apply(command)? {
            Outcome::Changed(tenant) => Ok(tenant.access.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn user(name: &str, hash: &str) -> AccessChange {
        let user = User {
            name: name.to_owned(),
            hash: hash.to_owned(),
        };
        AccessChange {
            put_user: Some(user),
            ..AccessChange::default()
        }
    }

    fn networks(list: &[&str]) -> AccessChange {
        AccessChange {
            networks: Some(list.iter().map(|n| n.parse().unwrap()).collect()),
            ..AccessChange::default()
        }
    }

    fn bench() -> Bench {
        let mut bench = Bench::default();
        bench.host("h1", resources(4, 16, 100));
        bench.create("alfa", "small").unwrap();
        bench
    }

    fn said(bench: &Bench) -> String {
        let event = bench.state.fleet.events.last().unwrap();
        format!("{} {}", event.kind, event.message)
    }

    #[test]
    fn each_part_changes_alone_and_is_told_without_hashes() {
        let mut bench = bench();
        let access = set(
            &mut bench,
            networks(&["203.0.113.0/24", "192.0.2.1/32", "192.0.2.1/32"]),
        )
        .unwrap();
        assert_eq!(access.addresses.len(), 2);
        assert_eq!(
            said(&bench),
            "tenant.access_changed networks: 192.0.2.1/32, 203.0.113.0/24"
        );
        set(&mut bench, user("bob", "$2y$08$secret")).unwrap();
        let access = set(&mut bench, user("ana", "$2y$08$secret")).unwrap();
        assert_eq!(access.users, ["ana:$2y$08$secret", "bob:$2y$08$secret"]);
        assert_eq!(said(&bench), "tenant.access_changed user ana added");
        let access = set(&mut bench, user("ana", "$2y$08$other")).unwrap();
        assert_eq!(
            (access.users[0].as_str(), access.users.len()),
            ("ana:$2y$08$other", 2)
        );
        assert_eq!(
            said(&bench),
            "tenant.access_changed user ana has another password"
        );
        let rate = Some(Rate {
            average: 5,
            burst: 10,
        });
        let access = set(
            &mut bench,
            AccessChange {
                rate: Some(rate),
                ..AccessChange::default()
            },
        )
        .unwrap();
        assert_eq!(
            (access.rate, access.addresses.len(), access.users.len()),
            (rate, 2, 2)
        );
        assert!(
            !format!(
                "{:?}{:?}",
                bench.state.fleet.events,
                user("ana", "$2y$08$secret")
            )
            .contains("$2y")
        );
    }

    #[test]
    fn what_was_set_is_taken_away_and_nothing_is_opened_by_the_way() {
        let mut bench = bench();
        set(&mut bench, networks(&["203.0.113.0/24", "192.0.2.1/32"])).unwrap();
        set(&mut bench, user("bob", "$2y$08$secret")).unwrap();
        set(&mut bench, user("ana", "$2y$08$secret")).unwrap();
        let gone = AccessChange {
            remove_users: vec!["bob".to_owned()],
            ..networks(&[])
        };
        let access = set(&mut bench, gone).unwrap();
        assert_eq!((access.addresses.len(), access.users.len()), (0, 1));
        let last = AccessChange {
            remove_users: vec!["ana".to_owned()],
            ..AccessChange::default()
        };
        let refused = set(&mut bench, last.clone()).unwrap_err().to_string();
        assert!(
            refused.contains("--no-users"),
            "a customer's data is not opened by the way: {refused}"
        );
        let another = AccessChange {
            remove_users: last.remove_users,
            ..user("eva", "$2y$08$secret")
        };
        assert_eq!(
            set(&mut bench, another).unwrap().users,
            ["eva:$2y$08$secret"]
        );
        let rate = Some(Rate {
            average: 5,
            burst: 10,
        });
        let limited = AccessChange {
            rate: Some(rate),
            ..AccessChange::default()
        };
        assert_eq!(set(&mut bench, limited).unwrap().rate, rate);
        let open = AccessChange {
            remove_all_users: true,
            rate: Some(None),
            ..AccessChange::default()
        };
        assert_eq!(set(&mut bench, open).unwrap(), VisitorAccess::default());
    }

    #[test]
    fn the_host_need_not_know_and_a_restart_of_the_coordinator_does_not_forget() {
        let mut bench = bench();
        let before =
            bench.state.fleet.hosts[&name::<isyone_types::ids::HostName>("h1")].plan_generation;
        let generation = bench.state.fleet.tenants[&name::<TenantName>("alfa")].generation;
        bench.effects = crate::change::Effects::default();
        set(&mut bench, user("ana", "$2y$08$secret")).unwrap();
        assert_eq!(
            bench.effects.writes.len(),
            2,
            "the tenant and the event: {:?}",
            bench.effects.writes
        );
        assert!(bench.effects.touched_hosts.is_empty());
        let host = &bench.state.fleet.hosts[&name::<isyone_types::ids::HostName>("h1")];
        let tenant = &bench.state.fleet.tenants[&name::<TenantName>("alfa")];
        assert_eq!(
            (host.plan_generation, tenant.generation),
            (before, generation)
        );
        let mut disk = crate::written::Records::default();
        disk.apply(&bench.effects.writes);
        let stored = disk.contents();
        assert!(format!("{stored:?}").contains("ana:$2y$08$secret"));
    }

    #[test]
    fn nothing_new_is_no_event_and_bounds_hold() {
        let mut bench = bench();
        set(&mut bench, user("ana", "h")).unwrap();
        let events = bench.state.fleet.events.len();
        set(&mut bench, user("ana", "h")).unwrap();
        set(&mut bench, AccessChange::default()).unwrap();
        assert_eq!(bench.state.fleet.events.len(), events);
        let stranger = AccessChange {
            remove_users: vec!["eva".to_owned()],
            ..AccessChange::default()
        };
        assert!(
            set(&mut bench, stranger)
                .unwrap_err()
                .to_string()
                .contains("`eva`")
        );
        (1..MAX_USERS).for_each(|n| drop(set(&mut bench, user(&format!("u{n}"), "h")).unwrap()));
        assert!(set(&mut bench, user("onemore", "h")).is_err());
        set(&mut bench, user("u1", "other")).unwrap();
        let many = (0..=MAX_NETWORKS as u8)
            .map(|n| ([192, 0, 2, n], 32))
            .map(|(ip, _)| ipnet::IpNet::from(std::net::IpAddr::from(ip)));
        let many = AccessChange {
            networks: Some(many.collect()),
            ..AccessChange::default()
        };
        assert!(set(&mut bench, many).is_err());
        bench.settle();
        bench
            .apply(Command::DeleteTenant {
                name: name("alfa"),
                purge: false,
                request_id: None,
                cancel_running: false,
            })
            .unwrap();
        assert!(set(&mut bench, user("ana", "h")).is_err(), "deleted");
    }
}

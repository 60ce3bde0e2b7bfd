//! All routes, and which tenants claim which host name: a change to one tenant says whose fragments it affects, and
//! each fragment is rendered without looking at the others.
//!
//! A host name goes to the first tenant, by name, that claims it. Not here: what a fragment looks like.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Fragment, Options, Rejected, Route, Target, fragment, is_host_name, is_label};

#[derive(Debug, Clone)]
pub struct Routes {
    options: Options,
    routes: BTreeMap<String, Route>,
    /// Claimants by host name: sorted, at least one. A `Vec` and not a set, because there is mostly exactly one.
    claims: BTreeMap<String, Vec<String>>,
}

impl Routes {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            routes: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    /// Sets or removes a tenant's route. Returns the tenants whose [`Routes::judge`] may have changed: none if the
    /// route is the same, otherwise this tenant and those that contest a host name it claimed or claims now.
    pub fn set(&mut self, tenant: &str, route: Option<Route>) -> BTreeSet<String> {
        let mut concerned = BTreeSet::new();
        if self.routes.get(tenant) == route.as_ref() {
            return concerned;
        }
        concerned.insert(tenant.to_owned());
        let before = self.routes.get(tenant).map(claimed).unwrap_or_default();
        let after = route.as_ref().map(claimed).unwrap_or_default();
        for hostname in before.difference(&after) {
            concerned.extend(self.release(hostname, tenant));
        }
        for hostname in after.difference(&before) {
            concerned.extend(self.claim(hostname, tenant));
        }
        match route {
            Some(route) => self.routes.insert(tenant.to_owned(), route),
            None => self.routes.remove(tenant),
        };
        concerned
    }

    /// Returns the other claimants.
    fn claim(&mut self, hostname: &str, tenant: &str) -> Vec<String> {
        let claimants = self.claims.entry(hostname.to_owned()).or_default();
        let others = claimants.clone();
        if let Err(place) = claimants.binary_search_by(|c| c.as_str().cmp(tenant)) {
            claimants.insert(place, tenant.to_owned());
        }
        others
    }

    /// Returns the other claimants.
    fn release(&mut self, hostname: &str, tenant: &str) -> Vec<String> {
        let Some(claimants) = self.claims.get_mut(hostname) else {
            return Vec::new();
        };
        claimants.retain(|c| c != tenant);
        let others = claimants.clone();
        if others.is_empty() {
            self.claims.remove(hostname);
        }
        others
    }

    /// A tenant's fragment, if it gets one, and what was left out, sorted.
    pub fn judge(&self, tenant: &str) -> (Option<Fragment>, Vec<Rejected>) {
        let Some(route) = self.routes.get(tenant) else {
            return (None, Vec::new());
        };
        let reject = |hostname: Option<&str>, reason: String| Rejected {
            tenant: tenant.to_owned(),
            hostname: hostname.map(ToOwned::to_owned),
            reason,
        };
        if let Some(reason) = refusal(route) {
            return (None, vec![reject(None, reason.to_owned())]);
        }
        let (mut admitted, mut rejected) = (Vec::new(), Vec::new());
        for hostname in &route.hostnames {
            let owner = self
                .claims
                .get(hostname)
                .and_then(|claimants| claimants.first());
            match owner {
                _ if admitted.contains(&hostname.as_str()) => {}
                Some(owner) if owner == tenant => admitted.push(hostname.as_str()),
                Some(owner) => rejected.push(reject(
                    Some(hostname),
                    format!("already leads to `{owner}`"),
                )),
                None => rejected.push(reject(Some(hostname), "is not a host name".to_owned())),
            }
        }
        if admitted.is_empty() {
            rejected.push(reject(None, "no host name is left".to_owned()));
        }
        rejected.sort();
        rejected.dedup();
        let fragment = (!admitted.is_empty()).then(|| fragment(&self.options, route, &admitted));
        (fragment, rejected)
    }
}

/// Why the whole route is left out, if it is.
fn refusal(route: &Route) -> Option<&'static str> {
    if !is_label(&route.tenant) {
        return Some("the name is not a DNS label");
    }
    match route.target {
        Target::Running { http_port: 0, .. }
        | Target::Running {
            websocket_port: Some(0),
            ..
        } => Some("port 0 cannot be reached"),
        Target::Running { .. } | Target::Page => user_refusal(&route.access.users),
    }
}

/// Traefik refuses the whole router over one line that it cannot read.
fn user_refusal(users: &[String]) -> Option<&'static str> {
    (!users.iter().all(|user| is_user(user)))
        .then_some("a user for its password prompt is not `name:hash`")
}

/// Whether Traefik can read a line of `htpasswd`: exactly one colon, and nothing that the file provider would take for
/// template syntax.
pub fn is_user(line: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_graphic() && !"{}:".contains(c))
    };
    line.split_once(':')
        .is_some_and(|(name, hash)| fits(name) && fits(hash))
}

/// The valid host names that a route asks for.
fn claimed(route: &Route) -> BTreeSet<String> {
    let wanted = if refusal(route).is_none() {
        route.hostnames.as_slice()
    } else {
        &[]
    };
    wanted.iter().filter(|h| is_host_name(h)).cloned().collect()
}

//! Which host names need a certificate, kept in step with the Fleet: from one snapshot to the next, only tenants that
//! changed are examined.
//!
//! Pure. Not here: whether a certificate exists already, and when to order one (isyone_fleet::orders).

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use isyone_fleet::desired::{Fleet, Tenant};
use isyone_proto::ids::TenantName;

/// The host names that need a certificate, as of the last snapshot it followed.
#[derive(Debug)]
pub(crate) struct Wanted {
    base_domain: String,
    /// `*.isy.one`, if it covers all platform names.
    wildcard: Option<String>,
    tenants: OrdMap<TenantName, Arc<Tenant>>,
    names: BTreeSet<String>,
}

impl Wanted {
    /// Without tenants. Wants a wildcard at once, so that the first tenant need not wait for it, and for good `own`
    /// (Traefik's dashboard), which belongs to no tenant.
    pub(crate) fn new(base_domain: String, wildcard: Option<String>, own: Option<String>) -> Self {
        let covered = |name: &String| {
            wildcard
                .as_deref()
                .is_some_and(|w| isyone_proto::spec::covers(w, name))
        };
        let names = own
            .into_iter()
            .filter(|name| !covered(name))
            .chain(wildcard.clone())
            .collect();
        Self {
            base_domain,
            wildcard,
            tenants: OrdMap::new(),
            names,
        }
    }

    /// Follows this snapshot; returns whether that changed anything.
    pub(crate) fn follow(&mut self, fleet: &Fleet) -> bool {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for item in self.tenants.diff(&fleet.tenants) {
            let (old, new) = match item {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => (Some(old), Some(new)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            gone.extend(old.into_iter().flat_map(|tenant| self.of(tenant)));
            come.extend(new.into_iter().flat_map(|tenant| self.of(tenant)));
        }
        self.tenants = fleet.tenants.clone();
        gone.retain(|name| !come.contains(name));
        let mut removed = false;
        for name in &gone {
            removed |= self.names.remove(name);
        }
        let before = self.names.len();
        self.names.extend(come);
        removed || before != self.names.len()
    }

    pub(crate) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Includes suspended tenants: they have a page, which needs a certificate.
    fn of(&self, tenant: &Tenant) -> Vec<String> {
        if !tenant.reserves_compute() {
            return Vec::new();
        }
        let covered = |name: &String| {
            self.wildcard
                .as_deref()
                .is_some_and(|w| isyone_proto::spec::covers(w, name))
        };
        tenant
            .hostnames(&self.base_domain)
            .into_iter()
            .filter(|name| !covered(name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use isyone_fleet::{
        change::Command,
        testing::{Bench, name, resources},
    };

    use super::*;

    fn fleet() -> Bench {
        let mut bench = Bench::default();
        bench.host("h1", resources(8, 32, 100));
        let mut alfa = bench.creation("alfa", "small");
        alfa.spec.domains = vec![name("erp.alfa.example")];
        bench.apply(Command::CreateTenant(Box::new(alfa))).unwrap();
        bench.create("beta", "small").unwrap();
        bench
    }

    #[test]
    fn each_host_name_or_the_wildcard_and_what_it_does_not_cover() {
        let bench = fleet();
        let mut each = Wanted::new("isy.one".to_owned(), None, None);
        assert!(each.follow(&bench.state.fleet) && !each.follow(&bench.state.fleet));
        let names: Vec<_> = each.names().iter().map(String::as_str).collect();
        assert_eq!(names, ["alfa.isy.one", "beta.isy.one", "erp.alfa.example"]);
        let mut wild = Wanted::new("isy.one".to_owned(), Some("*.isy.one".to_owned()), None);
        assert_eq!(wild.names().len(), 1);
        wild.follow(&bench.state.fleet);
        assert_eq!(
            wild.names().iter().collect::<Vec<_>>(),
            ["*.isy.one", "erp.alfa.example"]
        );
    }

    #[test]
    fn the_dashboard_has_a_certificate_of_its_own_unless_the_wildcard_is_good_for_it() {
        let own = || Some("traefik.isy.one".to_owned());
        let mut each = Wanted::new("isy.one".to_owned(), None, own());
        each.follow(&fleet().state.fleet);
        assert!(each.names().contains("traefik.isy.one"));
        let wild = Wanted::new("isy.one".to_owned(), Some("*.isy.one".to_owned()), own());
        assert_eq!(wild.names().iter().collect::<Vec<_>>(), ["*.isy.one"]);
        let elsewhere = Some("ops.example.net".to_owned());
        let wild = Wanted::new(
            "isy.one".to_owned(),
            Some("*.isy.one".to_owned()),
            elsewhere,
        );
        assert!(wild.names().contains("ops.example.net"));
    }

    #[test]
    fn a_suspended_tenant_keeps_its_names_and_a_deleted_one_does_not() {
        let mut bench = fleet();
        let mut wanted = Wanted::new("isy.one".to_owned(), None, None);
        wanted.follow(&bench.state.fleet);
        bench.settle();
        bench
            .apply(Command::SuspendTenant {
                name: name("beta"),
                request_id: None,
                cancel_running: false,
            })
            .unwrap();
        assert!(!wanted.follow(&bench.state.fleet));
        bench.settle();
        bench
            .apply(Command::DeleteTenant {
                name: name("beta"),
                purge: false,
                request_id: None,
                cancel_running: false,
            })
            .unwrap();
        assert!(wanted.follow(&bench.state.fleet) && !wanted.names().contains("beta.isy.one"));
    }
}

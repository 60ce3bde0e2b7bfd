//! Which modules the fake's Odoo has, and what becomes of those that are asked for: as Odoo does, it ignores what it does not know
//! without a word, and fails for what a module needs and does not find.
//!
//! Not here: the database itself (programs).

use std::collections::{BTreeMap, BTreeSet};

use super::FakeDocker;
use crate::plan::container::ContainerSpec;

/// Name, state and title of each.
const MODULES: [(&str, &str, &str); 7] = [
    ("account", "uninstalled", "Invoicing"),
    ("crm", "uninstalled", "CRM"),
    ("lazy", "uninstalled", "Stays to be installed"),
    ("needy", "uninstalled", "Needs what is missing"),
    ("old", "uninstallable", "Old Times"),
    ("sale", "uninstalled", "Sales Orders"),
    ("sale_management", "uninstalled", "Sales"),
];

/// What Odoo says last when a requirement is missing.
const UNMET: &str = "odoo.exceptions.UserError: Unable to install module \"needy\" because an external dependency is not met: \
                     External dependency 'zeep' not installed\n";

/// Tenants' databases, as far as their modules go.
#[derive(Default)]
pub(super) struct Modules {
    /// Tenants whose company has its country.
    settled: BTreeSet<String>,
    installed: BTreeMap<String, BTreeSet<String>>,
}

impl Modules {
    /// A tenant's database is dropped.
    pub(super) fn forget(&mut self, tenant: &str) {
        self.settled.remove(tenant);
        self.installed.remove(tenant);
    }

    /// A tenant's company gets its country.
    pub(super) fn settle(&mut self, tenant: &str) {
        self.settled.insert(tenant.to_owned());
    }
}

fn wanted(spec: &ContainerSpec) -> Vec<String> {
    let at = spec.command.iter().position(|part| part == "-i");
    let list = at.and_then(|at| spec.command.get(at + 1));
    list.map(|list| list.split(',').map(str::to_owned).collect())
        .unwrap_or_default()
}

impl FakeDocker {
    /// Installs what a container was told to; returns its exit code.
    pub(super) fn install_modules(&self, tenant: &str, spec: &ContainerSpec) -> i32 {
        let wanted = wanted(spec);
        let mut world = self.world();
        if !world.modules.settled.contains(tenant) {
            let text = format!("{tenant}'s modules came before its company had its country");
            world.violations.push(text);
        }
        if wanted.iter().any(|name| name == "needy") {
            return 255;
        }
        let installed = world.modules.installed.entry(tenant.to_owned());
        installed.or_default().extend(wanted);
        0
    }

    /// The last lines of a container's log, if it is one that failed for a module's sake.
    pub(super) fn words_on_modules(&self, container: &str) -> Option<String> {
        let mut world = self.world();
        let spec = world.find(container).ok()?.spec.clone();
        wanted(&spec)
            .iter()
            .any(|name| name == "needy")
            .then(|| UNMET.to_owned())
    }

    /// What a tenant's database says of its modules.
    pub(super) fn list_modules(&self, tenant: &str) -> String {
        let world = self.world();
        let installed = world.modules.installed.get(tenant);
        let line = |(name, state, title): &(&str, &str, &str)| {
            let is_installed = installed.is_some_and(|installed| installed.contains(*name));
            let state = match (*name, is_installed) {
                ("lazy", true) => "to-install",
                (_, true) if *state != "uninstallable" => "installed",
                _ => state,
            };
            format!("module {name} {state} {title}\n")
        };
        let modules: String = MODULES.iter().map(line).collect();
        format!("language 1\ncountry 1\n{modules}")
    }
}

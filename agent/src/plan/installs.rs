//! The installation of an app that was cut off: by a limit, a kill, or for want of memory. Odoo then skips scheduled actions and
//! refuses further installations until somebody loads its modules anew. Pure.
//!
//! Here: how that is recognised, and how often it is mended by itself. Not here: doing it (tenant::installs), the container
//! (design).

use isyone_proto::plan::{TenantPlan, UnixMs};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::plan::conf;

/// Beyond the longest request, seconds: an installation by its page is one. One from a command line changes a module every few
/// minutes at the latest.
const SLACK_S: u64 = 180;
/// The least to wait in any case, seconds.
const LEAST_S: u64 = 900;
/// Tries to finish one. What fails three times needs a person: a module that is not there, or whose data contradicts.
pub const MOST_TRIES: u32 = 3;
/// Between two tries, milliseconds.
const BETWEEN_MS: i64 = 600_000;
/// More modules than any Odoo has: the number is the tenant's word.
const MOST_MODULES: f64 = 100_000.0;

/// The samples of a page that are read.
pub const NAMES: [&str; 3] = [MODULES, SECONDS, ADDRESS];
const MODULES: &str = "odoo_modules_pending";
const SECONDS: &str = "odoo_modules_pending_seconds";
const ADDRESS: &str = "odoo_address_digest";

/// Modules that are to be installed, upgraded or removed, as Odoo's page of metrics has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many.
    pub modules: u32,
    /// For how many seconds no module has changed; 0 while somebody is at it.
    pub seconds: u64,
    /// The address that Odoo believes to have, as [`address_digest`] has it; `None`: the page does not tell.
    pub address: Option<u64>,
    /// What the page before told: one alone may be of the moment before a change.
    pub address_before: Option<u64>,
}

/// An address as the number by which Odoo's page tells it.
pub fn address_digest(address: &str) -> u64 {
    let digest = Sha256::digest(address);
    let first = digest.iter().take(6);
    first.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Pending {
    /// Reads a page; `None`: it does not tell.
    pub fn parse(page: &str) -> Option<Self> {
        let value = |name: &str| {
            let of = |line: &str| {
                let rest = line.strip_prefix(name)?;
                let value = match rest.strip_prefix('{') {
                    Some(labels) => labels.rsplit_once(' ')?.1,
                    None => rest.strip_prefix(' ')?,
                };
                value.parse::<f64>().ok()
            };
            page.lines().find_map(of).filter(|v| *v >= 0.0)
        };
        let modules = value(MODULES)?.min(MOST_MODULES);
        let seconds = value(SECONDS)?;
        // `as` saturates; 48 bits are exact.
        Some(Self {
            modules: modules as u32,
            seconds: seconds as u64,
            address: value(ADDRESS).map(|digest| digest as u64),
            address_before: None,
        })
    }

    /// Whether the database says that it is at another address than the tenant's.
    pub fn is_elsewhere(self, plan: &TenantPlan) -> bool {
        let own = address_digest(&plan.base_url);
        [self.address, self.address_before]
            .iter()
            .all(|said| said.is_some_and(|said| said != own))
    }

    /// How many modules an installation has left behind; 0 as long as one may be under way.
    pub fn cut_off(self, plan: &TenantPlan) -> u32 {
        let longest = (conf::request_seconds(plan) + SLACK_S).max(LEAST_S);
        match self.seconds >= longest {
            true => self.modules,
            false => 0,
        }
    }
}

/// What was done about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installs {
    /// Tries since one was last finished.
    pub tries: u32,
    /// When the last one began.
    pub tried_ms: UnixMs,
    /// How many were finished, since the tenant is here.
    pub finished: u64,
}

impl Installs {
    /// Whether to try (again) now.
    pub fn is_due(&self, now: UnixMs) -> bool {
        self.tries < MOST_TRIES && (self.tries == 0 || now - self.tried_ms >= BETWEEN_MS)
    }

    /// For people: how it stands with modules that were left behind.
    pub fn words(&self, modules: u32, tenant: &str) -> String {
        let what = format!("the installation of an app was cut off ({modules} modules wait)");
        match self.tries {
            0 => format!("{what}; it is finished in a container of its own"),
            MOST_TRIES.. => format!(
                "{what}, and {MOST_TRIES} tries to finish it failed: scheduled actions do not run. The agent's log on its host has why; by \
                 hand: `isyctl tenant exec {tenant} -- odoo -i base --stop-after-init --no-http --workers=0`"
            ),
            tries => {
                format!("{what}; try {tries} of {MOST_TRIES} to finish it failed, the next follows")
            }
        }
    }
}

/// Prints how many modules are left, as one number; as the tenant's own role, for whatever its triggers do.
pub fn count(plan: &TenantPlan) -> String {
    format!(
        "\\connect \"{}\" odoo\nSET search_path = pg_catalog, public, pg_temp;\n\\pset tuples_only on\n\\pset format unaligned\n\
         SELECT count(*) FROM ir_module_module WHERE state IN ('to install', 'to upgrade', 'to remove');\n",
        plan.name.database()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tenant_plan;

    #[test]
    fn a_page_tells_what_is_pending() {
        let page = "# TYPE odoo_modules_pending gauge\nodoo_modules_pending{datname=\"a\"} 4\n\
                    odoo_modules_pending_seconds{datname=\"a\"} 1211.245343\n";
        let pending = Pending {
            modules: 4,
            seconds: 1211,
            ..Default::default()
        };
        assert_eq!(Pending::parse(page), Some(pending));
        let told = |digest: u64| {
            format!(
                "{page}odoo_address_digest{{datname=\"a\"}} {}\n",
                digest as f64
            )
        };
        let plan = tenant_plan("alfa");
        let twice = |address: &str| {
            let one = Pending::parse(&told(address_digest(address))).unwrap();
            assert!(!one.is_elsewhere(&plan), "one page is not enough");
            Pending {
                address_before: one.address,
                ..one
            }
        };
        assert!(twice("https://old.example.com").is_elsewhere(&plan));
        assert!(
            !twice(&plan.base_url).is_elsewhere(&plan),
            "a gauge carries 48 bits"
        );
        for page in [
            "",
            "odoo_modules_pending 4\n",
            "odoo_modules_pending -1\nodoo_modules_pending_seconds 5\n",
            "odoo_modules_pending NaN\nodoo_modules_pending_seconds x\n",
        ] {
            assert_eq!(Pending::parse(page), None, "{page}");
        }
        let wild = "odoo_modules_pending 1e300\nodoo_modules_pending_seconds inf\n";
        assert_eq!(Pending::parse(wild).unwrap().modules, 100_000);
    }

    #[test]
    fn an_installation_that_may_be_under_way_is_left_alone() {
        let mut plan = tenant_plan("alfa");
        let cut_off = |seconds, plan: &TenantPlan| {
            Pending {
                modules: 2,
                seconds,
                ..Default::default()
            }
            .cut_off(plan)
        };
        assert_eq!([0, 899, 900].map(|s| cut_off(s, &plan)), [0, 0, 2]);
        plan.upload_limit_bytes = 10 << 30;
        assert_eq!(cut_off(7_000, &plan), 0, "requests may take two hours");
        assert_eq!(cut_off(8_000, &plan), 2);
    }

    #[test]
    fn tries_are_bounded_and_apart() {
        let mut installs = Installs::default();
        let mut tried = Vec::new();
        for minute in 0..200 {
            let now = minute * 60_000;
            if installs.is_due(now) {
                (installs.tries, installs.tried_ms) = (installs.tries + 1, now);
                tried.push(minute);
            }
        }
        assert_eq!(tried, [0, 10, 20]);
        assert!(installs.words(2, "alfa").contains("3 tries"));
        // A clock that was set back.
        installs.tries = 1;
        assert!(!installs.is_due(0));
    }
}

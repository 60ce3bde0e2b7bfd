//! What can be scraped on a host, and its URL paths. Pure.
//!
//! Not here: the answers (scrape).

use isyone_proto::ids::TenantName;

/// One page.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `/metrics`: the host and the agent.
    Node,
    /// `/containers`: all tenants' containers.
    Containers,
    /// `/tenants/<t>/odoo`.
    Odoo(TenantName),
    /// `/tenants/<t>/postgres`.
    Postgres(TenantName),
}

impl Target {
    /// The page under a path; `None` where there is none.
    pub fn parse(path: &str) -> Option<Self> {
        match path.strip_prefix('/')?.split('/').collect::<Vec<_>>()[..] {
            ["metrics"] => Some(Self::Node),
            ["containers"] => Some(Self::Containers),
            ["tenants", tenant, "odoo"] => Some(Self::Odoo(tenant.parse().ok()?)),
            ["tenants", tenant, "postgres"] => Some(Self::Postgres(tenant.parse().ok()?)),
            _ => None,
        }
    }

    /// The kind of page, for the agent's own metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Containers => "containers",
            Self::Odoo(_) => "odoo",
            Self::Postgres(_) => "postgres",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_paths_are_pages() {
        assert_eq!(Target::parse("/metrics"), Some(Target::Node));
        assert_eq!(Target::parse("/containers"), Some(Target::Containers));
        assert_eq!(
            Target::parse("/tenants/alfa/odoo"),
            Some(Target::Odoo("alfa".parse().unwrap()))
        );
        assert_eq!(
            Target::parse("/tenants/alfa/postgres"),
            Some(Target::Postgres("alfa".parse().unwrap()))
        );
        for path in [
            "",
            "/",
            "/metrics/",
            "/tenants",
            "/tenants/alfa",
            "/tenants/../odoo",
            "/tenants//odoo",
            "/tenants/alfa/x",
        ] {
            assert_eq!(Target::parse(path), None, "{path}");
        }
    }
}

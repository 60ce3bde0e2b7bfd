//! What visitors see that belongs to no tenant: the page for host names that lead nowhere (yet), and Traefik's
//! dashboard.
//!
//! Not here: the page itself (the coordinator's, which knows why a tenant does not answer), and tenants' routers
//! (fragment).

use ipnet::IpNet;

use crate::{
    CLOSED_PATHS, CLOSED_PRIORITY, Options, PAGES, Rate,
    dynamic::{IpStrategy, Middleware, Router, RouterTls},
    json, tls,
};

/// Path of the page that stands in for a tenant that does not answer, below [`Options::pages_url`]. `Host` says which
/// tenant, and `?status=` which error the edge met, if any.
pub const PAGE_PATH: &str = "/pages/tenant";
/// The same for requests that no tenant's router matches, for which no access rule was checked. That happens on edges
/// of another shard, and for a new tenant that has no router yet.
pub const UNKNOWN_PATH: &str = "/pages/unknown";
/// The same for an upload that the edge has refused, because the tenant's disk is nearly full.
pub const FULL_PATH: &str = "/pages/full";
/// All of Traefik's API except what the dashboard shows of routers and services. Details of middlewares contain the
/// hashes of tenants' passwords (`/api/rawdata`, `/api/support-dump`, `/api/http/middlewares`), and the next version of
/// Traefik may add other paths. The price: the dashboard's list of middlewares stays empty.
const SECRET_PATHS: &str = "PathPrefix(`/api`) && !PathRegexp(`^/api/(overview|version|entrypoints|(http|tcp|udp)/(routers|services))(/[^/]*)?$`)";
/// Limit per client address at the dashboard, which loads some forty files and then polls every few seconds.
const RATE: Rate = Rate {
    average: 10,
    burst: 60,
};
/// Below everything else, including routers that an operator adds without a priority.
const UNKNOWN_PRIORITY: u32 = 1;

/// How Traefik's dashboard is exposed. It shows all tenants' names and addresses, so a password is mandatory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    pub hostname: String,
    /// Lines as `htpasswd` writes them; at least one.
    pub users: Vec<String>,
    /// Only these client addresses; empty: all.
    pub addresses: Vec<IpNet>,
}

impl Dashboard {
    pub(crate) fn middlewares(
        &self,
        clients: Option<IpStrategy>,
    ) -> Vec<(&'static str, Middleware)> {
        let users = ("isyone-dashboard-users", Middleware::users(&self.users));
        let addresses = (!self.addresses.is_empty()).then(|| {
            (
                "isyone-dashboard-addresses",
                Middleware::allow(&self.addresses, clients.clone()),
            )
        });
        let rate = ("isyone-dashboard-rate", Middleware::own_rate(RATE, clients));
        addresses.into_iter().chain([rate, users]).collect()
    }

    fn router(&self, options: &Options) -> String {
        let addresses = (!self.addresses.is_empty()).then_some("isyone-dashboard-addresses");
        // The rate limit bounds how fast passwords can be tried, and what hashing costs the edge.
        let chain: Vec<_> = addresses
            .into_iter()
            .chain([
                "isyone-dashboard-rate",
                "isyone-in-flight",
                "isyone-headers",
                "isyone-dashboard-users",
            ])
            .collect();
        let rule = format!("Host(`{}`)", self.hostname);
        let of_page = options
            .tls
            .as_ref()
            .map(|tls| tls::of_page(tls, &[&self.hostname]));
        router(
            options,
            &rule,
            CLOSED_PRIORITY,
            "api@internal",
            &chain,
            of_page.unwrap_or_default(),
        )
    }

    fn closed(&self, options: &Options) -> String {
        let rule = format!("Host(`{}`) && {SECRET_PATHS}", self.hostname);
        let tls = RouterTls::default();
        router(
            options,
            &rule,
            CLOSED_PRIORITY + 1,
            "noop@internal",
            &["isyone-closed"],
            tls,
        )
    }
}

/// Routers that belong to no tenant, each preceded by a comma and a line break.
pub(crate) fn routers(options: &Options) -> String {
    let chain = [
        "isyone-rate",
        "isyone-in-flight",
        "isyone-headers",
        "isyone-unknown",
    ];
    let unknown = router(
        options,
        "PathPrefix(`/`)",
        UNKNOWN_PRIORITY,
        PAGES,
        &chain,
        RouterTls::default(),
    );
    // A host name may end with a dot (the DNS root).
    let platform = format!(
        r"HostRegexp(`^(.+\.)?{}\.?$`)",
        options.base_domain.replace('.', r"\.")
    );
    let closed = closed(options, &platform);
    let shared = format!(",\n\"isyone-closed\":{closed},\n\"isyone-unknown\":{unknown}");
    let board = options.dashboard.as_ref();
    let board = board.map_or_else(String::new, |board| {
        let (open, closed) = (board.router(options), board.closed(options));
        format!(",\n\"isyone-dashboard\":{open},\n\"isyone-dashboard_closed\":{closed}")
    });
    board + &shared
}

/// Closes internal paths under the names that the rule `names` matches. The allow list admits nobody; behind it is
/// Traefik's own no-op service.
pub(crate) fn closed(options: &Options, names: &str) -> String {
    let rule = format!("({names}) && ({CLOSED_PATHS})");
    router(
        options,
        &rule,
        CLOSED_PRIORITY,
        "noop@internal",
        &["isyone-closed"],
        RouterTls::default(),
    )
}

/// A router for visitors: on the entry point with TLS if there is one.
pub(crate) fn router(
    options: &Options,
    rule: &str,
    priority: u32,
    service: &str,
    middlewares: &[&str],
    tls: RouterTls<'_>,
) -> String {
    let Some(on) = &options.tls else {
        return json(&Router {
            entry_points: &options.entry_points,
            middlewares,
            priority,
            rule,
            service,
            tls: None,
        });
    };
    let hsts = (on.hsts_seconds > 0).then_some(tls::HSTS);
    let chain: Vec<&str> = hsts
        .into_iter()
        .chain(middlewares.iter().copied())
        .collect();
    let entry_points = std::slice::from_ref(&on.entry_point);
    json(&Router {
        entry_points,
        middlewares: &chain,
        priority,
        rule,
        service,
        tls: Some(tls),
    })
}

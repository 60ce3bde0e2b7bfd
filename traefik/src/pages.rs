//! What visitors see that is no tenant's: the page for host names that lead nowhere (yet), and Traefik's own dashboard.
//!
//! Not here: the page itself (the coordinator's, which knows why a tenant does not answer), and tenants' routers (fragment).

use ipnet::IpNet;

use crate::{
    CLOSED_PATHS, CLOSED_PRIORITY, Options, PAGES, Rate,
    dynamic::{IpStrategy, Middleware, Router, RouterTls},
    json, tls,
};

/// Path of the page that stands in for whatever does not answer, below [`Options::pages_url`]. It is told by `Host` of whom, and
/// by `?status=` what the edge met, if it met anything.
pub const PAGE_PATH: &str = "/pages/tenant";
/// The same for who comes by no tenant's router: nothing has looked whether he would get in to the tenant he names. Edges of
/// another shard have no router for it, and a new tenant has none yet.
pub const UNKNOWN_PATH: &str = "/pages/unknown";
/// All of Traefik's API but what the dashboard shows of routers and services: what middlewares say has the hashes of tenants' passwords in
/// it (`/api/rawdata`, `/api/support-dump`, `/api/http/middlewares`), and the next version of Traefik may tell it elsewhere, too.
/// The dashboard's list of middlewares stays empty for it.
const SECRET_PATHS: &str = "PathPrefix(`/api`) && !PathRegexp(`^/api/(overview|version|entrypoints|(http|tcp|udp)/(routers|services))(/[^/]*)?$`)";
/// Of one client address at the dashboard, which asks for some forty files and then every few seconds.
const RATE: Rate = Rate {
    average: 10,
    burst: 60,
};
/// Below everything else, also below what an operator adds without a priority of his own.
const UNKNOWN_PRIORITY: u32 = 1;

/// How Traefik's dashboard is reached from outside. It shows all tenants' names and addresses: nobody gets there without a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    pub hostname: String,
    /// As `htpasswd` writes them; at least one.
    pub users: Vec<String>,
    /// Only from these addresses; empty: from everywhere.
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
        // The rate bounds how fast passwords can be tried, and what hashes cost the edge.
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

/// Those that belong to no tenant, each with a comma and a line break before it.
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
    // A host name may end with the root's dot.
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

/// What is for no visitor, under names that a rule says. Nobody passes the allow list, and behind it is Traefik's own no-op.
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

/// A router where visitors are: on the entry point with TLS, if there is one.
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

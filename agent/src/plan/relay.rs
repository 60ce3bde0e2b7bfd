//! What the host's relay is told of a tenant: where it listens for it, where its Odoo is, and its limits, which follow from its size.
//! Pure.
//!
//! Not here: when a route is there and in which state (host::relay, tenant), what a relay does with it (the crate isyone-relay).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use isyone_proto::plan::{Role, TenantPlan};
use isyone_relay::{
    limits::Limits,
    routes::{Ends, Route, State},
};

use super::{
    conf::request_seconds,
    container::{Container, LABEL_PORTS, PORTS_RELAYED},
    stack::{GEVENT_PORT, HTTP_PORT, db_maxconn, default_pids, split_memory},
};

/// What the edges close as well (`CLOSED_PATHS` of the crate for Traefik): metrics, and the database manager by page and by XML-RPC.
/// A relay closes what is below, in every spelling, and behind a language.
const CLOSED_PATHS: [&str; 7] = [
    "/metrics",
    "/web/database",
    "/web/db",
    "/xmlrpc/database",
    "/xmlrpc/db",
    "/xmlrpc/2/database",
    "/xmlrpc/2/db",
];
/// What a form says around a file of the largest size.
const FORM_BYTES: u64 = 16 << 20;
/// What a request may take beyond Odoo's own limit before the relay gives it up, seconds.
const BEYOND_S: u64 = 60;
/// Of threaded Odoo's connections to its database, the part that requests get: a request may take several, and websockets and crons
/// need some as well. A request that finds none waits for one, and fails after ten seconds; without our module it fails at once.
const POOL_PART: u32 = 4;
/// A websocket of threaded Odoo is a thread, which may need so much memory.
const THREAD_BYTES: u64 = 4 << 20;
/// A websocket of the process that has nothing else to do.
const SOCKET_BYTES: u64 = 1 << 20;
/// Stands for an address that is not known yet: nobody has it (RFC 5737), and who is held is sent nowhere.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Websockets that every tenant may have, and that none needs more than.
const SOCKETS: (u64, u64) = (16, 4_096);

/// Whether a container's ports are the relay's. One that an agent of before has made, or one made while there was no relay, has ports
/// that Docker publishes.
pub fn is_relayed(container: &Container) -> bool {
    container.label(LABEL_PORTS) == PORTS_RELAYED
}

/// The route to a tenant's Odoo at this address.
pub fn route(plan: &TenantPlan, advertise: IpAddr, odoo: Ipv4Addr) -> Route {
    let listen = |port| SocketAddr::new(advertise, port);
    let upstream = |port| SocketAddr::from((odoo, port));
    Route {
        name: plan.name.clone(),
        listen: Ends {
            http: listen(plan.http_port),
            websocket: Some(listen(plan.websocket_port)),
        },
        upstream: Ends {
            http: upstream(HTTP_PORT),
            // Without workers there is no process for them.
            websocket: (plan.size.workers > 0).then(|| upstream(GEVENT_PORT)),
        },
        state: State::Serving,
        lease: None,
        limits: limits(plan),
        closed_paths: CLOSED_PATHS.map(str::to_owned).to_vec(),
    }
}

/// The same before it is known where its Odoo will be: requests are held until then (milliseconds since 1970) at most.
pub fn route_to_come(plan: &TenantPlan, advertise: IpAddr, until_ms: u64) -> Route {
    Route {
        state: State::Holding { until_ms },
        ..route(plan, advertise, NOWHERE)
    }
}

/// Requests that are at work in its Odoo at once, at most.
pub fn places(plan: &TenantPlan) -> u64 {
    let size = &plan.size;
    let places = match size.workers {
        0 => u64::from(db_maxconn(plan) / POOL_PART),
        // Each works on one request; what it has to wait for, it waits for here.
        workers => u64::from(workers),
    };
    places.max(1)
}

/// What a tenant's visitors are held to.
fn limits(plan: &TenantPlan) -> Limits {
    let size = &plan.size;
    let connections = u64::from(db_maxconn(plan));
    let (memory, _) = split_memory(size.memory_bytes);
    let threaded = size.workers == 0;
    let sockets = match threaded {
        // Half of each is left for pages, crons and what Odoo itself needs.
        true => (u64::from(default_pids(size)) / 2).min(memory / 2 / THREAD_BYTES),
        false => memory / 2 / SOCKET_BYTES,
    };
    let sockets = sockets.clamp(SOCKETS.0, SOCKETS.1);
    let defaults = Limits::default();
    Limits {
        upload_bytes: plan.upload_limit_bytes.saturating_add(FORM_BYTES),
        answer_wait_ms: defaults
            .answer_wait_ms
            .max((request_seconds(plan) + BEYOND_S) * 1_000),
        max_in_flight: places(plan),
        max_in_flight_websocket: (connections / 2).max(1),
        websockets: sockets,
        websockets_per_address: sockets.div_ceil(2),
        ..defaults
    }
}

/// Who may say for whom a request is: the edges of the plan, and this machine itself, where an edge may be.
pub fn edges(planned: &[IpNet], advertise: IpAddr) -> Vec<IpNet> {
    let own = [
        IpNet::from(advertise),
        IpNet::from(IpAddr::from([127, 0, 0, 1])),
        IpNet::from(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)),
    ];
    let mut edges: Vec<IpNet> = planned.iter().map(IpNet::trunc).chain(own).collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// Whether stopping a role's container is waited for until no request is under way: what is deleted has no visitors to wait for.
pub fn waits_for_requests(plan: &TenantPlan, role: Role) -> bool {
    use isyone_proto::plan::DesiredState::{
        Fenced, Purged, Quarantined, Running, Standby, Suspended,
    };
    match (plan.desired, role) {
        (Running, _) => true,
        // Odoo ends first, and nobody is served by then.
        (Suspended | Standby | Fenced, role) => role == Role::Odoo,
        (Quarantined | Purged, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::spec::{Bounds, Size};
    use isyone_relay::{limits::HostLimits, routes::Routes};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::tenant_plan;

    fn sized(memory_bytes: u64, workers: u32) -> TenantPlan {
        let mut plan = tenant_plan("alfa");
        plan.size = Size {
            memory_bytes,
            cpu_millis: 1_000,
            disk_bytes: 0,
            workers,
            bounds: Bounds::default(),
        };
        plan
    }

    #[test]
    fn a_route_leads_to_odoos_processes() {
        let advertise = "192.0.2.7".parse().unwrap();
        let odoo = Ipv4Addr::new(10, 240, 0, 3);
        let plan = sized(3 << 30, 2);
        let with = route(&plan, advertise, odoo);
        assert_eq!(with.listen.http, SocketAddr::new(advertise, plan.http_port));
        let websocket = with.listen.websocket.unwrap();
        assert_eq!(websocket, SocketAddr::new(advertise, plan.websocket_port));
        assert_eq!(with.upstream.http.to_string(), "10.240.0.3:8069");
        assert_eq!(
            with.upstream.websocket.unwrap().to_string(),
            "10.240.0.3:8072"
        );
        assert_eq!(with.limits.max_in_flight, 2);
        let without = route(&sized(1 << 30, 0), advertise, odoo);
        assert_eq!(without.upstream.websocket, None);
        assert_eq!(without.listen, with.listen, "an edge may still ask there");
    }

    /// Threaded Odoo: fewer requests than its pool has connections, fewer websockets than it may have threads.
    #[test]
    fn what_the_smallest_plan_carries() {
        let plan = sized(1 << 30, 0);
        let limits = limits(&plan);
        assert_eq!(limits.max_in_flight, 8);
        assert_eq!(limits.websockets, 96);
        assert_eq!(limits.websockets_per_address, 48);
        assert_eq!(limits.upload_bytes, (1 << 30) + (16 << 20));
        let mut narrow = sized(64 << 30, 0);
        narrow.size.bounds.pids = 100;
        assert_eq!(super::limits(&narrow).websockets, 50);
    }

    #[test]
    fn an_edge_may_be_on_this_machine() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let planned = [net("10.1.0.9/24"), net("192.0.2.7/32")];
        let found = edges(&planned, "192.0.2.7".parse().unwrap());
        let wanted = [
            net("10.1.0.0/24"),
            net("127.0.0.1/32"),
            net("192.0.2.7/32"),
            net("::1/128"),
        ];
        assert_eq!(found, wanted);
    }

    proptest! {
        #[test]
        fn a_route_of_any_size_is_one_that_a_relay_takes(
            memory in (64_u64 << 20)..(512 << 30), workers in 0_u32..180, pids in 0_u32..100_000, upload in 0_u64..(64 << 30)
        ) {
            let mut plan = sized(memory, workers);
            plan.size.bounds.pids = pids;
            plan.upload_limit_bytes = upload;
            let route = route(&plan, "192.0.2.7".parse().unwrap(), Ipv4Addr::new(10, 240, 0, 3));
            let limits = route.limits.clone();
            prop_assert!(limits.max_in_flight <= u64::from(db_maxconn(&plan)).max(u64::from(workers)));
            prop_assert!(limits.websockets_per_address <= limits.websockets);
            prop_assert!(limits.answer_wait_ms > request_seconds(&plan) * 1_000);
            let routes = Routes::new(1, Vec::new(), HostLimits::default(), vec![route]);
            prop_assert!(routes.is_ok(), "{:?}", routes);
            let routes = routes.unwrap();
            prop_assert_eq!(Routes::read(routes.text().as_bytes()).unwrap(), routes);
        }
    }
}

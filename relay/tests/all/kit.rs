//! A relay with one tenant, and what tests ask of it.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use isyone_relay::{
    Relay, Settings,
    limits::{HostLimits, Limits},
    routes::{Ends, Route, Routes, State},
};

use crate::odoo::Odoo;

pub(crate) struct Kit {
    pub(crate) relay: Option<Relay>,
    pub(crate) settings: Settings,
    pub(crate) route: Route,
    pub(crate) host: HostLimits,
    pub(crate) edges: Vec<String>,
    revision: u64,
    _folder: tempfile::TempDir,
}

/// An address that is free at the moment.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

impl Kit {
    pub(crate) async fn start(odoo: &Odoo, limits: Limits) -> Self {
        Self::start_with(odoo.address, None, limits, HostLimits::default()).await
    }

    pub(crate) async fn start_with(
        http: SocketAddr,
        websocket: Option<SocketAddr>,
        limits: Limits,
        host: HostLimits,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let settings = Settings {
            routes: path("routes.json"),
            spool: path("spool"),
            admin: path("admin.sock"),
            handover: path("handover.sock"),
            version: "1".to_owned(),
        };
        let route = Route {
            name: "alfa".parse().unwrap(),
            listen: Ends {
                http: free_address(),
                websocket: None,
            },
            upstream: Ends { http, websocket },
            state: State::Serving,
            lease: None,
            limits,
            closed_paths: vec!["/web/database".to_owned()],
        };
        let mut kit = Self {
            relay: None,
            settings,
            route,
            host,
            edges: vec!["127.0.0.1/32".to_owned()],
            revision: 0,
            _folder: folder,
        };
        kit.write();
        let relay = Relay::start(kit.settings.clone()).await.unwrap();
        assert_eq!(relay.faults(), Vec::<String>::new());
        kit.relay = Some(relay);
        kit
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.route.listen.http
    }

    /// Writes the routes as an agent does.
    pub(crate) fn write(&mut self) {
        self.revision += 1;
        let edges = self.edges.iter().map(|e| e.parse().unwrap()).collect();
        let routes = Routes::new(
            self.revision,
            edges,
            self.host.clone(),
            vec![self.route.clone()],
        )
        .unwrap();
        let new = self.settings.routes.with_extension("new");
        std::fs::write(&new, routes.text()).unwrap();
        std::fs::rename(new, &self.settings.routes).unwrap();
    }

    /// Another state, in force when this returns.
    pub(crate) async fn state(&mut self, state: State) {
        self.route.state = state;
        self.write();
        let relay = self.relay.as_ref().unwrap();
        relay.reload();
        until("the routes are in force", || {
            relay.revision() == self.revision
        })
        .await;
    }

    /// A figure of the tenant.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        figure(self.relay.as_ref().unwrap(), name)
    }
}

pub(crate) fn figure(relay: &Relay, name: &str) -> u64 {
    let page = relay.metrics();
    let line = page.lines().find(|line| {
        let series = line.rsplit_once(' ').map_or("", |(series, _)| series);
        series == format!("isyone_relay_{name}{{tenant=\"alfa\"}}")
            || series == format!("isyone_relay_{name}")
    });
    let line = line.unwrap_or_else(|| panic!("{name} in\n{page}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Waits until something holds, thirty seconds at most.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A hold from now on.
#[expect(
    clippy::disallowed_methods,
    reason = "the agent speaks by the wall clock"
)]
pub(crate) fn holding(longest: Duration) -> State {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    State::Holding {
        until_ms: u64::try_from((now + longest).as_millis()).unwrap(),
    }
}

/// Whether large tests are to be large.
pub(crate) fn is_long() -> bool {
    std::env::var_os("ISYONE_LONG").is_some()
}

/// Memory of this process, bytes.
pub(crate) fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A session's cookie as Odoo makes them.
pub(crate) fn cookie() -> String {
    format!("Cookie: session_id={}\r\n", "a1-_".repeat(21))
}

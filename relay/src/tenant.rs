//! A tenant at work: what it is told at the moment, its places, its stocks and its counters.
//!
//! Not here: what is done with a request (`serve`).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use ipnet::IpNet;
use isyone_types::ids::TenantName;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    budget::Budgets,
    clock,
    figures::{Figures, Now, Own},
    gate::Gate,
    judge::Costly,
    lease::Bell,
    ledger::{Common, Ledger, TenantId, locked},
    limits::{HostLimits, Limits, ms},
    pages::Notice,
    routes::{Route, Routes, State},
    spool::Spool,
    turns::Places,
    visitor::Visitor,
};

/// One address may have one n-th of the free requests: fifty greedy ones leave some.
const REQUESTS_PART: u64 = 8;
/// The same of memory. What finds none goes to the spool.
const MEMORY_PART: u64 = 8;
/// Of disk space one large upload may take half of what is free.
const DISK_PART: u64 = 1;
/// Of websockets an office behind one address may have half.
const SOCKETS_PART: u64 = 1;

/// What all tenants of a relay share.
#[derive(Debug)]
pub(crate) struct Host {
    /// What all are held to.
    pub(crate) limits: RwLock<Arc<HostLimits>>,
    /// Memory.
    pub(crate) memory: Arc<Common>,
    /// Disk space.
    pub(crate) disk: Arc<Common>,
    /// Requests.
    pub(crate) open: Arc<Common>,
    /// Websockets.
    pub(crate) websockets: Arc<Common>,
    /// Connections.
    pub(crate) connections: Arc<Common>,
    /// Where large bodies lie.
    pub(crate) spool: Arc<Spool>,
    /// Counters of the relay as a whole.
    pub(crate) own: Own,
    /// The routes' number.
    pub(crate) revision: AtomicU64,
    /// A successor has taken over, or the end is near: each answer ends its connection.
    pub(crate) is_draining: AtomicBool,
    /// Idle connections end now.
    pub(crate) closing: CancellationToken,
    /// Everything ends now.
    pub(crate) killed: CancellationToken,
    /// Connections, requests and websockets under way.
    pub(crate) tasks: TaskTracker,
    /// Budgets count from here.
    pub(crate) began: Instant,
    /// The machine's boot in which this process runs.
    pub(crate) boot: String,
}

impl Host {
    /// Nothing is under way.
    pub(crate) fn new(spool: Arc<Spool>) -> Arc<Self> {
        let limits = HostLimits::default();
        Arc::new(Self {
            memory: Common::new(limits.memory_bytes),
            disk: Common::new(limits.spool_bytes),
            open: Common::new(limits.open_requests),
            websockets: Common::new(limits.websockets),
            connections: Common::new(limits.connections),
            limits: RwLock::new(Arc::new(limits)),
            spool,
            own: Own::default(),
            revision: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            closing: CancellationToken::new(),
            killed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            began: Instant::now(),
            boot: clock::boot_id(),
        })
    }

    /// Other limits from now on.
    pub(crate) fn set(&self, limits: &HostLimits) {
        self.memory.resize(limits.memory_bytes);
        self.disk.resize(limits.spool_bytes);
        self.open.resize(limits.open_requests);
        self.websockets.resize(limits.websockets);
        self.connections.resize(limits.connections);
        let mut current = self.limits.write().unwrap_or_else(|e| e.into_inner());
        *current = Arc::new(limits.clone());
    }

    /// What all are held to.
    pub(crate) fn limits(&self) -> Arc<HostLimits> {
        Arc::clone(&self.limits.read().unwrap_or_else(|e| e.into_inner()))
    }
}

/// Which of a tenant's two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Pages and calls.
    Http,
    /// Websockets.
    Websocket,
}

/// What a tenant is told at the moment.
#[derive(Debug)]
pub(crate) struct Current {
    /// Its route.
    pub(crate) route: Route,
    /// Who may say for whom a request is.
    pub(crate) edges: Arc<[IpNet]>,
    /// Until when requests are held, where they are.
    pub(crate) hold_until: Option<Instant>,
}

/// A tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// Stands for it in what all share.
    pub(crate) id: TenantId,
    /// The name it has in its route.
    pub(crate) name: TenantName,
    /// What all share.
    pub(crate) host: Arc<Host>,
    /// Counters.
    pub(crate) figures: Figures,
    /// Requests, in any state.
    pub(crate) open: Arc<Ledger>,
    /// Websockets.
    pub(crate) websockets: Arc<Ledger>,
    /// Memory.
    pub(crate) memory: Arc<Ledger>,
    /// Disk space.
    pub(crate) disk: Arc<Ledger>,
    /// Ended with the route: websockets and idle connections end.
    pub(crate) gone: CancellationToken,
    /// Tells the ends of its leases.
    pub(crate) bell: Bell,
    current: watch::Sender<Arc<Current>>,
    http_gate: Arc<Gate>,
    websocket_gate: Arc<Gate>,
    sign_in: Mutex<Budgets<Visitor>>,
    rpc: Mutex<Budgets<Visitor>>,
    http_down: Mutex<Option<Down>>,
    websocket_down: Mutex<Option<Down>>,
}

/// Odoo refuses connections.
#[derive(Debug, Clone, Copy)]
struct Down {
    since: Instant,
    last_seen: Instant,
}

impl Tenant {
    /// A tenant as its route says.
    pub(crate) fn new(id: TenantId, host: &Arc<Host>, current: Current) -> Arc<Self> {
        let limits = &current.route.limits;
        let is_open = admits(&current.route.state);
        let ledger = |common, bound, per_key, part| Ledger::new(common, id, bound, per_key, part);
        Arc::new(Self {
            id,
            name: current.route.name.clone(),
            figures: Figures::default(),
            open: ledger(
                &host.open,
                limits.open_requests,
                limits.open_requests_per_address,
                REQUESTS_PART,
            ),
            websockets: ledger(
                &host.websockets,
                limits.websockets,
                limits.websockets_per_address,
                SOCKETS_PART,
            ),
            memory: ledger(
                &host.memory,
                limits.memory_bytes,
                limits.memory_bytes,
                MEMORY_PART,
            ),
            disk: ledger(
                &host.disk,
                limits.spool_bytes,
                limits.spool_bytes_per_address,
                DISK_PART,
            ),
            gone: CancellationToken::new(),
            bell: Bell::default(),
            http_gate: Gate::new(places(limits, Role::Http), is_open),
            websocket_gate: Gate::new(places(limits, Role::Websocket), is_open),
            sign_in: Mutex::new(Budgets::new(
                limits.sign_in_per_minute,
                limits.sign_in_burst,
            )),
            rpc: Mutex::new(Budgets::new(limits.rpc_per_minute, limits.rpc_burst)),
            http_down: Mutex::new(None),
            websocket_down: Mutex::new(None),
            host: Arc::clone(host),
            current: watch::Sender::new(Arc::new(current)),
        })
    }

    /// Another route from now on. Requests that wait see it at once.
    pub(crate) fn set(&self, current: Current) {
        let limits = &current.route.limits;
        self.open
            .resize(limits.open_requests, limits.open_requests_per_address);
        self.websockets
            .resize(limits.websockets, limits.websockets_per_address);
        self.memory.resize(limits.memory_bytes, limits.memory_bytes);
        self.disk
            .resize(limits.spool_bytes, limits.spool_bytes_per_address);
        locked(&self.sign_in).set(limits.sign_in_per_minute, limits.sign_in_burst);
        locked(&self.rpc).set(limits.rpc_per_minute, limits.rpc_burst);
        let is_open = admits(&current.route.state);
        let (http, websocket) = (places(limits, Role::Http), places(limits, Role::Websocket));
        // First what is told, then the doors: who is let in finds the route by which he was.
        self.current.send_replace(Arc::new(current));
        self.http_gate.set(http, is_open);
        self.websocket_gate.set(websocket, is_open);
    }

    /// The route is no more: who waits gets the waiting page.
    pub(crate) fn end(&self) {
        self.current.send_modify(|current| {
            let mut route = current.route.clone();
            route.state = State::Holding { until_ms: 0 };
            *current = Arc::new(Current {
                route,
                edges: Arc::clone(&current.edges),
                hold_until: Some(self.host.began),
            });
        });
        for (gate, role) in [
            (&self.http_gate, Role::Http),
            (&self.websocket_gate, Role::Websocket),
        ] {
            gate.set(places(&self.current().route.limits, role), false);
        }
        self.gone.cancel();
    }

    /// What it is told at the moment.
    pub(crate) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.borrow())
    }

    /// Whether it may be answered for at this moment.
    pub(crate) fn may_answer(&self) -> bool {
        let current = self.current();
        let lease = current.route.lease.as_ref();
        lease.is_none_or(|lease| !lease.is_over(&self.host.boot, clock::boot_ms()))
    }

    /// The same, with a bell that rings when it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Current>> {
        self.current.subscribe()
    }

    /// Places in one of its processes.
    pub(crate) fn gate(&self, role: Role) -> &Arc<Gate> {
        match role {
            Role::Http => &self.http_gate,
            Role::Websocket => &self.websocket_gate,
        }
    }

    /// Takes an expensive request from its visitor's budget.
    pub(crate) fn spend(&self, costly: Costly, visitor: Visitor) -> Result<(), Notice> {
        let budgets = match costly {
            Costly::SignIn => &self.sign_in,
            Costly::Rpc => &self.rpc,
        };
        let spent = locked(budgets).spend(visitor, self.host.began.elapsed());
        spent.map_err(|wait| Notice::TooMany {
            retry_s: u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX),
        })
    }

    /// A connection to Odoo was made.
    pub(crate) fn is_up(&self, role: Role) {
        *locked(self.down(role)) = None;
    }

    /// A connection was refused; for how long they have been.
    pub(crate) fn is_down(&self, role: Role, now: Instant) -> Duration {
        let forgotten = ms(self.current().route.limits.retry_hold_ms) * 2 + Duration::from_secs(10);
        let mut down = locked(self.down(role));
        // Seen long ago, and nobody came since: that was another time.
        let since = match *down {
            Some(down) if now - down.last_seen < forgotten => down.since,
            _ => now,
        };
        *down = Some(Down {
            since,
            last_seen: now,
        });
        now - since
    }

    fn down(&self, role: Role) -> &Mutex<Option<Down>> {
        match role {
            Role::Http => &self.http_down,
            Role::Websocket => &self.websocket_down,
        }
    }

    /// What is at this moment.
    pub(crate) fn now(&self) -> Now {
        let ((a, b), (c, d)) = (self.http_gate.counts(), self.websocket_gate.counts());
        Now {
            in_flight: a + c,
            waiting: b + d,
            open: self.open.used(),
            websockets: self.websockets.used(),
            memory_bytes: self.memory.used(),
            spool_bytes: self.disk.used(),
        }
    }
}

impl Current {
    /// What the relay reads out of routes for a tenant. `unix_ms` is now by the wall clock, by which the agent speaks; `now` the same
    /// moment by the clock that does not jump.
    pub(crate) fn of(route: &Route, routes: &Routes, unix_ms: u64, now: Instant) -> Self {
        let hold_until = match route.state {
            State::Holding { until_ms } => {
                Some(now + ms(until_ms.saturating_sub(unix_ms).min(MAX_HOLD_MS)))
            }
            _ => None,
        };
        Self {
            route: route.clone(),
            edges: routes.edges().into(),
            hold_until,
        }
    }

    /// Where one of its processes is reached. Without one for websockets the other serves them.
    pub(crate) fn upstream(&self, role: Role) -> SocketAddr {
        let ends = self.route.upstream;
        match role {
            Role::Http => ends.http,
            Role::Websocket => ends.websocket.unwrap_or(ends.http),
        }
    }

    /// Which process serves what came to one of its addresses.
    pub(crate) fn role(&self, came_to: Role, is_websocket: bool) -> Role {
        let has_own = self.route.upstream.websocket.is_some();
        match has_own && (is_websocket || came_to == Role::Websocket) {
            true => Role::Websocket,
            false => Role::Http,
        }
    }
}

/// Nobody holds requests longer than an hour: their visitors are gone.
const MAX_HOLD_MS: u64 = 3_600_000;

fn admits(state: &State) -> bool {
    matches!(state, State::Serving | State::UploadsRefused)
}

fn places(limits: &Limits, role: Role) -> Places {
    let (at_work, per_address) = match role {
        Role::Http => (limits.max_in_flight, limits.in_flight_per_address()),
        Role::Websocket => (
            limits.max_in_flight_websocket,
            limits.max_in_flight_websocket,
        ),
    };
    Places {
        at_work,
        per_address,
        waiting: limits.queue_length,
    }
}

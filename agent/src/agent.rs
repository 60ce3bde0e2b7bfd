//! Assembles a running agent: ledger, reconciler, link, renewal, measuring, HTTP. Used by the program and, with a fake
//! engine, by tests that run whole fleets in one process.
//!
//! Not here: the command line (main).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use isyone_proto::plan::{JobOrder, JobWork};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::async_trait;

use crate::{
    backup::{
        Backups, ContainerServers, CoordinatorStores, HostTenants, Make, Restore, Shipper, Verify,
    },
    base::{
        beneath,
        bulk::AnyConnection,
        config::{AgentConfig, ConfigError, DataDir},
    },
    docker::Docker,
    doctor,
    host::{
        Gate, Host, Pace, catcher, chores, disk,
        firewall::{Nft, Sources},
        hosts::Hosts,
        identity::{IdentityError, LiveIdentity},
        ledger::{InForce, Ledger, LedgerError},
        monitors::Monitors,
        probe::Probe,
        relay::{self, Keeper},
        space, usage,
    },
    jobs::{
        JobError, Jobs, Progress, Work,
        fetch::{Fetch, Reserve},
        follow::Follow,
        works,
    },
    link::{renew, session::Link},
    metrics::{self, loopback, scrape::Scraper},
    peer::{ContainerDatabases, CoordinatorRelay, PeerPort, Peers, Reach},
    plan::firewall::{METRICS_PORT, PEER_PORT},
    tenant::reconcile,
};

/// Connections through the coordinator that wait to be greeted: it lets a host have two.
const RELAYED: usize = 4;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host has not joined, or its settings are bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The key or certificate is missing or unusable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The plan on disk cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A directory cannot be used.
    #[error("{path} cannot be used", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// Where one of the agent's ports for others is: Prometheus', or other hosts' agents'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortAddress {
    /// Opens no port.
    Off,
    /// At this address.
    At(SocketAddr),
    /// At the address that the edges use, on the port's own number.
    Advertised,
}

impl PortAddress {
    fn resolve(self, advertise: IpAddr, port: u16) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
            Self::Advertised => Some(SocketAddr::from((advertise, port))),
        }
    }
}

/// What an agent is built from.
pub struct AgentParts {
    /// Where it keeps its files; the host has joined.
    pub data: DataDir,
    pub docker: Arc<dyn Docker>,
    pub probe: Arc<dyn Probe>,
    pub pace: Pace,
    /// Where tenants' data is kept; `None`: in Docker's data directory.
    pub tenants_dir: Option<PathBuf>,
    /// For `/healthz` and `/metrics`, if wanted.
    pub http: Option<TcpListener>,
    /// Where Prometheus scrapes.
    pub metrics: PortAddress,
    /// Where other hosts' agents fetch tenants' data.
    pub peer: PortAddress,
    /// Bytes per second that all copies to this host may take together, and all from it; 0: no limit.
    pub copy_rate_bytes_per_s: u64,
    /// What copies to this host leave free.
    pub copy_reserve: Reserve,
    /// Keeps copies up with tenants that run elsewhere, and lets its own be followed.
    pub follows: bool,
    /// Who keeps the relay running at which tenants' visitors arrive; `None`: there is none, and Docker publishes tenants' ports.
    pub relay: Option<Keeper>,
    /// The packet filter, if there should be one.
    pub firewall: Option<crate::host::firewall::Applier>,
}

/// A running agent. Dropping it leaves its tasks running; [`Agent::stop`] ends them.
pub struct Agent {
    pub host: Arc<Host>,
    /// True while a session with the coordinator is open.
    pub connected: watch::Receiver<bool>,
    pub plans: watch::Receiver<InForce>,
    stop: CancellationToken,
    tasks: TaskTracker,
    reconciler: JoinHandle<()>,
}

impl Agent {
    /// Starts from the ledger; the coordinator may be unreachable.
    pub fn start(parts: AgentParts) -> Result<Self, StartError> {
        let data = &parts.data;
        let config = data.load_config()?;
        data.create()?;
        let identity = Arc::new(LiveIdentity::open(data.identity())?);
        let peer = parts.peer.resolve(config.advertise, PEER_PORT);
        let peer = offered(peer, beneath::probe());
        let (ledger, warning) = Ledger::start(&data.ledger())?;
        let host = open_host(&parts, config.advertise)?;
        warn_of_ledger(&host, warning);
        let (plans, in_force) = watch::channel(ledger.in_force());
        let (connected, is_connected) = watch::channel(false);
        let monitors = Arc::new(Monitors::open(data.monitors()));
        let hosts = Arc::new(Hosts::open(data.hosts()));
        let scraper = scraper(&host, &in_force, &is_connected);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (to_peers, relayed) = mpsc::channel(RELAYED);
        let link = Arc::new(Link {
            host: host.clone(),
            ledger: Arc::new(Mutex::new(ledger)),
            plans,
            monitors: monitors.clone(),
            hosts: hosts.clone(),
            identity: identity.clone(),
            endpoint: config.endpoint.clone(),
            peer_port: peer.map(|address| address.port()),
            // Without the relay nobody could hold requests, and without the port nobody follows.
            follows: parts.follows && parts.relay.is_some() && peer.is_some(),
            peers: peer.map(|_| to_peers),
            connected,
        });
        let nft = parts.firewall.as_ref().map(|applier| applier.nft.clone());
        if let Some(applier) = parts.firewall {
            host.gate.send_replace(Gate::Pending);
            let sources = sources(&host, &in_force, &hosts, &config.endpoint);
            tasks.spawn(applier.run(sources, stop.clone()));
        }
        let ports = Ports {
            host: &host,
            plans: &in_force,
            identity: &identity,
            config: &config,
            tasks: &tasks,
            stop: &stop,
        };
        ports.visitors(parts.relay);
        tasks.spawn(catcher::run(host.clone(), in_force.clone(), stop.clone()));
        // Whoever wants nothing left free has no room of his own to set aside.
        ports.measures(nft, parts.copy_reserve != Reserve::NONE);
        let reconciler = tokio::spawn(reconcile::run(host.clone(), in_force.clone(), stop.clone()));
        tasks.spawn(link.run(stop.clone()));
        let limits = (parts.copy_rate_bytes_per_s, parts.copy_reserve);
        ports.copies((peer, parts.follows), relayed, limits);
        let address = parts.metrics.resolve(config.advertise, METRICS_PORT);
        let lists = chores::write_lists(hosts, monitors.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(lists));
        ports.metrics(address, monitors, &scraper);
        let name = config.name.to_string();
        tasks.spawn(renew::run(identity, config.endpoint, name, stop.clone()));
        if let Some(listener) = parts.http {
            tasks.spawn(serve_loopback(listener, scraper, stop.clone()));
        }
        tasks.close();
        Ok(Self {
            host,
            connected: is_connected,
            plans: in_force,
            stop,
            tasks,
            reconciler,
        })
    }

    /// Ends the agent's tasks. Tenants keep running.
    pub async fn stop(self) {
        self.stop.cancel();
        // A panic in it was logged when it happened.
        let _ = self.reconciler.await;
        self.tasks.wait().await;
    }
}

/// What the tasks behind the ports for others need.
struct Ports<'a> {
    host: &'a Arc<Host>,
    plans: &'a watch::Receiver<InForce>,
    identity: &'a LiveIdentity,
    config: &'a AgentConfig,
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
}

/// What jobs can be.
struct Works {
    copies: works::Works,
    make: Make,
    restore: Restore,
    verify: Verify,
}

#[async_trait]
impl Work for Works {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Result<(), JobError> {
        match order.work {
            JobWork::Fetch { .. } | JobWork::Follow { .. } => {
                self.copies.attempt(order, progress).await
            }
            JobWork::Backup(_) => self.make.attempt(order, progress).await,
            JobWork::Restore(_) => self.restore.attempt(order, progress).await,
            JobWork::Verify(_) => self.verify.attempt(order, progress).await,
        }
    }

    fn most_attempts(&self, order: &JobOrder) -> Option<u32> {
        match order.work {
            JobWork::Backup(_) => self.make.most_attempts(order),
            JobWork::Fetch { .. }
            | JobWork::Follow { .. }
            | JobWork::Restore(_)
            | JobWork::Verify(_) => None,
        }
    }
}

impl Ports<'_> {
    /// What moves tenants' data between hosts and to destinations of backups: the port of other agents, our own jobs, shipments.
    fn copies(
        &self,
        (port, follows): (Option<SocketAddr>, bool),
        relayed: mpsc::Receiver<AnyConnection>,
        (rate_bytes_per_s, reserve): (u64, Reserve),
    ) {
        let (host, plans) = (self.host, self.plans);
        let databases = Arc::new(ContainerDatabases(host.clone()));
        if let Some(address) = port {
            let databases = databases.clone();
            let peers = Peers::new(host.clone(), plans.clone(), rate_bytes_per_s, databases);
            // Only who lets itself be followed may hold log for somebody.
            if follows {
                self.tasks.spawn(peers.clone().sweep(self.stop.clone()));
            }
            let port = PeerPort {
                address,
                tls: self.identity.peers(),
                plans: plans.clone(),
                peers,
                relayed,
            };
            self.tasks.spawn(port.run(self.stop.clone()));
        }
        let relay = CoordinatorRelay {
            endpoint: self.config.endpoint.clone(),
            tls: self.identity.config(),
        };
        let reach = Reach {
            tls: self.identity.config(),
            relay: Arc::new(relay),
        };
        let fetch = Arc::new(Fetch::new(host.clone(), plans.clone(), reach, reserve));
        let follow = Follow::new(fetch.clone(), host.clone(), databases, rate_bytes_per_s);
        let backups = backups(host, self.config, plans, self.identity, rate_bytes_per_s);
        let restore = Restore {
            backups: backups.clone(),
            servers: Arc::new(ContainerServers(host.clone())),
            reserve,
        };
        let verify = Verify::new(restore.clone());
        self.tasks.spawn(verify.clone().sweep(self.stop.clone()));
        let works = Works {
            copies: works::Works { fetch, follow },
            make: Make(backups.clone()),
            restore,
            verify,
        };
        let jobs = Jobs::new(host.clone(), Arc::new(works), rate_bytes_per_s);
        let shipper = Shipper::new(backups);
        self.tasks.spawn(shipper.run(self.stop.clone()));
        let (host, plans, stop) = (host.clone(), plans.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            if let Err(e) = ContainerServers(host).sweep().await {
                tracing::warn!("whether a restore has left something cannot be seen: {e}");
            }
            jobs.run(plans, stop).await;
        });
    }

    /// Where tenants' visitors arrive: at the relay, if there is to be one.
    fn visitors(&self, keeper: Option<Keeper>) {
        let (host, stop) = (self.host.clone(), self.stop.clone());
        let Some(keeper) = keeper else {
            self.tasks.spawn(relay::give_up(host.data.clone()));
            return;
        };
        let following = relay::run(host.clone(), self.plans.clone(), stop.clone());
        self.tasks.spawn(following);
        self.tasks.spawn(keeper.run(host, stop));
    }

    /// What looks at tenants and the machine, over and over.
    fn measures(&self, nft: Option<Nft>, reserves: bool) {
        let (host, stop) = (self.host, self.stop);
        self.tasks.spawn(usage::run(host.clone(), stop.clone()));
        self.tasks
            .spawn(space::run(host.clone(), reserves, stop.clone()));
        self.tasks
            .spawn(disk::run(host.clone(), self.plans.clone(), stop.clone()));
        if let Some(nft) = nft {
            self.tasks
                .spawn(doctor::watch(host.clone(), nft, stop.clone()));
        }
    }

    fn metrics(
        &self,
        address: Option<SocketAddr>,
        monitors: Arc<Monitors>,
        scraper: &Arc<Scraper>,
    ) {
        let sampling = metrics::sample::run(scraper.clone(), self.stop.clone());
        self.tasks.spawn(sampling);
        let Some(address) = address else { return };
        let port = metrics::server::ScrapePort {
            address,
            tls: self.identity.server(),
            monitors,
            scraper: scraper.clone(),
        };
        self.tasks.spawn(port.run(self.stop.clone()));
    }
}

fn open_host(parts: &AgentParts, advertise: IpAddr) -> Result<Arc<Host>, StartError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |e| StartError::Io(path, e)
    };
    let (docker, probe) = (parts.docker.clone(), parts.probe.clone());
    let mut host = Host::new(
        docker,
        probe,
        parts.data.clone(),
        advertise,
        parts.pace.clone(),
    )
    .map_err(failed(parts.data.path()))?;
    if let Some(root) = &parts.tenants_dir {
        host = host.keep_data_in(root).map_err(failed(root))?;
    }
    if parts.relay.is_some() {
        host = host.with_relay();
    }
    Ok(Arc::new(host))
}

/// What ships tenants' backups; it does nothing for tenants whose plan has none.
fn backups(
    host: &Arc<Host>,
    config: &AgentConfig,
    plans: &watch::Receiver<InForce>,
    identity: &LiveIdentity,
    rate_bytes_per_s: u64,
) -> Arc<Backups> {
    let stores = CoordinatorStores::new(config.endpoint.clone(), identity.config());
    Arc::new(Backups::new(
        host.clone(),
        config.name.clone(),
        plans.clone(),
        Arc::new(HostTenants::new(host.clone())),
        Arc::new(stores),
        rate_bytes_per_s,
    ))
}

fn scraper(
    host: &Arc<Host>,
    plans: &watch::Receiver<InForce>,
    is_connected: &watch::Receiver<bool>,
) -> Arc<Scraper> {
    Arc::new(Scraper::new(
        host.clone(),
        plans.clone(),
        is_connected.clone(),
    ))
}

/// What the packet filter follows.
fn sources(
    host: &Arc<Host>,
    plans: &watch::Receiver<InForce>,
    hosts: &Hosts,
    endpoint: &str,
) -> Sources {
    Sources {
        host: host.clone(),
        plans: plans.clone(),
        hosts: hosts.subscribe(),
        endpoint: endpoint.to_owned(),
    }
}

/// The port of other agents, unless tenants' files cannot be opened safely: then no copy is offered at all, where a port
/// would promise what every call breaks.
fn offered(port: Option<SocketAddr>, openat2: io::Result<()>) -> Option<SocketAddr> {
    if let Err(e) = openat2 {
        tracing::warn!(
            "openat2 does not work here, so no copies of tenants are offered or fetched: {e}"
        );
        return None;
    }
    port
}

fn warn_of_ledger(host: &Host, warning: Option<String>) {
    if let Some(warning) = warning {
        tracing::error!("{warning}");
        host.board.set_warning("ledger", &warning);
    }
}

/// Serves `/healthz` and `/metrics`; tenants do not need them.
async fn serve_loopback(listener: TcpListener, scraper: Arc<Scraper>, stop: CancellationToken) {
    if let Err(e) = loopback::serve(listener, scraper, stop).await {
        tracing::error!("/healthz and /metrics are not served any more: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_offered_where_files_cannot_be_opened_safely() {
        let port = Some(SocketAddr::from(([10, 0, 0, 1], PEER_PORT)));
        assert_eq!(offered(port, Ok(())), port);
        let refused = io::Error::from(io::ErrorKind::Unsupported);
        assert_eq!(offered(port, Err(refused)), None);
    }
}

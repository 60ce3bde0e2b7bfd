//! What the coordinator's tasks share, created once from the configuration and the writer's handle.
//!
//! Not here: which task gets what (loops, ports, grpc).

use std::sync::Arc;

use arc_swap::ArcSwap;
use isyone_fleet::desired::{Admission, Refusal};
use isyone_proto::tls::CertificateInfo;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    agents::{
        relay::Relays,
        session::{hosts::HostList, monitors::MonitorList, trust::Trusts},
        streams::Streams,
    },
    base::{
        clock,
        config::Config,
        mail::MailPasswords,
        metrics::{self, Metrics},
        pki::{Pki, PkiConfig, PkiError},
        secrets::Sealer,
    },
    edges::{
        acme::Challenges,
        dns::{Dns, Resolver},
        domains::DomainLooks,
        probes::board::ProbeBoard,
        running::{Edges, collector::EdgeCollector},
    },
    ports::listener::Connections,
    repositories::{
        buckets::{Buckets, collector::BucketCollector},
        collector::{BackupCollector, Rooms},
        places::Places,
        rota::Standings,
        upkeep::Upkeep,
    },
    rotation::{self, Rotations},
    shipping::{
        self,
        collector::{Standings as ShippedStandings, StateCollector},
    },
    writer::{Handle, collector::FleetCollector},
};

/// Port on which edges serve HTTP if the configuration names none.
const EDGE_PORT: u16 = 80;

/// What the tasks share; created once, taken apart by [`start`](super::start).
pub(super) struct Shared {
    pub(super) handle: Handle,
    pub(super) config: Arc<Config>,
    pub(super) pki: Arc<Pki>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) mail: Arc<MailPasswords>,
    pub(super) streams: Arc<Streams>,
    pub(super) relays: Arc<Relays>,
    pub(super) monitors: Arc<MonitorList>,
    pub(super) hosts: Arc<HostList>,
    pub(super) trusts: Arc<Trusts>,
    pub(super) edges: Arc<Edges>,
    pub(super) challenges: Arc<Challenges>,
    pub(super) probes: Arc<ProbeBoard>,
    pub(super) domains: Arc<DomainLooks>,
    pub(super) dns: Arc<dyn Dns>,
    pub(super) upkeep: Arc<Upkeep>,
    pub(super) standings: Arc<ArcSwap<Standings>>,
    pub(super) rooms: Arc<Rooms>,
    /// How far our own state is at each destination.
    pub(super) shipped: Arc<ShippedStandings>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) connections: Arc<Connections>,
    pub(super) rotations: Arc<Rotations>,
    pub(super) stop: CancellationToken,
}

impl Shared {
    /// Also returns certificates that are to be remembered whole; see [`authority`].
    pub(super) fn new(
        config: Config,
        handle: Handle,
        sealer: Sealer,
        mail: MailPasswords,
        (buckets, stop): (Buckets, CancellationToken),
    ) -> Result<(Self, mpsc::Receiver<CertificateInfo>), PkiError> {
        let (pki, unpinned) = authority(&config, &handle)?;
        let streams = Arc::<Streams>::default();
        let relays = Relays::new(handle.clone(), streams.clone(), stop.clone());
        let (pki, sealer) = (Arc::new(pki), Arc::new(sealer));
        let (trusts, connections) = (Arc::<Trusts>::default(), Arc::<Connections>::default());
        let rotations = Rotations::new(rotation::Parts {
            handle: handle.clone(),
            pki: pki.clone(),
            sealer: sealer.clone(),
            trusts: trusts.clone(),
            streams: streams.clone(),
            connections: connections.clone(),
            data_dir: config.data_dir.clone(),
        });
        let config = Arc::new(config);
        let shipped_to = shipping::names(&config.backup);
        let upkeep = Arc::new(Upkeep {
            handle: handle.clone(),
            config: config.clone(),
            sealer: sealer.clone(),
            places: Arc::new(Places::open(&config)),
            buckets: Arc::new(buckets),
            at_work: tokio::sync::Mutex::default(),
            stop: stop.clone(),
        });
        let shared = Self {
            rotations: Arc::new(rotations),
            pki,
            trusts,
            sealer,
            mail: Arc::new(mail),
            connections,
            monitors: Arc::new(MonitorList::new(&handle.snapshot())),
            hosts: Arc::new(HostList::new(&handle.snapshot())),
            streams,
            relays: Arc::new(relays),
            edges: Arc::new(Edges::on(
                config.edge.ports.first().copied().unwrap_or(EDGE_PORT),
            )),
            challenges: Arc::default(),
            probes: Arc::new(ProbeBoard::new(config.probes.interval.millis())),
            domains: Arc::new(DomainLooks::new(&config.dns)),
            dns: Arc::new(Resolver::new(config.dns.servers.clone())),
            upkeep,
            standings: Arc::default(),
            rooms: Arc::default(),
            shipped: Arc::new(shipping::standings(shipped_to)),
            metrics: Arc::default(),
            stop,
            config,
            handle,
        };
        Ok((shared, unpinned))
    }

    pub(super) fn agent_ttl_s(&self) -> i64 {
        self.config.certificates.agent_ttl.millis() / 1000
    }

    /// Everything that we count, and what collectors add at each scrape.
    pub(super) fn registry(&self) -> Registry {
        let mut registry = metrics::registry();
        self.handle.timings().register(&mut registry);
        self.metrics.register(&mut registry);
        self.relays.register(&mut registry);
        registry.register_collector(Box::new(EdgeCollector {
            edges: self.edges.clone(),
            shards: self.handle.settings().shards.clone(),
        }));
        registry.register_collector(Box::new(FleetCollector {
            handle: self.handle.clone(),
        }));
        if self.config.backup.enabled {
            registry.register_collector(Box::new(BackupCollector {
                standings: self.standings.clone(),
                rooms: self.rooms.clone(),
                places: self.upkeep.places.clone(),
            }));
            registry.register_collector(Box::new(BucketCollector(self.upkeep.buckets.clone())));
            registry.register_collector(Box::new(StateCollector(self.shipped.clone())));
        }
        registry.register_collector(Box::new(self.connections.clone()));
        registry.register_collector(Box::new(self.streams.clone()));
        registry
    }
}

/// Certificates that are recognised and not yet remembered whole; when there are more, the next connection tells.
const MAX_UNPINNED: usize = 64;

/// Also returns certificates that were recognised by their serial number alone.
fn authority(
    config: &Config,
    handle: &Handle,
) -> Result<(Pki, mpsc::Receiver<CertificateInfo>), PkiError> {
    let pki_config = PkiConfig {
        dir: config.data_dir.join(crate::init::PKI_DIR),
        hosts: config.advertise.hosts.clone(),
        server_ttl_s: config.certificates.server_ttl.millis() / 1000,
    };
    let handle = handle.clone();
    let (seen, unpinned) = mpsc::channel(MAX_UNPINNED);
    let admit = move |certificate: &CertificateInfo, replacing: bool| match handle
        .snapshot()
        .fleet
        .admits(certificate)
    {
        Ok(Admission::Certain) => true,
        // Whoever has stolen the CA's key that is being replaced can make one with any serial number.
        Ok(Admission::BySerial) if replacing => {
            tracing::warn!(who = %certificate.identity, serial = certificate.serial_hex(), "certificate refused: only its serial number is known, and the CA is being replaced; see `isy-coordinator pki status`");
            false
        }
        Ok(Admission::BySerial) => {
            let _ = seen.try_send(certificate.clone()); // the next connection tells again
            true
        }
        Err(refusal @ Refusal::Forged) => {
            tracing::error!(who = %certificate.identity, serial = certificate.serial_hex(), %refusal, "certificate refused");
            false
        }
        Err(refusal) => {
            tracing::info!(who = %certificate.identity, %refusal, "certificate refused");
            false
        }
    };
    let pki = Pki::open(pki_config, Arc::new(admit), clock::now_seconds())?;
    Ok((pki, unpinned))
}

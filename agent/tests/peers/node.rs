//! One host of the test: an agent's parts without a coordinator, whose plans the test makes. Not here: what is tested.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_agent::{
    base::{bulk::AnyConnection, config::DataDir},
    docker::Docker,
    host::{
        Host, Pace,
        board::TenantStatus,
        identity::{LiveIdentity, Pems},
        leases,
        ledger::InForce,
    },
    jobs::{
        Jobs,
        fetch::{Fetch, Reserve},
        follow::Follow,
        works::Works,
    },
    peer::{Databases, Of, PeerPort, Peers, Reach, renew_leases},
    tenant::reconcile,
    testing::{fake_docker::FakeDocker, host_plan},
};
use isyone_proto::{
    plan::{DesiredState, HostPlan, JobOrder, JobWork, PeerGrant, Seed, TenantPlan},
    report::{JobReport, JobState, TenantProgress},
    tls,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio::{
    net::{TcpListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;
use tonic::async_trait;
use uuid::Uuid;

use crate::relayed::Line;

pub(crate) const FAR_FUTURE: i64 = i64::MAX;

pub(crate) struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(),
            pem,
        }
    }

    /// A certificate for an identity such as `agent/h1`.
    pub(crate) fn leaf(&self, identity: &str) -> Pems {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let host = identity.rsplit('/').next().unwrap();
        let names = [
            SanType::URI(format!("spiffe://isyone/{identity}").try_into().unwrap()),
            SanType::DnsName(format!("{host}.host.isyone.internal").try_into().unwrap()),
        ];
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        Pems {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
            ca: self.pem.clone(),
        }
    }
}

/// TLS of a client with a certificate, towards servers of `ca`.
pub(crate) fn client_of(ca: &Ca, leaf: &Pems) -> Arc<ClientConfig> {
    tls::client_config(&ca.pem, &leaf.certificate, &leaf.key).unwrap()
}

/// Whatever listens on a socket of the test's.
pub(crate) struct SocketDatabase(pub(crate) PathBuf);

#[async_trait]
impl Databases for SocketDatabase {
    async fn connect(&self, _of: &Of) -> std::io::Result<UnixStream> {
        UnixStream::connect(&self.0).await
    }
}

/// Where an engine with this directory has a tenant's volume.
pub(crate) fn volume_of(docker: &Path, name: &str) -> PathBuf {
    let (folder, tenant) = match name.strip_prefix("pgdata_") {
        Some(tenant) => ("pgdata", tenant),
        None => ("odoo", name.trim_start_matches("odoo_data_")),
    };
    let home = docker.join("isyone/tenants").join(tenant).join(folder);
    if home.exists() {
        return home;
    }
    docker.join("volumes").join(name).join("_data")
}

/// A host's place, which survives its agent.
pub(crate) struct Site {
    /// Its way through a coordinator; leads nowhere at first.
    pub(crate) line: Arc<Line>,
    dir: tempfile::TempDir,
    pub(crate) fake: Arc<FakeDocker>,
    pems: Pems,
}

impl Site {
    pub(crate) fn new(name: &str, ca: &Ca) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(&dir.path().join("docker"), 1);
        let pems = ca.leaf(&format!("agent/{name}"));
        let line = Arc::default();
        Self {
            line,
            dir,
            fake,
            pems,
        }
    }

    pub(crate) fn database_socket(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What a tenant's volume holds: a directory in the tenant's home, or Docker's own one of a volume that a test laid out.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        volume_of(&self.dir.path().join("docker"), name)
    }

    /// Starts its agent with this plan.
    pub(crate) async fn start(&self, plan: HostPlan) -> Node {
        let databases = Arc::new(SocketDatabase(self.database_socket()));
        self.start_with(plan, databases).await
    }

    /// Likewise, with other databases behind tunnels.
    pub(crate) async fn start_with(&self, plan: HostPlan, databases: Arc<dyn Databases>) -> Node {
        self.start_on(plan, databases, self.fake.clone()).await
    }

    /// Likewise, on another engine beside the fake one.
    pub(crate) async fn start_on(
        &self,
        plan: HostPlan,
        databases: Arc<dyn Databases>,
        docker: Arc<dyn Docker>,
    ) -> Node {
        let data = DataDir::new(self.dir.path().join("agent"));
        data.create().unwrap();
        self.pems.store(&data.identity()).unwrap();
        let identity = LiveIdentity::open(data.identity()).unwrap();
        let (fake, advertise) = (self.fake.clone(), [127, 0, 0, 1].into());
        let host = Host::new(docker, fake, data, advertise, Pace::hasty()).unwrap();
        let host = Arc::new(host);
        host.leases.adapt(&force(plan.clone()));
        let (plans, in_force) = watch::channel(force(plan));
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (relay, relayed) = mpsc::channel(4);
        let peers = Peers::new(host.clone(), in_force.clone(), 0, databases.clone());
        let sweep = peers.clone().sweep(stop.clone());
        let port = PeerPort {
            address,
            tls: identity.peers(),
            plans: in_force.clone(),
            peers,
            relayed,
        };
        let reach = Reach {
            tls: identity.config(),
            relay: self.line.clone(),
        };
        let fetch = Fetch::new(host.clone(), in_force.clone(), reach, Reserve::NONE);
        let fetch = Arc::new(fetch);
        let follow = Follow::new(fetch.clone(), host.clone(), databases, 0);
        let jobs = Jobs::new(host.clone(), Arc::new(Works { fetch, follow }), 0);
        let tasks = vec![
            tokio::spawn(reconcile::run(host.clone(), in_force.clone(), stop.clone())),
            tokio::spawn(jobs.run(in_force, stop.clone())),
            tokio::spawn(port.serve(listener, stop.clone())),
            tokio::spawn(sweep),
            tokio::spawn(leases::run(host.clone(), stop.clone())),
            tokio::spawn(renew_leases(host.clone(), identity.config(), stop.clone())),
        ];
        Node {
            host,
            address,
            relay,
            plans,
            stop,
            tasks,
        }
    }
}

fn force(plan: HostPlan) -> InForce {
    InForce {
        plan: Some(Arc::new(plan)),
        stale: vec![],
        unasked: false,
    }
}

/// A running agent.
pub(crate) struct Node {
    pub(crate) host: Arc<Host>,
    pub(crate) address: SocketAddr,
    /// Where connections through the coordinator come in.
    pub(crate) relay: mpsc::Sender<AnyConnection>,
    plans: watch::Sender<InForce>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn plan(&self, plan: HostPlan) {
        self.host.leases.adapt(&force(plan.clone()));
        self.plans.send_replace(force(plan));
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    pub(crate) fn status(&self, name: &str) -> Option<TenantStatus> {
        let found = self.host.board.get(&name.parse().unwrap());
        found.map(Arc::unwrap_or_clone)
    }

    pub(crate) fn job(&self) -> Option<JobReport> {
        self.host.board.jobs().into_iter().next()
    }

    pub(crate) async fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let poll = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(Duration::from_secs(60), poll).await.is_err() {
            let board = &self.host.board;
            panic!(
                "{what} never came; jobs: {:#?}, tenants: {:#?}",
                board.jobs(),
                board.entries()
            );
        }
    }

    pub(crate) async fn converged(&self, plan: &TenantPlan) {
        self.wait("convergence", |node| {
            node.status(plan.name.as_str()).is_some_and(|s| {
                s.progress == TenantProgress::Converged && s.generation == plan.generation
            })
        })
        .await;
    }

    pub(crate) async fn job_is(&self, state: JobState) -> JobReport {
        self.wait("the job's state", |node| {
            node.job().is_some_and(|job| job.state == state)
        })
        .await;
        self.job().unwrap()
    }
}

/// The plan of the host that has a copy, and of the one that is to have it.
pub(crate) fn grant(tenant: &TenantPlan, peer: &str, expires_at: i64) -> PeerGrant {
    PeerGrant {
        operation: Uuid::nil(),
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        peer: peer.parse().unwrap(),
        expires_at,
        live: false,
    }
}

pub(crate) fn order(tenant: &TenantPlan, from: &str, address: SocketAddr) -> JobOrder {
    JobOrder {
        id: Uuid::from_u128(0x70b),
        operation: Uuid::nil(),
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        work: JobWork::Fetch {
            from: from.parse().unwrap(),
            address: Some(address),
        },
        rate_bytes_per_s: 0,
    }
}

pub(crate) fn plan_with(
    tenants: &[TenantPlan],
    jobs: &[JobOrder],
    grants: &[PeerGrant],
) -> HostPlan {
    HostPlan {
        jobs: jobs.to_vec(),
        grants: grants.to_vec(),
        ..host_plan(1, tenants.to_vec())
    }
}

/// The tenant as the target has it: the same one, its data on `from`, one epoch later.
pub(crate) fn standby(tenant: &TenantPlan, from: &str) -> TenantPlan {
    TenantPlan {
        desired: DesiredState::Standby,
        seed: Seed::Peer(from.parse().unwrap()),
        epoch: tenant.epoch + 1,
        generation: tenant.generation + 1,
        ..tenant.clone()
    }
}

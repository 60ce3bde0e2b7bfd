//! A whole coordinator on loopback, an admin, and an agent driven by hand.
//!
//! Not here: what only one file needs.

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_coordinator::{
    base::config::Config,
    init,
    server::{self, Parts, Running},
    writer::{Source, SystemSource},
};
use isyone_proto::{
    parts::PlanAssembly,
    pb::{
        agent::v1::{
            AgentMessage, CoordinatorMessage, EnrollRequest, EnrollResponse, Hello, JobStatus,
            Plan, PlanResult, Progress, Report, TenantStatus, agent_message,
            agent_service_client::AgentServiceClient, coordinator_message,
            enrollment_service_client::EnrollmentServiceClient,
        },
        v1::{
            self, host_service_client::HostServiceClient,
            operator_service_client::OperatorServiceClient,
            tenant_service_client::TenantServiceClient,
        },
    },
    plan::HostPlan,
    tls,
    token::JoinToken,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

pub(crate) const GIB: u64 = 1 << 30;

/// A timeout far above anything expected here, so that a hanging test ends.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("it takes too long")
}

#[derive(serde::Deserialize)]
pub(crate) struct ContextFile {
    pub(crate) ca_pem: String,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

/// What `init` wrote for the first admin.
pub(crate) fn admin_context(dir: &Path) -> ContextFile {
    let text = std::fs::read_to_string(dir.join("admin.toml")).unwrap();
    toml::from_str(&text).unwrap()
}

pub(crate) struct Fixture {
    pub(crate) running: Running,
    pub(crate) admin: Channel,
    pub(crate) dir: Arc<tempfile::TempDir>,
}

pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config {
        data_dir: dir.join("data"),
        ..Config::default()
    };
    config.backup.enabled = false;
    config.listen.grpc = ([127, 0, 0, 1], 0).into();
    config.listen.enroll = ([127, 0, 0, 1], 0).into();
    config.listen.http = ([127, 0, 0, 1], 0).into();
    config.edge.traefik_file = Some(dir.join("edge/isyone.yml"));
    config.monitoring.file_sd_dir = Some(dir.join("targets"));
    config
}

pub(crate) async fn start() -> Fixture {
    start_with(|_| {}).await
}

/// With a modified [`config`].
pub(crate) async fn start_with(set: impl Fn(&mut Config)) -> Fixture {
    start_at(SystemSource, set).await
}

/// With the test's own clock, too.
pub(crate) async fn start_at(source: impl Source, set: impl Fn(&mut Config)) -> Fixture {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    init::init(
        &config(dir.path()),
        &"admin".parse().unwrap(),
        &dir.path().join("admin.toml"),
    )
    .await
    .unwrap();
    start_in_at(dir, source, set).await
}

pub(crate) async fn start_in(dir: Arc<tempfile::TempDir>) -> Fixture {
    start_in_with(dir, |_| {}).await
}

pub(crate) async fn start_in_with(
    dir: Arc<tempfile::TempDir>,
    set: impl Fn(&mut Config),
) -> Fixture {
    start_in_at(dir, SystemSource, set).await
}

async fn start_in_at(
    dir: Arc<tempfile::TempDir>,
    source: impl Source,
    set: impl Fn(&mut Config),
) -> Fixture {
    let mut config = config(dir.path());
    set(&mut config);
    let parts = Parts::open(&config, None).await.unwrap();
    let running = server::start(config, parts, source).await.unwrap();
    let context = admin_context(dir.path());
    let admin = channel(
        &running,
        &context.ca_pem,
        &context.certificate_pem,
        &context.key_pem,
    );
    Fixture {
        running,
        admin,
        dir,
    }
}

/// A fresh connection with this certificate and key.
pub(crate) fn channel(running: &Running, ca: &str, certificate: &str, key: &str) -> Channel {
    let config = tls::client_config(ca, certificate, key).unwrap();
    tls::channel(&running.grpc.to_string(), Arc::new(ArcSwap::new(config))).unwrap()
}

impl Fixture {
    pub(crate) fn tenants(&self) -> TenantServiceClient<Channel> {
        TenantServiceClient::new(self.admin.clone())
    }

    pub(crate) async fn operator(&self, name: &str, role: v1::Role) -> Channel {
        let (key, csr_pem) = tls::new_key_and_csr(name).unwrap();
        let request = v1::CreateOperatorRequest {
            name: name.into(),
            role: role.into(),
            csr_pem,
            ttl_days: 1,
        };
        let made = OperatorServiceClient::new(self.admin.clone())
            .create_operator(request)
            .await
            .unwrap()
            .into_inner();
        channel(&self.running, &made.ca_pem, &made.certificate_pem, &key)
    }

    pub(crate) async fn token(&self, host: &str) -> JoinToken {
        let request = v1::CreateJoinTokenRequest {
            host: host.into(),
            // This machine may have one of the addresses that are made up.
            same_machine: true,
            ..v1::CreateJoinTokenRequest::default()
        };
        let made = HostServiceClient::new(self.admin.clone())
            .create_join_token(request)
            .await
            .unwrap()
            .into_inner();
        made.token.parse().unwrap()
    }

    pub(crate) async fn enroll(
        &self,
        token: &JoinToken,
        host: &str,
        csr_pem: &str,
    ) -> Result<EnrollResponse, Status> {
        let pinned = tls::pinned_config(&token.ca_pin).unwrap();
        let channel = tls::channel(
            &self.running.enroll.to_string(),
            Arc::new(ArcSwap::new(pinned)),
        )
        .unwrap();
        let request = EnrollRequest {
            token_id: token.id.clone(),
            token_secret: token.secret.expose().to_owned(),
            host: host.into(),
            csr_pem: csr_pem.into(),
            // The name's last byte determines the address: h1, h2, …
            advertise_address: format!("192.0.2.{}", host.as_bytes()[host.len() - 1]),
            ..EnrollRequest::default()
        };
        EnrollmentServiceClient::new(channel)
            .enroll(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// Joins a host and connects as its agent.
    pub(crate) async fn join(&self, host: &str) -> Channel {
        self.join_for_bulk(host).await.0
    }

    /// Likewise, with a second channel as agents have it for bulk data.
    pub(crate) async fn join_for_bulk(&self, host: &str) -> (Channel, Channel) {
        let token = self.token(host).await;
        let (key, csr) = tls::new_key_and_csr(host).unwrap();
        let joined = self.enroll(&token, host, &csr).await.unwrap();
        let (ca, certificate) = (&joined.ca_pem, &joined.certificate_pem);
        let config = tls::client_config(ca, certificate, &key).unwrap();
        let endpoint = self.running.grpc.to_string();
        let bulk = tls::bulk_channel(&endpoint, Arc::new(ArcSwap::new(config))).unwrap();
        (channel(&self.running, ca, certificate, &key), bulk)
    }

    pub(crate) async fn create(&self, name: &str) -> v1::CreateTenantResponse {
        let request = v1::CreateTenantRequest {
            name: name.into(),
            ..v1::CreateTenantRequest::default()
        };
        self.tenants()
            .create_tenant(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// The document at `path` once it contains `text`: publication waits a moment for more changes.
    pub(crate) async fn published(&self, path: &str, text: &str) -> String {
        soon(async {
            loop {
                let (_, body) = self.http(path).await;
                if body.contains(text) {
                    return body;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Waits until a file contains this document, which is written after HTTP serves it.
    pub(crate) async fn written(&self, file: &str, document: &str) {
        let path = self.dir.path().join(file);
        soon(async {
            while std::fs::read_to_string(&path).ok().as_deref() != Some(document) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// The HTTP port's answer: status code and body.
    pub(crate) async fn http(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.running.http)
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

/// An agent whose every message the test sends.
pub(crate) struct Agent {
    pub(crate) up: mpsc::Sender<AgentMessage>,
    pub(crate) down: Streaming<CoordinatorMessage>,
    pub(crate) plan: Option<HostPlan>,
    /// Parts of a plan that is on its way.
    parts: PlanAssembly,
    sequence: u64,
}

impl Agent {
    /// Opens a session, says hello with nothing on disk, and reports an empty machine.
    pub(crate) async fn connect(channel: &Channel) -> Self {
        let mut agent = Self::connect_without_report(channel).await;
        agent.report(vec![]).await;
        agent
    }

    /// Like [`Agent::connect`], but sends no report and reads nothing after the welcome.
    pub(crate) async fn connect_without_report(channel: &Channel) -> Self {
        Self::connect_knowing(channel, "").await
    }

    /// Likewise, with the digest of the hosts that it knows.
    pub(crate) async fn connect_knowing(channel: &Channel, hosts_sha256: &str) -> Self {
        let hello = Hello {
            peer_port: 7483,
            hosts_sha256: hosts_sha256.to_owned(),
            ..Hello::default()
        };
        Self::connect_as(channel, hello).await
    }

    pub(crate) async fn connect_as(channel: &Channel, hello: Hello) -> Self {
        let (up, messages) = mpsc::channel(8);
        up.send(say(agent_message::Message::Hello(hello)))
            .await
            .unwrap();
        let mut client = AgentServiceClient::new(channel.clone());
        let down = soon(client.session(ReceiverStream::new(messages)))
            .await
            .unwrap()
            .into_inner();
        let mut agent = Self {
            up,
            down,
            plan: None,
            parts: PlanAssembly::default(),
            sequence: 0,
        };
        agent
            .until(|m| matches!(m, coordinator_message::Message::Welcome(_)))
            .await;
        agent
    }

    /// The next message that fits; stores and confirms plans on the way.
    pub(crate) async fn until(
        &mut self,
        fits: impl Fn(&coordinator_message::Message) -> bool,
    ) -> coordinator_message::Message {
        loop {
            let message = soon(self.down.message())
                .await
                .unwrap()
                .unwrap()
                .message
                .unwrap();
            if let coordinator_message::Message::Plan(plan) = &message {
                self.store(plan.clone()).await;
            }
            if fits(&message) {
                return message;
            }
        }
    }

    async fn store(&mut self, part: Plan) {
        let Some(plan) = self.parts.add(part).unwrap() else {
            return;
        };
        let plan = HostPlan::try_from(plan).unwrap();
        let result = PlanResult {
            generation: plan.generation.get(),
            digest: plan.digest(),
            error: String::new(),
        };
        self.plan = Some(plan);
        self.up
            .send(say(agent_message::Message::PlanResult(result)))
            .await
            .unwrap();
    }

    /// The plan that names exactly these tenants.
    pub(crate) async fn plan_of(&mut self, names: &[&str]) -> HostPlan {
        loop {
            let named: Vec<_> = self
                .plan
                .iter()
                .flat_map(|p| p.tenants.iter().map(|t| t.name.to_string()))
                .collect();
            if self.plan.is_some() && named == names {
                return self.plan.clone().unwrap();
            }
            self.until(|m| matches!(m, coordinator_message::Message::Plan(_)))
                .await;
        }
    }

    pub(crate) async fn report(&mut self, tenants: Vec<TenantStatus>) {
        self.report_with(tenants, vec![]).await;
    }

    pub(crate) async fn report_with(&mut self, tenants: Vec<TenantStatus>, jobs: Vec<JobStatus>) {
        self.sequence += 1;
        let resources = v1::HostResources {
            cpus: 4,
            memory_total_bytes: 16 * GIB,
            memory_available_bytes: 14 * GIB,
            disk_total_bytes: 200 * GIB,
            disk_available_bytes: 180 * GIB,
            ..v1::HostResources::default()
        };
        let report = Report {
            sequence: self.sequence,
            resources: Some(resources),
            tenants,
            jobs,
            complete: true,
            ..Report::default()
        };
        self.up
            .send(say(agent_message::Message::Report(report)))
            .await
            .unwrap();
        let sequence = self.sequence;
        self.until(|m| matches!(m, coordinator_message::Message::ReportAck(ack) if ack.sequence == sequence))
            .await;
    }

    /// Reports all tenants of the plan as planned.
    pub(crate) async fn converge(&mut self) {
        self.converge_with(vec![]).await;
    }

    /// Likewise, and these jobs.
    pub(crate) async fn converge_with(&mut self, jobs: Vec<JobStatus>) {
        let tenants = self
            .plan
            .iter()
            .flat_map(|p| &p.tenants)
            .map(converged)
            .collect();
        self.report_with(tenants, jobs).await;
    }

    /// The plan that fits.
    pub(crate) async fn plan_that(&mut self, fits: impl Fn(&HostPlan) -> bool) -> HostPlan {
        loop {
            if let Some(plan) = self.plan.as_ref().filter(|plan| fits(plan)) {
                return plan.clone();
            }
            self.until(|m| matches!(m, coordinator_message::Message::Plan(_)))
                .await;
        }
    }
}

pub(crate) fn converged(tenant: &isyone_proto::plan::TenantPlan) -> TenantStatus {
    let container = |name: String| v1::Container {
        name,
        state: "running".into(),
        healthy: true,
        ..v1::Container::default()
    };
    TenantStatus {
        name: tenant.name.to_string(),
        uid: tenant.uid.to_string(),
        epoch: tenant.epoch,
        generation: tenant.generation,
        progress: Progress::Converged.into(),
        containers: vec![
            container(tenant.name.postgres_container()),
            container(tenant.name.odoo_container()),
        ],
        operation_id: tenant
            .operation
            .map(|id| id.to_string())
            .unwrap_or_default(),
        health_latency_ms: 7,
        volume_repairs: 0,
        modules_cut_off: 0,
        installs_finished: 0,
        held_ms: 0,
        ..TenantStatus::default()
    }
}

pub(crate) fn say(message: agent_message::Message) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

/// One host with one running tenant, `alfa`.
pub(crate) async fn with_alfa() -> (Fixture, Channel, Agent) {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    // After its first convergence, the plan says that there is data.
    while !agent
        .plan
        .as_ref()
        .is_some_and(|p| p.tenants.iter().all(|t| !t.seed.may_fill()))
    {
        agent
            .until(|m| matches!(m, coordinator_message::Message::Plan(_)))
            .await;
    }
    (fixture, host, agent)
}

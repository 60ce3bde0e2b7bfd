//! An operator with a certificate, on a connection that reconnects by itself, whose requests can be retried.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_proto::{
    pb::v1::{
        self, host_service_client::HostServiceClient,
        operation_service_client::OperationServiceClient,
        tenant_service_client::TenantServiceClient,
    },
    tls,
    token::JoinToken,
};
use tonic::{Code, Response, Status, transport::Channel};

/// No call in these tests takes longer unless something is wrong; then it is retried.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// An operator's change to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// With this plan.
    Create(&'static str),
    Suspend,
    Resume,
    /// True: PostgreSQL too.
    Restart(bool),
    /// To this plan.
    Resize(&'static str),
    /// To this Odoo; empty: to what its edition has.
    Upgrade(&'static str),
    /// Into quarantine.
    Delete,
    /// Without quarantine.
    Purge,
    /// Out of quarantine.
    Undelete,
}

/// An order with its idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub tenant: &'static str,
    pub order: Order,
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub operation: String,
    /// The tenant's uid, for a create.
    pub uid: Option<String>,
}

/// Whether a request with this answer may or may not have been carried out. It must be retried with the same key.
pub fn leaves_in_doubt(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Internal
            | Code::Aborted
    )
}

async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("no answer in time");
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .map_err(late)?
        .map(Response::into_inner)
}

pub struct Operator {
    channel: Channel,
}

impl Operator {
    /// Uses the certificate of a context file. Call inside a runtime.
    pub fn open(context: &Path, address: SocketAddr) -> Self {
        let text = std::fs::read_to_string(context).expect("the context file is there");
        let table: toml::Table = text.parse().expect("it is TOML");
        let pem = |key: &str| table[key].as_str().expect("a text").to_owned();
        Self {
            channel: channel(
                address,
                &pem("ca_pem"),
                &pem("certificate_pem"),
                &pem("key_pem"),
            ),
        }
    }

    fn tenants(&self) -> TenantServiceClient<Channel> {
        TenantServiceClient::new(self.channel.clone())
    }

    pub fn hosts(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }

    /// A channel for any other service.
    pub fn connection(&self) -> Channel {
        self.channel.clone()
    }

    /// A join token for one host.
    pub async fn token(&self, host: &str) -> Result<JoinToken, Status> {
        let request = v1::CreateJoinTokenRequest {
            host: host.to_owned(),
            // All of the fleet is on this machine, and it may have one of the addresses that are made up.
            same_machine: true,
            ..Default::default()
        };
        let made = within(self.hosts().create_join_token(request)).await?;
        made.token
            .parse()
            .map_err(|_| Status::internal("an unreadable token"))
    }

    /// Creates a tenant of the plan `small`.
    pub async fn create(&self, tenant: &str) -> Result<v1::CreateTenantResponse, Status> {
        let request = v1::CreateTenantRequest {
            name: tenant.to_owned(),
            ..Default::default()
        };
        within(self.tenants().create_tenant(request)).await
    }

    /// Sends a request once.
    pub async fn send(&self, request: &Request) -> Result<Acknowledged, Status> {
        let (name, request_id) = (request.tenant.to_owned(), request.id.clone());
        let mut tenants = self.tenants();
        let operation = match request.order {
            Order::Create(plan) => return self.send_create(name, plan, request_id).await,
            Order::Suspend => {
                within(tenants.suspend_tenant(v1::SuspendTenantRequest {
                    name,
                    request_id,
                    cancel_running: true,
                }))
                .await
            }
            Order::Resume => {
                within(tenants.resume_tenant(v1::ResumeTenantRequest { name, request_id })).await
            }
            Order::Restart(with_database) => {
                let request = v1::RestartTenantRequest {
                    name,
                    with_database,
                    request_id,
                    ..Default::default()
                };
                within(tenants.restart_tenant(request)).await
            }
            Order::Resize(plan) => {
                let request = v1::ResizeTenantRequest {
                    name,
                    plan: plan.to_owned(),
                    request_id,
                };
                within(tenants.resize_tenant(request)).await
            }
            Order::Upgrade(odoo) => {
                let request = v1::UpgradeTenantRequest {
                    name,
                    odoo_image: odoo.to_owned(),
                    request_id,
                    ..Default::default()
                };
                within(tenants.upgrade_tenant(request)).await
            }
            Order::Delete | Order::Purge => {
                let purge = request.order == Order::Purge;
                within(tenants.delete_tenant(v1::DeleteTenantRequest {
                    name,
                    purge,
                    request_id,
                    cancel_running: true,
                }))
                .await
            }
            Order::Undelete => {
                within(tenants.undelete_tenant(v1::UndeleteTenantRequest { name, request_id }))
                    .await
            }
        };
        operation.map(|operation| Acknowledged {
            operation: operation.id,
            uid: None,
        })
    }

    async fn send_create(
        &self,
        name: String,
        plan: &str,
        request_id: String,
    ) -> Result<Acknowledged, Status> {
        let spec = Some(v1::TenantSpec {
            plan: plan.to_owned(),
            ..Default::default()
        });
        let request = v1::CreateTenantRequest {
            name,
            spec,
            request_id,
            ..Default::default()
        };
        let made = within(self.tenants().create_tenant(request)).await?;
        let (tenant, operation) = (
            made.tenant.unwrap_or_default(),
            made.operation.unwrap_or_default(),
        );
        Ok(Acknowledged {
            operation: operation.id,
            uid: Some(tenant.uid),
        })
    }

    /// All tenants, including deleted ones.
    pub async fn list(&self) -> Result<Vec<v1::Tenant>, Status> {
        let request = v1::ListTenantsRequest {
            page_size: 100,
            show_deleted: true,
            ..Default::default()
        };
        within(self.tenants().list_tenants(request))
            .await
            .map(|page| page.tenants)
    }

    /// Operations that have not ended.
    pub async fn open_operations(&self) -> Result<Vec<v1::Operation>, Status> {
        let request = v1::ListOperationsRequest {
            page_size: 100,
            active_only: true,
            ..Default::default()
        };
        let mut client = OperationServiceClient::new(self.channel.clone());
        within(client.list_operations(request))
            .await
            .map(|page| page.operations)
    }
}

/// A connection with these certificates. Call inside a runtime.
pub fn channel(address: SocketAddr, ca: &str, certificate: &str, key: &str) -> Channel {
    let config = tls::client_config(ca, certificate, key).expect("usable papers");
    tls::channel(&address.to_string(), Arc::new(ArcSwap::new(config))).expect("an address")
}

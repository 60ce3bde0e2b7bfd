//! Calls that are refused before they reach a service. Not here: who may call what, and how many (unit tests of
//! operators/access and operators/gate).

use futures_util::{StreamExt as _, stream};
use isyone_proto::pb::v1::{self, tenant_service_client::TenantServiceClient};
use tonic::Code;

use crate::support::start;

/// Far above the thousand resets after which the transport ends a connection.
const CALLS: usize = 6_000;
/// As many as one connection allows.
const AT_ONCE: usize = 128;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_refused_often_keeps_its_connection() {
    let fixture = start().await;
    let viewer = TenantServiceClient::new(fixture.operator("looker", v1::Role::Viewer).await);
    let refused = stream::iter(0..CALLS)
        .map(|n| {
            let mut viewer = viewer.clone();
            async move {
                let request = v1::CreateTenantRequest {
                    name: format!("t{n}"),
                    ..Default::default()
                };
                viewer.create_tenant(request).await.unwrap_err()
            }
        })
        .buffer_unordered(AT_ONCE);
    let odd: Vec<_> = refused
        .filter(|status| std::future::ready(status.code() != Code::PermissionDenied))
        .collect()
        .await;
    assert!(
        odd.is_empty(),
        "{} of {CALLS}, the first: {:?}",
        odd.len(),
        odd.first()
    );
}

//! Who may scrape hosts: the role, the list that agents get, and Prometheus' own certificate.
//!
//! Not here: what a host returns to Prometheus (isyone-agent).

use std::time::Duration;

use isyone_proto::{
    pb::{
        agent::v1::coordinator_message,
        v1::{
            self, operator_service_client::OperatorServiceClient,
            tenant_service_client::TenantServiceClient,
        },
    },
    tls::{self, CertificateInfo},
};
use tonic::Code;

use crate::support::{Agent, config, soon, start, start_with};

/// The list in the next Monitors message, which is the agent's first one or a newer one.
async fn monitors(agent: &mut Agent) -> Vec<String> {
    match agent
        .until(|m| matches!(m, coordinator_message::Message::Monitors(_)))
        .await
    {
        coordinator_message::Message::Monitors(monitors) => monitors.serials,
        _ => unreachable!("it was just looked at"),
    }
}

/// Reads Prometheus' certificate as soon as `fits` holds.
async fn certificate(
    dir: &std::path::Path,
    fits: impl Fn(&CertificateInfo) -> bool,
) -> CertificateInfo {
    soon(async {
        loop {
            let pem = std::fs::read_to_string(dir.join("prometheus.pem")).unwrap_or_default();
            if let Ok(chain) = tls::certificates("Prometheus' certificate", &pem) {
                let info = isyone_proto::tls::certificate_info(&chain[0]).unwrap();
                if fits(&info) {
                    return info;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

#[tokio::test]
async fn agents_learn_at_once_who_may_scrape_and_who_no_longer_may() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect_without_report(&host).await;
    assert_eq!(monitors(&mut agent).await, Vec::<String>::new());
    // Agents do not learn of a viewer.
    fixture.operator("vera", v1::Role::Viewer).await;
    fixture.operator("prometheus", v1::Role::Monitor).await;
    let list = monitors(&mut agent).await;
    assert_eq!(list.len(), 1);
    fixture.operator("prometheus", v1::Role::Monitor).await;
    let both = monitors(&mut agent).await;
    assert!(both.len() == 2 && both.contains(&list[0]) && both.is_sorted());
    let mut operators = OperatorServiceClient::new(fixture.admin.clone());
    operators
        .revoke_operator(v1::RevokeOperatorRequest {
            name: "prometheus".into(),
        })
        .await
        .unwrap();
    assert_eq!(monitors(&mut agent).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_monitor_reads_nothing_over_grpc_but_health() {
    let fixture = start().await;
    let channel = fixture.operator("prometheus", v1::Role::Monitor).await;
    let request = v1::ListTenantsRequest::default();
    let error = TenantServiceClient::new(channel.clone())
        .list_tenants(request)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let request = tonic_health::pb::HealthCheckRequest {
        service: "isyone.v1.TenantService".into(),
    };
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
}

#[tokio::test]
async fn prometheus_gets_a_certificate_that_hosts_are_told_of() {
    let fixture =
        start_with(|config| config.monitoring.certificate_dir = Some("prometheus".into())).await;
    let dir = config(fixture.dir.path()).data_dir.join("prometheus");
    let info = certificate(&dir, |_| true).await;
    assert_eq!(
        info.identity.to_string(),
        "spiffe://isyone/operator/prometheus/monitor"
    );
    let key = std::fs::read_to_string(dir.join("prometheus.key")).unwrap();
    let ca = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    let pem = std::fs::read_to_string(dir.join("prometheus.pem")).unwrap();
    tls::client_config(&ca, &pem, &key).unwrap();
    for file in ["ca.pem", "prometheus.pem", "prometheus.key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640, "{file}");
    }
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect_without_report(&host).await;
    assert_eq!(monitors(&mut agent).await, [info.serial_hex()]);
}

#[tokio::test]
async fn a_restart_keeps_prometheus_certificate_and_makes_a_lost_one_anew_for_the_same_key() {
    let set = |config: &mut isyone_coordinator::base::config::Config| {
        config.monitoring.certificate_dir = Some("prometheus".into());
    };
    let fixture = start_with(set).await;
    let dir = config(fixture.dir.path()).data_dir.join("prometheus");
    let first = certificate(&dir, |_| true).await;
    let key = std::fs::read_to_string(dir.join("prometheus.key")).unwrap();
    fixture.running.stop().await;
    let again = crate::support::start_in_with(fixture.dir.clone(), set).await;
    // The first look happens at once; a new certificate would be there by then.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(certificate(&dir, |_| true).await.serial, first.serial);
    again.running.stop().await;
    std::fs::remove_file(dir.join("prometheus.pem")).unwrap();
    let third = crate::support::start_in_with(fixture.dir.clone(), set).await;
    let second = certificate(&dir, |_| true).await;
    assert_ne!(second.serial, first.serial);
    assert_eq!(
        std::fs::read_to_string(dir.join("prometheus.key")).unwrap(),
        key
    );
    third.running.stop().await;
}

/// Fails if a revoked monitor comes back by itself, if its name is burnt, or if the key lives on that somebody may have.
#[tokio::test]
async fn a_revoked_monitor_stays_revoked_until_its_name_begins_anew_and_then_with_another_key() {
    let set = |config: &mut isyone_coordinator::base::config::Config| {
        config.monitoring.certificate_dir = Some("prometheus".into());
    };
    let fixture = start_with(set).await;
    let dir = config(fixture.dir.path()).data_dir.join("prometheus");
    let key = || std::fs::read_to_string(dir.join("prometheus.key")).unwrap();
    let first = certificate(&dir, |_| true).await;
    let first_key = key();
    let list = v1::ListOperatorsRequest::default();
    let mut operators = OperatorServiceClient::new(fixture.admin.clone());
    let shown = operators.list_operators(list).await.unwrap().into_inner();
    let of_prometheus: Vec<_> = shown.operators.iter().map(|o| o.prometheus).collect();
    assert_eq!(of_prometheus, [false, true], "isyctl warns of this one");
    operators
        .revoke_operator(v1::RevokeOperatorRequest {
            name: "prometheus".into(),
        })
        .await
        .unwrap();
    fixture.running.stop().await;
    // The first look happens at once; a new certificate would be there by then.
    let again = crate::support::start_in_with(fixture.dir.clone(), set).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(certificate(&dir, |_| true).await.serial, first.serial);
    again.operator("prometheus", v1::Role::Monitor).await;
    again.running.stop().await;
    let third = crate::support::start_in_with(fixture.dir.clone(), set).await;
    let anew = certificate(&dir, |info| info.serial != first.serial).await;
    assert!(third.running.pki.admits(&anew) && !third.running.pki.admits(&first));
    assert_ne!(key(), first_key);
    third.running.stop().await;
}

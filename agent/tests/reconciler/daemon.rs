//! How the daemon is set up: the packet size of its networks, and what no tenant can run on.
//!
//! Not here: a daemon that is away (faults), bridges that one has left (links).

use isyone_agent::{
    docker::EngineInfo,
    testing::{fake_docker::FakeDocker, tenant_plan},
};
use isyone_proto::{plan::DesiredState, report::TenantProgress};

use super::life::{Life, assert_one_running_stack};

/// Fails where tenants' networks have Docker's usual size whatever the daemon was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_have_the_daemons_packet_size_and_take_another_when_their_tenant_stops_anyway() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let told = |mtu| EngineInfo {
        mtu: Some(mtu),
        ..EngineInfo::default()
    };
    fake.set_up(told(1400));
    let mut plan = tenant_plan("alfa");
    let network = plan.name.project();
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_eq!(fake.mtu_of(&network), Some(1400));
    let keys = fake.database_keys("alfa");
    fake.set_up(told(1300));
    life.host.forget_engine();
    for (desired, mtu) in [
        (DesiredState::Running, 1400),
        (DesiredState::Suspended, 1400),
        (DesiredState::Running, 1300),
    ] {
        plan.desired = desired;
        plan.generation += 1;
        plan.base_url = format!("https://alfa-{}.isy.one", plan.generation);
        life.plan(std::slice::from_ref(&plan));
        life.converged(&plan).await;
        assert_eq!(fake.mtu_of(&network), Some(mtu), "{desired:?}");
    }
    assert_one_running_stack(&fake, "alfa");
    assert_eq!(fake.database_keys("alfa"), keys);
    let compose = dir
        .path()
        .join("agent/tenants/alfa/docker-compose-alfa.yml");
    let compose = std::fs::read_to_string(compose).unwrap();
    assert!(compose.contains("driver.mtu: \"1300\""), "{compose}");
    life.end().await;
}

/// Fails where tenants hang on such a host, and others are placed there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_maps_users_is_refused_in_one_sentence_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    for daemon in [
        EngineInfo {
            maps_users: true,
            ..EngineInfo::default()
        },
        EngineInfo {
            rootless: true,
            ..EngineInfo::default()
        },
    ] {
        let plan = tenant_plan("alfa");
        let sentence = daemon.unfit().unwrap();
        assert!(!sentence.contains(". "), "{sentence}");
        fake.set_up(daemon);
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.wait("the host's word", |l| {
            l.host.board.troubles().contains(sentence)
        })
        .await;
        life.wait("the tenant's", |l| {
            let status = l.status("alfa");
            status.is_some_and(|s| {
                s.progress == TenantProgress::Failing && s.message.contains(sentence)
            })
        })
        .await;
        assert_eq!(fake.things(), (vec![], vec![], vec![]));
        life.end().await;
    }
    fake.set_up(EngineInfo::default());
    let plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_eq!(life.host.board.troubles(), "");
    life.end().await;
}

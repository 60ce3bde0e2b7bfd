//! A tenant moves between two hosts that cannot reach each other: its data goes through the coordinator. A real coordinator
//! and real agents in one process, whose advertised addresses lead nowhere.
//!
//! Not here: who may use that way (isyone-coordinator), when it is taken (isyone-agent), real hosts (e2e::moves).

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use isyone_agent::agent::PortAddress;
use isyone_proto::pb::v1::{MoveTenantRequest, tenant_service_client::TenantServiceClient};
use isyone_tests::fleet::{Fleet, wait_for};

/// Far above the 5 s that an address may take which nobody answers at.
const LIMIT: Duration = Duration::from_secs(60);

/// A port on loopback that is free now; none of our address that others know.
fn own_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

#[test]
fn a_tenant_moves_between_hosts_that_cannot_reach_each_other() {
    let mut fleet = Fleet::start("");
    for seed in [1, 2] {
        let agent = fleet.add_agent(seed);
        agent.stop();
        agent.peer = PortAddress::At(own_port());
        agent.start();
    }
    fleet.all_report();
    fleet.create("alfa");
    let from = usize::from(fleet.agents[0].docker.running().is_empty());
    let to = 1 - from;
    let key = fleet.agents[from].docker.database_keys("alfa");
    assert!(key.is_some());
    let request = MoveTenantRequest {
        name: "alfa".to_owned(),
        to_host: fleet.agents[to].name.clone(),
        ..MoveTenantRequest::default()
    };
    let moving = async {
        let mut tenants = TenantServiceClient::new(fleet.admin.connection());
        tenants.move_tenant(request).await
    };
    fleet.client.block_on(moving).expect("there is room");
    wait_for("alfa on its new host", LIMIT, || {
        fleet.agents[to].docker.running().len() == 2
    });
    assert!(fleet.agents[from].docker.running().is_empty());
    assert_eq!(fleet.agents[to].docker.database_keys("alfa"), key);
    let page = fleet.http("/metrics");
    let relayed = |line: &str| {
        line.strip_prefix("isyone_relayed_bytes_total ")?
            .parse()
            .ok()
    };
    let bytes: u64 = page.lines().find_map(relayed).expect("it is counted");
    assert!(bytes > 1000, "{bytes}");
    wait_for("the connection's end", LIMIT, || {
        fleet.http("/metrics").contains("isyone_relays 0")
    });
}

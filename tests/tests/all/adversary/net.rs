//! Who would be taken for somebody who is let in, what hosts are told to close to their tenants, and a host that cannot.
//!
//! Not here: packets (`e2e::adversary::net`).

use std::{
    collections::BTreeSet, fs, net::IpAddr, os::unix::fs::PermissionsExt as _, time::Duration,
};

use isyone_agent::host::firewall::{Applier, Nft, Pauses};
use isyone_proto::{
    network::{Egress, NetworkRules},
    pb::v1::{
        GetHostRequest, Host, HostState, Networks, SetAccessRequest,
        host_service_client::HostServiceClient, tenant_service_client::TenantServiceClient,
    },
};
use isyone_tests::fleet::{Fleet, wait_for};
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);

/// An edge on a tenants' host sees the others under their own addresses: a list with these would let all of them in.
#[test]
fn no_allow_list_lets_in_a_neighbour() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    fleet.create("alfa");
    let mut tenants = TenantServiceClient::new(fleet.admin.connection());
    let mut allow = |networks: &[&str]| {
        let networks = networks.iter().map(|n| (*n).to_owned()).collect();
        let request = SetAccessRequest {
            name: "alfa".to_owned(),
            networks: Some(Networks { networks }),
            ..SetAccessRequest::default()
        };
        fleet.client.block_on(tenants.set_access(request))
    };
    for neighbour in [
        "10.200.0.16/28",
        "10.203.255.255",
        "10.0.0.0/8",
        "0.0.0.0/0",
    ] {
        let refused = allow(&["203.0.113.0/24", neighbour]).expect_err(neighbour);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let said = refused.message();
        assert!(
            said.contains("networks[1]") && said.contains("10.200.0.0/14"),
            "{said}"
        );
    }
    allow(&["203.0.113.0/24", "10.199.0.0/16", "::/0"]).expect("nobody of ours is in there");
}

#[test]
fn hosts_are_told_what_to_close_to_their_tenants() {
    let mut fleet = Fleet::start("");
    for seed in [1, 2] {
        fleet.add_agent(seed);
    }
    fleet.all_report();
    fleet.create("alfa");
    let known = |agent: usize| -> BTreeSet<IpAddr> {
        let stored = std::fs::read(fleet.agents[agent].data.hosts()).unwrap_or_default();
        serde_json::from_slice(&stored).unwrap_or_default()
    };
    let both = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
    wait_for("each host to know where both are", SOON, || {
        (0..2).all(|agent| known(agent) == BTreeSet::from(both))
    });
    let plans = fleet.agents.iter().map(|agent| {
        let plans = agent.agent().plans.borrow();
        plans.plan.clone().expect("it has a plan")
    });
    let plan = plans
        .into_iter()
        .find(|plan| !plan.tenants.is_empty())
        .expect("alfa is somewhere");
    let closed = &plan.firewall.closed;
    for private in [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
    ] {
        assert!(
            closed.contains(&private.parse().expect("a network")),
            "{private}"
        );
    }
    let policy = &plan.firewall.policies[0];
    assert_eq!(policy.tenants, ["alfa".parse().expect("a name")]);
    assert_eq!(policy.rules, NetworkRules::default());
    assert_eq!(
        (policy.rules.egress, policy.rules.smtp),
        (Egress::Open, false)
    );
}

/// A host's `nft` that takes no limits on connections while there is a file `refuse` beside it.
const NFT: &str = r#"#!/bin/sh
case "$(cat)" in *isyone_limits*)
    [ -e "$(dirname "$0")/refuse" ] && { echo 'Error: Could not process rule' >&2; exit 1; };;
esac
exit 0
"#;

/// Fails where limits that were refused once are off until the plan changes, and nobody but a log knows.
#[test]
fn a_host_that_cannot_limit_a_tenants_connections_says_so_and_tries_on() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    fleet.create("alfa");
    let dir = tempfile::tempdir().expect("a folder");
    let (program, refuse) = (dir.path().join("nft"), dir.path().join("refuse"));
    fs::write(&program, NFT)
        .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o700)))
        .and_then(|()| fs::write(&refuse, ""))
        .expect("a program");
    let agent = &mut fleet.agents[0];
    agent.stop();
    agent.firewall = Some(Applier {
        nft: Nft::at(program),
        pauses: Pauses {
            first: Duration::from_millis(20),
            most: Duration::from_millis(200),
        },
        ..Applier::default()
    });
    agent.start();
    let host = |fleet: &Fleet| -> Host {
        let mut hosts = HostServiceClient::new(fleet.admin.connection());
        let name = "h1".to_owned();
        let got = hosts.get_host(GetHostRequest { name });
        fleet
            .client
            .block_on(got)
            .expect("it is there")
            .into_inner()
    };
    wait_for("operators to be told", SOON, || {
        let host = host(&fleet);
        host.state() == HostState::Degraded && host.message.contains("are not limited")
    });
    assert!(
        fleet.agents[0]
            .docker
            .running()
            .contains(&"odoo_alfa".to_owned())
    );
    fs::remove_file(refuse).expect("it was there");
    wait_for("the host to be well again", SOON, || {
        host(&fleet).state() == HostState::Ready
    });
}

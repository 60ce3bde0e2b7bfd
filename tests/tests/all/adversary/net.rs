//! Who would be taken for somebody who is let in, and what hosts are told to close to their tenants.
//!
//! Not here: packets (`e2e::adversary::net`).

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use isyone_proto::{
    network::{Egress, NetworkRules},
    pb::v1::{Networks, SetAccessRequest, tenant_service_client::TenantServiceClient},
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

//! A plan in which every rule occurs, for tests here and of the room that puts rules in force.

use std::collections::{BTreeMap, BTreeSet};

use isyone_proto::{
    mail::{Mail, Via},
    network::{Egress, NetworkPolicy, NetworkRules},
    plan::HostPlan,
};

use super::Around;
use crate::testing::{host_plan, tenant_plan};

/// Three tenants, two with an open plan and one whose destinations are listed.
pub(crate) fn busy() -> (HostPlan, Around) {
    let names = ["alfa", "beta", "gama"];
    let mut plan = host_plan(1, names.map(tenant_plan).to_vec());
    plan.tenants[1].mail = Some(Mail::by(Via::Catcher));
    let firewall = &mut plan.firewall;
    firewall.edges.push("2001:db8::1/128".parse().unwrap());
    firewall.public_addresses = vec!["203.0.113.80".parse().unwrap()];
    firewall.closed = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
    ]
    .map(|net| net.parse().unwrap())
    .to_vec();
    firewall.mail_relays = ["10.9.9.25:587", "host:25"]
        .map(|relay| relay.parse().unwrap())
        .to_vec();
    firewall.protected_names = vec!["coordinator.example.com".parse().unwrap()];
    firewall.policies = vec![
        NetworkPolicy {
            tenants: vec!["alfa".parse().unwrap()],
            rules: NetworkRules {
                connections: 500,
                connections_per_second: 50,
                egress: Egress::Listed,
                allow: ["203.0.113.0/24", "10.7.0.9", "api.example.com"]
                    .map(|d| d.parse().unwrap())
                    .to_vec(),
                smtp: true,
            },
        },
        NetworkPolicy {
            tenants: vec!["beta".parse().unwrap(), "gama".parse().unwrap()],
            rules: NetworkRules::default(),
        },
    ];
    let api = BTreeSet::from([[198, 51, 100, 1].into(), [198, 51, 100, 2].into()]);
    let around = Around {
        resolvers: BTreeSet::from([[10, 0, 0, 2].into()]),
        hosts: BTreeSet::from(["192.0.2.11".parse().unwrap(), "192.0.2.12".parse().unwrap()]),
        control: BTreeSet::from([[198, 51, 100, 9].into()]),
        names: BTreeMap::from([("api.example.com".parse().unwrap(), api)]),
        bridges: BTreeSet::from(["br-0123456789ab".to_owned()]),
        conntrack_max: 262_144,
    };
    (plan, around)
}

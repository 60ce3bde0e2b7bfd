//! A host joins again: what it must say, and what it keeps; and what others learn of a host that joins or leaves.
//!
//! Not here: the first join, which every fleet begins with.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use isyone_agent::{
    host::identity::Pems,
    link::join::{JoinError, JoinOptions, join},
};
use isyone_proto::pb::v1;
use isyone_tests::fleet::{Fleet, wait_for};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_host_that_joins_anew_keeps_its_tenants_and_is_told_how() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    fleet.create("alfa");
    let before = fleet.agents[0].data.load_config().expect("it has joined");
    let old = Pems::load(&fleet.agents[0].data.identity()).expect("they are there");
    let again = |name: Option<&str>, rejoin: bool| {
        let token = fleet.client.block_on(fleet.admin.token("h1"));
        let options = JoinOptions {
            coordinator: fleet.coordinator.enroll().to_string(),
            token: token.expect("a token is made"),
            name: name.map(|name| name.parse().expect("a host name")),
            advertise: None,
            labels: Default::default(),
            rejoin,
        };
        let joining = join(&fleet.agents[0].data, options);
        fleet.client.block_on(joining)
    };

    let refused = again(None, false).expect_err("it has joined");
    assert!(matches!(refused, JoinError::Already { .. }));
    let said = refused.to_string();
    assert!(
        said.contains("--rejoin") && said.contains("`isyctl host token --host h1`"),
        "{said}"
    );
    let refused = again(Some("h2"), true).expect_err("it is h1");
    assert!(
        refused.to_string().contains("leave out --name h2"),
        "{refused}"
    );

    let mut session = fleet.agents[0].watch();
    let joined = again(None, true).expect("it joins anew");
    assert_eq!(joined.config, before, "name, uid, address: all as before");
    assert!(!joined.pending, "the token was made for it");
    let new = Pems::load(&fleet.agents[0].data.identity()).expect("they are there");
    assert!(new.key != old.key, "a new identity");
    // The running agent takes it up: the old one is refused from now on.
    wait_for("the old certificate's session to be cut", SOON, || {
        session.has_changed().expect("it runs")
    });
    session.mark_unchanged();
    wait_for("a session with the new one", SOON, || {
        fleet.agents[0].is_connected()
    });
    assert_eq!(fleet.agents[0].docker.running().len(), 2, "alfa ran on");
    fleet.create("beta");
}

/// Fails where a change is lost or applied to another list than the coordinator's: hosts would be open to tenants.
#[test]
fn hosts_know_of_each_other_through_joins_removals_and_restarts() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.add_agent(2);
    let all_know = |fleet: &Fleet, numbers: &[u8]| {
        let hosts: BTreeSet<IpAddr> = numbers.iter().map(|n| [192, 0, 2, *n].into()).collect();
        wait_for("all to know where hosts are", SOON, || {
            let running = fleet.agents.iter().filter(|agent| agent.is_up());
            running.into_iter().all(|agent| {
                let file = std::fs::read(agent.data.hosts()).unwrap_or_default();
                serde_json::from_slice(&file).is_ok_and(|known: BTreeSet<IpAddr>| known == hosts)
            })
        });
    };
    all_know(&fleet, &[1, 2]);
    fleet.add_agent(3);
    all_know(&fleet, &[1, 2, 3]);
    // One that is away while the list changes, and a coordinator that has not seen it change.
    fleet.agents[1].stop();
    let request = v1::RemoveHostRequest {
        name: "h3".to_owned(),
    };
    let removed = fleet
        .client
        .block_on(async { fleet.admin.hosts().remove_host(request).await });
    removed.expect("it has no tenants");
    fleet.agents[2].stop();
    all_know(&fleet, &[1, 2]);
    fleet.coordinator.kill();
    fleet.coordinator.run();
    fleet.agents[1].start();
    all_know(&fleet, &[1, 2]);
}

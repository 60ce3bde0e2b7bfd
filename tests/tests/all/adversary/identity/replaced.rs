//! What is on its way when the certificate that it was asked for with is replaced.
//!
//! Not here: what is refused once it was (mod.rs), signing anew while the CA is replaced (`rotation`).

use isyone_coordinator::base::clock;
use isyone_fleet::{change, desired::Token};
use isyone_proto::pb::{
    agent::v1::{RenewRequest, agent_service_client::AgentServiceClient},
    v1::host_service_client::HostServiceClient,
};

use super::*;

/// What h1 does with a token that an admin has made for it, to get rid of a thief.
fn joins_again(fleet: &Fleet, csr_pem: &str) -> change::Command {
    let running = fleet.coordinator.running();
    let host = running.handle.snapshot().fleet.hosts["h1"].clone();
    let token = Token {
        id: "0123456789abcdef".to_owned(),
        secret_hash: "hash".to_owned(),
        host: Some(host.name.clone()),
        expires_at: clock::now_ms() + 60_000,
        ..Token::default()
    };
    let enroll = change::Enroll {
        token_id: token.id.clone(),
        secret_hash: token.secret_hash.clone(),
        host: host.name.clone(),
        uid: host.uid,
        advertise: host.advertise,
        from: host.advertise,
        is_ours: false,
        labels: Default::default(),
        certificate: running
            .pki
            .sign_agent(
                csr_pem,
                &host.name,
                host.advertise,
                3_600,
                clock::now_seconds(),
            )
            .expect("it signs")
            .record(),
    };
    let made = change::Command::CreateToken {
        token: Box::new(token),
        asked_with: None,
    };
    let made = running.handle.submit("test", made);
    fleet.client.block_on(made).expect("a token");
    change::Command::Enroll(Box::new(enroll))
}

/// Connections are not cut in the very moment when their certificate is replaced. What is asked for in between must not outlast it.
#[test]
fn what_was_on_its_way_when_a_certificate_was_replaced_gets_no_token_and_no_other_certificate() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    let eve = operator(&fleet, "eve", v1::Role::Admin).connect(&fleet);
    call(&fleet, &eve).expect("it is in");
    let identity = fleet.agents[0].data.identity();
    let read = |name| std::fs::read_to_string(identity.join(name)).expect("an identity");
    let stolen = Papers {
        ca: read("ca.pem"),
        certificate: read("certificate.pem"),
        key: read("key.pem"),
    };
    let host = stolen.connect(&fleet);
    fleet.agents[0].kill();
    let handle = fleet.coordinator.running().handle.clone();
    let replaced = |command: change::Command| {
        operator(&fleet, "decoy", v1::Role::Viewer);
        let decoy = change::Command::RevokeOperator {
            name: "decoy".parse().expect("a name"),
        };
        fleet.client.block_on(async {
            handle.submit("test", decoy).await.expect("it is revoked");
            // The connections were just looked at, so the next look is a moment away.
            tokio::time::sleep(Duration::from_millis(5)).await;
            handle.submit("test", command).await.expect("it is done");
        });
    };
    let mut hosts = HostServiceClient::new(eve.clone());
    replaced(change::Command::RevokeOperator {
        name: "eve".parse().expect("a name"),
    });
    let token = hosts.create_join_token(v1::CreateJoinTokenRequest::default());
    let token = fleet.client.block_on(token).map(drop);
    token.expect_err("a token for the thief");
    let mut agent = AgentServiceClient::new(host);
    let (_, csr_pem) = tls::new_key_and_csr("h1").expect("a key");
    let mut renew = || {
        let csr_pem = csr_pem.clone();
        let renewed = agent.renew(RenewRequest { csr_pem });
        fleet.client.block_on(renewed).map(drop)
    };
    renew().expect("it is in");
    replaced(joins_again(&fleet, &csr_pem));
    let renewed = renew();
    renewed.expect_err("a certificate for the thief");
}

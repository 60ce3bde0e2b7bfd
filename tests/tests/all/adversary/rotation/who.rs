//! Who is waited for while the CA is replaced, who is refused at once, and who gets nothing more by a certificate that was replaced.
//!
//! Not here: the replacement itself (mod.rs).

use isyone_agent::link::join::{JoinOptions, join};
use isyone_fleet::{
    change::{Command, RenewOperator},
    desired::Certificate,
};
use isyone_proto::pb::{
    agent::v1::{RenewRequest, agent_service_client::AgentServiceClient},
    v1::{CreateOperatorRequest, Role, operator_service_client::OperatorServiceClient},
};

use super::*;

fn submit(fleet: &Fleet, command: Command) {
    let handle = fleet.coordinator.running().handle.clone();
    let done = fleet.client.block_on(handle.submit("test", command));
    done.expect("it is done");
}

/// Another certificate of an operator, as a context of its own.
fn context_of(fleet: &Fleet, name: &str, file: &str) -> PathBuf {
    let (key_pem, csr_pem) = tls::new_key_and_csr(name).expect("a key");
    let request = CreateOperatorRequest {
        name: name.to_owned(),
        role: Role::Viewer.into(),
        csr_pem,
        ttl_days: 1,
    };
    let mut client = OperatorServiceClient::new(fleet.admin.connection());
    let made = fleet.client.block_on(client.create_operator(request));
    let made = made.expect("it is made").into_inner();
    let text = std::fs::read_to_string(admins(fleet)).expect("a context");
    let mut table: toml::Table = text.parse().expect("it is TOML");
    for (key, value) in [
        ("name", name.to_owned()),
        ("ca_pem", made.ca_pem),
        ("certificate_pem", made.certificate_pem),
        ("key_pem", key_pem),
    ] {
        table.insert(key.to_owned(), value.into());
    }
    let context = fleet.dir.path().join(file);
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::write(&context, table.to_string())
        .and_then(|()| std::fs::set_permissions(&context, private))
        .expect("it is written");
    context
}

fn switched(fleet: &Fleet) {
    rotate(fleet, 3_600);
    wait_for("the new CA to sign", SOON, || {
        stage(fleet) == Some(Stage::Switched)
    });
}

/// Of a certificate that a version before made only the serial number is known, and whoever has the old CA's key can make
/// one with it.
#[test]
fn a_serial_number_is_not_enough_while_the_ca_is_replaced() {
    let fleet = Fleet::start("");
    let admin = papers(&admins(&fleet));
    let pki = fleet.coordinator.running().pki.clone();
    let (key, csr) = tls::new_key_and_csr("ana").expect("a request");
    let (name, role) = ("ana".parse().expect("a name"), tls::OperatorRole::Operator);
    let issued = pki
        .sign_operator(&csr, &name, role, 3_600, clock::now_seconds())
        .expect("it signs");
    let certificate = Certificate {
        sha256: String::new(),
        ..issued.record()
    };
    let before = Command::CreateOperator {
        name,
        role,
        certificate,
        again: false,
        asked_with: None,
    };
    submit(&fleet, before);
    let forged = Papers {
        ca: admin.ca.clone(),
        certificate: issued.pem,
        key,
    };
    let begin = |yes| {
        let both = Order::Rotate {
            ca: true,
            seal: true,
            overlap_s: Some(3_600),
            yes,
        };
        order(&fleet, &both)
    };
    let refused = begin(false);
    for word in [
        "operator ana: 1 of 1",
        "`isyctl operator renew ana`",
        "--yes",
    ] {
        assert!(
            !refused.done && refused.text.contains(word),
            "{}",
            refused.text
        );
    }
    assert_eq!(stage(&fleet), None, "nothing was begun");
    let begun = begin(true);
    assert!(
        begun.done && begun.text.contains("refused "),
        "{}",
        begun.text
    );
    assert!(begun.text.contains("operator ana"), "{}", begun.text);
    assert!(!is_let_in(&fleet, &forged), "a serial number lets it in");
    assert!(is_let_in(&fleet, &admin));
}

#[test]
fn an_operator_with_two_contexts_has_moved_when_both_have() {
    let fleet = Fleet::start("");
    let admin = admins(&fleet);
    let one = context_of(&fleet, "ana", "one.toml");
    let two = context_of(&fleet, "ana", "two.toml");
    switched(&fleet);
    assert_eq!((isyctl(&admin), isyctl(&one)), (0, 0));
    let retire = retire(false);
    let refused = order(&fleet, &retire);
    let named = refused
        .text
        .contains("operator ana: viewer, 1 of 3 certificates");
    assert!(!refused.done && named, "{}", refused.text);
    assert_eq!(isyctl(&two), 0);
    let done = order(&fleet, &retire);
    assert!(done.done, "{}", done.text);
    assert_eq!((isyctl(&one), isyctl(&two)), (0, 0));
}

#[test]
fn it_goes_on_without_a_host_that_is_away_which_joins_again_later() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.add_agent(2);
    fleet.all_report();
    let admin = admins(&fleet);
    fleet.agents[1].stop();
    rotate(&fleet, 3_600);
    let without = |fleet: &Fleet, host: &str| {
        let without = vec![host.to_owned()];
        let force = false;
        order(fleet, &Order::Switch { force, without })
    };
    for (host, why) in [("h1", "is connected"), ("h9", "is no host of this fleet")] {
        let refused = without(&fleet, host);
        let said = format!("--without {host}: it {why}");
        assert!(
            !refused.done && refused.text.contains(&said),
            "{}",
            refused.text
        );
    }
    wait_for("it to be away", SOON, || without(&fleet, "h2").done);
    assert_eq!(stage(&fleet), Some(Stage::Switched));
    let status = order(&fleet, &Order::Status).text;
    let (_, told) = status.split_once("goes on without").expect(&status);
    assert!(
        told.contains("host h2") && told.contains("--rejoin"),
        "{status}"
    );
    assert_eq!(isyctl(&admin), 0);
    // Its certificate is good for hours yet, and nobody waits for it.
    wait_for("the old CA to be forgotten", SOON, || {
        order(&fleet, &retire(false)).done
    });
    let text = std::fs::read_to_string(&admin).expect("a context");
    std::fs::write(fleet.dir.path().join("admin.toml"), text).expect("it is written");
    let address = fleet.coordinator.grpc();
    fleet.admin = fleet
        .client
        .block_on(async { Operator::open(&admin, address) });
    let token = fleet.client.block_on(fleet.admin.token("h2"));
    let options = JoinOptions {
        coordinator: fleet.coordinator.enroll().to_string(),
        token: token.expect("a token is made"),
        name: Some("h2".parse().expect("a name")),
        advertise: Some([192, 0, 2, 2].into()),
        labels: Default::default(),
        rejoin: true,
    };
    let joined = join(&fleet.agents[1].data, options);
    fleet.client.block_on(joined).expect("it joins again");
    fleet.agents[1].start();
    fleet.all_report();
}

/// A host's new certificate comes over a connection by its old one. Were that cut before the answer is there, the host would have
/// none that is accepted.
#[test]
fn the_old_ca_is_not_forgotten_while_a_new_certificate_is_on_its_way() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    let admin = admins(&fleet);
    fleet.agents[0].kill();
    let dir = fleet.agents[0].data.identity();
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("an identity");
    let (ca, certificate, key) = (read("ca.pem"), read("certificate.pem"), read("key.pem"));
    rotate(&fleet, 3_600);
    assert!(order(&fleet, &switch(true)).done);
    assert_eq!(isyctl(&admin), 0);
    let address = fleet.coordinator.grpc();
    // The agent asks, and has not read the answer.
    let asking = fleet.client.block_on(async {
        let channel = channel(address, &ca, &certificate, &key);
        let (_, csr_pem) = tls::new_key_and_csr("h1").expect("a request");
        let mut agent = AgentServiceClient::new(channel);
        agent.renew(RenewRequest { csr_pem }).await.expect("signed");
        agent
    });
    let refused = order(&fleet, &retire(false));
    let said = "host h1: has a new certificate, and is connected by its old one still";
    assert!(
        !refused.done && refused.text.contains(said),
        "{}",
        refused.text
    );
    drop(asking);
    fleet.agents[0].start();
    fleet.all_report();
    wait_for("it to be connected by the new one", SOON, || {
        let on_disk =
            of_agent(&fleet, 0).0 == fleet.coordinator.running().pki.trust().borrow().sha256[0];
        on_disk && order(&fleet, &retire(false)).done
    });
    fleet.all_report();
}

/// A thief's connection is not cut in the very moment when the certificate is replaced. What it asks for in between must not
/// outlast it.
#[test]
fn a_certificate_that_was_just_replaced_is_not_signed_anew() {
    let fleet = Fleet::start("");
    context_of(&fleet, "decoy", "decoy.toml");
    let stolen = papers(&context_of(&fleet, "ana", "ana.toml"));
    switched(&fleet);
    let (_, csr) = tls::new_key_and_csr("ana").expect("a request");
    let (name, role) = ("ana".parse().expect("a name"), tls::OperatorRole::Viewer);
    let pki = fleet.coordinator.running().pki.clone();
    let issued = pki
        .sign_operator(&csr, &name, role, 3_600, clock::now_seconds())
        .expect("it signs");
    let renew = Command::RenewOperator(Box::new(RenewOperator {
        name,
        role,
        certificate: issued.record(),
        asked_with: None,
    }));
    let decoy = Command::RevokeOperator {
        name: "decoy".parse().expect("a name"),
    };
    let request = ResignCertificateRequest {
        certificate_pem: stolen.certificate.clone(),
        csr_pem: tls::csr_for(&stolen.key, "ana").expect("a request"),
    };
    let address = fleet.coordinator.grpc();
    let handle = fleet.coordinator.running().handle.clone();
    let asked = fleet.client.block_on(async {
        let channel = channel(address, &stolen.ca, &stolen.certificate, &stolen.key);
        let mut thief = SystemServiceClient::new(channel);
        thief.get_info(GetInfoRequest {}).await.expect("it is in");
        // The connections were just looked at, so the next look is a moment away.
        handle.submit("test", decoy).await.expect("it is revoked");
        tokio::time::sleep(Duration::from_millis(5)).await;
        handle.submit("test", renew).await.expect("it is renewed");
        thief.resign_certificate(request).await
    });
    let said = asked.map(drop).expect_err("a certificate for the thief");
    assert!(
        matches!(
            said.code(),
            Code::PermissionDenied | Code::Unavailable | Code::Unknown | Code::Cancelled
        ),
        "{said}"
    );
}

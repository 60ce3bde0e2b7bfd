//! The CA and the sealing key are replaced under a fleet that runs, and what somebody who has stolen the old ones can still do.
//!
//! Not here: who is waited for and who is refused meanwhile (who), a crash between two writes of the files (the coordinator's base/pki and base/secrets).

mod who;

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use isyone_coordinator::{
    base::{
        clock,
        pki::rotation::Stage,
        secrets::{KEY_FILE, NEXT_KEY_FILE},
    },
    rotation::control::{self, Answer, Order},
};
use isyone_fleet::event::EventKind;
use isyone_proto::{
    pb::v1::{
        GetInfoRequest, GetTrustRequest, ResignCertificateRequest,
        system_service_client::SystemServiceClient,
    },
    tls,
};
use isyone_tests::fleet::{
    Fleet,
    operator::{Operator, channel},
    wait_for,
};
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);
/// The promise: no session is away for longer.
const GAP: Duration = Duration::from_secs(5);

fn data_dir(fleet: &Fleet) -> PathBuf {
    fleet.dir.path().join("coordinator")
}

/// Gives an order on the control socket.
fn order(fleet: &Fleet, order: &Order) -> Answer {
    control::ask(&data_dir(fleet), order).expect("the coordinator answers")
}

fn rotate(fleet: &Fleet, overlap_s: i64) {
    let both = Order::Rotate {
        ca: true,
        seal: true,
        overlap_s: Some(overlap_s),
        yes: false,
    };
    let answer = order(fleet, &both);
    assert!(answer.done, "{}", answer.text);
}

fn switch(force: bool) -> Order {
    let without = Vec::new();
    Order::Switch { force, without }
}

fn retire(force: bool) -> Order {
    let without = Vec::new();
    Order::Retire { force, without }
}

fn stage(fleet: &Fleet) -> Option<Stage> {
    let rotation = fleet.coordinator.running().pki.rotation();
    rotation.map(|rotation| rotation.stage)
}

/// The first admin's context, with the port that the system chose.
fn admins(fleet: &Fleet) -> PathBuf {
    let made = std::fs::read_to_string(fleet.dir.path().join("admin.toml")).expect("a context");
    let mut table: toml::Table = made.parse().expect("it is TOML");
    let endpoint = fleet.coordinator.grpc().to_string();
    table.insert("endpoint".to_owned(), endpoint.into());
    let context = fleet.dir.path().join("isyctl.toml");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::write(&context, table.to_string())
        .and_then(|()| std::fs::set_permissions(&context, private))
        .expect("it is written");
    context
}

/// Ends the watchers, also when what they watch panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A context file's parts.
struct Papers {
    ca: String,
    certificate: String,
    key: String,
}

fn papers(context: &Path) -> Papers {
    let text = std::fs::read_to_string(context).expect("a context");
    let table: toml::Table = text.parse().expect("it is TOML");
    let part = |key: &str| table[key].as_str().expect("a text").to_owned();
    Papers {
        ca: part("ca_pem"),
        certificate: part("certificate_pem"),
        key: part("key_pem"),
    }
}

/// Whether a context is let in, on a connection of its own.
fn is_let_in(fleet: &Fleet, papers: &Papers) -> bool {
    let address = fleet.coordinator.grpc();
    fleet.client.block_on(async {
        let channel = channel(address, &papers.ca, &papers.certificate, &papers.key);
        let mut system = SystemServiceClient::new(channel);
        let asked = system.get_info(GetInfoRequest {});
        matches!(tokio::time::timeout(SOON, asked).await, Ok(Ok(_)))
    })
}

/// One command of isyctl with a context, as a person runs it.
fn isyctl(context: &Path) -> u8 {
    let context = context.display().to_string();
    isyone_ctl::main(
        ["isyctl", "--context", &context, "tenant", "list"].map(std::ffi::OsString::from),
    )
}

/// The longest time that one of the agents was without a session, while `act` runs.
fn longest_gap(fleet: &Fleet, act: impl FnOnce(&Fleet)) -> Duration {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watchers: Vec<_> = fleet
            .agents
            .iter()
            .map(|agent| {
                let (connected, stop) = (agent.watch(), &stop);
                scope.spawn(move || {
                    let (mut longest, mut since) = (Duration::ZERO, None);
                    while !stop.load(Ordering::Relaxed) {
                        match (*connected.borrow(), since) {
                            (true, _) => since = None,
                            (false, None) => since = Some(Instant::now()),
                            (false, Some(_)) => {}
                        }
                        longest = longest.max(since.map_or(Duration::ZERO, |s| s.elapsed()));
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    longest
                })
            })
            .collect();
        {
            let _end = Ends(&stop);
            act(fleet);
        }
        let gaps = watchers.into_iter().map(|w| w.join().expect("it watches"));
        gaps.max().unwrap_or_default()
    })
}

/// What was done to containers: everything but looking.
fn work(fleet: &Fleet) -> Vec<usize> {
    fleet
        .agents
        .iter()
        .map(|agent| agent.docker.log().len())
        .collect()
}

/// The CA that an agent's certificate is of, and those that it trusts.
fn of_agent(fleet: &Fleet, number: usize) -> (String, Vec<String>) {
    let dir = fleet.agents[number].data.identity();
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("an identity");
    let ca = read("ca.pem");
    let trusted = tls::fingerprints("CA", &ca).expect("CAs");
    let certificate = read("certificate.pem");
    let of = trusted
        .iter()
        .find(|one| tls::is_of(&certificate, &ca, one));
    (of.cloned().unwrap_or_default(), trusted)
}

/// Three hosts and six tenants that run.
fn fleet_at_work() -> Fleet {
    let mut fleet = Fleet::start("");
    for seed in 1..=3 {
        fleet.add_agent(seed);
    }
    fleet.all_report();
    for tenant in ["alfa", "beta", "gama", "delta", "eco", "foca"] {
        fleet.create(tenant);
    }
    fleet
}

/// All tenants' passwords, as they are sealed.
fn secrets(fleet: &Fleet) -> BTreeSet<String> {
    let state = fleet.coordinator.snapshot();
    let tenants = state.fleet.tenants.values();
    tenants.map(|t| t.secrets.0.to_string()).collect()
}

#[test]
fn ca_and_sealing_key_are_replaced_under_three_hosts_and_six_tenants() {
    let mut fleet = fleet_at_work();
    let admin = admins(&fleet);
    let stolen = papers(&admin);
    let key = data_dir(&fleet).join(KEY_FILE);
    let old_key = std::fs::read_to_string(&key).expect("a key");
    let (sealed, before) = (secrets(&fleet), work(&fleet));
    let gap = longest_gap(&fleet, |fleet| replaced(fleet, &admin, &stolen));
    assert!(gap < GAP, "a session was away for {gap:?}");
    assert_eq!(work(&fleet), before, "no tenant was touched");
    assert!(
        !is_let_in(&fleet, &stolen),
        "the old CA's certificates are not accepted any more"
    );

    wait_for("all passwords to be sealed anew", SOON, || {
        secrets(&fleet).is_disjoint(&sealed)
    });
    let running = fleet.coordinator.running();
    for tenant in fleet.coordinator.snapshot().fleet.tenants.values() {
        let opened = running.sealer.open_secrets(tenant);
        assert!(opened.is_ok(), "{}", tenant.name);
    }
    // The old key is there for as long as a request may be on its way that used it.
    assert_eq!(std::fs::read_to_string(&key).expect("a key"), old_key);
    let audited = fleet.coordinator.snapshot();
    let told = audited.fleet.events.iter();
    let told = told.filter(|e| e.kind == EventKind::KeysReplaced && e.is_audit());
    assert!(told.count() >= 3, "who ordered it is on record");
    // The session of before is over; a new one goes on.
    let address = fleet.coordinator.grpc();
    fleet.admin = fleet
        .client
        .block_on(async { Operator::open(&admin, address) });
    fleet.create("gol");
}

/// From the order until the old CA is forgotten, with hosts and the admin's context following by themselves.
fn replaced(fleet: &Fleet, admin: &Path, stolen: &Papers) {
    let pki = &fleet.coordinator.running().pki;
    let old_ca = pki.ca_pin();
    rotate(fleet, 3_600);
    wait_for("the new CA to sign", SOON, || {
        stage(fleet) == Some(Stage::Switched)
    });
    let new_ca = pki.trust().borrow().sha256[0].clone();
    assert_ne!(new_ca, old_ca);
    wait_for("all hosts to have certificates of it", SOON, || {
        (0..3).all(|n| of_agent(fleet, n).0 == new_ca && of_agent(fleet, n).1.len() == 2)
    });
    // A context of before is let in still, and only the operators are waited for.
    assert!(is_let_in(fleet, stolen), "both are accepted");
    let refused = order(fleet, &retire(true));
    let no_admin = !refused.done && refused.text.contains("no admin");
    assert!(no_admin, "{}", refused.text);
    assert_eq!(isyctl(admin), 0);
    let moved = papers(admin);
    assert!(
        tls::is_of(&moved.certificate, &moved.ca, &new_ca),
        "its context has followed"
    );
    assert_eq!(moved.key, stolen.key, "by the same key");
    let mode = std::fs::metadata(admin).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    wait_for("the old CA to be forgotten", SOON, || {
        order(fleet, &retire(false)).done
    });
    assert_eq!((stage(fleet), pki.ca_pin()), (None, new_ca.clone()));
    wait_for("hosts to forget it, too", SOON, || {
        (0..3).all(|n| of_agent(fleet, n) == (new_ca.clone(), vec![new_ca.clone()]))
    });
    assert_eq!(isyctl(admin), 0);
    assert!(is_let_in(fleet, &papers(admin)));
    fleet.all_report();
}

/// Who stole an operator's certificate while the CA is replaced gets no other key by it, and nothing that lasts longer.
#[test]
fn a_certificate_is_signed_anew_for_its_own_key_and_time_alone() {
    let fleet = Fleet::start("");
    let admin = papers(&admins(&fleet));
    let address = fleet.coordinator.grpc();
    let ask = |certificate: &str, csr: &str| {
        let request = ResignCertificateRequest {
            certificate_pem: certificate.to_owned(),
            csr_pem: csr.to_owned(),
        };
        fleet.client.block_on(async {
            let channel = channel(address, &admin.ca, &admin.certificate, &admin.key);
            let mut system = SystemServiceClient::new(channel);
            system.resign_certificate(request).await
        })
    };
    let own = tls::csr_for(&admin.key, "admin").expect("a request");
    let (_, other) = tls::new_key_and_csr("admin").expect("a request");
    // A certificate for that other key, of the same name: it is not the one that the connection shows.
    let (name, role) = ("admin".parse().expect("a name"), tls::OperatorRole::Admin);
    let pki = fleet.coordinator.running().pki.clone();
    let beside = pki
        .sign_operator(&other, &name, role, 3_600, clock::now_seconds())
        .expect("it signs");
    let code = |answer: Result<_, tonic::Status>| {
        answer.map(|_: tonic::Response<_>| ()).unwrap_err().code()
    };
    assert_eq!(
        code(ask(&admin.certificate, &own)),
        Code::FailedPrecondition
    );
    rotate(&fleet, 3_600);
    wait_for("the new CA to sign", SOON, || {
        stage(&fleet) == Some(Stage::Switched)
    });
    assert_eq!(code(ask(&admin.certificate, &other)), Code::InvalidArgument);
    assert_eq!(code(ask(&admin.ca, &own)), Code::InvalidArgument);
    assert_eq!(code(ask(&beside.pem, &other)), Code::InvalidArgument);
    let signed = ask(&admin.certificate, &own).expect("its own").into_inner();
    let end = |pem: &str| {
        let chain = tls::certificates("certificate", pem).expect("a certificate");
        tls::certificate_info(&chain[0])
            .expect("one of ours")
            .not_after
    };
    assert!(end(&signed.certificate_pem) <= end(&admin.certificate) + 1);
}

/// With the old CA's key stolen, a certificate that it signs is refused while both CAs are accepted, and after.
#[test]
fn a_stolen_key_of_the_old_ca_signs_nothing_that_is_let_in() {
    let fleet = Fleet::start("");
    let context = admins(&fleet);
    let admin = papers(&context);
    let pki = fleet.coordinator.running().pki.clone();
    // As the thief would: signed by the CA, unknown to the fleet.
    let (key, csr) = tls::new_key_and_csr("admin").expect("a request");
    let (name, role) = ("admin".parse().expect("a name"), tls::OperatorRole::Admin);
    let forged = pki
        .sign_operator(&csr, &name, role, 3_600, clock::now_seconds())
        .expect("it signs");
    let forged = Papers {
        ca: admin.ca.clone(),
        certificate: forged.pem,
        key,
    };
    assert!(!is_let_in(&fleet, &forged), "before");
    rotate(&fleet, 3_600);
    wait_for("the new CA to sign", SOON, || {
        stage(&fleet) == Some(Stage::Switched)
    });
    assert!(
        is_let_in(&fleet, &admin) && !is_let_in(&fleet, &forged),
        "while both are"
    );
    assert_eq!(isyctl(&context), 0);
    wait_for("the old CA to be forgotten", SOON, || {
        order(&fleet, &retire(false)).done
    });
    let forged = Papers {
        ca: papers(&context).ca,
        ..forged
    };
    assert!(!is_let_in(&fleet, &forged), "afterwards");
}

/// A host that is away is neither lost nor in the way: it comes back by its old certificate, and has the new one at once.
#[test]
fn a_host_that_was_away_comes_back_by_the_old_ca_and_moves_to_the_new_one() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.add_agent(2);
    fleet.all_report();
    let admin = admins(&fleet);
    fleet.agents[1].stop();
    rotate(&fleet, 3_600);
    // It is waited for while it may come back, and named.
    std::thread::sleep(Duration::from_secs(4));
    let said = order(&fleet, &switch(false));
    assert!(
        !said.done && said.text.contains("host h2: not connected"),
        "{}",
        said.text
    );
    assert!(!said.text.contains("h1"), "{}", said.text);
    assert_eq!(stage(&fleet), Some(Stage::Prepared));
    assert!(order(&fleet, &switch(true)).done);
    assert_eq!(isyctl(&admin), 0);
    let said = wait_for("only the host that is away to be missing", SOON, || {
        let answer = order(&fleet, &retire(false));
        (answer.text.contains("h2") && !answer.text.contains("h1")).then_some(answer)
    });
    assert!(!said.done, "{}", said.text);
    // The coordinator is killed, too: the stage is on disk, and hosts say again what they trust.
    fleet.coordinator.kill();
    fleet.coordinator.run();
    assert_eq!(stage(&fleet), Some(Stage::Switched));
    fleet.agents[1].start();
    fleet.all_report();
    wait_for("the old CA to be forgotten", SOON, || {
        order(&fleet, &retire(false)).done
    });
    fleet.all_report();
    let (of, trusted) = wait_for("the host to have followed", SOON, || {
        Some(of_agent(&fleet, 1)).filter(|(_, trusted)| trusted.len() == 1)
    });
    assert_eq!(trusted, [of]);
}

/// Killed right after the order, and again while it seals anew, a coordinator goes on where it was, with both keys.
#[test]
fn a_coordinator_that_is_killed_while_it_seals_anew_goes_on() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    for tenant in ["alfa", "beta", "gama"] {
        fleet.create(tenant);
    }
    let (sealed, before) = (secrets(&fleet), work(&fleet));
    let seal = Order::Rotate {
        ca: false,
        seal: true,
        overlap_s: None,
        yes: false,
    };
    assert!(order(&fleet, &seal).done);
    assert!(!order(&fleet, &seal).done, "one at a time");
    for _ in 0..2 {
        fleet.coordinator.kill();
        assert!(data_dir(&fleet).join(NEXT_KEY_FILE).exists());
        fleet.coordinator.run();
        let running = fleet.coordinator.running();
        for tenant in fleet.coordinator.snapshot().fleet.tenants.values() {
            let opened = running.sealer.open_secrets(tenant);
            assert!(opened.is_ok(), "{}", tenant.name);
        }
    }
    wait_for("all passwords to be sealed anew", SOON, || {
        secrets(&fleet).is_disjoint(&sealed)
    });
    fleet.all_report();
    assert_eq!(work(&fleet), before, "no tenant was touched");
}

/// Orders are for who may read the keys anyway.
#[test]
fn the_control_socket_is_for_its_owner() {
    let fleet = Fleet::start("");
    let socket = data_dir(&fleet).join(control::SOCKET);
    let mode = std::fs::metadata(&socket)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = order(&fleet, &Order::Status);
    assert!(
        status.done && status.text.contains("not being replaced"),
        "{}",
        status.text
    );
    let nowhere = control::ask(fleet.dir.path(), &Order::Status).unwrap_err();
    assert!(
        nowhere.to_string().contains("no coordinator runs"),
        "{nowhere}"
    );
    let trust = fleet.client.block_on(async {
        SystemServiceClient::new(fleet.admin.connection())
            .get_trust(GetTrustRequest {})
            .await
    });
    let named = trust.expect("it answers");
    let head = named
        .metadata()
        .get(tls::TRUST_HEADER)
        .expect("named")
        .clone();
    let told = tls::fingerprints("CA", &named.get_ref().ca_pem).expect("CAs");
    assert_eq!(head.to_str().ok(), Some(told[0].as_str()));
}

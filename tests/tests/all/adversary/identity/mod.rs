//! Whoever holds a stolen certificate, a join token that was not meant for it, or a host of its own: what it gets.
//!
//! Not here: what the commands decide (unit tests of the core), forged certificates (isyone-coordinator's own tests).

mod renewals;
mod replaced;

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use isyone_agent::{
    base::config::DataDir,
    link::join::{JoinError, JoinOptions, Joined, join},
    testing::fake_docker::FakeDocker,
};
use isyone_coordinator::{
    base::pki::rotation::Stage,
    rotation::control::{self, Order},
};
use isyone_proto::{
    pb::v1::{
        self, event_service_client::EventServiceClient,
        operator_service_client::OperatorServiceClient, system_service_client::SystemServiceClient,
    },
    tls,
};
use isyone_tests::{
    e2e::process::{Output, run},
    fleet::{Fleet, node::Agent, operator::channel, wait_for},
};
use tonic::{Code, Status, Streaming, transport::Channel};

const SOON: Duration = Duration::from_secs(10);
/// Longer than a session's looks at what it has to send.
const A_MOMENT: Duration = Duration::from_millis(1500);

/// A certificate, its key, and the CA that it trusts: what lies in a context file, and can be copied.
struct Papers {
    ca: String,
    certificate: String,
    key: String,
}

impl Papers {
    /// A connection of its own.
    fn connect(&self, fleet: &Fleet) -> Channel {
        let _inside = fleet.client.enter();
        channel(
            fleet.coordinator.grpc(),
            &self.ca,
            &self.certificate,
            &self.key,
        )
    }
}

fn operators(fleet: &Fleet) -> OperatorServiceClient<Channel> {
    OperatorServiceClient::new(fleet.admin.connection())
}

fn operator(fleet: &Fleet, name: &str, role: v1::Role) -> Papers {
    let (key, csr_pem) = tls::new_key_and_csr(name).expect("a key");
    let request = v1::CreateOperatorRequest {
        name: name.to_owned(),
        role: role.into(),
        csr_pem,
        ttl_days: 1,
    };
    let made = fleet
        .client
        .block_on(operators(fleet).create_operator(request));
    let made = made.expect("it is made").into_inner();
    Papers {
        ca: made.ca_pem,
        certificate: made.certificate_pem,
        key,
    }
}

/// Asks over that connection for a new certificate of `name`.
fn renew(fleet: &Fleet, over: &Channel, name: &str) -> Result<Papers, Status> {
    let (key, csr_pem) = tls::new_key_and_csr(name).expect("a key");
    let request = v1::RenewOperatorRequest {
        name: name.to_owned(),
        csr_pem,
        ttl_days: 1825,
        ..Default::default()
    };
    let mut client = OperatorServiceClient::new(over.clone());
    let made = fleet
        .client
        .block_on(client.renew_operator(request))?
        .into_inner();
    Ok(Papers {
        ca: made.ca_pem,
        certificate: made.certificate_pem,
        key,
    })
}

/// Says that the new certificate is there, as `isyctl operator renew` does.
fn come_with(fleet: &Fleet, papers: &Papers) -> Result<Channel, Status> {
    let connection = papers.connect(fleet);
    let mut client = OperatorServiceClient::new(connection.clone());
    let retired = client.retire_certificates(v1::RetireCertificatesRequest {});
    fleet.client.block_on(retired).map(|_| connection)
}

fn call(fleet: &Fleet, over: &Channel) -> Result<v1::Info, Status> {
    let mut client = SystemServiceClient::new(over.clone());
    let info = client.get_info(v1::GetInfoRequest {});
    fleet.client.block_on(info).map(tonic::Response::into_inner)
}

fn follow(fleet: &Fleet, over: &Channel) -> Streaming<v1::Event> {
    let request = v1::StreamEventsRequest {
        follow: true,
        ..Default::default()
    };
    let mut client = EventServiceClient::new(over.clone());
    let opened = fleet.client.block_on(client.stream_events(request));
    opened.expect("it may read").into_inner()
}

/// Fails if the stream is open for longer.
fn ends(fleet: &Fleet, mut stream: Streaming<v1::Event>) {
    let end = async { while let Ok(Some(_)) = stream.message().await {} };
    let ended = async { tokio::time::timeout(SOON, end).await };
    fleet.client.block_on(ended).expect("the thief still reads");
}

/// When its certificate ends, seconds.
fn end(papers: &Papers) -> i64 {
    let chain = tls::certificates("certificate", &papers.certificate).expect("PEM");
    tls::certificate_info(&chain[0]).expect("ours").not_after
}

fn is_cut_off(fleet: &Fleet, thief: &Channel, papers: &Papers) {
    wait_for("the connection to be cut", SOON, || {
        call(fleet, thief).is_err()
    });
    call(fleet, &papers.connect(fleet)).expect_err("a new one as well");
    renew(fleet, thief, "ana")
        .map(drop)
        .expect_err("it gets no other");
}

fn kinds(fleet: &Fleet) -> Vec<String> {
    let state = fleet.coordinator.snapshot();
    let kinds = state
        .fleet
        .events
        .iter()
        .map(|event| event.kind.to_string());
    kinds.collect()
}

#[test]
fn a_leaked_certificate_is_replaced_while_it_is_in_use_and_the_thief_is_cut_off() {
    let fleet = Fleet::start("");
    let leaked = operator(&fleet, "ana", v1::Role::Operator);
    let (owner, thief) = (leaked.connect(&fleet), leaked.connect(&fleet));
    call(&fleet, &owner).expect("it is hers");
    let reads = follow(&fleet, &thief);
    let new = renew(&fleet, &owner, "ana").expect("it is her own");
    assert!(
        end(&new) <= end(&leaked),
        "only an admin gives it more time"
    );
    // Until she comes with the new one, nothing is lost by a lost answer.
    call(&fleet, &owner).expect("it is accepted still");
    let owner = come_with(&fleet, &new).expect("it is the new one");
    ends(&fleet, reads);
    is_cut_off(&fleet, &thief, &leaked);
    let info = call(&fleet, &owner).expect("the owner works on");
    assert_eq!(
        (info.caller_name.as_str(), info.caller_role()),
        ("ana", v1::Role::Operator)
    );
    assert!(
        kinds(&fleet).ends_with(&["operator.renewed".to_owned(), "operator.renewed".to_owned()])
    );
}

#[test]
fn an_admin_cuts_a_thief_off_and_gives_the_owner_another_certificate() {
    let fleet = Fleet::start("");
    let leaked = operator(&fleet, "ana", v1::Role::Operator);
    let thief = leaked.connect(&fleet);
    let reads = follow(&fleet, &thief);
    let new = renew(&fleet, &fleet.admin.connection(), "ana").expect("an admin may");
    ends(&fleet, reads);
    is_cut_off(&fleet, &thief, &leaked);
    call(&fleet, &new.connect(&fleet)).expect("the owner works on");
}

#[test]
fn a_thief_that_is_faster_does_not_get_the_owners_name_for_good() {
    let fleet = Fleet::start("");
    let leaked = operator(&fleet, "ana", v1::Role::Viewer);
    let (owner, thief) = (leaked.connect(&fleet), leaked.connect(&fleet));
    let stolen = renew(&fleet, &thief, "ana").expect("it cannot be told apart");
    let thief = come_with(&fleet, &stolen).expect("nor now");
    call(&fleet, &owner).expect_err("the owner notices");
    let new = renew(&fleet, &fleet.admin.connection(), "ana").expect("an admin may");
    is_cut_off(&fleet, &thief, &stolen);
    call(&fleet, &new.connect(&fleet)).expect("the owner works on");
}

#[test]
fn nobody_renews_another_or_raises_itself() {
    let fleet = Fleet::start("");
    let otto = operator(&fleet, "otto", v1::Role::Operator).connect(&fleet);
    let refused = renew(&fleet, &otto, "admin")
        .map(drop)
        .expect_err("it is no admin");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let (_, csr_pem) = tls::new_key_and_csr("otto").expect("a key");
    let request = v1::RenewOperatorRequest {
        name: "otto".to_owned(),
        csr_pem,
        role: v1::Role::Admin.into(),
        ..Default::default()
    };
    let mut client = OperatorServiceClient::new(otto);
    let raised = fleet.client.block_on(client.renew_operator(request));
    let raised = raised.expect_err("nobody raises itself");
    assert_eq!(raised.code(), Code::FailedPrecondition);
    let monitor = operator(&fleet, "prom", v1::Role::Monitor).connect(&fleet);
    let refused = renew(&fleet, &monitor, "prom")
        .map(drop)
        .expect_err("it scrapes, nothing else");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// `isyctl`, in a process of its own.
fn isyctl(dir: &Path, context: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isyone-stand-in"));
    command
        .arg("isyctl")
        .env("ISYCTL_CONFIG_DIR", dir.join("config"));
    run(command.arg("--context").arg(context).args(arguments))
}

#[test]
fn isyctl_replaces_a_leaked_context_in_its_place() {
    let fleet = Fleet::start("");
    let dir = fleet.dir.path();
    let (own, stolen) = (dir.join("own.toml"), dir.join("stolen.toml"));
    let text = std::fs::read_to_string(dir.join("admin.toml")).expect("the admin's");
    let mut table: toml::Table = text.parse().expect("TOML");
    // `init` does not know the port that the system chooses.
    table.insert(
        "endpoint".to_owned(),
        fleet.coordinator.grpc().to_string().into(),
    );
    for file in [&own, &stolen] {
        std::fs::write(file, table.to_string()).expect("a file");
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    isyctl(dir, &stolen, &["tenant", "list"]).ok();
    isyctl(dir, &own, &["operator", "renew"]).ok();
    isyctl(dir, &own, &["tenant", "list"]).ok();
    let refused = isyctl(dir, &stolen, &["tenant", "list"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    // And of another one, into a file.
    let out = dir.join("ana.toml");
    let out = out.to_str().expect("a path");
    isyctl(
        dir,
        &own,
        &[
            "operator", "create", "ana", "--role", "viewer", "--out", out,
        ],
    )
    .ok();
    let new = dir.join("ana-2.toml");
    let to = new.to_str().expect("a path");
    let between = dir.join("ana-1.toml");
    let of_ana = ["operator", "renew", "ana", "--yes", "--out"];
    let same = [&of_ana[..], &[between.to_str().expect("a path")]].concat();
    isyctl(dir, &own, &same).ok();
    assert_eq!(isyctl(dir, Path::new(out), &["tenant", "list"]).code, 4);
    let raised = [&of_ana[..], &[to, "--role", "operator"]].concat();
    isyctl(dir, &own, &raised).ok();
    assert_eq!(isyctl(dir, &between, &["tenant", "list"]).code, 4);
    let who = isyctl(dir, &new, &["version", "-o", "json"]).ok();
    assert!(who.contains("\"operator\""), "{who}");
}

/// How a machine of the attacker's would join.
fn machine(
    fleet: &Fleet,
    request: v1::CreateJoinTokenRequest,
    name: &str,
    advertise: [u8; 4],
) -> JoinOptions {
    let made = fleet
        .client
        .block_on(fleet.admin.hosts().create_join_token(request));
    let made = made.expect("a token is made").into_inner();
    JoinOptions {
        coordinator: fleet.coordinator.enroll().to_string(),
        token: made.token.parse().expect("a token"),
        name: Some(name.parse().expect("a host name")),
        advertise: Some(advertise.into()),
        labels: Default::default(),
        rejoin: false,
    }
}

fn joins(fleet: &Fleet, options: JoinOptions) -> Result<(Joined, DataDir), JoinError> {
    let name = options.name.as_ref().expect("a name").to_string();
    let data = DataDir::new(fleet.dir.path().join(name).join("agent"));
    let joined = fleet.client.block_on(join(&data, options))?;
    Ok((joined, data))
}

fn refusal(fleet: &Fleet, options: JoinOptions) -> String {
    let joined = joins(fleet, options).map(|(joined, _)| joined);
    joined.expect_err("it must not join").to_string()
}

/// Joins as h9 with a token for any name, and reports.
fn stranger(fleet: &mut Fleet) {
    let options = machine(fleet, Default::default(), "h9", [192, 0, 2, 99]);
    let (joined, data) = joins(fleet, options).expect("the token is good");
    assert!(joined.pending);
    let docker = FakeDocker::new(&fleet.dir.path().join("h9/docker"), 9);
    let mut agent = Agent::new("h9", data, docker);
    agent.start();
    fleet.agents.push(agent);
    fleet.all_report();
}

fn approve(fleet: &Fleet) {
    let request = v1::ApproveHostRequest {
        name: "h9".to_owned(),
    };
    let approved = fleet
        .client
        .block_on(fleet.admin.hosts().approve_host(request));
    approved.expect("an admin may");
}

#[test]
fn who_is_not_let_in_does_not_learn_where_others_are_and_closes_no_address() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.add_agent(2);
    stranger(&mut fleet);
    let told = |agent: usize, address: &str| {
        let list = std::fs::read_to_string(fleet.agents[agent].data.hosts());
        list.is_ok_and(|list| list.contains(&format!("\"{address}\"")))
    };
    wait_for("a host to know where another is", 2 * SOON, || {
        told(0, "192.0.2.2")
    });
    std::thread::sleep(A_MOMENT);
    assert!(
        !fleet.agents[2].data.hosts().exists(),
        "it knows the others"
    );
    assert!(!told(0, "192.0.2.99"), "its address is closed to tenants");
    approve(&fleet);
    wait_for("it to be one of them", 2 * SOON, || {
        told(2, "192.0.2.1") && told(0, "192.0.2.99")
    });
}

/// A host that does not answer is waited for; one that nobody has let in is not.
#[test]
fn who_is_not_let_in_holds_up_no_replacement_of_the_ca() {
    let mut fleet = Fleet::start("");
    stranger(&mut fleet);
    fleet.agents[0].stop();
    let rotate = Order::Rotate {
        ca: true,
        seal: false,
        overlap_s: None,
        yes: false,
    };
    let data = fleet.dir.path().join("coordinator");
    let begun = control::ask(&data, &rotate).expect("the coordinator answers");
    assert!(begun.done, "{}", begun.text);
    wait_for("the new CA to sign", SOON, || {
        let rotation = fleet.coordinator.running().pki.rotation();
        rotation.is_some_and(|rotation| rotation.stage == Stage::Switched)
    });
}

#[test]
fn who_found_a_token_for_any_name_has_a_host_that_gets_nothing() {
    let mut fleet = Fleet::start("");
    operator(&fleet, "prom", v1::Role::Monitor);
    stranger(&mut fleet);
    let refused = fleet.client.block_on(fleet.admin.create("alfa"));
    let refused = refused.expect_err("there is no other host");
    assert!(refused.message().contains("pending"), "{refused}");
    std::thread::sleep(A_MOMENT);
    let agent = &fleet.agents[0];
    let monitors = agent.data.path().join("monitors.json");
    assert!(!agent.data.ledger().exists(), "it has no plan");
    assert!(!monitors.exists(), "it does not know who scrapes the fleet");
    assert!(!fleet.http("/sd/host").contains("192.0.2.99"));
    let request = v1::GetHostRequest {
        name: "h9".to_owned(),
    };
    let shown = fleet.client.block_on(fleet.admin.hosts().get_host(request));
    let shown = shown.expect("it is shown").into_inner();
    assert_eq!(shown.state(), v1::HostState::Pending);
    assert!(
        shown.message.contains("`isyctl host approve h9`"),
        "{}",
        shown.message
    );
    approve(&fleet);
    assert!(kinds(&fleet).contains(&"host.approved".to_owned()));
    wait_for("Prometheus' target", SOON, || {
        fleet.http("/sd/host").contains("192.0.2.99")
    });
    wait_for("the list of scrapers", SOON, || monitors.exists());
    fleet.create("alfa");
}

#[test]
fn a_token_is_of_no_use_elsewhere_or_once_it_was_taken_back() {
    let fleet = Fleet::start("");
    let elsewhere = v1::CreateJoinTokenRequest {
        host: "h9".to_owned(),
        from_networks: vec!["192.0.2.0/24".to_owned()],
        ..Default::default()
    };
    let said = refusal(&fleet, machine(&fleet, elsewhere, "h9", [192, 0, 2, 99]));
    assert!(said.contains("refuses the token"), "{said}");
    let options = machine(&fleet, Default::default(), "h9", [192, 0, 2, 99]);
    let request = v1::RevokeJoinTokenRequest {
        id: options.token.id.clone(),
    };
    let revoked = fleet
        .client
        .block_on(fleet.admin.hosts().revoke_join_token(request));
    revoked.expect("an admin may");
    let said = refusal(&fleet, options);
    assert!(said.contains("refuses the token"), "{said}");
    assert!(kinds(&fleet).contains(&"token.revoked".to_owned()));
    let mut hosts = fleet.admin.hosts();
    let list = hosts.list_join_tokens(v1::ListJoinTokensRequest::default());
    let list = fleet
        .client
        .block_on(list)
        .expect("an admin may")
        .into_inner();
    assert_eq!(list.tokens.len(), 1, "the one that is bound to a network");
    assert_eq!(list.tokens[0].from_networks, ["192.0.2.0/24"]);
}

/// A host gets a certificate for what it advertises, with which it can pass for whoever is reached there.
#[test]
fn no_host_advertises_the_coordinator_or_another_host() {
    let mut fleet = Fleet::start("[advertise]\nhosts = [\"192.0.2.80\", \"localhost\"]\n");
    fleet.add_agent(1);
    let for_h9 = || v1::CreateJoinTokenRequest {
        host: "h9".to_owned(),
        ..Default::default()
    };
    for (advertise, why) in [
        ([127, 0, 0, 1], "loopback"),
        ([192, 0, 2, 80], "the coordinator's own address"),
        ([192, 0, 2, 1], "host `h1`'s address"),
    ] {
        let said = refusal(&fleet, machine(&fleet, for_h9(), "h9", advertise));
        assert!(said.contains(why) && said.contains("--advertise"), "{said}");
    }
    let own = v1::CreateJoinTokenRequest {
        same_machine: true,
        ..for_h9()
    };
    joins(&fleet, machine(&fleet, own, "h9", [192, 0, 2, 80])).expect("an admin said so");
    // The same when it joins anew.
    let mut again = machine(&fleet, for_h9(), "h9", [127, 0, 0, 1]);
    again.rejoin = true;
    let said = refusal(&fleet, again);
    assert!(said.contains("--same-machine"), "{said}");
}

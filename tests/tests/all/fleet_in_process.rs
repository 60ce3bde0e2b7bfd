//! A real coordinator and real agents in one process, over a fake Docker: seeded faults, certificates, identities, an
//! old database, and the Python client. A failing seed is printed; `ISYONE_SEED=n` runs only that one, `ISYONE_SEEDS=n`
//! runs that many.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use isyone_agent::{host::identity::Pems, testing::fake_docker::FakeDocker};
use isyone_coordinator::base::clock;
use isyone_fleet::{change, desired::Certificate, event::EventKind};
use isyone_proto::{
    pb::{
        agent::v1::{RenewRequest, agent_service_client::AgentServiceClient},
        v1,
    },
    tls,
};
use isyone_tests::fleet::{
    Fleet,
    chaos::{self, Shape, Summary},
    node::{Agent, store_of},
    operator::channel,
    wait_for,
};

/// Concurrent runs: they mostly wait.
const AT_ONCE: usize = 4;
/// Timeout, far above any normal wait.
const SOON: Duration = Duration::from_secs(20);

fn seeds() -> Vec<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match number("ISYONE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ISYONE_SEEDS").unwrap_or(AT_ONCE as u64)).collect(),
    }
}

/// Every second run also sees quarantines end; some have many faults.
fn shape(seed: u64) -> Shape {
    let quarantine = if seed.is_multiple_of(2) { "7d" } else { "2s" };
    Shape {
        steps: 160,
        fault_permille: 100 + 75 * (seed as u32 % 4),
        quarantine,
    }
}

#[test]
fn a_fleet_under_faults_keeps_its_word_and_settles() {
    let begin = Instant::now();
    let start = |seed: &u64| {
        let seed = *seed;
        (
            seed,
            std::thread::spawn(move || chaos::run(seed, shape(seed))),
        )
    };
    let mut ended = Vec::new();
    for together in seeds().chunks(AT_ONCE) {
        let runs: Vec<_> = together.iter().map(start).collect();
        ended.extend(runs.into_iter().map(|(seed, run)| (seed, run.join())));
    }
    let failed: Vec<u64> = ended
        .iter()
        .filter(|(_, run)| run.is_err())
        .map(|(seed, _)| *seed)
        .collect();
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed (see above); ISYONE_SEED=n repeats one"
    );
    let done: Vec<Summary> = ended.into_iter().filter_map(|(_, run)| run.ok()).collect();
    println!("{:.1} s: {done:#?}", begin.elapsed().as_secs_f32());
    // The runs must have done something.
    let (acknowledged, faults) = done
        .iter()
        .fold((0, 0), |(a, f), s| (a + s.acknowledged, f + s.faults));
    let runs = u32::try_from(done.len()).expect("a few");
    assert!(
        acknowledged > 15 * runs && faults > 10 * runs,
        "{acknowledged} {faults}"
    );
}

/// Serial number of an identity's certificate, in the form that the fleet's state stores.
fn serial(pems: &Pems) -> String {
    let chain = tls::certificates("certificate", &pems.certificate).expect("a certificate");
    hex(&tls::certificate_info(&chain[0])
        .expect("one of ours")
        .serial)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The agent's identity on disk. Not `Pems::load`, which completes a renewal that a crash interrupted: that is the
/// agent's job.
fn papers(agent: &Agent) -> Pems {
    let read = |name| {
        std::fs::read_to_string(agent.data.identity().join(name)).expect("it has an identity")
    };
    // Read the certificate first: a new one is put in place after its key.
    let certificate = read("certificate.pem");
    Pems {
        key: read("key.pem"),
        certificate,
        ca: read("ca.pem"),
    }
}

/// Registers another certificate of a host with the coordinator.
fn accept(fleet: &Fleet, host: &str, certificate: Certificate) {
    let command = change::Command::RenewHost {
        host: host.parse().expect("a name"),
        certificate,
        in_use: vec![],
        asked_with: None,
    };
    fleet
        .client
        .block_on(fleet.coordinator.running().handle.submit("test", command))
        .expect("it is stored");
}

/// A certificate for an agent, in the second half of its life.
fn aged(fleet: &Fleet, host: &str) -> Pems {
    const LIFE_S: i64 = 3600;
    let pki = &fleet.coordinator.running().pki;
    let (key, csr) = tls::new_key_and_csr(host).expect("a key");
    let made_at = clock::now_seconds() - LIFE_S / 2;
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let issued = pki
        .sign_agent(
            &csr,
            &host.parse().expect("a name"),
            address,
            LIFE_S,
            made_at,
        )
        .expect("it signs");
    accept(fleet, host, issued.record());
    Pems {
        key,
        certificate: issued.pem,
        ca: pki.ca_pem(),
    }
}

#[test]
fn a_certificate_is_renewed_at_half_life_and_the_session_lives_on() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1).stop();
    let old = aged(&fleet, "h1");
    old.store(&fleet.agents[0].data.identity())
        .expect("it is stored");
    fleet.agents[0].start();
    fleet.all_report();
    let session = fleet.agents[0].watch();
    let renewed = wait_for("another certificate", SOON, || {
        Some(papers(&fleet.agents[0])).filter(|now| now.certificate != old.certificate)
    });
    assert!(renewed.key != old.key, "a new certificate has a new key");
    fleet.create("alfa");
    assert!(
        !session.has_changed().expect("the agent runs"),
        "the session was dropped"
    );

    // Register further certificates, which push out the old ones: only the renewed one can open the next session.
    for number in 0..3 {
        let not_after = clock::now_seconds() + 3600;
        accept(
            &fleet,
            "h1",
            Certificate {
                serial: format!("{number:032x}"),
                not_after,
                sha256: String::new(),
                follows: None,
            },
        );
    }
    let state = fleet.coordinator.snapshot();
    let known: Vec<_> = state.fleet.hosts["h1"]
        .certificates
        .iter()
        .map(|c| c.serial.clone())
        .collect();
    assert!(
        known.contains(&serial(&renewed)) && !known.contains(&serial(&old)),
        "{known:?}"
    );
    wait_for("the old certificate's session to be cut", SOON, || {
        session.has_changed().expect("it runs")
    });
    wait_for("a session with the renewed one", SOON, || {
        fleet.agents[0].is_connected()
    });
    fleet.create("beta");
}

#[test]
fn a_removed_host_is_cut_and_its_certificate_refused() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.add_agent(2);
    fleet.all_report();
    let other = fleet.agents[1].watch();
    let request = v1::RemoveHostRequest { name: "h1".into() };
    fleet
        .client
        .block_on(async { fleet.admin.hosts().remove_host(request).await })
        .expect("it is empty");
    wait_for("the session's end", SOON, || {
        !fleet.agents[0].is_connected()
    });
    let pems = papers(&fleet.agents[0]);
    let (_, csr_pem) = tls::new_key_and_csr("h1").expect("a key");
    let refused = fleet.client.block_on(async {
        let channel = channel(
            fleet.coordinator.grpc(),
            &pems.ca,
            &pems.certificate,
            &pems.key,
        );
        AgentServiceClient::new(channel)
            .renew(RenewRequest { csr_pem })
            .await
    });
    assert!(refused.is_err(), "{refused:?}");
    // Its own attempts to reconnect fail as well, and the rest of the fleet does not notice.
    assert_eq!(hand_overs([&fleet.agents[0]], Duration::from_secs(2)), 0);
    assert!(!other.has_changed().expect("it runs"));
    fleet.create("alfa");
    assert_eq!(fleet.agents[1].docker.running().len(), 2);
}

/// How many sessions these agents begin within that time.
fn hand_overs<const N: usize>(agents: [&Agent; N], time: Duration) -> usize {
    let begin = Instant::now();
    let mut connected = agents.map(Agent::is_connected);
    let mut begun = 0;
    while begin.elapsed() < time {
        let now = agents.map(Agent::is_connected);
        begun += now
            .iter()
            .zip(connected)
            .filter(|(now, before)| **now && !before)
            .count();
        connected = now;
        std::thread::sleep(Duration::from_millis(2));
    }
    begun
}

/// Copies a running agent's folder. Temporary files that are about to be renamed may be gone already.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let (source, name) = entry.map(|e| (e.path(), e.file_name())).expect("it reads");
        if source.is_dir() {
            copy(&source, &to.join(name));
        } else if let Err(error) = std::fs::copy(&source, to.join(name)) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{source:?}");
        }
    }
}

#[test]
fn two_agents_with_one_identity_do_not_take_the_session_from_each_other_for_ever() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    let clone = fleet.dir.path().join("clone");
    copy(fleet.agents[0].data.path(), &clone.join("agent"));
    let data = isyone_agent::base::config::DataDir::new(clone.join("agent"));
    let mut second = Agent::new("clone", data, FakeDocker::new(&clone.join("docker"), 2));
    second.start();
    wait_for("the second to have the session", SOON, || {
        second.is_connected() && !fleet.agents[0].is_connected()
    });
    // Pauses of 2–4 s, then 4–8 s, leave room for few sessions.
    let changes = hand_overs([&fleet.agents[0], &second], Duration::from_secs(8));
    assert!(changes <= 4, "{changes} sessions began within 8 s");
    second.stop();
    wait_for(
        "the first to have its host back",
        Duration::from_secs(30),
        || fleet.agents[0].is_connected(),
    );
}

#[test]
fn an_agent_ahead_of_a_restored_database_keeps_its_plan_until_the_incarnation_is_raised() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    fleet.create("alfa");
    let backup = fleet.coordinator.store.contents();
    fleet.create("beta");
    let keys = fleet.agents[0].docker.database_keys("beta");
    let calls = fleet.agents[0].docker.log().len();
    fleet.coordinator.stop();
    fleet.coordinator.store = store_of(backup);
    fleet.coordinator.run();
    fleet.all_report();
    let docker = fleet.agents[0].docker.clone();
    let told = |fleet: &Fleet, kind: EventKind| {
        let state = fleet.coordinator.snapshot();
        state.fleet.events.iter().any(|event| event.kind == kind)
    };
    wait_for("operators to be told", SOON, || {
        told(&fleet, EventKind::HostPlanAhead)
    });
    wait_for("the plan to be refused", SOON, || {
        let state = fleet.coordinator.snapshot();
        let seen = state.observed.hosts.get("h1");
        seen.is_some_and(|host| host.plan_error.contains("raise-incarnation"))
    });
    assert_eq!(docker.running().len(), 4, "everything runs on");

    fleet.coordinator.stop();
    fleet.coordinator.raise_incarnation();
    fleet.coordinator.run();
    fleet.all_report();
    wait_for(
        "the stop of what the old database does not know",
        SOON,
        || docker.running().len() == 2,
    );
    let state = wait_for("the plan to be accepted", SOON, || {
        let state = fleet.coordinator.snapshot();
        let ours = state.fleet.hosts["h1"].plan_generation;
        let accepted = state
            .observed
            .hosts
            .get("h1")
            .is_some_and(|h| h.accepted_generation == ours);
        accepted.then_some(state)
    });
    assert_eq!(state.fleet.hosts["h1"].plan_generation.incarnation(), 1);
    assert!(told(&fleet, EventKind::CoordinatorRebuilt));
    assert_eq!(docker.running(), ["odoo_alfa", "postgres_alfa"]);
    assert!(
        docker.log()[calls..]
            .iter()
            .all(|call| !call.contains("alfa")),
        "alfa was left alone"
    );
    let (containers, _, volumes) = docker.things();
    assert_eq!(
        (containers.len(), volumes.len()),
        (4, 4),
        "beta is stopped and kept"
    );
    assert!(
        keys.is_some() && docker.database_keys("beta") == keys,
        "beta keeps its data"
    );
}

/// An interpreter with gRPC. One named by `ISYONE_PYTHON` must work; otherwise `python3` is used if it does.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("ISYONE_PYTHON")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let modules = "import grpc, grpc_tools, grpc_reflection, tomllib";
    let able = Command::new(&python)
        .args(["-c", modules])
        .output()
        .is_ok_and(|o| o.status.success());
    assert!(
        able || named.is_none(),
        "{} cannot `{modules}`",
        python.display()
    );
    able.then_some(python)
}

/// Runs a Python program to completion; returns its output.
fn printed(command: &mut Command) -> String {
    let output = command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// An admin's context file that a client in another language can use.
fn context_file(fleet: &Fleet) -> PathBuf {
    let path = fleet.dir.path().join("admin.toml");
    let text = std::fs::read_to_string(&path).expect("the context file is there");
    let mut table: toml::Table = text.parse().expect("it is TOML");
    table.insert(
        "endpoint".to_owned(),
        fleet.coordinator.grpc().to_string().into(),
    );
    std::fs::write(&path, table.to_string()).expect("it is written");
    path
}

#[test]
fn python_lists_the_services_and_creates_a_tenant() {
    let Some(python) = python() else {
        println!(
            "skipped: python3 has no grpcio with tools and reflection, and ISYONE_PYTHON names no other"
        );
        return;
    };
    let root = isyone_tests::e2e::root();
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    let context = context_file(&fleet);
    let client = root.join("docs/python-client");

    // Runs the program in the README exactly as it is printed there.
    let readme = std::fs::read_to_string(client.join("README.md")).expect("the README is there");
    let (_, rest) = readme.split_once("<<'EOF'\n").expect("the program begins");
    let (program, _) = rest.split_once("EOF\n").expect("and ends");
    let services = printed(Command::new(&python).arg("-c").arg(program).arg(&context));
    for service in ["Tenant", "Host", "Operation", "Event"] {
        assert!(
            services
                .lines()
                .any(|line| line == format!("isyone.v1.{service}Service")),
            "{services}"
        );
    }

    let stubs = fleet.dir.path().join("stubs");
    std::fs::create_dir(&stubs).expect("a directory");
    let protos = std::fs::read_dir(root.join("proto/isyone/v1")).expect("protos");
    let mut generate = Command::new(&python);
    generate
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(root.join("proto"));
    generate.args(
        ["python_out", "grpc_python_out"].map(|kind| format!("--{kind}={}", stubs.display())),
    );
    printed(generate.args(protos.map(|entry| entry.expect("it reads").path())));
    let mut create = Command::new(&python);
    create
        .arg(client.join("create_tenant.py"))
        .arg(&context)
        .arg("alfa")
        .env("PYTHONPATH", &stubs);
    let text = printed(&mut create);
    assert!(
        text.contains("alfa goes to h1") && text.contains("http://alfa.isy.one admin "),
        "{text}"
    );
    assert_eq!(
        fleet.agents[0].docker.running(),
        ["odoo_alfa", "postgres_alfa"]
    );
}

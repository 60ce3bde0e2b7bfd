//! `isyctl rebalance` as people type it, against a real coordinator whose hosts say what this test wants: moves are made one at a time
//! until hosts count as equal, and what is predicted comes.
//!
//! Not here: which moves are proposed (isyone-fleet), what moving does on hosts (relay, e2e::moves).

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use isyone_coordinator::writer::Handle;
use isyone_fleet::{
    change,
    observed::Hello,
    operation::{MoveStage, Procedure},
    state::State,
    testing::{Bench, resources},
};
use isyone_proto::{
    ids::HostName,
    report::{HostReport, JobReport, JobState},
};
use isyone_tests::fleet::{
    Fleet,
    operator::{Order, Request},
    wait_for,
};

/// Six of them are three quarters of a host of 32 GiB.
const SETTINGS: &str = "[plans.big]\nmemory = \"4GiB\"\ncpu = 0.1\ndisk = \"16MiB\"\n";
const TENANTS: [&str; 6] = ["alfa", "beta", "gama", "delta", "epsilon", "zeta"];

/// A host says that all is as its plans want it, and that what it copies is copied.
fn report(state: &State, host: &HostName) -> HostReport {
    let mut bench = Bench::default();
    bench.state = state.clone();
    let index = state.fleet.by_host.get(host);
    let tenants = index.into_iter().flat_map(|index| &index.tenants);
    let copied = state.fleet.operations.values().filter(|operation| {
        matches!(&operation.procedure, Procedure::Move(relocation)
            if relocation.stage == MoveStage::Copy && relocation.to == *host && !operation.is_over())
    });
    let job = |id| JobReport::new(id, JobState::Done);
    HostReport {
        resources: resources(8, 32, 100),
        docker_error: String::new(),
        tenants: tenants.map(|t| bench.converged_on(t, host)).collect(),
        complete: true,
        jobs: copied.map(|operation| job(operation.id)).collect(),
        condition: Default::default(),
    }
}

/// What a host's agent would say, again and again.
async fn speak_for(handle: Handle, hosts: Vec<HostName>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        for host in &hosts {
            let state = handle.snapshot();
            let hello = Hello {
                peer_port: Some(7483),
                follows: true,
                ..Hello::default()
            };
            let greet = change::Command::Greet {
                host: host.clone(),
                hello,
                accepted_generation: state.fleet.hosts[host].plan_generation,
            };
            let report = change::Command::Report {
                host: host.clone(),
                report: Box::new(report(&state, host)),
            };
            for command in [greet, report] {
                handle.submit("test", command).await.expect("it is taken");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Adds a host that this test speaks for.
fn host(fleet: &mut Fleet, seed: u64) -> HostName {
    let agent = fleet.add_agent(seed);
    agent.stop();
    agent.name.parse().expect("a name")
}

struct Typed {
    context: PathBuf,
    home: PathBuf,
}

impl Typed {
    fn of(fleet: &Fleet) -> Self {
        let (made, home) = (fleet.dir.path().join("admin.toml"), fleet.dir.path());
        let text = std::fs::read_to_string(made).expect("the context that init has made");
        let mut table: toml::Table = text.parse().expect("it is TOML");
        table["endpoint"] = fleet.coordinator.grpc().to_string().into();
        let context = home.join("here.toml");
        write_for_us(&context, &table.to_string());
        Self {
            context,
            home: home.to_owned(),
        }
    }

    fn isyctl(&self, arguments: &[&str]) -> Output {
        let done = Command::new(env!("CARGO_BIN_EXE_isyone-stand-in"))
            .args(["isyctl", "--context"])
            .arg(&self.context)
            .args(arguments)
            .env("HOME", &self.home)
            .output();
        done.expect("it runs")
    }
}

/// With a key in it, so for nobody else.
fn write_for_us(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = file.open(path).expect("a file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("it is written");
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn tenants_on(fleet: &Fleet, host: &HostName) -> usize {
    let state = fleet.coordinator.snapshot();
    let tenants = state.fleet.tenants.values();
    tenants.filter(|t| t.placement.host == *host).count()
}

#[test]
fn tenants_are_moved_one_at_a_time_until_hosts_count_as_equal() {
    let mut fleet = Fleet::start(SETTINGS);
    let h1 = host(&mut fleet, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let handle = || fleet.coordinator.running().handle.clone();
    let alone = speak_for(handle(), vec![h1.clone()], stop.clone());
    let alone = fleet.client.spawn(alone);
    for tenant in TENANTS {
        let request = Request {
            tenant,
            order: Order::Create("big"),
            id: tenant.to_owned(),
        };
        // Its host's first report is on its way yet.
        wait_for("room", Duration::from_secs(20), || {
            let sent = fleet.client.block_on(fleet.admin.send(&request));
            sent.is_ok()
        });
        fleet.runs(tenant);
    }
    stop.store(true, Ordering::Relaxed);
    fleet.client.block_on(alone).expect("it ends");
    let h2 = host(&mut fleet, 2);
    let stop = Arc::new(AtomicBool::new(false));
    let both = vec![h1.clone(), h2.clone()];
    let handle = fleet.coordinator.running().handle.clone();
    let both = fleet.client.spawn(speak_for(handle, both, stop.clone()));
    wait_for("a report of h2", Duration::from_secs(20), || {
        let state = fleet.coordinator.snapshot();
        let seen = state.observed.hosts.get(&h2);
        seen.is_some_and(|seen| seen.reported_at.is_some() && seen.hello.peer_port.is_some())
    });
    let typed = Typed::of(&fleet);

    let proposed = typed.isyctl(&["rebalance"]);
    assert!(proposed.status.success(), "{}", said(&proposed));
    assert!(said(&proposed).contains("nothing was changed"));
    assert_eq!(tenants_on(&fleet, &h2), 0, "{}", said(&proposed));

    let two = typed.isyctl(&["rebalance", "--apply", "--most", "2", "--yes"]);
    assert!(two.status.success(), "{}", said(&two));
    assert!(said(&two).contains("2 tenants moved, as many as were asked for"));
    assert_eq!(tenants_on(&fleet, &h2), 2, "{}", said(&two));

    let rest = typed.isyctl(&["rebalance", "--apply", "--yes"]);
    assert!(rest.status.success(), "{}", said(&rest));
    assert!(said(&rest).contains("nothing to do"), "{}", said(&rest));
    assert_eq!(tenants_on(&fleet, &h2), 3, "{}", said(&rest));
    // What was predicted, and what came.
    for host in [&h1, &h2] {
        let line = format!("{host}  ");
        let text = said(&rest);
        let came = text.lines().rev().find(|text| text.starts_with(&line));
        let words: Vec<&str> = came.expect("a line").split_whitespace().collect();
        assert_eq!(words[2], words[3], "{text}");
    }
    stop.store(true, Ordering::Relaxed);
    fleet.client.block_on(both).expect("it ends");
}

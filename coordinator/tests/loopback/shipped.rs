//! The coordinator's own state at a destination, from real processes: a machine that is lost is rebuilt and everybody goes on; what a
//! kill costs; a destination that is away.
//!
//! Not here: what must hold at each step of a shipment (unit tests of shipping).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use isyone_coordinator::{
    base::{
        config::{Bytes, Config},
        secrets::Sealer,
    },
    init,
    shipping::{
        folder::Folder,
        rebuilt::{self, Rebuilt},
    },
};
use isyone_proto::{
    pb::{
        agent::v1::{Hello, coordinator_message::Message},
        v1::{
            self, operator_service_client::OperatorServiceClient,
            tenant_service_client::TenantServiceClient,
        },
    },
    tls,
};
use tonic::transport::Channel;

use crate::support::{
    Agent, Fixture, admin_context, channel, config, soon, start_in_with, start_with,
};

/// What was committed is there after this time.
const PROMISED: Duration = Duration::from_secs(10);

fn ships_to(config: &mut Config, directory: &Path) {
    config.backup.enabled = true;
    let destinations = &config.backup.destinations;
    let mut destination = destinations.values().next().unwrap().clone();
    (destination.path, destination.reserve) = (directory.to_owned(), Bytes::new(0));
    let name = "nas".parse().unwrap();
    config.backup.destinations = [(name, destination)].into();
}

fn read(data_dir: &Path, destination: &Path) -> Option<Rebuilt> {
    let sealer = Sealer::load(&data_dir.join("seal.key"), None).unwrap();
    let folder = Folder::found(destination).ok()?;
    rebuilt::read(&folder, &sealer, None).ok()
}

/// Waits until everything is there; returns how long that took.
async fn shipped(fixture: &Fixture, destination: &Path) -> Duration {
    let (began, newest) = (Instant::now(), fixture.running.handle.snapshot());
    loop {
        let there = read(&fixture.dir.path().join("data"), destination);
        let there = there.filter(|there| there.fleet.last_event >= newest.fleet.last_event);
        if there.is_some_and(|there| there.fleet.operators == newest.fleet.operators) {
            return began.elapsed();
        }
        assert!(began.elapsed() < 2 * PROMISED, "it is not shipped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_isy-coordinator"))
}

/// Runs `isy-coordinator` with these words; whether it went well, and what it said.
fn run(words: &[&str]) -> (bool, String) {
    let output = program().args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn done(words: &[&str]) -> String {
    let (well, text) = run(words);
    assert!(well, "{words:?}: {text}");
    text
}

/// Somebody with a certificate.
struct Known {
    ca: String,
    certificate: String,
    key: String,
}

impl Known {
    fn channel(&self, fixture: &Fixture) -> Channel {
        channel(&fixture.running, &self.ca, &self.certificate, &self.key)
    }
}

async fn host(fixture: &Fixture, name: &str) -> Known {
    let token = fixture.token(name).await;
    let (key, csr) = tls::new_key_and_csr(name).unwrap();
    let joined = fixture.enroll(&token, name, &csr).await.unwrap();
    Known {
        ca: joined.ca_pem,
        certificate: joined.certificate_pem,
        key,
    }
}

async fn operator(admin: Channel, name: &str) -> Result<Known, tonic::Status> {
    let (key, csr_pem) = tls::new_key_and_csr(name).unwrap();
    let request = v1::CreateOperatorRequest {
        name: name.into(),
        role: v1::Role::Operator.into(),
        csr_pem,
        ttl_days: 1,
    };
    let mut client = OperatorServiceClient::new(admin);
    let made = client.create_operator(request).await?.into_inner();
    Ok(Known {
        ca: made.ca_pem,
        certificate: made.certificate_pem,
        key,
    })
}

async fn tenants(channel: Channel) -> Vec<String> {
    let request = v1::ListTenantsRequest::default();
    let mut client = TenantServiceClient::new(channel);
    let listed = soon(client.list_tenants(request)).await.unwrap();
    let listed = listed.into_inner().tenants.into_iter();
    listed.map(|tenant| tenant.name).collect()
}

fn hello(agent: Option<&Agent>) -> Hello {
    let plan = agent.and_then(|agent| agent.plan.as_ref());
    Hello {
        plan_generation: plan.map_or(0, |plan| plan.generation.get()),
        plan_digest: plan.map(|plan| plan.digest()).unwrap_or_default(),
        makes_backups: true,
        ..Hello::default()
    }
}

/// A new machine with what `restore-keys` and `restore` make of a copy of the destination.
struct NewMachine {
    dir: Arc<tempfile::TempDir>,
    data: String,
    said: String,
}

fn new_machine(old: &Path, destination: &Path) -> NewMachine {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (keys, passphrase, data) = (path("isyone.keys"), path("passphrase"), path("data"));
    fs::write(&passphrase, "correct horse battery staple\n").unwrap();
    let old_data = old.join("data");
    let words = ["--passphrase-file", &passphrase, "--data-dir"];
    let [flag, file, data_flag] = words;
    done(&[
        "backup-keys",
        "--out",
        &keys,
        flag,
        file,
        data_flag,
        old_data.to_str().unwrap(),
    ]);
    let from = destination.to_str().unwrap();
    let (well, text) = run(&["restore", "--from", from, "--data-dir", &data]);
    assert!(!well && text.contains("restore-keys"), "{text}");
    done(&[
        "restore-keys",
        "--from",
        &keys,
        flag,
        file,
        data_flag,
        &data,
    ]);
    let said = done(&["restore", "--from", from, "--data-dir", &data]);
    let (well, text) = run(&["restore", "--from", from, "--data-dir", &data]);
    assert!(!well && text.contains("it is there already"), "{text}");
    // The admin's own, which is on no machine of ours.
    fs::copy(old.join("admin.toml"), dir.path().join("admin.toml")).unwrap();
    NewMachine { dir, data, said }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_lost_is_rebuilt_and_everybody_goes_on() {
    let (nas, lost) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fixture = start_with(|config| ships_to(config, nas.path())).await;
    let h1 = host(&fixture, "h1").await;
    let mut agent = Agent::connect_as(&h1.channel(&fixture), hello(None)).await;
    agent.report(vec![]).await;
    fixture.create("alfa").await;
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    agent
        .plan_that(|plan| plan.tenants[0].backup.is_some())
        .await;
    let ana = operator(fixture.admin.clone(), "ana").await.unwrap();
    let took = shipped(&fixture, nas.path()).await;
    assert!(took < PROMISED, "{took:?}");
    // As it is at this moment; what comes now is lost with the machine.
    copy(nas.path(), lost.path());
    fixture.create("late").await;
    agent.plan_of(&["alfa", "late"]).await;
    let old = fixture.running.handle.snapshot();
    let secrets = old.fleet.tenants["alfa"].secrets.clone();
    let key = old.fleet.backup_keys.values().next().unwrap().clone();
    let old_dir = fixture.dir.clone();
    fixture.running.stop().await;

    let machine = new_machine(old_dir.path(), lost.path());
    assert!(
        machine
            .said
            .contains("1 hosts, 1 tenants, 2 operators; keys of 1"),
        "{}",
        machine.said
    );
    let again = start_in_with(machine.dir.clone(), |config| ships_to(config, lost.path())).await;
    let fleet = again.running.handle.snapshot();
    assert_eq!(fleet.fleet.tenants["alfa"].secrets, secrets);
    assert_eq!(fleet.fleet.backup_keys.get(&key.tenant), Some(&key));
    assert!(again.running.sealer.open_backup_key(&key).is_ok());
    assert_eq!(tenants(again.admin.clone()).await, ["alfa"]);
    assert_eq!(tenants(ana.channel(&again)).await, ["alfa"]);
    // Its host has seen a newer plan: it is let in, and keeps that.
    let mut ahead = Agent::connect_as(&h1.channel(&again), hello(Some(&agent))).await;
    // Whatever the new coordinator orders meanwhile, a backup for one: all that comes is older, and an agent refuses it.
    let newest = agent.plan.as_ref().unwrap().generation.get();
    let older = async {
        while let Ok(Some(message)) = ahead.down.message().await {
            if let Some(Message::Plan(plan)) = message.message {
                assert!(plan.generation < newest, "{} {newest}", plan.generation);
            }
        }
    };
    let lasts = tokio::time::timeout(Duration::from_secs(4), older).await;
    assert!(lasts.is_err(), "the session has ended");
    let events = again.running.handle.snapshot();
    let kinds: Vec<_> = events
        .fleet
        .events
        .iter()
        .map(|event| event.kind.as_str())
        .collect();
    assert!(kinds.contains(&"host.plan_ahead"), "{kinds:?}");
    shipped(&again, lost.path()).await;
    again.running.stop().await;
    // Until somebody says that this state counts.
    done(&["raise-incarnation", "--data-dir", &machine.data]);
    let raised = start_in_with(machine.dir, |config| ships_to(config, lost.path())).await;
    let mut agent = Agent::connect_as(&h1.channel(&raised), hello(Some(&agent))).await;
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    shipped(&raised, lost.path()).await;
    raised.running.stop().await;
}

/// A coordinator in a process of its own, which can be killed.
struct Process {
    child: Child,
    endpoint: String,
}

impl Process {
    fn start(dir: &Path, config: &mut Config) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        config.listen.grpc = free.local_addr().unwrap();
        drop(free);
        let data = dir.join("data");
        fs::write(data.join("coordinator.toml"), config.to_toml()).unwrap();
        let mut run = program();
        run.args(["run", "--log", "warn", "--data-dir"]).arg(data);
        Self {
            child: run.stdout(Stdio::null()).spawn().unwrap(),
            endpoint: config.listen.grpc.to_string(),
        }
    }

    /// The admin's connection, once it answers.
    async fn admin(&self, dir: &Path) -> Channel {
        let context = admin_context(dir);
        let (ca, certificate) = (&context.ca_pem, &context.certificate_pem);
        loop {
            let config = tls::client_config(ca, certificate, &context.key_pem).unwrap();
            let channel = tls::channel(&self.endpoint, Arc::new(ArcSwap::new(config))).unwrap();
            let mut client = TenantServiceClient::new(channel.clone());
            if client
                .list_tenants(v1::ListTenantsRequest::default())
                .await
                .is_ok()
            {
                return channel;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Operators that are there, and the highest number of those that are called `o<number>`.
fn numbers(rebuilt: &Rebuilt) -> Vec<usize> {
    let names = rebuilt.fleet.operators.keys();
    let mut numbers: Vec<usize> = names
        .filter_map(|name| name.as_str().strip_prefix('o')?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_costs_less_than_ten_seconds_and_never_part_of_a_commit() {
    let (dir, nas) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config = config(dir.path());
    ships_to(&mut config, nas.path());
    let admin_file = dir.path().join("admin.toml");
    init::init(&config, &"admin".parse().unwrap(), &admin_file)
        .await
        .unwrap();
    let mut acknowledged: Vec<Instant> = Vec::new();
    // Killed in the middle of its first seconds, and again later.
    for lives in [Duration::from_millis(700), Duration::from_secs(13)] {
        let process = Process::start(dir.path(), &mut config);
        let admin = tokio::time::timeout(PROMISED, process.admin(dir.path()))
            .await
            .unwrap();
        let begin = Instant::now();
        while begin.elapsed() < lives {
            let name = format!("o{}", acknowledged.len());
            operator(admin.clone(), &name).await.unwrap();
            acknowledged.push(Instant::now());
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        let killed = Instant::now();
        drop(process);
        let Some(there) = read(&dir.path().join("data"), nas.path()) else {
            assert!(lives < PROMISED, "nothing is there");
            continue;
        };
        let numbers = numbers(&there);
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "no gap");
        let owed = acknowledged.iter().filter(|at| killed - **at > PROMISED);
        assert!(
            numbers.len() >= owed.count() && there.notes.is_empty(),
            "{:?}",
            there.notes
        );
        assert!(numbers.len() <= acknowledged.len() + 1);
    }
    // Two full copies, and the second process' changes.
    assert!(read(&dir.path().join("data"), nas.path()).unwrap().batches >= 2);
    let machine = new_machine(dir.path(), nas.path());
    let shown = done(&[
        "restore",
        "--list",
        "--from",
        nas.path().to_str().unwrap(),
        "--data-dir",
        &machine.data,
    ]);
    assert_eq!(shown.lines().count(), 3, "{shown}");
    let rebuilt = start_in_with(machine.dir, |_| {}).await;
    let last = rebuilt.running.handle.snapshot();
    let there = read(&dir.path().join("data"), nas.path()).unwrap();
    assert_eq!(last.fleet.operators, there.fleet.operators);
    rebuilt.running.stop().await;
}

/// Seconds that the destination is behind, as Prometheus sees them.
async fn behind(fixture: &Fixture) -> u64 {
    let (_, metrics) = fixture.http("/metrics").await;
    let line = "isyone_state_unshipped_seconds{destination=\"nas\"} ";
    let value = metrics.lines().find_map(|l| l.strip_prefix(line));
    value
        .unwrap_or_else(|| panic!("{metrics}"))
        .parse()
        .unwrap()
}

async fn until_behind(fixture: &Fixture, fits: impl Fn(u64) -> bool) {
    let wait = async {
        while !fits(behind(fixture).await) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(3 * PROMISED, wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_away_is_told_holds_up_nobody_and_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (nas, away) = (place.path().join("nas"), place.path().join("away"));
    fs::create_dir(&nas).unwrap();
    let fixture = start_with(|config| ships_to(config, &nas)).await;
    shipped(&fixture, &nas).await;
    until_behind(&fixture, |seconds| seconds == 0).await;
    let broken: [&dyn Fn(); 2] = [
        &|| fs::rename(&nas, &away).unwrap(),
        // Something is in the way.
        &|| {
            fs::rename(nas.join("coordinator"), place.path().join("aside")).unwrap();
            fs::write(nas.join("coordinator"), "").unwrap();
        },
    ];
    let mended: [&dyn Fn(); 2] = [&|| fs::rename(&away, &nas).unwrap(), &|| {
        fs::remove_file(nas.join("coordinator")).unwrap()
    }];
    for (number, (break_it, mend)) in broken.into_iter().zip(mended).enumerate() {
        break_it();
        let name = format!("o{number}");
        soon(operator(fixture.admin.clone(), &name)).await.unwrap();
        until_behind(&fixture, |seconds| seconds >= 7).await;
        soon(fixture.operator(&format!("p{number}"), v1::Role::Viewer)).await;
        mend();
        shipped(&fixture, &nas).await;
        until_behind(&fixture, |seconds| seconds < 4).await;
    }
    let there: PathBuf = nas.join("coordinator/keys");
    assert!(there.is_file());
    fixture.running.stop().await;
}

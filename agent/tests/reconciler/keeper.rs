//! Who keeps a relay running: the agent, or the service manager; another version, and a relay that is killed.
//!
//! Not here: what happens to visitors meanwhile (relay).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_agent::{
    host::{
        Host,
        relay::{Admin, Keeper, Program, settings, version, version_of},
    },
    relay,
    testing::{fake_docker::FakeDocker, host_plan, tenant_plan},
};
use isyone_relay::{Relay, Settings};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    life::Life,
    relay::{Odoo, data, get, here, place, relayed, until},
};

/// Ends the relay of a directory with its test: one that fails must not leave a process behind, which no other test would end.
struct Ended(PathBuf);

impl Drop for Ended {
    fn drop(&mut self) {
        let Ok(admin) = std::os::unix::net::UnixStream::connect(&self.0) else {
            return;
        };
        // In this process there are relays, too.
        if let Ok(peer) = rustix::net::sockopt::socket_peercred(&admin)
            && peer.pid != rustix::process::getpid()
        {
            let _ = rustix::process::kill_process(peer.pid, rustix::process::Signal::KILL);
        }
    }
}

fn ended(dir: &Path) -> Ended {
    Ended(Admin::new(&data(dir)).path().clone())
}

fn program(dir: &Path) -> Program {
    let data = data(dir);
    let path = PathBuf::from(env!("CARGO_BIN_EXE_isy-agent"));
    Program {
        version: version_of(&path),
        path,
        arguments: vec![
            "relay".to_owned(),
            "--detach".to_owned(),
            format!("--data-dir={}", data.path().display()),
        ],
        log: data.relay().join("relay.log"),
    }
}

/// A plan is in force, which names nobody.
async fn planned(host: &Host) {
    host.relay.adapt(&host_plan(1, vec![]), host.advertise());
    host.relay.publish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_is_there_again_and_outlives_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    let _ended = ended(dir.path());
    let fake = FakeDocker::new(dir.path(), 35);
    let host = Arc::new(relayed(&fake, dir.path()));
    let admin = Admin::new(&data(dir.path()));
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(Keeper::Agent(program(dir.path())).run(host.clone(), stop.clone()));
    let pid = async || admin.health().await.map_or(0, |health| health.pid);
    // Without a plan nobody knows what it would serve, and there may be one of before that does.
    host.relay.publish().await.unwrap();
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!((pid().await, host.board.troubles()), (0, String::new()));
    planned(&host).await;
    until("a relay", async || pid().await != 0).await;
    let first = pid().await;
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    let searches = ["0000000000000000", "0000000000000004"];
    assert!(
        effective.is_some_and(|caps| searches.contains(&caps)),
        "{effective:?}"
    );
    let process = rustix::process::Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    until("another relay", async || ![0, first].contains(&pid().await)).await;
    let second = pid().await;
    stop.cancel();
    keeping.await.unwrap();
    drop(host);
    assert_eq!(pid().await, second, "it outlives the agent");
    assert!(relay::stop(&data(dir.path())).await.unwrap());
    assert!(!relay::stop(&data(dir.path())).await.unwrap(), "none runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_of_another_version_has_a_successor_that_takes_its_ports_over() {
    let dir = tempfile::tempdir().unwrap();
    let _ended = ended(dir.path());
    let fake = FakeDocker::new(dir.path(), 36);
    let mut plan = tenant_plan("alfa");
    let at = place(6, &mut plan);
    fake.put_at("odoo_alfa", at);
    let odoo = Odoo::start(at).await;
    let before = Relay::start(Settings {
        version: "0.0.1".to_owned(),
        ..settings(&data(dir.path()))
    });
    let before = before.await.unwrap();
    let life = Life::begin_on(relayed(&fake, dir.path()), &[plan.clone()]);
    life.converged(&plan).await;
    let slow = tokio::spawn(get(plan.http_port, "/slow"));
    until("the slow request's begin", async || {
        life.host.relay.in_flight(&plan.name).await == Some(1)
    })
    .await;
    let stop = CancellationToken::new();
    let program = program(dir.path());
    let wanted = program.version.clone();
    let keeping = Keeper::Agent(program).run(life.host.clone(), stop.clone());
    let keeping = tokio::spawn(keeping);
    timeout(Duration::from_secs(10), before.handed_over())
        .await
        .unwrap();
    assert_eq!(get(plan.http_port, "/").await.unwrap(), "HTTP/1.1 200 OK");
    odoo.let_go();
    let drained = before.drain(Duration::from_secs(30)).await;
    assert_eq!(drained.cut_off, 0);
    assert_eq!(slow.await.unwrap().unwrap(), "HTTP/1.1 200 OK");
    let health = life.host.relay.admin().health().await.unwrap();
    assert_eq!(health.version, wanted);
    assert_eq!(get(plan.http_port, "/").await.unwrap(), "HTTP/1.1 200 OK");
    stop.cancel();
    keeping.await.unwrap();
    life.end().await;
    assert!(relay::stop(&data(dir.path())).await.unwrap());
}

/// A relay that the service manager is to run, and does not, is on the board; so is one of another version.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_unit_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 37);
    let host = Arc::new(relayed(&fake, dir.path()));
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(Keeper::Unit(version()).run(host.clone(), stop.clone()));
    let says = |what: &'static str| {
        let host = host.clone();
        async move {
            let what = what.to_owned();
            until(&what, async || host.board.troubles().contains(&what)).await;
        }
    };
    says("systemctl start isy-agent-relay").await;
    planned(&host).await;
    let running = here(dir.path()).await;
    until("silence", async || host.board.troubles().is_empty()).await;
    drop(running);
    let other = Relay::start(Settings {
        version: "0.0.1".to_owned(),
        ..settings(&data(dir.path()))
    });
    let _other = other.await.unwrap();
    says("the relay is of version 0.0.1").await;
    stop.cancel();
    keeping.await.unwrap();
}

//! A bridge that holds a tenant's network, made in a network namespace of the test's own: what Docker left is removed, somebody
//! else's is named. The engine is the fake one.
//!
//! Not here: what is in the way (host::links' own tests).

use std::process::Command;

use isyone_agent::testing::{fake_docker::FakeDocker, tenant_plan};
use isyone_proto::report::TenantProgress;

use super::life::{Life, assert_one_running_stack};

/// Says that a test already runs in a network namespace of its own.
const INSIDE: &str = "ISYONE_TEST_OWN_NETWORK";

fn ip(words: &str) -> bool {
    let done = Command::new("ip").args(words.split(' ')).output();
    done.is_ok_and(|output| output.status.success())
}

/// Whether this test runs in a network namespace of its own now. If not, it is run again in one, where that is possible.
fn is_in_its_own_network(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let possible = Command::new("unshare")
        .args(["--net", "ip", "link", "show", "lo"])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("not run: no network namespace can be had here");
        return false;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success());
    false
}

/// Fails where the network is made beside a bridge that gets its packets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_in_the_way_is_removed_if_it_is_dockers_and_named_otherwise() {
    let this = "links::a_bridge_in_the_way_is_removed_if_it_is_dockers_and_named_otherwise";
    if !is_in_its_own_network(this) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (alfa, beta) = (tenant_plan("alfa"), tenant_plan("beta"));
    for (name, plan) in [("br-0123456789ab", &alfa), ("bridge7", &beta)] {
        let gateway = plan.subnet.hosts().next().unwrap();
        assert!(ip(&format!("link add {name} type bridge")));
        assert!(ip(&format!("address add {gateway}/28 dev {name}")));
        assert!(ip(&format!("link set {name} up")));
    }
    let life = Life::begin(&fake, dir.path(), &[alfa.clone(), beta.clone()]);
    life.converged(&alfa).await;
    assert_one_running_stack(&fake, "alfa");
    assert!(!ip("link show br-0123456789ab"), "it is gone");
    let mended = life.host.board.condition().mended;
    assert!(
        mended
            .iter()
            .any(|m| &*m.subject == "bridge" && m.message.contains("br-0123456789ab")),
        "{mended:?}"
    );
    life.wait("the name of the other one", |l| {
        l.status("beta").is_some_and(|s| {
            s.progress == TenantProgress::Failing && s.message.contains("ip link delete bridge7")
        })
    })
    .await;
    assert!(ip("link delete bridge7"));
    life.converged(&beta).await;
    life.end().await;
}

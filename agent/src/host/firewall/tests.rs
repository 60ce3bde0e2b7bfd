//! What the coordinator's address says, that the real `nft` takes what we render, and that what fails is tried again.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;
use crate::{
    base::config::DataDir,
    host::Pace,
    plan::firewall::testing::busy,
    testing::{fake_docker::FakeDocker, host_plan, tenant_plan},
};

#[test]
fn the_coordinator_is_closed_by_the_name_or_address_that_the_agent_calls() {
    let name = |text: &str| Some(text.parse().unwrap());
    for (endpoint, wanted) in [
        ("192.0.2.9:7443", (Some([192, 0, 2, 9].into()), None)),
        ("isy.example.com:7443", (None, name("isy.example.com"))),
        ("coordinator:7443", (None, name("coordinator"))),
        ("[2001:db8::9]:7443", (None, None)),
    ] {
        assert_eq!(control(endpoint), wanted, "{endpoint}");
    }
}

/// Only checks, so it changes nothing on the machine that runs it.
#[tokio::test]
async fn nft_takes_what_we_render() {
    let (plan, around) = busy();
    let (rules, limits) = (render(&plan, &around), render_limits(&plan, &around));
    for text in [&rules, &limits, &format!("{rules}{limits}")] {
        match Nft::default().check(text).await {
            Ok(()) => {}
            Err(FirewallError::Missing(e)) => println!("not run, there is no nft here: {e}"),
            Err(FirewallError::Refused(e)) if e.contains("not permitted") => {
                println!("not run, nft is not permitted here: {e}");
            }
            Err(e) => panic!("{e}\n{text}"),
        }
    }
}

/// Takes everything, but no limits while there is a file `refuse`; counts what it is given to load.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
rules=$(cat)
case "$1 $rules" in *isyone_limits*)
    [ "$1" = -f ] && echo tried >> tries
    [ -e refuse ] && { echo 'Error: Could not process rule' >&2; exit 1; };;
esac
exit 0
"#;

struct Bench {
    dir: tempfile::TempDir,
    host: Arc<Host>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    /// An agent's filter over a program of ours; `before` lays out what it finds.
    fn start(before: impl FnOnce(&Path, &Host)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("nft");
        fs::write(&program, SCRIPT).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        Self::over(dir, Nft::at(program), before)
    }

    fn over(dir: tempfile::TempDir, nft: Nft, before: impl FnOnce(&Path, &Host)) -> Self {
        let data = DataDir::new(dir.path().join("agent"));
        data.create().unwrap();
        let docker = FakeDocker::new(dir.path(), 1);
        let address = [127, 0, 0, 1].into();
        let host = Host::new(docker.clone(), docker, data, address, Pace::hasty());
        let host = Arc::new(host.unwrap());
        before(dir.path(), &host);
        let ms = Duration::from_millis;
        let applier = Applier {
            nft,
            pauses: Pauses {
                first: ms(5),
                most: ms(40),
            },
            ..Applier::default()
        };
        let plan = Arc::new(host_plan(1, vec![tenant_plan("alfa")]));
        let plans = watch::channel(InForce {
            plan: Some(plan),
            stale: Vec::new(),
            unasked: false,
        });
        let hosts = watch::channel(BTreeSet::new());
        let stop = CancellationToken::new();
        let (running, stopping) = (host.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let sources = Sources {
                host: running,
                plans: plans.1,
                hosts: hosts.1,
                endpoint: "192.0.2.9:7443".to_owned(),
            };
            applier.run(sources, stopping).await;
            drop((plans.0, hosts.0));
        });
        Self {
            dir,
            host,
            stop,
            task,
        }
    }

    async fn wait(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..2_000 {
            if condition() {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "{what} never came; troubles: {:?}",
            self.host.board.troubles()
        );
    }

    /// How often limits were to be put in force.
    fn tries(&self) -> usize {
        let tries = fs::read_to_string(self.dir.path().join("tries"));
        tries.unwrap_or_default().lines().count()
    }

    fn saved(&self) -> String {
        fs::read_to_string(self.host.data.path().join(RULES_FILE)).unwrap_or_default()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Fails where limits that were refused once are off until the plan changes.
#[tokio::test]
async fn limits_that_are_refused_are_tried_until_they_are_in_force_and_shown_until_then() {
    let bench = Bench::start(|dir, _| fs::write(dir.join("refuse"), "").unwrap());
    let troubles = || bench.host.board.troubles();
    bench
        .wait("the trouble", || troubles().contains("are not limited"))
        .await;
    bench
        .wait("isolation all the same", || {
            *bench.host.gate.borrow() == Gate::Open
        })
        .await;
    bench.wait("more tries", || bench.tries() > 4).await;
    assert!(troubles().contains("are not limited"), "{}", troubles());
    bench
        .wait("isolation for the next boot", || {
            bench.saved().contains("table inet isyone ")
        })
        .await;
    assert!(!bench.saved().contains(LIMITS_TABLE));
    fs::remove_file(bench.dir.path().join("refuse")).unwrap();
    bench.wait("the all-clear", || troubles().is_empty()).await;
    bench
        .wait("limits for the next boot", || {
            bench.saved().contains(LIMITS_TABLE)
        })
        .await;
    let tries = bench.tries();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.tries(), tries, "what is in force is left");
    bench.end().await;
}

/// Fails where rules that could not be saved are saved with the next plan only.
#[tokio::test]
async fn rules_for_the_next_boot_are_saved_once_that_can_be_done() {
    let bench = Bench::start(|_, host| {
        fs::create_dir(host.data.path().join(RULES_FILE)).unwrap();
    });
    bench.wait("the limits", || bench.tries() > 0).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(
        bench.host.board.troubles(),
        "",
        "what is in force is as it should be"
    );
    fs::remove_dir(bench.host.data.path().join(RULES_FILE)).unwrap();
    let saved = || bench.saved().contains(LIMITS_TABLE);
    bench.wait("what the next boot begins with", saved).await;
    bench.end().await;
}

/// Says that a test already runs in a network namespace of its own.
const INSIDE: &str = "ISYONE_TEST_OWN_NETWORK";

/// Runs a program; whether it succeeded, and what it wrote.
fn ran(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Whether this test runs in a network namespace of its own now. If not, it is run again in one, where that is possible.
fn is_in_its_own_network(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let possible = std::process::Command::new("unshare")
        .args(["--net", "nft", "list", "tables"])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("not run: no network namespace with nft can be had here");
        return false;
    }
    let program = std::env::current_exe().unwrap();
    let status = std::process::Command::new("unshare")
        .arg("--net")
        .arg(program)
        .args(["--exact", "--nocapture", test])
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success());
    false
}

/// With the kernel's own filter. Fails where a flushed table is only found by looking, every 30 s: for so long tenants reach each other.
#[tokio::test]
async fn what_others_flush_or_change_is_back_within_a_second_and_told_once() {
    let this = "what_others_flush_or_change_is_back_within_a_second_and_told_once";
    if !is_in_its_own_network(&format!("host::firewall::tests::{this}")) {
        return;
    }
    let bench = Bench::over(tempfile::tempdir().unwrap(), Nft::default(), |_, _| {});
    let open = || *bench.host.gate.borrow() == Gate::Open;
    bench.wait("the filter", open).await;
    bench
        .wait("what the next boot begins with", || {
            !bench.saved().is_empty()
        })
        .await;
    let told = || bench.host.board.condition().mended;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(told(), [], "its own changes are no news");
    // One by one: which comes first changes.
    let both = || {
        [TABLE, LIMITS_TABLE]
            .map(|table| ran("nft", &["--stateless", "list", "table", "inet", table]).1)
            .concat()
    };
    let whole = both();
    assert!(whole.contains("goto from_tenant") && whole.contains(LIMITS_TABLE));
    for change in [
        "flush ruleset",
        "delete table inet isyone",
        "flush table inet isyone",
        "flush chain inet isyone prerouting",
        "insert rule inet isyone prerouting accept",
        "delete table inet isyone_limits",
        "flush chain inet isyone_limits prerouting",
    ] {
        let before = told();
        let words: Vec<&str> = change.split(' ').collect();
        assert!(ran("nft", &words).0, "{change}");
        let since = Instant::now();
        while both() != whole {
            assert!(since.elapsed() < Duration::from_secs(1), "{change}");
            sleep(Duration::from_millis(10)).await;
        }
        println!("{change}: back after {:?}", since.elapsed());
        if change.ends_with("isyone_limits") || change.contains("isyone_limits ") {
            continue;
        }
        bench.wait("the news", || told() != before).await;
        let [news] = &told()[..] else {
            panic!("{:?}", told());
        };
        assert!(
            &*news.subject == FILTER && news.message.contains("by nft (process "),
            "{news:?}"
        );
    }
    let before = told();
    assert!(ran("nft", &["add", "table", "ip", "somebodys"]).0);
    assert!(ran("nft", &["delete", "table", "ip", "somebodys"]).0);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(told(), before, "what others do with theirs is no news");
    bench.end().await;
}

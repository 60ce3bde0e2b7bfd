//! A host dies under load: its tenant goes on where its standby is, with its writes but for the last moment's. When the host comes back,
//! it starts nothing of it, and what it has is listed, and deleted on order. The commands of docs/runbooks/HostLost.md, typed.
//!
//! The machine of the test has not started anew, so that the host is told that it has. Not here: going over to a standby as planned
//! (live_moves), every order of events (the simulation).

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    alone, binary,
    cell::{Cell, hosts},
    enabled,
    odoo::User,
    process::run,
    wait_for,
};

use super::live_moves::{Load, answers, cell, lag, sql};

const MINUTE: Duration = Duration::from_secs(60);
/// What twenty writes a second may lose: those of a second.
const MOST_LOST: usize = 20;
/// From the decision to an answer, on a machine that does other things as well: by itself it takes 1 to 2 s.
const MOST_AWAY: Duration = Duration::from_secs(15);

#[test]
fn a_host_dies_and_its_tenant_goes_on_from_its_standby_and_nowhere_twice() {
    if !enabled("a_host_dies_and_its_tenant_goes_on_from_its_standby_and_nowhere_twice") {
        return;
    }
    let _alone = alone();
    let mut cell = cell();
    let user = User::admin(&cell, "alfa");
    cell.isyctl(&["tenant", "standby", "add", "alfa"]).ok();
    wait_for("the standby", 2 * MINUTE, || lag(&cell));
    let load = Load::start(&user);
    thread::sleep(Duration::from_secs(5));
    let died = Instant::now();
    power_off(&mut cell);
    let early = cell.isyctl(&["host", "failover", "h1", "--is-down"]);
    assert!(early.stderr.contains("not lost"), "{}", early.stderr);
    cell.wait_host("h1", "lost");
    let told = cell.isyctl(&["host", "failover", "h1"]);
    println!("{}{}", told.stdout, told.stderr);
    assert!(told.ok().contains("was last heard"));
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], "h1");
    let decided = Instant::now();
    let done = cell.isyctl(&["host", "failover", "h1", "--is-down"]);
    answers(&cell);
    let away = decided.elapsed();
    println!(
        "{}{}serves {away:?} after the decision, {:?} after the loss",
        done.stdout,
        done.stderr,
        died.elapsed()
    );
    assert_eq!(done.code, 0);
    assert!(away <= MOST_AWAY, "{away:?}");
    thread::sleep(Duration::from_secs(2));
    let seen = load.end();
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], "h2");
    count_lost(&cell, &seen.acknowledged);
    it_comes_back(&mut cell);
}

/// Everything of h1 ends at once.
pub(super) fn power_off(cell: &mut Cell) {
    let host = &mut cell.hosts[0];
    // First the way to the standby, then what runs.
    host.agent = None;
    let mut relay = Command::new(binary("isy-agent"));
    run(relay
        .args(["relay", "--stop", "--data-dir"])
        .arg(&host.data));
    hosts(&["stop", &host.name]).ok();
}

fn count_lost(cell: &Cell, acknowledged: &[String]) {
    let query = "select name from res_partner where name like 'moved-%' order by name";
    let names = sql(cell, query);
    let mut stored: Vec<&str> = names.lines().collect();
    let count = stored.len();
    stored.sort_unstable();
    stored.dedup();
    assert_eq!(stored.len(), count, "nothing was done twice");
    let is_lost = |name: &&String| stored.binary_search(&name.as_str()).is_err();
    let lost: Vec<&String> = acknowledged.iter().filter(is_lost).collect();
    println!(
        "{} of {} writes are lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
    assert!(lost.len() <= MOST_LOST && acknowledged.len() > 50);
}

/// Names of alfa's containers that run on h1.
fn running(cell: &Cell) -> String {
    let listed = cell.hosts[0].docker.run(&["ps", "--format", "{{.Names}}"]);
    let names = listed.stdout.lines().filter(|name| name.ends_with("_alfa"));
    names.collect::<Vec<_>>().join(" ")
}

fn it_comes_back(cell: &mut Cell) {
    // As after a boot: what this machine was told before does not count.
    let told = cell.hosts[0].data.join("answered");
    std::fs::remove_file(&told).expect("it was told that its plan holds");
    hosts(&["start", "h1"]).ok();
    thread::sleep(Duration::from_secs(5));
    assert_eq!(running(cell), "", "Docker starts nothing of it by itself");
    cell.start_agent(0, &[("ISYONE_AGENT_LIVE_MOVES", "true")]);
    let cell = &*cell;
    let fenced = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !fenced.load(Ordering::Relaxed) {
                assert_eq!(running(cell), "", "a second copy runs");
                thread::sleep(Duration::from_millis(20));
            }
        });
        wait_for("h1 to say that it keeps its copy", MINUTE, || {
            let orphans = cell.json(&["host", "orphans", "h1"]);
            (orphans[0]["confirmed"] == true && orphans[0]["tenant"] == "alfa").then_some(())
        });
        fenced.store(true, Ordering::Relaxed);
        watch.join().expect("nothing ran");
    });
    println!("{}", cell.isyctl(&["host", "orphans", "h1"]).ok());
    cell.isyctl(&["host", "orphans", "h1", "--delete", "alfa", "--yes"])
        .ok();
    wait_for("it to be gone", MINUTE, || {
        let orphans = cell.json(&["host", "orphans", "h1"]);
        orphans.as_array()?.is_empty().then_some(())
    });
}

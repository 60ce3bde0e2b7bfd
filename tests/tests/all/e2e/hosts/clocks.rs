//! Clocks of agents and of the coordinator that are far off for a while, and then right again, on the hosts of set_up.
//!
//! Not here: the clocks (`isyone_tests::e2e::faketime`), what else is done to those hosts (set_up).

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    cell::Cell,
    faketime::{BACK, Clock, FORWARD},
    faults::{start_agent_by, start_coordinator_by},
    process::run,
    wait_for,
};

use super::{
    MINUTE,
    set_up::{DELETED, MAPPED, OTHERWISE, TENANTS, containers, page},
    shown, told,
};

/// So long clocks are off: many looks of everybody's.
const OFF: Duration = Duration::from_secs(12);

/// Line 13: clocks of agents and of the coordinator are far off for a while, and then right again.
pub(super) fn are_off(cell: &mut Cell) {
    let clock = |name: &str| Clock::new(&cell.dir.path().join(name));
    let (Some(first), Some(second), Some(own)) = (clock("c1"), clock("c2"), clock("c0")) else {
        panic!("13: there is no libfaketime (`cargo xtask setup` installs it): not shown");
    };
    for (index, clock) in [(OTHERWISE, &first), (MAPPED, &second)] {
        cell.end_agent(index);
        start_agent_by(cell, index, clock);
    }
    cell.coordinator = None;
    start_coordinator_by(cell, &own);
    all_are_ready(cell);
    let before: Vec<_> = (0..TENANTS.len()).map(|i| containers(cell, i)).collect();
    first.set(FORWARD);
    second.set(BACK);
    // Sessions that are open would hide much.
    cell.coordinator = None;
    start_coordinator_by(cell, &own);
    served_throughout(cell);
    first.set("+0d");
    second.set("+0d");
    let since = Instant::now();
    all_are_ready(cell);
    println!("13: agents back within {:?}", since.elapsed());
    for off in [FORWARD, BACK] {
        own.set(off);
        served_throughout(cell);
    }
    own.set("+0d");
    let since = Instant::now();
    all_are_ready(cell);
    println!(
        "13: the coordinator's: all ready within {:?}",
        since.elapsed()
    );
    certificates_make_sense(cell);
    let after: Vec<_> = (0..TENANTS.len()).map(|i| containers(cell, i)).collect();
    assert_eq!(after, before, "nobody was stopped or made anew");
    let homes = cell.hosts[OTHERWISE].docker_data().join("isyone/tenants");
    assert!(homes.join(DELETED).is_dir(), "a quarantine was ended");
    assert_eq!(shown(cell, "tenant", DELETED, "phase"), "quarantined");
    assert!(told(cell, "tenant.asleep").is_empty());
}

fn served_throughout(cell: &Cell) {
    let until = Instant::now() + OFF;
    while Instant::now() < until {
        for tenant in TENANTS {
            assert_eq!(page(cell, tenant), 200, "{tenant}");
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// A certificate that begins in the future is replaced once the clock is right: until then nobody is answered.
fn all_are_ready(cell: &Cell) {
    wait_for("the coordinator to be asked", MINUTE, || {
        (cell.isyctl(&["host", "list"]).code == 0).then_some(())
    });
    for host in &cell.hosts {
        cell.wait_host(&host.name, "ready");
    }
    for tenant in TENANTS {
        cell.wait_phase(tenant, "running", MINUTE);
        wait_for("its page", MINUTE, || {
            (page(cell, tenant) == 200).then_some(())
        });
    }
}

/// Each host's ends within a day and some hours; the coordinator's is valid, or nobody would be answered.
fn certificates_make_sense(cell: &Cell) {
    for host in &cell.hosts {
        let certificate = host.data.join("identity/certificate.pem");
        let check = |more: &[&str]| {
            let mut openssl = Command::new("openssl");
            openssl.args(["x509", "-noout", "-in"]).arg(&certificate);
            run(openssl.args(more)).code == 0
        };
        wait_for("a certificate of today", MINUTE, || {
            (check(&["-checkend", "3600"]) && !check(&["-checkend", "100000"])).then_some(())
        });
    }
}

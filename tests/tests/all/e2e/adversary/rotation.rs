//! The CA and the sealing key are replaced under real hosts and tenants; backups of the coordinator, and one restored.
//!
//! Not here: what thieves of the old ones can do, and crashes on the way (`adversary::rotation`, the coordinator's own tests).

use std::{path::PathBuf, process::Command, time::Duration};

use isyone_tests::e2e::{
    beside, binary,
    cell::{Cell, STANDIN, Shape},
    enabled,
    process::{Output, run},
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
const TENANTS: [&str; 6] = ["alfa", "beta", "gama", "delta", "echo", "fox"];
const THREE: Shape = Shape {
    hosts: 3,
    edition: STANDIN,
    config: "---[plans.small]\nmemory=\"128MiB\"\ncpu=1.0\ndisk=\"64MiB\"\nworkers=2\n",
    ..Shape::DEFAULT
};

fn path(cell: &Cell, name: &str) -> PathBuf {
    cell.dir.path().join(name)
}

/// `isy-coordinator …` on the cell's data directory.
fn coordinator(cell: &Cell, args: &[&str]) -> Output {
    let mut command = Command::new(binary("isy-coordinator"));
    command.args(args);
    run(command.arg("--data-dir").arg(path(cell, "coordinator")))
}

/// When each tenant's containers were last started.
fn starts(cell: &Cell) -> Vec<String> {
    let of = |host: &isyone_tests::e2e::cell::Host| {
        let names = host.docker.tenants_containers();
        let started = |name: String| format!("{name} {}", host.docker.started_at(&name));
        names.into_iter().map(started).collect::<Vec<_>>()
    };
    cell.hosts.iter().flat_map(of).collect()
}

/// Says what keeps a wait waiting, for whoever reads why it gave up.
#[derive(Default)]
struct Told(String);

impl Told {
    fn tell(&mut self, text: &str) {
        if self.0 != text {
            println!("{text}");
            text.clone_into(&mut self.0);
        }
    }
}

#[test]
fn ca_and_sealing_key_are_replaced_under_real_hosts_and_tenants() {
    if !enabled("ca_and_sealing_key_are_replaced_under_real_hosts_and_tenants") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&THREE);
    for tenant in TENANTS {
        cell.isyctl(&["tenant", "create", tenant]).ok();
    }
    let before = starts(&cell);
    // Six creates at once may keep a slow machine's agents from reporting: that is not what is looked at.
    let events = cell.json(&["events", "--tail", "1"]);
    let begun = events[0]["sequence"].as_str().map(str::to_owned);
    let begun = begun.unwrap_or_else(|| events[0]["sequence"].to_string());
    // The same context on another machine; the copy is as private as the original.
    std::fs::copy(path(&cell, "admin.toml"), path(&cell, "other.toml")).expect("a copy");
    let said = coordinator(&cell, &["pki", "rotate"]).ok();
    assert!(said.contains("being replaced"), "{said}");
    let mut told = Told::default();
    wait_for("the new CA to sign", MINUTE, || {
        let status = coordinator(&cell, &["pki", "status"]).ok();
        told.tell(&status);
        status.contains("the new one signs").then_some(())
    });
    let followed = cell.isyctl(&["tenant", "list"]);
    assert!(
        followed.stderr.contains("certificate of the new one"),
        "{}",
        followed.stderr
    );
    cell.isyctl_as("other.toml", &["tenant", "list"]).ok();
    // A renewal that fails is tried again after 5 to 20 s, and one that hangs is given up after 30 s.
    wait_for("the old CA to be forgotten", 2 * MINUTE, || {
        let said = coordinator(&cell, &["pki", "retire"]);
        told.tell(&said.stderr);
        (said.code == 0).then_some(())
    });
    cell.isyctl(&["tenant", "list"]).ok();
    cell.isyctl_as("other.toml", &["tenant", "list"]).ok();
    for host in ["h1", "h2", "h3"] {
        cell.wait_host(host, "ready");
    }
    assert_eq!(starts(&cell), before, "no tenant was restarted");
    let events = cell.isyctl(&["events", "--after", &begun]).ok();
    assert!(
        !events.contains("host.suspect") && !events.contains("host.lost"),
        "{events}"
    );

    let next = path(&cell, "coordinator").join("seal.next.key");
    wait_for("the old sealing key to be removed", 4 * MINUTE, || {
        (!next.exists()).then_some(())
    });
    cell.coordinator.as_mut().expect("it runs").kill();
    cell.start_coordinator();
    cell.isyctl(&["tenant", "credentials", "alfa"]).ok();
    backed_up(&cell);
    // A move is refused while a host has not reported since the start.
    for host in ["h1", "h2", "h3"] {
        cell.wait_host(host, "ready");
    }
    // Hosts believe each other, too.
    let tenant = cell.json(&["tenant", "show", "alfa"]);
    let to = if tenant["host"] == "h1" { "h2" } else { "h1" };
    cell.isyctl(&["tenant", "move", "alfa", "--to", to, "--yes"])
        .ok();
}

/// The database without a key, the keys by their passphrase alone, and both back.
fn backed_up(cell: &Cell) {
    let (copy, keys) = (path(cell, "copy.db"), path(cell, "keys"));
    let (passphrase, restored) = (path(cell, "passphrase"), path(cell, "restored"));
    std::fs::write(&passphrase, "correct horse battery staple\n").expect("a file");
    let text = |path: &std::path::Path| path.display().to_string();
    coordinator(cell, &["backup", "--out", &text(&copy)]).ok();
    let again = coordinator(cell, &["backup", "--out", &text(&copy)]);
    assert!(
        again.code != 0 && again.stderr.contains("there already"),
        "{}",
        again.stderr
    );
    let by = text(&passphrase);
    let save = [
        "backup-keys",
        "--out",
        &text(&keys),
        "--passphrase-file",
        &by,
    ];
    coordinator(cell, &save).ok();
    let mut restore = Command::new(binary("isy-coordinator"));
    restore.args([
        "restore-keys",
        "--from",
        &text(&keys),
        "--passphrase-file",
        &by,
    ]);
    run(restore.arg("--data-dir").arg(&restored)).ok();
    for key in ["seal.key", "pki/ca.key", "pki/ca.pem"] {
        let read = |dir: &str| std::fs::read(path(cell, dir).join(key)).expect("it is there");
        assert_eq!(read("coordinator"), read("restored"), "{key}");
    }
    std::fs::copy(&copy, restored.join("isyone.db")).expect("the database");
    let mut raise = Command::new(binary("isy-coordinator"));
    raise.args(["raise-incarnation", "--data-dir"]);
    let raised = run(raise.arg(&restored)).ok();
    assert!(raised.contains("hosts           3"), "{raised}");
}

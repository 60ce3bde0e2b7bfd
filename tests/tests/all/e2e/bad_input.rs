//! Bad input: a clear error, the right exit code, and nothing left half done.

use std::{process::Command, time::Duration};

use isyone_tests::e2e::{
    beside, binary,
    cell::{Cell, STANDIN, Shape},
    enabled,
    process::run,
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn bad_input_gets_a_clear_error_and_leaves_nothing() {
    if !enabled("bad_input_gets_a_clear_error_and_leaves_nothing") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        edition: STANDIN,
        config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.1\ndisk=\"16MiB\"\nworkers=0\n[plans.giant]\nmemory=\"4TiB\"\ncpu=1.0\ndisk=\"16MiB\"\nworkers=0\n",
        ..Shape::default()
    });
    names(&cell);
    no_host_fits(&cell);
    unknown_image(&cell);
    tokens(&cell);
    roles(&cell);
    docker_down_is_said(&mut cell);
    a_full_disk_is_said_and_survived(&mut cell);
}

fn names(cell: &Cell) {
    for name in [
        "www",
        "Alfa",
        "a_b",
        "-a",
        "a-",
        "a.b",
        "a;reboot",
        "$(id)",
        "a'--",
        "{{a}}",
        "1a",
        &"a".repeat(33),
    ] {
        let out = cell.isyctl(&["tenant", "create", "--no-wait", "--", name]);
        assert!(matches!(out.code, 1 | 2), "{name}: {}", out.code);
        assert!(
            out.stderr.starts_with("error:") && out.stderr.to_lowercase().contains("name"),
            "{name}: {}",
            out.stderr
        );
    }
    let out = cell.isyctl(&[
        "tenant",
        "create",
        "alfa",
        "--domain",
        "Bad Domain",
        "--no-wait",
    ]);
    assert!(
        out.code != 0 && out.stderr.contains("--domain"),
        "{}",
        out.stderr
    );
    let out = cell.isyctl(&["tenant", "create", "alfa", "--plan", "nope", "--no-wait"]);
    assert!(
        out.code != 0 && out.stderr.contains("plan") && out.stderr.contains("small"),
        "{}",
        out.stderr
    );
    assert_eq!(cell.isyctl(&["tenant", "show", "alfa"]).code, 3);
    assert_eq!(
        cell.json(&["tenant", "list"]).as_array().map(Vec::len),
        Some(0)
    );
}

fn no_host_fits(cell: &Cell) {
    let out = cell.isyctl(&["tenant", "create", "alfa", "--plan", "giant"]);
    assert_eq!(out.code, 1);
    assert!(
        out.stderr.contains("h1") && out.stderr.contains("memory: needs 4194304 MiB"),
        "{}",
        out.stderr
    );
    assert_eq!(
        cell.isyctl(&["tenant", "show", "alfa"]).code,
        3,
        "nothing is stored"
    );
}

fn unknown_image(cell: &Cell) {
    cell.isyctl(&[
        "tenant",
        "create",
        "alfa",
        "--odoo-image",
        "isyone/no-such-image:9",
        "--no-wait",
    ])
    .ok();
    // One look: during the next try it is *creating* again.
    let shown = wait_for("it to fail", MINUTE, || {
        let shown = cell.json(&["tenant", "show", "alfa"]);
        (shown["phase"] == "failing").then_some(shown)
    });
    assert!(
        shown["message"]
            .as_str()
            .expect("text")
            .contains("isyone/no-such-image:9"),
        "{shown}"
    );
    let way_out = "`isyctl op cancel`";
    assert!(
        shown["message"]
            .as_str()
            .is_some_and(|m| m.contains(way_out)),
        "{shown}"
    );
    // Between two tries: during one it is running, and asking a registry that cannot be reached takes its time.
    let id = shown["operation_id"].as_str().expect("an id");
    let operation = wait_for("the operation to wait for its next try", MINUTE, || {
        let operation = cell.json(&["op", "show", id]);
        (operation["state"] == "retrying").then_some(operation)
    });
    assert!(
        operation["error"]
            .as_str()
            .expect("text")
            .contains("no-such-image"),
        "{operation}"
    );
    cell.isyctl(&["op", "cancel", id]).ok();
    wait_for("alfa to be gone", MINUTE, || {
        (cell.isyctl(&["tenant", "show", "alfa"]).code == 3).then_some(())
    });
    assert!(cell.hosts[0].docker.tenants_containers().is_empty());
}

fn tokens(cell: &Cell) {
    let token = cell.json(&["host", "token"])["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let [_, enroll] = cell.coordinator_ports();
    let join = |token: &str, data: &str| {
        let mut command = Command::new(binary("isy-agent"));
        command.args([
            "join",
            "--coordinator",
            &format!("127.0.0.1:{enroll}"),
            "--name",
            data,
            "--advertise",
            "198.51.100.9",
        ]);
        run(command
            .env("ISYONE_TOKEN", token)
            .args(["--token", token])
            .arg("--data-dir")
            .arg(cell.dir.path().join(data)))
    };
    let first = join(&token, "h8");
    assert_eq!(first.code, 0, "{}", first.stderr);
    let second = join(&token, "h9");
    assert!(
        second.code != 0 && second.stderr.contains("token"),
        "{}",
        second.stderr
    );
    let mut wrong = token.clone();
    wrong.replace_range(25..26, if &token[25..26] == "0" { "1" } else { "0" });
    assert_ne!(join(&wrong, "h10").code, 0);
    // A token with another CA's pin: the agent must not even send it.
    let mut foreign = token.clone();
    let last = token.len() - 1;
    foreign.replace_range(last.., if token.ends_with('0') { "1" } else { "0" });
    let refused = join(&foreign, "h11");
    assert!(refused.code != 0, "{}", refused.stderr);
    let expiring = cell.json(&["host", "token", "--ttl", "1s"])["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    std::thread::sleep(Duration::from_secs(2));
    let expired = join(&expiring, "h12");
    assert!(
        expired.code != 0 && expired.stderr.contains("token"),
        "{}",
        expired.stderr
    );
    cell.isyctl(&["host", "remove", "h8", "--yes"]).ok();
}

fn roles(cell: &Cell) {
    let file = |name: &str| {
        cell.dir
            .path()
            .join(format!("{name}.toml"))
            .display()
            .to_string()
    };
    for (name, role) in [("vera", "viewer"), ("otto", "operator")] {
        cell.isyctl(&[
            "operator",
            "create",
            name,
            "--role",
            role,
            "--out",
            &file(name),
        ])
        .ok();
    }
    cell.isyctl_as("vera.toml", &["tenant", "list"]).ok();
    assert_eq!(
        cell.isyctl_as("vera.toml", &["tenant", "create", "beta", "--no-wait"])
            .code,
        4
    );
    assert_eq!(cell.isyctl_as("otto.toml", &["host", "token"]).code, 4);
    cell.isyctl_as("otto.toml", &["tenant", "create", "beta", "--no-wait"])
        .ok();
    // Revocation cuts open streams and refuses new ones.
    let mut follow = Command::new(binary("isyctl"));
    follow
        .arg("--context")
        .arg(cell.dir.path().join("otto.toml"))
        .args(["events", "-f"]);
    let mut follow = follow
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("isyctl");
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        follow.try_wait().expect("status").is_none(),
        "the stream is open"
    );
    cell.isyctl(&["operator", "revoke", "otto", "--yes"]).ok();
    wait_for("the revoked operator's stream to end", MINUTE, || {
        follow.try_wait().expect("status")
    });
    let refused = cell.isyctl_as("otto.toml", &["tenant", "list"]);
    assert!(
        matches!(refused.code, 4 | 5),
        "{} {}",
        refused.code,
        refused.stderr
    );
    // Its create may be under way still.
    cell.isyctl(&["tenant", "delete", "beta", "--yes", "--cancel-running"])
        .ok();
}

fn docker_down_is_said(cell: &mut Cell) {
    let host = &mut cell.hosts[0];
    host.agent.as_mut().expect("running").kill();
    let real = std::mem::replace(&mut host.docker.socket, "/nonexistent/docker.sock".into());
    cell.start_agent(0, &[]);
    cell.wait_host("h1", "degraded");
    let refused = cell.isyctl(&["tenant", "create", "gama", "--no-wait"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("Docker does not answer"),
        "{}",
        refused.stderr
    );
    cell.hosts[0].agent.as_mut().expect("running").kill();
    cell.hosts[0].docker.socket = real;
    cell.start_agent(0, &[]);
    cell.wait_host("h1", "ready");
}

/// The agent's data on a full file system: the plan cannot be stored, which is reported; with space again, it
/// continues.
fn a_full_disk_is_said_and_survived(cell: &mut Cell) {
    let data = cell.hosts[0].data.clone();
    let aside = data.with_extension("aside");
    cell.end_agent(0);
    std::fs::rename(&data, &aside).expect("rename");
    std::fs::create_dir(&data).expect("mount point");
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs"])
        .arg(&data))
    .ok();
    run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&data)).ok();
    // dd ends with an error when the disk is full, as intended.
    let filler = data.join("filler");
    run(Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}", filler.display())));
    cell.start_agent(0, &[]);
    cell.wait_host("h1", "ready");
    cell.isyctl(&["tenant", "create", "delta", "--no-wait"])
        .ok();
    cell.wait_phase("delta", "failing", MINUTE);
    let message = cell.json(&["tenant", "show", "delta"])["message"]
        .as_str()
        .expect("text")
        .to_owned();
    assert!(message.contains("No space left"), "{message}");
    std::fs::remove_file(&filler).expect("remove");
    cell.wait_phase("delta", "running", MINUTE);
    cell.end_agent(0);
    run(Command::new("umount").arg(&data)).ok();
}

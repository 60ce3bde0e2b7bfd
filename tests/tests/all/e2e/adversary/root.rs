//! From an operator's commands, or a tenant's own programs, to root: in a container, and through what they lay out in a
//! volume for root on the host to fall into.
//!
//! Not here: snapshots and copies of such volumes (isyone-agent's own tests), who may ask for root (adversary::root).

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled, wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the agent's first attempts at a tenant that does not start.
const ATTEMPTS: Duration = Duration::from_secs(15);

#[test]
fn root_follows_nothing_that_was_laid_out_and_is_nobody_in_a_container() {
    if !enabled("root_follows_nothing_that_was_laid_out_and_is_nobody_in_a_container") {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape {
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n[plans.large]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=2\n",
        ..Shape::default()
    });
    let context = cell.dir.path().join("ops.toml").display().to_string();
    let make = ["operator", "create", "ops", "--role", "operator", "--out"];
    cell.isyctl(&[&make[..], &[&context]].concat()).ok();
    for tenant in ["alfa", "beta"] {
        cell.isyctl(&["tenant", "create", tenant]).ok();
    }
    commands_are_nobodys_root(&cell);
    images_are_pinned_and_an_operators_are_the_editions(&cell);
    further_modules_cannot_be_written(&cell);
    a_link_to_the_authoritys_key_shows_nothing(&cell);
    a_pipe_holds_nobody_up(&cell);
}

/// Uid and effective capabilities of a command, as its own process says.
const STATUS: [&str; 4] = ["--", "grep", "-E", "^(Uid|CapEff|NoNewPrivs):"];

fn commands_are_nobodys_root(cell: &Cell) {
    for (container, user) in [("odoo", "odoo"), ("postgres", "postgres")] {
        let exec = ["tenant", "exec", "alfa", "--container", container];
        let status = [&exec[..], &STATUS, &["/proc/self/status"]].concat();
        let said = cell.isyctl_as("ops.toml", &status).ok();
        let zero = said.contains("CapEff:\t0000000000000000");
        assert!(
            zero && !said.contains("Uid:\t0\t") && said.contains("NoNewPrivs:\t1"),
            "{said}"
        );
        let who = cell.isyctl_as("ops.toml", &[&exec[..], &["--", "id", "-un"]].concat());
        assert_eq!(who.ok().trim(), user);

        let as_root = [&exec[..], &["--root", "--", "id", "-u", "secret=1"]].concat();
        let refused = cell.isyctl_as("ops.toml", &as_root);
        assert_eq!(refused.code, 4, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("--root: ") && refused.stderr.contains("role admin"),
            "{}",
            refused.stderr
        );
        let root = cell.isyctl(&[&exec[..], &["--root", "--", "id", "-u"]].concat());
        assert_eq!(root.ok().trim(), "0");
        let events = cell.isyctl(&["events", "-o", "json"]).ok();
        let told = format!("command as root in {container}: id");
        assert!(
            events.contains(&told) && !events.contains("secret=1"),
            "{events}"
        );
    }
}

fn images_are_pinned_and_an_operators_are_the_editions(cell: &Cell) {
    let other = "evil.example/odoo:19.0";
    let create = ["tenant", "create", "gama", "--odoo-image", other];
    let refused = cell.isyctl_as("ops.toml", &create);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--odoo-image: ") && refused.stderr.contains("[images] allow"),
        "{}",
        refused.stderr
    );
    let docker = &cell.hosts[0].docker;
    let id = docker.inspect("odoo:19.0", "{{.Id}}");
    assert_eq!(docker.inspect("odoo_alfa", "{{.Config.Image}}"), id);
    // The tag means another image by now; a new container is of the old one.
    docker.run(&["tag", "odoo:19.0", "isyone-test/kept"]).ok();
    docker.run(&["tag", "postgres:15", "odoo:19.0"]).ok();
    let resized = cell.isyctl(&["tenant", "resize", "alfa", "--plan", "large"]);
    let made_of = docker.inspect("odoo_alfa", "{{.Image}}");
    docker.run(&["tag", "isyone-test/kept", "odoo:19.0"]).ok();
    docker.run(&["rmi", "isyone-test/kept"]).ok();
    resized.ok();
    assert_eq!(made_of, id);
    let shown = cell.isyctl(&["tenant", "show", "alfa"]).ok();
    let containers = &cell.json(&["tenant", "show", "alfa"])["containers"];
    let digest = containers[0]["image_digest"].as_str().expect("a digest");
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert!(shown.contains(&digest[..19]), "{shown}");
}

fn further_modules_cannot_be_written(cell: &Cell) {
    let touch = ["--", "sh", "-c", "echo x > /mnt/extra-addons/module"];
    for root in [&[][..], &["--root"]] {
        let exec = [&["tenant", "exec", "alfa"], root, &touch].concat();
        let refused = cell.isyctl(&exec);
        assert!(
            refused.code != 0 && refused.stderr.contains("Read-only file system"),
            "{}",
            refused.stderr
        );
    }
    let list = [
        "tenant",
        "exec",
        "alfa",
        "--",
        "ls",
        "-A",
        "/mnt/extra-addons",
    ];
    assert_eq!(cell.isyctl(&list).ok().trim(), "");
}

fn version_file(cell: &Cell) -> PathBuf {
    cell.hosts[0].docker.homes().join("alfa/pgdata/PG_VERSION")
}

/// Everything that anybody is shown about a tenant.
fn all_that_is_told(cell: &Cell) -> String {
    let commands: [&[&str]; 6] = [
        &["tenant", "show", "alfa"],
        &["tenant", "show", "alfa", "-o", "json"],
        &["op", "list", "-o", "json"],
        &["events", "-o", "json"],
        &["tenant", "logs", "alfa"],
        &["tenant", "logs", "alfa", "--container", "postgres"],
    ];
    let said = commands.map(|command| {
        let said = cell.isyctl(command);
        said.stdout + &said.stderr
    });
    said.concat() + &cell.logs()
}

/// Starts the tenant on what lies there now, and gives the agent time to fall over it; another tenant is served
/// meanwhile.
fn started_on_that(cell: &Cell) -> String {
    cell.isyctl(&["tenant", "resume", "alfa", "--no-wait"]).ok();
    std::thread::sleep(ATTEMPTS);
    cell.isyctl(&["tenant", "suspend", "beta"]).ok();
    cell.isyctl(&["tenant", "resume", "beta"]).ok();
    cell.wait_host("h1", "ready");
    all_that_is_told(cell)
}

/// Puts the version back as PostgreSQL has it, and waits for the tenant.
fn put_back(cell: &Cell, version: &str) {
    let file = version_file(cell);
    let owner = fs::metadata(file.parent().expect("a directory")).expect("it is there");
    fs::remove_file(&file).expect("what was laid out goes");
    fs::write(&file, version).expect("the version is written");
    std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).expect("as before");
    wait_for("alfa to run again", 2 * MINUTE, || {
        (cell.json(&["tenant", "show", "alfa"])["phase"] == "running").then_some(())
    });
}

/// An operator lays out a link for root on the host to read, and has it read.
fn a_link_to_the_authoritys_key_shows_nothing(cell: &Cell) {
    let key = cell.dir.path().join("coordinator/pki/ca.key");
    let secret = fs::read_to_string(&key).expect("the authority's key");
    let secret = secret.lines().nth(1).expect("its first line").to_owned();
    let version = fs::read_to_string(version_file(cell)).expect("a cluster");
    let link = format!(
        "\\! ln -sfn {} /var/lib/postgresql/data/PG_VERSION",
        key.display()
    );
    cell.isyctl_as("ops.toml", &["tenant", "psql", "alfa", "--", "-c", &link])
        .ok();
    let laid_out = fs::read_link(version_file(cell)).expect("a link");
    assert_eq!(laid_out, key, "the attack is what it should be");
    cell.isyctl(&["tenant", "suspend", "alfa"]).ok();
    let told = started_on_that(cell);
    assert!(!told.contains(&secret), "the key is told");
    assert!(!told.contains("PRIVATE KEY"), "{told}");
    put_back(cell, &version);
}

fn a_pipe_holds_nobody_up(cell: &Cell) {
    let file = version_file(cell);
    let version = fs::read_to_string(&file).expect("a cluster");
    cell.isyctl(&["tenant", "suspend", "alfa"]).ok();
    fs::remove_file(&file).expect("it goes");
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU).expect("a pipe");
    started_on_that(cell);
    put_back(cell, &version);
}

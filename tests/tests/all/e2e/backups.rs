//! A real tenant is backed up and comes back: what was written before the chosen second is there, what came after it is not, every file
//! is, and what came back is another tenant that reaches nobody. Stock restic reads the repository with the exported key. Then the
//! coordinator's machine is lost, and rebuilt from what was shipped: nobody is stopped, and backups go on.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    beside, binary,
    cell::{Cell, Shape},
    enabled,
    http::get,
    odoo::User,
    process::run,
    wait_for,
};
use serde_json::{Value, json};

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Backups each minute, so that a test sees one; no night is waited for.
pub(super) const CONFIG: &str = "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n\
    [plans.small.backup]\nrpo=\"2m\"\n[backup.destinations.coordinator]\npath=\"backups\"\nreserve=\"100MiB\"\n";

pub(super) fn sql(cell: &Cell, tenant: &str, query: &str) -> String {
    let words = ["tenant", "psql", tenant, "--", "-tAc", query];
    cell.isyctl(&words).ok().trim().to_owned()
}

pub(super) fn answers(cell: &Cell, tenant: &str) {
    let host = format!("{tenant}.isy.one");
    wait_for(&format!("{tenant} to answer"), 2 * MINUTE, || {
        (get(cell.edge(), &host, "/web/health").status == 200).then_some(())
    });
}

fn bases(cell: &Cell, tenant: &str) -> Vec<Value> {
    let listed = cell.json(&["backup", "list", tenant]);
    let listed = listed.as_array().cloned().unwrap_or_default();
    listed.into_iter().filter(|b| b["work"] == "base").collect()
}

/// Waits for a base besides the ones that there `were`.
pub(super) fn another_base(cell: &Cell, tenant: &str, were: usize) {
    let what = format!("another base of {tenant}");
    wait_for(&what, 5 * MINUTE, || {
        (bases(cell, tenant).len() > were).then_some(())
    });
}

/// Ends the segment, which otherwise ends by itself within a minute.
fn end_segment(cell: &Cell) {
    let switch = "select pg_switch_wal()";
    let words = [
        "exec",
        "postgres_delta",
        "psql",
        "-U",
        "postgres",
        "-c",
        switch,
    ];
    cell.hosts[0].docker.run(&words).ok();
}

/// Waits until what was committed before this moment can be restored.
pub(super) fn shipped(cell: &Cell, tenant: &str) {
    let after = moment("now");
    wait_for(&format!("{tenant} to be shipped"), 5 * MINUTE, || {
        let shown = cell.json(&["backup", "status", tenant]);
        // As all times of ours, it sorts as text.
        let restorable = shown["restorable_time"].as_str();
        restorable.is_some_and(|time| *time > *after).then_some(())
    });
}

/// Writes a row before the second that it returns, and one after it.
fn marked_around(cell: &Cell, tenant: &str) -> String {
    sql(cell, tenant, "insert into mark values (1)");
    thread::sleep(Duration::from_millis(2_200));
    let at = moment("now");
    thread::sleep(Duration::from_millis(2_200));
    sql(cell, tenant, "insert into mark values (2)");
    at
}

pub(super) fn marks(cell: &Cell, tenant: &str) -> String {
    let query = "select string_agg(round::text, ' ' order by round) from mark";
    sql(cell, tenant, query)
}

/// This moment, or another one, to the second.
pub(super) fn moment(from_now: &str) -> String {
    let mut date = Command::new("date");
    date.args(["--utc", "--date", from_now, "+%Y-%m-%dT%H:%M:%SZ"]);
    let output = date.output().expect("date");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(super) fn attach(user: &User, name: &str) {
    // The content of each is its own, so that each has a file of its own.
    let values = json!({"name": name, "raw": format!("content of {name}"), "mimetype": "application/octet-stream"});
    let params =
        json!({"model": "ir.attachment", "method": "create", "args": [[values]], "kwargs": {}});
    let made = user.json("/web/dataset/call_kw", &params);
    assert!(made.is_array() || made.is_number(), "{made}");
}

fn checked_by_restic(cell: &Cell) {
    let key = cell.json(&["backup", "key", "alfa"]);
    let path = key["places"][0]["path"].as_str().expect("a path");
    let restic = |arguments: &[&str]| {
        let mut restic = Command::new("restic");
        restic
            .args(["--no-cache", "--no-lock", "--repo", path])
            .args(arguments)
            .env(
                "RESTIC_PASSWORD",
                key["password"].as_str().expect("a password"),
            );
        let output = restic.output().expect("restic is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}{error}");
        said
    };
    assert!(restic(&["snapshots"]).contains("base"));
    restic(&["check", "--read-data"]);
}

/// Those that run while the coordinator is rebuilt, and the index of their host.
const SIX: [(&str, usize); 6] = [
    ("alfa", 0),
    ("beta", 1),
    ("gama", 1),
    ("delta", 0),
    ("echo", 1),
    ("fox", 1),
];

/// When each container of the six was started.
fn started(cell: &Cell) -> Vec<String> {
    let of = |(tenant, host): (&str, usize)| {
        ["odoo", "postgres"].map(|role| {
            let name = format!("{role}_{tenant}");
            cell.hosts[host].docker.started_at(&name)
        })
    };
    SIX.into_iter().flat_map(of).collect()
}

/// Whether all of the six answer all the time, until it is told to stop.
fn watched(edge: std::net::SocketAddr, over: &AtomicBool) {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        for (tenant, _) in SIX {
            let answer = get(edge, &format!("{tenant}.isy.one"), "/web/health");
            assert_eq!(
                answer.status, 200,
                "{tenant} after {rounds} rounds: {answer:?}"
            );
        }
        rounds += 1;
        thread::sleep(Duration::from_millis(200));
    }
    println!("six tenants answered {rounds} times");
}

/// The coordinator's machine is lost but for the disk with the destination; another one is made of it as docs/operations.md says.
fn rebuilt_on_an_empty_machine(cell: &mut Cell) {
    for (tenant, _) in SIX {
        cell.wait_phase(tenant, "running", 3 * MINUTE);
        answers(cell, tenant);
    }
    let (edge, over) = (cell.edge(), AtomicBool::new(false));
    thread::scope(|scope| {
        let watch = scope.spawn(|| watched(edge, &over));
        // Also when it panics.
        let ends = Over(&over);
        rebuilt(cell);
        drop(ends);
        watch.join().expect("nobody is stopped");
    });
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn rebuilt(cell: &mut Cell) {
    let key = |cell: &Cell| cell.json(&["backup", "key", "alfa"])["password"].clone();
    let (known, running) = (key(cell), started(cell));
    let path = |name: &str| cell.dir.path().join(name);
    let (data, lost) = (path("coordinator"), path("lost"));
    let (keys, passphrase) = (path("isyone.keys"), path("passphrase"));
    std::fs::write(&passphrase, "correct horse battery staple").expect("a passphrase");
    let coordinator = |words: &[&str]| {
        let mut command = Command::new(binary("isy-coordinator"));
        command.args(words).arg("--data-dir").arg(&data);
        command
    };
    let with = |mut command: Command, file: &str| {
        command.arg(file).arg(&keys).arg("--passphrase-file");
        run(command.arg(&passphrase)).ok();
    };
    with(coordinator(&["backup-keys"]), "--out");
    // This long a commit may take to be shipped.
    thread::sleep(Duration::from_secs(10));
    cell.coordinator = None;
    let begun = Instant::now();
    std::fs::rename(&data, &lost).expect("the old machine");
    with(coordinator(&["restore-keys"]), "--from");
    let mut restore = coordinator(&["restore"]);
    let said = run(restore.arg("--from").arg(lost.join("backups"))).ok();
    assert!(said.contains("2 hosts, 6 tenants"), "{said}");
    std::fs::rename(lost.join("backups"), data.join("backups")).expect("the destination");
    std::fs::remove_dir_all(&lost).expect("the old machine");
    cell.start_coordinator();
    cell.wait_host("h1", "ready");
    cell.wait_host("h2", "ready");
    for (tenant, _) in SIX {
        cell.wait_phase(tenant, "running", MINUTE);
    }
    let took = begun.elapsed();
    println!("rebuilt in {:.1} s", took.as_secs_f64());
    assert!(took < 5 * MINUTE, "{took:?}");
    assert_eq!(started(cell), running, "nothing was restarted");
    assert_eq!(key(cell), known);
    let were = bases(cell, "alfa").len();
    cell.isyctl(&["backup", "create", "alfa"]).ok();
    another_base(cell, "alfa", were);
}

#[test]
fn a_tenant_comes_back_as_it_was_at_a_chosen_second() {
    const NAME: &str = "a_tenant_comes_back_as_it_was_at_a_chosen_second";
    if !enabled(NAME) {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        hosts: 2,
        config: CONFIG,
        ..Shape::default()
    });
    for tenant in ["alfa", "delta"] {
        let words = ["tenant", "create", tenant, "--host", "h1"];
        cell.isyctl(&words).ok();
        answers(&cell, tenant);
        sql(&cell, tenant, "create table mark (round integer)");
    }
    for tenant in ["echo", "fox"] {
        let words = ["tenant", "create", tenant, "--host", "h2", "--no-wait"];
        cell.isyctl(&words).ok();
    }
    // Shipments are waited for; so both wait at once.
    thread::scope(|scope| {
        scope.spawn(|| in_its_place_and_back(&cell));
        as_other_tenants(&cell);
    });
    rebuilt_on_an_empty_machine(&mut cell);
}

fn as_other_tenants(cell: &Cell) {
    let user = User::admin(cell, "alfa");
    attach(&user, "one");
    cell.isyctl(&["backup", "create", "alfa", "--note", "first"])
        .ok();
    // Its first one is made by itself, too, and may be another or the same.
    wait_for("a base with the note", 5 * MINUTE, || {
        let noted = |base: &Value| {
            let id = base["id"].as_str().expect("an id");
            cell.json(&["backup", "show", &id[..10]])["notes"] == json!(["first"])
        };
        bases(cell, "alfa").iter().any(noted).then_some(())
    });

    attach(&user, "two");
    let at = marked_around(cell, "alfa");
    attach(&user, "three");
    shipped(cell, "alfa");
    checked_by_restic(cell);

    // What cannot be is said before anything starts.
    let later = moment("1 hour");
    let words = ["tenant", "restore", "alfa", "--to", &later, "--as", "beta"];
    let refused = cell.isyctl(&words);
    assert_ne!(refused.code, 0, "{refused:?}");
    let why = "what was committed after";
    assert!(refused.stderr.contains(why), "{refused:?}");
    let tenants = cell.json(&["tenant", "list"]);
    assert_eq!(tenants.as_array().map(Vec::len), Some(4), "{tenants}");

    let begun = Instant::now();
    let words = [
        "tenant", "restore", "alfa", "--to", &at, "--as", "beta", "--host", "h2",
    ];
    cell.isyctl(&words).ok();
    answers(cell, "beta");
    println!("restored in {:.1} s", begun.elapsed().as_secs_f64());
    as_it_was_and_neutral(cell);
    // The one that was backed up is as it was.
    assert_eq!(marks(cell, "alfa"), "1 2");
    let words = [
        "tenant", "restore", "alfa", "--to", "latest", "--as", "gama", "--host", "h2", "--live",
    ];
    cell.isyctl(&words).ok();
    answers(cell, "gama");
    assert_eq!(marks(cell, "gama"), "1 2");
    assert_eq!(sql(cell, "gama", NEUTRAL), "", "it is live");
}

const NEUTRAL: &str = "select value from ir_config_parameter where key = 'database.is_neutralized'";
const UUID: &str = "select value from ir_config_parameter where key = 'database.uuid'";

/// What was restored is all there, and is another tenant, which reaches nobody.
fn as_it_was_and_neutral(cell: &Cell) {
    assert_eq!(marks(cell, "beta"), "1");
    let attached = "select count(*) from ir_attachment where name in ('one', 'two', 'three')";
    assert_eq!(sql(cell, "beta", attached), "2");
    assert_ne!(sql(cell, "beta", UUID), sql(cell, "alfa", UUID));
    assert_eq!(sql(cell, "beta", NEUTRAL).to_lowercase(), "true");
    assert_eq!(sql(cell, "alfa", NEUTRAL), "");
    // Its own administrator gets in, and every file is served.
    let other = User::admin(cell, "beta");
    let ids = sql(
        cell,
        "beta",
        "select string_agg(id::text, ' ') from ir_attachment where name in ('one', 'two')",
    );
    for id in ids.split(' ') {
        let answer = other.get(&format!("/web/content/{id}"));
        assert!(answer.body.contains("content of "), "{answer:?}");
    }
}

/// The files with data of the tenant's repository.
fn packs(cell: &Cell) -> Vec<std::path::PathBuf> {
    let key = cell.json(&["backup", "key", "alfa"]);
    let path = key["places"][0]["path"].as_str().expect("a path");
    let data = std::path::Path::new(path).join("data");
    let folders = std::fs::read_dir(data).expect("its content").flatten();
    let packs = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten());
    packs.flatten().map(|pack| pack.path()).collect()
}

/// A proof: the newest backup is restored where nobody uses it and found to be whole; after a byte of the repository was flipped it is
/// found to be damaged; nothing is left of either, also when the agent is killed in between.
#[test]
fn a_backup_is_proven_and_a_flipped_byte_is_named() {
    if !enabled("a_backup_is_proven_and_a_flipped_byte_is_named") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        hosts: 1,
        config: CONFIG,
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    answers(&cell, "alfa");
    let early = cell.isyctl(&["backup", "verify", "alfa"]);
    assert_ne!(early.code, 0, "there is no backup: {early:?}");
    attach(&User::admin(&cell, "alfa"), "one");
    cell.isyctl(&["backup", "create", "alfa"]).ok();
    let nothing_left = |cell: &Cell| {
        let docker = &cell.hosts[0].docker;
        let left = || docker.run(&["ps", "-aq", "--filter", "label=one.isy.role=proof"]);
        wait_for("nothing to be left", MINUTE, || {
            let scratch = docker.homes().with_file_name("proofs").join("h1");
            (left().stdout.trim().is_empty() && !scratch.exists()).then_some(())
        });
    };
    let begun = std::time::Instant::now();
    let said = cell.isyctl(&["backup", "verify", "alfa"]).ok();
    println!("proven in {:.1} s: {said}", begun.elapsed().as_secs_f64());
    let proof = |cell: &Cell| {
        let shown = cell.json(&["backup", "status", "alfa"]);
        shown["destinations"][0]["proof"].clone()
    };
    let found = proof(&cell);
    assert_eq!(found["verdict"], "proven", "{found}");
    assert_eq!(found["left_out"], json!([]), "{found}");
    assert!(found["relations"].as_u64() > Some(100), "{found}");
    let wide = cell.isyctl(&["tenant", "list", "-o", "wide"]).ok();
    assert!(wide.contains("VERIFIED"), "{wide}");
    nothing_left(&cell);

    // Its agent is killed in the middle; the next one removes what is left and proves it.
    cell.isyctl(&["backup", "verify", "alfa", "--no-wait"]).ok();
    let scratch = cell.hosts[0]
        .docker
        .homes()
        .with_file_name("proofs")
        .join("h1");
    wait_for("a proof to be under way", MINUTE, || {
        scratch.join("pgdata").exists().then_some(())
    });
    cell.end_agent(0);
    cell.start_agent(0, &[]);
    cell.wait_host("h1", "ready");
    wait_for("it to be proven", 5 * MINUTE, || {
        let shown = cell.json(&["backup", "status", "alfa"]);
        shown["proof_asked"].is_null().then_some(())
    });
    assert_eq!(proof(&cell)["verdict"], "proven");
    nothing_left(&cell);

    // One in each file: what is in one alone may be of an older backup, or of a dump, and those are not proven.
    for pack in packs(&cell) {
        let mut content = std::fs::read(&pack).expect("a pack");
        let middle = content.len() / 2;
        content[middle] ^= 0x55;
        std::fs::write(&pack, content).expect("a pack");
    }
    let refused = cell.isyctl(&["backup", "verify", "alfa"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    let found = proof(&cell);
    assert_eq!(found["verdict"], "damaged", "{found}");
    println!("named: {}", found["damages"]);
    let shown = cell.json(&["backup", "status", "alfa"]);
    assert_eq!(shown["standing"], "not_protected", "{shown}");
    nothing_left(&cell);
    answers(&cell, "alfa");
}

/// In its place: it is itself as it was at that second, and one command returns to what it was before; backups go on after both.
fn in_its_place_and_back(cell: &Cell) {
    let restore = |to: &str| cell.isyctl(&["tenant", "restore", "delta", "--to", to, "--yes"]);
    let itself = || (marks(cell, "delta"), sql(cell, "delta", UUID));
    cell.isyctl(&["backup", "create", "delta"]).ok();
    another_base(cell, "delta", 0);
    let at = marked_around(cell, "delta");
    end_segment(cell);
    shipped(cell, "delta");
    let (_, own) = itself();

    let were = bases(cell, "delta").len();
    let begun = Instant::now();
    restore(&at).ok();
    answers(cell, "delta");
    let took = begun.elapsed().as_secs_f64();
    println!("restored in its place in {took:.1} s");
    assert_eq!(itself(), ("1".to_owned(), own.clone()));
    User::admin(cell, "delta");
    let refused = restore("latest");
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("is kept until"), "{refused:?}");
    sql(cell, "delta", "insert into mark values (3)");
    another_base(cell, "delta", were);
    end_segment(cell);
    shipped(cell, "delta");

    let were = bases(cell, "delta").len();
    restore("before").ok();
    answers(cell, "delta");
    assert_eq!(itself(), ("1 2".to_owned(), own));
    let refused = restore("before");
    let why = "nothing to return to";
    assert!(refused.stderr.contains(why), "{refused:?}");
    another_base(cell, "delta", were);
    if std::env::var_os("ISYONE_LONG").is_none() {
        return; // another shipment takes a minute and a half
    }
    end_segment(cell);
    shipped(cell, "delta");
    // From the history that goes on, and not from the one that was given up.
    restore("latest").ok();
    answers(cell, "delta");
    assert_eq!(marks(cell, "delta"), "1 2");
}

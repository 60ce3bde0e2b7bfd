//! A tenant that fills its disk: warned, refused, stopped, and back again by itself, while its neighbour notices nothing. And where
//! the file system has quotas, it cannot even do that.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    http::{Response, get, request},
    process::run,
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const PLANS: &str = "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\npids=500\nnofile=4096\n\
                     device_read_bps=\"1GiB\"\ndevice_write_iops=90000\n\
                     [plans.wide]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"3GiB\"\n";

/// A file in a tenant's filestore that takes so many MiB of the disk, made from inside as Odoo's user.
fn fill(cell: &Cell, tenant: &str, name: &str, mib: u64) -> String {
    let script = format!(
        "import os; f = os.open('/var/lib/odoo/{name}', os.O_CREAT | os.O_WRONLY); os.posix_fallocate(f, 0, {mib} << 20)"
    );
    let container = format!("odoo_{tenant}");
    let made = cell.hosts[0]
        .docker
        .run(&["exec", &container, "python3", "-c", &script]);
    made.stdout + &made.stderr
}

fn disk(cell: &Cell, tenant: &str) -> serde_json::Value {
    cell.json(&["tenant", "show", tenant])["disk"].clone()
}

fn used_mib(cell: &Cell, tenant: &str) -> u64 {
    wait_for("its disk to be measured", MINUTE, || {
        disk(cell, tenant)["used_bytes"].as_u64().filter(|b| *b > 0)
    }) / MIB
}

fn becomes(cell: &Cell, tenant: &str, state: &str) {
    wait_for(
        &format!("{tenant}'s disk to be {state}"),
        3 * MINUTE,
        || (disk(cell, tenant)["state"] == state).then_some(()),
    );
}

/// Fills up to this share of the plan's 1 GiB, with one file more.
fn fill_to(cell: &Cell, tenant: &str, percent: u64) {
    let more = (1024 * percent / 100).saturating_sub(used_mib(cell, tenant));
    let name = format!("fill-{percent}");
    assert_eq!(fill(cell, tenant, &name, more), "");
}

/// What somebody who has taken Odoo over runs there: a statement of ten minutes, under a name of psql's.
const FILLER: &str = "
import configparser, psycopg2
conf = configparser.RawConfigParser(strict=False); conf.read('/etc/odoo/odoo.conf'); o = conf['options']
db = psycopg2.connect(host=o['db_host'], user=o['db_user'], password=o['db_password'], dbname='odoo_alfa', application_name='psql')
q = db.cursor(); q.execute('CREATE TABLE filler (i int)'); db.commit()
q.execute('INSERT INTO filler SELECT i FROM generate_series(1, 600000) i WHERE pg_sleep(0.001) IS NOT NULL')
";

/// What an operator's psql prints.
fn psql(cell: &Cell, sql: &str) -> String {
    let psql = cell.isyctl(&["tenant", "psql", "alfa", "--", "-Atc", sql]);
    psql.ok().trim().to_owned()
}

/// Whether the filler's statement is at work.
fn fills(cell: &Cell) -> bool {
    let sql = "select count(*) from pg_stat_activity where state = 'active' and query like 'INSERT INTO filler%'";
    psql(cell, sql) == "1"
}

/// A form with a file of so many bytes, as browsers send it.
fn upload(edge: SocketAddr, tenant: &str, path: &str, bytes: usize) -> Response {
    let body = format!(
        "--b\r\nContent-Disposition: form-data; name=\"ufile\"; filename=\"f\"\r\n\r\n{}\r\n--b--\r\n",
        "x".repeat(bytes)
    );
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {tenant}.isy.one\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    request(edge, &(head + &body))
}

fn answers(cell: &Cell, tenant: &str) {
    wait_for(&format!("{tenant} to answer"), 3 * MINUTE, || {
        let page = get(cell.edge(), &format!("{tenant}.isy.one"), "/web/login");
        (page.status == 200).then_some(())
    });
}

fn told(cell: &Cell, kind: &str) -> usize {
    let events = cell.json(&["events", "--tenant", "alfa"]);
    let events = events.as_array().expect("a list");
    events.iter().filter(|e| e["kind"] == kind).count()
}

#[test]
fn who_fills_his_disk_is_stopped_and_comes_back_and_his_neighbour_notices_nothing() {
    if !enabled("who_fills_his_disk_is_stopped_and_comes_back_and_his_neighbour_notices_nothing") {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape {
        config: PLANS,
        ..Shape::default()
    });
    for tenant in ["alfa", "beta"] {
        cell.isyctl(&["tenant", "create", tenant]).ok();
        answers(&cell, tenant);
    }
    // A slow host's Odoo may have asked its copied database too early, and ended for it once, before it was there.
    let began = state_of_beta(&cell);
    limits_are_in_force(&cell);
    fill_to(&cell, "alfa", 85);
    becomes(&cell, "alfa", "warned");
    assert_ne!(
        upload(cell.edge(), "alfa", "/web/login", 200_000).status,
        507
    );
    uploads_are_refused(&cell);
    odoo_is_stopped(&cell);
    // Room is made, and it comes back by itself.
    let files = cell.hosts[0].docker.homes().join("alfa/odoo");
    nesting_and_files_count(&cell);
    for name in ["fill-85", "fill-96", "fill-101", "deep", "many"] {
        run(Command::new("rm").arg("-r").arg(files.join(name))).ok();
    }
    answers(&cell, "alfa");
    becomes(&cell, "alfa", "free");
    wait_for("uploads to be taken", MINUTE, || {
        let answer = upload(cell.edge(), "alfa", "/web/login", 200_000);
        (answer.status != 507 && answer.status > 0).then_some(())
    });
    // So it does with a larger plan, whatever is on the disk.
    assert_eq!(fill(&cell, "alfa", "fill-again", 1100), "");
    becomes(&cell, "alfa", "stopped");
    postgres_is_stopped(&cell);
    cell.isyctl(&["tenant", "resize", "alfa", "--plan", "wide"])
        .ok();
    answers(&cell, "alfa");
    becomes(&cell, "alfa", "free");
    for kind in [
        "tenant.disk_filling",
        "tenant.uploads_refused",
        "tenant.disk_full",
        "tenant.database_stopped",
    ] {
        assert!(told(&cell, kind) > 0, "{kind}");
    }
    let logs = ["logs", "--timestamps", "--tail", "200", "odoo_beta"];
    assert_eq!(
        state_of_beta(&cell),
        began,
        "{:?}",
        cell.hosts[0].docker.run(&logs)
    );
}

/// How often Docker had to restart the neighbour's containers, and when they were started.
fn state_of_beta(cell: &Cell) -> Vec<String> {
    let state = |container| {
        let format = "{{.RestartCount}} {{.State.StartedAt}} {{.State.OOMKilled}}";
        cell.hosts[0].docker.inspect(container, format)
    };
    vec![state("odoo_beta"), state("postgres_beta")]
}

/// Runs a script in a tenant's Odoo as its user; what it says.
fn python(cell: &Cell, tenant: &str, script: &str) -> String {
    let container = format!("odoo_{tenant}");
    let done = cell.hosts[0]
        .docker
        .run(&["exec", &container, "python3", "-c", script]);
    done.stdout + &done.stderr
}

/// What takes no bytes: an empty file for each 16 KiB of the plan's 1 GiB.
const MANY: &str = "
import os
os.mkdir('/var/lib/odoo/many')
for n in range(66_000):
    os.close(os.open(f'/var/lib/odoo/many/{n}', os.O_CREAT))
";

/// What hides them: a file below 600 directories.
const DEEP: &str = "
os.chdir('/var/lib/odoo')
for _ in range(600):
    os.mkdir('deep')
    os.chdir('deep')
open('f', 'wb').write(b'x' * 9999)
";

/// They count beside what fills the disk.
fn nesting_and_files_count(cell: &Cell) {
    let disk = disk(cell, "alfa");
    let number = |name: &str| disk[name].as_u64().unwrap_or(0);
    assert_eq!(number("limit_inodes"), 65_536);
    assert!(number("used_inodes") > 65_536, "{disk}");
    assert_eq!(disk["too_deep"], "odoo", "{disk}");
    wait_for("operators to be told where", MINUTE, || {
        let shown = cell.json(&["tenant", "show", "alfa"]);
        let message = shown["message"].as_str().unwrap_or_default();
        message
            .contains("in its volume odoo_data_alfa")
            .then_some(())
    });
}

fn limits_are_in_force(cell: &Cell) {
    let docker = &cell.hosts[0].docker;
    for container in ["odoo_alfa", "postgres_alfa"] {
        let inside = docker.run(&["exec", container, "grep", "open files", "/proc/1/limits"]);
        assert!(inside.stdout.contains(" 4096 "), "{}", inside.stdout);
    }
    assert_eq!(
        docker.inspect("odoo_alfa", "{{.HostConfig.PidsLimit}}"),
        "500"
    );
    let host = &cell.hosts[0].name;
    let unlimited = cell
        .isyctl(&["host", "show", host])
        .ok()
        .contains("device_* of plans do not hold here");
    // The kernel's own word, in either version of its control groups.
    const OF_DEVICES: &str = "cd /sys/fs/cgroup; cat io.max blkio/blkio.throttle.read_bps_device \
                              blkio/blkio.throttle.write_iops_device 2> /dev/null; true";
    for container in ["odoo_alfa", "postgres_alfa"] {
        let said = docker.run(&["exec", container, "sh", "-c", OF_DEVICES]);
        let said = said.stdout + &said.stderr;
        for rate in ["1073741824", "90000"] {
            assert_ne!(said.contains(rate), unlimited, "{container}: {said}");
        }
    }
    assert_eq!(psql(cell, "show temp_file_limit"), "256MB");
    let of_14 = "select setting from pg_settings where name = 'client_connection_check_interval'";
    assert_ne!(psql(cell, of_14), "0", "a client that is gone is noticed");
}

/// More than 110 % at once.
fn postgres_is_stopped(cell: &Cell) {
    wait_for("PostgreSQL to be stopped", 2 * MINUTE, || {
        let running = cell.hosts[0].docker.run(&["ps", "--format", "{{.Names}}"]);
        let stopped = disk(cell, "alfa")["postgres_stopped"] == true;
        (stopped && !running.stdout.contains("postgres_alfa")).then_some(())
    });
    let message = wait_for("why", MINUTE, || {
        let shown = cell.json(&["tenant", "show", "alfa"]);
        let message = shown["message"].as_str().unwrap_or_default().to_owned();
        message
            .contains("PostgreSQL are stopped")
            .then_some(message)
    });
    assert!(message.contains("resize alfa"), "{message}");
    let psql = cell.isyctl(&["tenant", "psql", "alfa", "--", "-c", "select 1"]);
    assert!(
        psql.code != 0 && psql.stderr.contains("resize alfa"),
        "{}",
        psql.stderr
    );
}

fn uploads_are_refused(cell: &Cell) {
    fill_to(cell, "alfa", 96);
    becomes(cell, "alfa", "uploads_refused");
    let refused = wait_for("an upload to be refused", MINUTE, || {
        let answer = upload(cell.edge(), "alfa", "/web/login", 200_000);
        (answer.status == 507).then_some(answer)
    });
    assert!(
        refused.body.contains("no room for this upload"),
        "{}",
        refused.body
    );
    let small = upload(cell.edge(), "alfa", "/web/binary/upload_attachment", 10);
    assert_eq!(
        small.status, 507,
        "where Odoo takes files, whatever their size"
    );
    let form = upload(cell.edge(), "alfa", "/web/login", 10);
    assert_ne!(form.status, 507, "people can go on working: {form:?}");
    let chunked = "POST /web/login HTTP/1.1\r\nHost: alfa.isy.one\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    assert_eq!(
        request(cell.edge(), chunked).status,
        507,
        "of unknown length"
    );
    assert_ne!(
        upload(cell.edge(), "beta", "/web/login", 200_000).status,
        507
    );
    answers(cell, "alfa");
}

fn odoo_is_stopped(cell: &Cell) {
    let begun = cell.hosts[0]
        .docker
        .run(&["exec", "-d", "odoo_alfa", "python3", "-c", FILLER]);
    assert_eq!(begun.code, 0, "{}", begun.stderr);
    wait_for("a long statement", MINUTE, || fills(cell).then_some(()));
    // All by one command: the first of it that is seen stops the container.
    let more = (1024 * 101 / 100u64).saturating_sub(used_mib(cell, "alfa"));
    let larger = format!(
        "f = os.open('/var/lib/odoo/fill-101', os.O_CREAT | os.O_WRONLY)\nos.posix_fallocate(f, 0, {more} << 20)\n"
    );
    let script = [MANY, &larger, DEEP].concat();
    assert_eq!(python(cell, "alfa", &script), "");
    becomes(cell, "alfa", "stopped");
    let page = wait_for("the page that says why", 2 * MINUTE, || {
        let head = "GET /web/login HTTP/1.1\r\nHost: alfa.isy.one\r\nConnection: close\r\nAccept: text/html\r\n\r\n";
        let page = request(cell.edge(), head);
        page.body.contains("used up its disk space").then_some(page)
    });
    assert!(matches!(page.status, 502..=504), "{}", page.head);
    cell.wait_phase("alfa", "failing", MINUTE);
    let shown = cell.json(&["tenant", "show", "alfa"]);
    let message = shown["message"].as_str().unwrap_or_default();
    assert!(message.contains("disk is full"), "{message}");
    // PostgreSQL runs, for the operator: his session outlives a look, and what Odoo had begun there has ended with it.
    assert!(!fills(cell), "a statement of Odoo's goes on");
    assert_eq!(psql(cell, "select 'kept' from pg_sleep(18)"), "kept");
    assert_eq!(psql(cell, "select count(*) from filler"), "0");
    let shell = cell.isyctl(&["tenant", "shell", "alfa", "--", "true"]);
    assert!(
        shell.code != 0 && shell.stderr.contains("disk is full"),
        "{}",
        shell.stderr
    );
    answers(cell, "beta");
}

/// A btrfs in a file, mounted until it is dropped.
struct Loop {
    at: PathBuf,
}

impl Loop {
    fn mount(dir: &Path) -> Self {
        let (image, at) = (dir.join("btrfs.img"), dir.join("btrfs"));
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(12 << 30).expect("room");
        std::fs::create_dir(&at).expect("a mount point");
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image)).ok();
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&at))
        .ok();
        let mounted = Self { at };
        run(Command::new("btrfs")
            .args(["quota", "enable"])
            .arg(&mounted.at))
        .ok();
        mounted
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What is still busy goes with the last user.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// What Odoo's user may do without any right: a subvolume with files and directories, one in that, and a read-only snapshot of both.
const SUBVOLUMES: &str = "
import fcntl, os, struct
top = os.open('/var/lib/odoo', os.O_RDONLY)
def create(parent, name):
    fcntl.ioctl(parent, 0x5000940e, bytearray(struct.pack('q4088s', 0, name)))
create(top, b'own')
os.makedirs('/var/lib/odoo/own/a/b')
create(os.open('/var/lib/odoo/own/a', os.O_RDONLY), b'nested')
os.makedirs('/var/lib/odoo/own/a/nested/c/d')
f = os.open('/var/lib/odoo/own/a/f', os.O_CREAT | os.O_WRONLY)
os.posix_fallocate(f, 0, 2000 << 20)
os.fsync(f)
own = os.open('/var/lib/odoo/own', os.O_RDONLY)
fcntl.ioctl(top, 0x50009417, bytearray(struct.pack('qQQ32s4040s', own, 0, 2, b'', b'read-only')))
";

#[test]
fn a_file_system_with_quotas_refuses_what_is_beyond_the_plan() {
    const NAME: &str = "a_file_system_with_quotas_refuses_what_is_beyond_the_plan";
    if !enabled(NAME) {
        return;
    }
    if Command::new("mkfs.btrfs")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("{NAME}: not run, there is no mkfs.btrfs (`cargo xtask setup` installs it)");
        return;
    }
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a folder");
    let mounted = Loop::mount(dir.path());
    let mut cell = Cell::start(&Shape {
        config: PLANS,
        ..Shape::default()
    });
    cell.hosts[0].agent = None;
    let root = mounted.at.display().to_string();
    cell.start_agent(0, &[("ISYONE_TENANTS_DIR", &root)]);
    cell.wait_host("h1", "ready");
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    answers(&cell, "alfa");
    wait_for("the file system to hold it", 2 * MINUTE, || {
        (disk(&cell, "alfa")["means"] == "quota").then_some(())
    });
    let refused = fill(&cell, "alfa", "too-much", 1500);
    assert!(refused.contains("quota"), "{refused}");
    // What it could write counts, and a larger plan raises the file system's limit too.
    cell.isyctl(&["tenant", "resize", "alfa", "--plan", "wide"])
        .ok();
    wait_for("the larger plan's room", 3 * MINUTE, || {
        fill(&cell, "alfa", "more", 1500).is_empty().then_some(())
    });
    // What is in a subvolume of its own making is outside of its quota: it counts, and so do the subvolumes.
    assert_eq!(python(&cell, "alfa", SUBVOLUMES), "");
    becomes(&cell, "alfa", "stopped");
    let held = disk(&cell, "alfa")["used_bytes"].as_u64().unwrap_or(0);
    assert!(held >= 3 << 30, "{held}");
    // A subvolume goes like any directory, and so does what is nested in it.
    cell.isyctl(&["tenant", "delete", "alfa", "--yes"]).ok();
    cell.isyctl(&["tenant", "delete", "alfa", "--purge", "--yes"])
        .ok();
    let home = mounted.at.join("isyone/tenants/alfa");
    let elsewhere = mounted.at.join("tenants/alfa");
    wait_for("its data to be gone", MINUTE, || {
        (!home.exists() && !elsewhere.exists()).then_some(())
    });
    drop(cell);
}

//! Lines 7, 8 and 12: an operator stops and starts a tenant, its agent or relay ends, the installation of an app was cut off.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    bombard::{attacker, attacks, result, seen::Seen},
    cell::Cell,
    http::get,
    process::run,
    wait_for,
};
use serde_json::{Value, json};

use super::{BUSY, MINUTE, STEADY, Tenant};

/// Before an operator does something, and after it is done, the honest client is watched.
const AROUND: Duration = Duration::from_secs(1);
/// How soon an operator acts after a long request has begun.
const BEGUN: Duration = Duration::from_secs(1);
/// How soon the relay is there again.
const RELAY_BACK: Duration = Duration::from_secs(3);

/// Lines 7 and 8 where Odoo is threaded: a request under way ends, and its work is kept; the others are held, or see a waiting page.
pub(super) fn during_a_request(tenant: &Tenant<'_>) {
    let time = tenant.pick(Duration::from_secs(5), Duration::from_secs(20));
    let action = attacks::make_long_action(tenant.admin());
    for (line, does, undoes) in [
        ("7 restart during a request", &["restart"][..], None),
        (
            "7 resize during a request",
            &["resize", "--plan", "small-other"],
            None,
        ),
        ("7 suspend during a request", &["suspend"], Some("resume")),
    ] {
        let (seen, ()) = tenant.beside(line, BUSY, || {
            thread::scope(|scope| {
                let begin = Instant::now();
                let client = tenant.admin().at(attacker(0));
                let long = scope.spawn(move || attacks::long_request(&client, action, time, line));
                thread::sleep(BEGUN);
                command(tenant, does);
                println!("         {} took {:?}", does[0], begin.elapsed() - BEGUN);
                assert!(begin.elapsed() >= time, "it was waited for");
                let answer = long.join().expect("an answer");
                result(&answer).unwrap_or_else(|why| panic!("{line}: {why}"));
            });
            if let Some(undo) = undoes {
                thread::sleep(AROUND);
                command(tenant, &[undo]);
            }
            assert_eq!(tenant.page(), 200, "when the operation ends, it is there");
            thread::sleep(AROUND);
        });
        println!("         told to come later for {:?}", seen.away());
        tell(&seen);
        seen.assert_none_failed(line);
        let written = json!([[["name", "=", line]]]);
        let written = tenant
            .admin()
            .must("res.partner", "search_count", &written, &json!({}));
        assert_eq!(written, 1, "its work is kept");
    }
}

/// Failures by second and status, to see where they come from.
fn tell(seen: &Seen) {
    for sample in seen.failed().into_iter().chain(seen.later()).take(40) {
        let outcome: String = format!("{:?}", sample.outcome).chars().take(300).collect();
        println!(
            "         {:.1} s, took {:.1} s: {outcome}",
            sample.at.as_secs_f64(),
            sample.took.as_secs_f64()
        );
    }
}

fn command(tenant: &Tenant<'_>, words: &[&str]) {
    let (verb, options) = words.split_first().expect("a verb");
    let all = [&["tenant", verb, tenant.name], options].concat();
    tenant.cell.isyctl(&all).ok();
}

/// Line 8, with workers: twenty requests a second, none fails, none has to come again.
pub(super) fn under_load(tenant: &Tenant<'_>) {
    for (line, does) in [
        ("8 restart at twenty requests a second", &["restart"][..]),
        (
            "8 resize at twenty requests a second",
            &["resize", "--plan", "standard-other"],
        ),
    ] {
        let before = tenant.started();
        let (seen, pages) = tenant.beside(line, BUSY, || {
            thread::sleep(AROUND);
            command(tenant, does);
            let pages = [(); 10].map(|()| tenant.page());
            thread::sleep(AROUND);
            pages
        });
        tell(&seen);
        assert_eq!(pages, [200; 10], "when the operation ends, it is there");
        seen.assert_all_served(line);
        assert_ne!(tenant.started(), before, "{line}: it was started anew");
    }
}

/// Line 8 with another image: a patched build takes over, once; one that cannot be had stops nobody.
pub(super) fn another_image(tenant: &Tenant<'_>) {
    // Nobody listens at port 1: no registry gives it, and its host has it, or has not.
    const PATCHED: &str = "localhost:1/odoo:patched";
    const NOWHERE: &str = "localhost:1/odoo:nowhere";
    let odoo = tenant.container("odoo");
    let image = tenant.docker.inspect(&odoo, "{{.Image}}");
    let made = tenant.docker.run(&["create", &image]).ok();
    let label = "LABEL one.isy.test=patched";
    let commit = ["commit", "--change", label, made.trim(), PATCHED];
    tenant.docker.run(&commit).ok();
    tenant.docker.run(&["rm", made.trim()]).ok();
    let patched = tenant.docker.inspect(PATCHED, "{{.Id}}");
    assert!(!patched.is_empty() && patched != image, "{patched}");
    for (line, reference, works, changes) in [
        ("8 an image that cannot be had", NOWHERE, false, false),
        (
            "8 another image at twenty requests a second",
            PATCHED,
            true,
            true,
        ),
        ("8 the same image again", PATCHED, true, false),
    ] {
        let before = tenant.started();
        let (seen, out) = tenant.beside(line, BUSY, || {
            thread::sleep(AROUND);
            let upgrade = ["tenant", "upgrade", tenant.name, "--odoo-image", reference];
            let out = tenant.cell.isyctl(&upgrade);
            assert_eq!(tenant.page(), 200, "when the operation ends, it is there");
            thread::sleep(AROUND);
            out
        });
        tell(&seen);
        println!(
            "         {}",
            out.stderr.trim().replace('\n', "\n         ")
        );
        seen.assert_all_served(line);
        assert_eq!(out.code == 0, works, "{line}");
        assert_eq!(tenant.started() != before, changes, "{line}: started anew");
        let says_so = out.stderr.contains("nothing was changed");
        assert_eq!(says_so, works && !changes, "{line}");
    }
    assert_eq!(tenant.docker.inspect(&odoo, "{{.Image}}"), patched);
    let label = tenant
        .docker
        .inspect(&odoo, "{{index .Config.Labels \"one.isy.test\"}}");
    assert_eq!(label, "patched");
}

/// Line 12: recognised, finished in a container of its own, and told; nobody notices.
pub(super) fn an_installation_was_cut_off(tenant: &Tenant<'_>) {
    let line = "12 an installation was cut off";
    let (seen, ()) = tenant.beside(line, STEADY, || {
        // Two hours ago.
        tenant.sql(
            &tenant.place.database,
            "UPDATE ir_module_module SET write_date = now() AT TIME ZONE 'UTC' - interval '2 h'; \
             UPDATE ir_module_module SET state = 'to install' WHERE name = 'utm'",
        );
        let state = "SELECT state FROM ir_module_module WHERE name = 'utm'";
        wait_for("the end of the installation", MINUTE * 4, || {
            (tenant.sql(&tenant.place.database, state) == "installed").then_some(())
        });
    });
    seen.assert_none_failed(line);
    wait_for("it to be told", MINUTE, || {
        let events = tenant.cell.json(&["events", "--tenant", tenant.name]);
        let events = events.as_array().expect("a list");
        let told = |kind: &str| events.iter().any(|e| e["kind"] == kind);
        (told("tenant.install_cut_off") && told("tenant.install_finished")).then_some(())
    });
    wait_for("the tenant to pass", MINUTE, || {
        let verify = ["tenant", "verify", tenant.name, "-o", "json"];
        let out = tenant.cell.isyctl(&verify);
        let report: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        let mut checks = report["checks"].as_array()?.iter();
        let passes = |c: &Value| c["check"] == "apps" && c["result"] == "ok";
        checks.any(passes).then_some(())
    });
}

fn health(cell: &Cell, tenant: &str) -> u16 {
    get(cell.edge(), &format!("{tenant}.isy.one"), "/web/health").status
}

/// The relay's process, as it says itself.
fn relay_pid(cell: &Cell) -> Option<u64> {
    let path = cell.hosts[0].data.join("relay/admin.sock");
    let mut stream = UnixStream::connect(path).ok()?;
    let ask = b"GET /health HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str::<Value>(body).ok()?["pid"].as_u64()
}

/// Nobody notices that the agent is killed; the relay is there again at once.
pub(super) fn killed_parts(cell: &mut Cell) {
    let ports = cell.hosts[0]
        .docker
        .inspect("odoo_small", "{{json .HostConfig.PortBindings}}");
    assert!(
        matches!(ports.as_str(), "{}" | "null"),
        "published: {ports}"
    );
    let before = relay_pid(cell).expect("a relay");
    if let Some(agent) = &mut cell.hosts[0].agent {
        agent.kill();
    }
    for _ in 0..20 {
        assert_eq!(health(cell, "small"), 200, "without the agent");
        thread::sleep(BUSY);
    }
    cell.start_agent(0, &[]);
    cell.wait_phase("small", "running", MINUTE);
    let next = relay_pid(cell);
    assert_eq!(next, Some(before), "the next agent goes on with it");
    run(Command::new("kill").args(["-KILL", &before.to_string()])).ok();
    let killed = Instant::now();
    wait_for("an answer after the relay was killed", MINUTE, || {
        (health(cell, "small") == 200).then_some(())
    });
    println!(
        "served again {:?} after the relay was killed",
        killed.elapsed()
    );
    assert!(killed.elapsed() < RELAY_BACK, "{:?}", killed.elapsed());
    assert_ne!(relay_pid(cell), Some(before));
}

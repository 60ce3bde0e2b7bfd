//! Lines 3, 4, 5 and 13: more websockets, long requests, requests at once and sessions than there is room for.

use std::{
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    bombard::{Client, attacker, attacks, result},
    odoo::User,
    wait_for,
    websocket::Socket,
};
use serde_json::json;

use super::{MINUTE, STEADY, Tenant};

/// Websockets of `small`, of one address and of all (agent/src/plan/relay.rs).
const SOCKETS: (usize, usize) = (48, 96);
/// A bus message arrives at once; a busy machine may need longer.
const SOON: Duration = Duration::from_secs(20);
/// How long somebody waits for a worker before the page *busy*, and what the page itself may take.
const BUSY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3));

/// Line 3: sockets are bounded by address and in all; who is there stays, and pages open.
pub(super) fn websockets(tenant: &Tenant<'_>) {
    let user = User::admin(tenant.cell, tenant.name);
    let info = user.json("/web/session/get_session_info", &json!({}));
    let version = info["websocket_worker_version"].as_str().expect("one");
    let mut own = Socket::open(&user, version).unwrap_or_else(|why| panic!("{why}"));
    own.subscribe();
    let tell = "env['bus.bus']._sendone(env.user.partner_id, 'isyone.test', {'number': 1})";
    let tell = attacks::make_action(tenant.admin(), tell);
    let started = tenant.started();
    let (seen, (one, all, threads)) =
        tenant.beside("3 253 websockets, then of 50 addresses", STEADY, || {
            let (mut open, _) = attacks::websockets(&Client::new(&tenant.place, attacker(0)), 253);
            let one = open.len();
            for number in 1..50 {
                let client = Client::new(&tenant.place, attacker(number));
                open.extend(attacks::websockets(&client, 4).0);
            }
            let answer = attacks::run_action(tenant.admin(), tell, &json!({}));
            result(&answer).unwrap_or_else(|why| panic!("{why}"));
            let heard = own.listen("isyone.test", SOON);
            assert_eq!(heard, Some(json!({"number": 1})), "who was there stays");
            (one, open.len(), threads(tenant))
        });
    println!(
        "         one address has {one}, all have {all}; threads {}",
        threads
    );
    assert!(one <= SOCKETS.0 && all < SOCKETS.1, "{one}, {all}");
    assert!(one > 10 && all > one, "others find room: {one}, {all}");
    seen.assert_all_served("beside websockets");
    tenant.assert_not_restarted(&started);
}

/// Processes and threads of Odoo's container.
fn threads(tenant: &Tenant<'_>) -> String {
    let count = "cat /sys/fs/cgroup/pids.current /sys/fs/cgroup/pids/pids.current 2> /dev/null";
    let count = ["exec", &tenant.container("odoo"), "sh", "-c", count];
    tenant.docker.run(&count).stdout.trim().to_owned()
}

/// Line 4: as many long requests as there are workers; others wait, and are told so when that takes too long.
pub(super) fn long_requests(tenant: &Tenant<'_>) {
    let time = tenant.pick(Duration::from_secs(10), Duration::from_secs(40));
    let action = attacks::make_long_action(tenant.admin());
    let line = "4 two long requests, of two workers";
    // Two people a second: more would be more than one edge lets one address have at the same time.
    let (seen, statuses) = tenant.beside(line, STEADY * 5, || {
        thread::scope(|scope| {
            let long = [0, 0].map(|number| {
                let client = tenant.admin().at(attacker(number));
                scope.spawn(move || attacks::long_request(&client, action, time, "").status)
            });
            long.map(|long| long.join().expect("an answer"))
        })
    });
    assert_eq!(statuses, [200; 2]);
    seen.assert_none_failed(line);
    assert!(seen.longest() < time.min(BUSY.0) + BUSY.1, "{seen}");
    for late in seen.later() {
        assert!(late.took >= BUSY.0, "told so before its time: {late:?}");
    }
    assert!(tenant.is_long || seen.later().is_empty(), "{seen}");
    assert_eq!(tenant.page(), 200, "and no edge keeps it away");
}

/// Line 5: more requests at once than there are connections to the database.
pub(super) fn more_than_connections(tenant: &Tenant<'_>) {
    let begin = Instant::now();
    let (addresses, each) = tenant.pick((50, 4), (50, 10));
    let line = "5 90 pages at once, then of 50 addresses";
    let (seen, (one, all)) = tenant.beside(line, STEADY, || {
        let one = attacks::crowd(&tenant.place, 1, 90, "/web/login");
        let all = attacks::crowd(&tenant.place, addresses, each, "/web/login");
        (one, all)
    });
    let counted = |statuses: &[u16]| {
        let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
        (count(200), count(429), count(503))
    };
    println!(
        "         200, 429, 503: {:?} of 90, {:?} of {}, within {:?}",
        counted(&one),
        counted(&all),
        all.len(),
        begin.elapsed()
    );
    let mut every = one.iter().chain(&all);
    assert!(
        every.all(|status| matches!(status, 200 | 429 | 503)),
        "{one:?} {all:?}"
    );
    assert!(
        counted(&one).0 > 0 && counted(&all).0 > 100,
        "{one:?} {all:?}"
    );
    seen.assert_all_served(line);
    assert_eq!(tenant.metric("odoo_pool_refusals_total"), 0.0);
}

/// Line 13: sessions of nobody are told from others, and the oldest go when there are too many.
pub(super) fn sessions_of_nobody(tenant: &Tenant<'_>) {
    const SWEEP: &str = "import sys, types\n\
        sys.path.insert(0, '/mnt/isyone-addons')\n\
        from isyone_metrics.guard import sessions\n\
        recorder = types.SimpleNamespace(gauge=lambda *a: None, add=lambda *a: None)\n\
        print(sessions.Sweeper('/var/lib/odoo/sessions', recorder, most=50).sweep())";
    let each = tenant.pick(20, 100);
    let files = || {
        let odoo = tenant.container("odoo");
        let find = |more: &[&str]| {
            let find = [
                "exec",
                &odoo,
                "find",
                "/var/lib/odoo/sessions",
                "-type",
                "f",
            ];
            let out = tenant.docker.run(&[&find[..], more].concat()).ok();
            out.lines().count()
        };
        // Dated back by ten years.
        (find(&["!", "-mtime", "-3000"]), find(&["-mtime", "-3000"]))
    };
    let (_, of_people) = files();
    let line = "13 sessions of nobody";
    let (seen, statuses) = tenant.beside(line, STEADY, || {
        attacks::crowd(&tenant.place, 10, each, "/web?debug=1")
    });
    let (nobodys, _) = files();
    let removed = ["exec", &tenant.container("odoo"), "python3", "-c", SWEEP];
    let removed = tenant.docker.run(&removed).ok();
    let (left, people) = files();
    println!(
        "         {nobodys} files of nobody, {} removed, {left} left",
        removed.trim()
    );
    assert!(
        statuses.iter().all(|s| matches!(s, 200 | 303 | 429)),
        "{statuses:?}"
    );
    assert!(nobodys > each * 5 && left <= 60, "{nobodys}, {left}");
    assert!(
        people >= of_people && of_people > 0,
        "people stay signed in"
    );
    seen.assert_all_served(line);
    if tenant.is_long {
        wait_for("Odoo to count them itself", MINUTE * 6, || {
            (tenant.metric("odoo_session_files") > 0.0).then_some(())
        });
    }
}

//! Long-lasting visits: a websocket that stays open, and files as large as the product allows, both through a real
//! Traefik to a real Odoo with workers.

use std::{thread, time::Duration};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    odoo::{User, notify_admin},
    upload,
    websocket::Socket,
};
use serde_json::json;

/// Odoo pings after 40 s without traffic, so this includes one ping. A longer run shows more: ISYONE_WEBSOCKET_S=360.
const IDLE_S: u64 = 65;
/// A bus message arrives at once; a busy machine may need longer.
const SOON: Duration = Duration::from_secs(20);
/// Long enough to notice a message that should not come.
const NOTHING: Duration = Duration::from_secs(2);
/// Size of a file that the default `[edge] upload_limit` must let through.
const UPLOAD: usize = 1 << 30;

#[test]
fn a_websocket_stays_and_brings_messages_and_a_gibibyte_passes() {
    if !enabled("a_websocket_stays_and_brings_messages_and_a_gibibyte_passes") {
        return;
    }
    let _beside = beside();
    // Like the plan `standard` by default, but with less disk.
    let config = "---[plans.small]\nmemory = \"2GiB\"\ncpu = 1.0\ndisk = \"3GiB\"\nworkers = 2\n";
    let cell = Cell::start(&Shape {
        config,
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    let admin = User::admin(&cell, "alfa");
    let mut socket = a_websocket_brings_messages_to_whom_they_are_for(&cell, &admin);
    thread::scope(|scope| {
        let idle = scope.spawn(|| a_websocket_stays(&mut socket));
        a_gibibyte_passes(&admin);
        idle.join().expect("the websocket");
    });
    notify_admin(&cell, "alfa", "isyone.late", &json!({"number": 2}));
    assert_eq!(
        socket.listen("isyone.late", SOON),
        Some(json!({"number": 2}))
    );
}

fn a_websocket_brings_messages_to_whom_they_are_for(cell: &Cell, admin: &User) -> Socket {
    let session = admin.json("/web/session/get_session_info", &json!({}));
    let version = session["websocket_worker_version"]
        .as_str()
        .expect("a version")
        .to_owned();
    let open = |user: &User| {
        Socket::open(user, &version).unwrap_or_else(|why| panic!("no websocket: {why}"))
    };
    let (mut socket, mut other) = (open(admin), open(&User::stranger(cell, "alfa")));
    socket.subscribe();
    other.subscribe();
    notify_admin(cell, "alfa", "isyone.test", &json!({"number": 1}));
    assert_eq!(
        socket.listen("isyone.test", SOON),
        Some(json!({"number": 1}))
    );
    assert_eq!(
        other.listen("isyone.test", NOTHING),
        None,
        "it is nobody else's"
    );
    socket
}

fn a_websocket_stays(socket: &mut Socket) {
    let idle_s = std::env::var("ISYONE_WEBSOCKET_S")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(IDLE_S);
    let before = socket.pings;
    assert_eq!(
        socket.listen("isyone.nothing", Duration::from_secs(idle_s)),
        None
    );
    let pings = socket.pings - before;
    println!("a websocket was idle for {idle_s} s, with {pings} pings of Odoo's");
    assert!(pings > 0, "Odoo gave no sign of life");
}

fn a_gibibyte_passes(admin: &User) {
    let begin = std::time::Instant::now();
    let (answer, sum) = upload::post(admin, UPLOAD);
    println!("uploaded {UPLOAD} bytes in {:?}", begin.elapsed());
    assert_eq!(answer.status, 200, "{answer:?}");
    let kept: serde_json::Value =
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
    assert_eq!(kept[0]["size"], UPLOAD, "{answer:?}");
    let path = format!("/web/content/{}?download=true", kept[0]["id"]);
    assert_eq!(upload::download(admin, &path), (UPLOAD, sum));
    println!("and downloaded, {:?} after the begin", begin.elapsed());
}

//! What visitors see through a real Traefik while a real Odoo is not available: no such tenant, starting, a restart, suspended, asleep, and a host that is gone.

use std::time::{Duration, Instant};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    http::{Response, get, request},
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
const BROWSER: &str = "Accept: text/html,*/*;q=0.8\r\n";

fn visit(cell: &Cell, method: &str, host: &str, path: &str, more: &str) -> Response {
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
    request(cell.edge(), &head)
}

/// Requests a tenant's first page as a browser does.
fn browse(cell: &Cell, tenant: &str) -> Response {
    visit(
        cell,
        "GET",
        &format!("{tenant}.isy.one"),
        "/web/login",
        BROWSER,
    )
}

/// Waits until a browser gets this page, which reloads itself.
fn shows(cell: &Cell, tenant: &str, text: &str) -> Response {
    let page = wait_for(&format!("{tenant}'s page to say: {text}"), MINUTE, || {
        let page = browse(cell, tenant);
        page.body.contains(text).then_some(page)
    });
    assert!(matches!(page.status, 502..=504), "{}", page.head);
    page
}

/// Waits until Odoo answers the page's own reloads.
fn odoo_answers(cell: &Cell, tenant: &str) {
    wait_for(&format!("{tenant}'s Odoo to answer"), 2 * MINUTE, || {
        let page = browse(cell, tenant);
        (page.status == 200 && page.body.contains("name=\"login\"")).then_some(())
    });
}

#[test]
fn visitors_are_told_what_is_the_matter() {
    if !enabled("visitors_are_told_what_is_the_matter") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\n\
                 [plans.sleepy]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nsleep_after=\"1m\"\n",
        ..Shape::default()
    });
    nobody_has_this_name(&cell);
    cell.isyctl(&["tenant", "create", "alfa", "--no-wait"]).ok();
    let starting = shows(&cell, "alfa", "Your system is starting");
    assert!(
        starting.status == 503 && starting.head.contains("Retry-After: 5"),
        "{}",
        starting.head
    );
    assert!(starting.body.contains("http-equiv=\"refresh\""));
    odoo_answers(&cell, "alfa");
    for path in ["/metrics", "/web/database/manager"] {
        let [nobodys, alfas] = ["nobody", "alfa"]
            .map(|name| visit(&cell, "GET", &format!("{name}.isy.one"), path, BROWSER));
        assert_eq!((nobodys.status, alfas.status), (404, 404), "{path}");
        assert_eq!(
            nobodys.body, alfas.body,
            "nor does what is closed tell which names there are"
        );
    }
    cell.isyctl(&["tenant", "create", "beta", "--plan", "sleepy"])
        .ok();
    odoo_answers(&cell, "beta");
    a_restart(&cell);
    suspended(&cell);
    asleep(&mut cell);
    the_host_is_gone(&cell);
}

fn nobody_has_this_name(cell: &Cell) {
    let english = wait_for("the edge to have its pages", MINUTE, || {
        let page = visit(cell, "GET", "nobody.isy.one", "/odoo", BROWSER);
        page.body.contains("There is nothing here").then_some(page)
    });
    assert_eq!(english.status, 404, "{}", english.head);
    assert!(
        english
            .head
            .contains("Content-Security-Policy: default-src 'none'"),
        "{}",
        english.head
    );
    let more = format!("{BROWSER}Accept-Language: pt-BR,pt;q=0.9\r\n");
    let portuguese = visit(cell, "POST", "www.example.com", "/", &more);
    assert!(
        portuguese.status == 404 && portuguese.body.contains("Não há nada aqui"),
        "{}",
        portuguese.body
    );
    // The coordinator's internal paths are not reachable for visitors.
    for path in ["/traefik/config", "/sd/odoo", "/healthz"] {
        assert_eq!(
            visit(cell, "GET", "nobody.isy.one", path, BROWSER).body,
            english.body,
            "{path}"
        );
    }
    assert_eq!(
        visit(cell, "GET", "www.example.com", "/metrics", BROWSER).body,
        english.body
    );
}

/// Who comes during a restart waits at the host's relay for a minute at most, and no page is shown.
fn a_restart(cell: &Cell) {
    let restarts = || cell.hosts[0].docker.started_at("odoo_alfa");
    let before = restarts();
    cell.isyctl(&["tenant", "restart", "alfa", "--no-wait"])
        .ok();
    while restarts() == before {
        let answer = get(cell.edge(), "alfa.isy.one", "/web/health");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    odoo_answers(cell, "alfa");
    // Odoo answers a little before its host has said so, and what comes next would find the restart under way.
    cell.wait_phase("alfa", "running", MINUTE);
}

fn suspended(cell: &Cell) {
    cell.isyctl(&["tenant", "suspend", "alfa"]).ok();
    let page = shows(cell, "alfa", "This service is suspended");
    assert!(
        page.head.contains("Retry-After: 3600") && !page.body.contains("http-equiv"),
        "{}",
        page.head
    );
    let json = visit(
        cell,
        "POST",
        "alfa.isy.one",
        "/jsonrpc",
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    );
    assert_eq!(
        (json.status, json.body.contains("\"code\":\"suspended\"")),
        (503, true),
        "{}",
        json.body
    );
    let upgrade = "GET /websocket HTTP/1.1\r\nHost: alfa.isy.one\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let socket = request_until_answered(cell, upgrade);
    assert!(
        socket.contains("503") && socket.contains("Retry-After"),
        "{socket}"
    );
    assert_eq!(visit(cell, "HEAD", "alfa.isy.one", "/", "").status, 503);
    cell.isyctl(&["tenant", "resume", "alfa"]).ok();
    odoo_answers(cell, "alfa");
}

/// The head of the answer to a request whose connection stays open.
fn request_until_answered(cell: &Cell, text: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(cell.edge()).expect("the edge");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    stream.write_all(text.as_bytes()).expect("sent");
    let mut bytes = [0; 4096];
    let n = stream.read(&mut bytes).expect("an answer");
    String::from_utf8_lossy(&bytes[..n]).into_owned()
}

fn asleep(cell: &mut Cell) {
    let sleeps = |cell: &Cell| cell.json(&["tenant", "show", "beta"])["asleep_time"].is_string();
    wait_for("beta to fall asleep", 4 * MINUTE, || {
        sleeps(cell).then_some(())
    });
    cell.wait_phase("beta", "suspended", MINUTE);
    let shown = cell.isyctl(&["tenant", "show", "beta"]).ok();
    assert!(shown.contains("asleep since"), "{shown}");
    assert!(cell.isyctl(&["tenant", "list"]).ok().contains("asleep"));
    // Automatic requests do not wake it, not even after the coordinator has restarted.
    cell.coordinator.as_mut().expect("running").kill();
    cell.start_coordinator();
    for (method, path) in [
        ("HEAD", "/"),
        ("GET", "/web/health"),
        ("GET", "/websocket"),
        ("GET", "/robots.txt"),
    ] {
        let answer = visit(cell, method, "beta.isy.one", path, "");
        assert!(
            matches!(answer.status, 502..=504),
            "{method} {path}: {}",
            answer.head
        );
    }
    assert!(sleeps(cell));
    shows(cell, "beta", "we are starting your system");
    odoo_answers(cell, "beta");
    let events = cell.isyctl(&["events", "--tenant", "beta"]).ok();
    assert_eq!(events.matches("tenant.woken").count(), 1, "{events}");
}

fn the_host_is_gone(cell: &Cell) {
    cell.on_hosts(&["cut", "h1"]).ok();
    // An edge's connection to the host that was used a moment ago is used again, and nobody says that it is dead.
    std::thread::sleep(Duration::from_secs(3));
    // The host sends nothing back, not even a refusal: visitors must not wait for it.
    let begin = Instant::now();
    let page = browse(cell, "alfa");
    assert!(matches!(page.status, 502..=504), "{}", page.head);
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    shows(cell, "alfa", "We cannot reach the server of this system");
    cell.on_hosts(&["heal", "h1"]).ok();
    cell.wait_host("h1", "ready");
    odoo_answers(cell, "alfa");
    assert!(
        get(cell.http(), "localhost", "/metrics")
            .body
            .contains("isyone_pages_total{page=\"host_lost\"}")
    );
}

//! What people see: a real Chromium, over HTTPS, through a real Traefik, at a real Odoo.

use std::{thread, time::Duration};

use isyone_tests::e2e::{
    authority, beside,
    browser::{Browser, installed},
    cell::{Cell, Shape},
    enabled,
    odoo::notify_admin,
};
use serde_json::json;

/// Odoo builds its assets for the first page: half a minute of one core, more where others have the machine.
const FIRST_PAGE: Duration = Duration::from_secs(300);
const MINUTE: Duration = Duration::from_secs(60);
/// True once the apps are shown with their icons.
const APPS: &str = "[...document.querySelectorAll('.o_kanban_record img')].filter(i => i.complete && i.naturalWidth).length > 5";
/// Heading of one of the product's own pages, shown in place of a tenant's.
const OUR_PAGE: &str = "document.querySelector('main[role=status] h1')";

#[test]
fn a_browser_logs_in_sees_the_apps_and_after_a_restart_sees_them_again_by_itself() {
    let name = "a_browser_logs_in_sees_the_apps_and_after_a_restart_sees_them_again_by_itself";
    if !enabled(name) || !installed(name) {
        return;
    }
    let _beside = beside();
    let config = "---[plans.small]\nmemory = \"1GiB\"\ncpu = 1.0\ndisk = \"1GiB\"\nworkers = 2\n";
    let cell = Cell::start(&Shape {
        config,
        secure: true,
        ..Shape::default()
    });
    let folder = cell.dir.path();
    authority::make(folder, "DNS:*.isy.one");
    let [certificate, key] =
        ["server.pem", "server.key"].map(|name| folder.join(name).display().to_string());
    cell.isyctl(&[
        "cert",
        "add",
        "wildcard",
        "--certificate",
        &certificate,
        "--key",
        &key,
    ])
    .ok();
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    let browser = Browser::start(folder, &folder.join("ca.pem"), "isy.one");
    it_logs_in_over_https(&cell, &browser);
    it_sees_the_apps(&cell, &browser);
    its_websocket_brings_messages(&cell, &browser);
    a_restart_is_a_page_that_takes_longer(&cell, &browser);
    it_sees_that_there_is_no_such_tenant(&cell, &browser);
}

fn it_logs_in_over_https(cell: &Cell, browser: &Browser) {
    let credentials = cell.json(&["tenant", "credentials", "alfa"]);
    let text = |key: &str| credentials[key].as_str().expect("text").to_owned();
    browser.open(&format!(
        "http://alfa.isy.one:{}/web/login",
        cell.edge().port()
    ));
    let login = format!("{}/web/login", cell.secure_origin("alfa.isy.one"));
    // Odoo's script shows the form once it knows that nobody has logged in here before.
    browser.wait(
        "the login page",
        FIRST_PAGE,
        "document.querySelector('input[name=login]')?.checkVisibility() === true",
    );
    assert_eq!(
        browser.value("location.href"),
        Some(login.into()),
        "plain HTTP leads to HTTPS"
    );
    browser.picture("login");
    browser.fill("input[name=login]", &text("login"));
    browser.fill("input[name=password]", &text("password"));
    browser.click(".oe_login_form button[type=submit]");
    browser.wait(
        "Odoo's own page",
        FIRST_PAGE,
        "document.querySelector('.o_main_navbar') !== null",
    );
}

fn it_sees_the_apps(cell: &Cell, browser: &Browser) {
    browser.open(&format!("{}/odoo/apps", cell.secure_origin("alfa.isy.one")));
    browser.wait("the apps", FIRST_PAGE, APPS);
    browser.picture("apps");
}

/// Uses the session and the origin that the browser itself sends.
fn its_websocket_brings_messages(cell: &Cell, browser: &Browser) {
    let open = "(() => { \
        const asked = new XMLHttpRequest(); asked.open('POST', '/web/session/get_session_info', false); \
        asked.setRequestHeader('Content-Type', 'application/json'); asked.send('{\"params\": {}}'); \
        const version = JSON.parse(asked.responseText).result.websocket_worker_version; \
        window.isyone = {state: 'opening', version, got: []}; \
        const socket = new WebSocket(`wss://${location.host}/websocket?version=${version}`); \
        socket.onopen = () => { \
            socket.send(JSON.stringify({event_name: 'subscribe', data: {channels: [], last: 0}})); isyone.state = 'open'; }; \
        socket.onclose = (e) => { isyone.state = `closed ${e.code} ${e.reason}`; }; \
        socket.onmessage = (e) => { isyone.got.push(...JSON.parse(e.data).map(m => m.message.type)); }; \
        return true; })()";
    assert_eq!(browser.value(open), Some(true.into()));
    browser.wait("the websocket", MINUTE, "isyone.state !== 'opening'");
    assert_eq!(
        browser.value("isyone.state"),
        Some("open".into()),
        "{:?}",
        browser.value("isyone")
    );
    notify_admin(cell, "alfa", "isyone.test", &json!({}));
    browser.wait(
        "the message of the bus",
        MINUTE,
        "isyone.got.includes('isyone.test')",
    );
    assert_eq!(browser.value("isyone.state"), Some("open".into()));
}

/// Who asks for a page during a restart waits for it.
fn a_restart_is_a_page_that_takes_longer(cell: &Cell, browser: &Browser) {
    let apps = format!("{}/odoo/apps", cell.secure_origin("alfa.isy.one"));
    thread::scope(|scope| {
        let restart = scope.spawn(|| cell.isyctl(&["tenant", "restart", "alfa"]).ok());
        while !restart.is_finished() {
            browser.open(&apps);
            let ours = browser.value(&format!("{OUR_PAGE} !== null"));
            assert_eq!(ours, Some(false.into()), "{}", browser.seen());
        }
        restart.join().expect("the restart");
    });
    // From here on the test does nothing in the browser.
    browser.wait("Odoo after the restart", FIRST_PAGE, APPS);
    assert_eq!(browser.value("location.href"), Some(apps.into()));
}

fn it_sees_that_there_is_no_such_tenant(cell: &Cell, browser: &Browser) {
    browser.open(&format!(
        "{}/web/login",
        cell.secure_origin("nobody.isy.one")
    ));
    browser.wait("the page", MINUTE, &format!("{OUR_PAGE} !== null"));
    browser.picture("unknown");
    assert!(
        !browser.seen().contains("alfa"),
        "nobody learns which tenants there are: {}",
        browser.seen()
    );
}

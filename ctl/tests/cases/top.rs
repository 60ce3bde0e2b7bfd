//! `isyctl top`: what keys show on the screen, and the state it leaves the terminal in.

use std::process::Command;

use isyone_ctl::top::{
    draw,
    model::{Answer, Effect, Event, Model, Query, Tab},
    screen::Screen,
    view,
};
use isyone_proto::pb::v1::{HostOrder, TenantOrder};
use ratatui::{
    Terminal as Painter,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Modifier,
};
use rustix::process::Signal;

use crate::support::{
    data,
    pty::{self, Terminal},
    run::{self, command, golden, isyctl},
    top,
};

/// Set when this test binary runs itself in order to panic while it has the terminal.
const PANIC: &str = "ISYONE_TEST_PANIC_ON_SCREEN";

/// A user at the screen, and a coordinator that answers at once.
struct Watcher {
    model: Model,
    effects: Vec<Effect>,
    transcript: String,
}

fn answer(query: Query) -> Answer {
    let tenant = query
        .tenant
        .as_ref()
        .and_then(|name| data::followed().into_iter().find(|t| t.name == *name));
    let host = query
        .host
        .as_ref()
        .and_then(|name| data::hosts().into_iter().find(|h| h.name == *name));
    Answer {
        tenants: top::tenants(&query.tenants),
        hosts: top::hosts(&query.hosts),
        tenant,
        host,
        query,
    }
}

fn key(code: KeyCode) -> Event {
    Event::Key(KeyEvent::from(code))
}

impl Watcher {
    fn new(columns: u16, rows: u16) -> Self {
        let model = Model::new("test", TenantOrder::State, "", Tab::Tenants);
        let mut watcher = Self {
            model,
            effects: Vec::new(),
            transcript: String::new(),
        };
        watcher.happens(Event::Tick(
            data::NOW
                .parse::<jiff::Timestamp>()
                .unwrap()
                .as_millisecond(),
        ));
        watcher.happens(Event::Resize(columns, rows));
        watcher
    }

    fn happens(&mut self, event: Event) {
        let effects = self.model.update(event);
        if effects.contains(&Effect::Fetch) {
            let answer = answer(self.model.query());
            assert_eq!(self.model.update(Event::Answer(Box::new(answer))), []);
        }
        self.effects.extend(effects);
    }

    fn types(&mut self, text: &str) {
        text.chars()
            .for_each(|letter| self.happens(key(KeyCode::Char(letter))));
    }

    /// The current screen. A mark at the end of a line shows that it is selected.
    fn screen(&self) -> String {
        let (columns, rows) = self.model.size;
        let mut painter = Painter::new(TestBackend::new(columns, rows)).unwrap();
        painter
            .draw(|frame| draw::draw(frame, &view::view(&self.model), true))
            .unwrap();
        let buffer = painter.backend().buffer();
        let line = |y| {
            let cells: Vec<_> = (0..columns).map(|x| &buffer[(x, y)]).collect();
            let text: String = cells.iter().map(|cell| cell.symbol()).collect();
            let selected = cells
                .iter()
                .any(|cell| cell.modifier.contains(Modifier::REVERSED));
            format!("{}{}\n", text.trim_end(), if selected { " <" } else { "" })
        };
        (0..rows).map(line).collect()
    }

    fn picture(&mut self, after: &str) {
        let screen = self.screen();
        self.transcript.push_str(&format!(
            "==== {after} ({}x{})\n{screen}",
            self.model.size.0, self.model.size.1
        ));
    }
}

#[test]
fn pictures() {
    let mut watcher = Watcher::new(80, 24);
    watcher.picture("start");
    watcher.happens(key(KeyCode::Down));
    watcher.happens(key(KeyCode::End));
    watcher.picture("Down, End");
    watcher.happens(key(KeyCode::Home));
    watcher.types("ss");
    watcher.types("r");
    watcher.picture("Home, s, s, r");
    watcher.types("/hung");
    watcher.picture("/hung");
    watcher.happens(key(KeyCode::Enter));
    watcher.happens(key(KeyCode::Enter));
    watcher.picture("Enter, Enter");
    watcher.happens(key(KeyCode::Down));
    watcher.happens(key(KeyCode::PageDown));
    watcher.picture("Down, PageDown");
    watcher.types("l");
    watcher.happens(Event::LogLines(
        (1..=40).map(|n| format!("odoo: line {n}")).collect(),
    ));
    watcher.picture("l");
    watcher.happens(key(KeyCode::Up));
    watcher.happens(Event::LogLines(vec!["odoo: line 41".to_owned()]));
    watcher.happens(Event::LogEnded("the log has ended".to_owned()));
    watcher.picture("Up, one more line, the end");
    watcher.happens(key(KeyCode::Esc));
    watcher.happens(key(KeyCode::Esc));
    watcher.happens(key(KeyCode::Esc));
    watcher.happens(key(KeyCode::Tab));
    watcher.picture("Esc, Esc, Esc, Tab");
    watcher.happens(key(KeyCode::Down));
    watcher.happens(key(KeyCode::Enter));
    watcher.picture("Down, Enter");
    watcher.types("?");
    watcher.picture("?");
    watcher.happens(key(KeyCode::Esc));
    watcher.happens(Event::Failed(
        "cannot follow the fleet: no connection".to_owned(),
    ));
    watcher.types("1");
    watcher.happens(Event::Failed(
        "cannot follow the fleet: no connection".to_owned(),
    ));
    watcher.happens(Event::Resize(132, 12));
    watcher.happens(Event::Failed(
        "cannot follow the fleet: no connection".to_owned(),
    ));
    watcher.picture("Esc, 1, no answer, a wide terminal");
    watcher.happens(Event::Resize(30, 5));
    watcher.picture("a tiny one");
    run::compare_golden("top-screens", &watcher.transcript);
}

#[test]
fn keys_lead_where_they_should() {
    let mut watcher = Watcher::new(80, 24);
    watcher.types("l");
    watcher.happens(key(KeyCode::Esc));
    watcher.types("L");
    let opened: Vec<_> = watcher
        .effects
        .iter()
        .filter(|effect| **effect != Effect::Fetch)
        .cloned()
        .collect();
    let log = |role| Effect::OpenLog("alfa".to_owned(), role);
    let (odoo, postgres) = (
        isyone_proto::pb::v1::ContainerRole::Odoo,
        isyone_proto::pb::v1::ContainerRole::Postgres,
    );
    assert_eq!(opened, [log(odoo), Effect::CloseLog, log(postgres)]);
    // Esc goes back step by step, clears the filter, then quits.
    let mut watcher = Watcher::new(80, 24);
    watcher.types("/alfa\u{8}");
    watcher.happens(key(KeyCode::Backspace));
    watcher.happens(key(KeyCode::Enter));
    watcher.happens(key(KeyCode::Enter));
    for _ in 0..2 {
        watcher.happens(key(KeyCode::Esc));
        assert!(!watcher.effects.contains(&Effect::Quit));
    }
    assert_eq!(
        (
            watcher.model.tenants.filter.as_str(),
            watcher.model.layers.len()
        ),
        ("", 0)
    );
    watcher.happens(key(KeyCode::Esc));
    assert_eq!(watcher.effects.last(), Some(&Effect::Quit));
    // While a filter is being typed, q is a letter, and Esc restores the old filter.
    let mut watcher = Watcher::new(80, 24);
    watcher.types("/q");
    assert_eq!(watcher.model.tenants.filter, "q");
    watcher.happens(key(KeyCode::Esc));
    assert_eq!(
        (
            watcher.model.tenants.filter.as_str(),
            watcher.effects.contains(&Effect::Quit)
        ),
        ("", false)
    );
    watcher.happens(Event::Key(KeyEvent::new(
        KeyCode::Char('c'),
        KeyModifiers::CONTROL,
    )));
    assert_eq!(watcher.effects.last(), Some(&Effect::Quit));
}

#[test]
fn an_answer_to_an_older_question_does_not_replace_what_is_looked_at() {
    let mut watcher = Watcher::new(80, 24);
    let old = answer(watcher.model.query());
    watcher.types("/dark");
    let before = watcher.screen();
    watcher.happens(Event::Answer(Box::new(old.clone())));
    assert_eq!(watcher.screen(), before);
    watcher.happens(key(KeyCode::Enter));
    watcher.happens(key(KeyCode::Enter));
    let before = watcher.screen();
    assert!(
        before.contains("no connection: connection refused"),
        "{before}"
    );
    watcher.happens(Event::Answer(Box::new(old)));
    assert_eq!(watcher.screen(), before);
    // The tenant was deleted in the meantime.
    let mut gone = answer(watcher.model.query());
    gone.tenant = None;
    watcher.happens(Event::Answer(Box::new(gone)));
    assert!(
        watcher
            .screen()
            .contains("there is no such tenant any more")
    );
}

#[test]
fn only_what_fits_on_the_screen_is_asked_for() {
    let mut watcher = Watcher::new(80, 24);
    let asked = watcher.model.query();
    assert_eq!(
        (asked.tenants.offset, asked.tenants.limit, asked.hosts.limit),
        (0, 40, 1)
    );
    watcher.happens(key(KeyCode::End));
    let asked = watcher.model.query();
    assert_eq!(
        (asked.tenants.offset, asked.tenants.limit),
        (0, 55 - 20 + 20 - 20 + 21)
    );
    watcher.happens(Event::Resize(300, 1_000));
    assert_eq!(watcher.model.query().tenants.limit, 200);
    watcher.types("2");
    let asked = watcher.model.query();
    assert_eq!(
        (asked.tenants.limit, asked.hosts.limit, asked.hosts.order()),
        (1, 200, HostOrder::State)
    );
}

#[test]
fn what_is_only_counted_costs_the_coordinator_no_order() {
    let cheap = |watcher: &Watcher| {
        let asked = watcher.model.query();
        let orders = (asked.tenants.order(), asked.hosts.order());
        assert_eq!(orders, (TenantOrder::Name, HostOrder::Name));
        assert_eq!((asked.tenants.limit, asked.hosts.limit), (1, 1));
    };
    let mut watcher = Watcher::new(80, 24);
    assert_eq!(watcher.model.query().tenants.order(), TenantOrder::State);
    watcher.happens(key(KeyCode::Enter));
    cheap(&watcher);
    watcher.types("l");
    cheap(&watcher);
    // Back in the list, the order chosen earlier still applies.
    watcher.happens(key(KeyCode::Esc));
    watcher.happens(key(KeyCode::Esc));
    assert_eq!(watcher.model.query().tenants.order(), TenantOrder::State);
}

#[test]
fn one_look() {
    golden(
        "top",
        &[
            "top",
            "top --once --rows 4",
            "top --once --filter dark",
            "top -o name --rows 3 --sort name",
            "top --sort size",
            "top --every 100ms",
        ],
    );
    let run = isyctl(&["top", "-o", "json", "--rows", "7"]);
    let look: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (
            look["hosts"].as_array().unwrap().len(),
            look["tenants"].as_array().unwrap().len()
        ),
        (3, 7)
    );
    assert_eq!(look["tenants"][0]["traffic"]["requests_per_minute"], 192);
    assert_eq!(look["tenants"][1]["traffic"], serde_json::Value::Null);
    assert_eq!(look["tenants"][1]["probe"]["reach"], "tenant_down");
    assert_eq!(look["edges"][1]["up"], false);
}

/// `isyctl top` running in a terminal and showing tenants.
fn at_work() -> Terminal {
    let mut terminal = Terminal::start(command(&["top", "--every", "1s"]));
    terminal.expect("\x1b[?1049h");
    // Match single words: drawing skips blanks that are there already.
    terminal.expect("hungry-with-a-rather");
    terminal.expect("tenant-20");
    assert!(!terminal.is_cooked());
    terminal
}

/// Asserts that a shell could use the terminal again.
fn given_back(mut terminal: Terminal, code: i32) {
    assert_eq!(terminal.wait(), code);
    terminal.expect("\x1b[?1049l");
    terminal.expect("\x1b[?25h");
    assert!(terminal.is_cooked());
}

#[test]
fn at_a_terminal_keys_do_what_they_say_and_q_gives_it_back() {
    let mut terminal = at_work();
    terminal.send("/dark\r");
    // After a resize everything is drawn anew, not only what differs.
    terminal.resize(90, 25);
    terminal.expect("/dark");
    // The filtered row may not be loaded yet; once the tenant is open, Enter does nothing.
    terminal.send_until("\r", "refused");
    terminal.send("l");
    terminal.expect("ready");
    terminal.forget();
    terminal.send("\x1b");
    terminal.resize(80, 24);
    terminal.expect("refused");
    // The key may still arrive together with the resize.
    terminal.send_until_end("q");
    given_back(terminal, 0);
}

#[test]
fn ctrl_c_and_signals_give_the_terminal_back() {
    let mut terminal = at_work();
    terminal.send("\x03");
    given_back(terminal, 0);
    for kind in [Signal::TERM, Signal::HUP, Signal::INT] {
        let terminal = at_work();
        pty::signal(&terminal.child, kind);
        given_back(terminal, 130);
    }
}

#[test]
fn a_terminal_that_goes_away_without_a_signal_ends_it() {
    let mut terminal = at_work();
    terminal.go_away();
    assert_eq!(terminal.wait(), 130);
    // In the middle of a key sequence, the key reader waits for the rest and does not notice a hangup.
    let mut terminal = at_work();
    terminal.send("\x1b[");
    terminal.go_away();
    assert_eq!(terminal.wait(), 130);
}

#[test]
fn a_panic_gives_the_terminal_back() {
    if std::env::var_os(PANIC).is_some() {
        let screen = Screen::enter(false).unwrap_or_else(|e| panic!("{e}"));
        screen.show(view::view(&Watcher::new(80, 24).model));
        panic!("on purpose");
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again
        .args([
            "cases::top::a_panic_gives_the_terminal_back",
            "--exact",
            "--nocapture",
        ])
        .env(PANIC, "1");
    let mut terminal = Terminal::start(again);
    terminal.expect("on purpose");
    let seen = terminal.seen();
    assert!(
        seen.find("\x1b[?1049l").unwrap() < seen.find("on purpose").unwrap(),
        "{seen}"
    );
    assert!(terminal.is_cooked());
    assert_ne!(terminal.wait(), 0);
}

//! Lines 1, 2, 9, 10 and 11: requests that cost too much, come or go too slowly, or whose body has no length.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use isyone_tests::e2e::bombard::{
    Client, attacker,
    attacks::{self, Wanted},
    result,
};
use serde_json::{Value, json};

use super::{Alone, STEADY, Tenant};

/// What others may wait beside somebody's costly body.
const OTHERS: Duration = Duration::from_secs(3);
/// What others may wait longer beside slow senders of one address.
const HARDLY: Duration = Duration::from_millis(50);
/// What a machine of two cores does by itself now and then, beside that.
const HICCUP: Duration = Duration::from_millis(200);
/// Above what the relay waits for the next byte of a body.
const TOO_LONG: Duration = Duration::from_secs(33);

/// Line 1: who has no session is refused unparsed; for who makes one up it is an error of that one request.
pub(super) fn costly_bodies(tenant: &Tenant<'_>) {
    // Two workers would both be at it when there are two bodies, and together they may have more memory than there is.
    let (each, bytes) = match tenant.name {
        "small" => (tenant.pick(1, 2), tenant.pick(21_000_000, 30_000_000)),
        _ => (1, tenant.pick(21_000_000, 63_000_000)),
    };
    let started = tenant.started();
    let (seen, (unknown, known)) = tenant.beside("1 bodies of 21 MB and more", STEADY, || {
        let unknown = send(tenant, each * 3, bytes, None);
        let known = send(tenant, each, bytes, Some(attacks::made_up_session()));
        (unknown, known)
    });
    println!("         without a session {unknown:?}, with one made up {known:?}");
    assert!(unknown.iter().all(|status| *status == 413), "{unknown:?}");
    // With workers, 502: the one that had it was ended.
    let is_an_answer = |status: &u16| match status {
        200 | 400 | 413 | 500 => true,
        status => *status == 502 && tenant.name == "standard",
    };
    assert!(known.iter().all(is_an_answer), "{known:?}");
    seen.assert_all_served("beside costly bodies");
    assert!(seen.longest() < OTHERS, "{seen}");
    tenant.assert_not_restarted(&started);
}

/// Statuses of so many at once, each from an address of its own.
fn send(tenant: &Tenant<'_>, count: usize, bytes: usize, cookie: Option<String>) -> Vec<u16> {
    thread::scope(|scope| {
        let sent: Vec<_> = (0..count)
            .map(|number| {
                let mut client = Client::new(&tenant.place, attacker(number));
                client.cookie.clone_from(&cookie);
                scope.spawn(move || attacks::costly_body(&client, bytes).status)
            })
            .collect();
        let join = |sent: thread::ScopedJoinHandle<'_, u16>| sent.join().expect("an answer");
        sent.into_iter().map(join).collect()
    })
}

/// Line 2: connections that send a byte a second.
pub(super) fn slow_senders(tenant: &Tenant<'_>, alone: &Alone) {
    let time = tenant.pick(Duration::from_secs(6), Duration::from_secs(60));
    for (line, addresses, each) in [
        ("2 60 slow senders of one address", 1, 60),
        ("2 100 slow senders of 50 addresses", 50, 2),
    ] {
        let is_over = AtomicBool::new(false);
        let (seen, (begun, left)) = tenant.beside(line, STEADY, || {
            thread::scope(|scope| {
                let sending =
                    scope.spawn(|| attacks::slow_senders(&tenant.place, addresses, each, &is_over));
                thread::sleep(time);
                is_over.store(true, Ordering::Relaxed);
                sending.join().expect("senders")
            })
        });
        println!("         {begun} began, {left} went on to the end");
        seen.assert_all_served(line);
        if addresses == 1 {
            assert!(seen.quantile(0.5) < alone.p50 + HARDLY, "{seen}");
            assert!(seen.quantile(0.99) < alone.p99 + HARDLY + HICCUP, "{seen}");
        }
    }
}

/// Lines 9 and 10: readers and senders that are slow or pause have their workers' answers, whole, and no worker waits for them.
pub(super) fn slow_readers_and_pauses(tenant: &Tenant<'_>) {
    let admin = tenant.admin().at(attacker(0));
    let (bytes, rate) = tenant.pick((8 << 20, 1_000_000), (47 << 20, 500_000));
    let file = attacks::make_file(&admin, bytes);
    let pause = tenant.pick(Duration::from_secs(3), Duration::from_secs(25));
    let line = "9, 10 slow readers, pauses";
    let (seen, (read, sent)) = tenant.beside(line, STEADY, || {
        thread::scope(|scope| {
            let (admin, file) = (&admin, file);
            let read = [Wanted::Download, Wanted::Answer].map(|wanted| {
                let pause = Duration::from_secs(5);
                scope.spawn(move || attacks::slow_reader(admin, file, wanted, rate, pause))
            });
            let sent = attacks::pausing_sender(&tenant.admin().at(attacker(1)), "pauses", pause);
            (read.map(|read| read.join().expect("an answer")), sent)
        })
    });
    println!(
        "         read {read:?}, a body that paused for {pause:?}: {}",
        sent.status
    );
    let [(download, is_whole), (_, is_answer_whole)] = read;
    assert!(is_whole && is_answer_whole && download == bytes, "{read:?}");
    assert!(result(&sent).is_ok(), "{sent:?}");
    seen.assert_all_served(line);
}

/// Line 10: a pause that is too long has a clear end. Beside the lines that follow, because it takes its time.
pub(super) fn a_pause_that_is_too_long(client: &Client) {
    let late = attacks::pausing_sender(client, "pauses too long", TOO_LONG);
    println!(
        "         a body that paused for {TOO_LONG:?}: {}",
        late.status
    );
    assert_eq!(late.status, 408, "{late:?}");
}

/// Line 11: a filter in chunks filters.
pub(super) fn in_chunks(tenant: &Tenant<'_>) {
    const KEY: &str = "when = datetime.datetime.now() + datetime.timedelta(hours=2)\n\
        action = {'type': 'ir.actions.act_window_close', 'infos': env['res.users.apikeys']._generate('rpc', 'bombard', when)}";
    let admin = tenant.admin();
    let action = attacks::make_action(admin, KEY);
    let made = result(&attacks::run_action(admin, action, &json!({}))).expect("a key");
    let key = made["infos"].as_str().expect("a key");
    let filter = json!({"domain": [["name", "=", "nobody has this name"]], "fields": ["name"]});
    let path = "/json/2/res.partner/search_read";
    let answers = attacks::in_chunks(
        &tenant.place,
        Ipv4Addr::new(127, 0, 0, 80),
        key,
        path,
        &filter,
    );
    let found = answers.map(|answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str::<Value>(&answer.body).expect("JSON")
    });
    assert_eq!(found, [json!([]), json!([])]);
    println!(
        "{:<8} 11 a body in chunks: filtered, as with a length",
        tenant.name
    );
}

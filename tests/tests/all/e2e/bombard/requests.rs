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
    let bytes = match tenant.name {
        "small" => 30_000_000,
        _ => tenant.pick(30_000_000, 63_000_000),
    };
    let (each, started) = (tenant.pick(2, 6), tenant.started());
    let (seen, (unknown, known)) = tenant.beside("1 bodies of 30 MB and more", STEADY, || {
        let unknown = send(tenant, each, bytes, None);
        let known = send(tenant, each, bytes, Some(attacks::made_up_session()));
        (unknown, known)
    });
    println!("         without a session {unknown:?}, with one made up {known:?}");
    assert!(unknown.iter().all(|status| *status == 413), "{unknown:?}");
    let is_an_answer = |status: &u16| matches!(status, 200 | 400 | 413 | 500);
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
    let (seen, (read, sent, late)) = tenant.beside(line, STEADY, || {
        thread::scope(|scope| {
            let (admin, file) = (&admin, file);
            let read = [Wanted::Download, Wanted::Answer].map(|wanted| {
                let pause = Duration::from_secs(5);
                scope.spawn(move || attacks::slow_reader(admin, file, wanted, rate, pause))
            });
            let pauses = [("pauses", pause), ("pauses too long", TOO_LONG)];
            let sent = pauses.map(|(name, pause)| {
                let client = tenant.admin().at(attacker(1));
                scope.spawn(move || attacks::pausing_sender(&client, name, pause))
            });
            let [sent, late] = sent.map(|sent| sent.join().expect("an answer"));
            (read.map(|read| read.join().expect("an answer")), sent, late)
        })
    });
    println!(
        "         read {read:?}, a body that paused for {pause:?} {}, for {TOO_LONG:?} {}",
        sent.status, late.status
    );
    let [(download, is_whole), (_, is_answer_whole)] = read;
    assert!(is_whole && is_answer_whole && download == bytes, "{read:?}");
    assert!(result(&sent).is_ok(), "{sent:?}");
    assert_eq!(late.status, 408, "{late:?}");
    seen.assert_all_served(line);
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

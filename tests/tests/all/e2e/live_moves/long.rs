//! The same at several sizes and with workers, while a request of twenty seconds, an upload of 100 MB and a websocket are under way: what
//! becomes of each, and how long users wait. Only in the long form.
//!
//! Not here: what it is compared with (the bench).

use std::{thread, time::Duration};

use isyone_tests::e2e::{
    alone,
    cell::{Cell, Shape},
    enabled,
    moving::{
        self, Load, Told,
        fates::{self, Fates, UnderWay},
    },
    odoo::User,
};

use super::{LONGEST, answers_of, begin_anew, move_to, nothing_is_lost};

/// Of its database, MiB: as it is made, and grown.
const SIZES_MIB: [u64; 3] = [21, 482, 2_048];
/// What the operation and the client may say that differs: who is held waits for a place afterwards, on a machine that does other things.
const APART: Duration = Duration::from_secs(10);

#[test]
fn whatever_its_size_and_its_workers_nobody_notices() {
    if !enabled("whatever_its_size_and_its_workers_nobody_notices") {
        return;
    }
    if std::env::var_os("ISYONE_LONG").is_none() {
        println!("not run: it takes a quarter of an hour (`cargo xtask test --long`)");
        return;
    }
    let _alone = alone();
    let mut cell = Cell::start(&Shape {
        hosts: 2,
        config: "---[plans.small]\nmemory=\"1536MiB\"\ncpu=1.0\ndisk=\"12GiB\"\nworkers=0\n\
            [plans.workers]\nmemory=\"2GiB\"\ncpu=2.0\ndisk=\"12GiB\"\nworkers=2\n",
        ..Shape::default()
    });
    super::allow_live_moves(&mut cell);
    for (tenant, plan) in [("alfa", "small"), ("beta", "workers")] {
        let words = ["tenant", "create", tenant, "--plan", plan, "--host", "h1"];
        cell.isyctl(&words).ok();
        answers_of(&cell, tenant);
        let user = User::admin(&cell, tenant);
        let mark = "create sequence mark; select nextval('mark') from generate_series(1, 5)";
        moving::sql(&cell, tenant, mark);
        for (mib, to) in SIZES_MIB.into_iter().zip(["h2", "h1", "h2"]) {
            if mib > SIZES_MIB[0] {
                moving::grow(&cell, tenant, mib);
            }
            it_moves_with_all_under_way(&cell, &user, (tenant, plan), (mib, to));
        }
        let delete = ["tenant", "delete", tenant, "--purge", "--yes"];
        println!("{}", cell.isyctl(&delete).stderr);
    }
}

fn it_moves_with_all_under_way(
    cell: &Cell,
    user: &User,
    (tenant, plan): (&str, &str),
    (mib, to): (u64, &str),
) {
    let marked = begin_anew(cell, tenant);
    let load = Load::mixed(cell, user, tenant);
    thread::sleep(Duration::from_secs(3));
    // The base backup of a large one takes longer than these do: they begin when it is nearly there.
    let ahead = Duration::from_secs(mib / 64);
    let slept = format!("slept-{mib}");
    let (fates, ()) = thread::scope(|scope| {
        let under_way = scope.spawn(|| {
            thread::sleep(ahead);
            UnderWay::begin(user, &slept).end()
        });
        move_to(cell, tenant, to);
        (under_way.join().expect("it does not panic"), ())
    });
    thread::sleep(Duration::from_secs(3));
    let seen = load.end();
    let told = Told::last(cell, tenant);
    println!(
        "FIGURE {plan}, {mib} MiB: paused for {:.1} s by the operation, longest wait {:.2} s by the client, {} requests, {} failed; {}",
        told.paused.as_secs_f64(),
        seen.longest.as_secs_f64(),
        seen.answered,
        seen.failed.len(),
        told.stages()
    );
    tell(&fates);
    nothing_is_lost(cell, tenant, &seen, marked);
    assert!(seen.longest <= LONGEST, "{:?}", seen.longest);
    assert!(seen.longest.abs_diff(told.paused) <= APART);
    assert!(fates.long.0, "the request of twenty seconds");
    let once = format!("select count(*) from res_partner where name = '{slept}'");
    assert_eq!(moving::sql(cell, tenant, &once), "1", "what it wrote");
    assert!(fates.upload.0, "the upload");
    assert_eq!(fates::stored(cell, tenant), fates.upload.2, "its file");
    let (sent, came) = &fates.messages;
    assert_eq!(sent, came, "a message is missing, or came twice");
}

fn tell(fates: &Fates) {
    let (sent, came) = &fates.messages;
    println!(
        "  the request of 20 s: {} after {:.1} s; the upload of 100 MB: {} after {:.1} s; the websocket ended {} times, came again after \
         {:.1} s at most, and has {} of {} messages",
        word(fates.long.0),
        fates.long.1.as_secs_f64(),
        word(fates.upload.0),
        fates.upload.1.as_secs_f64(),
        fates.ended.0,
        fates.ended.1.as_secs_f64(),
        came.len(),
        sent.len()
    );
}

fn word(is_well: bool) -> &'static str {
    if is_well { "answered" } else { "FAILED" }
}

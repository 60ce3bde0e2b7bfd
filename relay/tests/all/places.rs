//! The relay's place is lost: its directory was removed, or somebody else's sockets are there. Visitors are served on, and it is found again.
//!
//! Not here: a hand-over as it should be (restarts).

use std::{
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use isyone_relay::{Relay, Settings, limits::Limits};

use crate::{
    client::{Client, get},
    kit::{self, Kit},
    odoo::Odoo,
};

const HONEST: &str = "203.0.113.1";
/// Longer than a relay takes to look twice.
const LOOKS: Duration = Duration::from_millis(2_500);

/// Asks for a page every few milliseconds until something has come to its end: all are answered.
async fn served_until<T>(kit: &Kit, done: impl Future<Output = T>) -> T {
    let mut done = std::pin::pin!(done);
    loop {
        assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
        tokio::select! {
            done = &mut done => return done,
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

async fn taken_over(kit: &Kit, before: Relay) -> Relay {
    let after = Relay::start(kit.settings.clone()).await.unwrap();
    assert_eq!(after.faults(), [""; 0], "it got the addresses");
    let handed_over = tokio::time::timeout(Duration::from_secs(5), before.handed_over());
    handed_over.await.expect("it lets go");
    assert_eq!(before.drain(Duration::from_secs(5)).await.cut_off, 0);
    after
}

/// A directory is gone at once: the relay that finds its sockets gone before the directory is would make them anew in it.
fn remove(folder: &std::path::Path) {
    let aside = folder.with_extension("gone");
    std::fs::rename(folder, &aside).unwrap();
    std::fs::remove_dir_all(aside).unwrap();
}

/// Whether somebody listens at a socket.
fn answers(path: &std::path::Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// A data directory that is lost, and an agent that begins anew and has no plan yet: nobody is there who could do better.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_directory_was_removed_serves_on_and_is_found_in_the_next_one() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    let before = kit.relay.take().unwrap();
    let folder = kit.settings.routes.parent().unwrap().to_owned();
    remove(&folder);
    served_until(&kit, tokio::time::sleep(LOOKS)).await;
    std::fs::create_dir(&folder).unwrap();
    let settings = kit.settings.clone();
    let found = kit::until("it is found there", || {
        answers(&settings.handover) && answers(&settings.admin)
    });
    served_until(&kit, found).await;
    // What is too large for memory has a place, too.
    let mut client = Client::connect(kit.address(), HONEST).await;
    let large = vec![b'x'; 4 << 20];
    let answer = client.ask("POST", "/", &kit::cookie(), &large).await;
    assert_eq!(answer.status, 200);
    let error = Relay::start(kit.settings.clone()).await.unwrap_err();
    assert!(error.to_string().contains("goes on"), "{error}");
    served_until(&kit, tokio::time::sleep(LOOKS)).await;
    // The plan comes, and another relay.
    kit.write();
    let after = served_until(&kit, taken_over(&kit, before)).await;
    served_until(&kit, tokio::time::sleep(LOOKS)).await;
    drop(after);
}

/// A relay that came to be in the place of another one without asking it.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_lets_go_only_of_what_the_one_in_its_place_has_routes_for() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    let before = kit.relay.take().unwrap();
    let other = tempfile::tempdir().unwrap();
    let path = |name: &str| other.path().join(name);
    let after = Relay::start(Settings {
        routes: path("routes.json"),
        spool: path("spool"),
        admin: path("admin.sock"),
        handover: path("handover.sock"),
        version: "1".to_owned(),
    });
    let after = after.await.unwrap();
    let folder = kit.settings.routes.parent().unwrap().to_owned();
    remove(&folder);
    std::os::unix::fs::symlink(other.path(), folder).unwrap();
    served_until(&kit, tokio::time::sleep(LOOKS)).await;
    kit.write();
    let handed_over = tokio::time::timeout(Duration::from_secs(5), before.handed_over());
    handed_over.await.expect("it lets go");
    kit::until("the other one listens", || after.faults().is_empty()).await;
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    before.drain(Duration::from_secs(1)).await;
    let asked = tokio::time::timeout(LOOKS, after.handed_over());
    assert!(asked.await.is_err(), "nobody is in its place");
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
}

/// A successor that dies when its sockets are in place, and before it has taken over.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_does_not_let_go_for_one_that_is_dead() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    let before = kit.relay.take().unwrap();
    for path in [&kit.settings.admin, &kit.settings.handover] {
        let new = path.with_extension("new");
        drop(UnixListener::bind(&new).unwrap());
        std::fs::rename(&new, path).unwrap();
        assert!(!answers(path));
    }
    served_until(&kit, tokio::time::sleep(LOOKS)).await;
    let let_go = tokio::time::timeout(Duration::from_millis(1), before.handed_over());
    assert!(let_go.await.is_err(), "nobody is there");
    assert!(answers(&kit.settings.admin), "it is reached again");
    served_until(&kit, taken_over(&kit, before)).await;
    drop(odoo);
}

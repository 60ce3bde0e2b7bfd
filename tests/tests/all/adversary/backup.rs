//! A backup that falls into wrong hands.
//!
//! Not here: the keys' encryption (the coordinator's backup), restoring with real parts (`e2e::adversary::rotation`).

use std::os::unix::fs::PermissionsExt as _;

use isyone_coordinator::{
    base::secrets::KEY_FILE,
    rotation::control::{self, Order},
    writer::store::{Store as _, sqlite::SqliteStore},
};
use isyone_fleet::written;
use isyone_tests::fleet::Fleet;

/// A copy of the database is whole, and has no key in it.
#[test]
fn a_backup_of_the_running_coordinator_is_all_of_it_and_holds_no_key() {
    let fleet = Fleet::start("");
    let data = fleet.dir.path().join("coordinator");
    let copied = control::ask(&data, &Order::Backup).expect("it answers");
    assert!(copied.done, "{}", copied.text);
    let copy = data.join(control::COPY);
    let mode = std::fs::metadata(&copy)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let bytes = std::fs::read(&copy).expect("it is there");
    for key in [KEY_FILE, "pki/ca.key"] {
        let text = std::fs::read_to_string(data.join(key)).expect("a key");
        let line = text.lines().nth(1).unwrap_or(&text).as_bytes();
        assert!(!bytes.windows(line.len()).any(|part| part == line), "{key}");
    }
    let contents = fleet.client.block_on(async {
        let mut store = SqliteStore::open(&copy).await.expect("it opens");
        store.load().await.expect("it reads back")
    });
    let read = written::fleet(contents).expect("it is a fleet");
    assert_eq!(read, fleet.coordinator.snapshot().fleet);
}

//! What each kind of failure of SQLite means for a commit.
//!
//! Not here: what the writer makes of it (recovery).

use super::*;
use crate::writer::store::TERM;

fn put(id: &str) -> Vec<Write> {
    let record = Record {
        kind: RecordKind::Meta,
        id: id.to_owned(),
        body: "1".to_owned(),
    };
    vec![Write::Put(isyone_fleet::written::RecordValue::Copy(record))]
}

async fn store(folder: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("fleet.db"))
        .await
        .unwrap()
}

async fn sql(store: &mut SqliteStore, text: &'static str) {
    execute(store.connected().await.unwrap(), text)
        .await
        .unwrap();
}

/// Number of commits, and the keys of what is stored.
async fn stored(store: &mut SqliteStore) -> (u64, Vec<String>) {
    let contents = store.load().await.unwrap();
    let keys = contents.records.into_iter().map(|record| record.id);
    (contents.commits, keys.collect())
}

#[tokio::test]
async fn an_error_before_commit_refuses_and_the_next_commit_works() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder).await;
    for trigger in [
        "CREATE TEMP TRIGGER bad BEFORE INSERT ON records WHEN new.id = 'a' BEGIN SELECT RAISE(ABORT, 'no'); END",
        // Ends the transaction by itself, as a full disk may.
        "CREATE TEMP TRIGGER bad BEFORE INSERT ON records WHEN new.id = 'a' BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    ] {
        let before = stored(&mut store).await;
        sql(&mut store, trigger).await;
        let failed = store.commit(TERM, &put("a")).await.unwrap_err();
        assert!(matches!(failed, CommitError::Refused(_)), "{failed:?}");
        assert_eq!(stored(&mut store).await, before);
        store.commit(TERM, &put("b")).await.unwrap();
        assert_eq!(
            stored(&mut store).await,
            (before.0 + 1, vec!["b".to_owned()])
        );
        sql(&mut store, "DROP TRIGGER IF EXISTS bad").await;
    }
}

#[tokio::test]
async fn a_commit_that_leaves_its_transaction_open_is_rolled_back_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder).await;
    for text in [
        "CREATE TABLE child (of INTEGER REFERENCES leader (one) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER bad AFTER INSERT ON records BEGIN INSERT INTO child VALUES (9); END",
    ] {
        sql(&mut store, text).await;
    }
    let failed = store.commit(TERM, &put("a")).await.unwrap_err();
    assert!(
        matches!(&failed, CommitError::Refused(why) if why.contains("FOREIGN KEY")),
        "{failed:?}"
    );
    sql(&mut store, "DROP TRIGGER bad").await;
    store.commit(TERM, &put("b")).await.unwrap();
    assert_eq!(stored(&mut store).await, (1, vec!["b".to_owned()]));
}

#[tokio::test]
async fn a_commit_that_fails_and_is_over_is_unknown_until_the_file_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder).await;
    store.commit(TERM, &put("a")).await.unwrap();
    let connection = store.connected().await.unwrap();
    let mut handle = connection.lock_handle().await.unwrap();
    handle.set_commit_hook(|| false);
    drop(handle);
    let failed = store.commit(TERM, &put("b")).await.unwrap_err();
    assert!(matches!(failed, CommitError::Unknown(_)), "{failed:?}");
    let next = store.commit(TERM, &put("c")).await.unwrap_err();
    assert!(matches!(next, CommitError::Refused(_)), "{next:?}");
    assert_eq!(stored(&mut store).await, (1, vec!["a".to_owned()]));
    store.commit(TERM, &put("c")).await.unwrap();
    // As if the answer to that one had been lost.
    store.unsure = true;
    let both = vec!["a".to_owned(), "c".to_owned()];
    assert_eq!(stored(&mut store).await, (2, both));
    assert!(
        SqliteStore::open(&folder.path().join("fleet.db"))
            .await
            .is_err(),
        "it has the database for itself again"
    );
}

#[tokio::test]
async fn a_coordinator_that_was_replaced_stores_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder).await;
    store.commit(TERM, &put("a")).await.unwrap();
    let next = Term(TERM.0 + 1);
    store.commit(next, &put("b")).await.unwrap();
    let late = store.commit(TERM, &put("c")).await.unwrap_err();
    let expected = CommitError::NotLeader {
        ours: TERM,
        stored: next,
    };
    assert_eq!(late, expected);
    let both = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(stored(&mut store).await, (2, both));
    store.commit(next, &put("c")).await.unwrap();
}

fn key_record(id: usize, body: String) -> Record {
    Record {
        kind: RecordKind::BackupKey,
        id: format!("{id:08}"),
        body,
    }
}

fn put_key(id: usize, body: String) -> Write {
    Write::Put(isyone_fleet::written::RecordValue::Copy(key_record(
        id, body,
    )))
}

/// As sealed keys are: of its own, and as long.
fn secret(id: usize) -> String {
    format!("<{}>", format!("{id:06}-secret-").repeat(20))
}

/// The secrets of these that are in any file of the database's folder, also in what SQLite keeps beside it.
fn left(folder: &tempfile::TempDir, ids: &[usize]) -> Vec<usize> {
    let files = std::fs::read_dir(folder.path()).unwrap();
    let all: Vec<Vec<u8>> = files
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    let is_there = |id: &&usize| {
        let needle = format!("{:06}-secret-{:06}-secret-", **id, **id);
        let finder = |bytes: &Vec<u8>| {
            let mut windows = bytes.windows(needle.len());
            windows.any(|part| part == needle.as_bytes())
        };
        all.iter().any(finder)
    };
    ids.iter().filter(is_there).copied().collect()
}

/// Keys of many tenants come, are sealed anew, get longer, and go in another order: pages are split, joined and freed, and the log grows.
/// Looked at while the store is open, as a machine is copied or lost.
#[tokio::test]
async fn what_is_deleted_is_in_no_file_that_is_kept() {
    const ALL: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder).await;
    let order = |salt: usize| {
        let mut ids: Vec<usize> = (0..ALL).collect();
        ids.sort_by_key(|id| (id + salt).wrapping_mul(2_654_435_761) % 1_009);
        ids
    };
    for id in order(1) {
        store
            .commit(TERM, &[put_key(id, secret(id))])
            .await
            .unwrap();
    }
    for id in order(2) {
        let longer = format!("{}{}", "x".repeat(id * 37 % 400), secret(id));
        let writes = [put_key(id, longer)];
        store.commit(TERM, &writes).await.unwrap();
    }
    let mut kept = order(3);
    assert_eq!(left(&folder, &kept).len(), ALL, "they are looked for well");
    let mut gone = Vec::new();
    while let Some(id) = kept.pop() {
        gone.push(id);
        // Some alone, some together.
        if id % 3 != 0 && !kept.is_empty() {
            continue;
        }
        let deletes =
            { gone.iter() }.map(|id| Write::Delete(RecordKind::BackupKey, format!("{id:08}")));
        let deletes: Vec<Write> = deletes.collect();
        store.commit(TERM, &deletes).await.unwrap();
        assert_eq!(left(&folder, &gone), [0_usize; 0]);
        gone.clear();
    }
    assert_eq!(stored(&mut store).await.1, [""; 0]);
}

/// Versions before kept keys among all other records, and deleted them where nothing was overwritten.
#[tokio::test]
async fn what_a_version_before_has_left_of_keys_goes_when_the_file_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = store(&folder).await;
    old.commit(TERM, &[put_key(1, secret(1))]).await.unwrap();
    sql(&mut old, "PRAGMA secure_delete = OFF").await;
    for id in 2..60_usize {
        let connection = old.connected().await.unwrap();
        let insert = sqlx::query("INSERT INTO records (kind, id, body) VALUES ('x', ?, ?)");
        let insert = insert.bind(id.to_string()).bind(secret(id));
        insert.execute(connection).await.unwrap();
    }
    sql(&mut old, "DELETE FROM records WHERE kind = 'x'").await;
    sql(&mut old, "PRAGMA user_version = 0").await;
    old.close().await;
    let all: Vec<usize> = (2..60).collect();
    assert!(!left(&folder, &all).is_empty(), "they are there");
    let mut new = store(&folder).await;
    assert_eq!(left(&folder, &all), [0_usize; 0]);
    assert_eq!(stored(&mut new).await.1, ["00000001"]);
    assert_eq!(left(&folder, &[1]), [1], "what is kept is");
}

/// As when the machine loses its power just after the commit.
#[tokio::test]
async fn a_log_that_a_crash_has_left_is_emptied_at_the_next_start() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store_of_before = store(&folder).await;
    let writes: Vec<Write> = (0..40).map(|id| put_key(id, secret(id))).collect();
    store_of_before.commit(TERM, &writes).await.unwrap();
    let connection = store_of_before.connected().await.unwrap();
    let delete = Write::Delete(RecordKind::BackupKey, "00000007".to_owned());
    write(connection, TERM, &[delete]).await.unwrap();
    execute(connection, "COMMIT").await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    assert_eq!(left(&copy, &[7]), [7]);
    let mut again = store(&copy).await;
    assert_eq!(left(&copy, &[7]), [0_usize; 0]);
    assert_eq!(stored(&mut again).await.1.len(), 39);
}

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

#[tokio::test]
async fn what_is_deleted_is_not_left_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder).await;
    let record = |id: &str, body: String| Record {
        kind: RecordKind::BackupKey,
        id: id.to_owned(),
        body,
    };
    let put = |record| Write::Put(isyone_fleet::written::RecordValue::Copy(record));
    let key = "0123456789abcdef".repeat(8);
    let stays = (0..100).map(|n| put(record(&n.to_string(), "x".repeat(200))));
    let writes: Vec<Write> = stays.chain([put(record("50a", key.clone()))]).collect();
    store.commit(TERM, &writes).await.unwrap();
    let delete = Write::Delete(RecordKind::BackupKey, "50a".to_owned());
    store.commit(TERM, &[delete]).await.unwrap();
    store.close().await;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(16).any(|part| part == &key.as_bytes()[..16]));
    }
}

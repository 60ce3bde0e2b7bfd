//! `isy-coordinator raise-incarnation`: what whoever starts a coordinator on an older state must do on purpose, so that
//! hosts take its plans although they have seen newer ones.
//!
//! Works on the database of a coordinator that does not run. Not here: the command line (program), and what the change is
//! (isyone_fleet::change).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use isyone_fleet::{
    change::{self, ChangeError, Command, Effects, Stamp},
    desired::Fleet,
    settings::Settings,
    state::State,
    written::{self, UnreadableRecord, Write},
};

use crate::{
    init::DATABASE_FILE,
    writer::{
        Source,
        store::{CommitError, Store, StoreError, TERM, sqlite::SqliteStore},
    },
};

/// Why the incarnation was not raised.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Opening it would make a new, empty one.
    #[error("there is no database at {0}: which is the coordinator's data directory?")]
    NoDatabase(PathBuf),
    #[error("the database cannot be opened; does a coordinator run on it? Stop that first")]
    Open(#[source] StoreError),
    #[error("the database cannot be read")]
    Load(#[from] StoreError),
    #[error("the database cannot be read")]
    Record(#[from] UnreadableRecord),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("it could not be stored; run it again (raising twice does no harm)")]
    Store(#[from] CommitError),
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised {
    /// The incarnation before.
    pub from: u16,
    /// The incarnation of all plans from now on.
    pub to: u16,
    /// Number of hosts whose plans are of it.
    pub hosts: usize,
}

/// Opens an existing database, and keeps everybody else out of it.
pub async fn open(data_dir: &Path) -> Result<SqliteStore, RebuildError> {
    let path = data_dir.join(DATABASE_FILE);
    if !path.is_file() {
        return Err(RebuildError::NoDatabase(path));
    }
    SqliteStore::open(&path).await.map_err(RebuildError::Open)
}

/// A fleet as a rebuilt coordinator begins with it, for an empty store: no host was heard since.
pub fn begun(fleet: &Fleet) -> Vec<Write> {
    let mut fleet = fleet.clone();
    let hosts: Vec<_> = fleet.hosts.values().cloned().collect();
    for mut host in hosts {
        Arc::make_mut(&mut host).unheard = true;
        fleet.hosts.insert(host.name.clone(), host);
    }
    written::everything(&fleet)
}

/// Raises the incarnation by one, in one commit.
pub async fn raise_incarnation(
    store: &mut dyn Store,
    settings: &Settings,
    source: &mut impl Source,
) -> Result<Raised, RebuildError> {
    let fleet = written::fleet(store.load().await?)?;
    let (from, hosts) = (fleet.incarnation, fleet.hosts.len());
    let stamp = Stamp {
        now: source.now(),
        steady: source.steady(),
        id: source.id(),
        actor: "raise-incarnation".to_owned(),
    };
    let mut state = State::new(fleet, stamp.now);
    let mut effects = Effects::default();
    let raise = Command::RaiseIncarnation;
    change::apply(&mut state, settings, &stamp, &mut effects, raise)?;
    store.commit(TERM, &effects.writes).await?;
    let to = state.fleet.incarnation;
    Ok(Raised { from, to, hosts })
}

#[cfg(test)]
mod tests {
    use isyone_fleet::testing::{Bench, resources, settings};

    use super::*;
    use crate::writer::SystemSource;

    #[tokio::test]
    async fn it_is_stored_in_one_commit_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DATABASE_FILE);
        let missing = open(folder.path()).await.unwrap_err();
        assert!(matches!(missing, RebuildError::NoDatabase(_)));
        assert!(!path.exists(), "nothing was made in its place");
        let mut bench = Bench::default();
        bench.host("h1", resources(8, 32, 100));
        let mut made = SqliteStore::open(&path).await.unwrap();
        made.commit(TERM, &bench.effects.writes).await.unwrap();
        let runs = open(folder.path()).await.unwrap_err();
        assert!(matches!(runs, RebuildError::Open(_)), "{runs}");
        drop(made);
        let mut store = open(folder.path()).await.unwrap();
        let raised = raise_incarnation(&mut store, &settings(), &mut SystemSource)
            .await
            .unwrap();
        let expected = Raised {
            from: 0,
            to: 1,
            hosts: 1,
        };
        assert_eq!(raised, expected);
        let contents = store.load().await.unwrap();
        assert_eq!(contents.commits, 2);
        let fleet = written::fleet(contents).unwrap();
        assert_eq!(fleet.hosts["h1"].plan_generation.to_string(), "1.2");
        let last = fleet.events.last().unwrap();
        assert_eq!(last.kind.as_str(), "coordinator.rebuilt");
        assert_eq!(last.actor, "raise-incarnation");
    }
}

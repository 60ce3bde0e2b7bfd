//! What a proof may take of its host's disk while it runs. What it restores was a tenant's, and may be made to grow.
//!
//! Not here: whether there is room before it begins (the coordinator, restore::fill).

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use isyone_proto::backup::Fault;

use super::super::words::Problem;
use crate::{
    base::{
        fsutil::blocking,
        tree::{self, Pace},
    },
    host::space::Room,
    jobs::fetch::Reserve,
};

/// Between looks at what PostgreSQL's files take: some thousand of them.
const EVERY: Duration = Duration::from_secs(15);
/// Files that are counted; PostgreSQL has hardly ever so many.
const MOST_FILES: u64 = 500_000;
/// Beyond what has come, for what PostgreSQL writes; the coordinator reckons with the same.
const MORE_BYTES: u64 = 1 << 30;

/// The disk of a proof under way.
pub(super) struct Watched {
    scratch: PathBuf,
    reserve: Reserve,
    counted: Instant,
    used: u64,
}

impl Watched {
    pub(super) fn new(scratch: PathBuf, reserve: Reserve) -> Self {
        Self {
            scratch,
            reserve,
            counted: Instant::now(),
            used: 0,
        }
    }

    /// Why it must not go on. `comes`: the bytes that are restored; 0: not known yet.
    pub(super) async fn look(&mut self, comes: u64) -> Option<Problem> {
        let (place, counts) = (self.scratch.clone(), self.counted.elapsed() > EVERY);
        let seen = blocking(move || {
            let used = counts.then(|| tree::usage(&place.join("pgdata"), MOST_FILES, &Pace::FREE));
            Ok((Room::of(&place), used))
        });
        let (room, used) = seen.await.ok()?;
        if let Some(used) = used {
            (self.counted, self.used) = (Instant::now(), used.bytes);
        }
        let (free, total) = room.map_or((u64::MAX, 0), |room| (room.free, room.total));
        let why = too_much((free, self.reserve.of(total)), (self.used, comes))?;
        Some(Problem::new(Fault::NotNow, why))
    }
}

/// What is fetched leaves the whole reserve; of what PostgreSQL writes then, half of it is the end.
fn too_much((free, reserve): (u64, u64), (used, comes): (u64, u64)) -> Option<String> {
    let most = comes.saturating_add(comes / 4).saturating_add(MORE_BYTES);
    let mb = |bytes: u64| bytes / 1_000_000;
    if free < reserve / 2 {
        let (free, kept) = (mb(free), mb(reserve));
        return Some(format!(
            "the host's disk runs full: {free} MB are free, and {kept} MB are to stay free"
        ));
    }
    (comes > 0 && used > most).then(|| {
        let (used, most) = (mb(used), mb(most));
        format!("what was restored has grown to {used} MB: more than {most} MB are not given to it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn a_backup_that_grows_while_it_is_proven_does_not_fill_the_host() {
        assert_eq!(too_much((20 * GB, 10 * GB), (12 * GB, 10 * GB)), None);
        assert_eq!(too_much((6 * GB, 10 * GB), (0, 0)), None);
        let full = too_much((4 * GB, 10 * GB), (0, 0)).unwrap();
        assert!(full.contains("4000 MB are free"), "{full}");
        let grown = too_much((200 * GB, 10 * GB), (15 * GB, 10 * GB)).unwrap();
        assert!(grown.contains("grown to 15000 MB"), "{grown}");
        assert_eq!(
            too_much((20 * GB, 10 * GB), (99 * GB, 0)),
            None,
            "not known"
        );
    }

    #[tokio::test]
    async fn what_postgresql_has_written_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pgdata")).unwrap();
        std::fs::write(dir.path().join("pgdata/1"), [1; 100_000]).unwrap();
        let mut watched = Watched::new(dir.path().to_owned(), Reserve::NONE);
        watched.counted -= 2 * EVERY;
        assert_eq!(watched.look(1).await, None);
        assert!(watched.used >= 100_000, "{}", watched.used);
    }
}

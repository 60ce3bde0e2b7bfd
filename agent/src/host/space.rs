//! How much room there is on the disk of tenants' data, and what gives way when there is little: spares first, then snapshots, then a
//! reserve, a file that is kept for that moment. A PostgreSQL that has met a full disk needs some megabytes to recover with.
//!
//! Not here: one tenant's disk against its plan (disk), what is refused meanwhile (plan::diff, the coordinator), alerts (Prometheus').

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::Host;
use crate::base::fsutil::{self, blocking};

/// Between looks: one call to the kernel.
const EVERY: Duration = Duration::from_secs(5);
/// The reserve, in the directory of homes.
const RESERVE_FILE: &str = "reserve";
/// The most that is set aside: enough for dozens of PostgreSQLs to recover with.
const MOST_RESERVE: u64 = 512 << 20;
/// Subject on the host's board.
const SUBJECT: &str = "disk";

/// How it stands with the disk. In the order of getting worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Space {
    #[default]
    Ample,
    /// Copies that were made to save time give way.
    Low,
    /// PostgreSQL is about to stop, or has. All else that is ours gives way.
    Full,
}

/// What the file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may be written.
    pub free: u64,
    pub total: u64,
}

impl Room {
    /// Of the file system that a place is on.
    pub fn of(place: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(place).ok()?;
        Some(Self {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    /// `90 MiB of 4096 MiB free`.
    pub fn words(self) -> String {
        format!("{} MiB of {} MiB free", mib(self.free), mib(self.total))
    }

    /// 5 %, as much as copies of tenants leave free; of a small disk no more than a fifth.
    fn low(self) -> u64 {
        let share = (self.total / 20).clamp(1 << 30, 20 << 30);
        share.min(self.total / 5)
    }

    /// 1 %, and of a small disk no more than a tenth: one checkpoint of one tenant may need as much.
    fn full(self) -> u64 {
        let share = (self.total / 100).clamp(128 << 20, 2 << 30);
        share.min(self.total / 10)
    }

    /// At most half of that, so that giving it up does not look like room.
    fn reserve(self) -> u64 {
        (self.full() / 2).min(MOST_RESERVE)
    }
}

impl Space {
    /// For who has not looked before.
    pub fn of(room: Room) -> Self {
        Self::default().after(room)
    }

    /// Better again only with half as much more, or it would flap.
    fn after(self, room: Room) -> Self {
        let more = |bound: u64| bound + bound / 2;
        let (low, full) = (room.low(), room.full());
        match self {
            _ if room.free < full => Self::Full,
            Self::Full if room.free < more(full) + room.reserve() => Self::Full,
            _ if room.free < low => Self::Low,
            Self::Low | Self::Full if room.free < more(low) => Self::Low,
            _ => Self::Ample,
        }
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Looks until `stop`; sets room aside only where that is wanted.
pub async fn run(host: Arc<Host>, reserves: bool, stop: CancellationToken) {
    let mut space = Space::default();
    let mut giving = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        let Some(place) = host.data_root() else {
            continue; // Docker was not reached yet
        };
        let Some(room) = Room::of(&place) else {
            continue;
        };
        let now = space.after(room);
        step(&host, &place, room, (space, now), &mut giving).await;
        let lasting = now == Space::Ample && space == Space::Ample;
        if lasting && reserves {
            lay(host.reserve_file(&place), room.reserve()).await;
        }
        space = now;
    }
}

async fn step(
    host: &Arc<Host>,
    place: &Path,
    room: Room,
    (before, now): (Space, Space),
    giving: &mut JoinSet<()>,
) {
    let text = match now {
        Space::Full => words(place, room),
        Space::Low | Space::Ample => String::new(),
    };
    host.board.set_full(&text);
    host.board.set_warning(SUBJECT, &text);
    if now > before {
        let (free, total) = (mib(room.free), mib(room.total));
        tracing::warn!("{free} MiB of {total} MiB are free at {}", place.display());
        make_room(host, place, now, giving).await;
    }
}

fn words(place: &Path, room: Room) -> String {
    // In steps of 16 MiB, so that it is not news each time.
    let free = mib(room.free) / 16 * 16;
    format!(
        "the disk of tenants' data is full: some {free} MiB of {} MiB are free at {}",
        mib(room.total),
        place.display()
    )
}

/// The reserve first. Copies give way beside us, at most one time at once: that waits until nobody makes or uses one, which on a full
/// disk may be never, and we go on looking.
async fn make_room(host: &Arc<Host>, place: &Path, space: Space, giving: &mut JoinSet<()>) {
    let full = space == Space::Full;
    if full {
        give_up(host.reserve_file(place)).await;
    }
    // What waits since it was low does less than this.
    giving.abort_all();
    while giving.try_join_next().is_some() {}
    let host = host.clone();
    giving.spawn(async move {
        if let Err(e) = host.golden.give_way(full).await {
            tracing::warn!("copies of snapshots cannot be removed: {e}");
        }
    });
}

async fn give_up(reserve: PathBuf) {
    match blocking(move || fsutil::remove_file(&reserve)).await {
        Ok(()) => tracing::warn!("the disk is full: the reserve is given up"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => tracing::error!("the reserve cannot be given up: {e}"),
    }
}

/// Keeps the reserve, where the file system can set room aside.
async fn lay(file: PathBuf, bytes: u64) {
    let laid = blocking(move || match file.parent().map(fsutil::is_directory) {
        Some(true) => fsutil::set_aside(&file, bytes),
        _ => Ok(()), // no tenant has been here yet
    });
    if let Err(e) = laid.await {
        tracing::debug!("no room can be set aside for recovery: {e}");
    }
}

impl Host {
    /// Beside tenants' homes.
    fn reserve_file(&self, place: &Path) -> PathBuf {
        self.homes_below(place).join(RESERVE_FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::config::DataDir, host::Pace, testing::fake_docker::FakeDocker};

    #[tokio::test]
    async fn the_reserve_does_not_wait_for_who_uses_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().join("agent"));
        data.create().unwrap();
        let docker = FakeDocker::new(dir.path(), 1);
        let address = [127, 0, 0, 1].into();
        let host = Host::new(docker.clone(), docker, data, address, Pace::hasty()).unwrap();
        let (host, place) = (Arc::new(host), dir.path());
        let reserve = host.reserve_file(place);
        std::fs::create_dir_all(reserve.parent().unwrap()).unwrap();
        std::fs::write(&reserve, "room").unwrap();
        let room = Room {
            free: 0,
            total: 100 * GIB,
        };
        let (using, mut giving) = (host.golden.used().await, JoinSet::new());
        for change in [(Space::Ample, Space::Low), (Space::Low, Space::Full)] {
            let step = step(&host, place, room, change, &mut giving);
            let done = tokio::time::timeout(Duration::from_secs(20), step).await;
            done.expect("it waits for nobody");
        }
        assert!(!reserve.exists() && host.board.full().is_some());
        drop(using);
        while giving.join_next().await.is_some() {}
    }

    const GIB: u64 = 1 << 30;

    fn walk(total: u64, frees: &[u64]) -> Vec<Space> {
        let mut space = Space::default();
        let all = frees.iter().map(|free| {
            space = space.after(Room { free: *free, total });
            space
        });
        all.collect()
    }

    #[test]
    fn it_gets_worse_at_once_and_better_with_some_room_to_spare() {
        use Space::{Ample, Full, Low};
        let total = 100 * GIB;
        let frees = [50, 6, 4, 6, 8, 1, 0, 1, 2, 4, 8].map(|gib| gib * GIB);
        assert_eq!(
            walk(total, &frees),
            [
                Ample, Ample, Low, Low, Ample, Low, Full, Full, Low, Low, Ample
            ]
        );
    }

    #[test]
    fn giving_up_the_reserve_is_not_taken_for_room_on_any_disk() {
        for total in [GIB, 4 * GIB, 20 * GIB, 500 * GIB, 1 << 44] {
            let room = Room { free: 0, total };
            assert!(room.reserve() < room.full() && room.full() < room.low());
            let given_up = Room {
                free: room.full() - 1 + room.reserve(),
                total,
            };
            assert_eq!(Space::Full.after(given_up), Space::Full, "{total}");
            let empty = Room { free: total, total };
            assert_eq!(Space::Full.after(empty), Space::Ample, "{total}");
        }
    }
}

//! What each host may take of us: calls at once, calls and bytes a second; and all hosts together.
//!
//! Who exceeds waits for a while and is then told to come back. Not here: which repository a host may reach (service).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isyone_proto::ids::HostName;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tonic::Status;

use crate::{
    base::rate::{Bucket, Rate},
    wire::status,
};

/// Calls of one host at once. Each holds a piece of 1 MiB and a file at most; an agent that restores reads with a few threads.
const PER_HOST: usize = 8;
/// Of all hosts: some 256 MiB of pieces when all of them are busy.
const ALL: usize = 256;
/// Pieces that are read or written at the same time: what a disk does without getting slower in total, and a part of the threads
/// that may block.
const AT_THE_DISK: usize = 16;
/// Calls of one host: an agent that ships makes some twenty in five minutes, one that restores some thousand files.
const CALLS: Rate = Rate {
    burst: 4_000.0,
    per_second: 200.0,
};
/// How long a call waits for its turn before it is refused.
const TURN: Duration = Duration::from_secs(20);
/// When somebody who was refused may come back.
const COME_BACK: Duration = Duration::from_secs(5);
/// What may pass at once after a rest.
const BURST_SECONDS: f64 = 1.0;
/// From so many hosts on, those are forgotten that do nothing.
const TIDY_FROM: usize = 1_000;

/// One host's.
#[derive(Debug)]
struct Share {
    calls: Arc<Semaphore>,
    rate: Mutex<Bucket>,
    /// Until when what has passed is paid for.
    paid: Mutex<Option<Instant>>,
}

/// All hosts'.
#[derive(Debug)]
pub struct Shares {
    bytes_per_second: f64,
    all: Arc<Semaphore>,
    disk: Arc<Semaphore>,
    hosts: Mutex<HashMap<HostName, Arc<Share>>>,
}

/// A call under way; its places are given back on drop.
#[derive(Debug)]
pub struct Turn {
    share: Arc<Share>,
    bytes_per_second: f64,
    disk: Arc<Semaphore>,
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Shares {
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: (bytes_per_second as f64).max(1.0),
            all: Arc::new(Semaphore::new(ALL)),
            disk: Arc::new(Semaphore::new(AT_THE_DISK)),
            hosts: Mutex::default(),
        }
    }

    fn of(&self, host: &HostName) -> Arc<Share> {
        // Nothing panics while holding it, here and below.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= TIDY_FROM {
            // Whoever is forgotten while it calls often has a full bucket again: a thousand hosts later.
            hosts.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let fresh = || {
            Arc::new(Share {
                calls: Arc::new(Semaphore::new(PER_HOST)),
                rate: Mutex::new(Bucket::full(CALLS, Instant::now())),
                paid: Mutex::default(),
            })
        };
        hosts.entry(host.clone()).or_insert_with(fresh).clone()
    }

    /// A turn for a call, perhaps after a while.
    ///
    /// # Errors
    /// The host calls too often, or there are too many calls.
    pub async fn turn(&self, host: &HostName) -> Result<Turn, Status> {
        let share = self.of(host);
        let taken = {
            let mut rate = share.rate.lock().unwrap_or_else(PoisonError::into_inner);
            rate.take(CALLS, Instant::now())
        };
        taken.map_err(|wait| {
            status::overloaded(format!("host `{host}` calls too often (backups)"), wait)
        })?;
        // Its own first: a host that has all of its own must not hold one of everybody's while it waits.
        let own = timeout(TURN, share.calls.clone().acquire_owned()).await;
        let own = own.ok().and_then(Result::ok);
        let own = own.ok_or_else(|| busy(&format!("host `{host}` has too many calls at once")))?;
        let all = timeout(TURN, self.all.clone().acquire_owned()).await;
        let all = all.ok().and_then(Result::ok);
        let all = all.ok_or_else(|| busy("too many hosts read and write backups at once"))?;
        Ok(Turn {
            bytes_per_second: self.bytes_per_second,
            disk: self.disk.clone(),
            share,
            _own: own,
            _all: all,
        })
    }
}

fn busy(why: &str) -> Status {
    status::overloaded(why.to_owned(), COME_BACK)
}

impl Turn {
    /// Waits until so many bytes more may pass, by the host's rate over all of its calls.
    pub async fn pace(&self, bytes: usize) {
        let until = self.book(bytes, Instant::now());
        tokio::time::sleep_until(until).await;
    }

    /// Does something at the disk, on a thread that may block.
    ///
    /// # Errors
    /// Our own: it panicked, or we stop.
    pub async fn at_the_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let gone =
            || Status::internal("a repository could not be worked on; see the coordinator's log");
        let place = self
            .disk
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| gone())?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "work on a repository did not end well");
            gone()
        })
    }

    /// Books bytes, and says from when on they may pass.
    fn book(&self, bytes: usize, now: Instant) -> Instant {
        let mut paid = self
            .share
            .paid
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let earliest = now
            .checked_sub(Duration::from_secs_f64(BURST_SECONDS))
            .unwrap_or(now);
        let begin = paid.map_or(earliest, |paid| paid.max(earliest));
        let until = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *paid = Some(until);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> HostName {
        format!("h{number}").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_has_its_places_and_leaves_the_others_theirs() {
        let shares = Shares::new(1 << 20);
        let mut turns = Vec::new();
        for _ in 0..PER_HOST {
            turns.push(shares.turn(&host(1)).await.unwrap());
        }
        let begin = Instant::now();
        let refused = shares.turn(&host(1)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(isyone_proto::error::retry_after(&refused).is_some());
        assert!(begin.elapsed() >= TURN);
        shares.turn(&host(2)).await.unwrap();
        turns.pop();
        shares.turn(&host(1)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_calls_without_pause_is_told_when_to_come_back() {
        let shares = Shares::new(1 << 20);
        let mut passed = 0;
        let refused = loop {
            match shares.turn(&host(1)).await {
                Ok(_) => passed += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!(passed, 4_000);
        assert!(isyone_proto::error::retry_after(&refused).is_some());
        shares.turn(&host(2)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_of_the_host_over_all_of_its_calls() {
        let shares = Shares::new(1 << 20);
        let turns = [
            shares.turn(&host(1)).await.unwrap(),
            shares.turn(&host(1)).await.unwrap(),
        ];
        let begin = Instant::now();
        for _ in 0..10 {
            for turn in &turns {
                turn.pace(512 << 10).await;
            }
        }
        let took = begin.elapsed().as_secs_f64();
        assert!((8.9..10.1).contains(&took), "{took}");
        let other = shares.turn(&host(2)).await.unwrap();
        let begin = Instant::now();
        other.pace(1 << 20).await;
        assert!(begin.elapsed() < Duration::from_millis(10));
    }
}

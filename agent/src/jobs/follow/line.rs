//! The way from a standby's container to the other host's PostgreSQL: a socket in the directory of settings that the container sees.
//!
//! Not here: what flows through it (peer::tunnel), who may have it (the other host).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isyone_proto::ids::TenantName;
use tokio::{
    net::UnixStream,
    sync::OwnedMutexGuard,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use super::{Attempt, again, disk};
use crate::{
    base::{
        fsutil::{self, blocking},
        throttle::Meter,
    },
    peer::{Of, cluster::Cluster, tunnel},
    plan::postgres,
};

/// How long an earlier line may take to end.
const TURN: Duration = Duration::from_secs(10);
/// How long a socket may take to be served.
const SERVED: Duration = Duration::from_secs(2);
/// Name of the socket's directory, in that of PostgreSQL's settings.
const DIRECTORY: &str = "peer";

/// The directory as the container sees it: what PostgreSQL's clients are told as the host.
pub(super) fn host() -> String {
    format!("{}/{DIRECTORY}", postgres::TARGET)
}

/// One line for a tenant at a time: an earlier one takes its socket away when it ends, and must not take that of the next.
#[derive(Default)]
pub(super) struct Lines(Mutex<BTreeMap<TenantName, Arc<Turn>>>);

type Turn = tokio::sync::Mutex<()>;

impl Lines {
    async fn turn(&self, tenant: &TenantName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(tenant.clone()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// A socket that is served for as long as this lives.
pub(super) struct Line {
    socket: PathBuf,
    /// On this machine.
    pub(super) directory: PathBuf,
    /// What has come through it.
    pub(super) meter: Arc<Meter>,
    _served: DropGuard,
}

impl Line {
    /// Serves the socket of a tenant with this directory.
    pub(super) async fn open(
        lines: &Lines,
        tenant: &Path,
        (channel, meter): (Channel, Arc<Meter>),
        of: Of,
    ) -> Attempt<Self> {
        let turn = timeout(TURN, lines.turn(&of.tenant)).await;
        let turn = turn.map_err(|_| again("the way of an earlier attempt has not ended"))?;
        let tenant = tenant.to_owned();
        let made = blocking(move || {
            fsutil::private_dir(&tenant)?;
            let settings = tenant.join(postgres::DIRECTORY);
            let directory = settings.join(DIRECTORY);
            fsutil::make_directories(&directory)?;
            // Its container's user goes through both; on the host, nobody gets this far.
            for open in [&settings, &directory] {
                fsutil::set_mode(open, 0o755)?;
            }
            Ok(directory)
        });
        let directory = made.await.map_err(disk)?;
        let stop = CancellationToken::new();
        let (at, ends, name) = (directory.clone(), stop.clone(), of.tenant.clone());
        let count = meter.clone();
        tokio::spawn(async move {
            if let Err(e) = tunnel::serve(&at, (channel, count), of, ends).await {
                tracing::warn!(tenant = %name, "the socket of its far database is not served: {e}");
            }
            drop(turn);
        });
        Ok(Self {
            socket: directory.join(tunnel::SOCKET_NAME),
            directory,
            meter,
            _served: stop.drop_guard(),
        })
    }

    /// The other host's PostgreSQL.
    pub(super) async fn cluster(&self, database: &str) -> Result<Cluster, String> {
        let begin = Instant::now();
        // It is served in a moment.
        let socket = loop {
            match UnixStream::connect(&self.socket).await {
                Ok(socket) => break socket,
                Err(_) if begin.elapsed() < SERVED => sleep(SERVED / 100).await,
                Err(e) => return Err(format!("the way to the other host's database: {e}")),
            }
        };
        Cluster::open(socket, database).await
    }
}

//! `isy-agent relay`: the program around the host's relay. It runs beside the agent and outlives it: visitors are served while the
//! agent is stopped, killed or replaced.
//!
//! Not here: what a relay does (the crate isyone-relay), when one is started and what it is told (host::relay).

use std::{io, os::fd::AsFd, time::Duration};

use isyone_relay::{Drained, Relay};
use rustix::{
    process::{Pid, Signal},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, sleep},
};

use crate::{
    base::{
        config::{ConfigError, DataDir},
        fsutil,
    },
    host::relay::{Admin, settings},
    plan::stack::ODOO_STOP_S,
};

/// After a successor has taken over: the longest wait for an answer of Odoo. What is open then, mainly websockets, begins anew.
const HANDED_OVER: Duration = Duration::from_secs(1_800);
/// When it is told to stop and nobody takes over: as long as a request may take when its tenant is stopped.
const STOPPED: Duration = Duration::from_secs(ODOO_STOP_S as u64);
/// Of the log of a relay that the agent has started, before it begins anew. A relay at work writes next to nothing.
const MAX_LOG_BYTES: i64 = 16 << 20;
/// Between looks at the log.
const LOG_LOOK: Duration = Duration::from_secs(60);
/// How long `--stop` waits beyond the relay's own bound.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The data directory.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The relay.
    #[error(transparent)]
    Start(#[from] isyone_relay::StartError),
    /// Signals, or a session of its own.
    #[error("{0}")]
    System(#[source] io::Error),
    /// `--stop` had no effect.
    #[error("the relay (process {0}) has not ended; kill it, or try again")]
    Stays(u32),
    /// `--stop` cannot ask it.
    #[error("the relay cannot be asked to stop: {0}")]
    Asking(#[source] io::Error),
}

/// Gives up every capability, and what programs could give back, for whoever it talks to is a stranger. Ways through directories that
/// are not its own may remain: the agent's directory may be below some user's. Call it before there are threads: it is for this one,
/// and those that it starts.
pub fn shed_privileges() -> io::Result<()> {
    let ways = CapabilitySet::DAC_READ_SEARCH & capabilities(None)?.permitted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: ways,
            permitted: ways,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(set_no_new_privs(true)?)
}

/// Runs a relay until it is told to stop or a successor has taken over. With `detach` it leaves its parent's session, so that no signal
/// for that reaches it.
pub async fn serve(data: &DataDir, detach: bool) -> Result<(), RelayError> {
    if detach {
        rustix::process::setsid().map_err(|e| RelayError::System(e.into()))?;
        tokio::spawn(bound_log());
    }
    let directory = data.relay();
    fsutil::private_dir(&directory).map_err(|e| ConfigError::Io(directory, e))?;
    let system = RelayError::System;
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    let settings = settings(data);
    let version = settings.version.clone();
    let relay = Relay::start(settings).await?;
    tracing::info!(version, revision = relay.revision(), "relaying");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]); // without systemd nothing is lost
    let handed_over = tokio::select! {
        () = relay.handed_over() => true,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let draining = async {
        match handed_over {
            true => relay.drain(HANDED_OVER).await,
            false => relay.drain_requests(STOPPED).await,
        }
    };
    tracing::info!(handed_over, "what is under way comes to its end");
    tokio::select! {
        Drained { cut_off } = draining => tracing::info!(cut_off, "done"),
        // Told once more, or for the first time after a successor took over: at once.
        _ = terminate.recv() => tracing::info!("cut off"),
        _ = interrupt.recv() => tracing::info!("cut off"),
    }
    Ok(())
}

/// Has the relay that runs end, and waits until it has. `false`: none runs.
pub async fn stop(data: &DataDir) -> Result<bool, RelayError> {
    let admin = Admin::new(data);
    let pid = match admin.health().await {
        Ok(health) => health.pid,
        Err(e) if Admin::is_nobody(&e) => return Ok(false),
        Err(e) => return Err(RelayError::Asking(e)),
    };
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(process) = process else {
        return Err(RelayError::Stays(pid)); // a relay of before does not say its process
    };
    let sent = rustix::process::kill_process(process, Signal::TERM);
    sent.map_err(|e| RelayError::Asking(e.into()))?;
    let end = Instant::now() + STOPPED + STOP_PATIENCE;
    while Instant::now() < end {
        if rustix::process::test_kill_process(process).is_err() {
            return Ok(true);
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err(RelayError::Stays(pid))
}

/// Empties its own log where it has grown long: the agent that opened it may be gone for weeks.
async fn bound_log() {
    let mut looks = tokio::time::interval(LOG_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let log = io::stderr();
        if is_long(log.as_fd()) {
            // It is opened to be written at its end, wherever that is.
            let _ = rustix::fs::ftruncate(log.as_fd(), 0);
        }
    }
}

/// Whether it is a file, and a long one.
fn is_long(log: std::os::fd::BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(log).is_ok_and(|stat| {
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        kind.is_file() && stat.st_size > MAX_LOG_BYTES
    })
}

//! Listens to Docker's events for as long as the agent runs.
//!
//! Not here: what follows from them (tenant::reconcile).

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::sleep;

use super::{Host, answers};
use crate::docker::{DockerError, EngineEvent};

/// Pause between attempts to reconnect to Docker's events.
const EVENTS_RETRY: Duration = Duration::from_secs(2);

/// What wakes the loops.
#[derive(Debug)]
pub enum Signal {
    /// An event of one of our containers, or a volume is gone.
    Event(EngineEvent),
    /// Events may have been lost: everything must be looked at.
    Resync,
}

/// Listens to Docker's events. After each new connection everything is looked at again, because events may have been
/// lost.
pub async fn listen(host: Arc<Host>, signals: tokio::sync::mpsc::Sender<Signal>) {
    loop {
        match host.docker.events().await {
            Ok(mut events) => {
                if signals.send(Signal::Resync).await.is_err() {
                    return;
                }
                while let Some(event) = events.next().await {
                    let Ok(event) = event else { break };
                    if signals.send(Signal::Event(event)).await.is_err() {
                        return;
                    }
                }
            }
            Err(DockerError::Unreachable(why)) => answers::away(&host, &why),
            Err(e) => tracing::warn!("no events from Docker: {e}"),
        }
        host.forget_engine();
        sleep(EVENTS_RETRY.min(host.pace.resync)).await;
    }
}

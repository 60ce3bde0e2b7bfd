//! Asks Docker now and then whether it answers: the only word on that of a host whose tenants need nothing of it, or that has none,
//! and of a Docker that takes connections and says nothing.
//!
//! Not here: what is done about it, which is nothing: tenants run on, and their loops try again (tenant).

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::Host;
use crate::docker::DockerError;

/// Questions in a row without an answer that count as none: one may meet a moment in which Docker is busy.
const PATIENT: u32 = 2;
/// How much more often it is asked while it does not answer.
const SOONER: u32 = 5;

/// Asks for as long as the agent runs.
pub async fn ask(host: Arc<Host>) {
    let patience = host.pace.docker_patience;
    let mut missed = 0_u32;
    loop {
        // How it is set up is asked once after each start of it: what is wrong with that shows on a host without tenants, too.
        let asking = async {
            host.docker.ping().await?;
            host.engine().await.map(drop)
        };
        let answer = timeout(patience, asking).await;
        missed = match answer {
            Err(_) => missed.saturating_add(1),
            Ok(_) => 0,
        };
        match answer {
            Ok(Err(DockerError::Unreachable(why))) => away(&host, &why),
            Err(_) if missed >= PATIENT => away(&host, &silent(patience)),
            Err(_) => {}
            // A refusal is an answer.
            Ok(Ok(()) | Err(_)) => {
                if host.board.set_docker_error("") {
                    tracing::info!("Docker answers again");
                }
            }
        }
        let is_away = !host.board.docker_error().is_empty();
        let pause = host.pace.docker_ask;
        sleep(if is_away { pause / SOONER } else { pause }).await;
    }
}

fn silent(patience: Duration) -> String {
    format!("no answer within {} s", patience.as_secs_f64())
}

/// Docker does not answer.
pub(super) fn away(host: &Host, why: &str) {
    host.forget_engine();
    if host.board.set_docker_error(why) {
        tracing::error!(
            "Docker does not answer: {why}; tenants run on, nothing can be changed until it is back"
        );
    }
}

//! `isy-agent doctor`: what of this host can break a tenant, each as a check with what was found, why it matters and the remedy. Works
//! without the coordinator, and before the host has joined. The agent that runs asks the same now and then and reports what is wrong.
//!
//! Facts are gathered first (facts), then judged (checks, pure). Nothing is changed. Not here: mending (host, tenant).

mod checks;
mod facts;

use std::{path::PathBuf, sync::Arc, time::Duration};

use isyone_proto::finding::{Finding, sorted};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    base::config::DataDir,
    docker::Docker,
    host::{Host, firewall::Nft},
};

/// Between looks of the agent that runs: most of it changes with a configuration or a boot.
const EVERY: Duration = Duration::from_secs(600);
/// At first tenants are looked at.
const FIRST: Duration = Duration::from_secs(20);

/// What to look at.
pub struct Patient {
    pub data: DataDir,
    pub docker: Arc<dyn Docker>,
    /// Where tenants' data is kept, if not in Docker's data directory.
    pub tenants_dir: Option<PathBuf>,
    pub nft: Nft,
}

/// All checks, the worst first.
pub async fn examine(patient: &Patient) -> Vec<Finding> {
    sorted(checks::all(&facts::gather(patient).await))
}

/// Looks until `stop`, and keeps what is wrong on the board for the next report.
pub async fn watch(host: Arc<Host>, nft: Nft, stop: CancellationToken) {
    let patient = Patient {
        data: host.data.clone(),
        docker: host.docker.clone(),
        tenants_dir: host.tenants_dir(),
        nft,
    };
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        let found = examine(&patient).await;
        let wrong = found.into_iter().filter(Finding::is_trouble).collect();
        host.board.set_findings(wrong);
        pause = EVERY;
    }
}

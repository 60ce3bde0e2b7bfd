//! Keeps the host's packet filter in force: passes the rendered table to `nft` as a whole, and only when it has
//! changed.
//!
//! Not here: the rules and their reasons (plan::firewall).

use std::{process::Stdio, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt as _, process, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    base::fsutil,
    host::{Gate, Host, ledger::InForce},
    plan::firewall::{TABLE, render},
};

/// How often to check that the table is still there: a reload of the host's own rules may flush it.
const CHECK: Duration = Duration::from_secs(30);
/// The rules in force, in the data directory.
const RULES_FILE: &str = "firewall.nft";
/// `nft` answers within milliseconds; one that hangs must not block us.
const NFT_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` cannot be started.
    #[error("`nft` cannot be run ({0}); install the package nftables")]
    Missing(std::io::Error),
    /// `nft` refuses the rules.
    #[error("nft refuses the packet filter: {0}")]
    Refused(String),
}

async fn nft(arguments: &[&str], input: &str) -> Result<(), FirewallError> {
    let mut child = process::Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(FirewallError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it exits early, its exit code tells why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(NFT_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| {
            FirewallError::Refused(format!("no answer within {} s", NFT_TIMEOUT.as_secs()))
        })?
        .map_err(FirewallError::Missing)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(FirewallError::Refused(
        words.lines().take(3).collect::<Vec<_>>().join(" "),
    ))
}

/// Keeps the filter in force.
#[derive(Debug, Clone, Copy, Default)]
pub struct Applier {
    /// Start tenants even without a filter (`--insecure-no-firewall`).
    pub insecure: bool,
}

impl Applier {
    /// Runs until `stop`; the table then stays in force.
    pub async fn run(
        self,
        host: Arc<Host>,
        mut plans: watch::Receiver<InForce>,
        stop: CancellationToken,
    ) {
        let mut applied = String::new();
        loop {
            let plan = plans.borrow_and_update().plan.clone();
            if let Some(plan) = plan {
                let wanted = render(&plan);
                let there = wanted == applied
                    && nft(&["list", "chain", "inet", TABLE, "prerouting"], "")
                        .await
                        .is_ok();
                if !there {
                    let outcome = nft(&["-f", "-"], &wanted).await;
                    self.keep(&host, &wanted);
                    applied = if outcome.is_ok() {
                        wanted
                    } else {
                        String::new()
                    };
                    self.tell(&host, &outcome);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = plans.changed() => if changed.is_err() { return },
                () = sleep(CHECK) => {}
            }
        }
    }

    /// Saves the rules for the next boot: Docker starts containers before us, and the table must be there first
    /// (`isy-agent-firewall.service` loads this file).
    fn keep(self, host: &Host, rules: &str) {
        let path = host.data.path().join(RULES_FILE);
        if let Err(e) = fsutil::write_atomic(&path, rules.as_bytes(), 0o600, true) {
            tracing::warn!(
                "{} cannot be written, so the next boot begins without a packet filter: {e}",
                path.display()
            );
        }
    }

    fn tell(self, host: &Host, outcome: &Result<(), FirewallError>) {
        let Err(error) = outcome else {
            tracing::info!("packet filter in force");
            host.board.set_warning("firewall", "");
            host.gate.send_replace(Gate::Open);
            return;
        };
        tracing::error!("no packet filter: {error}");
        if self.insecure {
            host.board.set_warning(
                "firewall",
                &format!("{error}; tenants can reach each other (--insecure-no-firewall)"),
            );
            host.gate.send_replace(Gate::Open);
        } else {
            let text = format!(
                "{error}. New tenants are not started without a packet filter; running ones stay"
            );
            host.board.set_warning("firewall", &text);
            host.gate.send_replace(Gate::Closed(text));
        }
    }
}

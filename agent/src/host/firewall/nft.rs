//! Runs the program `nft`, bounded.
//!
//! Not here: with which rules and when (the parent).

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process};

/// `nft` answers within milliseconds; one that hangs must not block us.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` cannot be started.
    #[error("`nft` cannot be run ({0}); install the package nftables")]
    Missing(std::io::Error),
    /// `nft` refuses the rules.
    #[error("nft refuses the packet filter: {0}")]
    Refused(String),
    /// It hangs, or the machine is too busy.
    #[error("`nft` has not answered within {0} s")]
    Silent(u64),
}

/// The program.
#[derive(Debug, Clone)]
pub struct Nft {
    program: PathBuf,
}

impl Default for Nft {
    /// As the system finds it.
    fn default() -> Self {
        Self::at("nft".into())
    }
}

impl Nft {
    /// Another program that understands the same words: for tests.
    pub fn at(program: PathBuf) -> Self {
        Self { program }
    }

    /// Puts rules in force, all or none.
    pub(super) async fn load(&self, rules: &str) -> Result<(), FirewallError> {
        self.run(&["-f", "-"], rules).await.map(drop)
    }

    /// Whether rules would be taken; changes nothing.
    pub(super) async fn check(&self, rules: &str) -> Result<(), FirewallError> {
        self.run(&["--check", "-f", "-"], rules).await.map(drop)
    }

    /// Whether a table of ours is there, with its first hook.
    pub(super) async fn has(&self, table: &str) -> bool {
        let list = ["list", "chain", "inet", table, "prerouting"];
        self.run(&list, "").await.is_ok()
    }

    /// What is in force of a table or chain, as the program shows it, without what is counted. A refusal says that there is none.
    pub(super) async fn list(&self, what: &[&str]) -> Result<String, FirewallError> {
        let list = [&["--stateless", "list"], what].concat();
        let shown = self.run(&list, "").await?;
        Ok(String::from_utf8_lossy(&shown).into_owned())
    }

    /// Likewise; `None`: nothing, or it cannot be found out.
    pub(super) async fn shown(&self, what: &[&str]) -> Option<String> {
        self.list(what).await.ok()
    }

    /// Returns what it writes.
    async fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, FirewallError> {
        let mut child = process::Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(FirewallError::Missing)?;
        if let Some(mut stdin) = child.stdin.take() {
            // If it exits early, its exit code tells why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = tokio::time::timeout(TIMEOUT, child.wait_with_output())
            .await
            .map_err(|_| FirewallError::Silent(TIMEOUT.as_secs()))?
            .map_err(FirewallError::Missing)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(FirewallError::Refused(
            words.lines().take(3).collect::<Vec<_>>().join(" "),
        ))
    }
}

//! Whether Docker's own rules are in force: whoever flushes the packet filter takes them away, and Docker makes each only once. Then no
//! tenant reaches anything outside, and no network can be made. Said, with the remedy; no new tenants come meanwhile. Where an operator
//! allows it, and only where tenants run on, Docker is started anew.
//!
//! A finding needs proof: the rules were there since the machine was started, are not in two looks in a row, and Docker answers.
//! So a Docker that makes no rules (`iptables: false`), or makes them where `nft` does not show them, is left alone.
//! Not here: our own tables (the parent).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use ipnet::Ipv4Net;
use tokio::{
    process::Command,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{FirewallError, Nft, around};
use crate::{
    base::{clock::now_ms, fsutil, kernel},
    host::{Host, ledger::InForce},
};

/// Between looks, without a hint: some hundred rules are read.
const EVERY: Duration = Duration::from_secs(120);
/// After a hint: Docker changes its own rules in several steps.
const SETTLE: Duration = Duration::from_secs(1);
/// Until the second look that a finding needs, and between looks while something is missing.
const AGAIN: Duration = Duration::from_secs(4);
/// Looks in a row that make a finding.
const LOOKS: u32 = 2;
/// Docker with its containers takes seconds to start; a restart that hangs must not block us for ever.
const RESTART_TIMEOUT: Duration = Duration::from_secs(180);
/// Between restarts: one that did not help is not repeated in haste.
const RESTART_EVERY: Duration = Duration::from_secs(900);
/// Where Docker's rules may be: by `iptables` over nftables, and by Docker's own way since version 29.
const TABLES: [&str; 2] = ["nat", "docker-bridges"];
/// What each network's rule says in its line.
const MASQUERADE: &str = "masquerade";
/// The boot in which the rules were seen, in the data directory.
const SEEN_FILE: &str = "docker-rules";
/// Changes with each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Subject on the host's board.
const SUBJECT: &str = "Docker's packet filter";

/// What may be done about it.
#[derive(Debug, Clone)]
pub struct Repair {
    /// Start Docker anew where its tenants run on meanwhile (`--repair-docker`).
    pub allowed: bool,
    /// The service manager's program.
    pub program: PathBuf,
}

impl Default for Repair {
    fn default() -> Self {
        Self {
            allowed: false,
            program: "systemctl".into(),
        }
    }
}

pub(super) struct Dockers {
    pub(super) host: Arc<Host>,
    pub(super) plans: watch::Receiver<InForce>,
    pub(super) nft: Nft,
    pub(super) repair: Repair,
    /// Somebody has removed rules.
    pub(super) hint: Arc<Notify>,
}

/// What is known from one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    There,
    Missing,
    /// Nothing to look for, or nobody to ask.
    Unknown,
}

/// What follows from all looks.
#[derive(Debug, Default)]
struct Judge {
    /// They were there since the machine was started.
    seen: bool,
    missing: u32,
}

impl Judge {
    /// Whether something is wrong; `None`: as before.
    fn take(&mut self, look: Look) -> Option<bool> {
        match look {
            Look::Unknown => {
                self.missing = 0;
                None
            }
            Look::There => {
                (self.seen, self.missing) = (true, 0);
                Some(false)
            }
            Look::Missing if self.seen => {
                self.missing = self.missing.saturating_add(1);
                (self.missing >= LOOKS).then_some(true)
            }
            Look::Missing => None,
        }
    }
}

/// Whether networks' rules are there, in what `nft` shows. A flush takes them all; a single one that is missing is something else.
fn look(shown: &[String], networks: &BTreeSet<Ipv4Net>) -> Look {
    if networks.is_empty() {
        return Look::Unknown;
    }
    let lines = shown.iter().flat_map(|table| table.lines());
    let rules: Vec<String> = lines
        .map(str::to_ascii_lowercase)
        .filter(|line| line.contains(MASQUERADE))
        .collect();
    let has = |network: &Ipv4Net| {
        let network = network.to_string();
        let mut rules = rules.iter();
        rules.any(|rule| rule.split_ascii_whitespace().any(|word| word == network))
    };
    match networks.iter().any(has) {
        true => Look::There,
        false => Look::Missing,
    }
}

/// The tables that may hold Docker's rules, of those that are there; `None`: it cannot be found out now.
async fn shown(nft: &Nft) -> Option<Vec<String>> {
    let mut shown = Vec::new();
    for table in TABLES {
        match nft.list(&["table", "ip", table]).await {
            Ok(text) => shown.push(text),
            Err(FirewallError::Refused(_)) => {} // there is no such table
            Err(FirewallError::Missing(_) | FirewallError::Silent(_)) => return None,
        }
    }
    Some(shown)
}

/// One look at the rules of these networks.
async fn look_for(nft: &Nft, networks: &BTreeSet<Ipv4Net>) -> Look {
    let shown = shown(nft).await;
    shown.map_or(Look::Unknown, |shown| look(&shown, networks))
}

/// Whether networks' rules are there; `None`: there are no networks, or it cannot be found out.
pub(super) async fn are_there(nft: &Nft, networks: &BTreeSet<Ipv4Net>) -> Option<bool> {
    match look_for(nft, networks).await {
        Look::There => Some(true),
        Look::Missing => Some(false),
        Look::Unknown => None,
    }
}

/// What to do when they are gone.
pub fn remedy(live_restore: bool) -> &'static str {
    match live_restore {
        true => {
            "restart Docker on this host (`systemctl restart docker`): tenants run on, because its `live-restore` is on"
        }
        false => {
            "restart Docker on this host (`systemctl restart docker`); that stops its tenants for some seconds, because its \
             `live-restore` is off"
        }
    }
}

impl Dockers {
    pub(super) async fn run(self, stop: CancellationToken) {
        let file = self.host.data.path().join(SEEN_FILE);
        let boot = kernel::text(BOOT_ID).unwrap_or_default();
        let written = fsutil::read_text(&file).unwrap_or_default();
        let mut judge = Judge {
            seen: !boot.is_empty() && written == boot,
            missing: 0,
        };
        let (mut told, mut restarted): (bool, Option<Instant>) = (false, None);
        loop {
            let seen = judge.seen;
            if let Some(wrong) = judge.take(self.look().await) {
                self.tell(wrong, told).await;
                told = wrong;
            }
            if judge.seen && !seen {
                keep(&file, &boot);
            }
            let may = restarted.is_none_or(|at| at.elapsed() > RESTART_EVERY);
            if told && may && self.may_restart().await {
                restarted = Some(Instant::now());
                self.restart().await;
            }
            let rest = if judge.missing > 0 { AGAIN } else { EVERY };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.hint.notified() => sleep(SETTLE).await,
                () = sleep(rest) => {}
            }
        }
    }

    async fn look(&self) -> Look {
        if !self.host.board.docker_error().is_empty() {
            return Look::Unknown;
        }
        let tenants = match &self.plans.borrow().plan {
            Some(plan) => plan.tenants.iter().map(|t| t.subnet.trunc()).collect(),
            None => return Look::Unknown,
        };
        look_for(&self.nft, &around::present(&tenants)).await
    }

    async fn live_restore(&self) -> bool {
        self.host.engine().await.is_ok_and(|e| e.live_restore)
    }

    async fn tell(&self, wrong: bool, before: bool) {
        if wrong == before {
            return;
        }
        if !wrong {
            tracing::info!("Docker's rules of the packet filter are there again");
            self.host.board.set_warning(SUBJECT, "");
            return;
        }
        let text = format!(
            "Docker's rules of the packet filter are gone (`nft flush ruleset`, or a restart of nftables?), so tenants reach nothing \
             outside and no network can be made; {}",
            remedy(self.live_restore().await)
        );
        tracing::error!("{text}");
        self.host.board.set_warning(SUBJECT, &text);
    }

    async fn may_restart(&self) -> bool {
        self.repair.allowed && self.live_restore().await
    }

    async fn restart(&self) {
        tracing::warn!("starting Docker anew, because its rules of the packet filter are gone");
        let run = Command::new(&self.repair.program)
            .args(["restart", "docker.service"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        let outcome = timeout(RESTART_TIMEOUT, run).await;
        match outcome {
            Ok(Ok(status)) if status.success() => {
                self.host.forget_engine();
                let text = "its rules were gone, so Docker was started anew; tenants ran on (`live-restore`)";
                self.host.board.set_mended(SUBJECT, text, now_ms());
            }
            Ok(Ok(status)) => tracing::error!("Docker cannot be started anew: {status}"),
            Ok(Err(e)) => tracing::error!("Docker cannot be started anew: {e}"),
            Err(_) => tracing::error!("Docker has not started anew in time"),
        }
    }
}

/// For the agent's next run. Without it, that one needs to see the rules first.
fn keep(file: &Path, boot: &str) {
    if let Err(e) = fsutil::write_atomic(file, boot.as_bytes(), 0o600, false) {
        tracing::debug!("{} cannot be written: {e}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> BTreeSet<Ipv4Net> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    /// As `nft` shows them of iptables over nftables, by versions with and without a translation, and of Docker's own backend.
    #[test]
    fn networks_rules_are_found_however_they_are_shown() {
        let nat = "table ip nat {\n\tchain POSTROUTING {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\
            \t\toifname != \"br-1\" ip saddr 10.90.0.0/28 counter masquerade\n\
            \t\toifname != \"br-2\" ip saddr 10.90.0.16/28 counter xt target \"MASQUERADE\"\n\t}\n}\n";
        let shown = [nat.to_owned()];
        for there in [
            ["10.90.0.0/28", "10.90.0.32/28"],
            ["10.90.0.16/28", "10.90.0.32/28"],
        ] {
            assert_eq!(look(&shown, &networks(&there)), Look::There);
        }
        let gone = networks(&["10.90.0.32/28", "10.90.0.0/24"]);
        assert_eq!(look(&shown, &gone), Look::Missing);
        assert_eq!(look(&[], &gone), Look::Missing);
        assert_eq!(look(&shown, &networks(&[])), Look::Unknown);
        let elsewhere = ["ip saddr 10.90.0.0/28 counter accept\n masquerade".to_owned()];
        let one = networks(&["10.90.0.0/28"]);
        assert_eq!(look(&elsewhere, &one), Look::Missing);
    }

    #[test]
    fn a_finding_needs_that_they_were_there_and_two_looks() {
        use Look::{Missing, There, Unknown};
        let verdicts = |looks: &[Look]| {
            let mut judge = Judge::default();
            let all = looks.iter().map(|look| judge.take(*look));
            all.collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&[Missing, Missing, Missing]), [None, None, None]);
        assert_eq!(
            verdicts(&[There, Missing, Missing, There]),
            [Some(false), None, Some(true), Some(false)]
        );
        assert_eq!(
            verdicts(&[There, Missing, Unknown, Missing, Missing]),
            [Some(false), None, None, None, Some(true)]
        );
    }
}

//! Keeps the host's packet filter in force: passes the rendered tables to `nft` as a whole, and only when they have
//! changed. Isolation is a must; limits are put in force apart, because a kernel that cannot count must not cost a tenant its start.
//!
//! Not here: the rules and their reasons (plan::firewall).

mod around;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use isyone_proto::{network::DnsName, plan::HostPlan};

use tokio::{
    io::AsyncWriteExt as _,
    process,
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::names::Lookups;
use crate::{
    base::{clock::now_ms, fsutil},
    host::{Gate, Host, ledger::InForce},
    plan::{
        firewall::{Around, LIMITS_TABLE, TABLE, render, render_limits},
        names::{self as book, NameBook},
    },
};

/// How often to check that the table is still there: a reload of the host's own rules may flush it.
const CHECK: Duration = Duration::from_secs(30);
/// How often rules with listed names are put in force again: their addresses are open for an hour from then.
const AGAIN: Duration = Duration::from_secs(600);
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
#[derive(Debug, Clone, Default)]
pub struct Applier {
    /// Start tenants even without a filter (`--insecure-no-firewall`).
    pub insecure: bool,
    /// Name servers that containers are given, besides those that this machine's files name.
    pub resolvers: Vec<Ipv4Addr>,
}

/// What the filter follows.
pub struct Sources {
    pub host: Arc<Host>,
    pub plans: watch::Receiver<InForce>,
    /// Where the fleet's hosts are.
    pub hosts: watch::Receiver<BTreeSet<IpAddr>>,
    /// `host:port` of the coordinator, as this agent calls it.
    pub endpoint: String,
}

/// What was accepted last; empty: nothing, or it must be put in force anew.
#[derive(Default)]
struct Applied {
    rules: String,
    at: Option<Instant>,
    limits: String,
    /// The kernel refuses these limits: told once.
    refused: bool,
}

impl Applier {
    /// Runs until `stop`; the tables then stay in force.
    pub async fn run(self, sources: Sources, stop: CancellationToken) {
        let Sources {
            host,
            mut plans,
            mut hosts,
            endpoint,
        } = sources;
        let (address, name) = control(&endpoint);
        let lookups = Lookups::open(host.data.names(), name.clone());
        let mut known = lookups.subscribe();
        let looking = tokio::spawn(lookups.run(plans.clone(), stop.clone()));
        let mut applied = Applied::default();
        loop {
            let plan = plans.borrow_and_update().plan.clone();
            if let Some(plan) = plan {
                let mut around = self.around(&plan, &known.borrow_and_update(), name.as_ref());
                around.control.extend(address);
                around.hosts.clone_from(&hosts.borrow_and_update());
                self.keep_up(&host, &plan, &around, &mut applied).await;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = plans.changed() => if changed.is_err() { break },
                Ok(()) = hosts.changed() => {}
                Ok(()) = known.changed() => {}
                () = sleep(CHECK) => {}
            }
        }
        // It ends with `stop`; a panic in it was logged when it happened.
        let _ = looking.await;
    }

    fn around(&self, plan: &HostPlan, known: &NameBook, endpoint: Option<&DnsName>) -> Around {
        let now = now_ms();
        let tenants = plan.tenants.iter().map(|t| t.subnet.trunc()).collect();
        let control = book::protected(plan, endpoint);
        let names = book::allowed(plan).into_iter();
        Around {
            resolvers: around::resolvers(&self.resolvers),
            hosts: BTreeSet::new(),
            control: control.iter().flat_map(|name| known.closed(name)).collect(),
            names: names
                .map(|name| {
                    let found = known.open(&name, now);
                    (name, found)
                })
                .collect(),
            bridges: around::bridges(&tenants),
            conntrack_max: around::conntrack_max(),
        }
    }

    /// Puts in force what has changed, or is not there any more.
    async fn keep_up(&self, host: &Host, plan: &HostPlan, around: &Around, applied: &mut Applied) {
        let rules = render(plan, around);
        let fresh = around.names.is_empty() || applied.at.is_some_and(|at| at.elapsed() < AGAIN);
        let there = rules == applied.rules && fresh && is_there(TABLE).await;
        let outcome = if there {
            Ok(())
        } else {
            nft(&["-f", "-"], &rules).await
        };
        let limits = render_limits(plan, around);
        let limited = limits == applied.limits && (applied.refused || is_there(LIMITS_TABLE).await);
        if !limited {
            let outcome = nft(&["-f", "-"], &limits).await;
            applied.refused = outcome.is_err();
            applied.limits.clone_from(&limits);
            if let Err(error) = outcome {
                // Not a warning on the board: tenants run, isolated.
                tracing::error!(
                    "one tenant's connections are not limited, so it could take all of this host's: {error}"
                );
            }
        }
        if there && limited {
            return;
        }
        self.keep(host, &rules, &limits).await;
        if !there {
            (applied.rules, applied.at) = match outcome {
                Ok(()) => (rules, Some(Instant::now())),
                Err(_) => Default::default(),
            };
            self.tell(host, &outcome);
        }
    }

    /// Saves the rules for the next boot: Docker starts containers before us, and the table must be there first
    /// (`isy-agent-firewall.service` loads this file). Limits only where the kernel takes them: it loads all or nothing.
    async fn keep(&self, host: &Host, rules: &str, limits: &str) {
        let both = format!("{rules}{limits}");
        let both = match nft(&["--check", "-f", "-"], &both).await {
            Ok(()) => both,
            Err(_) => rules.to_owned(),
        };
        let path = host.data.path().join(RULES_FILE);
        if let Err(e) = fsutil::write_atomic(&path, both.as_bytes(), 0o600, true) {
            tracing::warn!(
                "{} cannot be written, so the next boot begins without a packet filter: {e}",
                path.display()
            );
        }
    }

    fn tell(&self, host: &Host, outcome: &Result<(), FirewallError>) {
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

/// Whether a table of ours is there, with its first hook.
async fn is_there(table: &str) -> bool {
    nft(&["list", "chain", "inet", table, "prerouting"], "")
        .await
        .is_ok()
}

/// Where the coordinator is, as its `host:port` says: an address, or a name to look up.
fn control(endpoint: &str) -> (Option<Ipv4Addr>, Option<DnsName>) {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    match host.parse() {
        Ok(address) => (Some(address), None),
        // An IPv6 address is no name, and tenants have no IPv6.
        Err(_) => (None, host.parse().ok()),
    }
}

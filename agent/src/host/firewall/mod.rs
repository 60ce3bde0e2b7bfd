//! Keeps the host's packet filter in force: passes the rendered tables to `nft` as a whole, and only when they have
//! changed. Isolation is a must; limits are put in force apart, because a kernel that cannot count must not cost a tenant its start.
//!
//! Not here: the rules and their reasons (plan::firewall).

mod again;
mod around;
mod names;
mod nft;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use isyone_proto::{network::DnsName, plan::HostPlan};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{again::Again, names::Lookups};
pub use self::{
    again::Pauses,
    nft::{FirewallError, Nft},
};
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
/// Subject of our warning on the host's board.
const LIMITS: &str = "connection limits";
/// The rules in force, in the data directory.
const RULES_FILE: &str = "firewall.nft";

/// Keeps the filter in force.
#[derive(Debug, Clone, Default)]
pub struct Applier {
    /// Start tenants even without a filter (`--insecure-no-firewall`).
    pub insecure: bool,
    /// Name servers that containers are given, besides those that this machine's files name.
    pub resolvers: Vec<Ipv4Addr>,
    /// The program that puts rules in force.
    pub nft: Nft,
    /// Between tries of what has failed.
    pub pauses: Pauses,
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
    /// What was tried last; `limiting` says whether it was accepted.
    limits: String,
    limiting: Again,
    /// What the next boot begins with is older than what is in force.
    keeping: Again,
}

impl Applied {
    /// How long until something may be to do again.
    fn rest(&self) -> Duration {
        let now = Instant::now();
        self.limiting
            .until(now, CHECK)
            .min(self.keeping.until(now, CHECK))
    }
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
                () = sleep(applied.rest()) => {}
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

    /// Puts in force what has changed, is not there any more, or was refused.
    async fn keep_up(&self, host: &Host, plan: &HostPlan, around: &Around, applied: &mut Applied) {
        let rules = render(plan, around);
        let fresh = around.names.is_empty() || applied.at.is_some_and(|at| at.elapsed() < AGAIN);
        let there = rules == applied.rules && fresh && self.nft.has(TABLE).await;
        if !there {
            let outcome = self.nft.load(&rules).await;
            (applied.rules, applied.at) = match outcome {
                Ok(()) => (rules.clone(), Some(Instant::now())),
                Err(_) => Default::default(),
            };
            self.tell(host, &outcome);
        }
        let limits = render_limits(plan, around);
        let limited = self.limit(host, &limits, applied).await;
        if there && limited && !applied.keeping.is_due(Instant::now()) {
            return;
        }
        let refused = applied.limiting.is_failing();
        let kept = self.keep(host, &rules, (&limits, refused)).await;
        applied.keeping.tried(kept, Instant::now(), self.pauses);
    }

    /// Puts limits in force where they are not; returns whether what is in force is as it was. Tenants run without them, isolated: but
    /// for as long as the host cannot hold one to its share, no new one is placed there.
    async fn limit(&self, host: &Host, limits: &str, applied: &mut Applied) -> bool {
        let failing = applied.limiting.is_failing();
        let same = limits == applied.limits;
        let done = same
            && match failing {
                true => !applied.limiting.is_due(Instant::now()),
                false => self.nft.has(LIMITS_TABLE).await,
            };
        if done {
            return true;
        }
        let outcome = self.nft.load(limits).await;
        limits.clone_into(&mut applied.limits);
        let worked = outcome.is_ok();
        applied.limiting.tried(worked, Instant::now(), self.pauses);
        let Err(error) = outcome else {
            host.board.set_warning(LIMITS, "");
            if failing {
                tracing::info!("one tenant's connections are limited again");
            }
            return false;
        };
        let text = format!(
            "one tenant's connections are not limited, so it could take all of this host's: {error}"
        );
        if !failing {
            tracing::error!("{text}; tried again at least once a minute");
        }
        host.board.set_warning(LIMITS, &text);
        same && failing
    }

    /// Saves the rules for the next boot: Docker starts containers before us, and the table must be there first
    /// (`isy-agent-firewall.service` loads this file). Limits only where the kernel takes them: it loads all or nothing.
    /// Returns whether all that is in force is saved.
    async fn keep(&self, host: &Host, rules: &str, (limits, refused): (&str, bool)) -> bool {
        let both = format!("{rules}{limits}");
        let (text, whole) = match self.nft.check(&both).await {
            Ok(()) => (both, true),
            Err(_) => (rules.to_owned(), refused),
        };
        let path = host.data.path().join(RULES_FILE);
        let written = fsutil::write_atomic(&path, text.as_bytes(), 0o600, true);
        let Err(e) = written else {
            return whole;
        };
        // Not on the board: that would take the host out of placement, and what is in force is as it should be. A disk without
        // room for this has an alert of its own.
        tracing::error!(
            "{} cannot be written, tried again; until then the next boot begins with an older packet filter, or none: {e}",
            path.display()
        );
        false
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

/// Where the coordinator is, as its `host:port` says: an address, or a name to look up.
fn control(endpoint: &str) -> (Option<Ipv4Addr>, Option<DnsName>) {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    match host.parse() {
        Ok(address) => (Some(address), None),
        // An IPv6 address is no name, and tenants have no IPv6.
        Err(_) => (None, host.parse().ok()),
    }
}

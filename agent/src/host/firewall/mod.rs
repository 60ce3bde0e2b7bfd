//! Keeps the host's packet filter in force: passes the rendered tables to `nft` as a whole, and only when they have
//! changed. Isolation is a must; limits are put in force apart, because a kernel that cannot count must not cost a tenant its start.
//!
//! Not here: the rules and their reasons (plan::firewall).

mod again;
mod around;
mod dockers;
mod examine;
mod heard;
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
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    again::Again,
    dockers::Dockers,
    heard::{Heard, Watch},
    names::Lookups,
};
pub use self::{
    again::Pauses,
    dockers::{Repair, remedy},
    examine::{Examined, examine},
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

/// How often to check that the table is still there, besides whenever somebody is heard to change it: a reload of the host's own
/// rules may flush it.
const CHECK: Duration = Duration::from_secs(30);
/// How often rules with listed names are put in force again: their addresses are open for an hour from then.
const AGAIN: Duration = Duration::from_secs(600);
/// What is looked at of our tables: all that isolates, and where limits begin. (Other chains there hold what is counted.)
const WHOLE: [&str; 3] = ["table", "inet", TABLE];
const LIMITS_HOOK: [&str; 4] = ["chain", "inet", LIMITS_TABLE, "prerouting"];
/// Subject of what was mended on the host's board.
const FILTER: &str = "packet filter";
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
    /// What may be done when Docker's rules are gone.
    pub repair: Repair,
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

/// Whether how rules are shown is believed, where the same rules were shown otherwise before: somebody may have changed them between our
/// loading and our looking. Once the earlier one counts, so that they are put in force again; then the newer one, or that would
/// never end.
#[derive(Default)]
struct Doubt(bool);

impl Doubt {
    fn of(&mut self, before: String, now: Option<String>) -> Option<String> {
        self.0 = !self.0 && now.as_ref() != Some(&before);
        if self.0 { Some(before) } else { now }
    }
}

/// What was accepted last; empty: nothing, or it must be put in force anew.
#[derive(Default)]
struct Applied {
    rules: String,
    at: Option<Instant>,
    /// How `nft` showed them then.
    shown: Option<String>,
    doubt: Doubt,
    limits_doubt: Doubt,
    /// Since then somebody was heard to change something of ours.
    touched: Option<Touched>,
    /// What was tried last; `limiting` says whether it was accepted.
    limits: String,
    limits_shown: Option<String>,
    limiting: Again,
    /// What the next boot begins with is older than what is in force.
    keeping: Again,
}

/// Somebody was heard to change our tables: often we ourselves.
struct Touched {
    at: Instant,
    by: String,
}

impl Applied {
    fn hear(&mut self, heard: Heard) {
        if heard.ours {
            self.touched = Some(Touched {
                at: Instant::now(),
                by: heard.by,
            });
        }
    }

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
        let hint = Arc::new(Notify::new());
        let dockers = tokio::spawn(self.dockers(&host, &plans, &hint).run(stop.clone()));
        let mut watch = Watch::open();
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
                heard = watch.next() => {
                    if heard.others {
                        hint.notify_one();
                    }
                    applied.hear(heard);
                }
                () = sleep(applied.rest()) => {}
            }
        }
        // They end with `stop`; a panic in one was logged when it happened.
        let _ = tokio::join!(looking, dockers);
    }

    fn dockers(
        &self,
        host: &Arc<Host>,
        plans: &watch::Receiver<InForce>,
        hint: &Arc<Notify>,
    ) -> Dockers {
        Dockers {
            host: host.clone(),
            plans: plans.clone(),
            nft: self.nft.clone(),
            repair: self.repair.clone(),
            hint: hint.clone(),
        }
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
        let touched = applied.touched.take();
        let same = rules == applied.rules && fresh;
        let there = same && {
            let what = (TABLE, &WHOLE[..]);
            self.is_in_force(touched.as_ref(), what, applied.shown.as_ref())
                .await
        };
        if !there {
            let outcome = self.nft.load(&rules).await;
            (applied.rules, applied.at, applied.shown) = match outcome {
                Ok(()) => {
                    let shown = self.nft.shown(&WHOLE).await;
                    let before = std::mem::take(&mut applied.shown).filter(|_| same);
                    let shown = match before {
                        Some(before) => applied.doubt.of(before, shown),
                        None => shown,
                    };
                    (rules.clone(), Some(Instant::now()), shown)
                }
                Err(_) => Default::default(),
            };
            if same && outcome.is_ok() {
                tell_put_back(host, touched.as_ref());
            }
            self.tell(host, &outcome);
        }
        let limits = render_limits(plan, around);
        let limited = self.limit(host, &limits, touched.as_ref(), applied).await;
        if there && limited && !applied.keeping.is_due(Instant::now()) {
            return;
        }
        let refused = applied.limiting.is_failing();
        let kept = self.keep(host, &rules, (&limits, refused)).await;
        applied.keeping.tried(kept, Instant::now(), self.pauses);
    }

    /// Whether what is in force is what we put there. Compared only when somebody has touched it: usually it is enough that it is there.
    async fn is_in_force(
        &self,
        touched: Option<&Touched>,
        (table, what): (&str, &[&str]),
        then: Option<&String>,
    ) -> bool {
        match then.filter(|_| touched.is_some()) {
            Some(then) => self.nft.shown(what).await.as_ref() == Some(then),
            // Also where it could not be shown then: we hear our own loading, too, so taking that for a change would never end.
            None => self.nft.has(table).await,
        }
    }

    /// Puts limits in force where they are not; returns whether what is in force is as it was. Tenants run without them, isolated: but
    /// for as long as the host cannot hold one to its share, no new one is placed there.
    async fn limit(
        &self,
        host: &Host,
        limits: &str,
        touched: Option<&Touched>,
        applied: &mut Applied,
    ) -> bool {
        let failing = applied.limiting.is_failing();
        let same = limits == applied.limits;
        let done = same
            && match failing {
                true => !applied.limiting.is_due(Instant::now()),
                false => {
                    let what = (LIMITS_TABLE, &LIMITS_HOOK[..]);
                    let shown = applied.limits_shown.as_ref();
                    self.is_in_force(touched, what, shown).await
                }
            };
        if done {
            return true;
        }
        let outcome = self.nft.load(limits).await;
        limits.clone_into(&mut applied.limits);
        let worked = outcome.is_ok();
        applied.limiting.tried(worked, Instant::now(), self.pauses);
        let Err(error) = outcome else {
            let shown = self.nft.shown(&LIMITS_HOOK).await;
            let before = std::mem::take(&mut applied.limits_shown).filter(|_| same);
            applied.limits_shown = match before {
                Some(before) => applied.limits_doubt.of(before, shown),
                None => shown,
            };
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

/// Tells that the filter was gone, or changed, and is back.
fn tell_put_back(host: &Host, touched: Option<&Touched>) {
    let text = match touched {
        Some(touched) => {
            let who = match touched.by.as_str() {
                "" => "somebody",
                by => by,
            };
            let ms = touched.at.elapsed().as_millis();
            format!("removed or changed by {who}, and in force again {ms} ms after that was heard")
        }
        None => format!(
            "it was gone, found by looking (every {} s), and is in force again",
            CHECK.as_secs()
        ),
    };
    tracing::warn!("packet filter {text}");
    host.board.set_mended(FILTER, &text, now_ms());
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

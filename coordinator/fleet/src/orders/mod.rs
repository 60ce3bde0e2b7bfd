//! Which certificates to order next, and which to forget. Pure: what is wanted, what there is, what went wrong and when, the
//! time and chance are arguments.
//!
//! A name is ordered when nothing valid covers it, or when the certificate of its own is due for renewal. Missing ones go before
//! renewals, those that end sooner before others. What limits an order limits that name alone; only an authority that does not
//! answer holds up all of them, and then what runs goes on.
//! Not here: which names are wanted, and carrying orders out (the coordinator's edges/acme).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use isyone_types::plan::UnixMs;
use sha2::{Digest as _, Sha256};

use crate::desired::certificates::{CertificateTrouble, EdgeCertificate, Origin, WEEK_MS};

/// An ordered certificate is renewed after two thirds of its life, as Let's Encrypt advises …
const RENEW_AT: (i64, i64) = (2, 3);
/// … minus up to a twelfth: a week of 90 days. Certificates that were issued together are not renewed together.
const JITTER: i64 = 12;
/// Retries come up to a quarter later than they are due, for the same reason.
const RETRY_JITTER: i64 = 4;
/// Orders begun at one go: a bound for one look, further ones are found at the next.
const MAX_BEGIN: usize = 32;

/// What an authority bears: `[tls.acme]` of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct OrderLimits {
    /// Orders that may be under way at the same time.
    pub orders_at_once: usize,
    /// Certificates in a week for one registered domain; renewals count, too, although some authorities let them pass.
    pub weekly_per_domain: usize,
    /// Certificates in a week for the same name.
    pub weekly_same: usize,
    /// The pause after a first failure; each further one doubles it.
    pub retry_first_ms: i64,
    /// The longest pause, after many failures.
    pub retry_most_ms: i64,
}

/// Everything that the decision depends on.
pub struct OrderInputs<'a> {
    /// Host names that must have a certificate.
    pub wanted: &'a BTreeSet<String>,
    /// Certificates that there are, by name.
    pub held: &'a BTreeMap<&'a str, &'a EdgeCertificate>,
    /// Host names for which none could be had, by name.
    pub troubles: &'a BTreeMap<&'a str, &'a CertificateTrouble>,
    /// The authority would find somebody else there: no orders, they would only use up its limits.
    pub elsewhere: &'a BTreeSet<&'a str>,
    /// Names whose orders are under way.
    pub running: &'a BTreeSet<String>,
    /// The authority does not answer: nothing is ordered before this time.
    pub closed_until: UnixMs,
    pub limits: OrderLimits,
    pub now: UnixMs,
    /// Drawn once: it spreads renewals, and must not change while they are waited for.
    pub chance: u64,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OrderPlan {
    /// Names to order.
    pub begin: Vec<String>,
    /// Certificates that nobody wants any more, and whose issue counts no more against a limit.
    pub forget: Vec<String>,
    /// Troubles of names that nobody wants any more.
    pub settled: Vec<String>,
    /// Names that wait for an authority's weekly limit.
    pub held_back: Vec<String>,
}

/// What to order, forget and settle now.
pub fn plan(input: &OrderInputs<'_>) -> OrderPlan {
    let mut plan = OrderPlan {
        forget: forgotten(input),
        settled: input
            .troubles
            .keys()
            .filter(|n| !input.wanted.contains(**n))
            .map(|n| (*n).to_owned())
            .collect(),
        ..OrderPlan::default()
    };
    let room = input
        .limits
        .orders_at_once
        .saturating_sub(input.running.len())
        .min(MAX_BEGIN);
    if room == 0 || input.now < input.closed_until {
        return plan;
    }
    let covered = Covered::of(input);
    // Missing ones first, then by the end of what there is.
    let mut due: Vec<(i64, &String)> = input
        .wanted
        .iter()
        .filter_map(|name| Some((need(input, &covered, name)?, name)))
        .collect();
    due.sort_unstable();
    let mut issued = Issued::of(input);
    for (_, name) in due {
        if plan.begin.len() == room {
            break;
        }
        if issued.admits(name, &input.limits) {
            plan.begin.push(name.clone());
        } else {
            plan.held_back.push(name.clone());
        }
    }
    plan
}

/// Whether a name needs an order now: how urgent, less is more.
fn need(input: &OrderInputs<'_>, covered: &Covered<'_>, name: &str) -> Option<i64> {
    // One that is held is renewed all the same: it may be behind something that passes the authority's question on.
    let elsewhere = input.elsewhere.contains(name) && !input.held.contains_key(name);
    if elsewhere
        || input.running.contains(name)
        || input
            .troubles
            .get(name)
            .is_some_and(|t| input.now < t.retry_at)
    {
        return None;
    }
    match input.held.get(name) {
        Some(own) if own.origin == Origin::Acme && valid(own, input.now) => {
            // Another one takes its place: an uploaded one or the wildcard.
            let due = input.now >= renew_at(own, input.chance) && !covered.by_another(name);
            due.then_some(own.not_after)
        }
        _ => (!covered.by_another(name)).then_some(i64::MIN),
    }
}

fn valid(certificate: &EdgeCertificate, now: UnixMs) -> bool {
    now < certificate.not_after.saturating_mul(1000)
}

/// When a certificate is to be renewed.
pub fn renew_at(certificate: &EdgeCertificate, chance: u64) -> UnixMs {
    let (begin, life) = (certificate.not_before * 1000, life_ms(certificate));
    let most = life / JITTER;
    begin + life / RENEW_AT.1 * RENEW_AT.0
        - spread(&certificate.name, certificate.not_before, chance, most)
}

fn life_ms(certificate: &EdgeCertificate) -> i64 {
    certificate
        .not_after
        .saturating_sub(certificate.not_before)
        .max(0)
        .saturating_mul(1000)
}

/// When to try again after so many failures, the last one now. An authority's own word (`asked`) is not undercut.
pub fn retry_at(
    name: &str,
    failures: u32,
    now: UnixMs,
    asked: Option<UnixMs>,
    limits: &OrderLimits,
    chance: u64,
) -> UnixMs {
    let doublings = failures.saturating_sub(1).min(30);
    let pause = limits
        .retry_first_ms
        .saturating_mul(1 << doublings)
        .min(limits.retry_most_ms);
    let later = spread(name, i64::from(failures), chance, pause / RETRY_JITTER);
    now.saturating_add(pause)
        .saturating_add(later)
        .max(asked.unwrap_or(0))
}

/// 0 to `most`, the same for the same arguments.
fn spread(name: &str, turn: i64, chance: u64, most: i64) -> i64 {
    let hash = Sha256::new_with_prefix(chance.to_be_bytes())
        .chain_update(turn.to_be_bytes())
        .chain_update(name);
    let word = hash.finalize()[..4]
        .iter()
        .fold(0_i64, |word, byte| word << 8 | i64::from(*byte));
    // 32 bits times less than 2^31 seconds' milliseconds would overflow: the share first, in thousandths.
    most / 1000 * (word % 1000) + most % 1000 * (word % 1000) / 1000
}

/// Certificates of ours that nobody wants. For a week they are kept: they may be wanted again, and the authority still counts them.
fn forgotten(input: &OrderInputs<'_>) -> Vec<String> {
    let unwanted = input.held.values().filter(|c| {
        let recent = c.issued.last().is_some_and(|at| input.now - at < WEEK_MS);
        c.origin == Origin::Acme
            && !input.wanted.contains(&c.name)
            && !(recent && valid(c, input.now))
    });
    unwanted.map(|c| c.name.clone()).collect()
}

/// Which names are covered by a certificate that is not (only) theirs.
struct Covered<'a> {
    /// Whose certificate a covered name is.
    names: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Covered<'a> {
    fn of(input: &OrderInputs<'a>) -> Self {
        let mut names: HashMap<&str, Vec<&str>> = HashMap::new();
        // The week before its end an uploaded one counts no more: better a second certificate than none.
        let lasting = |c: &&&EdgeCertificate| {
            let margin = if c.origin == Origin::Uploaded {
                WEEK_MS.min(life_ms(c) / RENEW_AT.1)
            } else {
                0
            };
            valid(c, input.now.saturating_add(margin))
        };
        for certificate in input.held.values().filter(lasting) {
            for hostname in &certificate.hostnames {
                names.entry(hostname).or_default().push(&certificate.name);
            }
        }
        Self { names }
    }

    fn by_another(&self, name: &str) -> bool {
        let others = |key: &str| {
            self.names
                .get(key)
                .is_some_and(|of| of.iter().any(|of| *of != name))
        };
        others(name)
            || name
                .split_once('.')
                .is_some_and(|(_, base)| others(&format!("*.{base}")))
    }
}

/// What was issued during the last week, and is about to be.
struct Issued {
    per_domain: HashMap<String, usize>,
    same: HashMap<String, usize>,
}

impl Issued {
    fn of(input: &OrderInputs<'_>) -> Self {
        let mut issued = Self {
            per_domain: HashMap::new(),
            same: HashMap::new(),
        };
        for certificate in input.held.values() {
            let count = certificate
                .issued
                .iter()
                .filter(|at| input.now - **at < WEEK_MS)
                .count();
            if count > 0 {
                issued.add(&certificate.name, count);
            }
        }
        input.running.iter().for_each(|name| issued.add(name, 1));
        issued
    }

    fn add(&mut self, name: &str, count: usize) {
        *self
            .per_domain
            .entry(registered(name).to_owned())
            .or_default() += count;
        *self.same.entry(name.to_owned()).or_default() += count;
    }

    /// Whether one more stays within the limits; counts it then.
    fn admits(&mut self, name: &str, limits: &OrderLimits) -> bool {
        let of = |map: &HashMap<String, usize>, key: &str| map.get(key).copied().unwrap_or(0);
        let fits = of(&self.per_domain, registered(name)) < limits.weekly_per_domain
            && of(&self.same, name) < limits.weekly_same;
        if fits {
            self.add(name, 1);
        }
        fits
    }
}

/// The domain that somebody registered, as authorities count: the last two labels, or three below a country's own second level
/// (`com.br`, `co.uk`). The public suffix list would know better; here a mistake only makes us more modest, and the
/// authority has the last word.
pub fn registered(name: &str) -> &str {
    const SECOND_LEVELS: [&str; 12] = [
        "ac", "co", "com", "edu", "eco", "gov", "ind", "net", "org", "or", "ne", "med",
    ];
    let labels: Vec<&str> = name.split('.').collect();
    let shared = labels.len() > 2
        && labels[labels.len() - 1].len() == 2
        && SECOND_LEVELS.contains(&labels[labels.len() - 2]);
    let keep = if shared { 3 } else { 2 };
    let skip: usize = labels
        .iter()
        .take(labels.len().saturating_sub(keep))
        .map(|l| l.len() + 1)
        .sum();
    &name[skip..]
}

#[cfg(test)]
mod tests;

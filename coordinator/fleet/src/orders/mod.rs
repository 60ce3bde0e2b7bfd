//! Which certificates to order next, and which to forget. Pure: what is wanted, what is held, past failures, time and
//! randomness are arguments.
//!
//! A name is ordered when no valid certificate covers it, or when its own is due for renewal. Missing certificates go
//! before renewals, earlier expiry before later. A rate limit or a failure holds back only the name concerned; only an
//! authority that does not answer stops all new orders, and even then the running ones go on.
//! Not here: which names are wanted, and carrying orders out (the coordinator's edges/acme).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use isyone_types::plan::UnixMs;
use sha2::{Digest as _, Sha256};

use crate::desired::certificates::{CertificateTrouble, EdgeCertificate, Origin, WEEK_MS};

/// An ordered certificate is renewed after two thirds of its lifetime, as Let's Encrypt advises …
const RENEW_AT: (i64, i64) = (2, 3);
/// … minus up to a twelfth (a week for 90 days), so that certificates issued together are not renewed together.
const JITTER: i64 = 12;
/// Retries are delayed by up to a quarter of the pause, for the same reason.
const RETRY_JITTER: i64 = 4;
/// Orders to begin in one plan; the next plan finds the others.
const MAX_BEGIN: usize = 32;

/// Limits of the authority, from `[tls.acme]` of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct OrderLimits {
    /// Orders that may be under way at the same time.
    pub orders_at_once: usize,
    /// Certificates per week for one registered domain. Renewals count, too, although some authorities exempt them.
    pub weekly_per_domain: usize,
    /// Certificates per week for the same name.
    pub weekly_same: usize,
    /// Pause after the first failure, milliseconds; each further failure doubles it.
    pub retry_first_ms: i64,
    /// Longest pause, milliseconds.
    pub retry_most_ms: i64,
}

/// Everything that the plan depends on.
pub struct OrderInputs<'a> {
    /// Host names that must have a certificate.
    pub wanted: &'a BTreeSet<String>,
    /// Certificates that exist, by name.
    pub held: &'a BTreeMap<&'a str, &'a EdgeCertificate>,
    /// Failed orders, by host name.
    pub troubles: &'a BTreeMap<&'a str, &'a CertificateTrouble>,
    /// Host names that lead the authority elsewhere: an order would fail and only use up its limits.
    pub elsewhere: &'a BTreeSet<&'a str>,
    /// Names with an order under way.
    pub running: &'a BTreeSet<String>,
    /// Set when the authority does not answer: order nothing before this time.
    pub closed_until: UnixMs,
    pub limits: OrderLimits,
    pub now: UnixMs,
    /// Random, drawn once: it spreads renewals, and must stay the same while they are pending.
    pub chance: u64,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OrderPlan {
    /// Names to order.
    pub begin: Vec<String>,
    /// Certificates that are not wanted any more and whose issue no longer counts against a limit.
    pub forget: Vec<String>,
    /// Names with a recorded failure that are not wanted any more.
    pub settled: Vec<String>,
    /// Names that wait because of the authority's weekly limit.
    pub held_back: Vec<String>,
}

/// Decides what to order, forget and settle now.
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
    // Missing ones first, then by expiry of the certificate there is.
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

/// Whether a name needs an order now, and how urgently; lower is more urgent.
fn need(input: &OrderInputs<'_>, covered: &Covered<'_>, name: &str) -> Option<i64> {
    // A held certificate is renewed anyway: something in front of us may pass the authority's challenge on.
    let elsewhere = input.elsewhere.contains(name) && !input.held.contains_key(name);
    if elsewhere
        || input.running.contains(name)
        || input
            .troubles
            .get(name)
            .is_some_and(|t| waits(t, input.now))
    {
        return None;
    }
    match input.held.get(name) {
        Some(own) if own.origin == Origin::Acme && valid(own, input.now) => {
            // Not when another certificate covers the name: an uploaded one or the wildcard.
            let due = input.now >= renew_at(own, input.chance) && !covered.by_another(name);
            due.then_some(own.not_after)
        }
        _ => (!covered.by_another(name)).then_some(i64::MIN),
    }
}

/// Whether it is too early to try again. A failure that is yet to come was written down by a clock that was ahead.
fn waits(trouble: &CertificateTrouble, now: UnixMs) -> bool {
    (trouble.at..trouble.retry_at).contains(&now)
}

fn valid(certificate: &EdgeCertificate, now: UnixMs) -> bool {
    now < certificate.not_after.saturating_mul(1000)
}

/// When to renew a certificate.
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

/// When to retry after this many failures, the last of them now; never earlier than the authority asks (`asked`).
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

/// 0 to `most`, always the same for the same arguments.
fn spread(name: &str, turn: i64, chance: u64, most: i64) -> i64 {
    let hash = Sha256::new_with_prefix(chance.to_be_bytes())
        .chain_update(turn.to_be_bytes())
        .chain_update(name);
    let word = hash.finalize()[..4]
        .iter()
        .fold(0_i64, |word, byte| word << 8 | i64::from(*byte));
    // Multiplying 32 bits with so many milliseconds could overflow, so take thousandths first.
    most / 1000 * (word % 1000) + most % 1000 * (word % 1000) / 1000
}

/// Ordered certificates that are not wanted any more. They are kept for a week: they may be wanted again, and the
/// authority still counts them.
fn forgotten(input: &OrderInputs<'_>) -> Vec<String> {
    let unwanted = input.held.values().filter(|c| {
        let recent = c.issued.last().is_some_and(|at| input.now - at < WEEK_MS);
        c.origin == Origin::Acme
            && !input.wanted.contains(&c.name)
            && !(recent && valid(c, input.now))
    });
    unwanted.map(|c| c.name.clone()).collect()
}

/// Which names are covered by which certificates.
struct Covered<'a> {
    /// Covered name → names of the certificates that cover it.
    names: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Covered<'a> {
    fn of(input: &OrderInputs<'a>) -> Self {
        let mut names: HashMap<&str, Vec<&str>> = HashMap::new();
        // An uploaded certificate stops counting a week before it expires: better a second certificate than none.
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

/// Certificates issued during the last week or being ordered, counted per registered domain and per name.
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
                .filter(|at| (0..WEEK_MS).contains(&(input.now - **at)))
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

    /// Whether one more stays within the limits; if so, counts it.
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

/// The registered domain, as authorities count it: the last two labels, or three below a country's second level
/// (`com.br`, `co.uk`). The public suffix list would be exact; here a mistake only makes us order less, and the
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

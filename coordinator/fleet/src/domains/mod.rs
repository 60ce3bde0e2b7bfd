//! Tenants' own domains: how one is written, whether it leads to the edges, and what to set in DNS when it does not.
//!
//! Pure: DNS answers are arguments.
//! Not here: when to check again (schedule), who owns a domain (change/domains), asking DNS and running the checks (the
//! coordinator's edges/dns and edges/domains).

pub mod schedule;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use isyone_types::{
    echo::echo,
    ids::TenantName,
    spec::{Domain, ValueError},
};

use crate::orders::registered;

/// Longest text that is parsed, bytes. A name has at most 253 characters in ASCII, and fewer in other scripts.
const MAX_TEXT: usize = 1_000;
/// How many of an answer's addresses and names are shown; it may have hundreds.
const MAX_SHOWN: usize = 8;
/// How many characters of a DNS answer are shown: enough for eight addresses and a few CNAMEs, while one name full of
/// escapes can have a thousand.
const MAX_WORDS: usize = 600;
/// Largest length of [`Look::found`], characters: it is stored and shows up in events and lists.
const MAX_FOUND: usize = 1_000;

/// Parses a domain as people write it. Capitals, a trailing dot and non-ASCII letters are accepted (`Bücher.example.`
/// is `xn--bcher-kva.example`).
pub fn parse(text: &str) -> Result<Domain, ValueError> {
    let refused = |problem: &str| Err(ValueError(format!("`{}` {problem}", echo(text))));
    if text.contains('*') {
        return refused("is a wildcard; name each domain, such as `erp.example.com`");
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() || text.trim_end_matches('.').parse::<Ipv4Addr>().is_ok() {
        return refused("is an IP address; a domain is a name, such as `erp.example.com`");
    }
    let ascii = if text.len() > MAX_TEXT {
        None
    } else {
        idna::domain_to_ascii_strict(text.trim_end_matches('.')).ok()
    };
    match ascii.and_then(|ascii| ascii.parse::<Domain>().ok()) {
        Some(domain) => Ok(domain),
        None => refused("is not a host name such as `erp.example.com`"),
    }
}

/// The form that people write, or the ASCII form if that cannot be converted.
pub fn unicode(domain: &str) -> String {
    match idna::domain_to_unicode(domain) {
        (text, Ok(())) => text,
        (_, Err(_)) => domain.to_owned(),
    }
}

/// Whether it is the base domain or lies under it.
pub fn is_platform(domain: &Domain, base_domain: &str) -> bool {
    let text = domain.as_str();
    text == base_domain
        || text
            .strip_suffix(base_domain)
            .is_some_and(|rest| rest.ends_with('.'))
}

/// Names by which the platform's own parts know each other: an edge says under one which document it runs, hosts' certificates carry
/// others.
const OURS: [&str; 2] = ["isyone.invalid", "isyone.internal"];

/// Whether it is a name of the platform's own parts.
pub fn is_ours(domain: &Domain) -> bool {
    OURS.iter().any(|ours| is_platform(domain, ours))
}

/// The same domain with `www.` added, or removed if it begins with that.
pub fn sibling(domain: &Domain) -> Result<Domain, ValueError> {
    match domain.as_str().strip_prefix("www.") {
        Some(bare) => parse(bare),
        None => parse(&format!("www.{domain}")),
    }
}

/// The DNS answer for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// DNS answered.
    Told {
        /// Whether the name exists at all.
        exists: bool,
        /// CNAMEs that were followed, in order.
        chain: Vec<String>,
        /// Addresses at the end of the chain.
        addresses: BTreeSet<IpAddr>,
    },
    /// No answer, or a useless one, and why.
    Silent(String),
}

/// Where a domain leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To edges only.
    Here,
    /// Nowhere, or elsewhere for at least some visitors.
    Elsewhere,
    /// DNS does not tell.
    Unknown,
}

/// The result of one check of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub verdict: Verdict,
    /// What DNS said, for people.
    pub found: String,
    /// Where it should lead.
    pub edges: BTreeSet<IpAddr>,
    /// Another tenant's platform name through which it leads here: that tenant's customer set it, or did once.
    pub by: Option<String>,
}

/// What a domain is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The platform name of the same tenant.
    pub platform: &'a str,
    /// The domain above all platform names.
    pub base_domain: &'a str,
    /// The edges' public addresses, if configured.
    pub public: &'a [IpAddr],
    /// Networks that may stand in front of the edges, such as a load balancer's.
    pub proxies: &'a [IpNet],
}

/// Judges the DNS answer for a domain by the answer for the same tenant's platform name. The latter tells where the
/// edges are, unless that is configured, and whether DNS works at all: silence about one name means something only if
/// it does.
pub fn judge(domain: &Answer, platform: &Answer, ground: &Ground<'_>) -> Look {
    let told = match platform {
        Answer::Told { addresses, .. } => addresses.clone(),
        Answer::Silent(_) => BTreeSet::new(),
    };
    let answers = !told.is_empty();
    let edges = if ground.public.is_empty() {
        told
    } else {
        ground.public.iter().copied().collect()
    };
    let by = another(domain, platform, ground);
    let (verdict, mut found) = match (domain, &by) {
        (_, Some(by)) => {
            // While DNS does not answer for the tenant's own platform name, it is not known what that stands for.
            let verdict = if answers {
                Verdict::Elsewhere
            } else {
                Verdict::Unknown
            };
            (
                verdict,
                format!("{}; {by} is not {}", words(domain), ground.platform),
            )
        }
        (Answer::Silent(_), None) if answers => (Verdict::Elsewhere, words(domain)),
        (Answer::Silent(_), None) => (Verdict::Unknown, words(domain)),
        (Answer::Told { addresses, .. }, None) => {
            let leads = |ip: &&IpAddr| {
                edges.contains(ip) || ground.proxies.iter().any(|net| net.contains(*ip))
            };
            let (here, strangers): (Vec<&IpAddr>, Vec<&IpAddr>) = addresses.iter().partition(leads);
            match (here.is_empty(), strangers.is_empty()) {
                (false, true) => (Verdict::Here, words(domain)),
                _ if edges.is_empty() => (Verdict::Unknown, words(domain)),
                (true, true) => (Verdict::Elsewhere, words(domain)),
                (_, false) => (
                    Verdict::Elsewhere,
                    format!("{}; {}", words(domain), astray(&here, &strangers)),
                ),
            }
        }
    };
    if edges.is_empty() {
        found = format!("{found}; where the edges are is not known");
    }
    Look {
        verdict,
        found: cut(found, MAX_FOUND),
        edges,
        by,
    }
}

/// Says which addresses are not the edges', and which visitors that affects if not all. Addresses of the other IP
/// version may be right, and whoever checks over that one sees nothing wrong.
fn astray(here: &[&IpAddr], strangers: &[&IpAddr]) -> String {
    let shown = list(strangers.iter().map(ToString::to_string));
    let only = |v4: bool| {
        here.iter().all(|ip| ip.is_ipv4() != v4) && strangers.iter().all(|ip| ip.is_ipv4() == v4)
    };
    match (here.is_empty(), only(true), only(false)) {
        (false, true, _) => format!("no edge has {shown}: who comes by IPv4 gets elsewhere"),
        (false, _, true) => format!("no edge has {shown}: who comes by IPv6 gets elsewhere"),
        _ => format!("no edge has {shown}"),
    }
}

/// The first platform name in a domain's CNAME chain that belongs to another tenant, or could: a deleted tenant may
/// have left its customer's CNAME behind. Names in the chain of the tenant's own platform name, such as an edge's, do
/// not count.
fn another(domain: &Answer, platform: &Answer, ground: &Ground<'_>) -> Option<String> {
    let Answer::Told { chain, .. } = domain else {
        return None;
    };
    let behind: &[String] = match platform {
        Answer::Told { chain, .. } => chain,
        Answer::Silent(_) => &[],
    };
    let own = label(ground.platform, ground.base_domain);
    let theirs = |name: &&String| {
        let tenant = label(name, ground.base_domain)
            .is_some_and(|label| label.parse::<TenantName>().is_ok());
        tenant && !behind.contains(name)
    };
    chain
        .iter()
        .take_while(|name| own.is_none() || label(name, ground.base_domain) != own)
        .find(theirs)
        .cloned()
}

/// The label directly under the base domain: the record `*.isy.one` also covers `erp.beta.isy.one`.
fn label<'a>(name: &'a str, base_domain: &str) -> Option<&'a str> {
    name.strip_suffix(base_domain)?
        .strip_suffix('.')?
        .rsplit('.')
        .next()
}

/// What to set in DNS so that `domain` leads to the edges.
pub fn advice(domain: &Domain, platform: &str, edges: &BTreeSet<IpAddr>) -> String {
    let of = |kind: &str, v4: bool| {
        let mut addresses = edges
            .iter()
            .filter(|ip| ip.is_ipv4() == v4)
            .map(ToString::to_string)
            .peekable();
        addresses
            .peek()
            .is_some()
            .then(|| format!("{kind} {}", list(addresses)))
    };
    let records: Vec<String> = of("A", true).into_iter().chain(of("AAAA", false)).collect();
    if records.is_empty() {
        return format!("set CNAME {domain} → {platform}");
    }
    let records = format!("{domain} {}, and no other addresses", records.join(" and "));
    if registered(domain.as_str()) == domain.as_str() {
        format!("set {records} (the top of a zone cannot have a CNAME)")
    } else {
        format!("set CNAME {domain} → {platform}, or {records}")
    }
}

fn words(answer: &Answer) -> String {
    let words = match answer {
        Answer::Silent(why) => format!("DNS does not answer: {why}"),
        Answer::Told {
            exists: false,
            chain,
            ..
        } if chain.is_empty() => "there is no such name in DNS".to_owned(),
        Answer::Told {
            chain, addresses, ..
        } => {
            let to = chain
                .iter()
                .take(MAX_SHOWN)
                .map(|name| format!("CNAME → {name}"));
            let kind = |ip: &IpAddr| if ip.is_ipv4() { "A" } else { "AAAA" };
            let mut parts: Vec<String> = to.collect();
            if chain.len() > MAX_SHOWN {
                parts.push(format!("{} more names", chain.len() - MAX_SHOWN));
            }
            parts.extend(
                addresses
                    .iter()
                    .take(MAX_SHOWN)
                    .map(|ip| format!("{} {ip}", kind(ip))),
            );
            if addresses.len() > MAX_SHOWN {
                parts.push(format!("{} more addresses", addresses.len() - MAX_SHOWN));
            }
            if addresses.is_empty() {
                parts.push("no A or AAAA record".to_owned());
            }
            parts.join(", ")
        }
    };
    cut(words, MAX_WORDS)
}

/// Cuts a text to at most this many characters, with an ellipsis if something is cut.
fn cut(text: String, most: usize) -> String {
    match text.char_indices().nth(most.saturating_sub(1)) {
        Some((at, last)) if at + last.len_utf8() < text.len() => format!("{}…", &text[..at]),
        _ => text,
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = items.collect();
    let shown = all
        .iter()
        .take(MAX_SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > MAX_SHOWN {
        format!("{shown} and {} more", all.len() - MAX_SHOWN)
    } else {
        shown
    }
}

#[cfg(test)]
mod tests;

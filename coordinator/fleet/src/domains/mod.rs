//! Tenants' own domains: how one is written, whether it leads to the edges, and what to set in DNS when it does not.
//!
//! Pure: DNS' answers are arguments. Not here: when to look again (schedule), whose a domain is (change/domains), asking DNS
//! and looking again (the coordinator's edges/dns and edges/domains).

pub mod schedule;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use isyone_types::{
    ids::TenantName,
    spec::{Domain, ValueError},
};

use crate::orders::registered;

/// Longest text that is looked at: a name has 253 characters, and in other scripts fewer.
const MAX_TEXT: usize = 1_000;
/// Addresses and names that an answer is shown with; it may have hundreds.
const MAX_SHOWN: usize = 8;
/// Characters of what DNS said that are shown; eight addresses and a few CNAMEs have room, and a name of escapes has a thousand.
const MAX_WORDS: usize = 600;
/// Characters of all that is kept of a look: it is stored, and a part of events and lists.
const MAX_FOUND: usize = 1_000;

/// Reads a domain as people write it: capitals, a trailing dot and letters beyond ASCII are taken (`Bücher.example.` is
/// `xn--bcher-kva.example`).
pub fn parse(text: &str) -> Result<Domain, ValueError> {
    let refused = |problem: &str| {
        let shown: String = text.escape_debug().to_string().chars().take(80).collect();
        Err(ValueError(format!("`{shown}` {problem}")))
    };
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

/// As people write it; as DNS has it, where the two do not fit together.
pub fn unicode(domain: &str) -> String {
    match idna::domain_to_unicode(domain) {
        (text, Ok(())) => text,
        (_, Err(_)) => domain.to_owned(),
    }
}

/// Whether it lies in the platform's own name space.
pub fn is_platform(domain: &Domain, base_domain: &str) -> bool {
    let text = domain.as_str();
    text == base_domain
        || text
            .strip_suffix(base_domain)
            .is_some_and(|rest| rest.ends_with('.'))
}

/// `www.` before it, or without it when it has one.
pub fn sibling(domain: &Domain) -> Result<Domain, ValueError> {
    match domain.as_str().strip_prefix("www.") {
        Some(bare) => parse(bare),
        None => parse(&format!("www.{domain}")),
    }
}

/// What DNS said of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was told what there is.
    Told {
        /// Whether there is such a name at all.
        exists: bool,
        /// Names that it stands for, in order.
        chain: Vec<String>,
        /// Where these lead.
        addresses: BTreeSet<IpAddr>,
    },
    /// No answer, or one that says nothing; why.
    Silent(String),
}

/// Where a domain leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To edges only.
    Here,
    /// Nowhere, or to another place, at least sometimes.
    Elsewhere,
    /// DNS does not tell.
    Unknown,
}

/// A domain as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Where it leads.
    pub verdict: Verdict,
    /// What DNS said, for people.
    pub found: String,
    /// Where it should lead.
    pub edges: BTreeSet<IpAddr>,
    /// The platform's name of another tenant that it leads here by: that one's customer set it, or did once.
    pub by: Option<String>,
}

/// What a tenant's domain is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The platform's name for the same tenant.
    pub platform: &'a str,
    /// What all such names lie under.
    pub base_domain: &'a str,
    /// Where the edges are, when the configuration says so.
    pub public: &'a [IpAddr],
    /// Who may stand before them, such as a load balancer.
    pub proxies: &'a [IpNet],
}

/// Judges what DNS said of a domain by what it says of the platform's name for the same tenant. That tells where the edges are
/// unless the configuration does, and whether DNS answers anything: silence about one name means something only then.
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
            // As long as the tenant's own name is not answered, it is not known what that stands for.
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

/// Which addresses are not the edges'; of which visitors that is true, when it is not of all. Those of the other kind may be
/// right, and whoever looks from there sees nothing wrong.
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

/// The first of the platform's names on a domain's way, if it is another tenant's (or could be: one that is gone has left its
/// customer's CNAME behind). What the tenant's own name stands for, such as an edge, is nobody else's.
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

/// The label right under the base domain: a record for `*.isy.one` is one for `erp.beta.isy.one`, too.
fn label<'a>(name: &'a str, base_domain: &str) -> Option<&'a str> {
    name.strip_suffix(base_domain)?
        .strip_suffix('.')?
        .rsplit('.')
        .next()
}

/// What to set in DNS, so that `domain` leads to the edges.
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

/// At most so many characters; three dots where some are missing.
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

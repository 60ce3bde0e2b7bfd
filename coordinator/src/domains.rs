//! Tenants' own domains: how one is written, whether it leads to the edges, and what to set in DNS when it does not.
//!
//! Pure: DNS' answers are arguments. Not here: asking (dns), whose a domain is (change/domains), looking again by and by
//! (watch; when, is schedule's).

pub mod schedule;
pub mod watch;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use isyone_proto::{
    ids::TenantName,
    spec::{Domain, ValueError},
};

use crate::acme::plan::registered;

/// Longest text that is looked at: a name has 253 characters, and in other scripts fewer.
const MAX_TEXT: usize = 1_000;
/// Addresses and names that an answer is shown with; it may have hundreds.
const MAX_SHOWN: usize = 8;

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
    text == base_domain || text.strip_suffix(base_domain).is_some_and(|rest| rest.ends_with('.'))
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
    /// Nobody knows.
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
}

/// Judges what DNS said of a domain by what it says of the platform's name for the same tenant. That tells where the edges are
/// unless the configuration does, and whether DNS answers anything: silence about one name means something only then.
pub fn judge(domain: &Answer, platform: &Answer, ground: &Ground<'_>) -> Look {
    let told = match platform {
        Answer::Told { addresses, .. } => addresses.clone(),
        Answer::Silent(_) => BTreeSet::new(),
    };
    let answers = !told.is_empty();
    let edges = if ground.public.is_empty() { told } else { ground.public.iter().copied().collect() };
    let by = another(domain, platform, ground);
    let (verdict, mut found) = match (domain, &by) {
        (_, Some(by)) => {
            // As long as the tenant's own name is not answered, it is not known what that stands for.
            let verdict = if answers { Verdict::Elsewhere } else { Verdict::Unknown };
            (verdict, format!("{}; {by} is not {}", words(domain), ground.platform))
        }
        (Answer::Silent(_), None) if answers => (Verdict::Elsewhere, words(domain)),
        (Answer::Silent(_), None) => (Verdict::Unknown, words(domain)),
        (Answer::Told { .. }, None) if edges.is_empty() => (Verdict::Unknown, words(domain)),
        (Answer::Told { addresses, .. }, None) if addresses.is_empty() => (Verdict::Elsewhere, words(domain)),
        (Answer::Told { addresses, .. }, None) if addresses.is_subset(&edges) => {
            (Verdict::Here, words(domain))
        }
        (Answer::Told { addresses, .. }, None) => {
            let strangers = list(addresses.difference(&edges).map(ToString::to_string));
            (Verdict::Elsewhere, format!("{}; no edge has {strangers}", words(domain)))
        }
    };
    if edges.is_empty() {
        found = format!("{found}; where the edges are is not known");
    }
    Look { verdict, found, edges, by }
}

/// The first of the platform's names on a domain's way, if it is another tenant's (or could be: one that is gone has left its
/// customer's CNAME behind). What the tenant's own name stands for, such as an edge, is nobody else's.
fn another(domain: &Answer, platform: &Answer, ground: &Ground<'_>) -> Option<String> {
    let Answer::Told { chain, .. } = domain else { return None };
    let behind: &[String] = match platform {
        Answer::Told { chain, .. } => chain,
        Answer::Silent(_) => &[],
    };
    let own = label(ground.platform, ground.base_domain);
    let theirs = |name: &&String| {
        let tenant = label(name, ground.base_domain).is_some_and(|label| label.parse::<TenantName>().is_ok());
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
    name.strip_suffix(base_domain)?.strip_suffix('.')?.rsplit('.').next()
}

/// What to set in DNS, so that `domain` leads to the edges.
pub fn advice(domain: &Domain, platform: &str, edges: &BTreeSet<IpAddr>) -> String {
    let of = |kind: &str, v4: bool| {
        let mut addresses = edges.iter().filter(|ip| ip.is_ipv4() == v4).map(ToString::to_string).peekable();
        addresses.peek().is_some().then(|| format!("{kind} {}", list(addresses)))
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
    match answer {
        Answer::Silent(why) => format!("DNS does not answer: {why}"),
        Answer::Told { exists: false, chain, .. } if chain.is_empty() => {
            "there is no such name in DNS".to_owned()
        }
        Answer::Told { chain, addresses, .. } => {
            let to = chain.iter().take(MAX_SHOWN).map(|name| format!("CNAME → {name}"));
            let kind = |ip: &IpAddr| if ip.is_ipv4() { "A" } else { "AAAA" };
            let mut parts: Vec<String> = to.collect();
            parts.extend(addresses.iter().take(MAX_SHOWN).map(|ip| format!("{} {ip}", kind(ip))));
            if addresses.len() > MAX_SHOWN {
                parts.push(format!("{} more", addresses.len() - MAX_SHOWN));
            }
            if addresses.is_empty() {
                parts.push("no A or AAAA record".to_owned());
            }
            parts.join(", ")
        }
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = items.collect();
    let shown = all.iter().take(MAX_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > MAX_SHOWN { format!("{shown} and {} more", all.len() - MAX_SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(chain: &[&str], addresses: &[&str]) -> Answer {
        Answer::Told {
            exists: true,
            chain: chain.iter().map(|&n| n.to_owned()).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    fn domain(text: &str) -> Domain {
        parse(text).unwrap()
    }

    /// Of tenant `alfa`.
    fn ground(public: &[IpAddr]) -> Ground<'_> {
        Ground { platform: "alfa.isy.one", base_domain: "isy.one", public }
    }

    #[test]
    fn domains_are_read_as_people_write_them() {
        for (text, name, shown) in [
            ("erp.customer.com", "erp.customer.com", "erp.customer.com"),
            ("ERP.Customer.COM.", "erp.customer.com", "erp.customer.com"),
            ("bücher.example", "xn--bcher-kva.example", "bücher.example"),
            ("BÜCHER。example", "xn--bcher-kva.example", "bücher.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example", "bücher.example"),
        ] {
            assert_eq!(domain(text).as_str(), name, "{text}");
            assert_eq!(unicode(name), shown);
        }
        for (text, why) in [
            ("*.customer.com", "wildcard"),
            ("192.0.2.1", "IP address"),
            ("192.0.2.1.", "IP address"),
            ("2001:db8::1", "IP address"),
            ("[::1]", "IP address"),
            ("", "not a host name"),
            ("localhost", "not a host name"),
            ("a..b", "not a host name"),
            ("a_b.example", "not a host name"),
            ("a b.example", "not a host name"),
            ("http://a.example", "not a host name"),
            ("a.example/x", "not a host name"),
            ("xn--zzzzzz99999.example", "not a host name"),
            (&"a.".repeat(600), "not a host name"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn www_goes_both_ways_and_the_platforms_names_are_known() {
        assert_eq!(sibling(&domain("customer.com")).unwrap().as_str(), "www.customer.com");
        assert_eq!(sibling(&domain("www.customer.com")).unwrap().as_str(), "customer.com");
        assert!(sibling(&domain("www.com")).is_err());
        for (name, platform) in [("isy.one", true), ("alfa.isy.one", true), ("notisy.one", false)] {
            assert_eq!(is_platform(&domain(name), "isy.one"), platform, "{name}");
        }
    }

    #[test]
    fn a_domain_leads_here_when_all_its_addresses_do() {
        let platform = told(&[], &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        let nowhere = Answer::Told { exists: false, chain: vec![], addresses: BTreeSet::new() };
        let silent = Answer::Silent("it took more than 5 s".to_owned());
        let none: &[IpAddr] = &[];
        let public: &[IpAddr] = &["198.51.100.1".parse().unwrap()];
        use Verdict::{Elsewhere, Here, Unknown};
        for (answer, platform, public, verdict, found) in [
            (
                &told(&["alfa.isy.one"], &["192.0.2.1"]),
                &platform,
                none,
                Here,
                "CNAME → alfa.isy.one, A 192.0.2.1",
            ),
            (
                &told(&[], &["192.0.2.2", "2001:db8::1"]),
                &platform,
                none,
                Here,
                "A 192.0.2.2, AAAA 2001:db8::1",
            ),
            (
                &told(&[], &["192.0.2.1", "203.0.113.9"]),
                &platform,
                none,
                Elsewhere,
                "A 192.0.2.1, A 203.0.113.9; no edge has 203.0.113.9",
            ),
            (
                &told(&["shop.example"], &[]),
                &platform,
                none,
                Elsewhere,
                "CNAME → shop.example, no A or AAAA record",
            ),
            (&nowhere, &platform, none, Elsewhere, "there is no such name in DNS"),
            (&silent, &platform, none, Elsewhere, "DNS does not answer: it took more than 5 s"),
            // Nobody answers anything: that says nothing of the domain.
            (&silent, &silent, public, Unknown, "DNS does not answer: it took more than 5 s"),
            (&silent, &nowhere, public, Unknown, "DNS does not answer: it took more than 5 s"),
            (
                &told(&[], &["192.0.2.1"]),
                &silent,
                none,
                Unknown,
                "A 192.0.2.1; where the edges are is not known",
            ),
            (
                &nowhere,
                &nowhere,
                none,
                Unknown,
                "there is no such name in DNS; where the edges are is not known",
            ),
            // The configuration's word goes before the platform's name.
            (&told(&[], &["198.51.100.1"]), &platform, public, Here, "A 198.51.100.1"),
            (&told(&[], &["192.0.2.1"]), &platform, public, Elsewhere, "A 192.0.2.1; no edge has 192.0.2.1"),
        ] {
            let look = judge(answer, platform, &ground(public));
            assert_eq!((look.verdict, look.found.as_str()), (verdict, found));
        }
    }

    #[test]
    fn a_cname_to_another_tenants_name_does_not_show_that_the_domain_is_this_tenants() {
        let here = &["192.0.2.1"];
        let plain = told(&[], here);
        let edge = told(&["edge-2.isy.one"], here);
        let silent = Answer::Silent("down".to_owned());
        let public: &[IpAddr] = &["192.0.2.1".parse().unwrap()];
        use Verdict::{Elsewhere, Here, Unknown};
        for (chain, platform, verdict, by) in [
            (&["beta.isy.one"][..], &plain, Elsewhere, Some("beta.isy.one")),
            (&["www.old.example", "beta.isy.one"], &plain, Elsewhere, Some("beta.isy.one")),
            // The star's record is good for this, too.
            (&["erp.beta.isy.one"], &plain, Elsewhere, Some("erp.beta.isy.one")),
            (&["beta.isy.one", "alfa.isy.one"], &plain, Elsewhere, Some("beta.isy.one")),
            (&["beta.isy.one", "edge-2.isy.one"], &edge, Elsewhere, Some("beta.isy.one")),
            (&["beta.isy.one"], &silent, Unknown, Some("beta.isy.one")),
            (&["alfa.isy.one"], &plain, Here, None),
            (&["erp.alfa.isy.one"], &plain, Here, None),
            (&["alfa.isy.one", "edge-2.isy.one"], &edge, Here, None),
            // The platform's own doing, whatever it is.
            (&["alfa.isy.one", "beta.isy.one"], &plain, Here, None),
            (&["alfa.isy.one", "edge-2.isy.one"], &silent, Here, None),
            (&["edge-2.isy.one"], &edge, Here, None),
            // No tenant can have these.
            (&["edge.isy.one"], &plain, Here, None),
            (&["isy.one"], &plain, Here, None),
            (&["beta.notisy.one"], &plain, Here, None),
        ] {
            let look = judge(&told(chain, here), platform, &ground(public));
            assert_eq!((look.verdict, look.by.as_deref()), (verdict, by), "{chain:?}");
            assert_eq!(look.found.ends_with(" is not alfa.isy.one"), by.is_some(), "{}", look.found);
        }
    }

    #[test]
    fn advice_knows_the_top_of_a_zone() {
        let edges: BTreeSet<IpAddr> =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|a| a.parse().unwrap()).into();
        assert_eq!(
            advice(&domain("erp.customer.com"), "alfa.isy.one", &edges),
            "set CNAME erp.customer.com → alfa.isy.one, or erp.customer.com A 192.0.2.1, 192.0.2.2 and AAAA 2001:db8::1, and no other addresses"
        );
        let v4 = ["192.0.2.1".parse().unwrap()].into();
        for apex in ["customer.com", "customer.com.br"] {
            assert_eq!(
                advice(&domain(apex), "alfa.isy.one", &v4),
                format!(
                    "set {apex} A 192.0.2.1, and no other addresses (the top of a zone cannot have a CNAME)"
                )
            );
        }
        assert!(advice(&domain("erp.customer.com.br"), "alfa.isy.one", &v4).contains("CNAME"));
        let nowhere = advice(&domain("erp.customer.com"), "alfa.isy.one", &BTreeSet::new());
        assert_eq!(nowhere, "set CNAME erp.customer.com → alfa.isy.one");
    }

    proptest! {
        #[test]
        fn what_was_read_reads_back(text in "\\PC{0,30}|[a-zA-ZüßИ。.-]{1,30}") {
            if let Ok(domain) = parse(&text) {
                prop_assert_eq!(parse(domain.as_str()), Ok(domain.clone()));
                prop_assert_eq!(parse(&unicode(domain.as_str())), Ok(domain));
            }
        }

        #[test]
        fn one_stranger_among_the_addresses_is_enough(here in prop::collection::btree_set(any::<u8>(), 1..20), more in prop::collection::btree_set(any::<u16>(), 0..20)) {
            let edge = |n: &u8| IpAddr::from([192, 0, 2, *n]);
            let other = |n: &u16| IpAddr::from([198, 51, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
            let of = |addresses: BTreeSet<IpAddr>| Answer::Told { exists: true, chain: vec![], addresses };
            let addresses: BTreeSet<IpAddr> = here.iter().map(edge).chain(more.iter().map(other)).collect();
            let look = judge(&of(addresses), &of(here.iter().map(edge).collect()), &ground(&[]));
            prop_assert_eq!(look.verdict == Verdict::Here, more.is_empty());
            prop_assert!(look.found.len() < 1_000);
        }
    }
}

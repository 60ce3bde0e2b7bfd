//! Domains as people write them, and how DNS answers for them are judged.
//!
//! Not here: commands on domains (change/domains/tests).

use proptest::prelude::*;

use super::*;

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

/// The comparison for tenant `alfa`.
fn ground(public: &[IpAddr]) -> Ground<'_> {
    Ground {
        platform: "alfa.isy.one",
        base_domain: "isy.one",
        public,
        proxies: &[],
    }
}

#[test]
fn domains_are_read_as_people_write_them() {
    for (text, name, shown) in [
        ("erp.customer.com", "erp.customer.com", "erp.customer.com"),
        ("ERP.Customer.COM.", "erp.customer.com", "erp.customer.com"),
        ("bücher.example", "xn--bcher-kva.example", "bücher.example"),
        ("BÜCHER。example", "xn--bcher-kva.example", "bücher.example"),
        (
            "xn--bcher-kva.example",
            "xn--bcher-kva.example",
            "bücher.example",
        ),
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
    assert_eq!(
        sibling(&domain("customer.com")).unwrap().as_str(),
        "www.customer.com"
    );
    assert_eq!(
        sibling(&domain("www.customer.com")).unwrap().as_str(),
        "customer.com"
    );
    assert!(sibling(&domain("www.com")).is_err());
    for (name, platform) in [
        ("isy.one", true),
        ("alfa.isy.one", true),
        ("notisy.one", false),
    ] {
        assert_eq!(is_platform(&domain(name), "isy.one"), platform, "{name}");
    }
}

/// Answer for the domain, answer for the platform name, configured addresses of the edges; expected verdict and text.
type Case<'a> = (&'a Answer, &'a Answer, &'a [IpAddr], Verdict, &'a str);

fn check(cases: &[Case<'_>]) {
    for (answer, platform, public, verdict, found) in cases {
        let look = judge(answer, platform, &ground(public));
        assert_eq!((look.verdict, look.found.as_str()), (*verdict, *found));
    }
}

fn nowhere() -> Answer {
    Answer::Told {
        exists: false,
        chain: vec![],
        addresses: BTreeSet::new(),
    }
}

fn silent() -> Answer {
    Answer::Silent("it took more than 5 s".to_owned())
}

#[test]
fn a_domain_leads_here_when_all_its_addresses_do() {
    let platform = told(&[], &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let none: &[IpAddr] = &[];
    use Verdict::{Elsewhere, Here};
    check(&[
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
        (
            &nowhere(),
            &platform,
            none,
            Elsewhere,
            "there is no such name in DNS",
        ),
        (
            &silent(),
            &platform,
            none,
            Elsewhere,
            "DNS does not answer: it took more than 5 s",
        ),
    ]);
}

#[test]
fn nothing_is_concluded_when_the_platforms_name_is_not_answered_either() {
    let none: &[IpAddr] = &[];
    let public: &[IpAddr] = &["198.51.100.1".parse().unwrap()];
    use Verdict::Unknown;
    check(&[
        (
            &silent(),
            &silent(),
            public,
            Unknown,
            "DNS does not answer: it took more than 5 s",
        ),
        (
            &silent(),
            &nowhere(),
            public,
            Unknown,
            "DNS does not answer: it took more than 5 s",
        ),
        (
            &told(&[], &["192.0.2.1"]),
            &silent(),
            none,
            Unknown,
            "A 192.0.2.1; where the edges are is not known",
        ),
        (
            &nowhere(),
            &nowhere(),
            none,
            Unknown,
            "there is no such name in DNS; where the edges are is not known",
        ),
    ]);
}

#[test]
fn the_configurations_word_goes_before_the_platforms_name() {
    let platform = told(&[], &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let public: &[IpAddr] = &["198.51.100.1".parse().unwrap()];
    use Verdict::{Elsewhere, Here};
    check(&[
        (
            &told(&[], &["198.51.100.1"]),
            &platform,
            public,
            Here,
            "A 198.51.100.1",
        ),
        (
            &told(&[], &["192.0.2.1"]),
            &platform,
            public,
            Elsewhere,
            "A 192.0.2.1; no edge has 192.0.2.1",
        ),
    ]);
}

#[test]
fn a_domain_may_lead_to_what_stands_before_the_edges() {
    let platform = told(&[], &["192.0.2.1"]);
    let silent = Answer::Silent("down".to_owned());
    let proxies = &[
        "198.51.100.0/24".parse().unwrap(),
        "2001:db8:1::/48".parse().unwrap(),
    ];
    use Verdict::{Elsewhere, Here, Unknown};
    for (addresses, platform, verdict) in [
        (&["198.51.100.7"][..], &platform, Here),
        (
            &["198.51.100.7", "192.0.2.1", "2001:db8:1::7"],
            &platform,
            Here,
        ),
        (&["198.51.100.7", "203.0.113.9"], &platform, Elsewhere),
        (&["198.51.100.7", "2001:db8:2::7"], &platform, Elsewhere),
        (&["198.51.100.7"], &silent, Here),
        (&["203.0.113.9"], &silent, Unknown),
        (&[], &silent, Unknown),
    ] {
        let look = judge(
            &told(&[], addresses),
            platform,
            &Ground {
                proxies,
                ..ground(&[])
            },
        );
        assert_eq!(look.verdict, verdict, "{addresses:?}: {}", look.found);
    }
}

#[test]
fn each_kind_of_address_must_lead_here_and_it_is_said_which_does_not() {
    let platform = told(&[], &["192.0.2.1", "2001:db8::1"]);
    use Verdict::{Elsewhere, Here};
    for (addresses, verdict, end) in [
        (&["192.0.2.1"][..], Here, "A 192.0.2.1"),
        (&["192.0.2.1", "2001:db8::1"], Here, "AAAA 2001:db8::1"),
        (
            &["192.0.2.1", "2001:db8::9"],
            Elsewhere,
            "; no edge has 2001:db8::9: who comes by IPv6 gets elsewhere",
        ),
        (
            &["203.0.113.9", "2001:db8::1"],
            Elsewhere,
            "; no edge has 203.0.113.9: who comes by IPv4 gets elsewhere",
        ),
        (
            &["192.0.2.1", "203.0.113.9", "2001:db8::1"],
            Elsewhere,
            "; no edge has 203.0.113.9",
        ),
        (
            &["203.0.113.9", "2001:db8::9"],
            Elsewhere,
            "; no edge has 203.0.113.9, 2001:db8::9",
        ),
    ] {
        let look = judge(&told(&[], addresses), &platform, &ground(&[]));
        assert_eq!(look.verdict, verdict, "{addresses:?}");
        assert!(look.found.ends_with(end), "{}", look.found);
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
        (
            &["beta.isy.one"][..],
            &plain,
            Elsewhere,
            Some("beta.isy.one"),
        ),
        (
            &["www.old.example", "beta.isy.one"],
            &plain,
            Elsewhere,
            Some("beta.isy.one"),
        ),
        // The wildcard record covers this, too.
        (
            &["erp.beta.isy.one"],
            &plain,
            Elsewhere,
            Some("erp.beta.isy.one"),
        ),
        (
            &["beta.isy.one", "alfa.isy.one"],
            &plain,
            Elsewhere,
            Some("beta.isy.one"),
        ),
        (
            &["beta.isy.one", "edge-2.isy.one"],
            &edge,
            Elsewhere,
            Some("beta.isy.one"),
        ),
        (&["beta.isy.one"], &silent, Unknown, Some("beta.isy.one")),
        (&["alfa.isy.one"], &plain, Here, None),
        (&["erp.alfa.isy.one"], &plain, Here, None),
        (&["alfa.isy.one", "edge-2.isy.one"], &edge, Here, None),
        // Whatever the platform's own name stands for is the platform's business.
        (&["alfa.isy.one", "beta.isy.one"], &plain, Here, None),
        (&["alfa.isy.one", "edge-2.isy.one"], &silent, Here, None),
        (&["edge-2.isy.one"], &edge, Here, None),
        // No tenant can have these names.
        (&["edge.isy.one"], &plain, Here, None),
        (&["isy.one"], &plain, Here, None),
        (&["beta.notisy.one"], &plain, Here, None),
    ] {
        let look = judge(&told(chain, here), platform, &ground(public));
        assert_eq!(
            (look.verdict, look.by.as_deref()),
            (verdict, by),
            "{chain:?}"
        );
        assert_eq!(
            look.found.ends_with(" is not alfa.isy.one"),
            by.is_some(),
            "{}",
            look.found
        );
    }
}

#[test]
fn what_is_shown_and_stored_of_a_look_is_bounded() {
    let platform = told(&[], &["192.0.2.1"]);
    let addresses: BTreeSet<IpAddr> = (0..1_000_u16)
        .map(|n| IpAddr::from([203, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]))
        .collect();
    let long = |n: usize| format!("{}.example", format!("\\{n:03}").repeat(240));
    let names = |n: usize| (0..n).map(long).collect::<Vec<_>>();
    let of = |chain, addresses: &BTreeSet<IpAddr>| Answer::Told {
        exists: true,
        chain,
        addresses: addresses.clone(),
    };
    let look = judge(&of(vec![], &addresses), &platform, &ground(&[]));
    assert!(
        look.found
            .contains("A 203.0.0.7, 992 more addresses; no edge has"),
        "{}",
        look.found
    );
    let short = (0..70).map(|n| format!("n{n}.example")).collect();
    let look = judge(&of(short, &addresses), &platform, &ground(&[]));
    assert!(
        look.found
            .contains("CNAME → n7.example, 62 more names, A 203.0.0.0"),
        "{}",
        look.found
    );
    let beta = format!("{}.beta.isy.one", long(0));
    for answer in [
        of(vec![], &addresses),
        of(names(70), &addresses),
        of(vec![beta], &addresses),
        Answer::Silent("ä".repeat(5_000)),
    ] {
        let look = judge(&answer, &platform, &ground(&[]));
        assert!(look.found.chars().count() <= 1_000, "{}", look.found.len());
    }
    // The fault is named however long the names are.
    let look = judge(&of(names(70), &addresses), &platform, &ground(&[]));
    assert!(
        look.found.contains("…; no edge has 203.0.0.0, "),
        "{}",
        look.found
    );
    assert_eq!(
        (cut("äöü".to_owned(), 3), cut("äöüß".to_owned(), 3)),
        ("äöü".to_owned(), "äö…".to_owned())
    );
}

#[test]
fn advice_knows_the_top_of_a_zone() {
    let edges: BTreeSet<IpAddr> = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        .map(|a| a.parse().unwrap())
        .into();
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
    let nowhere = advice(
        &domain("erp.customer.com"),
        "alfa.isy.one",
        &BTreeSet::new(),
    );
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

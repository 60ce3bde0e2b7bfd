//! The resolver against a real name server on loopback, and domain checks against a fake one.

use isyone_fleet::{domains::Verdict, testing::name};

use super::*;
use crate::testing::dns::{NameServer, Zone};

fn told(chain: &[&str], addresses: &[&str]) -> Answer {
    Answer::Told {
        exists: true,
        chain: chain.iter().map(|&n| n.to_owned()).collect(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

#[tokio::test]
async fn what_a_name_server_says_is_taken_in() {
    let server = NameServer::start().await;
    server.addresses("alfa.isy.one", &["192.0.2.1", "2001:db8::1"]);
    server.addresses("v4.example", &["192.0.2.9"]);
    server.addresses("empty.example", &[]);
    server.set("erp.example", Zone::Alias("www.example".into()));
    server.set("www.example", Zone::Alias("alfa.isy.one".into()));
    server.set("lost.example", Zone::Alias("gone.example".into()));
    server.set("broken.example", Zone::Broken);
    let resolver = Resolver::new(vec![server.address]);
    for (name, answer) in [
        ("alfa.isy.one", told(&[], &["192.0.2.1", "2001:db8::1"])),
        ("v4.example", told(&[], &["192.0.2.9"])),
        (
            "erp.example",
            told(
                &["www.example", "alfa.isy.one"],
                &["192.0.2.1", "2001:db8::1"],
            ),
        ),
        ("empty.example", told(&[], &[])),
        (
            "none.example",
            Answer::Told {
                exists: false,
                chain: vec![],
                addresses: BTreeSet::new(),
            },
        ),
        (
            "lost.example",
            Answer::Told {
                exists: false,
                chain: vec!["gone.example".into()],
                addresses: BTreeSet::new(),
            },
        ),
    ] {
        assert_eq!(resolver.ask(name).await, answer, "{name}");
    }
    let Answer::Silent(why) = resolver.ask("broken.example").await else {
        panic!("that says nothing")
    };
    assert!(
        why.to_lowercase().contains("server failure") || why.contains("SERVFAIL"),
        "{why}"
    );
    // A change is visible at once.
    server.addresses("v4.example", &["192.0.2.10"]);
    assert_eq!(resolver.ask("v4.example").await, told(&[], &["192.0.2.10"]));
}

#[test]
fn many_addresses_do_not_hide_what_a_name_stands_for() {
    use hickory_resolver::proto::{
        op::Query,
        rr::{
            Name, Record,
            rdata::{A, CNAME},
        },
    };
    let of = |text: &str| Name::from_ascii(text).unwrap();
    let address = |n: usize| {
        RData::A(A(std::net::Ipv4Addr::new(
            192,
            0,
            2,
            u8::try_from(n).unwrap(),
        )))
    };
    let alias = RData::CNAME(CNAME(of("beta.isy.one.")));
    let data = (0..2 * MAX_RECORDS).map(address).chain([alias]);
    let answers = data.map(|data| Record::from_rdata(of("erp.example."), 1, data));
    let query = Query::query(of("erp.example."), RecordType::A);
    let answer = records(Ok(Lookup::new_with_max_ttl(query, answers)));
    let Answer::Told {
        chain, addresses, ..
    } = joined(
        answer,
        Records::There(Vec::new()),
        Records::There(Vec::new()),
    )
    else {
        panic!("told")
    };
    assert_eq!(
        (chain, addresses.len()),
        (vec!["beta.isy.one".to_owned()], MAX_RECORDS)
    );
}

#[tokio::test]
async fn a_name_server_that_says_nothing_is_not_waited_for() {
    let server = NameServer::start().await;
    server.set("quiet.example", Zone::Silent);
    let resolver = Resolver::new(vec![server.address]);
    let answer = tokio::time::timeout(2 * PATIENCE, resolver.ask("quiet.example"))
        .await
        .unwrap();
    assert!(matches!(answer, Answer::Silent(_)), "{answer:?}");
    let nobody = server.address;
    drop(server);
    let answer = tokio::time::timeout(2 * PATIENCE, Resolver::new(vec![nobody]).ask("a.example"))
        .await
        .unwrap();
    assert!(matches!(answer, Answer::Silent(_)), "{answer:?}");
}

/// Answers the same for all names but one.
#[derive(Debug)]
struct Fake(Answer, Answer);

impl Dns for Fake {
    fn ask<'a>(&'a self, name: &'a str) -> Asked<'a> {
        let answer = if name == "alfa.isy.one" {
            &self.1
        } else {
            &self.0
        };
        Box::pin(async move { answer.clone() })
    }
}

#[tokio::test]
async fn a_look_compares_with_the_platforms_name_or_the_configuration() {
    let (here, there) = (told(&[], &["192.0.2.1"]), told(&[], &["192.0.2.2"]));
    let silent = || Answer::Silent("down".to_owned());
    let public = &["192.0.2.2".parse().unwrap()];
    for (fake, public, verdict) in [
        (Fake(here.clone(), here.clone()), &[][..], Verdict::Here),
        (Fake(there.clone(), here.clone()), &[], Verdict::Elsewhere),
        (Fake(there, here.clone()), public, Verdict::Here),
        (Fake(silent(), here.clone()), &[], Verdict::Elsewhere),
        (Fake(silent(), silent()), public, Verdict::Unknown),
        (Fake(here, silent()), &[], Verdict::Unknown),
    ] {
        let ground = Ground {
            platform: "alfa.isy.one",
            base_domain: "isy.one",
            public,
            proxies: &[],
        };
        let look = look(&fake, &name("erp.example"), ground).await;
        assert_eq!(look.verdict, verdict, "{fake:?}");
    }
}

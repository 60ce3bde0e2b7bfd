//! How hosts come in: what a token is bound to, who waits for approval, and which addresses nobody advertises.
//!
//! Not here: operators' certificates (operators).

use std::net::IpAddr;

use super::*;
use crate::{
    desired::{Host, Token},
    placement::Rejection,
    views,
};

/// A token that is valid for a second.
fn token(id: &str) -> Token {
    Token {
        id: id.to_owned(),
        secret_hash: "s".to_owned(),
        expires_at: 1_000,
        ..Token::default()
    }
}

fn for_host(id: &str, host: &str) -> Token {
    Token {
        host: Some(name(host)),
        ..token(id)
    }
}

fn enroll(token: &str, host: &str) -> Enroll {
    Enroll {
        token_id: token.to_owned(),
        secret_hash: "s".to_owned(),
        host: name(host),
        uid: uuid::Uuid::from_u128(5),
        advertise: name("198.51.100.7"),
        from: name("203.0.113.9"),
        is_ours: false,
        labels: std::collections::BTreeMap::new(),
        certificate: Certificate {
            serial: "02".to_owned(),
            not_after: 1,
            sha256: String::new(),
            follows: None,
        },
    }
}

fn make(bench: &mut Bench, token: Token) {
    bench
        .apply(Command::CreateToken {
            token: Box::new(token),
            asked_with: None,
        })
        .unwrap();
}

fn join(bench: &mut Bench, enroll: Enroll) -> Result<std::sync::Arc<Host>, ChangeError> {
    match bench.apply(Command::Enroll(Box::new(enroll)))? {
        Outcome::Host(host) => Ok(host),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_works_once_and_a_used_host_name_needs_its_own_token() {
    let mut bench = Bench::default();
    bench.host("h1", resources(8, 32, 100));
    let used = bench.state.fleet.tokens.values().next().unwrap().id.clone();
    let refused = |why| Err(ChangeError::TokenRefused(why));
    assert_eq!(
        join(&mut bench, enroll(&used, "h9")),
        refused("already used")
    );
    make(&mut bench, token("t1"));
    assert_eq!(
        join(&mut bench, enroll("t1", "h1")),
        Err(ChangeError::HostExists(name("h1")))
    );
    make(&mut bench, for_host("t2", "h1"));
    join(&mut bench, enroll("t2", "h1")).unwrap();
    bench.now = 1_000;
    make(&mut bench, token("t3"));
    assert_eq!(join(&mut bench, enroll("t3", "h3")), refused("expired"));
}

#[test]
fn a_token_is_taken_from_its_networks_only() {
    let mut bench = Bench::default();
    let networks = vec![name("192.0.2.0/24"), name("2001:db8::/32")];
    make(
        &mut bench,
        Token {
            networks,
            ..for_host("t1", "h1")
        },
    );
    let from = |from: &str| Enroll {
        from: name(from),
        ..enroll("t1", "h1")
    };
    for elsewhere in ["198.51.100.1", "2001:db9::1"] {
        assert_eq!(
            join(&mut bench, from(elsewhere)),
            Err(ChangeError::TokenRefused("made for another network"))
        );
    }
    // The same address as a socket for both kinds of addresses shows it.
    join(&mut bench, from("::ffff:192.0.2.9")).unwrap();
}

#[test]
fn a_token_is_taken_back_unless_it_was_used() {
    let mut bench = Bench::default();
    let revoke =
        |bench: &mut Bench, id: &str| bench.apply(Command::RevokeToken { id: id.to_owned() });
    make(&mut bench, for_host("t1", "h1"));
    revoke(&mut bench, "t1").unwrap();
    assert_eq!(
        join(&mut bench, enroll("t1", "h1")),
        Err(ChangeError::TokenRefused("unknown"))
    );
    assert!(restart(&bench).fleet.tokens.is_empty());
    let told = bench.state.fleet.events.last().unwrap();
    assert_eq!(
        (told.kind.as_str(), told.actor.as_str()),
        ("token.revoked", "ana")
    );
    make(&mut bench, for_host("t2", "h1"));
    join(&mut bench, enroll("t2", "h1")).unwrap();
    let used = revoke(&mut bench, "t2").unwrap_err().to_string();
    assert!(used.contains("`isyctl host remove h1`"), "{used}");
    assert!(matches!(
        revoke(&mut bench, "t3"),
        Err(ChangeError::TokenNotFound(_))
    ));
}

#[test]
fn a_host_whose_token_named_no_host_waits_for_approval() {
    let mut bench = Bench::default();
    make(&mut bench, token("t1"));
    let h9 = join(&mut bench, enroll("t1", "h9")).unwrap();
    assert!(h9.pending);
    bench.greet(&h9.name);
    bench.report(&h9.name, resources(8, 32, 100), Vec::new());
    let plan = |bench: &Bench| {
        views::host_plan(
            &bench.state,
            &bench.settings,
            &name("h9"),
            |_| Err(()),
            |_| Err(()),
        )
        .unwrap()
        .is_some()
    };
    // Neither the least loaded, nor when it is asked for by name.
    for host in [None, Some(name("h9"))] {
        let mut creation = bench.creation("alfa", "small");
        creation.spec.host = host;
        let refused = bench.apply(Command::CreateTenant(Box::new(creation)));
        let Err(ChangeError::NoHostFits { decision, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert!(decision.hosts[0].rejections.contains(&Rejection::Pending));
    }
    assert!(!plan(&bench));
    let closed = |bench: &Bench| views::host_addresses(&bench.state).len();
    assert_eq!(closed(&bench), 0, "it closes no address to others' tenants");
    assert!(
        restart(&bench).fleet.hosts[&h9.name].pending,
        "it is stored"
    );
    // Nobody is called at night for a stranger.
    bench.now = 10 * bench.settings.liveness.lost_ms;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(
        bench.state.fleet.events.last().unwrap().kind.as_str(),
        "host.joined"
    );
    let approve = || Command::ApproveHost { host: name("h9") };
    let before = bench.state.fleet.hosts[&h9.name].plan_generation;
    bench.apply(approve()).unwrap();
    assert!(plan(&bench) && bench.state.fleet.hosts[&h9.name].plan_generation > before);
    assert_eq!(closed(&bench), 1);
    assert_eq!(
        bench.state.fleet.events.last().unwrap().kind.as_str(),
        "host.approved"
    );
    let told = bench.state.fleet.last_event;
    bench.apply(approve()).unwrap();
    assert_eq!(bench.state.fleet.last_event, told, "once");
    bench.report(&h9.name, resources(8, 32, 100), Vec::new());
    bench.create("alfa", "small").unwrap();
}

#[test]
fn who_makes_a_token_for_a_name_lets_it_in_and_so_does_the_configuration() {
    let mut bench = Bench::default();
    make(&mut bench, token("t1"));
    assert!(join(&mut bench, enroll("t1", "h1")).unwrap().pending);
    make(&mut bench, for_host("t2", "h1"));
    assert!(!join(&mut bench, enroll("t2", "h1")).unwrap().pending);
    bench.settings.auto_approve = true;
    make(&mut bench, token("t3"));
    let elsewhere = Enroll {
        advertise: name("198.51.100.8"),
        ..enroll("t3", "h3")
    };
    assert!(!join(&mut bench, elsewhere).unwrap().pending);
}

/// Fails if a record of the version before is read as a host that waits, or as a token that is bound to something.
#[test]
fn records_of_before_are_of_hosts_that_are_in() {
    let host = r#"{"name":"h1","uid":"00000000-0000-0000-0000-000000000001","advertise":"192.0.2.1","labels":{},
        "cordoned":false,"plan_generation":1,"joined_at":0,"certificates":[]}"#;
    let host: Host = serde_json::from_str(host).unwrap();
    assert!(!host.pending);
    // And what is written of them is what that version wrote.
    assert!(!serde_json::to_string(&host).unwrap().contains("pending"));
    let token =
        r#"{"id":"t","secret_hash":"s","host":null,"labels":{},"expires_at":1,"used_by":null}"#;
    let token: Token = serde_json::from_str(token).unwrap();
    assert!(token.networks.is_empty() && !token.same_machine);
}

#[test]
fn nobody_advertises_loopback_the_coordinator_or_another_host() {
    let mut bench = Bench::default();
    let taken = bench.join("h1");
    let taken: IpAddr = bench.state.fleet.hosts[&taken].advertise;
    make(&mut bench, for_host("t1", "h2"));
    let at = |advertise: &str, is_ours| Enroll {
        advertise: name(advertise),
        is_ours,
        ..enroll("t1", "h2")
    };
    for (address, is_ours) in [("127.0.0.1", false), ("::1", false), ("192.0.2.80", true)] {
        let refused = join(&mut bench, at(address, is_ours)).unwrap_err();
        assert!(matches!(refused, ChangeError::AddressRefused { .. }));
        let said = refused.to_string();
        let both = ["--advertise", "--same-machine"];
        assert!(both.iter().all(|flag| said.contains(flag)), "{said}");
    }
    // Nobody's: a host opens and closes other hosts' tenants' ways by where it says it is.
    for address in ["169.254.169.254", "fe80::1", "0.1.2.3", "10.200.0.2"] {
        let refused = join(&mut bench, at(address, false)).unwrap_err();
        assert!(matches!(refused, ChangeError::AddressRefused { .. }));
    }
    let refused = join(&mut bench, at(&taken.to_string(), false)).unwrap_err();
    assert!(matches!(refused, ChangeError::AddressTaken { .. }));
    assert!(refused.to_string().contains("--advertise"), "{refused}");
    // A refused try has used nothing up; and again when it joins anew.
    join(&mut bench, at("192.0.2.81", false)).unwrap();
    make(&mut bench, for_host("t1", "h2"));
    assert!(join(&mut bench, at("127.0.0.1", false)).is_err());
    let same = Token {
        same_machine: true,
        ..for_host("t2", "h2")
    };
    make(&mut bench, same);
    let own = Enroll {
        token_id: "t2".to_owned(),
        ..at("127.0.0.1", true)
    };
    join(&mut bench, own).unwrap();
}

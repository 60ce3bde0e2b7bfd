//! Primaries that nobody is redirected to, and domains that lead elsewhere.
//!
//! Not here: when a domain counts as leading elsewhere (the crate's domains/schedule).

use super::*;

#[test]
fn nobody_is_redirected_to_a_primary_that_leads_elsewhere() {
    let mut bench = running();
    add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap();
    let before = plan(&bench);
    unreachable(&mut bench, "alfa", "erp.customer.com");
    unreachable(&mut bench, "alfa", "erp.customer.com");
    assert_eq!(primary(&bench), None);
    let names = views::route(&bench.state, &bench.settings, &tenant(&bench))
        .unwrap()
        .hostnames;
    assert_eq!(
        names,
        ["alfa.isy.one", "erp.customer.com"],
        "who still gets here by it is served"
    );
    assert_eq!(plan(&bench), before, "links that Odoo writes do not flap");
    assert_eq!(
        views::address(&bench.state, &bench.settings, &tenant(&bench)),
        "http://alfa.isy.one"
    );
    let mut store = crate::written::Records::default();
    store.apply(&bench.effects.writes);
    let stored = crate::written::fleet(store.contents()).unwrap();
    assert_eq!(stored.domain_troubles, bench.state.fleet.domain_troubles);
    assert_eq!(stored.domain_troubles.len(), 1);
    bench
        .apply(Command::DomainReachable {
            domain: name("erp.customer.com"),
            found: "A 192.0.2.1".to_owned(),
        })
        .unwrap();
    assert_eq!(primary(&bench).as_deref(), Some("erp.customer.com"));
    assert_eq!(
        kinds(&bench),
        [
            "domain.added",
            "domain.primary",
            "domain.unreachable",
            "domain.recovered"
        ]
    );
}

#[test]
fn nobody_is_redirected_to_a_new_primary_that_dns_was_not_asked_for() {
    let mut bench = running();
    let unasked = AddDomains {
        checked: false,
        ..adding("alfa", &["erp.customer.com"], true)
    };
    bench
        .apply(Command::AddDomains(Box::new(unasked.clone())))
        .unwrap();
    assert_eq!(
        (primary(&bench), tenant(&bench).primary.is_some()),
        (None, true)
    );
    let trouble = |bench: &Bench| bench.state.fleet.domain_troubles["erp.customer.com"].clone();
    assert!(trouble(&bench).unasked, "nothing was found yet");
    unreachable(&mut bench, "alfa", "erp.customer.com");
    assert!(!trouble(&bench).unasked, "asked, and it leads elsewhere");
    add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap();
    assert_eq!(
        primary(&bench).as_deref(),
        Some("erp.customer.com"),
        "asked, and it leads here"
    );
    bench.apply(Command::AddDomains(Box::new(unasked))).unwrap();
    assert!(
        primary(&bench).is_some(),
        "what is known to lead here stays so"
    );
}

#[test]
fn without_looks_no_trouble_is_kept() {
    let mut bench = running();
    add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap();
    unreachable(&mut bench, "alfa", "erp.customer.com");
    bench.apply(Command::AdoptSettings).unwrap();
    assert_eq!(primary(&bench), None, "it is looked at again by and by");
    bench.settings.domains_are_watched = false;
    bench.apply(Command::AdoptSettings).unwrap();
    assert_eq!(primary(&bench).as_deref(), Some("erp.customer.com"));
    let mut store = crate::written::Records::default();
    store.apply(&bench.effects.writes);
    assert!(
        crate::written::fleet(store.contents())
            .unwrap()
            .domain_troubles
            .is_empty()
    );
    bench.settle();
    // Without checks there will be no first good check either.
    let unasked = AddDomains {
        checked: false,
        ..adding("alfa", &["new.customer.com"], true)
    };
    bench.apply(Command::AddDomains(Box::new(unasked))).unwrap();
    assert_eq!(primary(&bench).as_deref(), Some("new.customer.com"));
}

#[test]
fn nobody_is_redirected_to_a_primary_without_a_certificate() {
    use crate::desired::{
        Sealed,
        certificates::{EdgeCertificate, Origin},
    };
    let mut bench = running();
    bench.settings.edges_have_our_certificates = true;
    add(&mut bench, "alfa", &["erp.customer.com"], true).unwrap();
    assert_eq!(primary(&bench), None);
    for hostname in ["erp.customer.com", "*.customer.com"] {
        let certificate = EdgeCertificate {
            name: "own".to_owned(),
            origin: Origin::Uploaded,
            hostnames: vec![hostname.to_owned()],
            serial: String::new(),
            issuer: String::new(),
            not_before: 0,
            not_after: 1,
            chain_pem: String::new(),
            key: Sealed("".into()),
            issued: Vec::new(),
        };
        bench
            .state
            .fleet
            .certificates
            .insert("own".to_owned(), Arc::new(certificate));
        assert_eq!(
            primary(&bench).as_deref(),
            Some("erp.customer.com"),
            "{hostname}"
        );
    }
}

#[test]
fn a_late_word_about_a_domain_of_somebody_else_says_nothing() {
    let mut bench = running();
    add(&mut bench, "beta", &["erp.customer.com"], false).unwrap();
    unreachable(&mut bench, "alfa", "erp.customer.com");
    unreachable(&mut bench, "beta", "gone.customer.com");
    assert!(bench.state.fleet.domain_troubles.is_empty());
    unreachable(&mut bench, "beta", "erp.customer.com");
    assert_eq!(bench.state.fleet.domain_troubles.len(), 1);
    // An operator's request checked DNS, and the domain leads here.
    add(&mut bench, "beta", &["erp.customer.com"], false).unwrap();
    assert!(bench.state.fleet.domain_troubles.is_empty());
    unreachable(&mut bench, "beta", "erp.customer.com");
    bench
        .apply(Command::DeleteTenant {
            name: name("beta"),
            purge: false,
            request_id: None,
            cancel_running: false,
        })
        .unwrap();
    bench.settle();
    bench
        .apply(Command::DeleteTenant {
            name: name("beta"),
            purge: true,
            request_id: None,
            cancel_running: false,
        })
        .unwrap();
    let report = bench.converged(&name("beta"));
    bench.report(&name("h1"), resources(8, 32, 100), vec![report]);
    assert!(
        !bench
            .state
            .fleet
            .tenants
            .contains_key(&name::<TenantName>("beta"))
    );
    assert!(bench.state.fleet.domain_troubles.is_empty(), "nobody's");
}

//! Whatever happens to a fleet, the incrementally updated content equals what a fresh start would render.

use std::{net::IpAddr, sync::Arc};

use isyone_fleet::{
    desired::{
        Rate, Sealed, VisitorAccess,
        certificates::{EdgeCertificate, Origin},
        domains::DomainTrouble,
    },
    observed::TenantObserved,
    testing::{Bench, name, resources},
};
use isyone_proto::{
    disk::{Disk, DiskMeans, DiskUse},
    plan::Lifecycle,
};
use proptest::prelude::*;

use super::*;
use crate::edges::publish::document::{Document, Frame};

const KINDS_ALL: [DocumentKind; KINDS] = [
    DocumentKind::Traefik,
    DocumentKind::Odoo,
    DocumentKind::Postgres,
    DocumentKind::Host,
    DocumentKind::Containers,
    DocumentKind::Hostnames,
];

/// An event. Tenants and hosts go by number.
#[derive(Debug, Clone)]
enum Happening {
    /// Placed on a host, with these domains (some contested, one bad), this desired state, active or not.
    Tenant {
        tenant: u8,
        host: u8,
        domains: Vec<u8>,
        desired: u8,
        active: bool,
    },
    /// Its visitor access changes, if it exists.
    Access(u8, u8),
    /// A tenant is purged.
    Purged(u8),
    /// Its host reports that its Odoo runs, or does not, and that its disk is full, or is not.
    Observed { tenant: u8, runs: bool, full: bool },
    /// A host appears, or moves to another address.
    Host { host: u8, address: u8 },
    /// A host is removed.
    HostGone(u8),
    /// A domain leads elsewhere, or here again.
    Astray(u8, bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let tenant = (
        0..12_u8,
        0..3_u8,
        proptest::collection::vec(0..5_u8, 0..3),
        0..4_u8,
        any::<bool>(),
    );
    prop_oneof![
        5 => tenant.prop_map(|(tenant, host, domains, desired, active)| {
            Happening::Tenant { tenant, host, domains, desired, active }
        }),
        2 => (0..12_u8, 0..5_u8).prop_map(|(tenant, access)| Happening::Access(tenant, access)),
        1 => (0..12_u8).prop_map(Happening::Purged),
        2 => (0..12_u8, any::<bool>(), any::<bool>()).prop_map(|(tenant, runs, full)| Happening::Observed { tenant, runs, full }),
        1 => (0..3_u8, 0..3_u8).prop_map(|(host, address)| Happening::Host { host, address }),
        1 => (0..3_u8).prop_map(Happening::HostGone),
        2 => (0..4_u8, any::<bool>()).prop_map(|(domain, astray)| Happening::Astray(domain, astray)),
    ]
}

/// Plain HTTP.
fn options() -> traefik::Options {
    traefik::Options {
        base_domain: "isy.one".to_owned(),
        entry_points: vec!["web".to_owned()],
        scheme: traefik::Scheme::Http,
        port: None,
        pages_url: "http://127.0.0.1:7480".to_owned(),
        pages_identity: None,
        rate_average: 100,
        rate_burst: 300,
        in_flight: 100,
        trusted_proxies: Vec::new(),
        frame_options: None,
        dashboard: None,
        tls: None,
    }
}

/// A kind of access for each number; Traefik would reject the third.
fn access(which: u8) -> VisitorAccess {
    let mut access = VisitorAccess::default();
    match which {
        1 => access.addresses = ["203.0.113.0/24".parse().unwrap()].into(),
        2 => access.users = vec!["ana:$2y$08$x".to_owned()],
        3 => access.users = vec!["ana".to_owned()],
        4 => {
            access.rate = Some(Rate {
                average: 5,
                burst: 10,
            })
        }
        _ => {}
    }
    access
}

/// A fleet, with one tenant and one host as templates for others.
struct World {
    bench: Bench,
    tenant: isyone_fleet::desired::Tenant,
    host: isyone_fleet::desired::Host,
    seen: TenantObserved,
}

impl World {
    fn new(shards: &[&str]) -> Self {
        let mut bench = Bench::default();
        bench.settings.shards = Shards::new(shards.iter().map(|s| name(s)).collect());
        let host = bench.host("h0", resources(8, 64, 1_000));
        bench.create("model", "standard").unwrap();
        let report = bench.converged(&name("model"));
        bench.report(&host, resources(8, 64, 1_000), vec![report]);
        let (state, model) = (&mut bench.state, name::<TenantName>("model"));
        let tenant = (*state.fleet.tenants[&model]).clone();
        let seen = TenantObserved::clone(state.observed.copy(&model, &host).unwrap());
        let host = (*state.fleet.hosts["h0"]).clone();
        state.fleet.remove_tenant(&model);
        Self {
            bench,
            tenant,
            host,
            seen,
        }
    }

    fn happen(&mut self, happening: Happening) {
        let state = &mut self.bench.state;
        let (t, h) = (
            |n: u8| name::<TenantName>(&format!("t{n}")),
            |n: u8| name::<HostName>(&format!("h{n}")),
        );
        match happening {
            Happening::Tenant {
                tenant,
                host,
                domains,
                desired,
                active,
            } => {
                let mut new = self.tenant.clone();
                (new.name, new.placement.host) = (t(tenant), h(host));
                // Contested domains, and another tenant's platform name.
                let domain = |n: u8| {
                    if n == 4 {
                        "t3.isy.one".to_owned()
                    } else {
                        format!("d{n}.example")
                    }
                };
                new.primary = domains.first().map(|n| name(&domain(*n)));
                new.spec.domains = domains.into_iter().map(|n| name(&domain(n))).collect();
                new.desired = [
                    Lifecycle::Running,
                    Lifecycle::Running,
                    Lifecycle::Suspended,
                    Lifecycle::Quarantined,
                ][usize::from(desired)];
                new.activated_at = active.then_some(1);
                // Port 0 is unreachable: such a route is left out.
                new.placement.websocket_port = if tenant == 11 { 0 } else { 20_001 };
                state.fleet.put_tenant(Arc::new(new));
            }
            Happening::Access(tenant, which) => {
                let Some(mut new) = state.fleet.tenants.get(&t(tenant)).map(|t| (**t).clone())
                else {
                    return;
                };
                new.access = access(which);
                state.fleet.put_tenant(Arc::new(new));
            }
            Happening::Purged(tenant) => state.fleet.remove_tenant(&t(tenant)),
            Happening::Observed { tenant, runs, full } => {
                let mut seen = self.seen.clone();
                let disk = Disk::after(None, DiskUse::of_bytes(1), 1, DiskMeans::Counted);
                seen.report.disk = full.then_some(disk);
                seen.report.containers[0].state = if runs { "running" } else { "exited" }.into();
                seen.report.name = t(tenant);
                state.observed.put_copy(seen, true);
            }
            Happening::Host { host, address } => {
                let mut new = self.host.clone();
                (new.name, new.advertise) = (h(host), IpAddr::from([192, 0, 2, address]));
                state.fleet.hosts.insert(h(host), Arc::new(new));
            }
            Happening::Astray(n, astray) => self.astray(n, astray),
            Happening::HostGone(host) => drop(state.fleet.hosts.remove(&h(host))),
        }
    }

    fn astray(&mut self, n: u8, astray: bool) {
        let state = &mut self.bench.state;
        let domain = format!("d{n}.example");
        let owner = state.fleet.by_domain.get(&domain).cloned();
        // As the writer keeps it: only an owned domain can have trouble.
        let trouble = owner.filter(|_| astray).map(|tenant| DomainTrouble {
            domain: name(&domain),
            tenant,
            since: 0,
            unasked: false,
            found: String::new(),
        });
        match trouble {
            Some(trouble) => drop(
                state
                    .fleet
                    .domain_troubles
                    .insert(domain, Arc::new(trouble)),
            ),
            None => drop(state.fleet.domain_troubles.remove(&domain)),
        }
    }

    fn content(&self) -> Content {
        Content::new(options(), 7482, self.bench.settings.shards.clone())
    }
}

/// Everything a content contains: each document of each scope with its tag, and what was left out.
fn said(content: &Content, scopes: usize) -> (Vec<(String, String)>, Vec<traefik::Rejected>) {
    let frame = Arc::new(Frame::list(["[".into(), "]".into()]));
    let documents = (0..scopes).flat_map(|scope| KINDS_ALL.map(|kind| content.shares(kind, scope)));
    let documents = documents.map(|shares| {
        let others = shares.iter().flat_map(|s| s.part(1).chain(s.part(2)));
        let others: String = others
            .map(|b| String::from_utf8(b.to_vec()).unwrap())
            .collect();
        let document = Document::new(frame.clone(), shares);
        (document.text() + &others, document.etag().to_owned())
    });
    (
        documents.collect(),
        content.rejected.values().flatten().cloned().collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 1_000 }))]

    #[test]
    fn kept_up_to_date_is_as_good_as_rendered_anew(
        rounds in proptest::collection::vec(proptest::collection::vec(happening(), 1..6), 1..20),
        sharded in any::<bool>(),
    ) {
        let mut world = World::new(if sharded { &["a", "b", "c"] } else { &[] });
        let scopes = world.bench.settings.shards.scopes();
        let mut kept = world.content();
        let mut told = Vec::new();
        for round in rounds {
            round.into_iter().for_each(|happening| world.happen(happening));
            let before = said(&kept, scopes);
            let update = kept.update(&world.bench.state, &world.bench.settings);
            let mut fresh = world.content();
            fresh.update(&world.bench.state, &world.bench.settings);
            let after = said(&kept, scopes);
            prop_assert_eq!(&after, &said(&fresh, scopes));
            prop_assert_eq!(update.changed, before.0 != after.0);
            let new: Vec<_> = after.1.iter().filter(|r| !before.1.contains(r)).cloned().collect();
            prop_assert_eq!(&update.rejected, &new);
            told.extend(new);
            // The shares make up everything, each item once.
            let routed = |scope| kept.shares(DocumentKind::Traefik, scope).iter().map(Pages::len).sum::<u64>();
            prop_assert_eq!(routed(0), views::routes(&world.bench.state, &world.bench.settings).count() as u64
                - after.1.iter().filter(|r| r.hostname.is_none()).count() as u64);
            if sharded {
                prop_assert_eq!(routed(0), (1..scopes).map(routed).sum::<u64>());
            }
        }
    }
}

#[test]
fn a_document_is_the_frame_with_the_fragments_in_it() {
    let mut world = World::new(&[]);
    let mut content = world.content();
    let frame = Arc::new(Frame::traefik(traefik::frame(&options())));
    let mut tags = Vec::new();
    for (tenant, desired, active) in [(0, 3, false), (1, 0, true), (2, 2, true)] {
        world.happen(Happening::Tenant {
            tenant,
            host: 0,
            domains: vec![],
            desired,
            active,
        });
        content.update(&world.bench.state, &world.bench.settings);
        let document = Document::new(frame.clone(), content.shares(DocumentKind::Traefik, 0));
        let text = document.text();
        assert_eq!(document.length(), text.len() as u64);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let routers = parsed["http"]["routers"].as_object();
        // Always there: version, closed paths, unknown names. Per tenant: quarantined none; running with workers two;
        // suspended one more.
        assert_eq!(
            routers.map_or(0, serde_json::Map::len),
            [3, 5, 6][usize::from(tenant)],
            "{text}"
        );
        let version =
            &parsed["http"]["middlewares"]["isyone-version"]["headers"]["customResponseHeaders"];
        assert_eq!(version["X-Isyone-Version"], document.version());
        tags.push(document.etag().to_owned());
    }
    tags.dedup();
    assert_eq!(tags.len(), 3);
}

fn held(name: &str, chain: &str) -> Arc<EdgeCertificate> {
    Arc::new(EdgeCertificate {
        name: name.to_owned(),
        origin: Origin::Acme,
        hostnames: vec![name.to_owned()],
        serial: String::new(),
        issuer: String::new(),
        not_before: 0,
        not_after: 1,
        chain_pem: chain.to_owned(),
        key: Sealed(format!("key of {name}").into()),
        issued: Vec::new(),
    })
}

/// Traefik's document for a scope, with certificates.
fn published(content: &Content, scope: usize) -> serde_json::Value {
    let tls = traefik::Tls {
        entry_point: "websecure".to_owned(),
        hsts_seconds: 1,
        resolver: None,
        challenges: true,
    };
    let frame = traefik::frame(&traefik::Options {
        scheme: traefik::Scheme::Https,
        tls: Some(tls),
        ..options()
    });
    let (shares, certificates) = (
        content.shares(DocumentKind::Traefik, scope),
        content.certificates(scope),
    );
    let document =
        Document::with_certificates(Arc::new(Frame::traefik(frame)), shares, certificates);
    let text = document.text();
    assert_eq!(document.length(), text.len() as u64);
    serde_json::from_str(&text).unwrap()
}

/// Chains in a scope.
fn chains(content: &Content, scope: usize) -> Vec<String> {
    let document = published(content, scope);
    let list = document["tls"]["certificates"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut chains: Vec<String> = list
        .iter()
        .map(|c| c["certFile"].as_str().unwrap().to_owned())
        .collect();
    chains.sort();
    chains
}

#[test]
fn certificates_go_where_their_tenants_are_and_one_that_does_not_open_costs_no_other() {
    let mut world = World::new(&["a", "b"]);
    let mut content = world.content();
    let key = |c: &EdgeCertificate| {
        (c.name != "shut.isy.one").then(|| zeroize::Zeroizing::new(c.key.0.to_string()))
    };
    assert!(published(&content, 0)["tls"].get("certificates").is_none());
    let names = [
        "t0.isy.one",
        "t1.isy.one",
        "t2.isy.one",
        "t3.isy.one",
        "erp.example.com",
        "*.isy.one",
        "shut.isy.one",
    ];
    for name in names {
        let certificates = &mut world.bench.state.fleet.certificates;
        certificates.insert(name.to_owned(), held(name, name));
    }
    assert!(content.update_certificates(&world.bench.state, &world.bench.settings, key));
    assert!(!content.update_certificates(&world.bench.state, &world.bench.settings, key));
    let everything = chains(&content, 0);
    assert_eq!(everything.len(), names.len() - 1, "{everything:?}");
    let (a, b) = (chains(&content, 1), chains(&content, 2));
    for common in ["*.isy.one", "erp.example.com"] {
        assert!(a.contains(&common.to_owned()) && b.contains(&common.to_owned()));
    }
    let split = a
        .iter()
        .chain(&b)
        .filter(|name| name.starts_with('t'))
        .count();
    assert_eq!(
        split, 4,
        "each platform name in its tenant's shard only: {a:?} {b:?}"
    );
    // Renewed and removed certificates: equal to a fresh start.
    world
        .bench
        .state
        .fleet
        .certificates
        .insert("t1.isy.one".to_owned(), held("t1.isy.one", "renewed"));
    world.bench.state.fleet.certificates.remove("t2.isy.one");
    assert!(content.update_certificates(&world.bench.state, &world.bench.settings, key));
    let mut fresh = world.content();
    fresh.update_certificates(&world.bench.state, &world.bench.settings, key);
    for scope in 0..3 {
        assert_eq!(published(&content, scope), published(&fresh, scope));
    }
    assert!(chains(&content, 0).contains(&"renewed".to_owned()));
    let keys = published(&content, 0)["tls"]["certificates"].to_string();
    assert!(
        keys.contains("key of erp.example.com") && !keys.contains("t2.isy.one"),
        "{keys}"
    );
}

#[test]
fn a_claim_that_is_left_out_is_known_although_no_document_changes() {
    let mut world = World::new(&[]);
    let mut content = world.content();
    let claims = |tenant, domains| Happening::Tenant {
        tenant,
        host: 0,
        domains,
        desired: 0,
        active: true,
    };
    for tenant in [0, 1] {
        world.happen(claims(tenant, if tenant == 0 { vec![1] } else { vec![] }));
        content.update(&world.bench.state, &world.bench.settings);
    }
    assert!(content.left_out().is_empty());
    world.happen(claims(1, vec![1]));
    let update = content.update(&world.bench.state, &world.bench.settings);
    assert!(!update.changed && update.rejected.len() == 1);
    assert_eq!(content.left_out()["t1"], update.rejected);
}

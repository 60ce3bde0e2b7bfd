//! HTTPS that ends at the edge: the redirect, HSTS, the options that all connections share, and where certificates come
//! from.
//!
//! Not here: getting certificates (Traefik's resolver by its static configuration, or coordinator/edges/acme), and a
//! tenant's own routers (fragment).

use crate::{
    CHALLENGE_PRIORITY, Options, PAGES, REDIRECT_PRIORITY,
    dynamic::{CertificatePair, Middleware, Router, RouterTls, TlsDomain, TlsOptions},
    json,
};
use isyone_types::spec::covers;

/// Cipher suites for TLS 1.2: forward secrecy and authenticated encryption only (Mozilla's "intermediate" without the
/// finite-field suites, which Go does not have). Those of TLS 1.3 are not configurable.
const CIPHER_SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];
/// Middleware on every router with TLS.
pub(crate) const HSTS: &str = "isyone-hsts";

/// How Traefik terminates TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The TLS entry point, as named in Traefik's static configuration.
    pub entry_point: String,
    /// How long browsers remember to use only HTTPS; 0: no HSTS header.
    pub hsts_seconds: u64,
    /// Set when Traefik gets certificates itself.
    pub resolver: Option<Resolver>,
    /// Set when the coordinator gets the certificates, and so answers the challenges.
    pub challenges: bool,
}

/// One of `certificatesResolvers` in Traefik's static configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    pub name: String,
    /// `*.isy.one`: one certificate for all platform names in place of one per tenant. Needs a DNS challenge.
    pub wildcard: Option<String>,
}

/// A certificate chain and its key, both PEM, as one entry of `certificates`: preceded by a comma and a line break.
pub fn certificate(chain_pem: &str, key_pem: &str) -> String {
    format!(
        ",\n{}",
        json(&CertificatePair {
            cert_file: chain_pem,
            key_file: key_pem
        })
    )
}

pub(crate) fn middlewares(tls: &Tls, port: Option<u16>) -> Vec<(&'static str, Middleware)> {
    let hsts = (tls.hsts_seconds > 0).then(|| (HSTS, Middleware::hsts(tls.hsts_seconds)));
    hsts.into_iter()
        .chain([("isyone-https", Middleware::to_https(port))])
        .collect()
}

/// Routers on the entry points without TLS: for challenges, and a redirect for everything else, whatever the host, so
/// that it does not reveal which tenants exist. Each is preceded by a comma and a line break.
pub(crate) fn routers(tls: &Tls, options: &Options) -> String {
    let router = |rule, priority, service, middlewares: &[&str]| {
        let entry_points = &options.entry_points;
        json(&Router {
            entry_points,
            middlewares,
            priority,
            rule,
            service,
            tls: None,
        })
    };
    let redirect = router(
        "PathPrefix(`/`)",
        REDIRECT_PRIORITY,
        "noop@internal",
        &["isyone-https"],
    );
    let redirect = format!(",\n\"isyone-https\":{redirect}");
    if !tls.challenges {
        return redirect;
    }
    let rule = "PathPrefix(`/.well-known/acme-challenge/`)";
    format!(
        ",\n\"isyone-acme\":{}{redirect}",
        router(rule, CHALLENGE_PRIORITY, PAGES, &["isyone-rate"])
    )
}

/// The options of all connections. Strict: a client that names no host we have a certificate for gets no handshake, not
/// Traefik's self-signed certificate.
pub(crate) fn options() -> String {
    let default = TlsOptions {
        alpn_protocols: ["h2", "http/1.1"],
        cipher_suites: CIPHER_SUITES,
        min_version: "VersionTLS12",
        sni_strict: true,
    };
    json(&std::collections::BTreeMap::from([("default", default)]))
}

/// One certificate per host name. With one for all of them, a customer's domain with broken DNS would also block
/// renewal for the platform's name.
pub(crate) fn of_page<'a>(tls: &'a Tls, hosts: &[&'a str]) -> RouterTls<'a> {
    let Some(resolver) = &tls.resolver else {
        return RouterTls::default();
    };
    let wildcard = resolver.wildcard.as_deref();
    let (below, own): (Vec<&str>, Vec<&str>) = hosts
        .iter()
        .partition(|host| wildcard.is_some_and(|wildcard| covers(wildcard, host)));
    let wildcard = wildcard.filter(|_| !below.is_empty());
    let domains = wildcard
        .into_iter()
        .chain(own)
        .map(|main| TlsDomain { main })
        .collect();
    RouterTls {
        cert_resolver: Some(&resolver.name),
        domains,
    }
}

//! Edges, certificates and rejected routes.

use isyone_proto::pb::v1::*;

use super::ago;

/// One uploaded, one ordered, and one host name without a certificate.
pub(crate) fn certificates() -> Vec<Certificate> {
    let day = 86_400;
    let certificate =
        |name: &str, origin: CertificateOrigin, state: CertificateState| Certificate {
            name: name.into(),
            origin: origin.into(),
            state: state.into(),
            hostnames: vec![name.into()],
            not_before: ago(30 * day),
            not_after: ago(-60 * day),
            issuer: "CN=R11, O=Let's Encrypt, C=US".into(),
            serial: "0345".into(),
            ..Certificate::default()
        };
    let own = certificate("own", CertificateOrigin::Uploaded, CertificateState::Valid);
    vec![
        certificate(
            "alfa.isy.one",
            CertificateOrigin::Acme,
            CertificateState::Valid,
        ),
        Certificate {
            name: "erp.alfa.example".into(),
            origin: CertificateOrigin::Acme.into(),
            state: CertificateState::Failing.into(),
            failures: 3,
            error: "no valid A records found for erp.alfa.example".into(),
            retry_time: ago(-1200),
            ..Certificate::default()
        },
        Certificate {
            hostnames: vec!["*.own.example".into(), "own.example".into()],
            ..own
        },
    ]
}

/// One edge in each state.
pub(crate) fn edges() -> Vec<Edge> {
    let versions = [
        "5d41402abc4b2a76b9719d911017c592",
        "7d793037a0760186574b0282f2f435e7",
    ];
    let edge = |last: u8, shard: &str, state: EdgeState, runs: &str| Edge {
        name: format!("192.0.2.{last}/{shard}"),
        address: format!("192.0.2.{last}"),
        shard: shard.into(),
        state: state.into(),
        poll_time: ago(2),
        given_version: versions[1].into(),
        running_version: runs.into(),
        newest_version: versions[1].into(),
        tenants: 812,
        ..Edge::default()
    };
    vec![
        Edge {
            rejected_routes: 2,
            ..edge(11, "edge-1", EdgeState::Current, versions[1])
        },
        Edge {
            behind_time: ago(320),
            ..edge(12, "edge-2", EdgeState::Stuck, versions[0])
        },
        edge(13, "edge-3", EdgeState::Unknown, ""),
        Edge {
            name: "192.0.2.14".into(),
            poll_time: ago(900),
            ..edge(14, "", EdgeState::Silent, versions[1])
        },
    ]
}

/// A contested domain, and a tenant with no route at all.
pub(crate) fn rejected_routes() -> Vec<RejectedRoute> {
    let route = |tenant: &str, hostname: &str, reason: &str| RejectedRoute {
        tenant: tenant.into(),
        hostname: hostname.into(),
        reason: reason.into(),
    };
    vec![
        route("beta", "erp.alfa.example", "already leads to `alfa`"),
        route(
            "gama",
            "",
            "a user for its password prompt is not `name:hash`",
        ),
    ]
}

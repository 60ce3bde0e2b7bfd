//! The authority's files over time. The listener's tests cover handshakes.

use isyone_proto::tls::{Identity, new_key_and_csr};
use rcgen::KeyPair;

use super::*;
use crate::base::clock;

fn config(dir: &Path) -> PkiConfig {
    PkiConfig {
        dir: dir.to_owned(),
        hosts: vec!["127.0.0.1".into(), "coordinator.example".into()],
        server_ttl_s: 86_400,
    }
}

fn open(dir: &Path, now_s: i64) -> Pki {
    Pki::open(config(dir), Arc::new(|_, _| true), now_s).unwrap()
}

/// Address of the host in these tests.
const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

fn names(der: &CertificateDer<'_>) -> Vec<String> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(der).unwrap();
    let names = parsed
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names
        .iter();
    names
        .map(|name| match name {
            GeneralName::URI(name) | GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(bytes) => {
                IpAddr::from(<[u8; 4]>::try_from(*bytes).unwrap()).to_string()
            }
            other => other.to_string(),
        })
        .collect()
}

#[test]
fn an_operator_is_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let now = clock::now_seconds();
    create(dir.path(), now).unwrap();
    let (_, csr) = new_key_and_csr("prometheus").unwrap();
    let name = "prometheus".parse().unwrap();
    let issued = open(dir.path(), now)
        .sign_operator(&csr, &name, OperatorRole::Monitor, 3600, now)
        .unwrap();
    let der = tls::certificates("c", &issued.pem).unwrap().remove(0);
    let info = isyone_proto::tls::certificate_info(&der).unwrap();
    assert_eq!((info.serves, info.serial_hex()), (false, issued.serial));
    assert_eq!(names(&der), ["spiffe://isyone/operator/prometheus/monitor"]);
}

#[test]
fn a_request_gets_our_name_dates_and_rights_whatever_it_asks() {
    let dir = tempfile::tempdir().unwrap();
    let now = clock::now_seconds();
    create(dir.path(), now).unwrap();
    let pki = open(dir.path(), now);
    let key = KeyPair::generate().unwrap();
    let mut wish =
        rcgen::CertificateParams::new(vec!["coordinator.isyone.internal".to_owned()]).unwrap();
    wish.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = wish.serialize_request(&key).unwrap().pem().unwrap();
    let issued = pki
        .sign_agent(&csr, &"h1".parse().unwrap(), HOST, 3600, now)
        .unwrap();
    let der = tls::certificates("c", &issued.pem).unwrap().remove(0);
    let info = isyone_proto::tls::certificate_info(&der).unwrap();
    assert_eq!(info.identity, Identity::Agent("h1".parse().unwrap()));
    assert_eq!(
        (info.not_after, hex::encode(&info.serial)),
        (now + 3600, issued.serial)
    );
    let (_, parsed) =
        <x509_parser::certificate::X509Certificate as x509_parser::prelude::FromDer<_>>::from_der(
            &der,
        )
        .unwrap();
    assert!(!parsed.is_ca());
    assert!(
        parsed
            .extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .client_auth
    );
    assert!(
        parsed
            .extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .server_auth
            && info.serves
    );
    assert_eq!(
        names(&der),
        [
            "spiffe://isyone/agent/h1",
            "h1.host.isyone.internal",
            "192.0.2.9"
        ]
    );
    assert!(matches!(
        pki.sign_agent("nonsense", &"h1".parse().unwrap(), HOST, 3600, now),
        Err(PkiError::BadRequest(_))
    ));
}

#[test]
fn a_request_that_is_not_signed_with_its_own_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), clock::now_seconds()).unwrap();
    let pki = open(dir.path(), clock::now_seconds());
    let (_, csr) = new_key_and_csr("h1").unwrap();
    // Flip a bit near the end, in the signature.
    let mut lines: Vec<String> = csr.lines().map(str::to_owned).collect();
    let last = lines.len() - 2;
    let flipped = if lines[last - 1].starts_with('A') {
        "B"
    } else {
        "A"
    };
    lines[last - 1].replace_range(0..1, flipped);
    let broken = lines.join("\n");
    assert!(matches!(
        pki.sign_agent(&broken, &"h1".parse().unwrap(), HOST, 60, 0),
        Err(PkiError::BadRequest(_))
    ));
}

#[test]
fn the_server_certificate_renews_at_half_life_and_when_hosts_change() {
    let dir = tempfile::tempdir().unwrap();
    let now = clock::now_seconds();
    create(dir.path(), now).unwrap();
    assert!(matches!(create(dir.path(), now), Err(PkiError::Exists(_))));
    let pki = open(dir.path(), now);
    let first = pki.server_not_after();
    assert!(!pki.refresh(now + 1000).unwrap());
    assert!(pki.refresh(now + 43_201).unwrap());
    assert!(pki.server_not_after() > first);
    let pem = std::fs::read_to_string(dir.path().join("server.pem")).unwrap();
    let mut other = config(dir.path());
    other.hosts.push("192.0.2.7".into());
    let _pki = Pki::open(other, Arc::new(|_, _| true), now).unwrap();
    assert_ne!(
        std::fs::read_to_string(dir.path().join("server.pem")).unwrap(),
        pem
    );
}

#[test]
fn a_second_ca_is_taken_up_and_open_keys_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let now = clock::now_seconds();
    create(dir.path(), now).unwrap();
    create(other.path(), now).unwrap();
    let pki = open(dir.path(), now);
    let pin = pki.ca_pin();
    let both = read(other.path(), "ca.pem").unwrap() + &read(dir.path(), "ca.pem").unwrap();
    write(dir.path(), "ca.pem", &both, 0o644).unwrap();
    assert!(pki.refresh(now).unwrap());
    assert_eq!((pki.ca_pem(), pki.ca_pin()), (both, pin.clone()));
    write(
        dir.path(),
        "ca.key",
        &read(other.path(), "ca.key").unwrap(),
        0o600,
    )
    .unwrap();
    assert!(pki.refresh(now).unwrap());
    assert_ne!(pki.ca_pin(), pin);
    std::fs::set_permissions(
        dir.path().join("ca.key"),
        std::fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    assert!(matches!(
        Pki::open(config(dir.path()), Arc::new(|_, _| true), now),
        Err(PkiError::TooOpen(_))
    ));
}

//! Issues certificates. Dates, serial numbers, names and rights are ours; a request contributes only its public key.
//!
//! Not here: who may have a certificate (the Fleet), and how the files change over time (mod.rs).

use std::{net::IpAddr, path::PathBuf};

use isyone_fleet::desired::Certificate;
use isyone_proto::{
    ids::{HostName, ShortName},
    tls::{self, COORDINATOR_NAME, Identity, OperatorRole, TlsError},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::rotation;
use crate::base::secrets;

/// Certificates become valid a little in the past, because other machines' clocks differ.
const BACKDATE_S: i64 = 300;

/// What is wrong with the authority's files or with a request.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// There already is an authority.
    #[error("{0} already holds a certificate authority")]
    Exists(PathBuf),
    /// Others could read a key.
    #[error("{0} is readable by others: chmod 600 it")]
    TooOpen(PathBuf),
    /// PEM or DER that cannot be used, or parts that do not belong together.
    #[error("a certificate or key cannot be used")]
    Tls(#[source] TlsError),
    /// rcgen refuses to make it.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// The record of a rotation is damaged.
    #[error("{path} cannot be read ({why}): restore it from a backup of the keys")]
    Record { path: PathBuf, why: String },
    /// One rotation at a time.
    #[error("the CA is being replaced already: `isy-coordinator pki status` says how far it is")]
    UnderWay,
    /// There is nothing to go on with.
    #[error("the CA is not being replaced: `isy-coordinator pki rotate` begins")]
    NotUnderWay,
    /// The old CA is the only one that has signed anything.
    #[error("the new CA does not sign yet: `isy-coordinator pki status` says what is missing")]
    NotSwitched,
    /// There is a flag for all.
    #[error(
        "--without: more than {} hosts; --force is for all that are missing",
        super::rotation::MAX_LEFT_OUT
    )]
    TooManyLeftOut,
    /// No certificate in `ca.pem` belongs to `ca.key`.
    #[error("no certificate in ca.pem belongs to ca.key")]
    NoIssuer,
    /// The data is not a request, or its sender does not hold the request's key.
    #[error("the certificate request cannot be used: {0}")]
    BadRequest(String),
}

/// A new certificate; worthless until its serial number is stored.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf only, as PEM.
    pub pem: String,
    /// In the store's format: hex of the DER integer.
    pub serial: String,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256 of its DER, hex.
    pub sha256: String,
}

impl Issued {
    /// What the Fleet remembers of it.
    pub fn record(&self) -> Certificate {
        Certificate {
            serial: self.serial.clone(),
            not_after: self.not_after,
            sha256: self.sha256.clone(),
            follows: None,
        }
    }
}

fn date(seconds: i64) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| PkiError::Make(rcgen::Error::Time))
}

/// `by` is the [`rotation::tag`](super::rotation::tag) of the CA that signs.
fn parameters(
    common_name: &str,
    now_s: i64,
    ttl_s: i64,
    by: Option<[u8; 4]>,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = date(now_s - BACKDATE_S)?;
    params.not_after = date(now_s.saturating_add(ttl_s))?;
    let mut serial = [0_u8; 16];
    secrets::rand_bytes(&mut serial);
    // Positive and of fixed length, so DER never pads it, and its hex equals the hex of what a peer presents.
    serial[0] = serial[0] & 0x3f | 0x40;
    if let Some(tag) = by {
        // 88 random bits are left.
        serial[1..5].copy_from_slice(&tag);
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// Certificate and key of a new CA, as PEM.
pub(super) fn new_ca(now_s: i64, ttl_s: i64) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let mut params = parameters("isyone CA", now_s, ttl_s, None)?;
    // A name of its own: while one CA follows another, some clients look for the issuer by its name alone.
    let mut suffix = [0_u8; 4];
    secrets::rand_bytes(&mut suffix);
    params.distinguished_name.push(
        DnType::CommonName,
        format!("isyone CA {}", hex::encode(suffix)),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// A CA that can sign.
pub(super) struct Signer {
    pub(super) ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    /// In the serial numbers of its certificates.
    pub(super) fn tag(&self) -> [u8; 4] {
        rotation::tag(&self.ca)
    }
}

/// Whether a CA with this tag has signed a certificate with this serial number (hex). No for all certificates of versions
/// before, whose serial numbers are random.
pub(super) fn is_tagged(serial: &str, tag: [u8; 4]) -> bool {
    serial
        .get(2..10)
        .is_some_and(|part| part == hex::encode(tag))
}

/// The CA in the bundle that the key belongs to, ready to sign.
pub(super) fn load_issuer(ca_pem: &str, key_pem: &str) -> Result<Signer, PkiError> {
    let key = KeyPair::from_pem(key_pem)?;
    for certificate in tls::certificates("CA", ca_pem)? {
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| PkiError::NoIssuer)?;
        if parsed.public_key().raw == key.subject_public_key_info() {
            let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
            return Ok(Signer {
                ca: certificate,
                issuer,
            });
        }
    }
    Err(PkiError::NoIssuer)
}

/// Certificate and key of the coordinator, as PEM.
pub(super) fn new_server(
    signer: &Signer,
    hosts: &[String],
    ttl_s: i64,
    now_s: i64,
) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let mut params = parameters(COORDINATOR_NAME, now_s, ttl_s, Some(signer.tag()))?;
    params.subject_alt_names = vec![
        SanType::URI(Identity::Coordinator.to_string().as_str().try_into()?),
        SanType::DnsName(COORDINATOR_NAME.try_into()?),
    ];
    for host in hosts {
        params.subject_alt_names.push(match host.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(host.as_str().try_into()?),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok((
        params.signed_by(&key, &signer.issuer)?.pem(),
        key.serialize_pem(),
    ))
}

/// Whether to keep a server certificate: signed by this CA, for these hosts, in the first half of its life.
pub(super) fn server_fits(
    pem: &str,
    ca: &CertificateDer<'_>,
    hosts: &[String],
    now_s: i64,
) -> bool {
    let Ok(chain) = tls::certificates("server certificate", pem) else {
        return false;
    };
    let (Ok(info), Ok((_, leaf))) = (
        isyone_proto::tls::certificate_info(&chain[0]),
        X509Certificate::from_der(&chain[0]),
    ) else {
        return false;
    };
    let names: Vec<String> = match leaf.subject_alternative_name() {
        Ok(Some(names)) => names
            .value
            .general_names
            .iter()
            .filter_map(host_of)
            .collect(),
        Ok(None) | Err(_) => return false,
    };
    let same_hosts = hosts
        .iter()
        .all(|h| names.contains(&h.to_ascii_lowercase()));
    info.identity == Identity::Coordinator
        && same_hosts
        && info.is_fresh(now_s)
        && signed_by(pem, ca)
}

/// Whether this CA signed the first certificate in a PEM text.
pub(super) fn signed_by(pem: &str, ca: &CertificateDer<'_>) -> bool {
    let Ok(chain) = tls::certificates("certificate", pem) else {
        return false;
    };
    match (
        X509Certificate::from_der(&chain[0]),
        X509Certificate::from_der(ca),
    ) {
        (Ok((_, leaf)), Ok((_, ca))) => leaf.verify_signature(Some(ca.public_key())).is_ok(),
        _ => false,
    }
}

fn host_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|v6| std::net::Ipv6Addr::from(v6).to_string()),
        },
        _ => None,
    }
}

/// A certificate for a host: for its connections to us as a client, and as the server that Prometheus scrapes, at the
/// address that others know it by.
pub(super) fn sign_host(
    signer: &Signer,
    csr_pem: &str,
    host: &HostName,
    advertise: IpAddr,
    life: Life,
) -> Result<Issued, PkiError> {
    let mut params =
        client_parameters(signer, host.as_str(), &Identity::Agent(host.clone()), life)?;
    params
        .subject_alt_names
        .push(SanType::DnsName(tls::host_server_name(host).try_into()?));
    params.subject_alt_names.push(SanType::IpAddress(advertise));
    params
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ServerAuth);
    sign(signer, csr_pem, params)
}

/// A client certificate for an operator.
pub(super) fn sign_operator(
    signer: &Signer,
    csr_pem: &str,
    name: &ShortName,
    role: OperatorRole,
    life: Life,
) -> Result<Issued, PkiError> {
    let identity = Identity::Operator(name.clone(), role);
    let params = client_parameters(signer, name.as_str(), &identity, life)?;
    sign(signer, csr_pem, params)
}

/// Whether a request is for the key of this certificate, and from who holds it.
pub(super) fn same_key(csr_pem: &str, certificate: &CertificateDer<'_>) -> Result<bool, PkiError> {
    let csr = CertificateSigningRequestParams::from_pem(csr_pem)
        .map_err(|e| PkiError::BadRequest(e.to_string()))?;
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|e| PkiError::BadRequest(e.to_string()))?;
    Ok(parsed.public_key().raw == csr.public_key.subject_public_key_info())
}

/// From when and for how long a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) now_s: i64,
    pub(super) ttl_s: i64,
}

fn client_parameters(
    signer: &Signer,
    common_name: &str,
    identity: &Identity,
    life: Life,
) -> Result<CertificateParams, PkiError> {
    let mut params = parameters(common_name, life.now_s, life.ttl_s, Some(signer.tag()))?;
    params.subject_alt_names = vec![SanType::URI(identity.to_string().as_str().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn sign(signer: &Signer, csr_pem: &str, params: CertificateParams) -> Result<Issued, PkiError> {
    // Checks the request's signature, which proves that the applicant holds the private key.
    let mut csr = CertificateSigningRequestParams::from_pem(csr_pem)
        .map_err(|e| PkiError::BadRequest(e.to_string()))?;
    // Discard everything that the applicant asked for.
    csr.params = params;
    let certificate = csr.signed_by(&signer.issuer)?;
    let info = isyone_proto::tls::certificate_info(certificate.der())?;
    Ok(Issued {
        pem: certificate.pem(),
        serial: info.serial_hex(),
        not_after: info.not_after,
        sha256: info.sha256_hex(),
    })
}

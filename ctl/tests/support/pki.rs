//! A certificate authority for one test run.

use isyone_proto::tls::COORDINATOR_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{OffsetDateTime, macros::datetime};

/// The tests' certificates are valid from before `isyctl`'s pinned clock until long after the real time.
const NOT_BEFORE: OffsetDateTime = datetime!(2020-01-01 0:00 UTC);
const NOT_AFTER: OffsetDateTime = datetime!(2090-01-01 0:00 UTC);

pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = (NOT_BEFORE, NOT_AFTER);
    params
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params("test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::from_ca_cert_pem(&pem, key).unwrap();
        Self { pem, issuer }
    }

    /// A server's certificate and key for this DNS name, PEM.
    pub(crate) fn server(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    /// The coordinator's certificate and key.
    pub(crate) fn coordinator(&self) -> (String, String) {
        self.server(COORDINATOR_NAME)
    }

    /// Signs an operator's request as a coordinator does: only the public key is taken from it.
    pub(crate) fn sign(
        &self,
        csr_pem: &str,
        name: &str,
        role: &str,
    ) -> Result<String, rcgen::Error> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let mut params = params(name);
        let uri = format!("spiffe://isyone/operator/{name}/{role}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        csr.params = params;
        Ok(csr.signed_by(&self.issuer)?.pem())
    }

    /// An operator's certificate and key, PEM.
    pub(crate) fn operator(&self, name: &str, role: &str) -> (String, String) {
        let (key, csr) = isyone_proto::tls::new_key_and_csr(name).unwrap();
        (self.sign(&csr, name, role).unwrap(), key)
    }
}

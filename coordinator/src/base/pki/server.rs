//! The listening ports' TLS configurations.
//!
//! Not here: handshakes (ports/listener).

use std::sync::Arc;

use isyone_proto::tls::{self, CertificateInfo, TlsError, certificates, provider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::{
    self, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

/// Whether a certificate of ours is still accepted; told whether the CA is being replaced, which asks for more certainty. Runs at
/// every handshake, so it must be fast.
pub type Admit = Arc<dyn Fn(&CertificateInfo, bool) -> bool + Send + Sync>;

pub(super) fn mtls(
    ca_pem: &str,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    (admit, replacing): (Admit, bool),
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates("CA", ca_pem)? {
        roots.add(ca)?;
    }
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| TlsError::Unreadable {
            what: "CA",
            why: e.to_string(),
        })?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Admitting {
            inner,
            admit,
            replacing,
        }))
        .with_single_cert(chain, key)?;
    let mut config = finished(config);
    // Before the other name, which a client offers beside it.
    let protocols = &mut Arc::make_mut(&mut config).alpn_protocols;
    protocols.insert(0, tls::BULK_PROTOCOL.to_vec());
    Ok(config)
}

pub(super) fn enroll(
    mut chain: Vec<CertificateDer<'static>>,
    ca: &CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    chain.push(ca.clone());
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(finished(config))
}

pub(super) fn edges(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn finished(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // No session resumption: it skips the client verifier, so a revoked certificate would get back in.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// webpki's verdict first (chain, dates, purpose), then our own.
struct Admitting {
    inner: Arc<dyn ClientCertVerifier>,
    admit: Admit,
    /// The CA is being replaced.
    replacing: bool,
}

impl std::fmt::Debug for Admitting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admitting").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Admitting {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        let refused = |why| rustls::Error::InvalidCertificate(why);
        let info = tls::certificate_info(end_entity)
            .map_err(|_| refused(rustls::CertificateError::BadEncoding))?;
        if (self.admit)(&info, self.replacing) {
            Ok(verified)
        } else {
            Err(refused(rustls::CertificateError::Revoked))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

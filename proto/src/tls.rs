//! Mutual TLS for clients (agent, isyctl): identity files, CA pinning at first contact, and gRPC channels whose
//! certificate can be swapped while they live. Also reads the identity from a peer's certificate.
//!
//! Not here: the listening side and the CA (the coordinator's base/pki and ports/listener). tonic's own TLS is not used
//! because it cannot reload a certificate.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
pub use isyone_types::identity::{CertificateInfo, Identity, NoIdentity, OperatorRole};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        client::{
            Resumption, WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::CryptoProvider,
    },
};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::ids::HostName;

/// The DNS name in every coordinator certificate, whatever its addresses; clients verify this one.
pub const COORDINATOR_NAME: &str = "coordinator.isyone.internal";

/// Suffix of a host's name in the DNS name of its certificate. The bare host name could be that of another machine at
/// the site, which the host must not be able to impersonate.
pub const HOST_DOMAIN: &str = "host.isyone.internal";

/// The DNS name in a host's certificate: `h1.host.isyone.internal`.
pub fn host_server_name(host: &HostName) -> String {
    format!("{host}.{HOST_DOMAIN}")
}

/// Header of every answer to operators: SHA-256 of the CAs to trust, hex, separated by commas; the first signs.
pub const TRUST_HEADER: &str = "isyone-trust";

/// How long to wait for a TCP connection and for a TLS handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest message either side accepts, bytes. Larger plans travel in parts.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// What can go wrong with a certificate, a key or the preparation of a handshake.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// PEM or DER that cannot be read.
    #[error("{what} cannot be read: {why}")]
    Unreadable {
        /// Which input, for people: `certificate`, `private key` …
        what: &'static str,
        /// The parser's error.
        why: String,
    },
    /// rustls refuses the configuration.
    #[error("TLS set-up failed")]
    Rustls(#[from] rustls::Error),
    /// A certificate without an isyone identity.
    #[error(transparent)]
    NoIdentity(#[from] NoIdentity),
    /// An endpoint that is not `host:port`.
    #[error("`{0}` is not host:port")]
    BadEndpoint(String),
}

/// The crypto provider that all programs use.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Certificates in a PEM text, in order.
pub fn certificates(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::Unreadable {
            what,
            why: e.to_string(),
        })?;
    if list.is_empty() {
        Err(TlsError::Unreadable {
            what,
            why: "no certificate in it".into(),
        })
    } else {
        Ok(list)
    }
}

/// The private key in a PEM text.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| TlsError::Unreadable {
        what: "private key",
        why: e.to_string(),
    })
}

/// SHA-256 of a certificate, hex: what a join token pins.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex::encode(Sha256::digest(certificate.as_ref()))
}

/// SHA-256 of each certificate in a PEM text, hex.
pub fn fingerprints(what: &'static str, pem: &str) -> Result<Vec<String>, TlsError> {
    Ok(certificates(what, pem)?.iter().map(fingerprint).collect())
}

/// Whether the first certificate of a PEM text says that it is of the CA with this fingerprint, which is in `ca_pem`. To
/// decide on a renewal, not on trust: nothing is verified. Yes where it cannot be told.
pub fn is_of(certificate_pem: &str, ca_pem: &str, ca_fingerprint: &str) -> bool {
    use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};
    let key_id = |der: &CertificateDer<'_>, authority: bool| {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        parsed
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) if authority => {
                    id.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                ParsedExtension::SubjectKeyIdentifier(id) if !authority => Some(id.0.to_vec()),
                _ => None,
            })
    };
    let (Ok(chain), Ok(all)) = (
        certificates("certificate", certificate_pem),
        certificates("CA", ca_pem),
    ) else {
        return true;
    };
    let Some(ca) = all.iter().find(|ca| fingerprint(ca) == ca_fingerprint) else {
        return true;
    };
    match (key_id(&chain[0], true), key_id(ca, false)) {
        (Some(of), Some(is)) => of == is,
        _ => true,
    }
}

/// Reads a certificate issued by isyone.
pub fn certificate_info(certificate: &CertificateDer<'_>) -> Result<CertificateInfo, TlsError> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let unreadable = |why: String| TlsError::Unreadable {
        what: "certificate",
        why,
    };
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|e| unreadable(e.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|e| unreadable(e.to_string()))?
        .ok_or(NoIdentity)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(NoIdentity.into());
    };
    Ok(CertificateInfo {
        identity: uri.parse()?,
        serial: parsed.tbs_certificate.raw_serial().to_vec(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        serves: parsed
            .extended_key_usage()
            .map_err(|e| unreadable(e.to_string()))?
            .is_some_and(|usage| usage.value.server_auth),
        sha256: Sha256::digest(certificate.as_ref()).into(),
    })
}

fn unsigned(error: rcgen::Error) -> TlsError {
    TlsError::Unreadable {
        what: "certificate request",
        why: error.to_string(),
    }
}

/// A fresh P-256 key and a certificate request (CSR) for it, both PEM. The signer decides on name and rights.
pub fn new_key_and_csr(common_name: &str) -> Result<(String, String), TlsError> {
    let key = rcgen::KeyPair::generate().map_err(unsigned)?;
    Ok((key.serialize_pem(), request_for(&key, common_name)?))
}

/// A certificate request (CSR) for an existing key, PEM.
pub fn csr_for(key_pem: &str, common_name: &str) -> Result<String, TlsError> {
    request_for(
        &rcgen::KeyPair::from_pem(key_pem).map_err(unsigned)?,
        common_name,
    )
}

fn request_for(key: &rcgen::KeyPair, common_name: &str) -> Result<String, TlsError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, common_name);
    params
        .serialize_request(key)
        .and_then(|csr| csr.pem())
        .map_err(unsigned)
}

/// Client configuration that trusts `ca_pem` and presents the given certificate and key.
pub fn client_config(
    ca_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates("CA", ca_pem)? {
        roots.add(ca)?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            certificates("certificate", certificate_pem)?,
            private_key(key_pem)?,
        )?;
    Ok(finished(config))
}

/// Client configuration for the first contact: trusts only a chain that ends in the CA with this fingerprint. The
/// server sends its CA along.
pub fn pinned_config(ca_pin: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa {
            pin: ca_pin.to_owned(),
        }))
        .with_no_client_auth();
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the server's check of our certificate, so revocation would have no effect.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Finds the pinned CA among the presented certificates, then verifies as usual with it as the only root.
#[derive(Debug)]
struct PinnedCa {
    pin: String,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let ca = intermediates
            .iter()
            .find(|c| fingerprint(c) == self.pin)
            .ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| unknown())?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A channel to the coordinator at `host:port`. It connects at the first call, reconnects by itself, and uses the
/// current `config` for each connection.
pub fn channel(endpoint: &str, config: Arc<ArcSwap<ClientConfig>>) -> Result<Channel, TlsError> {
    channel_to(endpoint, COORDINATOR_NAME, config, |as_it_is| as_it_is)
}

/// What a receiver of bulk data takes in before it must have passed it on, bytes: at 10 ms between two sites 64 KiB
/// would be 6 MB/s. Of one stream, and of the sixteen that a connection has at most: one that nobody reads must not hold
/// up the others.
const BULK_WINDOWS: (u32, u32) = (1 << 20, 16 << 20);

/// A channel to another host's agent, likewise: only a certificate of that host is accepted.
pub fn peer_channel(
    address: SocketAddr,
    host: &HostName,
    config: Arc<ArcSwap<ClientConfig>>,
) -> Result<Channel, TlsError> {
    let name = host_server_name(host);
    channel_to(&address.to_string(), &name, config, bulk)
}

/// A channel to another host's agent over a connection that is there, likewise. When that ends, so does the channel:
/// which way leads to the host is for its user to choose.
pub async fn peer_over<S>(
    connection: S,
    host: &HostName,
    config: Arc<ClientConfig>,
) -> std::io::Result<Channel>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let server = host_server_name(host);
    let (endpoint, name) = prepared(&server, &server).map_err(std::io::Error::other)?;
    let greet = TlsConnector::from(config).connect(name, connection);
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, greet)
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to TLS"))??;
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
        std::future::ready(
            stream
                .map(hyper_util::rt::TokioIo::new)
                .map_err(std::io::Error::from),
        )
    });
    let channel = bulk(endpoint).connect_with_connector(connector).await;
    channel.map_err(std::io::Error::other)
}

/// What an agent calls HTTP/2 in its handshake with the coordinator when the connection is for bulk data, which needs other
/// windows than thousands of sessions. A coordinator that does not know it chooses the other name, and all works, slower.
pub const BULK_PROTOCOL: &[u8] = b"isyone-bulk";

/// A channel to the coordinator for bulk data, on a connection of its own: it must not hold up the session's.
pub fn bulk_channel(
    endpoint: &str,
    config: Arc<ArcSwap<ClientConfig>>,
) -> Result<Channel, TlsError> {
    let named = Some(BULK_PROTOCOL);
    channel_named(endpoint, COORDINATOR_NAME, config, bulk, named)
}

fn bulk(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(BULK_WINDOWS.0)
        .initial_connection_window_size(BULK_WINDOWS.1)
}

fn channel_to(
    endpoint: &str,
    server: &str,
    config: Arc<ArcSwap<ClientConfig>>,
    set_up: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, TlsError> {
    channel_named(endpoint, server, config, set_up, None)
}

/// Likewise, with a name for the protocol that is offered first.
fn channel_named(
    endpoint: &str,
    server: &str,
    config: Arc<ArcSwap<ClientConfig>>,
    set_up: impl FnOnce(Endpoint) -> Endpoint,
    named: Option<&'static [u8]>,
) -> Result<Channel, TlsError> {
    let address: Arc<str> = endpoint.into();
    let (endpoint, name) = prepared(endpoint, server)?;
    let connector = tower::service_fn(move |_: Uri| {
        let (address, name, mut config) = (address.clone(), name.clone(), config.load_full());
        if let Some(protocol) = named {
            let offered = &mut Arc::make_mut(&mut config).alpn_protocols;
            offered.insert(0, protocol.to_vec());
        }
        async move {
            let connect = async {
                let tcp = TcpStream::connect(&*address).await?;
                tcp.set_nodelay(true)?;
                TlsConnector::from(config).connect(name, tcp).await
            };
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
                .await
                .map_err(|_| {
                    std::io::Error::new(
                        std::io::ErrorKind::TimedOut,
                        format!("no answer from {address}"),
                    )
                })??;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    Ok(set_up(endpoint).connect_with_connector_lazy(connector))
}

/// How connections to a server behave, and the name that its certificate must have.
fn prepared(endpoint: &str, server: &str) -> Result<(Endpoint, ServerName<'static>), TlsError> {
    let bad = || TlsError::BadEndpoint(endpoint.to_owned());
    let name = ServerName::try_from(server.to_owned()).map_err(|_| bad())?;
    let origin = format!("https://{server}").parse::<Uri>();
    // `http://` because we do TLS ourselves; with `https://` tonic would insist on its own.
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|_| bad())?
        .origin(origin.map_err(|_| bad())?)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    Ok((endpoint, name))
}

/// The whole chain of causes, outermost first. With TLS 1.3 the reason for a refused certificate is deep in it.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_back_and_foreign_ones_are_refused() {
        for identity in [
            Identity::Agent("h1".parse().unwrap()),
            Identity::Operator("ana".parse().unwrap(), OperatorRole::Admin),
            Identity::Operator("prometheus".parse().unwrap(), OperatorRole::Monitor),
            Identity::Coordinator,
        ] {
            assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        }
        for uri in [
            "spiffe://other/agent/h1",
            "spiffe://isyone/agent/",
            "spiffe://isyone/agent/h1/x",
            "spiffe://isyone/operator/ana/root",
            "",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri}");
        }
    }
}

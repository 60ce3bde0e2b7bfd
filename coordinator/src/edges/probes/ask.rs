//! Probes one tenant through one edge as a visitor's browser would: TCP, TLS under the tenant's name, one GET; then
//! reads the head of the answer. Bounded in time and size.
//!
//! It connects to the edge's address, not where DNS leads, to tell a tenant's failure from its edge's. `isyctl tenant
//! verify` checks whether the name leads there. Not here: what an answer means (isyone_fleet::probes).

use std::{
    borrow::Cow,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use isyone_fleet::probes::judge::{Failure, Probe};
use isyone_proto::{plan::UnixMs, tls};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            Resumption, WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::CryptoProvider,
    },
};

/// Odoo's own health page: it creates no session and does not count as a visitor's request.
const PATH: &str = "/web/health";
/// Most bytes to read of an answer's head. The body is not read.
const MAX_HEAD: usize = 16 * 1024;
/// Only an edge that is not there takes longer to connect.
const MAX_CONNECT: Duration = Duration::from_secs(5);
/// How long we let the edge close first.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// Why probes over TLS are impossible.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The file of further CAs is unreadable.
    #[error("{path} (probes.ca_file) cannot be read")]
    CaFile { path: PathBuf, source: io::Error },
    /// The file's content, or the machine's CAs, cannot be used.
    #[error("certificates cannot be checked: {0}")]
    Trust(String),
}

/// Makes probes; knows what to trust and how long to wait.
#[derive(Debug, Clone)]
pub struct Asker {
    tls: Option<Tls>,
    timeout: Duration,
}

#[derive(Debug, Clone)]
struct Tls {
    config: Arc<ClientConfig>,
    /// `None`: accept any certificate.
    trust: Option<Arc<WebPkiServerVerifier>>,
}

impl Asker {
    /// Probes over plain HTTP.
    pub fn plain(timeout: Duration) -> Self {
        Self { tls: None, timeout }
    }

    /// Probes over HTTPS. With `verify`, checks certificates against what this machine trusts and `ca_file`.
    pub fn encrypted(
        timeout: Duration,
        verify: bool,
        ca_file: Option<&Path>,
    ) -> Result<Self, AskError> {
        let trust = if verify { Some(trust(ca_file)?) } else { None };
        Ok(Self {
            tls: Some(Tls {
                config: client()?,
                trust,
            }),
            timeout,
        })
    }

    /// Probes the tenant with this host name. `authority` is its URL's host and port.
    pub async fn ask(
        &self,
        edge: SocketAddr,
        hostname: &str,
        authority: &str,
        at: UnixMs,
    ) -> Probe {
        let (begin, mut seen) = (Instant::now(), Seen::default());
        let exchange = timeout(
            self.timeout,
            self.exchange(edge, hostname, authority, at, &mut seen),
        )
        .await;
        let failure = match exchange {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) if seen.connected => Some(Failure::NoAnswer("time is up".into())),
            Err(_) => Some(Failure::NotConnected("time is up".into())),
        };
        // Visitors do not wait for the close, so it does not count.
        let duration = seen.answered.unwrap_or_else(|| begin.elapsed());
        Probe {
            at,
            edge,
            duration_ms: u32::try_from(duration.as_millis()).unwrap_or(u32::MAX),
            status: seen.status,
            certificate_until_s: seen.certificate_until_s,
            failure,
        }
    }

    async fn exchange(
        &self,
        edge: SocketAddr,
        hostname: &str,
        authority: &str,
        at: UnixMs,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let begin = Instant::now();
        let connecting = timeout(MAX_CONNECT.min(self.timeout), TcpStream::connect(edge));
        let tcp = connecting
            .await
            .map_err(|_| Failure::NotConnected("time is up".into()))?
            .map_err(|e| Failure::NotConnected(io_word(&e)))?;
        let Some(tls) = &self.tls else {
            seen.connected = true;
            return get(tcp, authority, begin, seen).await;
        };
        let name = ServerName::try_from(hostname.to_owned())
            .map_err(|_| Failure::Certificate("the host name can have none".into()))?;
        let stream = TlsConnector::from(tls.config.clone())
            .connect(name.clone(), tcp)
            .await
            .map_err(|e| Failure::NotConnected(format!("TLS: {}", tls::error_chain(&e)).into()))?;
        seen.connected = true;
        let shown = certificates(&stream);
        seen.certificate_until_s = shown.iter().filter_map(ends).min();
        if let Some(trust) = &tls.trust {
            check(trust, shown, &name, at)?;
        }
        get(stream, authority, begin, seen).await
    }
}

/// What a probe has seen so far, for when it times out.
#[derive(Debug, Default)]
struct Seen {
    connected: bool,
    answered: Option<Duration>,
    status: Option<u16>,
    certificate_until_s: Option<i64>,
}

async fn get<S>(stream: S, authority: &str, begin: Instant, seen: &mut Seen) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let no_answer = |e: hyper::Error| Failure::NoAnswer(tls::error_chain(&e).into());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(no_answer)?;
    let request = Request::get(PATH)
        .header(header::HOST, authority)
        .header(
            header::USER_AGENT,
            concat!("isy-coordinator/", env!("CARGO_PKG_VERSION")),
        )
        // The side that closes first keeps the port for a minute: thousands a second must not be ours.
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Failure::NoAnswer(e.to_string().into()))?;
    let mut connection = std::pin::pin!(connection);
    let (response, open) = {
        let mut response = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            response = &mut response => (response, true),
            // The connection ended at once: the answer, or the error, is there already.
            _ = &mut connection => (response.await, false),
        }
    };
    let response = response.map_err(no_answer)?;
    seen.answered = Some(begin.elapsed());
    let status = response.status();
    seen.status = Some(status.as_u16());
    drop((response, sender));
    if open {
        let _ = timeout(CLOSE_PATIENCE, connection).await;
    }
    if status.is_success() {
        Ok(())
    } else {
        Err(Failure::Status(status.as_u16()))
    }
}

fn io_word(error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::HostUnreachable => "no route to the host".into(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
        io::ErrorKind::TimedOut => "time is up".into(),
        _ => error.to_string().into(),
    }
}

fn certificates<S>(stream: &TlsStream<S>) -> &[CertificateDer<'static>] {
    stream.get_ref().1.peer_certificates().unwrap_or_default()
}

fn ends(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// Checks a certificate as a browser does. Runs after the handshake, so that we learn the expiry of a bad one, too.
fn check(
    trust: &WebPkiServerVerifier,
    shown: &[CertificateDer<'static>],
    name: &ServerName<'_>,
    at: UnixMs,
) -> Result<(), Failure> {
    let Some((own, others)) = shown.split_first() else {
        return Err(Failure::Certificate("none was shown".into()));
    };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(at).unwrap_or(0)));
    match trust.verify_server_cert(own, others, name, &[], now) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(why)) => {
            Err(Failure::Certificate(why.to_string().into()))
        }
        Err(other) => Err(Failure::Certificate(other.to_string().into())),
    }
}

fn trust(ca_file: Option<&Path>) -> Result<Arc<WebPkiServerVerifier>, AskError> {
    let mut roots = RootCertStore::empty();
    // Ignore unreadable roots: they vouch for nobody.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let pem = std::fs::read_to_string(path).map_err(|source| AskError::CaFile {
            path: path.to_owned(),
            source,
        })?;
        let more = tls::certificates("probes.ca_file", &pem)
            .map_err(|e| AskError::Trust(tls::error_chain(&e)))?;
        roots.add_parsable_certificates(more);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .build()
        .map_err(|e| AskError::Trust(e.to_string()))
}

fn client() -> Result<Arc<ClientConfig>, AskError> {
    let mut provider = (*tls::provider()).clone();
    // We ask for nothing secret: use the cheapest key exchange that every edge has.
    provider.kx_groups = vec![
        rustls::crypto::aws_lc_rs::kx_group::X25519,
        rustls::crypto::aws_lc_rs::kx_group::SECP256R1,
    ];
    // Prefer the cheapest suite, which Traefik would choose anyway; other suites follow for an edge that lacks it.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| AskError::Trust(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LookedAtLater(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would show an old certificate, and 100,000 names would be a lot to remember.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Accepts any certificate, because [`check`] examines it after the handshake. Still verifies here that the peer holds
/// the certificate's key.
#[derive(Debug)]
struct LookedAtLater(Arc<CryptoProvider>);

impl ServerCertVerifier for LookedAtLater {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! HTTPS to the CA: hyper over tokio-rustls, one connection per request, bounded in time and size like everything here.
//! The library's own client would bring a second set of connectors and roots.
//!
//! Not here: the protocol spoken over it (order).

use std::{cell::Cell, future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use isyone_proto::tls;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

/// One request and its answer. CAs answer within seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer; a chain of four certificates is a tenth of it.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{path} (tls.acme.ca_file) cannot be read: {source}")]
    CaFile {
        path: String,
        source: std::io::Error,
    },
    #[error("tls.acme.ca_file: {0}")]
    Ca(#[from] tls::TlsError),
    #[error(
        "this machine has no trusted certificate authorities (Debian: apt-get install ca-certificates)"
    )]
    NoRoots,
}

tokio::task_local! {
    /// The last `Retry-After` that a CA sent to this task, verbatim. The library does not pass it on with errors.
    pub(crate) static RETRY_AFTER: Cell<Option<u64>>;
}

/// The ACME library's HTTP client, with the CAs that it trusts.
#[derive(Clone)]
pub(crate) struct Https {
    connector: TlsConnector,
}

impl Https {
    /// Trusts the CA in `ca_file`, or what the machine trusts.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        match ca_file {
            Some(path) => {
                let pem = std::fs::read_to_string(path).map_err(|source| ClientError::CaFile {
                    path: path.display().to_string(),
                    source,
                })?;
                for certificate in tls::certificates("CA", &pem)? {
                    roots.add(certificate).map_err(tls::TlsError::Rustls)?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(ClientError::NoRoots);
        }
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(tls::TlsError::Rustls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }
}

type Answer = Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>>;

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let connector = self.connector.clone();
        Box::pin(async move {
            let host = request
                .uri()
                .authority()
                .map(ToString::to_string)
                .unwrap_or_default();
            let answer = match tokio::time::timeout(REQUEST_TIMEOUT, exchange(connector, request))
                .await
            {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()).into()),
            };
            let response = answer.map_err(|e| Error::Other(format!("{host}: {e}").into()))?;
            note_retry_after(&response);
            Ok(BytesResponse::from(response))
        })
    }
}

/// Reads seconds only: the date form counts as no header, and our own back-off applies.
fn note_retry_after(response: &Response<Full<Bytes>>) {
    if response.status().is_success() {
        return;
    }
    let seconds = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|v| v.to_str().ok()?.trim().parse().ok());
    // Outside of an order nobody reads it.
    let _ = RETRY_AFTER.try_with(|cell| cell.set(seconds));
}

async fn exchange(connector: TlsConnector, request: Request<BodyWrapper<Bytes>>) -> Answer {
    let (mut parts, body) = request.into_parts();
    let host = parts
        .uri
        .host()
        .ok_or("no host in the URL")?
        .trim_matches(['[', ']'])
        .to_owned();
    if parts.uri.scheme_str() != Some("https") {
        return Err("the URL is not https".into());
    }
    let port = parts.uri.port_u16().unwrap_or(443);
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    let _ = tcp.set_nodelay(true);
    let io = connector.connect(ServerName::try_from(host)?, tcp).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    if let Some(authority) = parts.uri.authority() {
        parts
            .headers
            .insert(header::HOST, authority.as_str().parse()?);
    }
    parts.uri = parts
        .uri
        .path_and_query()
        .map_or(Uri::from_static("/"), |path| path.clone().into());
    let answer = async {
        let (head, body) = sender
            .send_request(Request::from_parts(parts, body))
            .await?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await?
            .to_bytes();
        Ok(Response::from_parts(head, Full::new(body)))
    };
    // Drive the connection only for as long as the answer takes.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

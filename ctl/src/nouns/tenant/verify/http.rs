//! One HTTP/1.1 request on one connection, sent to a chosen address under a chosen name as a browser would send it.
//! Redirects are reported, not followed; answers are read up to a limit.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use isyone_proto::tls;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore},
};

/// Odoo's login page has a few tens of kilobytes; anything larger is not the login page.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Scheme, host and port of a URL; we choose the path ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Whether the scheme is `https`.
    pub tls: bool,
    /// A name or an address.
    pub host: String,
    /// The scheme's default when the URL has none.
    pub port: u16,
}

impl FromStr for Base {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let bad = "is not a URL such as http://127.0.0.1:80";
        let uri: Uri = text.parse().map_err(|_| bad)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(bad)?;
        // Only a port may follow the host, and no user name may precede it.
        let rest = uri
            .authority()
            .and_then(|authority| authority.as_str().strip_prefix(host))
            .ok_or(bad)?;
        let port = match (rest, tls) {
            ("", true) => 443,
            ("", false) => 80,
            _ => uri.port_u16().ok_or(bad)?,
        };
        Ok(Self {
            tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }
}

impl Base {
    /// `host` or `host:port`, as a browser sends it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let own = if self.tls { 443 } else { 80 };
        if self.port == own {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// `https://host`, as a browser sends it.
    pub fn origin(&self) -> String {
        format!(
            "{}://{}",
            if self.tls { "https" } else { "http" },
            self.authority()
        )
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// Redirect target.
    pub location: Option<String>,
    /// The body as text, up to the limit.
    pub body: String,
}

impl Reply {
    /// Status code and redirect target in words.
    pub fn words(&self) -> String {
        match &self.location {
            Some(location) => format!("{} to {location}", self.status.as_u16()),
            None => self.status.to_string(),
        }
    }
}

/// A stream that may be encrypted.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl fmt::Debug for dyn Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Io")
    }
}

/// Connects to `base`; with TLS under the name `name`, using this machine's trust store.
pub async fn connect(base: &Base, name: &str, timeout: Duration) -> Result<Box<dyn Io>, String> {
    let connecting = async {
        let tcp = TcpStream::connect((base.host.as_str(), base.port))
            .await
            .map_err(|e| format!("no connection to {}: {e}", base.authority()))?;
        if !base.tls {
            return Ok(Box::new(tcp) as Box<dyn Io>);
        }
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("`{name}` is no server name"))?;
        let config =
            trusting_this_machine().map_err(|e| format!("TLS: {}", tls::error_chain(&e)))?;
        let stream = TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|e| format!("TLS: {}", tls::error_chain(&e)))?;
        Ok(Box::new(stream) as Box<dyn Io>)
    };
    tokio::time::timeout(timeout, connecting)
        .await
        .unwrap_or_else(|_| Err(format!("no answer from {}", base.authority())))
}

fn trusting_this_machine() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    // Unreadable certificates are skipped; the handshake then fails and says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Sends `GET path` to `base` under the name `name`, with the header `Host: host`.
pub async fn get(
    base: &Base,
    name: &str,
    host: &str,
    path: &str,
    timeout: Duration,
) -> Result<Reply, String> {
    let request = request(host, path)?;
    send(base, name, request, timeout).await
}

/// Requests a websocket upgrade at Odoo's path, and reads the head of the answer.
pub async fn upgrade(
    base: &Base,
    name: &str,
    host: &str,
    origin: &str,
    timeout: Duration,
) -> Result<Reply, String> {
    let mut request = request(host, "/websocket")?;
    let value = |text: &str| header::HeaderValue::from_str(text).map_err(|e| e.to_string());
    let headers = request.headers_mut();
    headers.insert(
        header::CONNECTION,
        header::HeaderValue::from_static("Upgrade"),
    );
    headers.insert(
        header::UPGRADE,
        header::HeaderValue::from_static("websocket"),
    );
    headers.insert(
        header::SEC_WEBSOCKET_VERSION,
        header::HeaderValue::from_static("13"),
    );
    // The sample nonce of RFC 6455: the connection is closed at once, so it protects nothing.
    headers.insert(
        header::SEC_WEBSOCKET_KEY,
        header::HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
    );
    headers.insert(header::ORIGIN, value(origin)?);
    send(base, name, request, timeout).await
}

fn request(host: &str, path: &str) -> Result<Request<Empty<Bytes>>, String> {
    Request::get(path)
        .header(header::HOST, host)
        .header(
            header::USER_AGENT,
            concat!("isyctl/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "*/*")
        .body(Empty::new())
        .map_err(|e| e.to_string())
}

async fn send(
    base: &Base,
    name: &str,
    request: Request<Empty<Bytes>>,
    timeout: Duration,
) -> Result<Reply, String> {
    let exchange = async {
        let stream = connect(base, name, timeout).await?;
        let failed = |e: hyper::Error| {
            format!(
                "no HTTP answer from {}: {}",
                base.authority(),
                tls::error_chain(&e)
            )
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        // The connection ends with its last request, which reports the same error.
        let driver = tokio::spawn(connection.with_upgrades());
        let reply = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            let status = response.status();
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned);
            let body = if status == StatusCode::SWITCHING_PROTOCOLS {
                Bytes::new()
            } else {
                read(response).await?
            };
            Ok(Reply {
                status,
                location,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        }
        .await;
        driver.abort();
        reply
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer from {} in time", base.authority())))
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
        .collect()
        .await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|e| format!("the answer cannot be read: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_browsers_read_them() {
        let base = |text: &str| text.parse::<Base>();
        assert_eq!(
            base("http://alfa.isy.one").unwrap(),
            Base {
                tls: false,
                host: "alfa.isy.one".into(),
                port: 80
            }
        );
        assert_eq!(
            base("https://alfa.isy.one:8443/x").unwrap().authority(),
            "alfa.isy.one:8443"
        );
        assert_eq!(
            base("https://alfa.isy.one:443").unwrap().origin(),
            "https://alfa.isy.one"
        );
        assert_eq!(base("http://[::1]:8080").unwrap().authority(), "[::1]:8080");
        for bad in [
            "",
            "alfa",
            "ftp://a",
            "http://",
            "//a",
            "http://a:99999",
            "http://b@a",
        ] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }
}

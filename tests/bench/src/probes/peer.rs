//! The server that answers the measured probes: always 200, with and without TLS, on its own thread. Not here: an edge.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use isyone_proto::tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

pub(super) const NAME: &str = "alfa.isy.one";
/// As large as Odoo's own answer.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{\"status\": \"pass\"}";

pub(super) struct Peer {
    pub(super) plain: SocketAddr,
    pub(super) encrypted: SocketAddr,
}

/// Starts the server for the life of the process; its root certificate is in a file.
pub(super) fn start(dir: &Path) -> Result<(Peer, PathBuf)> {
    let (config, root) = certificates()?;
    let ca = dir.join("root.pem");
    std::fs::write(&ca, root)?;
    let bind = || -> Result<std::net::TcpListener> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let (plain, encrypted) = (bind()?, bind()?);
    let peer = Peer {
        plain: plain.local_addr()?,
        encrypted: encrypted.local_addr()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (plain, encrypted) = (
                TcpListener::from_std(plain),
                TcpListener::from_std(encrypted),
            );
            if let (Ok(plain), Ok(encrypted)) = (plain, encrypted) {
                let acceptor = TlsAcceptor::from(config);
                tokio::join!(serve(plain, None), serve(encrypted, Some(acceptor)));
            }
        });
    });
    Ok((peer, ca))
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let tls = tls.clone();
        tokio::spawn(async move {
            match tls {
                None => answer(tcp).await,
                Some(tls) => match tls.accept(tcp).await {
                    Ok(stream) => answer(stream).await,
                    Err(_) => None,
                },
            }
        });
    }
}

/// `None` if the client is gone: the bench notices that on its own side.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
    let mut head = [0; 4096];
    // A probe's request arrives in one piece. A connection closed without one gets no answer.
    (stream.read(&mut head).await.ok()? > 0).then_some(())?;
    stream.write_all(ANSWER).await.ok()?;
    stream.shutdown().await.ok()
}

/// A chain of root, intermediate and leaf, as public CAs have it; also the root as PEM.
fn certificates() -> Result<(Arc<ServerConfig>, String)> {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        anyhow::Ok(params)
    };
    let root = CertifiedIssuer::self_signed(authority("root")?, KeyPair::generate()?)?;
    let middle = CertifiedIssuer::signed_by(authority("middle")?, KeyPair::generate()?, &root)?;
    let key = KeyPair::generate()?;
    let own = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &middle)?;
    let chain = vec![
        own.der().clone(),
        CertificateDer::from(middle.der().to_vec()),
    ];
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .context("the bench's own certificate")?;
    Ok((Arc::new(config), root.pem()))
}

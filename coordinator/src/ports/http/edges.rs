//! The port for edges and Prometheus on other machines (`listen.edges`): TLS with the coordinator's own certificate.
//! One token protects Traefik's configuration, which may hold private keys; another protects what Prometheus reads,
//! which names all tenants. Pages and challenges are public here, too, because edges forward visitors to them.
//!
//! Each token is in a file in the data directory (mode 0600), created if missing. To get a new one, remove the file and
//! restart.
//! Not here: the paths behind the tokens (mod.rs).

use std::{io, path::Path, sync::Arc};

use axum::{
    Router,
    extract::{Request, State as Shared},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    Web, blackbox_page, challenge, hostnames, own_metrics, pages, serve::Caller, shard_traefik,
    targets, whole_traefik,
};
use crate::base::{files, secrets};

/// File of the edges' token in the data directory.
const EDGE_FILE: &str = "edge.token";
/// File of Prometheus' own token: Prometheus must not get keys.
const PROMETHEUS_FILE: &str = "prometheus.token";
/// 256 bits.
const TOKEN_BYTES: usize = 32;

/// Tokens are compared by digest, so the comparison's timing reveals nothing.
type Digest = [u8; 32];

/// A token's digest and the name of its file.
#[derive(Debug, Clone, Copy)]
struct Token {
    file: &'static str,
    digest: Digest,
}

impl Token {
    /// Reads the token; creates it if missing.
    fn open(data_dir: &Path, file: &'static str) -> io::Result<Self> {
        let path = data_dir.join(file);
        if !path.exists() {
            let fresh = Zeroizing::new(secrets::random_hex(TOKEN_BYTES) + "\n");
            files::replace(&path, fresh.as_bytes(), 0o600)?;
        }
        let text = Zeroizing::new(std::fs::read_to_string(&path)?);
        if !files::is_private(&path) || text.trim().is_empty() {
            return Err(io::Error::other(format!(
                "{} is empty or readable by others",
                path.display()
            )));
        }
        Ok(Self {
            file,
            digest: Sha256::digest(text.trim()).into(),
        })
    }
}

/// The digests of both tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    edges: Token,
    prometheus: Token,
}

impl Tokens {
    /// Reads both tokens; creates missing ones.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let open = |file| Token::open(data_dir, file);
        Ok(Self {
            edges: open(EDGE_FILE)?,
            prometheus: open(PROMETHEUS_FILE)?,
        })
    }
}

/// The routes of this port, behind their tokens.
pub(crate) fn router(web: Web, tokens: &Tokens) -> Router {
    let edges = Router::new()
        .route("/traefik/config", get(whole_traefik))
        .route("/traefik/config/{shard}", get(shard_traefik))
        .route("/edges/map", get(hostnames))
        .layer(middleware::from_fn_with_state(tokens.edges, admit));
    let prometheus = Router::new()
        .route("/sd/{job}", get(targets))
        .route("/probes", get(blackbox_page))
        .route("/metrics", get(own_metrics))
        .layer(middleware::from_fn_with_state(tokens.prometheus, admit));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(isyone_traefik::PAGE_PATH, any(pages::tenant))
        .route(isyone_traefik::UNKNOWN_PATH, any(pages::unknown))
        .route(isyone_traefik::FULL_PATH, any(pages::full))
        .route("/.well-known/acme-challenge/{token}", get(challenge))
        .merge(edges)
        .merge(prometheus)
        .with_state(web)
}

async fn admit(Shared(token): Shared<Token>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim);
    if given.is_some_and(|given| Digest::from(Sha256::digest(given)) == token.digest) {
        if let Some(caller) = request.extensions().get::<Arc<Caller>>() {
            caller.mark_known();
        }
        return next.run(request).await;
    }
    let wanted = [(header::WWW_AUTHENTICATE, "Bearer")];
    let file = token.file;
    let why =
        format!("Authorization: Bearer <content of {file} in the coordinator's data directory>\n");
    (StatusCode::UNAUTHORIZED, wanted, why).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn only_the_token_opens() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let again = Tokens::open(dir.path()).unwrap();
        assert_eq!(again.edges.digest, tokens.edges.digest, "it is made once");
        assert_ne!(
            tokens.prometheus.digest, tokens.edges.digest,
            "each opens its own door"
        );
        let secret = std::fs::read_to_string(dir.path().join(EDGE_FILE)).unwrap();
        let inside = Router::new().route("/", get(|| async { "keys" }));
        let router = inside.layer(middleware::from_fn_with_state(tokens.edges, admit));
        for (header, expected) in [
            (Some(format!("Bearer {}", secret.trim())), 200),
            (Some(format!("Bearer {}x", secret.trim())), 401),
            (Some(format!("Basic {}", secret.trim())), 401),
            (Some("Bearer ".to_owned()), 401),
            (None, 401),
        ] {
            let mut request = Request::builder().uri("/");
            if let Some(header) = &header {
                request = request.header(header::AUTHORIZATION, header);
            }
            let answer = router
                .clone()
                .oneshot(request.body(Body::empty()).unwrap())
                .await
                .unwrap();
            assert_eq!(answer.status(), expected, "{header:?}");
        }
        files::replace(&dir.path().join(EDGE_FILE), b"", 0o600).unwrap();
        assert!(Tokens::open(dir.path()).is_err());
        files::replace(&dir.path().join(EDGE_FILE), secret.as_bytes(), 0o644).unwrap();
        assert!(Tokens::open(dir.path()).is_err());
    }
}

//! The port for edges on other machines (`listen.edges`): TLS with the coordinator's own certificate, and a token before Traefik's
//! configuration, which may hold private keys. Pages and challenges are public there, too: edges pass visitors on to them.
//!
//! The token is a file of the data directory (mode 0600), made when missing. Another one comes by removing the file and a restart.

use std::{io, path::Path};

use axum::{
    Router,
    extract::{Request, State as Shared},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Web, challenge, shard_traefik, suspended, whole_traefik};
use crate::{files, secrets};

/// The token's file in the data directory.
pub(crate) const TOKEN_FILE: &str = "edge.token";
/// 256 bits.
const TOKEN_BYTES: usize = 32;

/// What is compared: its time says nothing about the token.
type Digest = [u8; 32];

/// Reads the token, making it when there is none.
pub(crate) fn token(data_dir: &Path) -> io::Result<Digest> {
    let path = data_dir.join(TOKEN_FILE);
    if !path.exists() {
        let fresh = Zeroizing::new(secrets::random_hex(TOKEN_BYTES) + "\n");
        files::replace(&path, fresh.as_bytes(), 0o600)?;
    }
    let text = Zeroizing::new(std::fs::read_to_string(&path)?);
    if !files::is_private(&path) || text.trim().is_empty() {
        return Err(io::Error::other(format!("{} is empty or readable by others", path.display())));
    }
    Ok(Sha256::digest(text.trim()).into())
}

/// All paths.
pub(crate) fn router(web: Web, token: Digest) -> Router {
    let private = Router::new()
        .route("/traefik/config", get(whole_traefik))
        .route("/traefik/config/{shard}", get(shard_traefik))
        .layer(middleware::from_fn_with_state(token, admit));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/pages/suspended", get(suspended))
        .route("/.well-known/acme-challenge/{token}", get(challenge))
        .merge(private)
        .with_state(web)
}

async fn admit(Shared(token): Shared<Digest>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    if given.is_some_and(|given| Digest::from(Sha256::digest(given)) == token) {
        return next.run(request).await;
    }
    let wanted = [(header::WWW_AUTHENTICATE, "Bearer")];
    let why =
        format!("Authorization: Bearer <content of {TOKEN_FILE} in the coordinator's data directory>\n");
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
        let digest = token(dir.path()).unwrap();
        assert_eq!(token(dir.path()).unwrap(), digest, "it is made once");
        let secret = std::fs::read_to_string(dir.path().join(TOKEN_FILE)).unwrap();
        let inside = Router::new().route("/", get(|| async { "keys" }));
        let router = inside.layer(middleware::from_fn_with_state(digest, admit));
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
            let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), expected, "{header:?}");
        }
        files::replace(&dir.path().join(TOKEN_FILE), b"", 0o600).unwrap();
        assert!(token(dir.path()).is_err());
        files::replace(&dir.path().join(TOKEN_FILE), secret.as_bytes(), 0o644).unwrap();
        assert!(token(dir.path()).is_err());
    }
}

//! The page that stands in for whatever does not answer: edges send visitors here whose host name leads nowhere, whose
//! tenant does not run, or whose Odoo did not answer. [`choose`] picks the page from a snapshot; [`visitor`] reads from
//! the request who asks and how; [`text`] has the words; [`wake`] wakes sleeping tenants.
//!
//! Public: a page reveals only its text, and an unused name gets the same bytes as a deleted one. Visitors' requests
//! come with any method, path (in a header) and body; bodies are not kept.
//! Not here: when an edge asks for a page (isyone-traefik).

mod choose;
mod text;
mod visitor;
mod wake;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State as Shared},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use http_body_util::BodyExt as _;
use ipnet::IpNet;
use tokio::sync::Semaphore;

pub(crate) use self::wake::Alarm;
use self::{
    choose::Page,
    visitor::{Form, Visitor},
};
use super::{Web, serve::Caller};
use crate::base::clock;

/// How much of a request's body we read, so that the edge can reuse the connection. A larger body ends it.
const SWALLOWED_BYTES: usize = 64 * 1024;
/// How long reading it may take: a slow sender must not hold the connection.
const SWALLOWED_WITHIN: Duration = Duration::from_millis(500);
/// How many bodies we read at a time: we wait for a few slow ones, but a crowd of them loses its connections and does
/// not block everyone else.
const SWALLOWING: usize = 256;

/// Answers a visitor whom a tenant's router admitted, provided that an edge says so.
pub(super) async fn tenant(Shared(web): Shared<Web>, request: Request) -> Response {
    let admitted = comes_from_an_edge(&web, &request);
    page(&web, request, admitted, false).await
}

/// Answers a visitor whose upload the edge has refused: see [`isyone_traefik::FULL_PATH`].
pub(super) async fn full(Shared(web): Shared<Web>, request: Request) -> Response {
    let admitted = comes_from_an_edge(&web, &request);
    page(&web, request, admitted, true).await
}

fn comes_from_an_edge(web: &Web, request: &Request) -> bool {
    let edges = &web.handle.settings().edge.addresses;
    let caller = request.extensions().get::<Arc<Caller>>();
    caller.is_some_and(|caller| is_edge(caller.address.ip(), edges))
}

/// Whether the peer is an edge. The port for edges on other machines asks no token for visitors' requests, so anybody
/// who reaches it could claim to be admitted.
fn is_edge(peer: IpAddr, edges: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback() || edges.iter().any(|net| net.contains(&peer))
}

/// Answers a visitor for whom the edge has no router: see [`isyone_traefik::UNKNOWN_PATH`].
pub(super) async fn unknown(Shared(web): Shared<Web>, request: Request) -> Response {
    page(&web, request, false, false).await
}

async fn page(web: &Web, request: Request, admitted: bool, upload: bool) -> Response {
    let settings = web.handle.settings();
    let visitor = Visitor::of(&request);
    let state = web.handle.snapshot();
    let host = visitor.host.as_deref();
    let (page, tenant) = if upload {
        choose::no_uploads(&state, settings, host, admitted)
    } else {
        choose::page(&state, settings, host, admitted, clock::now_ms())
    };
    if page == Page::Asleep
        && visitor.wakes
        && let Some(tenant) = tenant
    {
        web.alarm.ring(&web.handle, &tenant.name);
    }
    web.metrics.page(page.word());
    if !visitor.waits_for_word {
        swallow(&web.swallowing.0, request.into_body()).await;
    }
    answer(page, &visitor, &settings.base_domain)
}

/// Limits how many bodies are being read.
#[derive(Debug, Clone)]
pub(crate) struct Swallowing(Arc<Semaphore>);

impl Default for Swallowing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SWALLOWING)))
    }
}

/// Reads and discards a body, within limits. If too many are being read already, leaves it unread, and the connection
/// ends with the answer.
async fn swallow(places: &Semaphore, mut body: Body) {
    let Ok(_place) = places.try_acquire() else {
        return;
    };
    let all = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, |data| data.len());
            if taken > SWALLOWED_BYTES {
                return;
            }
        }
    };
    // Too late is as good as never.
    let _ = tokio::time::timeout(SWALLOWED_WITHIN, all).await;
}

fn answer(page: Page, visitor: &Visitor, brand: &str) -> Response {
    let (kind, body) = match visitor.form {
        Form::Html => (
            "text/html; charset=utf-8",
            text::html(page, visitor.portuguese, brand),
        ),
        Form::Json => ("application/json", text::json(page, visitor.portuguese)),
        Form::Text => (
            "text/plain; charset=utf-8",
            text::plain(page, visitor.portuguese),
        ),
    };
    let status = match page {
        Page::Unknown => StatusCode::NOT_FOUND,
        Page::NoUploads => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, head(page, visitor.form, kind), body).into_response()
}

fn head(page: Page, form: Form, kind: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    put(header::CONTENT_TYPE, kind);
    put(header::CACHE_CONTROL, "no-store");
    put(
        header::VARY,
        "accept, accept-language, content-type, origin",
    );
    put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(HeaderName::from_static("x-robots-tag"), "noindex");
    if form == Form::Html {
        put(header::CONTENT_SECURITY_POLICY, text::policy());
    }
    if let Some(seconds) = page.retry_after_s() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_slow_bodies_is_not_waited_for() {
        let places = Swallowing::default().0;
        let slow = || {
            Body::from_stream(futures_util::stream::pending::<
                Result<Vec<u8>, std::io::Error>,
            >())
        };
        let begin = tokio::time::Instant::now();
        swallow(&places, slow()).await;
        assert_eq!(begin.elapsed(), SWALLOWED_WITHIN, "one is, for a while");
        let all = places.try_acquire_many(SWALLOWING as u32).unwrap();
        swallow(&places, slow()).await;
        assert_eq!(begin.elapsed(), SWALLOWED_WITHIN);
        drop(all);
    }

    #[test]
    fn only_edges_are_believed_that_somebody_was_let_in() {
        let edges = [
            "192.0.2.0/28".parse().unwrap(),
            "2001:db8::1/128".parse().unwrap(),
        ];
        for (peer, edge) in [
            ("127.0.0.1", true),
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("2001:db8::1", true),
            ("192.0.2.16", false),
            ("203.0.113.9", false),
        ] {
            assert_eq!(is_edge(peer.parse().unwrap(), &edges), edge, "{peer}");
        }
    }

    #[test]
    fn each_form_has_its_head() {
        let visitor = |form| Visitor {
            form,
            ..Visitor::default()
        };
        for page in Page::ALL {
            for form in [Form::Html, Form::Json, Form::Text] {
                let answer = answer(page, &visitor(form), "isy.one");
                let expected = match page {
                    Page::Unknown => 404,
                    Page::NoUploads => 507,
                    _ => 503,
                };
                assert_eq!(answer.status(), expected, "{page:?}");
                let head = answer.headers();
                assert_eq!(head[header::CACHE_CONTROL], "no-store");
                assert_eq!(
                    head.contains_key(header::RETRY_AFTER),
                    !matches!(page, Page::Unknown | Page::NoUploads)
                );
                assert_eq!(
                    head.contains_key(header::CONTENT_SECURITY_POLICY),
                    form == Form::Html
                );
            }
        }
    }
}

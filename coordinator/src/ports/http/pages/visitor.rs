//! Who asks for a page, and in which form: parsed from the request that an edge forwards. Pure.
//!
//! We trust none of it: a host name is looked up and never printed; `?status=` and the path only decide whether to wake
//! a sleeping tenant.
//! Not here: the answer (mod.rs).

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, header},
};

/// Header in which Traefik's `replacePath` passes the original path; it adds its value after whatever a visitor sent
/// under this name.
const REPLACED_PATH: HeaderName = HeaderName::from_static("x-replaced-path");
/// Longest `Host` header: a host name (RFC 1035), a trailing dot and a port.
const MAX_HOST: usize = 253 + 1 + 6;
/// Paths that programs request on their own, with nobody waiting for the answer.
const NOT_WAKING: [&str; 4] = ["/web/health", "/websocket", "/robots.txt", "/favicon.ico"];

/// The format of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Form {
    /// For browsers.
    #[default]
    Html,
    /// For programs.
    Json,
    /// For everybody else.
    Text,
}

/// What a request tells about its visitor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Visitor {
    /// The host name in lower case; `None` if the request has no valid one.
    pub(super) host: Option<String>,
    /// The visitor prefers Portuguese to English.
    pub(super) portuguese: bool,
    /// The requested format.
    pub(super) form: Form,
    /// Whether this request should wake a tenant.
    pub(super) wakes: bool,
    /// It waits for `100 Continue` before sending its body, which we do not send.
    pub(super) waits_for_word: bool,
}

impl Visitor {
    pub(super) fn of(request: &Request) -> Self {
        let headers = request.headers();
        Self {
            host: host(headers),
            portuguese: prefers_portuguese(text(headers, &header::ACCEPT_LANGUAGE)),
            form: form(headers),
            wakes: wakes(request.method(), request.uri().query(), headers),
            waits_for_word: headers.contains_key(header::EXPECT),
        }
    }
}

/// A header's value; empty if missing or not ASCII.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// The name in `Host`, without port and trailing dot. `None` for addresses, user info and anything else that is not a
/// name.
fn host(headers: &HeaderMap) -> Option<String> {
    let text = text(headers, &header::HOST);
    if text.len() > MAX_HOST || headers.get_all(header::HOST).iter().count() != 1 {
        return None;
    }
    let name = match text.split_once(':') {
        Some((name, port)) => port.bytes().all(|b| b.is_ascii_digit()).then_some(name)?,
        None => text,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (!name.is_empty() && name.bytes().all(fits)).then_some(name)
}

fn form(headers: &HeaderMap) -> Form {
    let accept = text(headers, &header::ACCEPT);
    let json = weight(accept, |kind| kind.eq_ignore_ascii_case("application/json"));
    let html = weight(accept, |kind| kind.eq_ignore_ascii_case("text/html"));
    if json > html {
        return Form::Json;
    }
    if html > 0.0 {
        return Form::Html;
    }
    let sent = text(headers, &header::CONTENT_TYPE)
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    // Odoo's own pages take JSON with an error in it for an answer from Odoo, and stumble over its format. They take
    // anything else for a lost connection: they say so, retry, and continue when Odoo is back.
    let from_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-mode");
    if sent.eq_ignore_ascii_case("application/json") {
        return if from_page { Form::Text } else { Form::Json };
    }
    let anything =
        accept.is_empty() || weight(accept, |kind| matches!(kind, "*/*" | "text/*")) > 0.0;
    if sent.eq_ignore_ascii_case("text/xml")
        || sent.eq_ignore_ascii_case("application/xml")
        || is_upgrade(headers)
        || !anything
    {
        return Form::Text;
    }
    Form::Html
}

/// Whether it requests a websocket.
fn is_upgrade(headers: &HeaderMap) -> bool {
    text(headers, &header::UPGRADE).eq_ignore_ascii_case("websocket")
}

/// Whether a person, or a program on a person's behalf, wants something. Requests that the edge makes after a failure
/// (`?status=`) do not count: they do not tell what was asked for, and the next try comes without it.
fn wakes(method: &Method, query: Option<&str>, headers: &HeaderMap) -> bool {
    let failed =
        query.is_some_and(|query| query.split('&').any(|part| part.starts_with("status=")));
    let replaced = headers.get_all(REPLACED_PATH).iter().next_back();
    let path = replaced.and_then(|path| path.to_str().ok()).unwrap_or("/");
    let by_itself = NOT_WAKING.iter().any(|known| {
        path.strip_prefix(known)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    });
    matches!(*method, Method::GET | Method::POST) && !failed && !by_itself && !is_upgrade(headers)
}

/// The largest weight among a list's items that fit; 0 if none does.
fn weight(list: &str, fits: impl Fn(&str) -> bool) -> f32 {
    list.split(',')
        .map(|item| item.split_once(';').unwrap_or((item, "")))
        .filter(|(item, _)| fits(item.trim()))
        .map(|(_, parameters)| quality(parameters))
        .fold(0.0, f32::max)
}

/// An item's `q=` parameter; 1 if missing, 0 if invalid.
fn quality(parameters: &str) -> f32 {
    let mut all = parameters.split(';').map(str::trim);
    match all.find_map(|parameter| parameter.strip_prefix("q=")) {
        Some(q) => q
            .parse()
            .ok()
            .filter(|q| (0.0..=1.0).contains(q))
            .unwrap_or(0.0),
        None => 1.0,
    }
}

/// Whether Portuguese outweighs English; in doubt, English.
fn prefers_portuguese(accept_language: &str) -> bool {
    let of = |wanted: &'static str| {
        move |tag: &str| {
            tag.split('-')
                .next()
                .is_some_and(|language| language.eq_ignore_ascii_case(wanted))
        }
    };
    weight(accept_language, of("pt")) > weight(accept_language, of("en"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn visitor(method: &str, uri: &str, headers: &[(&str, &str)]) -> Visitor {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Visitor::of(&request.body(axum::body::Body::empty()).unwrap())
    }

    #[test]
    fn hosts_are_names_or_nothing() {
        let long = format!("{}.isy.one", "a".repeat(300));
        for (host, expected) in [
            ("alfa.isy.one", Some("alfa.isy.one")),
            ("ALFA.Isy.One:8443", Some("alfa.isy.one")),
            ("alfa.isy.one.", Some("alfa.isy.one")),
            ("alfa.isy.one.:80", Some("alfa.isy.one")),
            ("alfa.isy.one:", Some("alfa.isy.one")),
            ("ana@alfa.isy.one", None),
            ("alfa.isy.one:80@evil", None),
            ("[::1]:80", None),
            ("::1", None),
            ("alfa.isy.one/../x", None),
            ("<script>", None),
            ("", None),
            (".", None),
            (&long, None),
        ] {
            assert_eq!(
                visitor("GET", "/", &[("host", host)]).host.as_deref(),
                expected,
                "{host}"
            );
        }
        assert_eq!(visitor("GET", "/", &[]).host, None);
        let two = visitor(
            "GET",
            "/",
            &[("host", "alfa.isy.one"), ("host", "beta.isy.one")],
        );
        assert_eq!(two.host, None);
        let forwarded = [
            ("host", "alfa.isy.one"),
            ("x-forwarded-host", "beta.isy.one"),
        ];
        assert_eq!(
            visitor("GET", "/", &forwarded).host.as_deref(),
            Some("alfa.isy.one")
        );
    }

    #[test]
    fn the_form_is_what_the_client_reads() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let json = "application/json";
        let cases: &[(&[(&str, &str)], Form)] = &[
            (&[("accept", browser)], Form::Html),
            (&[], Form::Html),
            (&[("accept", "*/*")], Form::Html),
            (&[("accept", "image/avif,*/*;q=0.8")], Form::Html),
            (&[("accept", "image/png")], Form::Text),
            (
                &[("accept", "application/json, text/plain, */*")],
                Form::Json,
            ),
            (
                &[("accept", "application/json;q=0.5, text/html")],
                Form::Html,
            ),
            (
                &[("accept", "text/html;q=0.1, application/json; q=0.9")],
                Form::Json,
            ),
            (&[("content-type", json)], Form::Json),
            (
                &[
                    ("content-type", "application/json; charset=utf-8"),
                    ("accept", "*/*"),
                ],
                Form::Json,
            ),
            // Odoo's web client, over HTTPS and plain: see `form`.
            (
                &[
                    ("content-type", json),
                    ("accept", "*/*"),
                    ("sec-fetch-mode", "cors"),
                ],
                Form::Text,
            ),
            (
                &[
                    ("content-type", json),
                    ("accept", "*/*"),
                    ("origin", "http://alfa.isy.one"),
                ],
                Form::Text,
            ),
            (&[("content-type", "text/xml")], Form::Text),
            (
                &[("upgrade", "WebSocket"), ("connection", "Upgrade")],
                Form::Text,
            ),
            (&[("upgrade", "h2c"), ("connection", "Upgrade")], Form::Html),
        ];
        for (headers, form) in cases {
            assert_eq!(visitor("POST", "/", headers).form, *form, "{headers:?}");
        }
    }

    #[test]
    fn only_who_wants_something_wakes() {
        for (method, path, wakes) in [
            ("GET", "/", true),
            ("GET", "/odoo/apps", true),
            ("POST", "/jsonrpc", true),
            ("GET", "/websocket-of-a-shop", true),
            ("GET", "/websocket", false),
            ("GET", "/websocket/health", false),
            ("GET", "/web/health", false),
            ("GET", "/robots.txt", false),
            ("GET", "/favicon.ico", false),
            ("HEAD", "/", false),
            ("OPTIONS", "/", false),
        ] {
            let said = [("x-replaced-path", path)];
            assert_eq!(
                visitor(method, "/pages/tenant", &said).wakes,
                wakes,
                "{method} {path}"
            );
        }
        let upgrade = [("x-replaced-path", "/"), ("upgrade", "websocket")];
        assert!(!visitor("GET", "/pages/tenant", &upgrade).wakes);
        assert!(
            !visitor(
                "GET",
                "/pages/tenant?status=502",
                &[("x-replaced-path", "/")]
            )
            .wakes
        );
        // A visitor's own path header comes first; the edge's value is the last one.
        let forged = [("x-replaced-path", "/"), ("x-replaced-path", "/web/health")];
        assert!(!visitor("GET", "/pages/tenant", &forged).wakes);
        assert!(visitor("GET", "/pages/tenant", &[]).wakes);
    }

    #[test]
    fn the_language_is_the_browsers() {
        for (header, portuguese) in [
            ("pt-BR,pt;q=0.9,en;q=0.8", true),
            ("PT", true),
            ("en-US,en;q=0.5", false),
            ("en;q=0.9, pt;q=0.3", false),
            ("fr, pt;q=0.2", true),
            ("", false),
            ("pt;q=nonsense", false),
        ] {
            assert_eq!(prefers_portuguese(header), portuguese, "{header}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read(
            host in "\\PC{0,40}", accept in "[a-z*/,;=q0-9. ]{0,60}", language in "[a-zA-Z,;=q0-9.* -]{0,40}",
        ) {
            let mut request = Request::builder().uri("/pages/tenant");
            for (name, value) in [("host", &host), ("accept", &accept), ("accept-language", &language)] {
                if let Ok(value) = axum::http::HeaderValue::from_bytes(value.as_bytes()) {
                    request = request.header(name, value);
                }
            }
            let visitor = Visitor::of(&request.body(axum::body::Body::empty()).unwrap());
            let fits = |name: &String| name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase());
            prop_assert!(visitor.host.iter().all(fits));
        }
    }
}

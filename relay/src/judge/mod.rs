//! What a request is, told from its head alone: refused, closed, expensive, anonymous, an upgrade. Pure.
//!
//! Not here: what is counted over time (`budget`, `shares`), and bodies.

mod headers;
mod path;

use http::{HeaderMap, Method, Uri, header, request::Parts};

pub(crate) use headers::{Origin, from_odoo, to_odoo};
pub(crate) use path::{is_at_or_below, plain, without_language};

/// Why a request's head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not a method that Odoo has.
    Method,
    /// Not a path: a proxy's whole address, or `*`.
    Target,
    /// None, or several, or one that is no name.
    Host,
    /// Something else than `chunked`.
    Encoding,
}

/// Which budget a request is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Costly {
    /// Somebody tries to get in.
    SignIn,
    /// An external call, with the password inside.
    Rpc,
}

/// Methods that pass. What Odoo's controllers and `/json` have, and those that browsers ask with.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// Where somebody who is not signed in makes Odoo work: hashes, sessions, the registry, mail.
const SIGN_IN: [&str; 4] = [
    "/web/login",
    "/web/session",
    "/web/signup",
    "/web/reset_password",
];

/// Of these, where a POST is a try to get in whatever cookie comes along.
const CREDENTIALS: [&str; 4] = [
    "/web/login",
    "/web/session/authenticate",
    "/web/signup",
    "/web/reset_password",
];

/// Calls that are parsed in whole whatever their content type says.
const RPC: [&str; 4] = ["/jsonrpc", "/xmlrpc", "/json", "/web/dataset"];

/// Where Odoo takes files. Edges refuse the same (`UPLOADS` in isyone-traefik).
const FILES: [&str; 5] = [
    "/web/binary/upload",
    "/web/binary/upload_attachment",
    "/mail/attachment/upload",
    "/web_editor/attachment/add_data",
    "/html_editor/attachment/add_data",
];

/// Calls that carry their password.
const EXTERNAL_RPC: [&str; 2] = ["/jsonrpc", "/xmlrpc"];

/// What is wrong with a head, if anything.
pub(crate) fn malformed(parts: &Parts) -> Option<Malformed> {
    if !METHODS.contains(&parts.method) {
        return Some(Malformed::Method);
    }
    if !is_path(&parts.uri) {
        return Some(Malformed::Target);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().map(|host| host.as_bytes());
    if hosts.next().is_some() || !host.is_some_and(is_host) {
        return Some(Malformed::Host);
    }
    let mut encodings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    let is_plain = encodings.next().is_none_or(is_chunked) && encodings.next().is_none();
    (!is_plain).then_some(Malformed::Encoding)
}

fn is_path(uri: &Uri) -> bool {
    uri.scheme().is_none() && uri.authority().is_none() && uri.path().starts_with('/')
}

fn is_host(host: &[u8]) -> bool {
    let is_allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(b);
    !host.is_empty() && host.len() <= 300 && host.iter().all(is_allowed)
}

/// Whether nobody has signed in as far as the head shows: neither a session's cookie nor a key. That is no proof of the contrary:
/// whoever wants can make a cookie up. It spares Odoo the crowd that does not.
pub(crate) fn is_anonymous(headers: &HeaderMap) -> bool {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies.flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    let has_session = pairs.any(|pair| {
        let value = pair.trim_ascii().strip_prefix(b"session_id=");
        value.is_some_and(is_session)
    });
    let has_key = headers.get(header::AUTHORIZATION).is_some_and(|value| {
        let value = value.as_bytes();
        let is_bearer = value.len() > 7 && value[..7].eq_ignore_ascii_case(b"bearer ");
        is_bearer && value[7..].trim_ascii().len() >= MIN_KEY
    });
    !has_session && !has_key
}

/// Odoo's API keys have 40 characters, its sessions 40 (to 16.0) or 84.
const MIN_KEY: usize = 40;

fn is_session(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let is_allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-_".contains(b);
    (MIN_KEY..=256).contains(&value.len()) && value.iter().all(is_allowed)
}

/// Whether Odoo would read the body into memory and parse it in whole. A form with files is not: its parts go to disk.
pub(crate) fn is_parsed_in_whole(path: &str, headers: &HeaderMap) -> bool {
    !is_form_with_files(headers) || below_any(path, &RPC)
}

/// Whether a body is an upload whatever its size, by where it goes.
pub(crate) fn is_upload(path: &str) -> bool {
    below_any(path, &FILES)
}

fn is_form_with_files(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    value.is_some_and(|value| {
        let kind = value.as_bytes().split(|b| *b == b';').next();
        kind.is_some_and(|kind| {
            kind.trim_ascii()
                .eq_ignore_ascii_case(b"multipart/form-data")
        })
    })
}

/// Which budget a request is taken from, if it is an expensive one. `path` as `plain` gives it.
pub(crate) fn costly(method: &Method, path: &str, is_anonymous: bool) -> Option<Costly> {
    if below_any(path, &EXTERNAL_RPC) {
        return Some(Costly::Rpc);
    }
    let is_try = method == Method::POST && below_any(path, &CREDENTIALS);
    let is_page = is_anonymous && below_any(path, &SIGN_IN);
    (is_try || is_page).then_some(Costly::SignIn)
}

/// Whether a path is one that the route closes.
pub(crate) fn is_closed(path: &str, closed: &[String]) -> bool {
    closed.iter().any(|closed| below(path, closed))
}

fn below_any(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| below(path, prefix))
}

/// Odoo takes a language before any page's path.
fn below(path: &str, prefix: &str) -> bool {
    is_at_or_below(path, prefix)
        || without_language(path).is_some_and(|rest| is_at_or_below(rest, prefix))
}

/// Whether the connection is to become a websocket.
pub(crate) fn is_websocket(parts: &Parts) -> bool {
    let wanted = parts.headers.get(header::UPGRADE);
    let is_websocket =
        wanted.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_websocket
        && parts.method == Method::GET
        && headers::connection_names(&parts.headers, "upgrade")
}

/// What a browser can show, so that a refusal is a page for people and one line for programs.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).map(http::HeaderValue::as_bytes);
    let has = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|at| at == word);
    accept.is_some_and(|accept| has(accept, b"text/html"))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_head_that_two_readers_could_read_differently_is_refused() {
        let host = ("host", "alfa.isy.one");
        let wrong = |method, target, headers: &[_]| malformed(&parts(method, target, headers));
        assert_eq!(wrong("GET", "/web", &[host]), None);
        assert_eq!(
            wrong("POST", "/web", &[host, ("transfer-encoding", "Chunked")]),
            None
        );
        assert_eq!(wrong("GET", "/", &[]), Some(Malformed::Host));
        assert_eq!(wrong("GET", "/", &[host, host]), Some(Malformed::Host));
        assert_eq!(wrong("GET", "/", &[("host", "a b")]), Some(Malformed::Host));
        assert_eq!(
            wrong("GET", "/", &[("host", "a/../b")]),
            Some(Malformed::Host)
        );
        assert_eq!(
            wrong("GET", "http://else.where/", &[host]),
            Some(Malformed::Target)
        );
        assert_eq!(wrong("OPTIONS", "*", &[host]), Some(Malformed::Target));
        assert_eq!(wrong("CONNECT", "a:1", &[host]), Some(Malformed::Method));
        assert_eq!(wrong("TRACE", "/", &[host]), Some(Malformed::Method));
        for encodings in [
            &["gzip, chunked"][..],
            &["identity"],
            &["chunked", "chunked"],
            &["xchunked"],
        ] {
            let mut headers = vec![host];
            headers.extend(encodings.iter().map(|e| ("transfer-encoding", *e)));
            assert_eq!(
                wrong("POST", "/", &headers),
                Some(Malformed::Encoding),
                "{encodings:?}"
            );
        }
    }

    fn anonymous(headers: &[(&str, &str)]) -> bool {
        is_anonymous(&parts("GET", "/", headers).headers)
    }

    #[test]
    fn a_session_or_a_key_is_somebody() {
        let sid = "a".repeat(84);
        assert!(!anonymous(&[(
            "cookie",
            &format!("frontend_lang=pt_BR; session_id={sid}")
        )]));
        assert!(!anonymous(&[
            ("cookie", "x=1"),
            ("cookie", &format!("session_id={sid}"))
        ]));
        assert!(!anonymous(&[(
            "authorization",
            &format!("Bearer {}", "0".repeat(40))
        )]));
        for cookie in [
            "session_id=",
            "session_id=x",
            "xsession_id=",
            "session_ids=1",
            "",
        ] {
            assert!(anonymous(&[("cookie", cookie)]), "{cookie}");
        }
        assert!(anonymous(&[("cookie", &format!("xsession_id={sid}"))]));
        assert!(anonymous(&[(
            "cookie",
            &format!("session_id={}", "a ".repeat(42))
        )]));
        assert!(anonymous(&[("authorization", "Basic YTpi")]));
        assert!(anonymous(&[]));
    }

    #[test]
    fn what_odoo_parses_in_whole() {
        let headers = |kind| parts("POST", "/", &[("content-type", kind)]).headers;
        let form = "multipart/form-data; boundary=x";
        assert!(is_parsed_in_whole(
            "/web/login",
            &headers("application/json")
        ));
        assert!(is_parsed_in_whole("/x", &headers("text/xml")));
        assert!(is_parsed_in_whole("/x", &parts("POST", "/", &[]).headers));
        assert!(!is_parsed_in_whole("/website/form/x", &headers(form)));
        assert!(
            is_parsed_in_whole("/xmlrpc/2/common", &headers(form)),
            "its type is not asked"
        );
        assert!(is_upload("/pt_BR/web/binary/upload_attachment"));
        assert!(!is_upload("/website/form/x"));
    }

    #[test]
    fn expensive_ones_are_told_whatever_is_written_around_them() {
        let of = |method: &str, target: &str, anonymous| {
            let parts = parts(method, target, &[]);
            costly(&parts.method, &plain(parts.uri.path()), anonymous)
        };
        for target in [
            "/web/login",
            "/web//login",
            "/web/%6cogin",
            "/pt_BR/web/login",
            "/pt/web/login?x",
            "/./web/x/../login/",
        ] {
            assert_eq!(of("GET", target, true), Some(Costly::SignIn), "{target}");
            assert_eq!(of("GET", target, false), None, "{target}");
            assert_eq!(of("POST", target, false), Some(Costly::SignIn), "{target}");
        }
        assert_eq!(of("POST", "/web/session/get_session_info", false), None);
        assert_eq!(
            of("POST", "/web/session/authenticate", false),
            Some(Costly::SignIn)
        );
        assert_eq!(of("POST", "/xmlrpc/2/object", false), Some(Costly::Rpc));
        assert_eq!(of("POST", "/jsonrpc", true), Some(Costly::Rpc));
        for target in [
            "/",
            "/web",
            "/web/loginx",
            "/shop/web/login",
            "/web/dataset/call_kw",
        ] {
            assert_eq!(of("POST", target, true), None, "{target}");
        }
    }

    #[test]
    fn closed_paths_are_closed_in_every_spelling() {
        let closed = ["/web/database".to_owned(), "/metrics".to_owned()];
        let is = |target: &str| is_closed(&plain(target), &closed);
        for target in [
            "/web/database",
            "/web/database/manager",
            "/web/%64atabase/x",
            "//web//database/",
            "/web/./database",
            "/x/../web/database",
            "/en/web/database/selector",
            "/metrics",
            "/%2e/metrics",
            "/web%2Fdatabase",
        ] {
            assert!(is(target), "{target}");
        }
        for target in ["/web/databases", "/web", "/metricsx", "/web/databas%65x"] {
            assert!(!is(target), "{target}");
        }
    }

    #[test]
    fn a_websocket_is_asked_for_in_two_headers() {
        let is = |headers: &[_]| is_websocket(&parts("GET", "/websocket", headers));
        assert!(is(&[
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade")
        ]));
        assert!(!is(&[("upgrade", "websocket")]));
        assert!(!is(&[("upgrade", "h2c"), ("connection", "upgrade")]));
        assert!(!is_websocket(&parts(
            "POST",
            "/",
            &[("upgrade", "websocket"), ("connection", "upgrade")]
        )));
    }

    proptest! {
        #[test]
        fn any_spelling_of_a_closed_path_is_closed(escape in prop::collection::vec(any::<bool>(), 13), slashes in 1_usize..4) {
            let mut target = String::new();
            for (at, b) in "/web/database".bytes().enumerate() {
                match (b, escape[at]) {
                    (b'/', _) => target.push_str(&"/".repeat(slashes)),
                    (b, true) => target.push_str(&format!("%{b:02x}")),
                    (b, false) => target.push(char::from(b)),
                }
            }
            prop_assert!(is_closed(&plain(&target), &["/web/database".to_owned()]), "{}", target);
        }

        #[test]
        fn no_head_makes_it_panic(target in "/[!-~]{0,60}", name in "[a-z-]{1,12}", value in "[ -~]{0,60}") {
            let Ok(request) = Request::builder().uri(&target).header(&name, value.as_str()).body(()) else {
                return Ok(());
            };
            let (parts, ()) = request.into_parts();
            let path = plain(parts.uri.path());
            malformed(&parts);
            is_anonymous(&parts.headers);
            costly(&parts.method, &path, true);
            is_websocket(&parts);
        }
    }
}

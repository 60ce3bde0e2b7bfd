//! Headers as they are passed on: one Host, nothing that belongs to a single hop, and nobody but an edge says who came. Pure.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers of one hop (RFC 9110, 7.6.1), and those that frame a body, which we frame anew.
const OF_ONE_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// What a `Connection` header cannot take away: who would have it removed wants to be somebody else behind us.
const KEPT: [&str; 5] = [
    "host",
    "cookie",
    "authorization",
    "content-type",
    "content-length",
];

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The visitor's address.
    pub(crate) visitor: IpAddr,
    /// Whether one of our edges sent it: then what it says of the page's name and scheme is passed on.
    pub(crate) is_from_edge: bool,
}

/// Makes a request's headers what Odoo is to see. Without those of the body, which is framed anew, and of upgrades.
pub(crate) fn to_odoo(headers: &mut HeaderMap, origin: Origin) {
    drop_of_one_hop(headers);
    let is_doubtful = |name: &&HeaderName| {
        let name = name.as_str();
        // WSGI makes `X_Real_IP` and `X-Real-IP` the same variable.
        name.contains('_') || (!origin.is_from_edge && is_forwarded(name))
    };
    let doubtful: Vec<HeaderName> = headers.keys().filter(is_doubtful).cloned().collect();
    for name in doubtful {
        headers.remove(name);
    }
    headers.remove(header::CONTENT_LENGTH);
    let address = HeaderValue::try_from(origin.visitor.to_string());
    let address = address.expect("an address is a header's value");
    headers.insert(HeaderName::from_static("x-forwarded-for"), address.clone());
    headers.insert(HeaderName::from_static("x-real-ip"), address);
    if !origin.is_from_edge {
        let host = headers.get(header::HOST).cloned();
        // Odoo heeds none of these without the name.
        if let Some(host) = host {
            headers.insert(HeaderName::from_static("x-forwarded-host"), host);
        }
        headers.insert(
            HeaderName::from_static("x-forwarded-proto"),
            HeaderValue::from_static("http"),
        );
    }
}

/// Makes an answer's headers what the visitor is to see.
pub(crate) fn from_odoo(headers: &mut HeaderMap) {
    drop_of_one_hop(headers);
}

fn is_forwarded(name: &str) -> bool {
    name.starts_with("x-forwarded-") || ["forwarded", "x-real-ip"].contains(&name)
}

fn drop_of_one_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_words(headers)
        .filter_map(|word| HeaderName::from_bytes(word).ok())
        .filter(|name| !KEPT.contains(&name.as_str()) && !is_forwarded(name.as_str()))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_ONE_HOP {
        headers.remove(name);
    }
}

fn connection_words(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::CONNECTION).iter();
    let words = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    words.map(|word| word.trim_ascii())
}

/// Whether a `Connection` header has the word.
pub(crate) fn connection_names(headers: &HeaderMap, word: &str) -> bool {
    connection_words(headers).any(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn passed(pairs: &[(&str, &str)], is_from_edge: bool) -> HeaderMap {
        let mut headers = map(pairs);
        let visitor = "203.0.113.7".parse().unwrap();
        to_odoo(
            &mut headers,
            Origin {
                visitor,
                is_from_edge,
            },
        );
        headers
    }

    #[test]
    fn what_belongs_to_one_hop_ends_here() {
        let headers = passed(
            &[
                ("host", "a.b"),
                (
                    "connection",
                    "close, X-Mine, Host, Cookie, X-Forwarded-Host",
                ),
                ("x-mine", "1"),
                ("cookie", "session_id=1"),
                ("te", "trailers"),
                ("transfer-encoding", "chunked"),
                ("content-length", "5"),
                ("upgrade", "h2c"),
                ("expect", "100-continue"),
                ("x-forwarded-host", "a.b"),
                ("accept", "*/*"),
            ],
            true,
        );
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "accept",
                "cookie",
                "host",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-real-ip"
            ]
        );
    }

    #[test]
    fn only_an_edge_says_who_came_and_by_which_name() {
        let said = [
            ("host", "a.b"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/x"),
            ("forwarded", "for=1.1.1.1"),
            ("x_forwarded_host", "evil.example"),
        ];
        let stranger = passed(&said, false);
        assert_eq!(stranger["x-forwarded-host"], "a.b");
        assert_eq!(stranger["x-forwarded-proto"], "http");
        assert!(
            !stranger.contains_key("forwarded") && !stranger.contains_key("x-forwarded-prefix")
        );
        let edge = passed(&said, true);
        assert_eq!(edge["x-forwarded-host"], "evil.example");
        assert_eq!(edge["x-forwarded-proto"], "https");
        for headers in [stranger, edge] {
            assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
            assert_eq!(headers["x-forwarded-for"], "203.0.113.7");
            assert!(!headers.contains_key("x_forwarded_host"));
        }
    }

    #[test]
    fn an_answers_own_headers_stay() {
        let mut headers = map(&[
            ("connection", "close"),
            ("content-length", "5"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("transfer-encoding", "chunked"),
        ]);
        from_odoo(&mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }
}

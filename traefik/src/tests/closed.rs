//! Which paths are closed to visitors, with the regular expressions as Traefik reads them. (Go's and Rust's understand these alike.)
//!
//! Not here: what Traefik decodes before it compares (`e2e::access`).

use regex::Regex;

use crate::CLOSED_PATHS;

fn is_closed(path: &str) -> bool {
    let rules = CLOSED_PATHS.split("PathRegexp(`").skip(1);
    let rules = rules.map(|rule| rule.split('`').next().unwrap());
    let rules: Vec<Regex> = rules.map(|rule| Regex::new(rule).unwrap()).collect();
    assert_eq!(rules.len(), 2);
    rules.iter().any(|rule| rule.is_match(path))
}

/// Fails where only the database manager is closed behind a language, which Odoo's website takes away from the front of any path.
#[test]
fn what_is_closed_is_closed_behind_a_language_too() {
    let languages = [
        "",
        "/pt_BR",
        "/en",
        "//en",
        "/EN_us",
        "/sr@latin",
        "/sr%40latin",
        "/es_419",
        "/fil%2f",
        "%2fpt-BR",
    ];
    let paths = [
        "/metrics",
        "/metrics/x",
        "//metrics",
        "%2fmetrics%2F",
        "/web/database/manager",
        "/web%2fdatabase",
        "/xmlrpc/db",
        "/xmlrpc/2/db",
    ];
    for language in languages {
        for path in paths {
            let path = format!("{language}{path}");
            assert!(is_closed(&path), "{path}");
        }
    }
}

#[test]
fn what_visitors_need_stays_open() {
    for path in [
        "/",
        "/pt_BR",
        "/metricsx",
        "/en/metricsx",
        "/shop/metrics",
        "/blog/en/metrics",
        "/web/login",
        "/pt_BR/web/login",
        "/xmlrpc/2/common",
        "/web/dataset/call_kw",
    ] {
        assert!(!is_closed(path), "{path}");
    }
}

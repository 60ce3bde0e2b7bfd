//! A path as Odoo will read it, however it is spelt. Pure.

/// The path without escapes, doubled slashes and dots. What cannot be resolved stays as it is: it is compared, not passed on.
pub(crate) fn plain(path: &str) -> String {
    let decoded = unescaped(path.as_bytes());
    let decoded = String::from_utf8_lossy(&decoded);
    let mut parts: Vec<&str> = Vec::new();
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten();
        match escape.and_then(byte_of) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

fn byte_of(hex: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let value = digit(hex[0])? * 16 + digit(hex[1])?;
    u8::try_from(value).ok()
}

/// Whether a plain path is the prefix itself or below it.
pub(crate) fn is_at_or_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What follows a first part that can be a language (`pt`, `pt_BR`, `sr@latin`): Odoo's website takes it away.
pub(crate) fn without_language(path: &str) -> Option<&str> {
    let rest = path.strip_prefix('/')?;
    let slash = rest.find('/')?;
    let (first, rest) = rest.split_at(slash);
    let is_word = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let (base, variant) = match first.find(['_', '-', '@']) {
        Some(at) => (&first[..at], Some(&first[at + 1..])),
        None => (first, None),
    };
    // `/web/…` is no language: three letters, but Odoo's own.
    let is_language = base != "web"
        && is_word(base, 2..=3)
        && variant.is_none_or(|variant| is_word(variant, 2..=8));
    is_language.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_plain() {
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("/a//b/./c/../d/", "/a/b/d"),
            ("/../../x", "/x"),
            ("/%41%2f%2e%2E/b", "/b"),
            ("/%4", "/%4"),
            ("/%zz%", "/%zz%"),
            ("/caf%C3%A9%FF", "/café\u{fffd}"),
        ] {
            assert_eq!(plain(path), expected, "{path}");
        }
    }

    #[test]
    fn a_language_comes_first() {
        assert_eq!(without_language("/pt_BR/web/login"), Some("/web/login"));
        assert_eq!(without_language("/sr@latin/x"), Some("/x"));
        assert_eq!(without_language("/web/login"), None);
        assert_eq!(without_language("/shop/x"), None);
        assert_eq!(without_language("/pt"), None);
    }

    #[test]
    fn below_is_by_whole_parts() {
        assert!(is_at_or_below("/web/database", "/web/database/"));
        assert!(!is_at_or_below("/web/databases", "/web/database"));
        assert!(is_at_or_below("/anything", "/"));
    }
}

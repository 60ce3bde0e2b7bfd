//! `[images]`: images besides those of the editions that operators who are no admins may name for a tenant.
//!
//! Not here: whom an image is refused to (operators/spec).

use std::{fmt, str::FromStr};

use isyone_proto::spec::ImageRef;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, check::ensure};

/// Far more than a company has registries.
const MAX_PATTERNS: usize = 64;
/// As long as a reference may be, with its digest.
const MAX_PATTERN: usize = 327;
/// What stands for any characters but `/`.
const ANY: char = '*';

/// `[images]`: whose images may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// Patterns of references; none: only the editions' images.
    pub allow: Vec<ImagePattern>,
}

impl Images {
    /// Whether a reference matches one of the patterns.
    pub fn allow(&self, image: &ImageRef) -> bool {
        self.allow.iter().any(|pattern| pattern.matches(image))
    }

    pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
        ensure(
            config.images.allow.len() <= MAX_PATTERNS,
            "images.allow",
            || format!("at most {MAX_PATTERNS} patterns"),
        )
    }
}

/// A reference in which `*` stands for any characters but `/`: `registry.example.com/odoo:*`. The registry's name, which
/// decides who makes the images, has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImagePattern(String);

/// Why a text is no pattern.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no pattern such as \"registry.example.com/odoo:*\": a reference with `*` for any characters but `/`, and none in the registry's name"
)]
pub struct NoPattern(String);

impl ImagePattern {
    fn matches(&self, image: &ImageRef) -> bool {
        let (mut pattern, mut text) = (self.0.split('/'), image.as_str().split('/'));
        loop {
            match (pattern.next(), text.next()) {
                (None, None) => return true,
                (Some(pattern), Some(text)) if part_matches(pattern, text) => {}
                _ => return false,
            }
        }
    }
}

/// Matches a part without `/`: what is between stars must follow in order, and the ends must be at the ends.
fn part_matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once(ANY) else {
        return pattern == text;
    };
    let (middle, last) = rest.rsplit_once(ANY).unwrap_or(("", rest));
    let Some(mut left) = text
        .strip_prefix(first)
        .and_then(|text| text.strip_suffix(last))
    else {
        return false;
    };
    for piece in middle.split(ANY) {
        match left.split_once(piece) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    true
}

impl FromStr for ImagePattern {
    type Err = NoPattern;
    fn from_str(text: &str) -> Result<Self, NoPattern> {
        let allowed = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@' | ANY)
        };
        let open_registry = text
            .split_once('/')
            .is_some_and(|(registry, _)| registry.contains(ANY));
        let fits = (1..=MAX_PATTERN).contains(&text.len())
            && text.chars().all(allowed)
            && !open_registry
            && text.split('/').all(|part| !part.is_empty());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoPattern(text.chars().take(MAX_PATTERN).collect()))
        }
    }
}

impl TryFrom<String> for ImagePattern {
    type Error = NoPattern;
    fn try_from(text: String) -> Result<Self, NoPattern> {
        text.parse()
    }
}

impl From<ImagePattern> for String {
    fn from(pattern: ImagePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_part_and_a_pattern_covers_the_whole() {
        let matches = |pattern: &str, image: &str| {
            let pattern: ImagePattern = pattern.parse().unwrap();
            pattern.matches(&image.parse().unwrap())
        };
        let digest = format!("r.example/odoo@sha256:{}", "a".repeat(64));
        for (pattern, image) in [
            ("odoo:18.0", "odoo:18.0"),
            ("r.example/odoo:*", "r.example/odoo:18.0"),
            (
                "r.example:5000/*/odoo:18.*",
                "r.example:5000/team/odoo:18.0",
            ),
            ("r.example/odoo*", "r.example/odoo"),
            ("r.example/odoo@sha256:*", &digest),
            ("r.example/a*b*c", "r.example/aXbYc"),
            ("r.example/**", "r.example/x"),
        ] {
            assert!(matches(pattern, image), "{pattern} {image}");
        }
        for (pattern, image) in [
            ("odoo:18.0", "odoo:18.01"),
            ("r.example/odoo:*", "r.example/odoo/evil:18.0"),
            ("r.example/odoo:*", "evil.example/r.example/odoo:18.0"),
            ("r.example/odoo:*", "r.example/odoo-evil:18.0"),
            ("r.example/*", "r.example.evil/x"),
            ("*", "evil.example/x"),
            ("r.example/a*a", "r.example/a"),
            ("r.example/a*b*c", "r.example/abXc1"),
            ("r.example/a*b*b*c", "r.example/aXbYc"),
        ] {
            assert!(!matches(pattern, image), "{pattern} {image}");
        }
        for bad in [
            "",
            "*.example/odoo",
            "*/odoo",
            "a b",
            "a//b",
            "/a",
            "a/",
            "a\n",
        ] {
            assert!(bad.parse::<ImagePattern>().is_err(), "{bad:?}");
        }
    }
}

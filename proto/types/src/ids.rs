//! Names as checked types: a value of such a type is safe in a host name, a container name, a path and SQL.
//!
//! Not here: whether the named thing exists.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Names that no tenant can have, because the platform uses them under the base domain, or may one day. Sorted, for the
/// binary search.
pub const RESERVED_TENANT_NAMES: &[&str] = &[
    "admin",
    "alertmanager",
    "api",
    "app",
    "autoconfig",
    "autodiscover",
    "blog",
    "cdn",
    "coordinator",
    "dashboard",
    "demo-edge",
    "dns",
    "docs",
    "edge",
    "ftp",
    "grafana",
    "help",
    "host",
    "imap",
    "internal",
    "isyone",
    "localhost",
    "login",
    "mail",
    "metrics",
    "mx",
    "ns",
    "ns1",
    "ns2",
    "pop",
    "postgres",
    "postmaster",
    "prometheus",
    "root",
    "smtp",
    "static",
    "status",
    "support",
    "traefik",
    "webmail",
    "www",
];

/// Why a name is refused. `Display` says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("has {length} characters, at most {max} are allowed")]
    TooLong {
        /// Number of characters it has.
        length: usize,
        /// Number of characters allowed.
        max: usize,
    },
    /// Not a DNS label.
    #[error(
        "must be a DNS label: lower-case letters, digits and hyphens, starting with a letter and ending with a letter or digit (`[a-z][a-z0-9-]*[a-z0-9]`)"
    )]
    NotALabel,
    /// Reserved for the platform.
    #[error("`{0}` is reserved for the platform")]
    Reserved(String),
    /// Like a name that stands for one in other letters, or might one day (RFC 5890).
    #[error(
        "`{0}` has `--` after two letters, as encoded international names (`xn--…`) have; write it with its plain letters, without that"
    )]
    Encoded(String),
    /// A word that files and tables read as something else.
    #[error(
        "`{0}` is a word that files read as something else than a name; add to it, such as `{0}-1`"
    )]
    Word(String),
}

/// RFC 1035 `<label>`, lower case, up to `max` characters.
fn check_label(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong {
            length: text.chars().count(),
            max,
        });
    }
    let bytes = text.as_bytes();
    let inner = bytes
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    let first = bytes[0].is_ascii_lowercase();
    let last = bytes[bytes.len() - 1] != b'-';
    if inner && first && last {
        Ok(())
    } else {
        Err(NameError::NotALabel)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The text, which is known to be valid.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// A tenant's name: a DNS label of 1 to 32 characters, not reserved. Part of its URL, container and volume names.
    TenantName,
    |text| {
        check_label(text, 32)?;
        if RESERVED_TENANT_NAMES.binary_search(&text).is_ok() { Err(NameError::Reserved(text.to_owned())) } else { Ok(()) }
    }
);
name_type!(
    /// A host's name: a DNS label of 1 to 63 characters.
    HostName,
    |text| check_label(text, 63)
);
name_type!(
    /// The name of a plan, an edition or an operator: a DNS label of 1 to 63 characters; dots are allowed inside
    /// (`18.0`) and a digit may be first.
    ShortName,
    |text| {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 63 {
            return Err(NameError::TooLong { length: text.chars().count(), max: 63 });
        }
        let ok = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric());
        if ok { Ok(()) } else { Err(NameError::NotALabel) }
    }
);

impl TenantName {
    /// `odoo_<tenant>`: name of Odoo's container. The database has the same name (existing dashboards expect it in
    /// `datname`).
    pub fn odoo_container(&self) -> String {
        format!("odoo_{self}")
    }
    /// `postgres_<tenant>`: name of PostgreSQL's container.
    pub fn postgres_container(&self) -> String {
        format!("postgres_{self}")
    }
    /// `odoo_<tenant>`: name of the database.
    pub fn database(&self) -> String {
        format!("odoo_{self}")
    }
    /// `pgdata_<tenant>`: name of PostgreSQL's volume.
    pub fn postgres_volume(&self) -> String {
        format!("pgdata_{self}")
    }
    /// `odoo_data_<tenant>`: name of Odoo's volume.
    pub fn odoo_volume(&self) -> String {
        format!("odoo_data_{self}")
    }
    /// `isyone_<tenant>`: name of the network and of the compose project.
    pub fn project(&self) -> String {
        format!("isyone_{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reserved_names_are_sorted() {
        assert!(RESERVED_TENANT_NAMES.is_sorted());
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [
            "",
            "-a",
            "a-",
            "1a",
            "A",
            "a_b",
            "a.b",
            "a b",
            "a;rm -rf /",
            "$(id)",
            "a'--",
            "a\n",
            "ä",
            "www",
            "../x",
            "{{a}}",
            "a: b",
            &"a".repeat(33),
        ] {
            assert!(name.parse::<TenantName>().is_err(), "{name:?}");
        }
        for name in ["a", "alfa", "a1", "my-co", &"a".repeat(32)] {
            assert!(name.parse::<TenantName>().is_ok(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_matches_the_published_pattern(text in "\\PC{0,40}|[a-z0-9-]{0,40}") {
            if let Ok(name) = text.parse::<TenantName>() {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_lowercase()));
                prop_assert!(text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
                prop_assert!(!text.ends_with('-'));
            }
        }
    }
}

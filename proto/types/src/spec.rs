//! What a tenant is asked to be: the checked form of a spec.
//!
//! Not here: defaults (they belong to the coordinator's configuration) and whether a plan or an edition exists.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ids::{HostName, ShortName};

/// Largest number of modules in one spec. This limit and the next two exceed what a person would write, and stay far
/// below a message's size limit.
pub const MAX_MODULES: usize = 200;
/// Largest number of domains in one spec.
pub const MAX_DOMAINS: usize = 50;
/// Largest number of labels in one spec.
pub const MAX_LABELS: usize = 32;

/// A tenant's complete spec: nothing is left to defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSpec {
    /// Name of the plan that was requested.
    pub plan: ShortName,
    /// Domains in addition to the platform sub-domain, in the given order.
    pub domains: Vec<Domain>,
    /// Language of the tenant's Odoo, such as `pt_BR`.
    pub language: Language,
    /// The company's country.
    pub country: Country,
    /// The administrator's time zone.
    pub time_zone: TimeZone,
    /// Modules in addition to `base`; sorted, each once.
    pub modules: Vec<Module>,
    /// Edition that was requested.
    pub edition: ShortName,
    /// Image of Odoo.
    pub odoo_image: ImageRef,
    /// Image of PostgreSQL.
    pub postgres_image: ImageRef,
    /// The only acceptable host; `None`: any.
    pub host: Option<HostName>,
    /// Only hosts that carry all of these labels are acceptable.
    pub host_labels: BTreeMap<LabelKey, LabelValue>,
    /// Login of Odoo's administrator.
    pub admin_login: Login,
    /// Whether visitors may make accounts for themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub signup: bool,
    /// How its database sorts; `None`: by bytes, PostgreSQL's `C`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<Collation>,
}

/// Resources that a plan stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Memory limit of both containers together, bytes; reserved on the host.
    pub memory_bytes: u64,
    /// CPU limit in thousandths of one CPU.
    pub cpu_millis: u32,
    /// Disk space of the tenant, bytes: placement counts it, and its host holds the tenant to it.
    pub disk_bytes: u64,
    /// Odoo HTTP workers; 0: threaded, without a gevent port.
    pub workers: u32,
    /// Further limits, as far as the plan says any.
    #[serde(default, skip_serializing_if = "Bounds::are_unsaid")]
    pub bounds: Bounds,
}

impl Size {
    /// Whether reading from or writing to the device that holds tenants' data is limited.
    pub fn limits_device(&self) -> bool {
        let Bounds {
            device_read_bps,
            device_write_bps,
            device_read_iops,
            device_write_iops,
            ..
        } = self.bounds;
        device_read_bps > 0 || device_write_bps > 0 || device_read_iops > 0 || device_write_iops > 0
    }
}

/// Limits of a tenant's containers beyond memory and CPU. 0: the plan does not say, and the host's default holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// Processes and threads of Odoo's container.
    #[serde(skip_serializing_if = "is_unsaid")]
    pub pids: u32,
    /// Files that one process may have open.
    #[serde(skip_serializing_if = "is_unsaid")]
    pub nofile: u32,
    /// What each container may read from the device that holds tenants' data, bytes per second.
    #[serde(skip_serializing_if = "is_unsaid")]
    pub device_read_bps: u64,
    /// What it may write to it, bytes per second.
    #[serde(skip_serializing_if = "is_unsaid")]
    pub device_write_bps: u64,
    /// Reads per second.
    #[serde(skip_serializing_if = "is_unsaid")]
    pub device_read_iops: u32,
    /// Writes per second.
    #[serde(skip_serializing_if = "is_unsaid")]
    pub device_write_iops: u32,
}

impl Bounds {
    /// Whether the plan says none of them.
    pub fn are_unsaid(&self) -> bool {
        *self == Self::default()
    }
}

fn is_unsaid<T: Default + PartialEq>(limit: &T) -> bool {
    *limit == T::default()
}

/// Why a value is refused; `Display` says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub String);

/// Shared when cloned: thousands of tenants have the same images, language and time zone.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The checked text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = ValueError;
            fn from_str(text: &str) -> Result<Self, ValueError> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|problem| ValueError(format!("`{}` {problem}", crate::echo::echo(text))))?;
                Ok(Self(text.into()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = ValueError;
            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
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
    };
}

fn ensure(condition: bool, problem: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(problem) }
}

fn is_dns_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

text_type!(
    /// A fully qualified host name in lower-case ASCII (RFC 1123): at least two labels, no trailing dot.
    Domain,
    |text| {
        let labels: Vec<&str> = text.split('.').collect();
        let last_is_alphabetic = labels.last().is_some_and(|l| l.starts_with(|c: char| c.is_ascii_lowercase()));
        ensure(
            text.len() <= 253 && labels.len() >= 2 && labels.iter().all(|l| is_dns_label(l)) && last_is_alphabetic,
            "is not a host name such as `erp.example.com` (lower case, ASCII)",
        )
    }
);
text_type!(
    /// An Odoo language code: `pt_BR`, `en_US`, `sr@latin`, `es_419`.
    Language,
    |text| {
        let (base, variant) = text.split_once('@').unwrap_or((text, "x"));
        let (language, territory) = base.split_once('_').unwrap_or((base, "XX"));
        let ok = (2..=3).contains(&language.len())
            && language.bytes().all(|b| b.is_ascii_lowercase())
            && (2..=3).contains(&territory.len())
            && territory.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
            && (1..=12).contains(&variant.len())
            && variant.bytes().all(|b| b.is_ascii_alphanumeric());
        ensure(ok, "is not an Odoo language code such as `pt_BR` or `en_US`")
    }
);
text_type!(
    /// A country code: ISO 3166-1 alpha-2, upper case.
    Country,
    |text| ensure(text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()), "is not a two-letter country code such as `BR`")
);
text_type!(
    /// An IANA time zone name.
    TimeZone,
    |text| {
        let ok = (1..=64).contains(&text.len())
            && text.split('/').all(|part| {
                part.starts_with(|c: char| c.is_ascii_alphabetic())
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+'))
            });
        ensure(ok, "is not a time zone such as `America/Sao_Paulo` or `UTC`")
    }
);
text_type!(
    /// An order of ICU's by its language tag: `pt-BR`, `de-u-co-phonebk`.
    Collation,
    |text| {
        let part = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
        let language = text.split('-').next().unwrap_or_default();
        let ok = text.len() <= 63
            && (2..=3).contains(&language.len())
            && language.bytes().all(|b| b.is_ascii_lowercase())
            && text.split('-').all(part);
        ensure(ok, "is not a language's order such as `pt-BR`")
    }
);
text_type!(
    /// An Odoo module's technical name.
    Module,
    |text| {
        let ok = (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        ensure(ok, "is not a module's technical name such as `sale_management`")
    }
);
text_type!(
    /// An image reference as Docker accepts it: `name[:tag][@sha256:…]`, optionally with a registry.
    ImageRef,
    |text| {
        let (name, digest) = text.split_once('@').map_or((text, None), |(n, d)| (n, Some(d)));
        let digest_ok = digest.is_none_or(|d| {
            d.strip_prefix("sha256:").is_some_and(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()))
        });
        let name_ok = (1..=255).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':'))
            && !name.ends_with(['/', ':', '-', '.'])
            && !name.contains("//");
        ensure(digest_ok && name_ok, "is not an image reference such as `odoo:18.0` or `registry.example.com/odoo@sha256:…`")
    }
);
text_type!(
    /// The key of a host's label.
    LabelKey,
    |text| {
        let ok = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
        ensure(ok, "is not a label key: letters, digits, `.`, `_`, `-`, `/`, at most 63")
    }
);
text_type!(
    /// The value of a host's label.
    LabelValue,
    |text| {
        let ok = text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        ensure(ok, "is not a label value: letters, digits, `.`, `_`, `-`, at most 63")
    }
);
text_type!(
    /// A login name: printable ASCII without quotes, spaces or backslash.
    Login,
    |text| {
        let ok = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b'+'));
        ensure(ok, "is not a login such as `admin` or `ana@example.com`")
    }
);

/// Whether a certificate for `name` (`*.isy.one` or a plain one) covers a host; the star stands for one label.
pub fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix('*') {
        None => name == host,
        Some(base) => host
            .strip_suffix(base)
            .is_some_and(|label| !label.is_empty() && !label.contains('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_without_further_limits_is_stored_as_before() {
        let before = r#"{"memory_bytes":1,"cpu_millis":2,"disk_bytes":3,"workers":4}"#;
        let mut size: Size = serde_json::from_str(before).unwrap();
        assert_eq!(serde_json::to_string(&size).unwrap(), before);
        size.bounds.pids = 500;
        let text = serde_json::to_string(&size).unwrap();
        assert!(text.ends_with(r#","bounds":{"pids":500}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Size>(&text).unwrap(), size);
    }

    #[test]
    fn values_are_checked() {
        for good in ["erp.example.com", "a.io", "xn--bcher-kva.example"] {
            assert!(good.parse::<Domain>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost",
            "a..b",
            "-a.com",
            "A.com",
            "a.com.",
            "a.com/x",
            "`a`.com",
            "1.2.3.4",
        ] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
        for good in ["pt_BR", "en_US", "sr@latin", "es_419", "fr"] {
            assert!(good.parse::<Language>().is_ok(), "{good}");
        }
        for bad in ["", "pt-BR", "PT_br", "pt_BR;", "pt_BR\n", "$(id)"] {
            assert!(bad.parse::<Language>().is_err(), "{bad}");
        }
        for good in [
            "odoo:18.0",
            "registry.example.com:5000/a/odoo:18.0",
            "isyone/standin:1",
        ] {
            assert!(good.parse::<ImageRef>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "Odoo",
            "odoo:",
            "odoo 18",
            "odoo@sha256:12",
            "a//b",
            "-x",
            "$(x)",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
        assert!(
            format!("odoo@sha256:{}", "a".repeat(64))
                .parse::<ImageRef>()
                .is_ok()
        );
        assert!(
            "America/Sao_Paulo".parse::<TimeZone>().is_ok()
                && "../etc".parse::<TimeZone>().is_err()
        );
        assert!(
            "sale_management".parse::<Module>().is_ok() && "sale,stock".parse::<Module>().is_err()
        );
        assert!("ana@example.com".parse::<Login>().is_ok() && "a'b".parse::<Login>().is_err());
    }
}

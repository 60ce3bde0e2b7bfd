//! Settings of a tenant's Odoo that may be chosen: lines of odoo.conf and environment variables, each with what it may be.
//!
//! A list of what is allowed, because most of Odoo's options are not a customer's to set: where its database is, what it listens on, who
//! it believes to be a proxy. Values only. Not here: who chooses them (coordinator), their lines (the agent's plan::conf).

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    echo::echo,
    spec::{Module, ValueError},
};

/// Longest value.
const MAX_TEXT: usize = 1_024;
/// Most parts of a value that is a list.
const MAX_PARTS: usize = 16;

/// What a setting is for Odoo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An option of odoo.conf.
    Option,
    /// More of an option that isyone sets.
    More,
    /// The option `channels` of odoo.conf's section `queue_job`.
    Channels,
    /// An environment variable.
    Environment,
}

/// What a value may be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A number within bounds, both included.
    Number(u64, u64),
    /// `True` or `False`.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Loggers with their levels: `odoo.sql_db:DEBUG`, separated by commas.
    Handlers,
    /// Modules, separated by commas.
    Modules,
    /// Channels of jobs with their capacity: `root:4`, `root.mail:1`, separated by commas.
    Channels,
}

/// Levels of a logger. Those of `log_level` that log what a visitor sends, passwords as well, are none.
const LEVELS: [&str; 5] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

/// All settings that there are, sorted by name. Bounds keep a tenant from settings under which it could not start.
const KNOWN: &[(&str, Place, Kind)] = &[
    ("MALLOC_ARENA_MAX", Place::Environment, Kind::Number(1, 64)),
    (
        "ODOO_BUS_PUBLIC_SAMESITE_WS",
        Place::Environment,
        Kind::Flag,
    ),
    (
        "ODOO_HTTP_SOCKET_TIMEOUT",
        Place::Environment,
        Kind::Number(1, 600),
    ),
    (
        "ODOO_LIMIT_LITEVAL_BUFFER",
        Place::Environment,
        Kind::Number(10_240, 16 << 20),
    ),
    (
        "ODOO_MAX_HTTP_THREADS",
        Place::Environment,
        Kind::Number(4, 1_024),
    ),
    (
        "ODOO_NOTIFY_PAYLOAD_MAX_LENGTH",
        Place::Environment,
        Kind::Number(1_000, 8_000),
    ),
    ("db_maxconn", Place::Option, Kind::Number(4, 190)),
    (
        "limit_memory_hard",
        Place::Option,
        Kind::Number(256 << 20, 1 << 40),
    ),
    ("limit_memory_soft", Place::Option, Kind::Number(0, 1 << 40)),
    (
        "limit_request",
        Place::Option,
        Kind::Number(100, 10_000_000),
    ),
    ("limit_time_cpu", Place::Option, Kind::Number(30, 86_400)),
    ("limit_time_real", Place::Option, Kind::Number(60, 86_400)),
    (
        "limit_time_real_cron",
        Place::Option,
        Kind::Number(0, 604_800),
    ),
    (
        "limit_time_worker_cron",
        Place::Option,
        Kind::Number(0, 604_800),
    ),
    ("log_handler", Place::Option, Kind::Handlers),
    (
        "log_level",
        Place::Option,
        Kind::Word(&["debug", "info", "warn", "error", "critical"]),
    ),
    (
        "osv_memory_count_limit",
        Place::Option,
        Kind::Number(0, 10_000_000),
    ),
    ("queue_job_channels", Place::Channels, Kind::Channels),
    ("server_wide_modules", Place::More, Kind::Modules),
    ("transient_age_limit", Place::Option, Kind::Number(1, 720)),
    ("unaccent", Place::Option, Kind::Flag),
];

/// The name of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "&'static str")]
pub struct Name(&'static str);

impl Name {
    /// The name itself.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// What it is for Odoo.
    pub fn place(self) -> Place {
        self.known().0
    }

    fn known(self) -> (Place, Kind) {
        let found = KNOWN.iter().find(|(name, ..)| *name == self.0);
        // Names are made of the list only.
        found.map_or((Place::Option, Kind::Flag), |(_, place, kind)| {
            (*place, *kind)
        })
    }

    /// All names.
    pub fn all() -> impl Iterator<Item = Self> {
        KNOWN.iter().map(|(name, ..)| Self(name))
    }

    /// The value as Odoo reads it.
    pub fn value(self, text: &str) -> Result<String, ValueError> {
        let wrong =
            |what: String| ValueError(format!("{} is {what}, not `{}`", self.0, echo(text)));
        if text.len() > MAX_TEXT {
            return Err(wrong(format!("at most {MAX_TEXT} characters long")));
        }
        match self.known().1 {
            Kind::Number(least, most) => {
                let number = text.parse::<u64>().ok();
                let number = number.filter(|number| (least..=most).contains(number));
                let number =
                    number.ok_or_else(|| wrong(format!("a number from {least} to {most}")))?;
                Ok(number.to_string())
            }
            Kind::Flag => match text.to_ascii_lowercase().as_str() {
                "true" => Ok("True".to_owned()),
                "false" => Ok("False".to_owned()),
                _ => Err(wrong("`true` or `false`".to_owned())),
            },
            Kind::Word(words) if words.contains(&text) => Ok(text.to_owned()),
            Kind::Word(words) => Err(wrong(format!("one of {}", words.join(", ")))),
            Kind::Handlers => list(text, is_handler).ok_or_else(|| {
                wrong("loggers with levels such as `odoo.sql_db:DEBUG`, at most 16".to_owned())
            }),
            Kind::Modules => list(text, |part| part.parse::<Module>().is_ok()).ok_or_else(|| {
                wrong("names of modules such as `queue_job`, at most 16".to_owned())
            }),
            Kind::Channels => list(text, is_channel).ok_or_else(|| {
                wrong(
                    "channels with capacities such as `root:4,root.mail:1`, at most 16".to_owned(),
                )
            }),
        }
    }
}

/// The parts of a list, each of which fits, without spaces between them.
fn list(text: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let all = parts.len() <= MAX_PARTS && parts.iter().all(|part| fits(part));
    all.then(|| parts.join(","))
}

fn is_dotted(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_handler(part: &str) -> bool {
    let found = part.split_once(':');
    found.is_some_and(|(logger, level)| is_dotted(logger) && LEVELS.contains(&level))
}

fn is_channel(part: &str) -> bool {
    let Some((channel, capacity)) = part.split_once(':') else {
        return false;
    };
    let is_root = channel == "root" || channel.starts_with("root.");
    is_root && is_dotted(channel) && capacity.parse::<u16>().is_ok_and(|count| count > 0)
}

impl From<Name> for &'static str {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl FromStr for Name {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut all = Self::all();
        all.find(|name| name.0 == text).ok_or_else(|| {
            let all: Vec<&str> = Self::all().map(Self::as_str).collect();
            ValueError(format!(
                "`{}` is no setting that may be chosen; these are: {}",
                echo(text),
                all.join(", ")
            ))
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// Settings with their values. What was stored or ordered by a version that knew others, or other bounds, is kept as it came and counts
/// for nothing: it must not keep this one from reading all the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct OdooSettings {
    chosen: BTreeMap<Name, String>,
    unusable: BTreeMap<String, String>,
}

/// As they are stored.
#[derive(Serialize, Deserialize)]
struct Stored(BTreeMap<String, String>);

impl From<Stored> for OdooSettings {
    fn from(stored: Stored) -> Self {
        Self::lenient(stored.0)
    }
}

impl From<OdooSettings> for Stored {
    fn from(settings: OdooSettings) -> Self {
        let mut all = settings.unusable;
        let chosen = settings.chosen.into_iter();
        all.extend(chosen.map(|(name, value)| (name.0.to_owned(), value)));
        Self(all)
    }
}

impl OdooSettings {
    /// None.
    pub const fn none() -> Self {
        Self {
            chosen: BTreeMap::new(),
            unusable: BTreeMap::new(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty() && self.unusable.is_empty()
    }

    /// Whatever is among them; to be used where somebody else has checked them.
    pub fn lenient(map: BTreeMap<String, String>) -> Self {
        let mut settings = Self::none();
        for (name, value) in map {
            let known = name.parse::<Name>();
            if known.and_then(|known| settings.set(known, &value)).is_err() {
                settings.unusable.insert(name, value);
            }
        }
        settings
    }

    /// The names of those that this version cannot use.
    pub fn unusable(&self) -> impl Iterator<Item = &str> {
        self.unusable.keys().map(String::as_str)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &str)> {
        let chosen = self.chosen.iter();
        chosen.map(|(name, value)| (*name, value.as_str()))
    }

    /// The value of a setting, if it is among them.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.iter();
        all.find(|(known, _)| known.0 == name)
            .map(|(_, value)| value)
    }

    /// A number among them.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Sets one, in place of the value that it had.
    pub fn set(&mut self, name: Name, value: &str) -> Result<(), ValueError> {
        self.chosen.insert(name, name.value(value)?);
        self.unusable.remove(name.0);
        Ok(())
    }

    /// Takes one away; `false`: it was not there.
    pub fn remove(&mut self, name: Name) -> bool {
        let unusable = self.unusable.remove(name.0).is_some();
        self.chosen.remove(&name).is_some() || unusable
    }

    /// These, with others in their place where those say something that can be used.
    pub fn under(mut self, others: &Self) -> Self {
        for (name, value) in &others.chosen {
            self.chosen.insert(*name, value.clone());
            self.unusable.remove(name.0);
        }
        self
    }
}

impl TryFrom<BTreeMap<String, String>> for OdooSettings {
    type Error = ValueError;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, ValueError> {
        let mut settings = Self::default();
        for (name, value) in map {
            settings.set(name.parse()?, &value)?;
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str, text: &str) -> Result<String, ValueError> {
        name.parse::<Name>()?.value(text)
    }

    #[test]
    fn the_list_is_sorted_and_has_nothing_that_is_not_a_customers() {
        assert!(KNOWN.is_sorted_by_key(|(name, ..)| *name));
        for never in [
            "admin_passwd",
            "db_name",
            "dbfilter",
            "list_db",
            "proxy_mode",
            "addons_path",
            "data_dir",
            "http_interface",
            "smtp_password",
            "workers",
            "logfile",
            "PGPASSWORD",
            "PATH",
            "LD_PRELOAD",
            "PYTHONPATH",
            "ODOO_RC",
            "dev_mode",
        ] {
            let said = never.parse::<Name>().unwrap_err().to_string();
            assert!(said.contains("log_level"), "{said}");
        }
    }

    /// Fails if one setting of another version's keeps a store or a plan from being read, or is lost by that.
    #[test]
    fn what_cannot_be_used_is_kept_and_counts_for_nothing() {
        let text = r#"{"limit_time_real":"10","log_level":"warn","of_tomorrow":"1"}"#;
        let mut read: OdooSettings = serde_json::from_str(text).unwrap();
        let names = |all: &OdooSettings| all.unusable().map(ToOwned::to_owned).collect::<Vec<_>>();
        assert_eq!(names(&read), ["limit_time_real", "of_tomorrow"]);
        assert_eq!(read.iter().count(), 1);
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let strict: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
        assert!(OdooSettings::try_from(strict).is_err());
        // It is in no layer's place, and gives way to one that counts.
        let below = OdooSettings::none().under(&read);
        assert_eq!(
            (names(&below).len(), below.number("limit_time_real")),
            (0, None)
        );
        let name: Name = "limit_time_real".parse().unwrap();
        read.set(name, "300").unwrap();
        assert_eq!(names(&read), ["of_tomorrow"]);
        assert!(!read.is_empty() && read.remove(name) && !read.remove(name));
    }

    #[test]
    fn values_have_types_and_bounds() {
        for (name, text, read) in [
            ("limit_time_real", "0300", "300"),
            ("limit_memory_soft", "0", "0"),
            ("unaccent", "false", "False"),
            ("log_level", "warn", "warn"),
            (
                "log_handler",
                ":INFO, odoo.sql_db:DEBUG",
                ":INFO,odoo.sql_db:DEBUG",
            ),
            (
                "server_wide_modules",
                "queue_job, dbfilter_from_header",
                "queue_job,dbfilter_from_header",
            ),
            (
                "queue_job_channels",
                "root:4, root.mail:1",
                "root:4,root.mail:1",
            ),
            ("ODOO_MAX_HTTP_THREADS", "32", "32"),
        ] {
            assert_eq!(value(name, text).unwrap(), read, "{name}");
        }
        for (name, text) in [
            ("limit_time_real", "10"),
            ("limit_time_real", "-1"),
            ("limit_time_real", "300\nadmin_passwd = x"),
            ("db_maxconn", "1000"),
            ("unaccent", "yes"),
            ("log_level", "debug_rpc"),
            ("log_handler", "odoo.sql_db"),
            ("log_handler", "a:DEBUG\nx"),
            ("server_wide_modules", "a b"),
            ("queue_job_channels", "mail:1"),
            ("queue_job_channels", "root:0"),
            ("ODOO_MAX_HTTP_THREADS", "1"),
        ] {
            let said = value(name, text).unwrap_err().to_string();
            assert!(said.starts_with(name), "{said}");
        }
        assert!(value("log_handler", &"a:INFO,".repeat(17)).is_err());
    }

    #[test]
    fn settings_are_stored_and_laid_over_each_other() {
        let read = |json: &str| serde_json::from_str::<OdooSettings>(json);
        let fleet = read(r#"{"limit_time_real":"300","unaccent":"True"}"#).unwrap();
        let mut own = OdooSettings::default();
        own.set("limit_time_real".parse().unwrap(), "600").unwrap();
        let both = fleet.under(&own);
        let json = serde_json::to_string(&both).unwrap();
        assert_eq!(json, r#"{"limit_time_real":"600","unaccent":"True"}"#);
        assert_eq!(read(&json).unwrap(), both);
        assert_eq!(
            (both.number("limit_time_real"), both.get("db_maxconn")),
            (Some(600), None)
        );
        assert!(own.remove("limit_time_real".parse().unwrap()) && own.is_empty());
        for stray in [r#"{"admin_passwd":"x"}"#, r#"{"unaccent":"x"}"#] {
            let read = read(stray).unwrap();
            assert!(read.iter().next().is_none(), "it counts for nothing");
        }
    }
}

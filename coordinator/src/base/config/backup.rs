//! `[backup]`: whether, how often, when and where tenants are backed up, and how long that is kept; and what a plan says otherwise.
//!
//! Not here: what follows from it (isyone_fleet::backups), the time zones themselves (the machine's database).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use isyone_fleet::{
    backups::{Keep, Policy, PolicyError, Window},
    settings,
};
use isyone_proto::{
    backup::{MAX_DESTINATIONS, Place},
    ids::ShortName,
    spec::TimeZone,
};
use serde::{Deserialize, Serialize};

use super::{
    Bytes, Config, ConfigError, Span,
    buckets::{self, Bucket},
    check::ensure,
    units::TimeOfDay,
};

/// Where the only destination lies that there is without a configuration: below the data directory.
const DEFAULT_FOLDER: &str = "backups";
/// The name of that destination.
const DEFAULT_NAME: &str = "coordinator";
/// With less a base backup of a tenant of 10 GiB would take longer than a night.
const LEAST_HOST_RATE: Bytes = Bytes::new(1 << 20);

/// `[backup]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// Whether tenants are backed up at all.
    pub enabled: bool,
    /// How much may be lost with a host.
    pub rpo: Span,
    /// When the night begins, by the clock of `time_zone`.
    pub begin: TimeOfDay,
    /// How long it lasts.
    pub length: Span,
    /// `None`: that of `defaults.time_zone`.
    pub time_zone: Option<TimeZone>,
    /// A portable dump each so many nights; 0: none.
    pub dump_nights: u16,
    /// How many states are kept: the last ones, and one of each day, week and month.
    pub keep_last: u16,
    pub keep_daily: u16,
    pub keep_weekly: u16,
    pub keep_monthly: u16,
    /// For how long back every second can be restored.
    pub every_second: Span,
    /// How long what was made on purpose is kept: on order, before a deletion; and all that there is of a deleted tenant.
    pub on_purpose: Span,
    /// Most bytes per second that are taken from one host.
    pub host_rate: Bytes,
    /// Where to; each tenant's backups go to all of them, unless its plan says which.
    pub destinations: BTreeMap<ShortName, Destination>,
    /// Copies of destinations, elsewhere.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub buckets: BTreeMap<ShortName, Bucket>,
}

/// A destination, under its name in `[backup.destinations]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// A directory of this machine; hosts add to it through the coordinator. A relative one is below the data directory.
    pub path: PathBuf,
    /// Space that is kept free there.
    #[serde(default = "reserve")]
    pub reserve: Bytes,
    /// Most bytes per second that each host sends there; `None`: the host's own limit.
    #[serde(default)]
    pub rate: Option<Bytes>,
}

/// What a coordinator needs to go on when its own disk holds the backups, too.
fn reserve() -> Bytes {
    Bytes::gib(5)
}

impl Default for Backup {
    fn default() -> Self {
        let here = Destination {
            path: DEFAULT_FOLDER.into(),
            reserve: reserve(),
            rate: None,
        };
        Self {
            // No agent of a version that makes none is ordered any: see `makes_backups` of hosts.
            enabled: true,
            rpo: Span::seconds(11 * 60),
            begin: TimeOfDay::at(60),
            length: Span::seconds(4 * 3600),
            time_zone: None,
            dump_nights: 7,
            keep_last: 2,
            keep_daily: 7,
            keep_weekly: 4,
            keep_monthly: 12,
            every_second: Span::days(7),
            on_purpose: Span::days(30),
            host_rate: Bytes::new(100 << 20),
            destinations: BTreeMap::from([(
                DEFAULT_NAME.parse().expect("a literal of this file"),
                here,
            )]),
            buckets: BTreeMap::new(),
        }
    }
}

/// `[plans.<name>.backup]`: what is otherwise for its tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanBackup {
    pub enabled: Option<bool>,
    pub rpo: Option<Span>,
    pub begin: Option<TimeOfDay>,
    pub length: Option<Span>,
    pub time_zone: Option<TimeZone>,
    pub dump_nights: Option<u16>,
    pub keep_last: Option<u16>,
    pub keep_daily: Option<u16>,
    pub keep_weekly: Option<u16>,
    pub keep_monthly: Option<u16>,
    pub every_second: Option<Span>,
    pub on_purpose: Option<Span>,
    /// Only these.
    pub destinations: Option<Vec<ShortName>>,
}

impl Backup {
    /// With what a plan says otherwise.
    fn with(&self, plan: Option<&PlanBackup>) -> (Self, Vec<ShortName>) {
        let all = || self.destinations.keys().cloned().collect();
        let Some(plan) = plan else {
            return (self.clone(), all());
        };
        let own = Self {
            enabled: self.enabled && plan.enabled.unwrap_or(true),
            rpo: plan.rpo.unwrap_or(self.rpo),
            begin: plan.begin.unwrap_or(self.begin),
            length: plan.length.unwrap_or(self.length),
            time_zone: plan.time_zone.clone().or_else(|| self.time_zone.clone()),
            dump_nights: plan.dump_nights.unwrap_or(self.dump_nights),
            keep_last: plan.keep_last.unwrap_or(self.keep_last),
            keep_daily: plan.keep_daily.unwrap_or(self.keep_daily),
            keep_weekly: plan.keep_weekly.unwrap_or(self.keep_weekly),
            keep_monthly: plan.keep_monthly.unwrap_or(self.keep_monthly),
            every_second: plan.every_second.unwrap_or(self.every_second),
            on_purpose: plan.on_purpose.unwrap_or(self.on_purpose),
            host_rate: self.host_rate,
            destinations: BTreeMap::new(),
            buckets: BTreeMap::new(),
        };
        (own, plan.destinations.clone().unwrap_or_else(all))
    }

    fn policy(&self, destinations: Vec<ShortName>) -> Policy {
        let minutes = self.length.get().as_secs() / 60;
        Policy {
            may_lose_ms: self.rpo.millis(),
            dump_nights: self.dump_nights,
            keep: Keep {
                last: self.keep_last,
                daily: self.keep_daily,
                weekly: self.keep_weekly,
                monthly: self.keep_monthly,
                every_second_ms: self.every_second.millis(),
                on_purpose_ms: self.on_purpose.millis(),
            },
            window: Window {
                begin_minute: self.begin.minutes(),
                // A length that does not fit is none that is allowed either.
                length_minutes: u16::try_from(minutes).unwrap_or(u16::MAX),
            },
            destinations,
        }
    }
}

/// The key that a policy's error is about.
fn key_of(error: PolicyError) -> &'static str {
    match error {
        PolicyError::TooLittleLoss | PolicyError::TooMuchLoss => "rpo",
        PolicyError::Window => "length",
        PolicyError::Keep => "keep_last",
        PolicyError::Time => "every_second",
        PolicyError::Destinations => "destinations",
    }
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let backup = &config.backup;
    let named = &backup.destinations;
    ensure(
        named.len() <= MAX_DESTINATIONS,
        "backup.destinations",
        || format!("{} are more than {MAX_DESTINATIONS}", named.len()),
    )?;
    ensure(
        !backup.enabled || !named.is_empty(),
        "backup.destinations",
        || "must name at least one; enabled = false for no backups".to_owned(),
    )?;
    ensure(
        backup.host_rate >= LEAST_HOST_RATE,
        "backup.host_rate",
        || "must be at least \"1MiB\"".to_owned(),
    )?;
    for (name, destination) in named {
        let key = format!("backup.destinations.{name}");
        destination.check(&key)?;
    }
    apart(named, &config.data_dir)?;
    buckets::check(backup)?;
    one("backup", config, None)?;
    for (name, plan) in &config.plans {
        if let Some(own) = &plan.backup {
            one(&format!("plans.{name}.backup"), config, Some(own))?;
        }
    }
    Ok(())
}

impl Destination {
    fn check(&self, key: &str) -> Result<(), ConfigError> {
        let path = format!("{key}.path");
        ensure(!self.path.as_os_str().is_empty(), &path, || {
            "must be a directory".to_owned()
        })?;
        let climbs = self
            .path
            .components()
            .any(|c| c == std::path::Component::ParentDir);
        ensure(!climbs, &path, || "must not have \"..\" in it".to_owned())?;
        let fits = self.rate.is_none_or(|rate| rate >= LEAST_HOST_RATE);
        ensure(fits, &format!("{key}.rate"), || {
            "must be at least \"1MiB\"; leave it out for the host's own limit".to_owned()
        })
    }

    /// The directory, and whether we make it: what an operator has named may be a disk that is not mounted.
    pub fn directory(&self, data_dir: &Path) -> (PathBuf, bool) {
        (data_dir.join(&self.path), self.path.is_relative())
    }
}

/// Two destinations in one place would be one, and a copy of nothing. However they are written: one may be named below the data
/// directory and the other in full.
fn apart(named: &BTreeMap<ShortName, Destination>, data_dir: &Path) -> Result<(), ConfigError> {
    let directory = |destination: &Destination| destination.directory(data_dir).0;
    for (name, destination) in named {
        let own = directory(destination);
        let mut others = named.iter().filter(|(other, _)| *other != name);
        let within = others.find(|(_, other)| own.starts_with(directory(other)));
        ensure(
            within.is_none(),
            &format!("backup.destinations.{name}.path"),
            || {
                let other = within.map(|(other, _)| other.as_str());
                format!("is within that of `{}`", other.unwrap_or_default())
            },
        )?;
    }
    Ok(())
}

/// Checks what holds for one plan, or for all.
fn one(key: &str, config: &Config, plan: Option<&PlanBackup>) -> Result<(), ConfigError> {
    let (own, destinations) = config.backup.with(plan);
    let unknown = destinations
        .iter()
        .find(|d| !config.backup.destinations.contains_key(*d));
    let place = format!("{key}.destinations");
    ensure(unknown.is_none(), &place, || {
        let name = unknown.map(ShortName::as_str).unwrap_or_default();
        format!("`{name}` is not one of [backup.destinations]")
    })?;
    ensure(!own.enabled || !destinations.is_empty(), &place, || {
        "must name at least one; enabled = false for no backups".to_owned()
    })?;
    ensure(
        own.length.get().as_secs() % 60 == 0,
        &format!("{key}.length"),
        || "must be whole minutes".to_owned(),
    )?;
    let policy = own.policy(destinations);
    policy
        .check()
        .map_err(|e| ConfigError::at(&format!("{key}.{}", key_of(e)), e.to_string()))?;
    let said = own.time_zone.is_some();
    let zone = own.time_zone.as_ref().unwrap_or(&config.defaults.time_zone);
    let place = if said {
        format!("{key}.time_zone")
    } else {
        "defaults.time_zone".to_owned()
    };
    ensure(!own.enabled || zone_of(zone).is_some(), &place, || {
        format!("`{zone}` is not in this machine's time zone database (package tzdata)")
    })
}

/// A time zone as the machine knows it.
fn zone_of(name: &TimeZone) -> Option<jiff::tz::TimeZone> {
    match name.as_str() {
        // Known everywhere, also where there is no database.
        "UTC" => Some(jiff::tz::TimeZone::UTC),
        name => jiff::tz::TimeZone::get(name).ok(),
    }
}

impl Config {
    /// What the core is told of backups.
    pub(super) fn backups(&self) -> settings::Backups {
        let of = |plan: Option<&PlanBackup>| {
            let (own, destinations) = self.backup.with(plan);
            own.enabled.then(|| own.policy(destinations))
        };
        let plans = self.plans.iter();
        let reached = |(name, destination): (&ShortName, &Destination)| {
            let reached = settings::BackupDestination {
                at: Place::Coordinator,
                rate_bytes_per_s: destination.rate.map_or(0, Bytes::get),
            };
            (name.clone(), reached)
        };
        settings::Backups {
            destinations: self.backup.destinations.iter().map(reached).collect(),
            policies: plans
                .map(|(name, plan)| (name.clone(), of(plan.backup.as_ref())))
                .collect(),
            standard: of(None),
        }
    }

    /// The time zone of a plan's nights; UTC for one that this machine does not know, which [`Config::check`] would have said.
    pub fn backup_zone(&self, plan: Option<&ShortName>) -> jiff::tz::TimeZone {
        let own = plan.and_then(|plan| self.plans.get(plan)?.backup.as_ref());
        let (own, _) = self.backup.with(own);
        let name = own.time_zone.as_ref().unwrap_or(&self.defaults.time_zone);
        zone_of(name).unwrap_or(jiff::tz::TimeZone::UTC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let config = Config::parse("f", text).unwrap();
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn a_first_backup_needs_no_configuration() {
        let config = Config::default();
        config.check().unwrap();
        let backups = config.settings().backups;
        let standard = Policy::standard(vec!["coordinator".parse().unwrap()]);
        assert_eq!(backups.standard, Some(standard.clone()));
        assert_eq!(backups.policies["small"], Some(standard));
        let (folder, ours) = config.backup.destinations["coordinator"].directory("/data".as_ref());
        assert_eq!((folder, ours), ("/data/backups".into(), true));
    }

    #[test]
    fn a_plan_says_what_is_otherwise() {
        let text = "[backup]\nrpo = \"1h\"\n[backup.destinations.a]\npath = \"/a\"\n\
             [backup.destinations.b]\npath = \"/b\"\nrate = \"20MiB\"\n\
             [plans.small]\nmemory = \"1GiB\"\ncpu = 1\ndisk = \"1GiB\"\n\
             [plans.small.backup]\nbegin = \"22:30\"\ndestinations = [\"b\"]\n\
             [plans.test]\nmemory = \"1GiB\"\ncpu = 1\ndisk = \"1GiB\"\n\
             [plans.test.backup]\nenabled = false\n";
        let config = Config::parse("f", text).unwrap();
        config.check().unwrap();
        assert_eq!(Config::parse("g", &config.to_toml()).unwrap(), config);
        let backups = config.settings().backups;
        let small = backups.policy(&"small".parse().unwrap()).unwrap();
        assert_eq!(
            (small.window.begin_minute, small.may_lose_ms),
            (1350, 3_600_000)
        );
        assert_eq!(small.destinations, ["b".parse().unwrap()]);
        assert_eq!(backups.policy(&"test".parse().unwrap()), None);
        let gone = backups.policy(&"of-before".parse().unwrap()).unwrap();
        assert_eq!(
            gone.destinations.len(),
            2,
            "a plan that is gone has the usual"
        );
        assert_eq!(backups.destinations["b"].rate_bytes_per_s, 20 << 20);
        let off = Config::parse("f", "[backup]\nenabled = false").unwrap();
        off.check().unwrap();
        let off = off.settings().backups;
        assert_eq!(
            (off.policy(&"small".parse().unwrap()), &off.standard),
            (None, &None)
        );
    }

    #[test]
    fn what_cannot_be_held_is_refused_by_name() {
        let plan =
            "[plans.small]\nmemory = \"1GiB\"\ncpu = 1\ndisk = \"1GiB\"\n[plans.small.backup]\n";
        for (text, key) in [
            ("[backup]\nrpo = \"1m\"", "backup.rpo"),
            ("[backup]\nrpo = \"2d\"", "backup.rpo"),
            ("[backup]\nlength = \"10m\"", "backup.length"),
            ("[backup]\nlength = \"90s\"", "backup.length"),
            ("[backup]\nkeep_last = 0", "backup.keep_last"),
            ("[backup]\nevery_second = \"1000d\"", "backup.every_second"),
            ("[backup]\nhost_rate = 1", "backup.host_rate"),
            ("[backup]\ntime_zone = \"Mars/Olympus\"", "backup.time_zone"),
            ("[backup.destinations]", "backup.destinations"),
            (
                "[backup.destinations.a]\npath = \"\"",
                "backup.destinations.a.path",
            ),
            (
                "[backup.destinations.a]\npath = \"../x\"",
                "backup.destinations.a.path",
            ),
            (
                "[backup.destinations.a]\npath = \"/x\"\nrate = 5",
                "backup.destinations.a.rate",
            ),
            (
                "[backup.destinations.a]\npath = \"/x\"\n[backup.destinations.b]\npath = \"/x/y\"",
                "backup.destinations.b.path",
            ),
            (
                "data_dir = \"/var/lib/isyone\"\n[backup.destinations.a]\npath = \"backups\"\n\
                 [backup.destinations.b]\npath = \"/var/lib/isyone/backups\"",
                "backup.destinations.a.path",
            ),
            (
                &format!("{plan}destinations = [\"nowhere\"]"),
                "plans.small.backup.destinations",
            ),
            (
                &format!("{plan}destinations = []"),
                "plans.small.backup.destinations",
            ),
            (&format!("{plan}rpo = \"1s\""), "plans.small.backup.rpo"),
        ] {
            let said = refused(text);
            assert!(said.starts_with(key), "{text}: {said}");
        }
        for text in ["1:00", "24:00", "01:60", "", "0100", "+1:00"] {
            let text = format!("[backup]\nbegin = \"{text}\"");
            let said = Config::parse("f", &text).unwrap_err().to_string();
            assert!(said.starts_with("f line 2, backup.begin"), "{said}");
        }
    }
}

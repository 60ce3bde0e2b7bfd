//! `[mail]` and `[plans.*.mail]`: how tenants' Odoos send mail.
//!
//! Not here: the passwords (base/mail), what a single tenant says itself (the protocol's SetMail).

use std::{collections::BTreeMap, path::PathBuf};

use isyone_fleet::settings::{ConfiguredMail, MailRules};
use isyone_proto::{
    ids::ShortName,
    mail::{MAX_PER_DAY, MAX_SENDERS, Mail, MailHost, MailTls, MailUser, Relay, Sender, Via},
    spec::Domain,
};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, check::ensure};

/// Which server takes tenants' messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// None.
    #[default]
    None,
    /// One that passes them on.
    Relay,
    /// The hosts' catchers, which keep them.
    Catcher,
}

/// `[mail]`, or of a plan in place of that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailConfig {
    /// Which server.
    pub kind: Kind,
    /// Where a relay is.
    pub host: Option<MailHost>,
    /// Its port; default: the usual one.
    pub port: Option<u16>,
    /// Whether the connection to it is encrypted; default: STARTTLS.
    pub tls: Option<MailTls>,
    /// Whether its certificate must be one that Odoo's image trusts; default: yes.
    pub verify: Option<bool>,
    /// Whom to log in as.
    pub user: Option<MailUser>,
    /// File with the password, relative to the data directory.
    pub password_file: Option<PathBuf>,
    /// Where messages are from that nobody in particular sends.
    pub sender_domain: Option<Domain>,
    /// Who may be named as the sender.
    pub from_filter: Vec<Sender>,
    /// The domain of aliases, bounces and answers.
    pub alias_domain: Option<Domain>,
    /// Messages of one tenant in a day; 0: any number.
    pub per_day: u32,
}

impl MailConfig {
    fn is_unsaid(&self) -> bool {
        *self == Self::default()
    }

    /// In the core's own types; [`check`] has let it pass.
    fn mail(&self) -> Mail {
        let via = match (self.kind, &self.host) {
            (Kind::Relay, Some(host)) => Via::Relay(self.relay(host.clone())),
            (Kind::Catcher, _) => Via::Catcher,
            (Kind::None | Kind::Relay, _) => Via::Nobody,
        };
        Mail {
            via,
            sender_domain: self.sender_domain.clone(),
            from_filter: self.from_filter.clone(),
            alias_domain: self.alias_domain.clone(),
            per_day: self.per_day,
        }
    }

    fn relay(&self, host: MailHost) -> Relay {
        let tls = self.tls.unwrap_or(MailTls::Starttls);
        Relay {
            host,
            port: self.port.unwrap_or(tls.port()),
            tls,
            unverified: self.verify == Some(false),
            user: self.user.clone(),
        }
    }

    fn check(&self, key: &str) -> Result<(), ConfigError> {
        let at = |field: &str| format!("{key}.{field}");
        let is_relay = self.kind == Kind::Relay;
        ensure(self.host.is_some() == is_relay, &at("host"), || {
            "and kind = \"relay\" belong together: give both or none".to_owned()
        })?;
        for (field, is_set) in [
            ("port", self.port.is_some()),
            ("tls", self.tls.is_some()),
            ("verify", self.verify.is_some()),
            ("user", self.user.is_some()),
        ] {
            ensure(is_relay || !is_set, &at(field), || {
                "only with kind = \"relay\"".to_owned()
            })?;
        }
        ensure(self.port != Some(0), &at("port"), || {
            "must be 1 to 65535".to_owned()
        })?;
        let mail = self.mail();
        let closed = mail
            .relay()
            .is_some_and(|relay| relay.place().is_none() && relay.port == MailTls::None.port());
        ensure(!closed, &at("port"), || {
            "25 is closed to tenants: give the server's IPv4 address as its host, and it is open to them, or another port".to_owned()
        })?;
        ensure(
            self.user.is_some() == self.password_file.is_some(),
            &at("password_file"),
            || "and user belong together: give both or none".to_owned(),
        )?;
        let senders = self.from_filter.len();
        ensure(senders <= MAX_SENDERS, &at("from_filter"), || {
            format!("has more than {MAX_SENDERS}")
        })?;
        ensure(self.per_day <= MAX_PER_DAY, &at("per_day"), || {
            format!("must be at most {MAX_PER_DAY}; 0 for no limit")
        })
    }
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let all = config.mails();
    all.into_iter()
        .try_for_each(|(_, key, mail)| mail.check(&key))
}

impl Config {
    /// All settings of mail that are said: of a plan, or of the fleet (`None`), with their keys in the file.
    pub fn mails(&self) -> Vec<(Option<&ShortName>, String, &MailConfig)> {
        let fleets = Some(&self.mail).filter(|mail| !mail.is_unsaid());
        let fleets = fleets.map(|mail| (None, "mail".to_owned(), mail));
        let plans = self.plans.iter().filter_map(|(name, plan)| {
            let mail = plan.mail.as_ref()?;
            Some((Some(name), format!("plans.{name}.mail"), mail))
        });
        fleets.into_iter().chain(plans).collect()
    }

    /// The same for the core; without the marks of passwords, which are in files.
    pub(super) fn mail_rules(&self) -> MailRules {
        let mut rules = MailRules {
            fleet: None,
            plans: BTreeMap::new(),
        };
        for (plan, _, mail) in self.mails() {
            let configured = ConfiguredMail {
                mail: mail.mail(),
                password_mark: String::new(),
            };
            match plan {
                Some(plan) => drop(rules.plans.insert(plan.clone(), configured)),
                None => rules.fleet = Some(configured),
            }
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "[mail]\nkind = \"relay\"\nhost = \"smtp.example.com\"\n";
    const SMALL: &str = "[plans.small]\nmemory = \"1GiB\"\ncpu = 1\ndisk = \"10GiB\"\n";

    fn rules(text: &str) -> MailRules {
        let config = Config::parse("f", text).unwrap();
        config.check().unwrap();
        config.settings().mail
    }

    #[test]
    fn nothing_is_set_unless_it_is_said() {
        assert_eq!(rules(""), MailRules::default());
        assert_eq!(rules("[mail]\nkind = \"none\"\n"), MailRules::default());
    }

    #[test]
    fn a_relay_is_encrypted_and_verified_unless_it_is_said_otherwise() {
        let fleets = rules(&format!(
            "{RELAY}user = \"u\"\npassword_file = \"p\"\nper_day = 9"
        ));
        let mail = fleets.fleet.unwrap().mail;
        let relay = mail.relay().unwrap();
        assert_eq!(
            (relay.port, relay.tls, relay.unverified),
            (587, MailTls::Starttls, false)
        );
        assert_eq!(
            (relay.user.as_ref().unwrap().as_str(), mail.per_day),
            ("u", 9)
        );
        let fleets = rules(&format!("{RELAY}tls = \"tls\"\nverify = false"));
        let mail = fleets.fleet.unwrap().mail;
        let relay = mail.relay().unwrap();
        assert_eq!((relay.port, relay.unverified), (465, true));
    }

    #[test]
    fn a_plan_has_its_own() {
        let rules = rules(&format!("{SMALL}[plans.small.mail]\nkind = \"catcher\"\n"));
        assert_eq!(rules.fleet, None);
        assert_eq!(rules.plans["small"].mail.via, Via::Catcher);
    }

    #[test]
    fn what_does_not_belong_together_is_found() {
        for (text, key) in [
            ("[mail]\nkind = \"relay\"", "mail.host"),
            ("[mail]\nhost = \"host\"", "mail.host"),
            ("[mail]\nkind = \"catcher\"\nport = 25", "mail.port"),
            (&format!("{RELAY}user = \"u\""), "mail.password_file"),
            (
                &format!("{RELAY}password_file = \"p\""),
                "mail.password_file",
            ),
            (&format!("{RELAY}per_day = 90000000"), "mail.per_day"),
            (&format!("{RELAY}tls = \"none\""), "mail.port"),
            (
                &format!("{SMALL}[plans.small.mail]\nverify = true"),
                "plans.small.mail.verify",
            ),
        ] {
            let config = Config::parse("f", text).unwrap();
            let said = config.check().unwrap_err().to_string();
            assert!(said.starts_with(key), "{said}");
        }
        for text in [
            "[mail]\nhost = \"localhost\"",
            "[mail]\npassword = \"x\"",
            "[mail]\nuser = \"a\\nb\"",
        ] {
            assert!(Config::parse("f", text).is_err(), "{text}");
        }
    }
}

//! The passwords at mail servers that the configuration names files of: read once, at the start.
//!
//! In memory they lie as they are, as the keys of the authority do; a plan carries the one that its tenant needs. Not here: a tenant's
//! own (sealed with its other passwords).

use std::{collections::BTreeMap, path::Path};

use argon2::Argon2;
use isyone_fleet::{
    desired::Tenant,
    settings::{MailRules, Settings},
    views::{self, SettingSource},
};
use isyone_proto::{
    ids::ShortName,
    mail::check_password,
    plan::{Secret, TenantSecrets},
};
use zeroize::Zeroizing;

use crate::base::{
    config::{Config, ConfigError},
    files,
};

/// Bytes of a mark.
const MARK_BYTES: usize = 16;

/// By plan; `None`: the fleet's.
#[derive(Debug, Default)]
pub struct MailPasswords(BTreeMap<Option<ShortName>, Secret>);

impl MailPasswords {
    /// Reads all files.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let mut found = BTreeMap::new();
        for (plan, key, mail) in config.mails() {
            if let Some(file) = &mail.password_file {
                let key = format!("{key}.password_file");
                found.insert(plan.cloned(), read(&config.data_dir.join(file), &key)?);
            }
        }
        Ok(Self(found))
    }

    /// All of them, to be kept where only our key opens them.
    pub fn all(&self) -> BTreeMap<Option<ShortName>, Secret> {
        self.0.clone()
    }

    /// Tells the core which passwords are others than before, and nothing else of them: a mark is stored within a digest, so it is made
    /// slowly, by a hash that is made for passwords.
    pub fn mark(&self, rules: &mut MailRules) {
        for (plan, password) in &self.0 {
            let configured = match plan {
                Some(plan) => rules.plans.get_mut(plan),
                None => rules.fleet.as_mut(),
            };
            if let Some(configured) = configured {
                let whose = plan.as_ref().map_or("", ShortName::as_str);
                configured.password_mark = mark(whose, password);
            }
        }
    }

    /// A tenant's passwords with the one at its mail server, where its plan or the fleet has that.
    pub fn complete(
        &self,
        settings: &Settings,
        tenant: &Tenant,
        secrets: TenantSecrets,
    ) -> TenantSecrets {
        let of = |key: Option<ShortName>| self.0.get(&key).cloned().unwrap_or_default();
        let mail_password = match views::mail(settings, tenant) {
            Some((_, SettingSource::Tenant)) => return secrets,
            Some((_, SettingSource::Plan)) => of(Some(tenant.spec.plan.clone())),
            Some((_, SettingSource::Fleet)) => of(None),
            None => Secret::default(),
        };
        TenantSecrets {
            mail_password,
            ..secrets
        }
    }
}

fn read(path: &Path, key: &str) -> Result<Secret, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
        path: path.to_owned(),
        source,
    })?;
    let text = Zeroizing::new(text);
    let wrong = |problem: String| ConfigError::Invalid {
        place: key.to_owned(),
        problem: format!("{} {problem}", path.display()),
    };
    if !files::is_private(path) {
        return Err(wrong("is readable by others: chmod 600 it".to_owned()));
    }
    let password = text.trim_end_matches(['\r', '\n']);
    check_password(password).map_err(|e| wrong(e.to_string()))?;
    Ok(Secret::new(password))
}

fn mark(whose: &str, password: &Secret) -> String {
    let salt = format!("isyone mail password {whose}");
    let mut out = [0_u8; MARK_BYTES];
    // It refuses only lengths that are none of these.
    let made = Argon2::default().hash_password_into(
        password.expose().as_bytes(),
        salt.as_bytes(),
        &mut out,
    );
    made.map_or_else(|_| String::new(), |()| hex::encode(out))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_password_is_read_from_a_private_file_and_leaves_only_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let text =
            "[mail]\nkind = \"relay\"\nhost = \"host\"\nuser = \"u\"\npassword_file = \"p\"\n";
        let mut config = Config::parse("f", text).unwrap();
        config.data_dir = dir.path().to_owned();
        assert!(matches!(
            MailPasswords::read(&config),
            Err(ConfigError::Io { .. })
        ));
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            MailPasswords::read(&config)
        };
        let said = write("hunter2\n", 0o644).unwrap_err().to_string();
        assert!(
            said.contains("mail.password_file") && said.contains("chmod 600"),
            "{said}"
        );
        let said = write("hunter2\nmore\n", 0o600).unwrap_err().to_string();
        assert!(!said.contains("hunter2"), "{said}");
        let mark = |text: &str| {
            let passwords = write(text, 0o600).unwrap();
            assert!(!format!("{passwords:?}").contains("hunter"));
            let mut settings = config.settings();
            passwords.mark(&mut settings.mail);
            settings.mail.fleet.unwrap().password_mark
        };
        let (one, other) = (mark("hunter2\n"), mark("hunter3"));
        assert_eq!((one.len(), &one), (32, &mark("hunter2")));
        assert_ne!(one, other);
        assert!(!one.contains(&hex::encode("hunter")));
    }
}

//! `[backup.buckets.<name>]`: S3-compatible buckets with copies of destinations. The keys lie in files of their own, which only the
//! coordinator's user may read.
//!
//! Not here: copying (repositories::buckets).

use std::path::{Path, PathBuf};

use isyone_bucket::Access;
use isyone_proto::ids::ShortName;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Bytes, ConfigError, backup::Backup, check::ensure};
use crate::base::files;

/// Buckets in all: each has a loop and some connections.
const MAX_BUCKETS: usize = 4;
/// With less a shipment of one tenant takes longer than the time to the next.
const LEAST_RATE: Bytes = Bytes::new(100 << 10);
/// Keys have some 20 and 40 characters.
const MAX_KEY_BYTES: u64 = 1 << 10;

/// A bucket with a copy of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Where the server is: `https://s3.example.com`, without the bucket.
    pub endpoint: String,
    pub bucket: String,
    #[serde(default = "region")]
    pub region: String,
    /// What all keys in it begin with.
    #[serde(default)]
    pub prefix: String,
    /// Files with the access key and the secret key; relative ones are below the data directory.
    pub access_key_file: PathBuf,
    pub secret_key_file: PathBuf,
    /// The destination that is copied; needed where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<ShortName>,
    /// Most bytes per second that are sent there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Bytes>,
}

/// What requests are signed for where the server does not care.
fn region() -> String {
    "us-east-1".to_owned()
}

pub(super) fn check(backup: &Backup) -> Result<(), ConfigError> {
    let all = &backup.buckets;
    ensure(all.len() <= MAX_BUCKETS, "backup.buckets", || {
        format!("{} are more than {MAX_BUCKETS}", all.len())
    })?;
    for (name, bucket) in all {
        let key = format!("backup.buckets.{name}");
        ensure(!backup.destinations.contains_key(name), &key, || {
            "is the name of a destination, too".to_owned()
        })?;
        bucket.check(&key)?;
        let of = bucket.copies(backup);
        ensure(of.is_some(), &format!("{key}.of"), || {
            let named: Vec<_> = backup.destinations.keys().map(ShortName::as_str).collect();
            format!(
                "must name one of [backup.destinations]: {}",
                named.join(", ")
            )
        })?;
        let mut others = all.iter().filter(|(other, _)| *other != name);
        let same = others.find(|(_, other)| other.place() == bucket.place());
        ensure(same.is_none(), &format!("{key}.prefix"), || {
            let other = same.map(|(other, _)| other.as_str()).unwrap_or_default();
            format!("is that of `{other}` in the same bucket")
        })?;
    }
    Ok(())
}

impl Bucket {
    fn check(&self, key: &str) -> Result<(), ConfigError> {
        let at = |field: &str| format!("{key}.{field}");
        let host = ["https://", "http://"]
            .iter()
            .find_map(|scheme| self.endpoint.strip_prefix(scheme));
        let is_bare = host.is_some_and(|host| {
            let host = host.trim_end_matches('/');
            !host.is_empty() && !host.contains(['/', '?', '#', '@', ' '])
        });
        ensure(is_bare, &at("endpoint"), || {
            "must be the server's address such as \"https://s3.example.com\", without bucket, user or path".to_owned()
        })?;
        let named = |text: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            text.len() <= 200 && text.bytes().all(fits)
        };
        ensure(
            (3..=63).contains(&self.bucket.len()) && named(&self.bucket),
            &at("bucket"),
            || "must be a bucket's name: 3 to 63 letters, digits, - and .".to_owned(),
        )?;
        ensure(
            !self.region.is_empty() && named(&self.region),
            &at("region"),
            || "must be a region's name; \"us-east-1\" where the server has none".to_owned(),
        )?;
        let prefix = self.prefix.trim_matches('/');
        let is_plain = prefix.is_empty()
            || prefix
                .split('/')
                .all(|part| !part.is_empty() && !part.starts_with('.') && named(part));
        ensure(is_plain, &at("prefix"), || {
            "must be names with / between them, of letters, digits, - . and _".to_owned()
        })?;
        for (field, file) in [
            ("access_key_file", &self.access_key_file),
            ("secret_key_file", &self.secret_key_file),
        ] {
            ensure(!file.as_os_str().is_empty(), &at(field), || {
                "must be a file".to_owned()
            })?;
        }
        let fits = self.rate_limit.is_none_or(|rate| rate >= LEAST_RATE);
        ensure(fits, &at("rate_limit"), || {
            "must be at least \"100KiB\"; leave it out for no limit".to_owned()
        })
    }

    /// Server, bucket and prefix.
    pub fn place(&self) -> (&str, &str, &str) {
        let prefix = self.prefix.trim_matches('/');
        (self.endpoint.trim_end_matches('/'), &self.bucket, prefix)
    }

    /// The destination that it has a copy of; `None`: there are several, and it names none of them.
    pub fn copies(&self, backup: &Backup) -> Option<ShortName> {
        let mut all = backup.destinations.keys();
        match &self.of {
            Some(of) => all.find(|name| *name == of).cloned(),
            None if all.len() == 1 => all.next().cloned(),
            None => None,
        }
    }

    /// With the keys from their files.
    ///
    /// # Errors
    /// A file is not there, is readable by others, or holds no key. Named by its field, never by its content.
    pub fn access(&self, name: &ShortName, data_dir: &Path) -> Result<Access, ConfigError> {
        let key = format!("backup.buckets.{name}");
        Ok(Access {
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            region: self.region.clone(),
            prefix: self.prefix.clone(),
            access_key: read(
                &data_dir.join(&self.access_key_file),
                &format!("{key}.access_key_file"),
            )?,
            secret_key: read(
                &data_dir.join(&self.secret_key_file),
                &format!("{key}.secret_key_file"),
            )?,
        })
    }
}

/// A key from its file; `place` names the field, or the option, that says which.
///
/// # Errors
/// As of [`Bucket::access`].
pub fn read(path: &Path, place: &str) -> Result<Zeroizing<String>, ConfigError> {
    let wrong = |problem: String| ConfigError::at(place, format!("{} {problem}", path.display()));
    let size = std::fs::metadata(path).map(|data| data.len());
    let size = size.map_err(|e| wrong(format!("cannot be read: {e}")))?;
    if !files::is_private(path) {
        return Err(wrong("is readable by others: chmod 600 it".to_owned()));
    }
    if size > MAX_KEY_BYTES {
        return Err(wrong("is too long for a key".to_owned()));
    }
    let text = std::fs::read_to_string(path);
    let text = Zeroizing::new(text.map_err(|e| wrong(format!("cannot be read: {e}")))?);
    let key = text.trim_end_matches(['\r', '\n']);
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("must hold a key and nothing else".to_owned()));
    }
    Ok(Zeroizing::new(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use crate::base::config::Config;

    const ONE: &str = "[backup.buckets.far]\nendpoint = \"https://s3.example.com\"\nbucket = \"isyone-backups\"\n\
                       access_key_file = \"s3.access\"\nsecret_key_file = \"s3.secret\"\n";

    fn refused(text: &str) -> String {
        let config = Config::parse("f", text).unwrap();
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn a_bucket_copies_the_only_destination_or_the_one_that_it_names() {
        let config = Config::parse("f", ONE).unwrap();
        config.check().unwrap();
        let far = &config.backup.buckets["far"];
        assert_eq!(
            far.copies(&config.backup),
            Some("coordinator".parse().unwrap())
        );
        assert_eq!(Config::parse("f", &config.to_toml()).unwrap(), config);
        let two =
            "[backup.destinations.a]\npath = \"/a\"\n[backup.destinations.b]\npath = \"/b\"\n";
        let error = refused(&format!("{two}{ONE}"));
        assert!(
            error.contains("backup.buckets.far.of") && error.contains("a, b"),
            "{error}"
        );
        let config = Config::parse("f", &format!("{two}{ONE}of = \"b\"\n")).unwrap();
        config.check().unwrap();
        assert_eq!(
            config.backup.buckets["far"].copies(&config.backup),
            Some("b".parse().unwrap())
        );
    }

    #[test]
    fn what_is_no_bucket_is_named_by_its_field() {
        for (old, new, field) in [
            ("https://s3.example.com", "s3.example.com", "endpoint"),
            (
                "https://s3.example.com",
                "https://u:p@s3.example.com",
                "endpoint",
            ),
            (
                "https://s3.example.com",
                "https://s3.example.com/b",
                "endpoint",
            ),
            ("isyone-backups", "no", "bucket"),
            ("isyone-backups", "a/b/c", "bucket"),
            ("s3.access", "", "access_key_file"),
            ("s3.secret", "", "secret_key_file"),
        ] {
            let error = refused(&ONE.replace(old, new));
            assert!(
                error.starts_with(&format!("backup.buckets.far.{field}:")),
                "{error}"
            );
        }
        for (line, field) in [
            ("prefix = \"a/../b\"", "prefix"),
            ("region = \"\"", "region"),
            ("rate_limit = \"1KiB\"", "rate_limit"),
            ("of = \"nowhere\"", "of"),
        ] {
            let error = refused(&format!("{ONE}{line}\n"));
            assert!(
                error.starts_with(&format!("backup.buckets.far.{field}:")),
                "{error}"
            );
        }
        let second = ONE.replace(".far]", ".near]");
        let error = refused(&format!("{ONE}{second}"));
        assert!(
            error.contains("prefix") && error.contains("same bucket"),
            "{error}"
        );
        let error = refused(&ONE.replace(".far]", ".coordinator]"));
        assert!(error.starts_with("backup.buckets.coordinator:"), "{error}");
    }

    /// Fails if a key that others may read is used, or if an error shows what is in the file.
    #[test]
    fn a_key_file_that_others_may_read_is_refused_by_its_field() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::parse("f", ONE).unwrap();
        let (far, name) = (&config.backup.buckets["far"], "far".parse().unwrap());
        let put = |file: &str, content: &str, mode| {
            let path = dir.path().join(file);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let said = || far.access(&name, dir.path()).unwrap_err().to_string();
        assert!(said().starts_with("backup.buckets.far.access_key_file:"));
        put("s3.access", "AKIDEXAMPLE\n", 0o600);
        put("s3.secret", "hunter2hunter2\n", 0o640);
        let error = said();
        assert!(
            error.starts_with("backup.buckets.far.secret_key_file:"),
            "{error}"
        );
        assert!(
            error.contains("chmod 600") && !error.contains("hunter2"),
            "{error}"
        );
        for content in ["", "\n", "two words\n", &"x".repeat(2000)] {
            put("s3.secret", content, 0o600);
            assert!(said().starts_with("backup.buckets.far.secret_key_file:"));
        }
        put("s3.secret", "hunter2hunter2\n", 0o600);
        let access = far.access(&name, dir.path()).unwrap();
        assert_eq!(*access.access_key, "AKIDEXAMPLE");
        assert!(!format!("{access:?}").contains("hunter2"));
    }
}

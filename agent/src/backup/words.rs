//! Why a backup fails, for programs and for people, in our own words: nothing that a tenant's program said, and no content of a file, gets
//! into a report or a log. Pure.
//!
//! Not here: how often it failed (ship).

use isyone_backup::{Error, store::StoreError};
use isyone_proto::backup::{Fault, MAX_TROUBLE_BYTES};

use crate::docker::DockerError;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub fault: Fault,
    pub message: String,
    /// Trying again does not help: somebody has to do something first.
    pub for_good: bool,
}

impl Problem {
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let mut end = message.len().min(MAX_TROUBLE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Self {
            fault,
            message,
            for_good: false,
        }
    }

    /// Likewise, and trying again does not help.
    pub fn for_good(fault: Fault, message: impl Into<String>) -> Self {
        Self {
            for_good: true,
            ..Self::new(fault, message)
        }
    }

    /// The agent's own disk refuses.
    pub fn disk(what: &str, error: &std::io::Error) -> Self {
        Self::new(Fault::Other, format!("{what}: {}", error.kind()))
    }

    pub fn stopped() -> Self {
        Self::new(Fault::Other, "stopped")
    }
}

impl From<DockerError> for Problem {
    fn from(_: DockerError) -> Self {
        Self::new(Fault::Source, "Docker does not answer")
    }
}

/// What a repository's failure means; its destination is named by whoever reports it.
pub(super) fn problem(error: &Error) -> Problem {
    match error {
        Error::Store { source, .. } => of_store(source),
        Error::NoRepository { .. } => {
            Problem::new(Fault::Damaged, "there is no repository any more")
        }
        Error::RepositoryExists { .. } => {
            Problem::new(Fault::Other, "there is a repository already")
        }
        Error::WrongKey { .. } => {
            Problem::for_good(Fault::WrongKey, "the repository was made with another key")
        }
        Error::Damaged { file, fault } => Problem::new(
            Fault::Damaged,
            format!("{file} in the repository is damaged: {fault}"),
        ),
        Error::Content {
            path, file, fault, ..
        } => {
            let place = file.map_or_else(String::new, |file| format!(" ({file})"));
            let what = named(path).unwrap_or_else(|| "content of a snapshot".to_owned());
            Problem::new(
                Fault::Damaged,
                format!("{what} cannot be read{place}: {fault}"),
            )
        }
        // The path is one of the parts', or below it: a file's name is a hash, but may be anything.
        Error::Source { path, source } => {
            let part: String = path
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
                .collect();
            let own = matches!(part.as_str(), "database.tar" | "dump.pgc" | "manifest.json")
                .then(|| source.to_string());
            let why = own.unwrap_or_else(|| source.kind().to_string());
            Problem::new(Fault::Source, format!("{part} could not be read: {why}"))
        }
        Error::Restore { source, .. } => Problem::disk("it cannot be written here", source),
        Error::Stopped => Problem::stopped(),
        other => {
            // Names of snapshots and of files in a repository at the most.
            let word = match other {
                Error::TooMuch { what, most } => format!("{what} are more than {most}"),
                Error::TooManyParts(_) | Error::PartName(_) => {
                    "a snapshot of too many parts".to_owned()
                }
                Error::NoSnapshot(_) | Error::NoEntry { .. } => {
                    "a snapshot is not there".to_owned()
                }
                Error::Library { doing, .. } => format!("the repository could not be {doing}"),
                _ => "it failed".to_owned(),
            };
            Problem::new(Fault::Other, word)
        }
    }
}

/// What a path in a snapshot is, where it is one that we or PostgreSQL have given, or a hash: a name that a person has chosen is not
/// repeated.
fn named(path: &str) -> Option<String> {
    let (part, rest) = path.split_once('/').unwrap_or((path, ""));
    let is_ours = |name: &str| {
        let digits = name.split(['.', '_']).next().unwrap_or_default();
        matches!(
            name,
            "base" | "global" | "pg_wal" | "pg_xact" | "pg_multixact"
        ) || !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let rest = Some(rest).filter(|rest| rest.split('/').all(is_ours));
    Some(match (part, rest) {
        ("database.tar", _) => "the database".to_owned(),
        ("manifest.json", _) => "the manifest".to_owned(),
        ("wal", Some(segment)) => format!("segment {segment} of the log"),
        ("wal", None) => "the log".to_owned(),
        ("filestore", Some(file)) => format!("file {file}"),
        ("filestore", None) => "a file of the filestore".to_owned(),
        ("database", Some(file)) => format!("file {file} of the database"),
        ("database", None) => "a file of the database".to_owned(),
        _ => return None,
    })
}

fn of_store(error: &StoreError) -> Problem {
    let (fault, message) = match error {
        StoreError::Full(_) => (Fault::Full, "the destination is full".to_owned()),
        StoreError::Unreachable(e) => (
            Fault::Unreachable,
            format!("the destination is not reached: {}", e.kind()),
        ),
        StoreError::Denied(_) => (
            Fault::Denied,
            "the destination does not allow it".to_owned(),
        ),
        StoreError::Absent(file) => (Fault::Damaged, format!("{file} is not there")),
        StoreError::Exists(file) => (
            Fault::Damaged,
            format!("{file} is there with another content"),
        ),
        StoreError::TooLarge { file, .. } | StoreError::Swollen(file) => {
            (Fault::Damaged, format!("{file} is larger than it may be"))
        }
        StoreError::Altered(file) => (Fault::Damaged, format!("{file} is not what was written")),
        StoreError::TooMany { folder, most } => {
            (Fault::Other, format!("more than {most} files in {folder}"))
        }
        StoreError::Stopped => return Problem::stopped(),
        StoreError::Failed(e) => (
            Fault::Other,
            format!("the destination failed: {}", e.kind()),
        ),
    };
    Problem::new(fault, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_tenants_gets_into_words() {
        let secret = "customer's secret";
        let error = Error::Source {
            path: format!("filestore/ab/{secret}"),
            source: std::io::Error::other(secret),
        };
        let said = problem(&error);
        assert_eq!(said.fault, Fault::Source);
        assert!(!said.message.contains(secret), "{}", said.message);
        assert!(said.message.starts_with("filestore could not be read"));
        let own = Error::Source {
            path: "database.tar".to_owned(),
            source: std::io::Error::other("the program ended with code 1"),
        };
        assert!(problem(&own).message.contains("code 1"));
        let library = Error::Library {
            doing: "written",
            said: secret.to_owned(),
        };
        assert!(!problem(&library).message.contains(secret));
    }

    #[test]
    fn what_is_damaged_is_named_but_not_by_what_a_person_has_called_it() {
        let named = |path: &str| named(path).unwrap_or_default();
        assert_eq!(
            named("wal/000000010000000000000003"),
            "segment 000000010000000000000003 of the log"
        );
        assert_eq!(named("filestore/ab/abcd"), "file ab/abcd");
        assert_eq!(
            named("database/base/16384/2619_fsm"),
            "file base/16384/2619_fsm of the database"
        );
        assert_eq!(named("database.tar"), "the database");
        assert_eq!(
            named("filestore/ab/customer's secret"),
            "a file of the filestore"
        );
        assert_eq!(named("secret"), "");
    }

    #[test]
    fn messages_are_bounded_and_faults_are_for_programs() {
        let long = Problem::new(Fault::Other, "ä".repeat(MAX_TROUBLE_BYTES));
        assert!(long.message.len() <= MAX_TROUBLE_BYTES);
        let full = Error::Store {
            place: "p".to_owned(),
            source: StoreError::Full(std::io::Error::other("x")),
        };
        assert_eq!(problem(&full).fault, Fault::Full);
        let key = Error::WrongKey {
            place: "p".to_owned(),
        };
        assert!(problem(&key).for_good);
    }
}

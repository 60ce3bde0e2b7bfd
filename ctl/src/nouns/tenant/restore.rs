//! `isyctl tenant restore`: asks for a tenant to be brought back from a backup, as a new one.
//!
//! Not here: which backup that is and its stages (the coordinator's core), what there is (backup list).

use clap::Args;
use isyone_proto::{
    convert::timestamp,
    pb::v1::{RestoreBackupRequest, restore_backup_request::To},
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::change;
use crate::{
    app::App,
    clock,
    exit::{Failure, Outcome},
    options::Waiting,
    output::table::clean,
};

/// `isyctl tenant restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is restored gets a name, an address, keys and passwords of its own; the tenant that was backed up is not touched. Unless \
`--live` is given it is neutralised before its first start: it sends no mail and fetches none, payments and webhooks are off, and of \
the scheduled jobs only those that clean up run.

What no backup reaches is said before anything starts: a moment before the first or after the last commit that is there, a gap in the \
log, a key that was deleted. `op show` then says what was reached: the last transaction's time, and files that are missing.

A time is of this machine's time zone, or names its own: \"2026-11-27 14:03:22\", 2026-11-27T17:03:22Z, \
2026-11-27T14:03:22-03:00.

A tenant that was deleted is brought back with its data as it was by `isyctl tenant undelete`, as long as that is kept.

Examples:
  isyctl tenant restore alfa --to latest --as alfa2
  isyctl tenant restore alfa --to \"2026-11-27 14:03:22\" --as alfa2 --host h2
  isyctl tenant restore alfa --to 3f2a9c01 --as alfa2         as it was when that backup ended (`isyctl backup list alfa`)
  isyctl tenant restore alfa --to latest --as alfa2 --live    sends mail as alfa did")]
pub struct Restore {
    /// The tenant that was backed up
    name: String,
    /// `latest`, a backup's id, or a moment
    #[arg(long, value_name = "POINT")]
    to: Option<String>,
    /// The new tenant's name
    #[arg(long = "as", value_name = "NAME")]
    new_name: Option<String>,
    /// Only on this host
    #[arg(long)]
    host: Option<String>,
    /// From this destination; else from where most is reached
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Do not neutralise it
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Restore {
    pub async fn run(self, app: &App) -> Outcome {
        let name = clean(&self.name);
        let (Some(to), Some(new_name)) = (self.to, self.new_name) else {
            // `undelete` was called so once: a script that means that must not be answered by an older state of the data.
            let missing = "`tenant restore` brings data back from a backup: --to and --as must be given; nothing was changed";
            return Err(Failure::usage(missing).hint(format!(
                "`isyctl tenant restore {name} --to latest --as NEW`; a deleted tenant is brought back by `isyctl tenant undelete {name}`"
            )));
        };
        let message = RestoreBackupRequest {
            tenant: self.name,
            to: Some(point(&to, &TimeZone::system())?),
            destination: self.destination.unwrap_or_default(),
            new_name: new_name.clone(),
            host: self.host.unwrap_or_default(),
            live: self.live,
            request_id: clock::request_id(),
        };
        let client = app.client()?;
        let doing = format!("restore tenant `{name}` as `{}`", clean(&new_name));
        let operation = client
            .change(&doing, message, |c, r| async move {
                c.backups().restore_backup(r).await
            })
            .await?;
        let done = format!("restored from {name}");
        change::settle(app, &client, operation, self.waiting, &done).await
    }
}

/// What is meant by a point: the word, a moment, or a backup.
fn point(text: &str, zone: &TimeZone) -> Result<To, Failure> {
    if text == "latest" {
        return Ok(To::Latest(true));
    }
    let is_id = text.len() >= 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id {
        return Ok(To::BackupId(text.to_ascii_lowercase()));
    }
    let moment = text.parse::<Timestamp>().ok().or_else(|| {
        let civil: DateTime = text.parse().ok()?;
        Some(civil.to_zoned(zone.clone()).ok()?.timestamp())
    });
    let moment = moment.ok_or_else(|| {
        Failure::usage(format!(
            "`{}` is neither `latest`, nor a backup's id, nor a moment",
            clean(text)
        ))
        .hint("such as --to \"2026-11-27 14:03:22\"".to_owned())
    })?;
    Ok(To::Time(timestamp(moment.as_millisecond())))
}

#[cfg(test)]
mod tests {
    use isyone_proto::convert::unix_ms;

    use super::*;

    #[test]
    fn a_point_is_a_word_a_backup_or_a_moment_here() {
        let zone = TimeZone::fixed(jiff::tz::offset(-3));
        let at = |text: &str| match point(text, &zone) {
            Ok(To::Time(time)) => unix_ms(&time),
            other => panic!("{text}: {other:?}"),
        };
        for text in [
            "2026-11-27 14:03:22",
            "2026-11-27T14:03:22",
            "2026-11-27T17:03:22Z",
            "2026-11-27T14:03:22-03:00",
            "2026-11-27 17:03:22Z",
        ] {
            assert_eq!(at(text), 1_795_799_002_000, "{text}");
        }
        assert_eq!(at("2026-11-27"), 1_795_748_400_000, "as the day begins");
        assert!(matches!(point("latest", &zone), Ok(To::Latest(true))));
        let id = point("3F2A9C01", &zone);
        assert!(matches!(id, Ok(To::BackupId(id)) if id == "3f2a9c01"));
        for odd in [
            "",
            "now",
            "yesterday",
            "14:03",
            "3f2a9c",
            "2026-13-01 00:00",
        ] {
            assert!(point(odd, &zone).is_err(), "{odd}");
        }
    }
}

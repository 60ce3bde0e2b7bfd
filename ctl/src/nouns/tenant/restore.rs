//! `isyctl tenant restore`: asks for a tenant to be brought back from a backup, as a new one or in its place, or to be what it was before
//! that.
//!
//! Not here: which backup that is and its stages (the coordinator's core), what there is (backup list).

use clap::Args;
use isyone_proto::{
    convert::timestamp,
    pb::v1::{RestoreBackupRequest, ReturnTenantRequest, restore_backup_request::To},
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::change;
use crate::{
    app::App,
    clock,
    exit::{Exit, Failure, Outcome},
    options::Waiting,
    output::table::clean,
};

/// `isyctl tenant restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is restored gets a name, an address, keys and passwords of its own; the tenant that was backed up is not touched. Unless \
`--live` is given it is neutralised before its first start: it sends no mail and fetches none, payments and webhooks are off, and of \
the scheduled jobs only those that clean up run.

Without `--as` it takes the place of what the tenant has: it is stopped, what it has is set aside on its host, and it starts again as it \
was, with its keys, passwords and address. `isyctl op cancel ID` puts back what it had until it is well; after that `--to before` does, \
for as long as a deleted tenant's volumes are kept. As long as that is kept it is not restored in its place again: return to it first, \
then restore to another moment.

What no backup reaches is said before anything starts: a moment before the first or after the last commit that is there, a gap in the \
log, a key that was deleted. `op show` then says what was reached: the last transaction's time, and files that are missing.

A time is of this machine's time zone, or names its own: \"2026-11-27 14:03:22\", 2026-11-27T17:03:22Z, \
2026-11-27T14:03:22-03:00.

A tenant that was deleted is brought back with its data as it was by `isyctl tenant undelete`, as long as that is kept.

Examples:
  isyctl tenant restore alfa --to latest --as alfa2
  isyctl tenant restore alfa --to \"2026-11-27 14:03:22\" --as alfa2 --host h2
  isyctl tenant restore alfa --to 3f2a9c01 --as alfa2         as it was when that backup ended (`isyctl backup list alfa`)
  isyctl tenant restore alfa --to latest --as alfa2 --live    sends mail as alfa did
  isyctl tenant restore alfa --to \"2026-11-27 14:03:22\"      in its place; asks first
  isyctl tenant restore alfa --to before                      what it was before that")]
pub struct Restore {
    /// The tenant that was backed up
    name: String,
    /// `latest`, a backup's id, a moment, or `before`
    #[arg(long, value_name = "POINT")]
    to: Option<String>,
    /// The new tenant's name; without it, in its place
    #[arg(long = "as", value_name = "NAME")]
    new_name: Option<String>,
    /// Only on this host
    #[arg(long)]
    host: Option<String>,
    /// From this destination; else from where most is reached
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Do not neutralise it
    #[arg(long, requires = "new_name")]
    live: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Restore {
    pub async fn run(self, app: &App) -> Outcome {
        let name = clean(&self.name);
        let Some(to) = &self.to else {
            // `undelete` was called so once: a script that means that must not be answered by an older state of the data.
            let missing = "`tenant restore` brings data back from a backup: --to must be given; nothing was changed";
            return Err(Failure::usage(missing).hint(format!(
                "`isyctl tenant restore {name} --to latest --as NEW`; a deleted tenant is brought back by `isyctl tenant undelete {name}`"
            )));
        };
        if to == "before" {
            return self.return_to_before(app).await;
        }
        let to = point(to, &TimeZone::system())?;
        let new_name = self.new_name.clone().unwrap_or_else(|| self.name.clone());
        let in_place = self.new_name.is_none();
        if in_place && !self.confirmed(app, "restored")? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let message = RestoreBackupRequest {
            tenant: self.name,
            to: Some(to),
            destination: self.destination.unwrap_or_default(),
            new_name: new_name.clone(),
            host: self.host.unwrap_or_default(),
            live: self.live,
            as_new: !in_place,
            request_id: clock::request_id(),
        };
        let client = app.client()?;
        let doing = match in_place {
            true => format!("restore tenant `{name}` in its place"),
            false => format!("restore tenant `{name}` as `{}`", clean(&new_name)),
        };
        let operation = client
            .change(&doing, message, |c, r| async move {
                c.backups().restore_backup(r).await
            })
            .await?;
        let done = match in_place {
            true => "restored; `--to before` returns to what it was".to_owned(),
            false => format!("restored from {name}"),
        };
        change::settle(app, &client, operation, self.waiting, &done).await
    }

    async fn return_to_before(self, app: &App) -> Outcome {
        let name = clean(&self.name);
        // Nothing of it can be chosen: it lies where it was set aside.
        let chosen = [
            ("--as", self.new_name.is_some()),
            ("--host", self.host.is_some()),
            ("--destination", self.destination.is_some()),
        ];
        if let Some((option, _)) = chosen.into_iter().find(|(_, is_given)| *is_given) {
            return Err(Failure::usage(format!(
                "`--to before` is of the tenant itself, on its host: without {option}"
            )));
        }
        if !self.confirmed(app, "put back to what it was before its last restore")? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let message = ReturnTenantRequest {
            tenant: self.name,
            request_id: clock::request_id(),
        };
        let client = app.client()?;
        let doing = format!("return tenant `{name}` to what it was");
        let operation = client
            .change(&doing, message, |c, r| async move {
                c.backups().return_tenant(r).await
            })
            .await?;
        let done = "what it was before its restore";
        change::settle(app, &client, operation, self.waiting, done).await
    }

    fn confirmed(&self, app: &App, what: &str) -> Result<bool, Failure> {
        if self.yes {
            return Ok(true);
        }
        let name = clean(&self.name);
        app.ui.note(&format!(
            "Tenant {name} is stopped, and {what}: what was written since is not in it any more."
        ));
        app.ui.confirm(
            &format!("restore tenant `{name}` in its place"),
            &format!("Do that to {name}?"),
        )
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

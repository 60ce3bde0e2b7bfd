//! `isy-coordinator restore`: the database and the configuration from what was shipped to a destination.
//!
//! Not here: reading that (shipping::rebuilt), the keys (backup).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use isyone_proto::{ids::ShortName, plan::Secret};

use super::{DEFAULT_DATA_DIR, bucket, raised, runtime};
use crate::{
    backup,
    base::{
        config::{self, Config},
        files,
        secrets::{self, Sealer},
    },
    init::DATABASE_FILE,
    rebuild,
    shipping::{
        folder::Folder,
        format::Series,
        rebuilt::{self, Rebuilt},
    },
};

/// Names in a message; the rest is a number.
const NAMED: usize = 20;

#[derive(Args)]
pub(super) struct Restore {
    /// The directory of a destination of backups.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "from_bucket",
        conflicts_with = "from_bucket"
    )]
    from: Option<PathBuf>,
    #[command(flatten)]
    bucket: bucket::At,
    /// Where the keys are, and the database goes.
    #[arg(long, env = "ISYONE_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Only show which states there are.
    #[arg(long)]
    list: bool,
    /// The last state of an older series, as `--list` names it, in place of the newest one.
    #[arg(long, value_name = "NAME", conflicts_with = "list")]
    state: Option<Series>,
    /// Although keys of tenants' backups are not there: what lies in their repositories cannot be read any more, and they begin anew.
    #[arg(long)]
    without_backup_keys: bool,
    /// Have hosts take this state although they have seen newer ones; see `raise-incarnation`.
    #[arg(long)]
    raise_incarnation: bool,
}

/// Carries it out.
pub(super) fn run(asked: &Restore) -> Result<()> {
    // Where a bucket's connections live.
    let runtime = runtime()?;
    let place = match &asked.from {
        Some(directory) => format!("--from {}", directory.display()),
        None => "--from-bucket".to_owned(),
    };
    let failed = || place.clone();
    let folder = match &asked.from {
        Some(directory) => Folder::found(directory).with_context(failed)?,
        None => Folder::in_bucket(asked.bucket.open(runtime.handle())?),
    };
    let sealer = sealer(&asked.data_dir)?;
    if asked.list {
        return list(&folder, &sealer).with_context(failed);
    }
    let database = asked.data_dir.join(DATABASE_FILE);
    if database.exists() {
        bail!(
            "{}: it is there already; it is left as it is",
            database.display()
        );
    }
    let state = rebuilt::read(&folder, &sealer, asked.state).with_context(failed)?;
    for note in &state.notes {
        eprintln!("isy-coordinator: {note}");
    }
    if !state.lost_keys.is_empty() && !asked.without_backup_keys {
        bail!("{}", without_keys(&state));
    }
    show(&state);
    let configuration = configure(asked, &state)?;
    let writes = rebuild::begun(&state.fleet);
    runtime.block_on(backup::write_database(&writes, &database))?;
    println!("database        {}", database.display());
    println!("configuration   {configuration}");
    if asked.raise_incarnation {
        raised(&asked.data_dir)?;
    }
    let dir = asked.data_dir.display();
    println!(
        "next            make sure that the old coordinator is off; chown -R isyone: {dir}; isy-coordinator run --data-dir {dir}"
    );
    println!(
        "then            isyctl host list: a host that is ahead of this state says so (docs/operations.md)"
    );
    Ok(())
}

fn sealer(data_dir: &Path) -> Result<Sealer> {
    let file = data_dir.join(secrets::KEY_FILE);
    let variable = std::env::var(secrets::KEY_VARIABLE).ok();
    let sealer = Sealer::load(&file, variable.as_deref())
        .context("first the keys: isy-coordinator restore-keys (docs/operations.md)")?;
    if let Ok(before) = std::env::var(secrets::KEY_BEFORE_VARIABLE) {
        sealer.load_before(&before)?;
    }
    Ok(sealer)
}

fn list(folder: &Folder, sealer: &Sealer) -> Result<()> {
    println!("STATE          AS OF                 CHANGES");
    for state in rebuilt::list(folder, sealer)? {
        println!("{}  {}  {}", state.series, time(state.at), state.batches);
    }
    Ok(())
}

fn time(at: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn show(state: &Rebuilt) {
    let fleet = &state.fleet;
    println!(
        "state           as of {} ({} and {} files of changes)",
        time(state.at),
        state.series,
        state.batches
    );
    println!(
        "                {} hosts, {} tenants, {} operators; keys of {} tenants' backups",
        fleet.hosts.len(),
        fleet.tenants.len(),
        fleet.operators.len(),
        fleet.backup_keys.len()
    );
}

fn without_keys(state: &Rebuilt) -> String {
    let lost = &state.lost_keys;
    let mut named: Vec<String> = lost.iter().take(NAMED).map(ToString::to_string).collect();
    if lost.len() > NAMED {
        named.push(format!("and {} more", lost.len() - NAMED));
    }
    format!(
        "the keys of these tenants' backups are not there, because they were deleted since or the file `keys` is damaged: {}.\n\
         Their backups cannot be read without them. Take another destination or a newer state; all the same: --without-backup-keys",
        named.join(", ")
    )
}

/// Writes a password at a mail server that the configuration names a file of, unless that is there, and names the file anew. The machine
/// that had it is lost, and without the file no coordinator starts.
fn lay_password(
    config: &mut Config,
    plan: Option<&ShortName>,
    password: &Secret,
) -> Result<Option<PathBuf>> {
    let data_dir = config.data_dir.clone();
    let mail = match plan {
        None => Some(&mut config.mail),
        Some(plan) => config.plans.get_mut(plan).and_then(|of| of.mail.as_mut()),
    };
    let named = mail.and_then(|mail| mail.password_file.as_mut());
    let Some(named) = named.filter(|file| !data_dir.join(file).exists()) else {
        return Ok(None);
    };
    *named = match plan {
        None => PathBuf::from("mail.password"),
        Some(plan) => PathBuf::from(format!("mail-{plan}.password")),
    };
    let file = data_dir.join(&*named);
    files::replace(&file, password.expose().as_bytes(), 0o600)
        .with_context(|| file.display().to_string())?;
    Ok(Some(file))
}

/// Writes the configuration that was shipped, unless one is there. What was done, for people.
fn configure(asked: &Restore, state: &Rebuilt) -> Result<String> {
    let file = asked.data_dir.join(config::FILE_NAME);
    let shown = file.display();
    if file.exists() {
        return Ok(format!("{shown} was there, and is left as it is"));
    }
    let Some(shipped) = &state.configuration else {
        return Ok(format!("none was shipped: put coordinator.toml to {shown}"));
    };
    let mut config = Config::parse("the configuration that was shipped", &shipped.text)?;
    config.data_dir.clone_from(&asked.data_dir);
    asked.bucket.lay(&mut config)?;
    for (plan, password) in &shipped.mail_passwords {
        if let Some(file) = lay_password(&mut config, plan.as_ref(), password)? {
            println!("mail password   {}", file.display());
        }
    }
    files::replace(&file, config.to_toml().as_bytes(), 0o600).with_context(|| shown.to_string())?;
    Ok(format!(
        "{shown}, as it was: look at [listen], [advertise] and [backup]"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::mail::MailPasswords;

    /// Fails if a coordinator whose configuration names a password's file cannot be started after it was rebuilt.
    #[test]
    fn passwords_at_mail_servers_are_there_when_it_starts() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[mail]\nkind = \"relay\"\nhost = \"smtp.example.com\"\nuser = \"u\"\npassword_file = \"/nowhere/lost\"\n\
                    [plans.small]\nmemory = \"1GiB\"\ncpu = 1\ndisk = \"10GiB\"\n[plans.small.mail]\nkind = \"relay\"\nhost = \"h.example\"\n\
                    user = \"v\"\npassword_file = \"there\"\n";
        let mut config = Config::parse("f", text).unwrap();
        config.data_dir = dir.path().to_owned();
        files::replace(&dir.path().join("there"), b"newer", 0o600).unwrap();
        assert!(MailPasswords::read(&config).is_err());
        let small: ShortName = "small".parse().unwrap();
        let mut lay =
            |plan, text: &str| lay_password(&mut config, plan, &Secret::new(text)).unwrap();
        assert_eq!(lay(None, "fleets"), Some(dir.path().join("mail.password")));
        assert_eq!(lay(Some(&small), "older"), None, "it is there");
        // As it is written, and read at the start.
        let mut config = Config::parse("f", &config.to_toml()).unwrap();
        config.data_dir = dir.path().to_owned();
        let read = MailPasswords::read(&config).unwrap().all();
        assert_eq!(read[&None].expose(), "fleets");
        assert_eq!(read[&Some(small)].expose(), "newer");
    }
}

//! `isy-coordinator restore`: the database and the configuration from what was shipped to a destination.
//!
//! Not here: reading that (shipping::rebuilt), the keys (backup).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{DEFAULT_DATA_DIR, raised, runtime};
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
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
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
    let failed = || format!("--from {}", asked.from.display());
    let folder = Folder::found(&asked.from).with_context(failed)?;
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
    runtime()?.block_on(backup::write_database(&writes, &database))?;
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

/// Writes the configuration that was shipped, unless one is there. What was done, for people.
fn configure(asked: &Restore, state: &Rebuilt) -> Result<String> {
    let file = asked.data_dir.join(config::FILE_NAME);
    let shown = file.display();
    if file.exists() {
        return Ok(format!("{shown} was there, and is left as it is"));
    }
    let Some(text) = &state.configuration else {
        return Ok(format!("none was shipped: put coordinator.toml to {shown}"));
    };
    let mut config = Config::parse("the configuration that was shipped", text)?;
    config.data_dir.clone_from(&asked.data_dir);
    files::replace(&file, config.to_toml().as_bytes(), 0o600).with_context(|| shown.to_string())?;
    Ok(format!(
        "{shown}, as it was: look at [listen], [advertise] and [backup.destinations]"
    ))
}

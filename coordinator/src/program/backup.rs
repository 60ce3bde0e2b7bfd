//! `isy-coordinator backup`, `backup-keys` and `restore-keys`.
//!
//! Not here: what is in a backup (backup), the coordinator that runs (rotation::control).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{DEFAULT_DATA_DIR, runtime};
use crate::{
    backup, rebuild,
    rotation::control::{self, AskError, COPY, Order},
    writer::store::Store as _,
};

/// A passphrase is a line, not a disk.
const MAX_PASSPHRASE: u64 = 4 << 10;

#[derive(Args)]
pub(super) struct Database {
    /// The coordinator's data directory; it may run.
    #[arg(long, env = "ISYONE_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The file to write; it must not be there.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
pub(super) struct SaveKeys {
    /// The coordinator's data directory; it may run.
    #[arg(long, env = "ISYONE_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The file to write; it must not be there.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Its first line is the passphrase; `-`: standard input.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
}

#[derive(Args)]
pub(super) struct RestoreKeys {
    /// The file of `backup-keys`.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Where the keys go; none that is there is overwritten.
    #[arg(long, env = "ISYONE_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Its first line is the passphrase; `-`: standard input.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
}

/// Copies the database: of the coordinator that runs as of now, else the file's.
pub(super) fn database(asked: &Database) -> Result<()> {
    let (dir, out) = (&asked.data_dir, &asked.out);
    if out.exists() {
        bail!(
            "--out {}: it is there already; it is left as it is",
            out.display()
        );
    }
    match control::ask(dir, &Order::Backup) {
        Ok(answer) if answer.done => take(&dir.join(COPY), out)?,
        Ok(answer) => bail!("{}", answer.text),
        Err(AskError::NotRunning(_)) => runtime()?.block_on(copied(dir, out))?,
        Err(error) => return Err(error.into()),
    }
    println!("database        {}", out.display());
    println!(
        "its secrets     are sealed: they are of use only with the keys (isy-coordinator backup-keys)"
    );
    println!(
        "deleted tenants the keys of all backups of now are in it: as long as you keep it, those of tenants that are deleted later can be read"
    );
    Ok(())
}

/// Moves what the coordinator has written, which may be on another file system. It has keys in it: whatever becomes of us, it does not
/// stay there.
fn take(copy: &Path, out: &Path) -> Result<()> {
    let failed = || copy.display().to_string();
    let mut from = std::fs::File::open(copy).with_context(failed)?;
    std::fs::remove_file(copy).with_context(failed)?;
    let mut moved = || -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut to = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(out)?;
        std::io::copy(&mut from, &mut to)?;
        to.sync_all()
    };
    moved().with_context(|| format!("--out {}", out.display()))
}

async fn copied(data_dir: &Path, out: &Path) -> Result<()> {
    let contents = rebuild::open(data_dir).await?.load().await?;
    Ok(backup::copy_database(contents, out).await?)
}

/// Encrypts the keys.
pub(super) fn save_keys(asked: &SaveKeys) -> Result<()> {
    let passphrase = passphrase(&asked.passphrase_file)?;
    let saved = backup::save_keys(&asked.data_dir, &passphrase, &asked.out)?;
    println!(
        "keys            {}: {}",
        asked.out.display(),
        saved.join(", ")
    );
    println!("Keep it apart from the database, and the passphrase apart from both.");
    Ok(())
}

/// Puts them back.
pub(super) fn restore_keys(asked: &RestoreKeys) -> Result<()> {
    let passphrase = passphrase(&asked.passphrase_file)?;
    let restored = backup::restore_keys(&asked.from, &passphrase, &asked.data_dir)?;
    let dir = asked.data_dir.display();
    println!("keys            {dir}: {}", restored.join(", "));
    println!(
        "next            isy-coordinator restore --from DESTINATION --data-dir {dir}, or a copy of the database to {dir}/isyone.db and coordinator.toml beside it (docs/operations.md)"
    );
    Ok(())
}

fn passphrase(file: &Path) -> Result<zeroize::Zeroizing<String>> {
    use std::io::{BufRead as _, BufReader, Read as _};
    let mut line = zeroize::Zeroizing::new(String::new());
    let failed = || format!("--passphrase-file {}", file.display());
    if file == Path::new("-") {
        BufReader::new(std::io::stdin().take(MAX_PASSPHRASE)).read_line(&mut line)
    } else {
        let opened = std::fs::File::open(file).with_context(failed)?;
        BufReader::new(opened.take(MAX_PASSPHRASE)).read_line(&mut line)
    }
    .with_context(failed)?;
    Ok(zeroize::Zeroizing::new(
        line.trim_end_matches(['\n', '\r']).to_owned(),
    ))
}

//! What lies in a backup, and a single file of it: `isyctl backup ls TENANT BACKUP [PATH]` and `isyctl backup get`.
//!
//! Names in a backup are the tenant's word, and its files' contents too. Not here: which backups there are (the parent).

use std::{
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use isyone_proto::pb::v1::{
    BackupFile, BackupFileKind, ListBackupFilesRequest, ReadBackupFileRequest,
};
use tempfile::NamedTempFile;

use super::show;
use crate::{
    app::App,
    client::Interrupt,
    exit::{Exit, Failure, Outcome},
    output::{Ui, format, harmless::Harmless, table::clean, wire::Wire},
};

/// Standard output, as a file's name.
const STDOUT: &str = "-";

/// `isyctl backup get`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file is in place when all of it has come and is what was backed up; nothing is overwritten. Who took which file of which tenant is \
recorded (event backup.file_read).

A single table comes from a portable copy (kind dump): pg_restore of at least its PostgreSQL's version reads it as it comes, and prints \
the table as SQL.

Examples:
  isyctl backup get alfa 3f2a9c01 manifest.json --to -
  isyctl backup get alfa 3f2a9c01 filestore/ab/ab0123456789abcdef0123456789abcdef01234567 --to invoice.pdf
  isyctl backup get alfa 7b00c0de dump.pgc --to - | pg_restore --data-only --table res_partner --file res_partner.sql")]
pub struct Get {
    /// Whose backup: a tenant's name, also of one that was deleted
    tenant: String,
    /// Its id, as listed, or the first digits of it (at least 8)
    backup: String,
    /// The file, as `isyctl backup ls TENANT BACKUP` names it
    path: String,
    /// Where to; `-` is standard output [default: the file's name, in this directory]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Lists a folder of a backup.
pub(super) async fn list(
    app: &App,
    limit: Option<usize>,
    (tenant, backup, path): (&str, &str, &str),
) -> Outcome {
    let client = app.client()?;
    let doing = format!("list what is in backup `{}`", clean(backup));
    let files = client
        .pages(limit, |page_size, page_token| {
            let request = ListBackupFilesRequest {
                tenant: tenant.to_owned(),
                backup: backup.to_owned(),
                path: path.to_owned(),
                page_size,
                page_token,
            };
            let (client, doing) = (&client, &doing);
            async move {
                let page = client
                    .read(doing, request, |c, r| async move {
                        c.backups().list_backup_files(r).await
                    })
                    .await?;
                Ok((page.files, page.next_page_token))
            }
        })
        .await?;
    let names = || files.iter().map(|file| full_name(path, file)).collect();
    app.ui
        .emit(&Wire::all(&files), names, |_| show::files(&files))?;
    Ok(Exit::Done)
}

/// As `get` and `ls` take it; on one line, whatever is in it.
fn full_name(folder: &str, file: &BackupFile) -> String {
    let end = match file.kind() {
        BackupFileKind::Folder => "/",
        _ => "",
    };
    let folder = match folder.trim_matches('/') {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    clean(&format!("{folder}{}{end}", file.name))
}

impl Get {
    pub async fn run(self, app: &App) -> Outcome {
        let doing = format!(
            "get `{}` of backup `{}`",
            clean(&self.path),
            clean(&self.backup)
        );
        let target = self.target()?;
        let mut to = match &target {
            None => Sink::stdout(app.ui),
            Some(path) => Sink::file(path)?,
        };
        let (tenant, backup, path) = (self.tenant, self.backup, self.path);
        let request = ReadBackupFileRequest {
            tenant,
            backup,
            path,
        };
        let bytes = tokio::select! {
            copied = copy(app, &doing, request, &mut to) => copied?,
            stopped = Interrupt::listen().came() => return Err(stopped),
        };
        to.end()?;
        if let Some(path) = &target {
            let bytes = format::bytes(bytes);
            app.ui.note(&format!("{bytes} in {}", shown(path)));
        }
        Ok(Exit::Done)
    }

    /// The file that is made; `None` for standard output. Looked at first: nobody waits for what cannot be put anywhere.
    fn target(&self) -> Result<Option<PathBuf>, Failure> {
        let target = match &self.to {
            Some(to) if to.as_os_str() == STDOUT => return Ok(None),
            Some(to) => to.clone(),
            None => {
                let name = self.path.trim_end_matches('/').rsplit('/').next();
                let name = name.filter(|name| !matches!(*name, "" | "." | ".."));
                let name = name.ok_or_else(|| Failure::usage("the path has no file's name"))?;
                name.into()
            }
        };
        match target.symlink_metadata() {
            Ok(_) => Err(exists(&target)),
            Err(_) => Ok(Some(target)),
        }
    }
}

async fn copy(
    app: &App,
    doing: &str,
    request: ReadBackupFileRequest,
    to: &mut Sink,
) -> Result<u64, Failure> {
    let client = app.client()?;
    let mut stream = client
        .open_again(doing, || {
            let (mut backups, request) = (client.backups(), request.clone());
            async move { backups.read_backup_file(request).await }
        })
        .await?;
    let (mut came, mut whole) = (0_u64, 0);
    let failed = |status| client.failure(doing, &status);
    while let Some(chunk) = stream.message().await.map_err(failed)? {
        whole = chunk.bytes;
        came += chunk.data.len() as u64;
        if came > whole {
            break;
        }
        to.take(&chunk.data)?;
    }
    match came == whole {
        true => Ok(came),
        false => Err(Failure::failed(format!(
            "cannot {doing}: {came} of {whole} bytes came"
        ))),
    }
}

/// Where the bytes go.
enum Sink {
    File(NamedTempFile, PathBuf),
    /// As they are: to a file or a program.
    Plain(Ui),
    /// To a terminal, which a tenant's bytes must not drive.
    Terminal(Ui, Box<Harmless>),
}

impl Sink {
    fn stdout(ui: Ui) -> Self {
        match io::stdout().is_terminal() {
            true => Self::Terminal(ui, Box::default()),
            false => Self::Plain(ui),
        }
    }

    /// A file beside the one that it becomes.
    fn file(path: &Path) -> Result<Self, Failure> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let made = tempfile::Builder::new()
            .prefix(".isyctl-")
            .tempfile_in(folder);
        let made = made.map_err(|e| unwritten(path, &e))?;
        Ok(Self::File(made, path.to_owned()))
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self {
            Self::File(file, path) => file.write_all(data).map_err(|e| unwritten(path, &e)),
            Self::Plain(ui) => ui.raw(data),
            Self::Terminal(ui, harmless) => ui.raw(harmless.next(data).as_bytes()),
        }
    }

    fn end(self) -> Result<(), Failure> {
        match self {
            Self::File(file, path) => {
                let synced = file.as_file().sync_all();
                synced.map_err(|e| unwritten(&path, &e))?;
                let kept = file.persist_noclobber(&path);
                kept.map(drop).map_err(|e| match e.error.kind() {
                    io::ErrorKind::AlreadyExists => exists(&path),
                    _ => unwritten(&path, &e.error),
                })
            }
            Self::Terminal(ui, mut harmless) => ui.raw(harmless.end().as_bytes()),
            Self::Plain(_) => Ok(()),
        }
    }
}

fn shown(path: &Path) -> String {
    clean(&path.display().to_string())
}

fn exists(path: &Path) -> Failure {
    Failure::failed(format!("`{}` is there already", shown(path)))
        .hint("name another file with --to, or `--to -` for standard output")
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write `{}`: {error}", shown(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_on_one_line() {
        let of = |name: &str, kind: BackupFileKind| BackupFile {
            name: name.to_owned(),
            kind: kind.into(),
            bytes: 0,
        };
        let folder = of("ab", BackupFileKind::Folder);
        assert_eq!(full_name("", &folder), "ab/");
        assert_eq!(full_name("/filestore/", &folder), "filestore/ab/");
        let odd = of("a\n\x1b[2Jb", BackupFileKind::File);
        assert_eq!(full_name("x", &odd), "x/a \\u{1b}[2Jb");
    }
}

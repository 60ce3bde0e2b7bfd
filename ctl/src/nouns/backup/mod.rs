//! `isyctl backup`: what each tenant would lose now, what backups there are, a backup or a proof on order, and pruning.
//!
//! Not here: how it is shown (show), waiting for what was asked for (create, verify), what is in a backup (files).

mod create;
mod files;
mod key;
mod show;
mod verify;

use std::sync::{Mutex, PoisonError};

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    GetBackupRequest, GetProtectionRequest, ListBackupsRequest, ListProtectionsRequest,
    PruneBackupsRequest,
};

use crate::{
    app::App,
    clock,
    exit::{Exit, Outcome},
    options,
    output::{table::clean, wire::Wire},
};

/// `isyctl backup …`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Back up tenants now, before all others
    Create(create::Create),
    /// List backups, of deleted tenants too, or what is in one
    #[command(alias = "ls")]
    List(List),
    /// Get a file of a backup (audited)
    Get(files::Get),
    /// Show one
    Show(Show),
    /// What each tenant would lose if its host died now
    Status(Status),
    /// Restore backups where nobody uses them, and look whether they are whole
    Verify(verify::Verify),
    /// Forget what its plan does not keep any more, and free the room
    Prune(Prune),
    /// What stock restic needs to read a tenant's repositories (audited)
    Key(key::Key),
}

/// `isyctl backup list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each of them can be restored from. Between them every second can, within the time that the tenant's plan says; that is not listed. Names in a backup are the tenant's; `isyctl backup get` gets a file.

Examples:
  isyctl backup list alfa
  isyctl backup list --destination coordinator -o json
  isyctl backup ls alfa 3f2a9c01
  isyctl backup ls alfa 3f2a9c01 filestore/ab")]
pub struct List {
    /// Only of this tenant
    tenant: Option<String>,
    /// What is in this one: its id, as listed, or the first digits of it (at least 8)
    #[arg(conflicts_with = "destination")]
    backup: Option<String>,
    /// And in this folder of it
    path: Option<String>,
    /// Only there
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

/// `isyctl backup show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isyctl backup show 3f2a9c01\n  isyctl backup show 3f2a9c01 -o json"
)]
pub struct Show {
    /// Its id, as listed, or the first digits of it (at least 8)
    id: String,
}

/// `isyctl backup status`.
#[derive(Debug, Args)]
#[command(after_help = "\
protected: each destination holds what the plan promises. partly: one does, another does not. not_protected: none does. \
unknown: no host has reported since the coordinator started. none_made: backups are off, or the host's agent makes none. \
Buckets with copies follow, with how far they are behind and what went wrong last.

Examples:
  isyctl backup status
  isyctl backup status --bad
  isyctl backup status alfa
  isyctl backup status -o json | jq '.[] | select(.standing == \"not_protected\") | .tenant'")]
pub struct Status {
    /// One tenant, with its destinations
    tenant: Option<String>,
    /// Only of tenants on this host
    #[arg(long, value_name = "HOST", conflicts_with = "tenant")]
    host: Option<String>,
    /// Only those that are not as their plan promises
    #[arg(long, conflicts_with = "tenant")]
    bad: bool,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count, conflicts_with = "tenant")]
    limit: Option<usize>,
}

/// `isyctl backup prune`.
#[derive(Debug, Args)]
#[command(after_help = "\
The coordinator does this each day by itself. What is forgotten cannot be restored any more; its room comes back a day later, so \
that a host that is just making a backup loses nothing.

Examples:
  isyctl backup prune alfa --dry-run
  isyctl backup prune alfa --destination coordinator --yes")]
pub struct Prune {
    /// Which tenant's
    tenant: String,
    /// Only there
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Only tell what would be forgotten
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl BackupCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Create(command) => command.run(app).await,
            Self::List(command) => command.run(app).await,
            Self::Get(command) => command.run(app).await,
            Self::Show(command) => command.run(app).await,
            Self::Status(command) => command.run(app).await,
            Self::Verify(command) => command.run(app).await,
            Self::Prune(command) => command.run(app).await,
            Self::Key(command) => command.run(app).await,
        }
    }
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let tenant = self.tenant.unwrap_or_default();
        if let Some(backup) = self.backup {
            let path = self.path.unwrap_or_default();
            return files::list(app, self.limit, (&tenant, &backup, &path)).await;
        }
        let client = app.client()?;
        let destination = self.destination.unwrap_or_default();
        let backups = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListBackupsRequest {
                    tenant: tenant.clone(),
                    destination: destination.clone(),
                    page_size,
                    page_token,
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list backups", request, |c, r| async move {
                            c.backups().list_backups(r).await
                        })
                        .await?;
                    Ok((page.backups, page.next_page_token))
                }
            })
            .await?;
        let ids = || backups.iter().map(|backup| backup.id.clone()).collect();
        app.ui.emit(&Wire::all(&backups), ids, |wide| {
            show::backups(&backups, wide)
        })?;
        Ok(Exit::Done)
    }
}

impl Show {
    async fn run(self, app: &App) -> Outcome {
        let doing = format!("show backup `{}`", clean(&self.id));
        let request = GetBackupRequest { id: self.id };
        let backup = app
            .client()?
            .read(&doing, request, |c, r| async move {
                c.backups().get_backup(r).await
            })
            .await?;
        let sheet = |_| show::backup(&backup);
        app.ui
            .emit(&Wire::of(&backup), || vec![backup.id.clone()], sheet)?;
        Ok(Exit::Done)
    }
}

impl Status {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        if let Some(tenant) = self.tenant {
            let doing = format!("show the backups of tenant `{}`", clean(&tenant));
            let request = GetProtectionRequest { tenant };
            let shown = client
                .read(&doing, request, |c, r| async move {
                    c.backups().get_protection(r).await
                })
                .await?;
            let sheet = |_| show::protection(&shown, clock::now_ms());
            app.ui
                .emit(&Wire::of(&shown), || vec![shown.tenant.clone()], sheet)?;
            return Ok(Exit::Done);
        }
        let host = self.host.unwrap_or_default();
        let buckets = Mutex::new(Vec::new());
        let all = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListProtectionsRequest {
                    host: host.clone(),
                    bad_only: self.bad,
                    page_size,
                    page_token,
                };
                let (client, buckets) = (&client, &buckets);
                async move {
                    let page = client
                        .read("list what tenants would lose", request, |c, r| async move {
                            c.backups().list_protections(r).await
                        })
                        .await?;
                    if !page.buckets.is_empty() {
                        // Nothing panics while holding it.
                        *buckets.lock().unwrap_or_else(PoisonError::into_inner) = page.buckets;
                    }
                    Ok((page.protections, page.next_page_token))
                }
            })
            .await?;
        let names = || all.iter().map(|shown| shown.tenant.clone()).collect();
        let buckets = buckets.into_inner().unwrap_or_else(PoisonError::into_inner);
        app.ui.emit(&Wire::all(&all), names, |wide| {
            let now = clock::now_ms();
            show::protections(&all, wide, now) + &show::buckets(&buckets, now)
        })?;
        Ok(Exit::Done)
    }
}

impl Prune {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let doing = format!("prune the backups of tenant `{}`", clean(&self.tenant));
        let request = PruneBackupsRequest {
            tenant: self.tenant.clone(),
            destination: self.destination.unwrap_or_default(),
            dry_run: true,
        };
        let ask = |request| {
            client.read(&doing, request, |c, r| async move {
                c.backups().prune_backups(r).await
            })
        };
        let mut pruned = ask(request.clone()).await?;
        let count: u32 = pruned.destinations.iter().map(|d| d.forgotten_count).sum();
        if !self.dry_run {
            if !self.yes {
                let question = format!(
                    "Forget {count} snapshots of tenant `{}`? They cannot be restored any more",
                    clean(&self.tenant)
                );
                if !app.ui.confirm(&doing, &question)? {
                    app.ui.note("nothing was changed");
                    return Ok(Exit::Failed);
                }
            }
            let request = PruneBackupsRequest {
                dry_run: false,
                ..request
            };
            pruned = ask(request).await?;
        }
        let ids = || {
            let all = pruned.destinations.iter().flat_map(|d| &d.forgotten);
            all.map(|snapshot| snapshot.id.clone()).collect()
        };
        app.ui.emit(&Wire::all(&pruned.destinations), ids, |_| {
            show::pruned(&pruned.destinations, self.dry_run)
        })?;
        Ok(Exit::Done)
    }
}

//! `isyctl backup create`: asks for backups and waits until they are made.
//!
//! Not here: when the others are made; the coordinator has a rota.

use std::time::Duration;

use clap::{ArgGroup, Args};
use isyone_proto::pb::v1::{BackupRefused, CreateBackupsRequest, GetProtectionRequest, Protection};

use crate::{
    app::App,
    client::{Client, Interrupt},
    exit::{Exit, Failure, Outcome},
    options::{self, Waiting},
    output::{format, table::clean, wire::Wire},
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Tenants that are named in a message.
const NAMED: usize = 10;

/// `isyctl backup create`.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("which").args(["tenants", "all", "label"]).required(true)),
    after_help = "\
A backup changes nothing of a tenant, and it goes on serving. Of one that is stopped, its files are taken as they are.

Examples:
  isyctl backup create alfa
  isyctl backup create alfa beta --note before-import
  isyctl backup create --label rack=7 --note before-maintenance
  isyctl backup create --all --no-wait"
)]
pub struct Create {
    /// Which tenants
    #[arg(value_name = "TENANT")]
    tenants: Vec<String>,
    /// All tenants of which backups are made
    #[arg(long)]
    all: bool,
    /// All tenants on hosts that carry this label; may be given several times, then all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = options::label)]
    label: Vec<(String, String)>,
    /// A word that is kept with the backup; may be given several times
    #[arg(long, value_name = "WORD")]
    note: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Create {
    pub(super) async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let request = CreateBackupsRequest {
            tenants: self.tenants,
            all: self.all,
            host_labels: options::labels(&self.label)?,
            notes: self.note,
        };
        // Before anything is printed: a user who sees the first line may press Ctrl-C.
        let interrupt = Interrupt::listen();
        let asked = client
            .read("ask for backups", request, |c, r| async move {
                c.backups().create_backups(r).await
            })
            .await?;
        left_out(app, &asked.refused, asked.refused_count);
        if asked.tenants.is_empty() {
            return Err(Failure::failed("no tenant can be backed up"));
        }
        let wait = self.waiting.wanted();
        if wait && app.ui.for_people() {
            app.ui
                .note(&format!("waiting for {}", named(&asked.tenants)));
        }
        let made = match wait {
            false => looks(&client, &asked.tenants).await?,
            true => {
                tokio::select! {
                    made = until_made(&client, &asked.tenants) => made?,
                    stopped = interrupt.came() => return Err(going_on(stopped, "stopped waiting")),
                    () = limit(app) => {
                        return Err(going_on(Failure::new(Exit::Unavailable, ""), "not made in time"));
                    }
                }
            }
        };
        let names = || asked.tenants.clone();
        app.ui.emit(&Wire::all(&made), names, |_| text(&made))?;
        let failed: Vec<_> = made
            .iter()
            .filter(|shown| failure(shown).is_some())
            .collect();
        if wait && !failed.is_empty() {
            let names: Vec<_> = failed.iter().map(|shown| shown.tenant.clone()).collect();
            return Err(Failure::failed(format!(
                "not made: {}; it is tried again until it is",
                named(&names)
            )));
        }
        Ok(Exit::Done)
    }
}

pub(super) async fn limit(app: &App) {
    match app.wait_limit() {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn going_on(mut failure: Failure, what: &str) -> Failure {
    failure.message = format!("{what}: the backups are made all the same");
    failure.hint("`isyctl backup status TENANT` tells how far they are")
}

/// Tells which of all are not among those that were asked for, and why.
pub(super) fn left_out(app: &App, refused: &[BackupRefused], count: u32) {
    for refused in refused {
        let (tenant, why) = (clean(&refused.tenant), clean(&refused.reason));
        app.ui
            .note(&format!("tenant `{tenant}` is left out: {why}"));
    }
    let told = u32::try_from(refused.len()).unwrap_or(u32::MAX);
    if count > told {
        let more = count - told;
        app.ui.note(&format!("and {more} more are left out"));
    }
}

pub(super) fn named(tenants: &[String]) -> String {
    let mut names: Vec<_> = tenants.iter().take(NAMED).map(|name| clean(name)).collect();
    if tenants.len() > NAMED {
        names.push(format!("{} more", tenants.len() - NAMED));
    }
    names.join(", ")
}

pub(super) async fn look(client: &Client, tenant: &str) -> Result<Protection, Failure> {
    let doing = format!("show the backups of tenant `{}`", clean(tenant));
    let request = GetProtectionRequest {
        tenant: tenant.to_owned(),
    };
    client
        .read(&doing, request, |c, r| async move {
            c.backups().get_protection(r).await
        })
        .await
}

pub(super) async fn looks(client: &Client, tenants: &[String]) -> Result<Vec<Protection>, Failure> {
    let mut all = Vec::new();
    for tenant in tenants {
        all.push(look(client, tenant).await?);
    }
    Ok(all)
}

/// One after the other: whoever is last keeps us waiting in any case.
async fn until_made(client: &Client, tenants: &[String]) -> Result<Vec<Protection>, Failure> {
    let mut all = Vec::new();
    for tenant in tenants {
        let shown = loop {
            let shown = look(client, tenant).await?;
            if shown.asked.is_none() || failure(&shown).is_some() {
                break shown;
            }
            tokio::time::sleep(PAUSE).await;
        };
        all.push(shown);
    }
    Ok(all)
}

/// Where what was asked for failed, and why.
fn failure(shown: &Protection) -> Option<(&str, &str)> {
    let left = &shown.asked.as_ref()?.destinations;
    let failing = shown
        .destinations
        .iter()
        .find(|d| d.failures > 0 && left.contains(&d.name));
    failing.map(|d| (d.name.as_str(), d.failure.as_str()))
}

fn text(made: &[Protection]) -> String {
    made.iter()
        .map(|shown| {
            let what = match (failure(shown), &shown.asked) {
                (Some((place, why)), _) => format!("failed at {}: {}", clean(place), clean(why)),
                (None, Some(asked)) => {
                    format!("asked for at {}", clean(&asked.destinations.join(", ")))
                }
                (None, None) => {
                    let places: Vec<_> =
                        shown.destinations.iter().map(|d| d.name.as_str()).collect();
                    format!("made at {}", format::or_dash(&clean(&places.join(", "))))
                }
            };
            format!("{}: {what}\n", clean(&shown.tenant))
        })
        .collect()
}

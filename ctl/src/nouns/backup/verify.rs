//! `isyctl backup verify`: asks for proofs and waits until they have ended.
//!
//! Not here: the proof of each week; the coordinator has a rota.

use std::time::Duration;

use clap::{ArgGroup, Args};
use isyone_proto::pb::v1::{
    BackupProof, DestinationProtection, ProofVerdict, Protection, VerifyBackupsRequest,
};

use super::{
    create::{left_out, limit, look, looks, named},
    show,
};
use crate::{
    app::App,
    client::{Client, Interrupt},
    exit::{Exit, Failure, Outcome},
    options::{self, Waiting},
    output::{table::clean, wire::Wire},
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// `isyctl backup verify`.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("which").args(["tenants", "all", "label"]).required(true)),
    after_help = "\
The newest backup is restored on a host with room, where nobody uses it and nothing reaches it, and
thrown away. PostgreSQL follows its log to the end; every page, table, index and attachment's file
is looked at, and what is not as it was written is named. The tenant goes on serving. Each is proven
once a week by itself. Exit code 1: one is damaged, incomplete, or could not be proven.

Examples:
  isyctl backup verify alfa
  isyctl backup verify --all --no-wait
  isyctl backup verify --label rack=7
  isyctl backup verify alfa -o json | jq '.[].destinations[].proof.damages'"
)]
pub struct Verify {
    /// Which tenants'
    #[arg(value_name = "TENANT")]
    tenants: Vec<String>,
    /// Of all tenants of which there are backups
    #[arg(long)]
    all: bool,
    /// Of all tenants on hosts that carry this label; may be given several times, then all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = options::label)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Verify {
    pub(super) async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let request = VerifyBackupsRequest {
            tenants: self.tenants,
            all: self.all,
            host_labels: options::labels(&self.label)?,
        };
        // Before anything is printed: a user who sees the first line may press Ctrl-C.
        let interrupt = Interrupt::listen();
        let asked = client
            .read("ask for proofs of backups", request, |c, r| async move {
                c.backups().verify_backups(r).await
            })
            .await?;
        left_out(app, &asked.refused, asked.refused_count);
        if asked.tenants.is_empty() {
            return Err(Failure::failed("no tenant's backups can be proven"));
        }
        let wait = self.waiting.wanted();
        if wait && app.ui.for_people() {
            app.ui
                .note(&format!("waiting for {}", named(&asked.tenants)));
        }
        let proven = match wait {
            false => looks(&client, &asked.tenants).await?,
            true => {
                tokio::select! {
                    proven = until_proven(&client, &asked.tenants) => proven?,
                    stopped = interrupt.came() => return Err(going_on(stopped, "stopped waiting")),
                    () = limit(app) => {
                        return Err(going_on(Failure::new(Exit::Unavailable, ""), "not proven in time"));
                    }
                }
            }
        };
        let names = || asked.tenants.clone();
        app.ui
            .emit(&Wire::all(&proven), names, |_| text(&proven, wait))?;
        let bad: Vec<_> = proven.iter().filter(|shown| !is_well(shown)).collect();
        if wait && !bad.is_empty() {
            let names: Vec<_> = bad.iter().map(|shown| shown.tenant.clone()).collect();
            return Err(Failure::failed(format!(
                "not as they should be: {}",
                named(&names)
            )));
        }
        Ok(Exit::Done)
    }
}

fn going_on(mut failure: Failure, what: &str) -> Failure {
    failure.message = format!("{what}: the backups are proven all the same");
    failure.hint("`isyctl backup status TENANT` tells what was found")
}

/// One after the other: whoever is last keeps us waiting in any case.
async fn until_proven(client: &Client, tenants: &[String]) -> Result<Vec<Protection>, Failure> {
    let mut all = Vec::new();
    for tenant in tenants {
        let shown = loop {
            let shown = look(client, tenant).await?;
            if shown.proof_asked.is_none() || failure(&shown).is_some() {
                break shown;
            }
            tokio::time::sleep(PAUSE).await;
        };
        all.push(shown);
    }
    Ok(all)
}

/// Where what was asked for could not be carried out.
fn failure(shown: &Protection) -> Option<&DestinationProtection> {
    let left = &shown.proof_asked.as_ref()?.destinations;
    let mut all = shown.destinations.iter();
    all.find(|d| d.proof_failures > 0 && left.contains(&d.name))
}

fn is_well(shown: &Protection) -> bool {
    let proven = |d: &DestinationProtection| {
        let verdict = d.proof.as_ref().map(BackupProof::verdict);
        d.base_time.is_none() || verdict == Some(ProofVerdict::Proven)
    };
    shown.proof_asked.is_none() && shown.destinations.iter().all(proven)
}

fn text(all: &[Protection], waited: bool) -> String {
    let mut text = String::new();
    for shown in all {
        let tenant = clean(&shown.tenant);
        if let Some(asked) = &shown.proof_asked {
            match failure(shown) {
                Some(failed) if waited => {
                    let why = clean(&failed.proof_failure);
                    text += &format!("{tenant}: not proven at {}: {why}\n", clean(&failed.name));
                }
                _ => {
                    let places = clean(&asked.destinations.join(", "));
                    text += &format!("{tenant}: asked for at {places}\n");
                }
            }
            continue;
        }
        for place in &shown.destinations {
            let Some(proof) = &place.proof else { continue };
            let name = clean(&place.name);
            text += &format!("{tenant}: {name}: {}\n", show::proof(proof));
        }
    }
    text
}

//! `isyctl backup verify`: asks for proofs and waits until they have ended.
//!
//! Not here: the proof of each week; the coordinator has a rota.

use clap::{ArgGroup, Args};
use isyone_proto::pb::v1::{
    BackupProof, DestinationProtection, ProofVerdict, Protection, VerifyBackupsRequest,
};

use super::{
    create::{Looking, Unseen, left_out, named},
    show,
};
use crate::{
    app::App,
    client::Interrupt,
    exit::{Exit, Failure, Outcome},
    options::{self, Waiting},
    output::{table::clean, wire::Wire},
};

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
        let ended = |shown: &Protection| shown.proof_asked.is_none() || failure(shown).is_some();
        let proven = Looking {
            app,
            client: &client,
            wait,
            going_on,
        }
        .looked(interrupt, &asked.tenants, ended)
        .await?;
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

fn going_on(unseen: Unseen) -> Failure {
    let failure = unseen.failure("proven");
    failure.hint("`isyctl backup status TENANT` tells what was found")
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

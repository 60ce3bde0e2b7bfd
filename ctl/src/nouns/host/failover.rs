//! `isyctl host failover`: what would be lost with a lost host, and its tenants going on where their standbys are, or from their backups.
//!
//! Not here: one tenant alone (tenant failover), moves away from a host that is there (drain).

use clap::Args;
use isyone_proto::pb::v1::{
    FailOverHostRequest, GetOperationRequest, Operation, OperationState, TenantFailOver,
};

use crate::{
    app::App,
    client::Client,
    exit::{Exit, Failure, Outcome},
    options::Waiting,
    output::{
        format,
        table::{Table, clean},
        wire::Wire,
    },
    wait,
};

/// `isyctl host failover`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without `--is-down` nothing is changed, and it is said of each tenant what would be lost. With it, each that has a standby goes on \
there, with what that has, and each other one is restored from its newest backup on another host, under its name: only when the lost host is switched off, or cut off from everything, since a host that is merely not \
heard may still run them, and what is written there would be lost. When the host comes back, it keeps its copies aside, fenced, and \
never starts them (`isyctl host orphans`).

With `--standbys-only` what has no standby stays where it is. What could not go on is listed with why; the exit code is 1 then.

Examples:
  isyctl host failover h1                      what would be lost
  isyctl host failover h1 --is-down
  isyctl host failover h1 --is-down --standbys-only
  isyctl host failover h1 --is-down --no-wait  follow it with `isyctl op list`")]
pub struct Failover {
    /// The lost host's name
    name: String,
    /// Only say what would be lost; the same as without `--is-down`
    #[arg(long, conflicts_with_all = ["is_down", "wait", "no_wait"])]
    dry_run: bool,
    /// The host is off, or cut off from everything
    #[arg(long)]
    is_down: bool,
    /// Restore nothing from backups: what has no standby stays where it is
    #[arg(long)]
    standbys_only: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Failover {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let request = FailOverHostRequest {
            name: self.name.clone(),
            is_down: self.is_down,
            standbys_only: self.standbys_only,
        };
        let doing = format!("fail host `{}` over", clean(&self.name));
        let mut fates = client
            .change(&doing, request, |c, r| async move {
                c.hosts().fail_over_host(r).await
            })
            .await?
            .tenants;
        if self.waiting.wanted() {
            for fate in fates
                .iter_mut()
                .filter(|fate| !fate.operation_id.is_empty())
            {
                await_end(app, &client, fate).await?;
            }
        }
        self.tell(app, &fates)
    }

    fn tell(&self, app: &App, fates: &[TenantFailOver]) -> Outcome {
        let names = || fates.iter().map(|fate| fate.tenant.clone()).collect();
        app.ui.emit(&Wire::all(fates), names, |_| table(fates))?;
        let gone_on = fates.iter().filter(|fate| !fate.to_host.is_empty());
        let (gone_on, name) = (gone_on.count(), clean(&self.name));
        let of = format!("{gone_on} of {}", format::plural(fates.len(), "tenant"));
        app.ui.note(&match self.is_down {
            true => format!("{of} of host {name} went on elsewhere"),
            false => format!(
                "nothing was changed: {of} of host {name} can go on elsewhere. When it is off, or cut off from everything: `isyctl host \
                 failover {name} --is-down`"
            ),
        });
        match gone_on == fates.len() || !self.is_down {
            true => Ok(Exit::Done),
            false => Ok(Exit::Failed),
        }
    }
}

fn table(fates: &[TenantFailOver]) -> String {
    let mut table = Table::new(vec![
        "TENANT",
        "GOES ON",
        "NEWEST BACKUP",
        "WHAT IS LOST, OR WHY NOT",
    ]);
    for fate in fates {
        table.row(vec![
            clean(&fate.tenant).into(),
            format::or_dash(&fate.to_host).into(),
            match &fate.backup_time {
                Some(time) => format::local(Some(time)),
                None => "-".to_owned(),
            }
            .into(),
            clean(&fate.message).into(),
        ]);
    }
    table.render()
}

/// Waits until it answers where its standby was; what became of it otherwise is told in its place.
async fn await_end(app: &App, client: &Client, fate: &mut TenantFailOver) -> Result<(), Failure> {
    let request = GetOperationRequest {
        id: fate.operation_id.clone(),
    };
    let doing = format!("follow the operation of tenant `{}`", clean(&fate.tenant));
    let begun: Operation = client
        .read(&doing, request, |c, r| async move {
            c.operations().get_operation(r).await
        })
        .await?;
    let last = wait::ended(client, &app.ui, begun, app.wait_limit()).await?;
    if last.state() != OperationState::Succeeded {
        fate.to_host.clear();
        fate.message.clone_from(&last.error);
    }
    Ok(())
}

//! `isyctl tenant move`: says what will happen and for how long, asks for confirmation, and says until when the old copy
//! is kept.
//!
//! Not here: the stages of a move (the coordinator's core), and taking one back (op cancel).

use clap::Args;
use isyone_proto::pb::v1::{CopyRole, DesiredState, MoveTenantRequest, Tenant, TenantCopy};

use super::{change, get};
use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    options::Waiting,
    output::{
        format,
        table::{Table, clean},
    },
};

/// What agents copy at, unless they are told otherwise, bytes per second: `isy-agent run --copy-rate-mib`.
const USUAL_RATE_BYTES_PER_S: u64 = 64 << 20;

/// `isyctl tenant move`.
#[derive(Debug, Args)]
#[command(after_help = "\
The tenant is stopped while its data is copied: for the size of its data divided by the copy rate \
(64 MiB/s unless agents were told otherwise with `isy-agent run --copy-rate-mib`: 16 s for each GiB), and some seconds \
for stopping and starting. Visitors see a page that says so. Then it runs on the new host with the same data, passwords, \
domains and sessions. Ctrl-C only stops waiting.

The old copy stays on the old host, fenced: it is never started, and goes by itself when a deleted tenant's volumes \
would (`tenant show` says when). Until then the tenant can go back there while it is well: only what has changed since \
is copied, over that copy. A tenant that was created with `--host` is pinned to its new host from then on.

`isyctl op cancel ID` takes it back to the old host, until the copy is complete.

Examples:
  isyctl tenant move alfa --to h2              asks first when it runs
  isyctl tenant move alfa --to h2 --yes        for scripts
  isyctl tenant move alfa --to h2 --no-wait    follow it with `isyctl op watch ID`")]
pub struct Move {
    /// The tenant's name
    name: String,
    /// The host to take it to
    #[arg(long, value_name = "HOST")]
    to: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Move {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        if !self.yes {
            let tenant = get(&client, &self.name).await?;
            let runs = tenant.desired_state == i32::from(DesiredState::Running);
            if runs && !self.confirmed(app, &tenant)? {
                app.ui.note("nothing was changed");
                return Ok(Exit::Failed);
            }
        }
        let message = MoveTenantRequest {
            name: self.name.clone(),
            to_host: self.to.clone(),
            request_id: clock::request_id(),
        };
        let operation = client
            .change(
                &format!("move tenant `{}`", self.name),
                message,
                |c, r| async move { c.tenants().move_tenant(r).await },
            )
            .await?;
        let waited = self.waiting.wanted();
        let done = format!("moved to {}", clean(&self.to));
        let exit = change::settle(app, &client, operation, self.waiting, &done).await?;
        if waited {
            self.tell_of_old_copy(app, &client).await;
        }
        Ok(exit)
    }

    /// Only a message: the move stands whatever this call returns.
    async fn tell_of_old_copy(&self, app: &App, client: &Client) {
        let Ok(tenant) = get(client, &self.name).await else {
            return;
        };
        let kept = |copy: &&TenantCopy| copy.role() == CopyRole::Fenced;
        // The newest one, of several moves.
        if let Some(copy) = tenant.copies.iter().rfind(kept) {
            let (host, until) = (clean(&copy.host), format::local(copy.expire_time.as_ref()));
            app.ui.note(&format!(
                "its old copy on {host} is kept, fenced, until {until}"
            ));
        }
    }

    fn confirmed(&self, app: &App, tenant: &Tenant) -> Result<bool, Failure> {
        let (name, to) = (clean(&self.name), clean(&self.to));
        let size = format::measured_disk(tenant.usage.as_ref());
        let facts = Table::pairs([
            ("Tenant", name.as_str().into()),
            ("URL", tenant.url.as_str().into()),
            ("From", format::or_dash(&tenant.host).into()),
            ("To", to.as_str().into()),
            (
                "Data",
                size.map_or("not measured yet".to_owned(), format::bytes)
                    .into(),
            ),
        ]);
        app.ui.note(facts.trim_end());
        app.ui.note(&format!(
            "It is stopped while its data is copied: {}.",
            downtime(size)
        ));
        app.ui.note(
            "Data, passwords, domains and sessions stay. `isyctl op cancel` takes it back until the copy is complete.",
        );
        app.ui.confirm(
            &format!("move tenant `{name}`"),
            &format!("Move {name} to {to}?"),
        )
    }
}

/// How long the tenant will be stopped, in words.
fn downtime(bytes: Option<u64>) -> String {
    match bytes {
        Some(bytes) => {
            let minutes = bytes.div_ceil(USUAL_RATE_BYTES_PER_S).div_ceil(60);
            format!(
                "about {} at 64 MiB/s",
                format::plural(minutes.max(1) as usize + 1, "minute")
            )
        }
        None => {
            "16 s for each GiB at 64 MiB/s, and some seconds for stopping and starting".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::downtime;

    #[test]
    fn the_time_without_service_follows_the_size() {
        assert_eq!(downtime(Some(1 << 30)), "about 2 minutes at 64 MiB/s");
        assert_eq!(downtime(Some(64 << 30)), "about 19 minutes at 64 MiB/s");
        assert!(downtime(None).starts_with("16 s for each GiB"));
    }
}

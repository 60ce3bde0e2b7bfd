//! `isyctl tenant move`: says what will happen and for how long, asks for confirmation, and says until when the old copy
//! is kept.
//!
//! Not here: the stages of a move (the coordinator's core), and taking one back (op cancel).

use std::time::Duration;

use clap::Args;
use isyone_proto::pb::v1::{
    CopyRole, DesiredState, MoveTenantRequest, Operation, Tenant, TenantCopy,
};

use super::{change, get};
use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    options::{Waiting, duration},
    output::{
        format,
        table::{Table, clean},
        wire::Wire,
    },
};

/// What agents copy at, unless they are told otherwise, bytes per second: `isy-agent run --copy-rate-mib`.
const USUAL_RATE_BYTES_PER_S: u64 = 64 << 20;

/// `isyctl tenant move`.
#[derive(Debug, Args)]
#[command(after_help = "\
With `--max-pause` the tenant runs while its data is copied and kept up with, and is stopped only when so little is \
missing that its pause fits: a second or two, whatever its size. Requests wait meanwhile. If no such moment comes, or \
anything fails before the new host has all of it, it goes on where it was. Both hosts' agents must be able to.

Otherwise the tenant is stopped while its data is copied: for the size of its data divided by the copy rate \
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
  isyctl tenant move alfa --away-from h1       to wherever there is most room
  isyctl tenant move alfa --away-from h1 --dry-run
  isyctl tenant move alfa --to h2 --max-pause 5s
  isyctl tenant move alfa --to h2 --no-wait    follow it with `isyctl op watch ID`")]
pub struct Move {
    /// The tenant's name
    name: String,
    /// The host to take it to
    #[arg(long, value_name = "HOST", required_unless_present = "away_from")]
    to: Option<String>,
    /// Take it from this host to wherever there is most room
    #[arg(long, value_name = "HOST", conflicts_with = "to")]
    away_from: Option<String>,
    /// Let it run while its data is copied, and pause for so long at most (3s to 10m); it is not stopped while the estimate is longer
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_pause: Option<Duration>,
    /// Only say where it would go, and why
    #[arg(long, conflicts_with_all = ["wait", "no_wait"])]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Move {
    /// To a host, while it runs.
    pub(super) fn to(
        name: String,
        host: String,
        max_pause: Duration,
        yes: bool,
        waiting: Waiting,
    ) -> Self {
        Self {
            name,
            to: Some(host),
            away_from: None,
            max_pause: Some(max_pause),
            dry_run: false,
            yes,
            waiting,
        }
    }

    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        if !self.yes && !self.dry_run {
            let tenant = get(&client, &self.name).await?;
            let runs = tenant.desired_state == i32::from(DesiredState::Running);
            if runs && !self.confirmed(app, &tenant)? {
                app.ui.note("nothing was changed");
                return Ok(Exit::Failed);
            }
        }
        let operation = client
            .change(
                &format!("move tenant `{}`", self.name),
                self.message(),
                |c, r| async move { c.tenants().move_tenant(r).await },
            )
            .await?;
        if self.dry_run {
            return planned(app, &operation);
        }
        let waited = self.waiting.wanted();
        let done = match &self.to {
            Some(to) => format!("moved to {}", clean(to)),
            None => "moved".to_owned(),
        };
        let told = |ended: &Operation| format!("{done}{}", pause(ended));
        let exit = change::settle_as(app, &client, operation, self.waiting, told).await?;
        if waited {
            self.tell_of_old_copy(app, &client).await;
        }
        Ok(exit)
    }

    /// What is asked for. A coordinator of before reads the host in `to_host` and nothing else, and would stop the tenant at once: who
    /// asks for more names the host where it does not look, and is refused there.
    fn message(&self) -> MoveTenantRequest {
        let to = self.to.clone().unwrap_or_default();
        let (to_host, to_host_live) = match self.dry_run || self.max_pause.is_some() {
            true => (String::new(), to),
            false => (to, String::new()),
        };
        MoveTenantRequest {
            name: self.name.clone(),
            to_host,
            request_id: clock::request_id(),
            away_from_host: self.away_from.clone().unwrap_or_default(),
            max_pause_ms: self.max_pause.map(format::milliseconds),
            dry_run: self.dry_run,
            to_host_live,
        }
    }

    /// Where it goes, for people.
    fn whither(&self) -> String {
        match (&self.to, &self.away_from) {
            (Some(to), _) => clean(to),
            (None, Some(from)) => format!("another host than {}", clean(from)),
            (None, None) => String::new(), // clap asks for one of them
        }
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
        let (name, to) = (clean(&self.name), self.whither());
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
        app.ui.note(&match self.max_pause {
            Some(most) => format!(
                "It runs while its data is copied, and pauses for {} at most.",
                humantime::format_duration(most)
            ),
            None => format!(
                "It is stopped while its data is copied: {}.",
                downtime(size)
            ),
        });
        app.ui.note(
            "Data, passwords, domains and sessions stay. `isyctl op cancel` takes it back until the copy is complete.",
        );
        app.ui.confirm(
            &format!("move tenant `{name}`"),
            &format!("Move {name} to {to}?"),
        )
    }
}

/// Where a tenant would go.
fn planned(app: &App, operation: &Operation) -> Outcome {
    let place = operation.steps.iter().find(|step| step.name == PLACED);
    let why = place.map(|step| clean(&step.detail)).unwrap_or_default();
    let facts = [
        ("Tenant", operation.tenant.as_str().into()),
        ("To", operation.host.as_str().into()),
        ("Because", why.as_str().into()),
    ];
    app.ui.emit(
        &Wire::of(operation),
        || vec![operation.host.clone()],
        |_| Table::pairs(facts),
    )?;
    Ok(Exit::Done)
}

/// The step whose detail says why a tenant goes where it goes.
const PLACED: &str = "place";
/// The step whose detail says how long the tenant paused, where it ran meanwhile.
const STARTED: &str = "start";

/// How long it paused, as far as that was told.
fn pause(operation: &Operation) -> String {
    let step = operation.steps.iter().find(|step| step.name == STARTED);
    match step.map(|step| clean(&step.detail)).unwrap_or_default() {
        told if told.is_empty() => String::new(),
        told => format!("; {told}"),
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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        moved: Move,
    }

    fn typed(words: &[&str]) -> (String, String) {
        let words = ["move", "alfa", "--to", "h2"].iter().chain(words);
        let message = Typed::parse_from(words).moved.message();
        (message.to_host, message.to_host_live)
    }

    #[test]
    fn a_coordinator_that_knows_no_pause_and_no_rehearsal_is_told_no_host() {
        let (host, none) = ("h2".to_owned(), String::new());
        assert_eq!(typed(&["--yes"]), (host.clone(), none.clone()));
        assert_eq!(typed(&["--dry-run"]), (none.clone(), host.clone()));
        assert_eq!(typed(&["--max-pause", "5s"]), (none, host));
    }

    #[test]
    fn the_time_without_service_follows_the_size() {
        assert_eq!(downtime(Some(1 << 30)), "about 2 minutes at 64 MiB/s");
        assert_eq!(downtime(Some(64 << 30)), "about 19 minutes at 64 MiB/s");
        assert!(downtime(None).starts_with("16 s for each GiB"));
    }
}

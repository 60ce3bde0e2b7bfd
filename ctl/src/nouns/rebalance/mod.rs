//! `isyctl rebalance`: moves that would take load off the most loaded hosts, and what they would lead to.
//!
//! Not here: which moves (the coordinator's core), making them (apply), during which time (window).

mod apply;
mod show;
mod window;

use std::time::Duration;

use clap::Args;
use isyone_proto::pb::v1::{ProposeRebalanceRequest, RebalanceProposal};

use self::window::Window;
use crate::{
    app::App,
    client::Client,
    exit::{Exit, Failure, Outcome},
    options::duration,
    output::wire::Wire,
};

/// Most moves of one proposal, as in the protocol.
const MAX_MOVES: u32 = 20;

/// `isyctl rebalance`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without `--apply` nothing is changed: for each move it is said what it leads to, why it goes there, how much is copied and for how \
long the tenant is stopped (its data at 64 MiB/s, and 15 s for stopping and starting); for each host its load before and after, \
as placement counts it, and why it is not relieved further. A move must take 1 % off its host; hosts within 10 % of each other \
count as equal. Tenants stay that are pinned, busy, not well, have a standby, or have moved within a day.

With `--apply` one tenant is moved at a time, by an ordinary move, and before each it is asked anew which is the best. It ends when \
nothing helps any more, after so many moves (`--most`), at the first move that fails, or with the window: no move begins that would \
not be over by then. Ctrl-C stops it as well; the move that is under way goes on, and no other begins. Nothing of this happens by itself.

Examples:
  isyctl rebalance
  isyctl rebalance -o json | jq '.moves[].tenant'
  isyctl rebalance --apply --most 3
  isyctl rebalance --apply --within 22:00-05:00 --yes    waits for the night
  isyctl rebalance --apply --deadline 2h --max-pause 5s")]
pub struct Rebalance {
    /// Only say which moves would help; the same as without `--apply`
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    /// Make them, one at a time
    #[arg(long)]
    apply: bool,
    /// At most this many moves, 1 to 20
    #[arg(long, value_name = "N", default_value_t = MAX_MOVES, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MOVES)))]
    most: u32,
    /// Move only between these times of the day, in this machine's time zone
    #[arg(
        long,
        value_name = "FROM-TO",
        requires = "apply",
        conflicts_with = "deadline"
    )]
    within: Option<Window>,
    /// Move only for so long from now on
    #[arg(long, value_name = "TIME", requires = "apply", value_parser = duration)]
    deadline: Option<Duration>,
    /// Let tenants run while their data is copied, and pause for so long at most (3s to 10m), as `tenant move` does
    #[arg(long, value_name = "TIME", requires = "apply", value_parser = duration)]
    max_pause: Option<Duration>,
    /// Do not ask
    #[arg(long, short, requires = "apply")]
    yes: bool,
}

impl Rebalance {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let proposal = propose(&client, self.most).await?;
        if self.apply {
            return apply::run(self, app, &client, proposal).await;
        }
        let names = || proposal.moves.iter().map(|m| m.tenant.clone()).collect();
        app.ui.emit(&Wire::of(&proposal), names, |wide| {
            show::proposal(&proposal, wide)
        })?;
        if app.ui.for_people() {
            app.ui.note(&show::what_next(&proposal));
        }
        Ok(Exit::Done)
    }
}

/// Asks which moves would help now.
async fn propose(client: &Client, most: u32) -> Result<RebalanceProposal, Failure> {
    let request = ProposeRebalanceRequest { max_moves: most };
    client
        .read("propose moves", request, |c, r| async move {
            c.hosts().propose_rebalance(r).await
        })
        .await
}

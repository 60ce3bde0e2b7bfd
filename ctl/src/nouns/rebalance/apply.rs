//! `isyctl rebalance --apply`: one ordinary move at a time. Each is decided anew from what the fleet is like right before it begins, so
//! nothing that was proposed an hour ago is made. What was begun goes on whatever becomes of this program, as with `host drain`; what was
//! not, does not begin: typed again, it goes on from what is there.
//!
//! Not here: the stages of a move (the coordinator's core), what is printed of it (show).

use std::time::Duration;

use isyone_proto::{
    convert::unix_ms,
    pb::v1::{MoveTenantRequest, Operation, ProposedMove, RebalanceProposal},
};
use jiff::{Timestamp, tz::TimeZone};
use prost_types::Timestamp as WireTime;
use tokio::time::Instant;

use super::{Rebalance, propose, show, show::Made, window::Open};
use crate::{
    app::App,
    client::{Client, Interrupt},
    clock,
    exit::{Exit, Failure, Outcome},
    output::{format, table::clean, wire::Wire},
    wait,
};

/// Without a window: longer than twenty moves take, and than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// Why no further move was begun.
struct End {
    why: String,
    exit: Exit,
}

pub(super) async fn run(
    asked: Rebalance,
    app: &App,
    client: &Client,
    first: RebalanceProposal,
) -> Outcome {
    if !asked.yes && !first.moves.is_empty() {
        app.ui.note(show::proposal(&first, false).trim_end());
        let count = format::plural(first.moves.len(), "tenant");
        let question = format!("Move up to {count}, one at a time, each as it is best then?");
        if !app.ui.confirm("rebalance the fleet", &question)? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
    }
    let end = open(&asked, app).await?;
    let mut made = Vec::new();
    let end = course(&asked, (app, client), end, &mut made).await;
    tell(app, client, &made).await?;
    let end = end?;
    app.ui.note(&end.why);
    Ok(end.exit)
}

/// Waits until moves may begin; returns when they may no more.
async fn open(asked: &Rebalance, app: &App) -> Result<Instant, Failure> {
    let began = Instant::now();
    let Some(window) = asked.within else {
        return Ok(began + asked.deadline.unwrap_or(FOR_EVER));
    };
    let failed = |e: jiff::Error| Failure::failed(format!("cannot tell the time of the day: {e}"));
    let now = Timestamp::from_millisecond(clock::now_ms()).map_err(failed)?;
    let Open { opens_in, ends_in } = window.at(now, &TimeZone::system()).map_err(failed)?;
    if !opens_in.is_zero() {
        let wait = format::duration(i64::try_from(opens_in.as_millis()).unwrap_or(i64::MAX));
        app.ui
            .note(&format!("waiting for {wait}, until moves may begin"));
        pause(began + opens_in).await?;
    }
    Ok(began + ends_in)
}

/// Waits; Ctrl-C ends it.
async fn pause(until: Instant) -> Result<(), Failure> {
    let interrupt = Interrupt::listen();
    tokio::select! {
        () = tokio::time::sleep_until(until) => Ok(()),
        mut stopped = interrupt.came() => {
            stopped.message = "stopped: no move begins".to_owned();
            Err(stopped)
        }
    }
}

/// Moves until there is a reason to stop.
async fn course(
    asked: &Rebalance,
    (app, client): (&App, &Client),
    end: Instant,
    made: &mut Vec<Made>,
) -> Result<End, Failure> {
    let done = |why: String| {
        let exit = Exit::Done;
        Ok(End { why, exit })
    };
    while made.len() < asked.most as usize {
        let proposal = propose(client, 1).await?;
        let Some(proposed) = proposal.moves.first().cloned() else {
            match settles(proposal.settle_time.as_ref(), end) {
                Some(at) => {
                    app.ui
                        .note("waiting until loads no longer follow the moves that were made");
                    pause(at).await?;
                    continue;
                }
                None => return done(clean(&proposal.reason)),
            }
        };
        let takes = Duration::from_millis(proposed.pause_ms.unwrap_or(0));
        if Instant::now() + takes >= end {
            let tenant = clean(&proposed.tenant);
            return done(format!(
                "stopped: the move of {tenant} would not be over when the time is"
            ));
        }
        let ended = make(asked, (app, client), &proposed).await?;
        let one = Made { proposed, ended };
        let failed = (!one.went_well()).then(|| failure(&one));
        made.push(one);
        if let Some(why) = failed {
            let exit = Exit::Failed;
            return Ok(End { why, exit });
        }
    }
    let count = format::plural(made.len(), "tenant");
    done(format!("{count} moved, as many as were asked for"))
}

/// When hosts can be judged again, if that is within the time there is.
fn settles(at: Option<&WireTime>, end: Instant) -> Option<Instant> {
    let wait = unix_ms(at?).saturating_sub(clock::now_ms()).max(1_000);
    let at = Instant::now() + Duration::from_millis(u64::try_from(wait).unwrap_or(0));
    (at < end).then_some(at)
}

/// Moves one tenant, and waits for the end of that.
async fn make(
    asked: &Rebalance,
    (app, client): (&App, &Client),
    proposed: &ProposedMove,
) -> Result<Operation, Failure> {
    let (tenant, to) = (clean(&proposed.tenant), clean(&proposed.to_host));
    app.ui.note(&format!(
        "moving {tenant} to {to}: {}",
        clean(&proposed.reason)
    ));
    // Whoever asks for a pause names the host where a coordinator of before does not look (tenant move).
    let (to_host, to_host_live) = match asked.max_pause {
        Some(_) => (String::new(), proposed.to_host.clone()),
        None => (proposed.to_host.clone(), String::new()),
    };
    let message = MoveTenantRequest {
        name: proposed.tenant.clone(),
        to_host,
        to_host_live,
        request_id: clock::request_id(),
        max_pause_ms: asked.max_pause.map(format::milliseconds),
        ..MoveTenantRequest::default()
    };
    let doing = format!("move tenant `{tenant}`");
    let begun = client
        .change(&doing, message, |c, r| async move {
            c.tenants().move_tenant(r).await
        })
        .await?;
    wait::ended(client, &app.ui, begun, app.wait_limit()).await
}

fn failure(one: &Made) -> String {
    let tenant = clean(&one.proposed.tenant);
    let why = match one.ended.error.as_str() {
        "" => "its move was cancelled".to_owned(),
        why => clean(why),
    };
    format!("stopped: {tenant} was not moved: {why}")
}

/// What came, beside what was predicted. The loads are those that hosts have reported by now.
async fn tell(app: &App, client: &Client, made: &[Made]) -> Result<(), Failure> {
    if made.is_empty() && app.ui.for_people() {
        return Ok(());
    }
    let names = || made.iter().map(|one| one.proposed.tenant.clone()).collect();
    let wire = Wire::all(made.iter().map(|one| &one.ended));
    let now = match app.ui.for_people() {
        true => propose(client, 1).await?.hosts,
        false => Vec::new(),
    };
    app.ui.emit(&wire, names, |_| show::course(made, &now))
}

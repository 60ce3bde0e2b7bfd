//! Proposals, and what came of them, as tables. Pure.
//!
//! Not here: asking for a proposal (mod), making its moves (apply).

use isyone_proto::{
    convert::unix_ms,
    pb::v1::{HostForecast, HostLoad, Operation, OperationState, ProposedMove, RebalanceProposal},
};

use crate::output::{
    format,
    table::{Cell, Table, clean},
};

/// Moves, then hosts, then why these and no more.
pub(super) fn proposal(proposal: &RebalanceProposal, wide: bool) -> String {
    let mut text = String::new();
    if !proposal.moves.is_empty() {
        text.push_str(&moves(&proposal.moves));
        text.push('\n');
    }
    if !proposal.hosts.is_empty() {
        text.push_str(&hosts(proposal, wide));
        text.push('\n');
    }
    text.push_str(&format!("{}\n", Cell::from(&proposal.reason)));
    text
}

fn moves(moves: &[ProposedMove]) -> String {
    let mut table = Table::new(vec!["TENANT", "FROM", "TO", "DATA", "PAUSE", "BECAUSE"]);
    for proposed in moves {
        table.row(vec![
            proposed.tenant.as_str().into(),
            proposed.from_host.as_str().into(),
            proposed.to_host.as_str().into(),
            proposed.bytes.map_or("-".to_owned(), format::bytes).into(),
            pause(proposed.pause_ms).into(),
            proposed.reason.as_str().into(),
        ]);
    }
    table.render()
}

/// An estimate, as such.
fn pause(ms: Option<u64>) -> String {
    match ms {
        Some(0) => "none".to_owned(),
        Some(ms) => format!(
            "~{}",
            format::duration(i64::try_from(ms).unwrap_or(i64::MAX))
        ),
        None => "-".to_owned(),
    }
}

fn hosts(proposal: &RebalanceProposal, wide: bool) -> String {
    let mut header = vec!["HOST", "LOAD", "AFTER"];
    if wide {
        header.extend(["MEMORY", "AFTER", "CPU", "AFTER", "DISK", "AFTER"]);
    }
    header.extend(["TENANTS", "AFTER", "WHY NOT MORE"]);
    let mut table = Table::new(header);
    for host in &proposal.hosts {
        let mut row: Vec<Cell> = vec![host.host.as_str().into()];
        let parts: &[fn(&HostLoad) -> u32] = match wide {
            true => &[
                |load| load.load_permille,
                |load| load.memory_permille,
                |load| load.cpu_permille,
                |load| load.disk_permille,
            ],
            false => &[|load| load.load_permille],
        };
        for part in parts {
            let cell = |load: Option<&HostLoad>| Cell::from(percent(load.map(part)));
            row.extend([cell(host.before.as_ref()), cell(host.after.as_ref())]);
        }
        row.extend([
            host.tenants_before.to_string().into(),
            host.tenants_after.to_string().into(),
            format::or_dash(&host.why_not).into(),
        ]);
        table.row(row);
    }
    let mut text = table.render();
    let shown = proposal.hosts.len();
    if (proposal.considered as usize) > shown {
        let all = format::plural(proposal.considered as usize, "host");
        text.push_str(&format!("({shown} of {all} shown)\n"));
    }
    text
}

fn percent(permille: Option<u32>) -> String {
    permille.map_or("-".to_owned(), format::percent)
}

/// What to do with a proposal.
pub(super) fn what_next(proposal: &RebalanceProposal) -> String {
    match proposal.moves.is_empty() {
        true => "nothing was changed".to_owned(),
        false => "nothing was changed: `isyctl rebalance --apply` makes these moves, one at a time. Pauses are estimates: the tenant's data \
                  at 64 MiB/s, and 15 s for stopping and starting"
            .to_owned(),
    }
}

/// A move that was made, or was begun and failed.
pub(super) struct Made {
    pub proposed: ProposedMove,
    pub ended: Operation,
}

impl Made {
    pub(super) fn went_well(&self) -> bool {
        self.ended.state() == OperationState::Succeeded
    }

    /// From when it was stopped until its edges had the new route, milliseconds; nothing for one that was not stopped.
    fn pause_ms(&self) -> Option<i64> {
        let steps = &self.ended.steps;
        let stopped = steps.iter().find(|step| step.name == STOPPED)?;
        let from = unix_ms(stopped.start_time.as_ref()?);
        let to = unix_ms(self.ended.end_time.as_ref()?);
        Some(to - from)
    }
}

/// The stage in which a tenant is stopped for its move.
const STOPPED: &str = "stop";

/// What came, beside what was predicted.
pub(super) fn course(made: &[Made], now: &[HostForecast]) -> String {
    let mut moves = Table::new(vec![
        "TENANT",
        "FROM",
        "TO",
        "RESULT",
        "DATA",
        "PREDICTED",
        "PAUSE",
    ]);
    for one in made {
        let paused = one.pause_ms().filter(|_| one.went_well());
        moves.row(vec![
            one.proposed.tenant.as_str().into(),
            one.proposed.from_host.as_str().into(),
            one.proposed.to_host.as_str().into(),
            format::operation_state(one.ended.state).into(),
            one.proposed
                .bytes
                .map_or("-".to_owned(), format::bytes)
                .into(),
            pause(one.proposed.pause_ms).into(),
            paused.map_or("-".to_owned(), format::duration).into(),
        ]);
    }
    let mut hosts = Table::new(vec!["HOST", "LOAD BEFORE", "PREDICTED", "NOW"]);
    for (host, before, predicted) in touched(made) {
        let seen = now.iter().find(|forecast| forecast.host == host);
        let load = seen.and_then(|forecast| forecast.before.as_ref());
        hosts.row(vec![
            clean(&host).into(),
            format::percent(before).into(),
            format::percent(predicted).into(),
            percent(load.map(|load| load.load_permille)).into(),
        ]);
    }
    format!("{}\n{}", moves.render(), hosts.render())
}

/// Each host that a move went from or to: its load before the first, and as predicted after the last.
fn touched(made: &[Made]) -> Vec<(String, u32, u32)> {
    let mut hosts: Vec<(String, u32, u32)> = Vec::new();
    for one in made.iter().filter(|one| one.went_well()) {
        let moved = &one.proposed;
        for (host, before, after) in [
            (
                &moved.from_host,
                moved.from_permille_before,
                moved.from_permille_after,
            ),
            (
                &moved.to_host,
                moved.to_permille_before,
                moved.to_permille_after,
            ),
        ] {
            match hosts.iter_mut().find(|(known, ..)| known == host) {
                Some((_, _, predicted)) => *predicted = after,
                None => hosts.push((host.clone(), before, after)),
            }
        }
    }
    hosts.sort();
    hosts
}

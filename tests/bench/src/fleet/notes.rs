//! What readers of `bench fleet` must know.

use std::time::Duration;

use isyone_coordinator::{
    agents::session::{COMEBACKS_PER_SECOND, comeback_spread},
    base::config::{Liveness, Span},
};

use super::{
    LOST_AFTER, OPERATORS_SECONDS, SIZES, TENANTS,
    load::{PAGE, PER_SECOND},
    site::{LOST_SECONDS, REPORT_SECONDS, SUSPECT_SECONDS},
};
use crate::{
    Run,
    figures::{Report, Unit},
};

pub(super) fn add(report: &mut Report, run: &Run) {
    fleet(report);
    operators(report);
    storm(report);
    report.note(format!("Data directory: {}.", run.disk.show()));
    report.note(
        "Memory per agent is the coordinator's resident memory with all agents connected, less that of the same coordinator on the same \
         database without agents, divided by their number: connection, TLS, session, and what is remembered of the reports.",
    );
}

fn fleet(report: &mut Report) {
    report.note(format!(
        "Each agent has {TENANTS} running tenants and reports every {REPORT_SECONDS} s, evenly spread, every sixth report complete, as the \
         real agent does, with each tenant's usage and traffic, which change a little each time. Coordinator and agents share this \
         machine's cores, so in the storm both sides' handshakes do."
    ));
    let usual = Liveness::default();
    let seconds = |span: Span| span.get().as_secs();
    report.note(format!(
        "Not the defaults: hosts are suspect after {SUSPECT_SECONDS} s of silence and lost after {LOST_SECONDS} s, and report every \
         {REPORT_SECONDS} s; the product's defaults are {} s, {} s and {} s.",
        seconds(usual.suspect),
        seconds(usual.lost),
        seconds(usual.report_interval)
    ));
    report.note(
        "Not at work here: no edge is named, so nobody is probed and no Traefik asks for its document; no Prometheus asks the coordinator \
         for anything (but the bench itself, once after the storm). What they would ask for is kept up to date all the same. The agents have no \
         Docker: each tenant is at once as its plan says.",
    );
}

fn operators(report: &mut Report) {
    let [judged, other] = OPERATORS_SECONDS;
    report.note(format!(
        "Calls and changes: while the fleet reports, {PER_SECOND} times a second a RestartTenant of another tenant each time, then a GetTenant \
         of it, then a ListTenants of {PAGE}: for {judged} s in the largest fleet, {other} s in the others. A change reaches its host when the \
         agent has its plan. That may be before the API's answer reaches the operator; the time after the answer is then less than none, \
         and counts as 0 µs."
    ));
}

/// The time over which a coordinator tells agents to spread their reconnects, by fleet size.
fn spreads() -> String {
    let told = |agents| match comeback_spread(agents, Duration::from_secs(SUSPECT_SECONDS)) {
        Duration::ZERO => format!("{agents} agents none"),
        spread => format!(
            "{agents} agents {}",
            Unit::Seconds.show(spread.as_secs_f64())
        ),
    };
    SIZES.map(told).join(", ")
}

fn storm(report: &mut Report) {
    report.note(format!(
        "A report is lost when {} s after the last of the work neither it nor a later one of its agent was acknowledged: the first report \
         of a session says everything, so it covers what was on its way at the kill. A report's covering is timed from its making.",
        LOST_AFTER.as_secs()
    ));
    report.note(
        "In the storm an attempt at a session counts as failed when the new coordinator's port was open and no report of that session was \
         acknowledged: connections turned away or reset, handshakes that took too long, no Welcome in time. Attempts that met the closed \
         port between kill and start are counted apart. The coordinator runs with ISYONE_LOG=warn: a line for each agent that comes or \
         goes is not written.",
    );
    report.note(format!(
        "The coordinator tells the agents in each Welcome how widely to spread when they come back, and they remember it: the number of joined \
         hosts at {COMEBACKS_PER_SECOND} a second, half of the handshakes that two cores do; nothing if that is less than half a second, at \
         most 30 s and half the time until a silent host is suspect: {}. Each wait, the first one and those after failed attempts, is drawn evenly between nothing and that, or the agent's own \
         back-off where that is longer. So the last of a large fleet is back about that long after the kill, or somewhat later, by intent.",
        spreads()
    ));
    report.note(
        "Connections refused as `network`: all simulated agents have one address, so to the coordinator they are one network, and one network \
         may have 2,048 connections that wait for their handshake, two seconds' work; who comes on top is refused at once. Agents that come \
         from several networks have so many for each, and 4,096 in all. Who is refused comes back later, as the real agent does: the time \
         until all are back contains that, and reports lost are counted apart. Reasons that nobody met have no row.",
    );
}

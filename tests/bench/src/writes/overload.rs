//! Far more concurrent creates than the coordinator accepts, from clients that never wait: refused calls say when to
//! come back, agents are still served, and memory does not grow with the crowd.
//!
//! A refused client sends its next create at once and ignores the hint, so it is worse than any client of ours.
//! Not here: who watches meanwhile (witnesses), and what happens without a crowd (load).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_proto::{
    error,
    pb::v1::{CreateTenantRequest, tenant_service_client::TenantServiceClient},
};
use tokio::{
    runtime::Runtime,
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};

use super::{
    coordinator::Coordinator,
    witnesses::{Seen, Witnesses},
};
use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
    samples::Samples,
};

/// Connections per operator. The coordinator accepts 128 concurrent calls on one; with more clients on a connection,
/// they would wait for each other in our own process.
const CONNECTIONS_EACH: usize = 8;
/// Agents with a session.
const AGENTS: usize = 50;
/// For the answers to the last calls. The coordinator answers a call within 60 s or not at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// The answer to a create.
#[derive(Debug)]
pub(super) enum Answer {
    Created,
    /// Refused because of load; come back after this time.
    Refused(Duration),
}

/// One create, tried once. A refusal for another reason than load, or without a delay, is an error.
pub(super) async fn create(
    client: &mut TenantServiceClient<Channel>,
    name: String,
) -> Result<Answer> {
    let request = CreateTenantRequest {
        name,
        ..CreateTenantRequest::default()
    };
    match client.create_tenant(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            ensure!(
                !answer.existed && answer.operation.is_some(),
                "an odd answer: {answer:?}"
            );
            Ok(Answer::Created)
        }
        Err(status) => Ok(Answer::Refused(hint(&status)?)),
    }
}

/// The retry delay of a refusal because of load.
fn hint(status: &Status) -> Result<Duration> {
    let reason = error::reason(status);
    ensure!(
        status.code() == Code::ResourceExhausted && reason.as_deref() == Some("OVERLOADED"),
        "not a refusal for load: {status}"
    );
    error::retry_after(status).with_context(|| format!("no hint when to come back: {status}"))
}

/// What happened to the crowd.
#[derive(Debug, Default)]
struct Crowd {
    clients: usize,
    connections: usize,
    operators: usize,
    answered: Vec<String>,
    /// Seconds to the answer, for creates that succeeded.
    created: Samples,
    /// Seconds to the answer, for refused creates.
    refused: Samples,
    /// Retry delays, in seconds.
    hints: Samples,
    /// From the first request to the last answer.
    took: Duration,
}

/// All measurements of an overload.
struct Measured {
    crowd: Crowd,
    seen: Seen,
    /// The witnesses are there; the crowd starts; its last answer; the end.
    moments: [Instant; 4],
    lone: Duration,
}

/// Overloads the coordinator for a while. Adds the names of all created tenants to `answered`.
pub(super) fn measure(
    run: &Run,
    runtime: &Runtime,
    coordinator: &Coordinator,
    answered: &mut BTreeSet<String>,
    report: &mut Report,
) -> Result<()> {
    // One operator may have 256 calls in flight and all together 1,024, so both run sizes need enough to exceed that.
    let (operators, clients) = run.pick((8, 4_000), (2, 600));
    let length = Duration::from_secs(run.pick(5, 1));
    let rest = Duration::from_secs(run.pick(3, 1));
    let channels = runtime.block_on(connections(coordinator, operators))?;
    let witness = runtime.block_on(coordinator.operator("witness"))?;
    let witnesses = Witnesses::start(
        coordinator.agents(AGENTS),
        witness,
        Watched::new(coordinator.pid())?,
    )?;
    let there = Instant::now();
    runtime.block_on(async { sleep(rest).await });
    let begin = Instant::now();
    let mut crowd = runtime
        .block_on(crowd(&channels, clients, begin + length))
        .context("the crowd")?;
    crowd.operators = operators;
    let last = Instant::now();
    let lone = runtime.block_on(lone(coordinator))?;
    runtime.block_on(async { sleep(rest).await });
    let end = Instant::now();
    let mut seen = witnesses.end()?;
    eprintln!(
        "  overload: {} created, {} refused",
        crowd.answered.len(),
        crowd.refused.len()
    );
    ensure!(
        crowd.refused.len() > 0,
        "nobody was refused: that was no overload"
    );
    ensure!(
        !crowd.answered.is_empty(),
        "nothing was created in the overload"
    );
    answered.extend(std::mem::take(&mut crowd.answered));
    answered.extend(std::mem::take(&mut seen.names));
    answered.insert(LONE.to_owned());
    let measured = Measured {
        crowd,
        seen,
        moments: [there, begin, last, end],
        lone,
    };
    of_the_crowd(report, &measured);
    of_the_witnesses(report, &measured)
}

/// Opens the connections of this many operators, one operator's after another's.
async fn connections(coordinator: &Coordinator, operators: usize) -> Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for n in 0..operators {
        let door = coordinator.operator(&format!("crowd-{n}")).await?;
        for _ in 0..CONNECTIONS_EACH {
            channels.push(door.open().await?);
        }
    }
    Ok(channels)
}

/// Lets all clients create until `end`, whatever the answers are.
async fn crowd(channels: &[Channel], clients: usize, end: Instant) -> Result<Crowd> {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|n| {
            let client = client(channels[n % channels.len()].clone(), n, end);
            tokio::spawn(timeout(end - begin + PATIENCE, client))
        })
        .collect();
    let mut all = Crowd {
        clients,
        connections: channels.len(),
        ..Crowd::default()
    };
    for task in tasks {
        let one = task.await?.context("a call was not answered")??;
        all.answered.extend(one.answered);
        all.created.append(&one.created);
        all.refused.append(&one.refused);
        all.hints.append(&one.hints);
    }
    all.took = begin.elapsed();
    Ok(all)
}

async fn client(channel: Channel, client: usize, end: Instant) -> Result<Crowd> {
    let (mut mine, mut of) = (Crowd::default(), TenantServiceClient::new(channel));
    for n in 0_u64.. {
        let began = Instant::now();
        if began >= end {
            break;
        }
        // Never reuse a name: a refused create must not be in the database either.
        let name = format!("crowd-{client}-{n}");
        match create(&mut of, name.clone()).await? {
            Answer::Created => {
                mine.created.push(began.elapsed().as_secs_f64());
                mine.answered.push(name);
            }
            Answer::Refused(hint) => {
                mine.refused.push(began.elapsed().as_secs_f64());
                mine.hints.push(hint.as_secs_f64());
            }
        }
    }
    Ok(mine)
}

/// The tenant that is created after the crowd has gone.
const LONE: &str = "after-the-crowd";

/// A create after the crowd has gone; returns how long it took.
async fn lone(coordinator: &Coordinator) -> Result<Duration> {
    let mut client = TenantServiceClient::new(coordinator.admin()?.open().await?);
    let began = Instant::now();
    let answer = timeout(PATIENCE, create(&mut client, LONE.to_owned()))
        .await
        .context("no answer")??;
    ensure!(
        matches!(answer, Answer::Created),
        "refused when nobody else was there: {answer:?}"
    );
    Ok(began.elapsed())
}

fn of_the_crowd(report: &mut Report, measured: &Measured) {
    let crowd = &measured.crowd;
    let (created, refused) = (crowd.created.len() as f64, crowd.refused.len() as f64);
    let per_second = created / crowd.took.as_secs_f64();
    let name = format!("overload, {} clients: durable creates", crowd.clients);
    report.add_one(&name, Unit::PerSecond, per_second, None);
    report.add_quantile(
        "overload: time of a create, p99",
        Unit::Seconds,
        &crowd.created,
        0.99,
        None,
    );
    report.add_one("overload: calls refused", Unit::Count, refused, None);
    report.add_quantile(
        "overload: time of a refusal, p99",
        Unit::Seconds,
        &crowd.refused,
        0.99,
        None,
    );
    report.add_quantile(
        "overload: time of a refusal, longest",
        Unit::Seconds,
        &crowd.refused,
        1.0,
        None,
    );
    report.add(
        "overload: hint when to come back",
        Unit::Seconds,
        &crowd.hints,
        None,
    );
    report.note(format!(
        "Overload: {} clients on {} connections of {} operators create for {:.1} s, and who is refused sends the next create at once. {:.0} % of \
         the {:.0} calls were refused, every one with RESOURCE_EXHAUSTED, the reason OVERLOADED and a hint when to come back; there was no \
         other error (either would fail this bench).",
        crowd.clients,
        crowd.connections,
        crowd.operators,
        crowd.took.as_secs_f64(),
        refused / (created + refused) * 100.0,
        created + refused
    ));
}

fn of_the_witnesses(report: &mut Report, measured: &Measured) -> Result<()> {
    let Measured {
        seen,
        crowd,
        moments: [_, begin, last, _],
        lone,
    } = measured;
    let refused = seen.refused(*begin, *last);
    let mut asked = seen.created(*begin, *last);
    asked.append(&refused);
    let name = "overload: an operator apart from the crowd has an answer, either way, p99";
    report.add_quantile(name, Unit::Seconds, &asked, 0.99, None);
    let acknowledged = of_reports(report, measured);
    let ended = seen.ended.len() as f64;
    report.add_one(
        "overload: agents' sessions that ended",
        Unit::Count,
        ended,
        Some(Target::AtMost(0.0)),
    );
    of_memory(report, measured)?;
    report.add_one(
        "time of a lone create after the overload",
        Unit::Seconds,
        lone.as_secs_f64(),
        None,
    );
    report.note(format!(
        "Overload, memory: the {} tenants created meanwhile stay, so what is left above the memory before is theirs.",
        crowd.created.len()
    ));
    report.note(format!(
        "Overload, witnesses: agents with a session report four times a second each and take their plans ({} reports in the overload), \
         some twenty times as often as a real one at rest: a session's messages are taken one after another, each waits for the commit that it came \
         into, so with slow commits reports also wait for the agent's earlier ones. An operator \
         apart from the crowd asked {} times and was refused {} times. They have a thread of their own, on the same cores as the crowd and the coordinator: \
         what the crowd itself waits for a refusal is mostly its turn among its own calls.",
        acknowledged.len(),
        asked.len(),
        refused.len()
    ));
    if let Some(first) = seen.ended.first() {
        report.note(format!(
            "The first session that ended in the overload: {first}"
        ));
    }
    Ok(())
}

/// Reports how long agents waited for acknowledgements; returns the samples taken during the overload.
fn of_reports(report: &mut Report, measured: &Measured) -> Samples {
    let (seen, [there, begin, last, _]) = (&measured.seen, &measured.moments);
    let acknowledged = seen.acknowledged(*begin, *last);
    let at_rest = seen.acknowledged(*there, *begin);
    let name = "until an agent's report is acknowledged";
    report.add_quantile(
        &format!("{name}, before the overload, p99"),
        Unit::Seconds,
        &at_rest,
        0.99,
        None,
    );
    report.add_quantile(
        &format!("overload: {name}, p99"),
        Unit::Seconds,
        &acknowledged,
        0.99,
        None,
    );
    report.add_quantile(
        &format!("overload: {name}, longest"),
        Unit::Seconds,
        &acknowledged,
        1.0,
        None,
    );
    let (name, turns) = (
        "overload: the same without its wait for the agent's earlier reports",
        seen.turns(*begin, *last),
    );
    report.add_quantile(&format!("{name}, p99"), Unit::Seconds, &turns, 0.99, None);
    report.add_quantile(
        &format!("{name}, longest"),
        Unit::Seconds,
        &turns,
        1.0,
        None,
    );
    acknowledged
}

/// Reports the overload's effect on the coordinator's memory.
fn of_memory(report: &mut Report, measured: &Measured) -> Result<()> {
    let (seen, [_, begin, last, end]) = (&measured.seen, &measured.moments);
    let before = seen.resident_at(*begin)?;
    let (peak, after) = (seen.peak(*begin, *last)?, seen.resident_at(*end)?);
    let name = "overload: coordinator's resident memory";
    report.add_one(&format!("{name} before"), Unit::Bytes, before, None);
    report.add_one(
        &format!("{name}, peak above that"),
        Unit::Bytes,
        (peak - before).max(0.0),
        None,
    );
    report.add_one(
        &format!("{name}, afterwards above that"),
        Unit::Bytes,
        (after - before).max(0.0),
        None,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_for_load_with_a_hint_counts() {
        let status = |code, reason: &str| {
            error::status(code, reason, "no", std::collections::HashMap::new())
        };
        let after = Duration::from_millis(350);
        let load = status(Code::ResourceExhausted, "OVERLOADED");
        assert_eq!(hint(&error::retry_later(&load, after)).unwrap(), after);
        assert!(hint(&load).is_err(), "no hint");
        for other in [
            status(Code::ResourceExhausted, "NO_HOST_FITS"),
            status(Code::Unavailable, "OVERLOADED"),
            Status::unavailable("the connection is gone"),
        ] {
            assert!(hint(&error::retry_later(&other, after)).is_err(), "{other}");
        }
    }
}

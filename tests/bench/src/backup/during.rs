//! How long an honest client of Odoo waits while a backup of its tenant is made, beside its waits when none is.
//!
//! Only requests count that were under way while the agent made it: what comes before and after, such as the coordinator's start with a new
//! destination, is nobody's backup. Not here: the client (`isyone_tests::e2e::bombard`).

use std::{net::Ipv4Addr, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::bombard::{
    Client,
    honest::Honest,
    seen::{self, Sample, Seen},
};

use super::{
    Side as _,
    data::TENANT,
    ours::{Made, Ours},
};
use crate::{
    figures::{Report, Target, Unit},
    samples::Samples,
    visitors,
};

/// Between two requests of the client.
const STEADY: Duration = Duration::from_millis(100);
/// Where it is.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 60);
const SHARE: f64 = 0.95;
const ROUNDS: usize = 4;
/// How long it is alone in a round, and at least beside backups that follow others.
const WINDOW: Duration = Duration::from_secs(20);

/// Which backup is made meanwhile.
#[derive(Debug, Clone, Copy)]
enum Kind {
    First,
    Again,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::First => "beside a first backup",
            Self::Again => "beside a backup that follows another",
        }
    }
}

/// Waits of one kind, a value for each round.
#[derive(Debug, Default)]
struct Waits {
    quiet: Samples,
    during: Samples,
    failed: usize,
}

pub(super) fn run(ours: &mut Ours<'_>, report: &mut Report) -> Result<()> {
    let place = visitors::ours(ours.cell, TENANT)?;
    let client = Client::admin(&place, ADDRESS);
    let alone = || {
        seen(&client, || {
            sleep(WINDOW);
            Ok(())
        })
    };
    // The first requests after a while find everything cold.
    alone()?;
    for (kind, time) in [(Kind::Again, WINDOW), (Kind::First, Duration::ZERO)] {
        let mut waits = Waits::default();
        for round in 0..ROUNDS {
            let (alone, ..) = alone()?;
            let alone = beside_no_login(&alone);
            let (all, begin_s, made) = seen(&client, || backups(ours, kind, time))?;
            let during = beside_no_login(&meanwhile(&all, begin_s, &made));
            ensure!(!during.samples.is_empty(), "no request met a backup");
            let [alone_s, during_s] =
                [&alone, &during].map(|seen| seen.quantile(SHARE).as_secs_f64());
            eprintln!(
                "  round {round}: p95 alone {alone_s:.3} s, {} {during_s:.3} s of {} requests",
                kind.words(),
                during.samples.len()
            );
            waits.quiet.push(alone_s);
            waits.during.push(during_s);
            waits.failed += all.failed().len() + all.later().len();
        }
        tell(report, kind, &waits);
    }
    Ok(())
}

fn tell(report: &mut Report, kind: Kind, waits: &Waits) {
    let words = kind.words();
    let p95s = [
        (format!("alone, in turns with {words}"), &waits.quiet),
        (words.to_owned(), &waits.during),
    ];
    for (when, values) in p95s {
        report.add(&format!("Odoo {when}: p95"), Unit::Seconds, values, None);
    }
    report.add(
        &format!("Odoo {words} / without: p95"),
        Unit::Ratio,
        &waits.during.ratios(&waits.quiet),
        Some(Target::AtMost(1.1)),
    );
    let failed = format!("Odoo {words}: requests that failed");
    report.add_one(&failed, Unit::Count, waits.failed as f64, None);
}

/// What the client sees while `work` is done, when it began (seconds since the Unix epoch), and what `work` gives.
fn seen<T>(client: &Client, work: impl FnOnce() -> Result<T>) -> Result<(Seen, f64, T)> {
    let begin_s = now_s();
    let honest = Honest::go_on(vec![client.clone()], STEADY, "bench");
    let done = work();
    let seen = honest.end();
    Ok((seen, begin_s, done?))
}

/// Makes a backup, and another for as long as `time` is not over.
fn backups(ours: &mut Ours<'_>, kind: Kind, time: Duration) -> Result<Vec<Made>> {
    let end_s = now_s() + time.as_secs_f64();
    let mut made = Vec::new();
    while made.is_empty() || now_s() < end_s {
        match kind {
            Kind::First => ours.first()?,
            Kind::Again => ours.again()?,
        };
        made.push(ours.newest.clone().context("no backup")?);
    }
    Ok(made)
}

/// The requests that were under way while a backup was made.
fn meanwhile(all: &Seen, begin_s: f64, backups: &[Made]) -> Seen {
    let samples = all.samples.iter().filter(|sample| {
        let begin = begin_s + sample.at.as_secs_f64();
        let end = begin + sample.took.as_secs_f64();
        backups
            .iter()
            .any(|made| begin < made.end_s && end > made.begin_s)
    });
    Seen {
        samples: samples.cloned().collect(),
    }
}

/// The requests but logins and what was under way beside one. A login hashes for a third of a second, and so few requests meet one that
/// it decides by chance whether a p95 is of them.
fn beside_no_login(all: &Seen) -> Seen {
    let logins: Vec<_> = all
        .samples
        .iter()
        .filter(|sample| sample.kind == seen::Kind::Login)
        .map(|login| (login.at, login.at + login.took))
        .collect();
    let is_beside = |sample: &Sample| {
        let (begin, end) = (sample.at, sample.at + sample.took);
        logins
            .iter()
            .any(|login| begin <= login.1 && end >= login.0)
    };
    let samples = all.samples.iter().filter(|sample| !is_beside(sample));
    Seen {
        samples: samples.cloned().collect(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the agent says when it made a backup by the same clock"
)]
fn now_s() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use isyone_tests::e2e::bombard::seen::{Kind, Outcome};

    use super::*;

    fn sample(at: u64, took: u64) -> Sample {
        Sample {
            at: Duration::from_millis(at),
            took: Duration::from_millis(took),
            kind: Kind::Read,
            name: String::new(),
            outcome: Outcome::Done,
        }
    }

    #[test]
    fn what_met_a_login_does_not_count_nor_does_the_login() {
        let mut login = sample(1_000, 300);
        login.kind = Kind::Login;
        let all = Seen {
            samples: vec![
                sample(900, 99),
                sample(900, 150),
                login,
                sample(1_200, 10),
                sample(1_301, 10),
            ],
        };
        let took = |seen: Seen| {
            seen.samples
                .iter()
                .map(|s| s.took.as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(took(beside_no_login(&all)), [99, 10]);
    }

    #[test]
    fn only_requests_count_that_were_under_way_while_a_backup_was_made() {
        let all = Seen {
            samples: vec![
                sample(0, 500),
                sample(0, 1_500),
                sample(2_500, 10),
                sample(3_500, 10),
            ],
        };
        let made = Made {
            id: "1".to_owned(),
            begin_s: 101.0,
            end_s: 103.0,
        };
        let during = meanwhile(&all, 100.0, &[made]);
        let took: Vec<_> = during.samples.iter().map(|s| s.took.as_millis()).collect();
        assert_eq!(took, [1_500, 10]);
    }
}

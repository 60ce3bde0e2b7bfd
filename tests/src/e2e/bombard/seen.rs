//! What an honest client has seen: how long its requests took, which were told to come later, and which failed. Pure.

use std::{fmt, time::Duration};

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It was told to come again, with this status and `Retry-After`.
    Later(u16),
    Failed(String),
}

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Login,
    Page,
    Read,
    Write,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it began, after the client's begin.
    pub at: Duration,
    pub took: Duration,
    pub kind: Kind,
    /// What was written; empty for what writes nothing.
    pub name: String,
    pub outcome: Outcome,
}

/// All of a client's requests.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub samples: Vec<Sample>,
}

impl Seen {
    fn times(&self) -> Vec<Duration> {
        // A login costs a third of a second of hashing whatever else happens.
        let usual = self.samples.iter().filter(|s| s.kind != Kind::Login);
        let mut times: Vec<_> = usual.map(|s| s.took).collect();
        times.sort_unstable();
        times
    }

    /// The time below which this share (0 to 1) of requests other than logins lie, by nearest rank.
    pub fn quantile(&self, share: f64) -> Duration {
        let times = self.times();
        let rank = (share * times.len() as f64).ceil() as usize;
        times
            .get(rank.clamp(1, times.len().max(1)) - 1)
            .copied()
            .unwrap_or_default()
    }

    pub fn longest(&self) -> Duration {
        let all = self.samples.iter().map(|s| s.took);
        all.max().unwrap_or_default()
    }

    pub fn later(&self) -> Vec<&Sample> {
        let is_later = |s: &&Sample| matches!(s.outcome, Outcome::Later(_));
        self.samples.iter().filter(is_later).collect()
    }

    pub fn failed(&self) -> Vec<&Sample> {
        let has_failed = |s: &&Sample| matches!(s.outcome, Outcome::Failed(_));
        self.samples.iter().filter(has_failed).collect()
    }

    /// What is wrong with what is there, given what was written: what was acknowledged is there, once; nothing that was told to come
    /// later is; of what failed nobody knows. Nor is it known of what came later where a database went away in the middle of a commit.
    pub fn wrong_writes(&self, there: &[String], is_database_away: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for sample in self.samples.iter().filter(|s| s.kind == Kind::Write) {
            let times = there.iter().filter(|name| **name == sample.name).count();
            let (least, most) = match sample.outcome {
                Outcome::Done => (1, 1),
                Outcome::Later(_) if !is_database_away => (0, 0),
                Outcome::Later(_) | Outcome::Failed(_) => (0, 1),
            };
            if !(least..=most).contains(&times) {
                wrong.push(format!("{sample:?} is there {times} times"));
            }
        }
        wrong
    }

    /// From the first to the last request that was told to come later; zero: none was.
    pub fn away(&self) -> Duration {
        let later = self.later();
        let begin = later.iter().map(|s| s.at + s.took).min();
        let end = later.iter().map(|s| s.at + s.took).max();
        end.zip(begin)
            .map_or(Duration::ZERO, |(end, begin)| end - begin)
    }

    /// Nobody failed.
    pub fn assert_none_failed(&self, what: &str) {
        let failed = self.failed();
        assert!(failed.is_empty(), "{what}: {failed:#?}");
    }

    /// Everybody was served.
    pub fn assert_all_served(&self, what: &str) {
        self.assert_none_failed(what);
        let later = self.later();
        assert!(later.is_empty(), "{what}: {later:#?}");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_millis();
        write!(
            f,
            "{} requests, p50 {} ms, p99 {} ms, longest {} ms, later {}, failed {}",
            self.samples.len(),
            ms(self.quantile(0.5)),
            ms(self.quantile(0.99)),
            ms(self.longest()),
            self.later().len(),
            self.failed().len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, took: u64, kind: Kind, outcome: Outcome) -> Sample {
        let (at, took) = (Duration::from_millis(at), Duration::from_millis(took));
        Sample {
            at,
            took,
            kind,
            name: format!("{at:?}"),
            outcome,
        }
    }

    #[test]
    fn figures_are_of_what_they_say() {
        let read = |took| sample(0, took, Kind::Read, Outcome::Done);
        let mut samples: Vec<_> = (1..=100).map(read).collect();
        samples.push(sample(0, 400, Kind::Login, Outcome::Done));
        samples.push(sample(1_000, 10, Kind::Write, Outcome::Later(503)));
        samples.push(sample(3_000, 10, Kind::Read, Outcome::Later(503)));
        samples.push(sample(0, 5, Kind::Write, Outcome::Done));
        samples.push(sample(0, 5, Kind::Write, Outcome::Failed("502".to_owned())));
        let seen = Seen { samples };
        assert_eq!(seen.quantile(1.0).as_millis(), 100);
        assert_eq!(seen.longest().as_millis(), 400);
        assert_eq!(seen.away().as_millis(), 2_000);
        assert_eq!((seen.later().len(), seen.failed().len()), (2, 1));
        assert!(Seen::default().quantile(0.99).is_zero());
    }

    #[test]
    fn a_write_that_is_lost_or_there_twice_is_told() {
        let outcomes = [
            Outcome::Done,
            Outcome::Later(503),
            Outcome::Failed("502".to_owned()),
        ];
        let write = |(at, outcome)| sample(at, 1, Kind::Write, outcome);
        let samples: Vec<_> = (1..).zip(outcomes).map(write).collect();
        let seen = Seen { samples };
        let wrong = |there: &[&str]| {
            let there: Vec<String> = there.iter().map(|at| format!("{at}ms")).collect();
            seen.wrong_writes(&there, false).len()
        };
        assert_eq!((wrong(&["1"]), wrong(&["1", "3"])), (0, 0));
        assert_eq!((wrong(&[]), wrong(&["1", "1"])), (1, 1));
        assert_eq!((wrong(&["1", "2"]), wrong(&["1", "3", "3"])), (1, 1));
    }
}

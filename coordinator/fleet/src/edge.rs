//! What is known of one edge, and whether it runs the configuration it was given.
//!
//! Pure: time is an argument. Not here: answering edges' polls, asking what they run, and events about it (the
//! coordinator's edges/running).

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

/// An address that has not polled for this long counts as gone. Traefik usually polls every second, at most every few.
pub const GONE: Duration = Duration::from_secs(10);

/// Versions of a scope to remember. At most some ten per second are published, so no edge waits for an older one.
const MAX_VERSIONS: usize = 64;
/// Given this long ago and still not running: refused, or stuck. Traefik builds 10,000 tenants in 4 s, and is asked
/// every few seconds.
pub const STUCK: Duration = Duration::from_secs(90);
/// What an edge said longer ago no longer counts: four rounds of the coordinator's questions.
const STALE: Duration = Duration::from_secs(60);
/// How long an edge that no longer polls is still shown.
pub const FORGOTTEN: Duration = Duration::from_secs(3600);
/// An address counts as an edge after this many polls without a long pause; a person who looks once or twice does not.
const MANY: u32 = 5;

/// A version of a scope's configuration.
#[derive(Debug, Clone)]
struct Version {
    name: String,
    revision: u64,
    published: Instant,
    tenants: u64,
}

/// A scope's latest versions, newest first.
#[derive(Debug, Clone, Default)]
pub struct Versions(VecDeque<Version>);

impl Versions {
    pub fn push(&mut self, name: &str, revision: u64, tenants: u64, now: Instant) {
        self.0.push_front(Version {
            name: name.to_owned(),
            revision,
            published: now,
            tenants,
        });
        self.0.truncate(MAX_VERSIONS);
    }

    /// Revision of a version; 0 for a forgotten one, which is thus older than all remembered ones.
    pub fn revision(&self, name: &str) -> u64 {
        self.0
            .iter()
            .find(|version| version.name == name)
            .map_or(0, |version| version.revision)
    }

    fn of(&self, revision: u64) -> Option<&Version> {
        self.0.iter().find(|version| version.revision == revision)
    }
}

/// What an edge said it runs.
#[derive(Debug, Clone)]
pub struct Runs {
    pub version: String,
    pub revision: u64,
    pub said: Instant,
}

/// An edge: when it polled, what it was given, and what it said it runs.
#[derive(Debug, Clone)]
pub struct Edge {
    pub asked: Instant,
    pub revision: u64,
    /// When it was given that revision for the first time.
    pub given: Instant,
    /// It polls regularly: a person's single look does not make an edge.
    pub regular: bool,
    /// Polls without a long pause.
    requests: u32,
    /// `None` until it has said something.
    pub runs: Option<Runs>,
    pub mute_until: Option<Instant>,
    /// Revisions that it was given but has not said it runs, with the time; oldest first.
    missing: VecDeque<(u64, Instant)>,
    /// An event has reported it as stuck.
    pub told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeState {
    /// It runs the newest version.
    Current,
    /// It runs an older version, but is about to be given the newest one or is loading it; it catches up within
    /// seconds.
    Behind,
    /// It was given a version long ago and still runs an older one.
    Stuck,
    /// It polls, but does not answer what it runs.
    Unknown,
    /// It no longer polls.
    Silent,
}

impl EdgeState {
    pub const ALL: [Self; 5] = [
        Self::Current,
        Self::Behind,
        Self::Stuck,
        Self::Unknown,
        Self::Silent,
    ];

    /// One word, for labels and people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Stuck => "stuck",
            Self::Unknown => "unknown",
            Self::Silent => "silent",
        }
    }
}

/// An edge as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeSeen {
    /// The address that it polls from.
    pub address: IpAddr,
    /// What it polls for: everything or a shard, numbered as in [`crate::shards::Shards::scopes`].
    pub scope: usize,
    pub state: EdgeState,
    /// When it last polled.
    pub asked: Instant,
    /// The version that it was given last, while that is remembered.
    pub given: Option<String>,
    /// Number of tenants in the version that it was given, or else in the newest.
    pub tenants: u64,
    /// The version that it last said it runs.
    pub runs: Option<String>,
    /// The newest version of its scope.
    pub newest: Option<String>,
    /// Since when a newer version than the running one exists.
    pub behind_since: Option<Instant>,
    /// Whether an event has reported it as stuck.
    pub told: bool,
}

impl Edge {
    /// An edge at its first poll, about to be given this revision.
    pub fn new(revision: u64, now: Instant) -> Self {
        Self {
            asked: now,
            revision,
            given: now,
            regular: false,
            requests: 1,
            runs: None,
            mute_until: None,
            missing: VecDeque::from([(revision, now)]),
            told: false,
        }
    }

    /// The edge polls again and is about to be given this revision.
    pub fn ask(&mut self, revision: u64, now: Instant) {
        if self.gone(now) {
            // Whatever it ran may be lost: start anew.
            *self = Self {
                told: self.told,
                requests: self.requests,
                ..Self::new(revision, now)
            };
            return;
        }
        (self.asked, self.regular, self.requests) = (now, true, self.requests.saturating_add(1));
        if self.revision != revision {
            (self.revision, self.given) = (revision, now);
            self.missing.push_back((revision, now));
            if self.missing.len() > MAX_VERSIONS {
                // Not the first entry, which says since when. An edge that runs the first may thus look less late than
                // it is, but never later.
                self.missing.remove(1);
            }
        }
    }

    pub fn say(&mut self, runs: Runs) {
        self.missing
            .retain(|(revision, _)| *revision > runs.revision);
        self.runs = Some(runs);
    }

    /// Whether it is not known to run this revision or a later one.
    pub fn lacks(&self, revision: u64) -> bool {
        self.runs
            .as_ref()
            .is_none_or(|runs| runs.revision < revision)
    }

    pub fn gone(&self, now: Instant) -> bool {
        now.duration_since(self.asked) >= GONE
    }

    pub fn forgotten(&self, now: Instant) -> bool {
        now.duration_since(self.asked)
            >= if self.requests < MANY {
                GONE
            } else {
                FORGOTTEN
            }
    }

    /// The edge as people see it; `None` if it polled only once or twice.
    pub fn seen(
        &self,
        (address, scope): (IpAddr, usize),
        versions: &Versions,
        now: Instant,
    ) -> Option<EdgeSeen> {
        let (given, newest) = (versions.of(self.revision), versions.0.front());
        let lacks = newest.is_some_and(|newest| self.lacks(newest.revision));
        let behind = self
            .runs
            .as_ref()
            .filter(|_| lacks)
            .and_then(|runs| self.behind_since(runs, versions));
        (self.requests >= MANY).then(|| EdgeSeen {
            address,
            scope,
            state: self.state(lacks, now),
            asked: self.asked,
            given: given.map(|version| version.name.clone()),
            tenants: given.or(newest).map_or(0, |version| version.tenants),
            runs: self.runs.as_ref().map(|runs| runs.version.clone()),
            newest: newest.map(|newest| newest.name.clone()),
            behind_since: behind,
            told: self.told,
        })
    }

    fn state(&self, lacks_newest: bool, now: Instant) -> EdgeState {
        let fresh = self
            .runs
            .as_ref()
            .is_some_and(|runs| now.duration_since(runs.said) < STALE);
        let late = self
            .missing
            .front()
            .is_some_and(|(_, given)| now.duration_since(*given) >= STUCK);
        match (self.gone(now), fresh, lacks_newest, late) {
            (true, ..) => EdgeState::Silent,
            (_, false, ..) => EdgeState::Unknown,
            (_, _, false, _) => EdgeState::Current,
            (_, _, true, true) => EdgeState::Stuck,
            (_, _, true, false) => EdgeState::Behind,
        }
    }

    /// When the first version newer than the running one was published, as far as that is remembered.
    fn behind_since(&self, runs: &Runs, versions: &Versions) -> Option<Instant> {
        let newer = versions
            .0
            .iter()
            .filter(|version| version.revision > runs.revision);
        let published = newer.map(|version| version.published).min();
        published
            .into_iter()
            .chain(self.missing.front().map(|(_, given)| *given))
            .min()
    }
}

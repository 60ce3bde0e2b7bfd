//! What is known of one edge, and what follows from it: whether it runs what it was given.
//!
//! Pure: the time is an argument. Not here: who asks and who is asked, and telling it (the coordinator's edges/running).

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Who has not asked for so long is no edge (any more). Traefik's usual poll is every second, at most every few.
pub const GONE: Duration = Duration::from_secs(10);

/// Versions of a scope that are remembered. Pace lets some ten a second go out, so this is more than anybody waits for.
const MAX_VERSIONS: usize = 64;
/// Given so long ago and not running yet: refused, or stuck. Traefik builds 10,000 tenants in 4 s, and is asked every few seconds.
pub const STUCK: Duration = Duration::from_secs(90);
/// What an edge said longer ago says nothing of it any more: three looks of the coordinator.
const STALE: Duration = Duration::from_secs(60);
/// One that asks no longer is shown for so long.
pub const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Who asked so often without a long pause is shown: a person's look or two is not.
const MANY: u32 = 5;

/// A version of a scope's configuration.
#[derive(Debug, Clone)]
struct Version {
    name: String,
    revision: u64,
    published: Instant,
    tenants: u64,
}

/// A scope's last versions, the newest first.
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

    /// One that nobody remembers is older than all that are.
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

/// What an edge said.
#[derive(Debug, Clone)]
pub struct Runs {
    pub version: String,
    pub revision: u64,
    pub said: Instant,
}

/// An edge: when it asked, what it was given and what it said it runs.
#[derive(Debug, Clone)]
pub struct Edge {
    pub asked: Instant,
    pub revision: u64,
    /// When it was given that revision.
    pub given: Instant,
    /// Asks regularly: a person's single look does not make an edge.
    pub regular: bool,
    /// Requests without a long pause.
    requests: u32,
    /// None while it has said nothing.
    pub runs: Option<Runs>,
    pub mute_until: Option<Instant>,
    /// Revisions that it was given and has not said to run, with the time; the oldest first.
    missing: VecDeque<(u64, Instant)>,
    /// It was told to be stuck.
    pub told: bool,
}

/// How an edge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeState {
    /// It runs the newest.
    Current,
    /// It will within seconds: it is about to be given it, or builds it.
    Behind,
    /// It was given one long ago, and runs an older one.
    Stuck,
    /// It asks, and cannot be asked what it runs.
    Unknown,
    /// It asked, and does no longer.
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

/// An edge, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeSeen {
    /// The address that it asks from.
    pub address: IpAddr,
    /// What it asks for: everything or a shard, as [`crate::shards::Shards::scopes`] counts.
    pub scope: usize,
    pub state: EdgeState,
    /// When it last asked.
    pub asked: Instant,
    /// The version that it was given last, while that is remembered.
    pub given: Option<String>,
    /// Tenants in the version that it was given, or in the newest.
    pub tenants: u64,
    /// The version that it said it runs.
    pub runs: Option<String>,
    /// The newest of its scope.
    pub newest: Option<String>,
    /// Since when there is a newer one than it runs.
    pub behind_since: Option<Instant>,
    /// Whether it is on record as stuck.
    pub told: bool,
}

impl Edge {
    /// That asks for the first time, and is about to be given this revision.
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

    /// It asks again, and is about to be given this revision.
    pub fn ask(&mut self, revision: u64, now: Instant) {
        if self.gone(now) {
            // Whatever it ran may be lost: it begins anew.
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
                // Not the first: it says since when. So an edge that runs the first looks less late than it is, never later.
                self.missing.remove(1);
            }
        }
    }

    pub fn say(&mut self, runs: Runs) {
        self.missing
            .retain(|(revision, _)| *revision > runs.revision);
        self.runs = Some(runs);
    }

    /// Whether it is not known to run a revision or a later one.
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

    /// As people see it; those who only looked once or twice are none.
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

    /// The earliest moment at which there was a newer version, as far as that is remembered.
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

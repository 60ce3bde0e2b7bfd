//! What a tenant would lose if its host died now.
//!
//! Each destination is judged by what was last reported of it, and of nothing else: that a second one is configured protects
//! nobody. A point that was shipped stays shipped, so a host's silence needs no rule of its own: the loss grows with it.
//!
//! Not here: whether what is there can be restored; a proof is a fact that is reported like the others.

use std::{collections::BTreeMap, fmt};

use isyone_types::{ids::ShortName, plan::UnixMs};
use serde::{Deserialize, Serialize};

use super::policy::Policy;

/// What was last reported of a tenant at one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// The newest base that is complete.
    pub base_at: Option<UnixMs>,
    /// Everything that was committed before this time is there. An idle tenant's moves on as well: its agent looks.
    pub shipped_to: Option<UnixMs>,
    /// Since when something is missing in the log after the newest base: nothing after it can be reached.
    pub gap_since: Option<UnixMs>,
    /// Since when shipping fails.
    pub failing_since: Option<UnixMs>,
    /// When the newest base was last proven, and whether it was restorable: what may be missing then are files of attachments.
    pub proven: Option<(UnixMs, bool)>,
}

/// What a judgement is based on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub policy: &'a Policy,
    /// By destination; one that is missing has not been reported on since the coordinator started.
    pub repositories: &'a BTreeMap<ShortName, Repository>,
    /// When it first ran; there was nothing to lose before.
    pub exists_since: Option<UnixMs>,
    /// Since when it does not run, and so nothing is written.
    pub stopped_since: Option<UnixMs>,
}

/// Why nothing, or not enough, can be restored from a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is no base.
    NoBase,
    /// The newest base was looked at and is damaged.
    Damaged,
    /// More would be lost than may be; since then shipping fails, if that is known.
    Behind { failing_since: Option<UnixMs> },
    /// More would be lost than may be, because the log has a gap until the next base.
    Gap { since: UnixMs },
}

/// One destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It can be restored to this point, and that is within what was promised.
    Within { to: UnixMs },
    /// It can be restored to this point, and that is not enough.
    Short { to: UnixMs, why: Why },
    /// It cannot be restored from there.
    None { why: Why },
    /// Nothing has been reported on it.
    Unknown,
}

impl Judgement {
    const fn point(&self) -> Option<UnixMs> {
        match self {
            Self::Within { to } | Self::Short { to, .. } => Some(*to),
            Self::None { .. } | Self::Unknown => None,
        }
    }
}

/// A tenant as a whole, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing can be lost: it has never run.
    NothingToLose,
    /// Every destination holds what was promised.
    Protected,
    /// One at least does, another does not, or nobody knows.
    Partly,
    /// No report on any destination: neither good nor bad.
    Unknown,
    /// No destination is known to hold what was promised.
    NotProtected,
}

/// The judgement of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    pub standing: Standing,
    /// The newest point that it is known to be restorable to, and where.
    pub to: Option<(UnixMs, ShortName)>,
    /// What would be lost, milliseconds; `None` is everything that is not known to be elsewhere.
    pub loses_ms: Option<i64>,
    pub each: Vec<(ShortName, Judgement)>,
}

/// Judges one destination.
fn judge(facts: Facts<'_>, repository: Option<&Repository>, now: UnixMs) -> Judgement {
    let Some(seen) = repository else {
        return Judgement::Unknown;
    };
    let Some(base) = seen.base_at else {
        return Judgement::None { why: Why::NoBase };
    };
    // A proof is about the base that was the newest then.
    if seen.proven.is_some_and(|(at, good)| at >= base && !good) {
        return Judgement::None { why: Why::Damaged };
    }
    let shipped = seen.shipped_to.unwrap_or(base).max(base);
    // With a gap, the log helps until there. A gap before the base is none any more.
    let gap = seen.gap_since.filter(|since| *since >= base);
    let to = gap.map_or(shipped, |since| shipped.min(since));
    // What does not run loses nothing after it stopped. What is from the future counts as now.
    let end = facts.stopped_since.map_or(now, |since| since.min(now));
    let to = to.min(now);
    if end - to <= facts.policy.may_lose_ms {
        return Judgement::Within { to };
    }
    let why = match gap {
        Some(since) => Why::Gap { since },
        None => Why::Behind {
            failing_since: seen.failing_since,
        },
    };
    Judgement::Short { to, why }
}

impl Protection {
    /// Judges a tenant.
    #[must_use]
    pub fn of(facts: Facts<'_>, now: UnixMs) -> Self {
        let each: Vec<_> = facts
            .policy
            .destinations
            .iter()
            .map(|name| {
                let judged = judge(facts, facts.repositories.get(name), now);
                (name.clone(), judged)
            })
            .collect();
        // The newest point; of equal ones the destination that is named first.
        let to = each
            .iter()
            .rev()
            .filter_map(|(name, judged)| Some((judged.point()?, name)))
            .max_by_key(|(point, _)| *point);
        let end = facts.stopped_since.map_or(now, |since| since.min(now));
        Self {
            standing: standing(facts, &each),
            loses_ms: match facts.exists_since {
                None => Some(0),
                Some(_) => to.map(|(point, _)| (end - point).max(0)),
            },
            to: to.map(|(point, name)| (point, name.clone())),
            each,
        }
    }

    /// Whether somebody is to be told.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self.standing, Standing::Partly | Standing::NotProtected)
    }
}

fn standing(facts: Facts<'_>, each: &[(ShortName, Judgement)]) -> Standing {
    if facts.exists_since.is_none() {
        return Standing::NothingToLose;
    }
    let count = |is: fn(&Judgement) -> bool| each.iter().filter(|(_, judged)| is(judged)).count();
    let within = count(|judged| matches!(judged, Judgement::Within { .. }));
    let unknown = count(|judged| *judged == Judgement::Unknown);
    match each.len() {
        0 => Standing::NotProtected,
        all if within == all => Standing::Protected,
        _ if within > 0 => Standing::Partly,
        // One that nobody reports on says nothing for or against the others.
        all if unknown == all => Standing::Unknown,
        _ => Standing::NotProtected,
    }
}

/// A duration as people say it.
struct Span(i64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1000 {
            s @ ..120 => write!(f, "{s} s"),
            s @ ..7200 => write!(f, "{} min", s / 60),
            s @ ..172_800 => write!(f, "{} h", s / 3600),
            s => write!(f, "{} days", s / 86_400),
        }
    }
}

impl Protection {
    /// What it comes to, in a line for people.
    #[must_use]
    pub fn sentence(&self, now: UnixMs) -> String {
        let loss = match (self.loses_ms, &self.to) {
            (Some(ms), Some((_, name))) => format!("would lose {} (by {name})", Span(ms)),
            _ => "would lose everything".to_owned(),
        };
        let word = match self.standing {
            Standing::NothingToLose => return "nothing to lose yet".to_owned(),
            Standing::Unknown => return "not known: no host has reported yet".to_owned(),
            Standing::Protected => return loss,
            Standing::Partly => "partly protected",
            Standing::NotProtected => "not protected",
        };
        let reasons: Vec<_> = self
            .each
            .iter()
            .filter_map(|(name, judged)| Some(format!("{name}: {}", reason(judged, now)?)))
            .collect();
        let reasons = match &reasons[..] {
            [] => "no destination".to_owned(),
            reasons => reasons.join("; "),
        };
        format!("{word}: {reasons}; {loss}")
    }
}

fn reason(judged: &Judgement, now: UnixMs) -> Option<String> {
    let ago = |at: &UnixMs| Span((now - at).max(0));
    Some(match judged {
        Judgement::Within { .. } => return None,
        Judgement::Unknown => "not reported on".to_owned(),
        Judgement::None { why } | Judgement::Short { why, .. } => match why {
            Why::NoBase => "no base backup".to_owned(),
            Why::Damaged => "the newest base backup is damaged".to_owned(),
            Why::Gap { since } => format!("the log has a gap since {} ago", ago(since)),
            Why::Behind {
                failing_since: Some(since),
            } => format!("shipping has failed for {}", ago(since)),
            Why::Behind {
                failing_since: None,
            } => "nothing was shipped in time".to_owned(),
        },
    })
}

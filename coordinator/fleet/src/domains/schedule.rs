//! When to check each of the tenants' domains, and what follows from the results: trouble only after several bad checks
//! in a row, so that one wrong DNS answer changes nothing.
//!
//! Pure: time and randomness are arguments. In memory only: soon after a start every domain is checked again, and then
//! once per interval.
//! Not here: the checks (the coordinator's edges/domains), and troubles that were concluded (they are in the Fleet).

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, ordmap::DiffItem};
use isyone_types::{ids::TenantName, plan::UnixMs};
use sha2::{Digest as _, Sha256};

use super::{Look, Verdict};

/// Bad checks in a row before anything is concluded.
pub const LOOKS: u32 = 3;
/// Checks are delayed by up to an eighth of the pause, so that domains added together are not checked together.
const JITTER: i64 = 8;

/// How often domains are checked.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Pause after a domain was found to lead here, milliseconds; 0: never check.
    pub interval_ms: i64,
    /// Pause when it does not lead here or DNS did not answer, milliseconds.
    pub retry_ms: i64,
}

/// The last check of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it led.
    pub verdict: Verdict,
    /// What DNS said, for people.
    pub found: String,
    /// Time of the check.
    pub at: UnixMs,
    /// Time of the first of the latest bad checks in a row; `None` when the last known result was good.
    pub since: Option<UnixMs>,
}

/// What follows from a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// It has not led here since then.
    Unreachable(UnixMs),
    /// It leads here again.
    Reachable,
}

#[derive(Debug)]
struct ScheduledDomain {
    due: UnixMs,
    bad: u32,
    seen: Option<Seen>,
}

/// When each domain is due, and what its last check found.
#[derive(Debug)]
pub struct Schedule {
    rhythm: Rhythm,
    chance: u64,
    names: OrdMap<String, TenantName>,
    entries: BTreeMap<String, ScheduledDomain>,
    due: BTreeSet<(UnixMs, String)>,
    /// Domains checked before [`Schedule::follow`] listed them.
    early: BTreeSet<String>,
}

impl Schedule {
    /// A schedule without domains. `chance` spreads the checks.
    pub fn new(rhythm: Rhythm, chance: u64) -> Self {
        Self {
            rhythm,
            chance,
            names: OrdMap::new(),
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            early: BTreeSet::new(),
        }
    }

    /// Updates which domains exist. New ones are due within one retry pause: whoever added one without a check waits
    /// for it.
    pub fn follow(&mut self, names: &OrdMap<String, TenantName>, now: UnixMs) {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for item in self.names.diff(names) {
            match item {
                DiffItem::Add(name, _) => come.push(name.clone()),
                DiffItem::Remove(name, _) => gone.push(name.clone()),
                // It belongs to another tenant now: earlier results need not hold for that tenant's edges.
                DiffItem::Update { new: (name, _), .. } => {
                    come.push(name.clone());
                    gone.push(name.clone());
                }
            }
        }
        // Added and removed since the last call: no difference will ever show that they are gone.
        gone.extend(
            std::mem::take(&mut self.early)
                .into_iter()
                .filter(|name| !names.contains_key(name)),
        );
        for name in gone {
            if let Some(entry) = self.entries.remove(&name) {
                self.due.remove(&(entry.due, name));
            }
        }
        for name in come
            .into_iter()
            .filter(|name| !self.entries.contains_key(name))
            .collect::<Vec<_>>()
        {
            let due = now + self.spread(&name, 0, self.rhythm.retry_ms);
            self.put(
                name,
                ScheduledDomain {
                    due,
                    bad: 0,
                    seen: None,
                },
            );
        }
        self.names = names.clone();
    }

    /// Returns at most this many domains that are due, and schedules their retry in case no result follows.
    pub fn due(&mut self, now: UnixMs, most: usize) -> Vec<String> {
        self.leave_other_clocks(now, most);
        let due: Vec<String> = self
            .due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .take(most)
            .map(|(_, name)| name.clone())
            .collect();
        for name in &due {
            self.again(name, now, self.rhythm.retry_ms);
        }
        due
    }

    /// Whoever is due later than after the longest pause has that by a clock that was ahead: it has its turn after a retry's.
    fn leave_other_clocks(&mut self, now: UnixMs, most: usize) {
        let longest = self.rhythm.interval_ms.max(self.rhythm.retry_ms);
        let latest = now.saturating_add(longest).saturating_add(longest / JITTER);
        let later = self.due.iter().rev();
        let later = later.take_while(|(due, _)| *due > latest).take(most);
        let later: Vec<String> = later.map(|(_, name)| name.clone()).collect();
        for name in later {
            self.again(&name, now, self.rhythm.retry_ms);
        }
    }

    /// Takes in the result of a check. `troubled`: the Fleet has the domain as unreachable.
    pub fn looked(
        &mut self,
        name: &str,
        look: &Look,
        troubled: bool,
        now: UnixMs,
    ) -> Option<Conclusion> {
        let rhythm = self.rhythm;
        let entry = self.entries.get_mut(name)?;
        let before = entry.seen.take();
        let since = before.as_ref().and_then(|seen| seen.since);
        let (bad, since, pause) = match look.verdict {
            Verdict::Here => (0, None, rhythm.interval_ms),
            Verdict::Elsewhere => (
                entry.bad.saturating_add(1),
                since.or(Some(now)),
                rhythm.retry_ms,
            ),
            // No answer: neither good nor bad.
            Verdict::Unknown => (entry.bad, since, rhythm.retry_ms),
        };
        entry.bad = bad;
        entry.seen = Some(Seen {
            verdict: look.verdict,
            found: look.found.clone(),
            at: now,
            since,
        });
        self.again(name, now, pause);
        match look.verdict {
            Verdict::Here if troubled => Some(Conclusion::Reachable),
            Verdict::Elsewhere if !troubled && bad >= LOOKS => since.map(Conclusion::Unreachable),
            Verdict::Here | Verdict::Elsewhere | Verdict::Unknown => None,
        }
    }

    /// Takes in a good check made elsewhere, when the domain was added.
    pub fn found_good(&mut self, name: &str, look: &Look, now: UnixMs) {
        // If nothing is ever checked, nothing would remove the entry again.
        if self.rhythm.interval_ms > 0 {
            if !self.entries.contains_key(name) {
                self.put(
                    name.to_owned(),
                    ScheduledDomain {
                        due: now,
                        bad: 0,
                        seen: None,
                    },
                );
                self.early.insert(name.to_owned());
            }
            self.looked(name, look, false, now);
        }
    }

    /// The last check of a domain.
    pub fn seen(&self, name: &str) -> Option<&Seen> {
        self.entries.get(name)?.seen.as_ref()
    }

    fn put(&mut self, name: String, entry: ScheduledDomain) {
        self.due.insert((entry.due, name.clone()));
        self.entries.insert(name, entry);
    }

    fn again(&mut self, name: &str, now: UnixMs, pause: i64) {
        let later = self.spread(name, now, pause / JITTER);
        if let Some(entry) = self.entries.get_mut(name) {
            self.due.remove(&(entry.due, name.to_owned()));
            entry.due = now.saturating_add(pause).saturating_add(later);
            self.due.insert((entry.due, name.to_owned()));
        }
    }

    /// 0 to `most`, always the same for the same arguments.
    fn spread(&self, name: &str, turn: i64, most: i64) -> i64 {
        let hash = Sha256::new_with_prefix(self.chance.to_be_bytes())
            .chain_update(turn.to_be_bytes())
            .chain_update(name);
        let word = hash.finalize()[..4]
            .iter()
            .fold(0_i64, |word, byte| word << 8 | i64::from(*byte));
        word % (most.max(0) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    const HOUR: i64 = 3_600_000;
    const RETRY: i64 = 600_000;

    fn names(of: &[&str]) -> OrdMap<String, TenantName> {
        of.iter()
            .map(|domain| ((*domain).to_owned(), name("alfa")))
            .collect()
    }

    fn schedule(of: &[&str]) -> Schedule {
        let mut schedule = Schedule::new(
            Rhythm {
                interval_ms: HOUR,
                retry_ms: RETRY,
            },
            7,
        );
        schedule.follow(&names(of), 0);
        schedule
    }

    fn look(verdict: Verdict) -> Look {
        Look {
            verdict,
            found: format!("{verdict:?}"),
            edges: BTreeSet::new(),
            by: None,
        }
    }

    #[test]
    fn each_domain_has_its_turn_once_an_interval_and_not_all_at_once() {
        let all: Vec<String> = (0..500).map(|n| format!("d{n}.example")).collect();
        let mut schedule = schedule(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut looks, mut most) = (BTreeMap::<String, u32>::new(), 0);
        for now in (0..3 * HOUR).step_by(60_000) {
            let due = schedule.due(now, 1_000);
            most = most.max(due.len());
            for name in due {
                assert_eq!(
                    schedule.looked(&name, &look(Verdict::Here), false, now),
                    None
                );
                *looks.entry(name).or_default() += 1;
            }
        }
        assert_eq!(looks.len(), 500);
        assert!(looks.values().all(|n| *n == 3), "{looks:?}");
        assert!(most < 80, "{most} in one minute");
    }

    #[test]
    fn a_domain_that_nobody_has_looked_at_has_its_turn_soon() {
        let mut s = schedule(&["a.example"]);
        assert_eq!(s.due(RETRY, 9), ["a.example"]);
        s.looked("a.example", &look(Verdict::Here), false, RETRY);
        // Added later, without a check.
        s.follow(&names(&["a.example", "b.example"]), 2 * RETRY);
        assert_eq!(s.due(3 * RETRY, 9), ["b.example"]);
    }

    #[test]
    fn a_domain_that_was_looked_at_by_a_clock_that_was_ahead_has_its_turn_soon() {
        let mut s = schedule(&["a.example"]);
        s.looked("a.example", &look(Verdict::Here), false, 90_000 * HOUR);
        assert_eq!(s.due(HOUR, 9), Vec::<String>::new());
        assert_eq!(s.due(HOUR + 2 * RETRY, 9), ["a.example"]);
    }

    #[test]
    fn a_domain_that_was_added_and_removed_between_two_looks_at_the_fleet_is_forgotten() {
        let mut s = schedule(&["a.example"]);
        s.found_good("b.example", &look(Verdict::Here), 5);
        s.found_good("c.example", &look(Verdict::Here), 5);
        s.follow(&names(&["a.example", "c.example"]), 6);
        assert_eq!((s.entries.len(), s.due.len()), (2, 2));
        assert!(s.seen("b.example").is_none() && s.seen("c.example").is_some());
        s.follow(&names(&["a.example"]), 7);
        assert_eq!((s.entries.len(), s.due.len(), s.early.len()), (1, 1, 0));
    }

    #[test]
    fn trouble_is_concluded_after_three_bad_looks_in_a_row_and_ended_by_one_good() {
        let mut s = schedule(&["a.example"]);
        use Verdict::{Elsewhere, Here, Unknown};
        let mut now = HOUR;
        let mut turn = |verdict, troubled| {
            now += 2 * RETRY;
            assert_eq!(s.due(now, 9), ["a.example"]);
            assert_eq!(s.due(now, 9), Vec::<String>::new(), "one turn each");
            (
                now,
                s.looked("a.example", &look(verdict), troubled, now),
                s.seen("a.example").unwrap().since,
            )
        };
        let (first, concluded, since) = turn(Elsewhere, false);
        assert_eq!((concluded, since), (None, Some(first)));
        assert_eq!(turn(Elsewhere, false).1, None);
        // No answer never means "absent", and is no good news either.
        let (_, concluded, since) = turn(Unknown, false);
        assert_eq!((concluded, since), (None, Some(first)));
        assert_eq!(
            turn(Elsewhere, false).1,
            Some(Conclusion::Unreachable(first))
        );
        assert_eq!(turn(Elsewhere, true).1, None, "told once");
        assert_eq!(turn(Unknown, true).1, None);
        assert_eq!(turn(Here, true).1, Some(Conclusion::Reachable));
        now += HOUR;
        for verdict in [Elsewhere, Elsewhere, Here, Elsewhere, Elsewhere] {
            assert_eq!(
                s.looked("a.example", &look(verdict), false, now),
                None,
                "not in a row"
            );
        }
        for _ in 0..20 {
            assert_eq!(s.looked("a.example", &look(Unknown), false, now), None);
        }
    }

    #[test]
    fn bad_looks_are_a_retry_apart() {
        let mut s = schedule(&["a.example"]);
        s.due(HOUR, 9);
        s.looked("a.example", &look(Verdict::Elsewhere), false, HOUR);
        assert!(s.due(HOUR + RETRY - 1, 9).is_empty());
        assert_eq!(s.due(HOUR + RETRY + RETRY / JITTER, 9).len(), 1);
    }

    #[test]
    fn what_is_taken_away_is_forgotten_and_another_tenants_begins_anew() {
        let mut s = schedule(&["a.example", "b.example"]);
        s.found_good("c.example", &look(Verdict::Here), 5);
        for domain in ["a.example", "b.example"] {
            s.looked(domain, &look(Verdict::Elsewhere), false, 5);
        }
        let mut next = names(&["b.example", "c.example"]);
        next.insert("b.example".to_owned(), name("beta"));
        s.follow(&next, 6);
        assert_eq!((s.seen("a.example"), s.seen("b.example")), (None, None));
        assert_eq!(
            s.seen("c.example").map(|seen| seen.verdict),
            Some(Verdict::Here)
        );
        assert_eq!(
            s.looked("a.example", &look(Verdict::Elsewhere), false, 7),
            None
        );
        assert_eq!((s.entries.len(), s.due.len()), (2, 2));
    }
}

//! The events that are remembered: so many, shared out between those who cause them. Whoever makes much happen pushes out
//! its own, never what others did.
//!
//! Not here: whose an event is (the parent), how often one may be recorded (pace).

use std::{cmp::Reverse, num::NonZeroU64, sync::Arc};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};

use super::Event;

/// Audit records to remember, and as many other events.
pub const MAX_EVENTS: usize = 10_000;

/// The newest events. What operators did has room of its own, so that nothing that hosts and tenants make happen pushes it
/// out. Within each of the two, the owner with the most loses its oldest one to a new one: one of two operators, or hosts,
/// has half for certain, and all that the other leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLog {
    all: OrdMap<u64, Kept>,
    audit: Shares,
    other: Shares,
    /// The newest sequence number that is not remembered any more.
    forgotten: u64,
}

/// An event, and the next one of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    event: Arc<Event>,
    next: Option<NonZeroU64>,
}

/// Who has how much. A function of the events that are there alone, so a restart changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shares {
    of: OrdMap<Arc<str>, Share>,
    /// The owner with the most last; among equals, the one whose oldest event is older. So the newest event of all never
    /// gives way: its owner has another one, or is not older than the others.
    ranked: OrdSet<(usize, Reverse<u64>, Arc<str>)>,
    len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    count: usize,
    oldest: u64,
    newest: u64,
}

impl Share {
    fn rank(&self, owner: &Arc<str>) -> (usize, Reverse<u64>, Arc<str>) {
        (self.count, Reverse(self.oldest), owner.clone())
    }
}

impl Shares {
    /// Counts an owner's new event; returns its newest one before.
    fn add(&mut self, owner: &str, sequence: u64) -> Option<u64> {
        let known = self.of.get_key_value(owner);
        let known = known.map(|(owner, share)| (owner.clone(), *share));
        let (owner, before) = match known {
            Some((owner, share)) => (owner, Some(share)),
            None => (Arc::from(owner), None),
        };
        let after = Share {
            count: before.map_or(0, |share| share.count) + 1,
            oldest: before.map_or(sequence, |share| share.oldest),
            newest: sequence,
        };
        self.len += 1;
        self.put(&owner, before, Some(after));
        before.map(|share| share.newest)
    }

    /// The oldest event of the owner with the most.
    fn first_to_go(&self) -> Option<(Arc<str>, u64)> {
        let (_, Reverse(oldest), owner) = self.ranked.get_max()?;
        Some((owner.clone(), *oldest))
    }

    /// An owner's oldest event is gone; `next` is its next one.
    fn shrink(&mut self, owner: &Arc<str>, next: Option<NonZeroU64>) {
        let before = self.of.get(owner).copied();
        let after = before.zip(next).map(|(before, next)| Share {
            count: before.count - 1,
            oldest: next.get(),
            newest: before.newest,
        });
        self.len -= usize::from(before.is_some());
        self.put(owner, before, after);
    }

    fn put(&mut self, owner: &Arc<str>, before: Option<Share>, after: Option<Share>) {
        if let Some(before) = before {
            self.ranked.remove(&before.rank(owner));
        }
        match after {
            Some(after) => {
                self.ranked.insert(after.rank(owner));
                self.of.insert(owner.clone(), after);
            }
            None => drop(self.of.remove(owner)),
        }
    }
}

impl EventLog {
    /// Adds an event; returns the number of the one that gives way to it.
    pub fn push(&mut self, event: Arc<Event>) -> Option<u64> {
        self.push_among(event, MAX_EVENTS)
    }

    /// With room for `most` audit records, and as many others.
    fn push_among(&mut self, event: Arc<Event>, most: usize) -> Option<u64> {
        let sequence = event.sequence;
        let shares = match event.is_audit() {
            true => &mut self.audit,
            false => &mut self.other,
        };
        let before = shares.add(&event.owner(), sequence);
        if let Some(before) = before.and_then(|before| self.all.get_mut(&before)) {
            before.next = NonZeroU64::new(sequence);
        }
        self.all.insert(sequence, Kept { event, next: None });
        if shares.len <= most {
            return None;
        }
        let (owner, oldest) = shares.first_to_go()?;
        let gone = self.all.remove(&oldest);
        shares.shrink(&owner, gone.and_then(|gone| gone.next));
        self.forgotten = self.forgotten.max(oldest);
        Some(oldest)
    }

    /// Takes stored events, oldest first, of which some between them may be forgotten.
    pub fn load(events: impl IntoIterator<Item = Event>) -> Self {
        let (mut log, mut next) = (Self::default(), 1);
        for event in events {
            if event.sequence > next {
                log.forgotten = event.sequence - 1;
            }
            next = event.sequence.saturating_add(1);
            log.push(Arc::new(event));
        }
        log
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.all.iter().map(|(_, kept)| &kept.event)
    }

    /// Those after a sequence number, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Arc<Event>> {
        let from = sequence.saturating_add(1);
        self.all.range(from..).map(|(_, kept)| &kept.event)
    }

    /// What is new since `before`, oldest first, and the numbers of what was forgotten since.
    pub(crate) fn since(&self, before: &Self) -> (Vec<Arc<Event>>, Vec<u64>) {
        let (mut new, mut forgotten) = (Vec::new(), Vec::new());
        for item in before.all.diff(&self.all) {
            match item {
                DiffItem::Add(_, kept) => new.push(kept.event.clone()),
                DiffItem::Remove(sequence, _) => forgotten.push(*sequence),
                // Only its owner's next one is another.
                DiffItem::Update { .. } => {}
            }
        }
        (new, forgotten)
    }

    pub fn last(&self) -> Option<&Arc<Event>> {
        self.all.get_max().map(|(_, kept)| &kept.event)
    }

    /// The newest sequence number that is not remembered any more; 0 while all are.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;
    use crate::event::EventKind;

    fn event(sequence: u64, actor: &str, host: Option<&str>) -> Event {
        Event {
            sequence,
            at: 0,
            kind: EventKind::TenantUnhealthy,
            tenant: None,
            host: host.map(|host| host.parse().unwrap()),
            actor: actor.to_owned(),
            message: String::new(),
            operation: None,
        }
    }

    /// A log, and the number of the last event in it.
    #[derive(Default)]
    struct Told(EventLog, u64);

    impl Told {
        fn push(&mut self, actor: &str, host: Option<&str>) -> Option<u64> {
            self.1 += 1;
            self.0.push(Arc::new(event(self.1, actor, host)))
        }

        fn flood(&mut self, actor: &str, count: usize) {
            for _ in 0..count {
                self.push(actor, None);
            }
        }

        fn count(&self, actor: &str) -> usize {
            self.0.iter().filter(|event| event.actor == actor).count()
        }

        fn loaded(&self) -> EventLog {
            let stored = self.0.iter().map(|event| (**event).clone());
            EventLog::load(stored.collect::<Vec<_>>())
        }
    }

    #[test]
    fn no_chatter_pushes_out_what_operators_did() {
        let mut told = Told::default();
        told.push("ana", None);
        let most = MAX_EVENTS as u64;
        for actor in ["host/h1", "coordinator", "visitor"].repeat(MAX_EVENTS) {
            let gone = told.push(actor, None);
            assert_eq!(gone, (told.1 > most + 1).then(|| told.1 - most));
        }
        let log = &told.0;
        assert_eq!(
            (log.len(), log.iter().next().unwrap().sequence),
            (MAX_EVENTS + 1, 1)
        );
        let last = log.last().unwrap().sequence;
        assert_eq!(
            (log.after(last - 2).count(), log.forgotten()),
            (2, last - most)
        );
        assert_eq!(told.loaded(), told.0);
        for _ in 0..most {
            told.push("ana", None);
        }
        assert_ne!(
            told.0.iter().next().unwrap().sequence,
            1,
            "they are bounded, too"
        );
    }

    /// Fails if the oldest record of all gives way.
    #[test]
    fn an_operator_that_does_much_pushes_out_its_own_records_alone() {
        let mut told = Told::default();
        for _ in 0..100 {
            told.push("ana", None);
        }
        let most = 3 * MAX_EVENTS;
        told.flood("viewer", most);
        assert_eq!(
            (told.count("ana"), told.count("viewer")),
            (100, MAX_EVENTS - 100)
        );
        assert_eq!(told.loaded(), told.0, "a restart changes nothing");
        // Two that flood share what there is, and nobody has less for it.
        told.flood("otto", most);
        let half = (MAX_EVENTS - 100) / 2;
        assert_eq!(
            ["ana", "viewer", "otto"].map(|actor| told.count(actor)),
            [100, half, half]
        );
        assert_eq!(told.loaded(), told.0);
    }

    /// Fails if the oldest event of all gives way, or if what is said of a host's tenants is not counted to that host.
    #[test]
    fn a_host_that_says_much_pushes_out_its_own_events_alone() {
        let mut told = Told::default();
        for actor in ["host/h1", "coordinator"].repeat(50) {
            told.push(actor, Some("h1"));
        }
        for (actor, host) in [
            ("host/h2", Some("h2")),
            ("coordinator", Some("h2")),
            ("host/h2", Some("h1")),
        ]
        .repeat(MAX_EVENTS)
        {
            told.push(actor, host);
        }
        told.push("coordinator", None);
        let of_h1 = |event: &&Arc<Event>| event.owner() == "host/h1";
        assert_eq!(told.0.iter().filter(of_h1).count(), 100);
        assert_eq!(told.0.len(), MAX_EVENTS);
        assert_eq!(told.loaded(), told.0);
    }

    proptest! {
        /// Against a plain list for each owner; and the newest event is always there, because its number is where a
        /// restarted coordinator goes on.
        #[test]
        fn whoever_has_most_gives_way(
            most in 1..60_usize,
            bursts in prop::collection::vec((0..12_usize, 1..30_usize), 1..30),
        ) {
            let mut told = Told::default();
            let mut plain: BTreeMap<usize, VecDeque<u64>> = BTreeMap::new();
            for (owner, count) in bursts {
                for _ in 0..count {
                    told.1 += 1;
                    let event = event(told.1, &format!("o{owner}"), None);
                    let gone = told.0.push_among(Arc::new(event), most);
                    plain.entry(owner).or_default().push_back(told.1);
                    let all: usize = plain.values().map(VecDeque::len).sum();
                    let richest = plain.values_mut().max_by_key(|own| (own.len(), Reverse(own[0])));
                    let expected = richest.filter(|_| all > most).and_then(VecDeque::pop_front);
                    plain.retain(|_, own| !own.is_empty());
                    prop_assert_eq!(gone, expected);
                }
                prop_assert_eq!(told.0.last().unwrap().sequence, told.1);
            }
            let mut kept: Vec<u64> = plain.into_values().flatten().collect();
            kept.sort_unstable();
            prop_assert!(told.0.iter().map(|event| event.sequence).eq(kept));
            prop_assert_eq!(told.loaded(), told.0);
        }
    }
}

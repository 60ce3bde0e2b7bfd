//! Whose request goes to Odoo next. Pure.
//!
//! A bounded number is at work; the rest waits in a line for each address. The next place goes to the waiting address with
//! the fewest at work, and among these to the one whose turn is longest ago: a hundred requests of one do not come before the
//! one of another. Not here: how long somebody waits (`gate`).

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use crate::shares::{Full, Shares};

/// A waiting request's number.
pub(crate) type Ticket = u64;

/// How many may be at work and wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    /// At work at once.
    pub(crate) at_work: u64,
    /// Of these, of one address.
    pub(crate) per_address: u64,
    /// Waiting at once. One address has at most as much as is free.
    pub(crate) waiting: u64,
}

/// What became of somebody who came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    /// At work from now on.
    Now,
    /// Waits; `next` will name the ticket.
    Waits(Ticket),
    /// There is no room to wait.
    Refused(Full),
}

/// Who is at work and who waits.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    places: Places,
    is_open: bool,
    at_work: HashMap<K, u64>,
    total: u64,
    lines: HashMap<K, VecDeque<Ticket>>,
    /// Addresses that wait, the one whose turn is longest ago first.
    order: VecDeque<K>,
    waiting: Shares<K>,
    next_ticket: Ticket,
}

impl<K: Copy + Eq + Hash> Turns<K> {
    /// Nobody is there; nobody goes to work before it is open.
    pub(crate) fn new(places: Places, is_open: bool) -> Self {
        Self {
            places,
            is_open,
            at_work: HashMap::new(),
            total: 0,
            lines: HashMap::new(),
            order: VecDeque::new(),
            waiting: Shares::new(places.waiting, places.waiting, 1),
            next_ticket: 0,
        }
    }

    /// Other bounds, open or not. Call `next` until it has nobody.
    pub(crate) fn set(&mut self, places: Places, is_open: bool) {
        self.waiting.resize(places.waiting, places.waiting);
        (self.places, self.is_open) = (places, is_open);
    }

    /// Somebody comes. Those who wait are not overtaken: there is a place for none of them, or `next` had named them.
    pub(crate) fn enter(&mut self, key: K) -> Entered {
        if self.is_open && self.has_place_for(key) && !self.lines.contains_key(&key) {
            self.begin(key);
            return Entered::Now;
        }
        if let Err(full) = self.waiting.take(key, 1) {
            return Entered::Refused(full);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let line = self.lines.entry(key).or_default();
        if line.is_empty() {
            self.order.push_back(key);
        }
        line.push_back(ticket);
        Entered::Waits(ticket)
    }

    /// Somebody's work is done. Call `next` until it has nobody.
    pub(crate) fn leave(&mut self, key: K) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.at_work.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.at_work.remove(&key);
            }
        }
    }

    /// Somebody does not wait any more.
    pub(crate) fn give_up(&mut self, key: K, ticket: Ticket) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        let before = line.len();
        line.retain(|other| *other != ticket);
        if line.len() < before {
            self.waiting.give(key, 1);
        }
        if line.is_empty() {
            self.lines.remove(&key);
            self.order.retain(|other| *other != key);
        }
    }

    /// Who goes to work now, if anybody.
    pub(crate) fn next(&mut self) -> Option<(K, Ticket)> {
        if !self.is_open || self.total >= self.places.at_work {
            return None;
        }
        let able = self.order.iter().enumerate();
        let able = able.filter(|(_, key)| self.has_place_for(**key));
        let (at, key) = able.min_by_key(|(at, key)| (self.of(**key), *at))?;
        let key = *key;
        self.order.remove(at);
        let line = self.lines.get_mut(&key)?;
        let ticket = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&key);
        } else {
            self.order.push_back(key);
        }
        self.waiting.give(key, 1);
        self.begin(key);
        Some((key, ticket))
    }

    /// How many are at work.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.used()
    }

    fn of(&self, key: K) -> u64 {
        self.at_work.get(&key).copied().unwrap_or(0)
    }

    fn has_place_for(&self, key: K) -> bool {
        self.total < self.places.at_work && self.of(key) < self.places.per_address
    }

    fn begin(&mut self, key: K) {
        self.total += 1;
        *self.at_work.entry(key).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACES: Places = Places {
        at_work: 8,
        per_address: 6,
        waiting: 1_000,
    };

    #[test]
    fn a_hundred_of_one_do_not_come_before_the_one_of_another() {
        let mut turns = Turns::new(PLACES, true);
        let entered: Vec<_> = (0..100).map(|_| turns.enter('a')).collect();
        assert_eq!(entered.iter().filter(|e| **e == Entered::Now).count(), 6);
        assert_eq!(
            turns.enter('b'),
            Entered::Now,
            "two places are left for others"
        );
        assert_eq!(turns.enter('c'), Entered::Now);
        let Entered::Waits(ticket) = turns.enter('d') else {
            panic!("all places are taken");
        };
        turns.leave('a');
        assert_eq!(turns.next(), Some(('d', ticket)));
        assert_eq!(turns.next(), None);
    }

    #[test]
    fn one_addresss_requests_go_in_the_order_they_came() {
        let mut turns = Turns::new(PLACES, false);
        let tickets: Vec<_> = (0..20).map(|_| turns.enter('a')).collect();
        turns.set(PLACES, true);
        let mut went = Vec::new();
        while let Some((key, ticket)) = turns.next() {
            went.push(Entered::Waits(ticket));
            if went.len() % 2 == 0 {
                turns.leave(key);
            }
        }
        assert_eq!(went[..], tickets[..went.len()]);
    }

    #[test]
    fn while_it_is_closed_nobody_goes_and_the_queue_is_bounded() {
        let places = Places {
            waiting: 10,
            ..PLACES
        };
        let mut turns = Turns::new(places, false);
        let entered: Vec<_> = (0..10).map(|_| turns.enter('a')).collect();
        assert_eq!(entered[5..], [Entered::Refused(Full::Key); 5]);
        assert!(
            matches!(turns.enter('b'), Entered::Waits(_)),
            "others find room"
        );
        assert_eq!(turns.next(), None);
        turns.set(places, true);
        assert!(turns.next().is_some());
    }

    #[test]
    fn who_gives_up_leaves_no_trace() {
        let mut turns = Turns::new(PLACES, false);
        let Entered::Waits(ticket) = turns.enter('a') else {
            panic!("it is closed");
        };
        turns.give_up('a', ticket);
        turns.give_up('a', ticket);
        turns.set(PLACES, true);
        assert_eq!((turns.next(), turns.waiting(), turns.total()), (None, 0, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter(u8),
        Leave,
        GiveUp,
        Set(u64, u64, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u8..5).prop_map(Step::Enter),
            3 => Just(Step::Leave),
            1 => Just(Step::GiveUp),
            1 => (1_u64..6, 1_u64..6, any::<bool>()).prop_map(|(a, p, o)| Step::Set(a, p, o)),
        ]
    }

    proptest! {
        /// No place stays empty while somebody who may have it waits, no bound is exceeded, and nobody is lost.
        #[test]
        fn places_are_used_and_never_more(steps in prop::collection::vec(step(), 0..300)) {
            let mut places = Places { at_work: 3, per_address: 2, waiting: 40 };
            let (mut turns, mut is_open) = (Turns::new(places, true), true);
            let (mut working, mut waiting) = (Vec::<u8>::new(), Vec::<(u8, Ticket)>::new());
            for step in steps {
                match step {
                    Step::Enter(key) => match turns.enter(key) {
                        Entered::Now => {
                            working.push(key);
                            prop_assert!(working.len() as u64 <= places.at_work);
                        }
                        Entered::Waits(ticket) => waiting.push((key, ticket)),
                        Entered::Refused(_) => prop_assert!(waiting.len() >= 20),
                    },
                    Step::Leave => if let Some(key) = working.pop() { turns.leave(key) },
                    Step::GiveUp => if let Some((key, ticket)) = waiting.pop() { turns.give_up(key, ticket) },
                    Step::Set(at_work, per_address, open) => {
                        places = Places { at_work, per_address, ..places };
                        is_open = open;
                        turns.set(places, open);
                    }
                }
                while let Some((key, ticket)) = turns.next() {
                    let before = waiting.len();
                    waiting.retain(|other| *other != (key, ticket));
                    prop_assert_eq!(waiting.len() + 1, before);
                    working.push(key);
                    prop_assert!(working.len() as u64 <= places.at_work);
                }
                prop_assert_eq!(turns.total(), working.len() as u64);
                prop_assert_eq!(turns.waiting(), waiting.len() as u64);
                let of = |key: u8| working.iter().filter(|k| **k == key).count() as u64;
                let may = |key: u8| (working.len() as u64) < places.at_work && of(key) < places.per_address;
                prop_assert!(!is_open || !waiting.iter().any(|(key, _)| may(*key)), "somebody waits in vain");
            }
        }
    }
}

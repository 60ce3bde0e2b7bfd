//! The way to Odoo's workers: who has a place there, and the wait for one.
//!
//! Not here: whose turn it is (`turns`).

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use crate::{
    ledger::locked,
    shares::Full,
    turns::{Entered, Places, Ticket, Turns},
    visitor::Visitor,
};

/// A bounded number of places.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    turns: Turns<Visitor>,
    waiting: HashMap<Ticket, oneshot::Sender<Permit>>,
}

/// A place at work. The next one gets it when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    visitor: Visitor,
}

/// A place in the queue; a future that ends with a place at work. Who drops it has left the queue.
#[derive(Debug)]
pub(crate) struct Queued {
    gate: Arc<Gate>,
    visitor: Visitor,
    ticket: Ticket,
    told: oneshot::Receiver<Permit>,
}

/// What became of somebody who came.
#[derive(Debug)]
pub(crate) enum Entry {
    /// At work.
    Now(Permit),
    /// Waits.
    Waits(Queued),
    /// There is no room to wait.
    Refused(Full),
}

impl Gate {
    /// Nobody is there.
    pub(crate) fn new(places: Places, is_open: bool) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            turns: Turns::new(places, is_open),
            waiting: HashMap::new(),
        })))
    }

    /// Other bounds, open or not.
    pub(crate) fn set(self: &Arc<Self>, places: Places, is_open: bool) {
        locked(&self.0).turns.set(places, is_open);
        self.settle();
    }

    /// Somebody comes.
    pub(crate) fn enter(self: &Arc<Self>, visitor: Visitor) -> Entry {
        let mut inner = locked(&self.0);
        match inner.turns.enter(visitor) {
            Entered::Now => Entry::Now(self.permit(visitor)),
            Entered::Refused(full) => Entry::Refused(full),
            Entered::Waits(ticket) => {
                let (tell, told) = oneshot::channel();
                inner.waiting.insert(ticket, tell);
                Entry::Waits(Queued {
                    gate: Arc::clone(self),
                    visitor,
                    ticket,
                    told,
                })
            }
        }
    }

    /// How many are at work, and how many wait.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = locked(&self.0);
        (inner.turns.total(), inner.turns.waiting())
    }

    fn permit(self: &Arc<Self>, visitor: Visitor) -> Permit {
        Permit {
            gate: Arc::clone(self),
            visitor,
        }
    }

    /// Tells all whose turn it is. The lock is not held meanwhile: a permit that nobody takes comes back here.
    fn settle(self: &Arc<Self>) {
        loop {
            let (visitor, tell) = {
                let mut inner = locked(&self.0);
                let Some((visitor, ticket)) = inner.turns.next() else {
                    return;
                };
                (visitor, inner.waiting.remove(&ticket))
            };
            let permit = self.permit(visitor);
            if let Some(tell) = tell {
                drop(tell.send(permit));
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        locked(&self.gate.0).turns.leave(self.visitor);
        self.gate.settle();
    }
}

impl Future for Queued {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        match ready!(Pin::new(&mut self.told).poll(context)) {
            Ok(permit) => Poll::Ready(permit),
            // The sender is dropped only when it is told, or when this is dropped.
            Err(_) => Poll::Pending,
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let tell = {
            let mut inner = locked(&self.gate.0);
            inner.turns.give_up(self.visitor, self.ticket);
            inner.waiting.remove(&self.ticket)
        };
        drop(tell);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    const PLACES: Places = Places {
        at_work: 1,
        per_address: 1,
        waiting: 10,
    };

    fn visitor(last: u8) -> Visitor {
        IpAddr::from([203, 0, 113, last]).into()
    }

    fn waits(gate: &Arc<Gate>, who: u8) -> Queued {
        match gate.enter(visitor(who)) {
            Entry::Waits(queued) => queued,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_place_that_comes_free_goes_to_the_next_and_is_not_lost_with_who_left() {
        let gate = Gate::new(PLACES, true);
        let Entry::Now(first) = gate.enter(visitor(1)) else {
            panic!("it is free");
        };
        let (mut second, third, mut fourth) = (waits(&gate, 2), waits(&gate, 3), waits(&gate, 4));
        assert!((&mut second).now_or_never().is_none());
        drop(third);
        drop(first);
        assert_eq!(
            gate.counts(),
            (1, 1),
            "the second has it, though it has not looked"
        );
        drop(second);
        let permit = (&mut fourth)
            .now_or_never()
            .expect("it went on to the fourth");
        drop(fourth);
        assert_eq!(gate.counts(), (1, 0));
        drop(permit);
        assert_eq!(gate.counts(), (0, 0));
    }

    #[test]
    fn opening_lets_in_as_many_as_there_are_places() {
        let gate = Gate::new(PLACES, false);
        let mut all: Vec<_> = (0..5).map(|who| waits(&gate, who)).collect();
        gate.set(
            Places {
                at_work: 3,
                ..PLACES
            },
            true,
        );
        let in_now: Vec<_> = all.iter_mut().map(|q| q.now_or_never().is_some()).collect();
        // Those let in have dropped their places at once, so all came in.
        assert_eq!(in_now, [true; 5]);
        assert_eq!(gate.counts(), (0, 0));
    }
}

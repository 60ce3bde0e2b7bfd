//! Places of one kind: so many altogether, and so many of one holder, so that whoever takes all it can leaves some to
//! others. Nobody waits for one: there is a place, or there is none.
//!
//! Not here: what they are places for (peer, metrics); places of strangers, who have no name yet (isyone_proto::places).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A place that is held.
pub type Share = [OwnedSemaphorePermit; 2];

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("it has {0} already")]
    Own(usize),
    #[error("all {0} are taken")]
    All(usize),
}

/// Places of one kind, by who holds them.
pub struct Shares<K> {
    most: usize,
    each: usize,
    all: Arc<Semaphore>,
    /// Holders that have some, and perhaps as many again that had.
    of: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K: Eq + Hash> Shares<K> {
    /// `most` altogether, `each` of one holder.
    pub fn new(most: usize, each: usize) -> Self {
        Self {
            most,
            each,
            all: Arc::new(Semaphore::new(most)),
            of: Mutex::default(),
        }
    }

    /// A place for `holder`, given back on drop.
    ///
    /// # Errors
    /// When it has its share, or all are taken.
    pub fn take(&self, holder: K) -> Result<Share, Full> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.len() > 2 * self.most {
            of.retain(|_, free| free.available_permits() < self.each);
        }
        let own = of
            .entry(holder)
            .or_insert_with(|| Arc::new(Semaphore::new(self.each)));
        let own = own.clone().try_acquire_owned();
        let own = own.map_err(|_| Full::Own(self.each))?;
        let place = self.all.clone().try_acquire_owned();
        Ok([own, place.map_err(|_| Full::All(self.most))?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_all_it_can_leaves_some_and_who_has_gone_is_forgotten() {
        let shares = Shares::new(5, 3);
        let take = |holder: u32| shares.take(holder);
        let mut held: Vec<Share> = (0..3).map(|_| take(1).unwrap()).collect();
        assert_eq!(take(1).unwrap_err(), Full::Own(3));
        held.push(take(2).unwrap());
        held.push(take(2).unwrap());
        assert_eq!(take(2).unwrap_err(), Full::All(5));
        assert_eq!(take(3).unwrap_err(), Full::All(5));
        drop(held.remove(0));
        drop(take(2).unwrap()); // given back at once
        held.push(take(1).unwrap());
        for holder in 10..10_000 {
            assert_eq!(take(holder).unwrap_err(), Full::All(5));
        }
        assert!(shares.of.lock().unwrap().len() <= 11);
        assert_eq!(take(1).unwrap_err(), Full::Own(3), "it is still known");
    }
}

//! Places for connections of strangers, shared fairly: so many altogether and of one network. When there is none left, the
//! network that has the most gives one up for a newcomer from one with fewer, and among its own the one that has said
//! nothing for the longest goes first. So who takes all it can get has less for itself, not others.
//!
//! Who has shown who it is can be taken out of the crowd: its place is then no longer one that strangers could want.
//! Not here: what the places are for, and time limits (the ports); the lobby of the coordinator's gRPC ports, which also
//! deals out turns.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// There is no place, and nobody has more than the newcomer's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {0} places are taken, and no network has more than this one")]
pub struct Full(pub usize);

/// Longest silent first: by the number that a place got when it was last heard of.
type Queue = BTreeMap<u64, Arc<Notify>>;

#[derive(Debug, Default)]
struct State {
    newest: u64,
    /// In all networks; those that are known are not counted.
    taken: usize,
    networks: HashMap<IpAddr, Queue>,
    known: Queue,
}

/// The places of one port, or of one part of it.
#[derive(Debug)]
pub struct Places {
    most: usize,
    each: usize,
    state: Mutex<State>,
}

/// A connection's place; free again on drop.
#[derive(Debug)]
pub struct Place {
    of: Arc<Places>,
    network: IpAddr,
    seat: Mutex<Seat>,
    lost: Arc<Notify>,
}

#[derive(Debug, Clone, Copy)]
struct Seat {
    number: u64,
    known: bool,
}

/// What one customer of a provider may own: an IPv4 address, or the /48 that anybody who asks for IPv6 gets.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !(u128::MAX >> 48)).into(),
        v4 => v4,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding these locks; what they hold is consistent in any case.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Whose longest silent one has to go for a newcomer from `network`, if one has to.
    fn who_gives(&self, network: IpAddr, places: &Places) -> Result<Option<IpAddr>, Full> {
        let own = self.networks.get(&network).map_or(0, Queue::len);
        if own < places.each && self.taken < places.most {
            return Ok(None);
        }
        let fullest = self.networks.iter().max_by_key(|(_, queue)| queue.len());
        match fullest {
            _ if own >= places.each => Ok(Some(network)),
            Some((fullest, queue)) if queue.len() > own + 1 => Ok(Some(*fullest)),
            // Among equals nobody goes for another network; of its own the newcomer may be the better one.
            _ if own > 0 => Ok(Some(network)),
            _ => Err(Full(places.most)),
        }
    }

    /// Takes the place away that has been silent for the longest.
    fn take_from(&mut self, network: IpAddr) {
        let Some(queue) = self.networks.get_mut(&network) else {
            return;
        };
        if let Some((_, lost)) = queue.pop_first() {
            lost.notify_one();
            self.taken -= 1;
        }
        if queue.is_empty() {
            self.networks.remove(&network);
        }
    }

    fn remove(&mut self, network: IpAddr, seat: Seat) -> Option<Arc<Notify>> {
        if seat.known {
            return self.known.remove(&seat.number);
        }
        let queue = self.networks.get_mut(&network)?;
        let gone = queue.remove(&seat.number)?;
        self.taken -= 1;
        if queue.is_empty() {
            self.networks.remove(&network);
        }
        Some(gone)
    }

    fn insert(&mut self, network: IpAddr, known: bool, lost: Arc<Notify>) -> Seat {
        self.newest += 1;
        let number = self.newest;
        if known {
            self.known.insert(number, lost);
        } else {
            self.taken += 1;
            let queue = self.networks.entry(network).or_default();
            queue.insert(number, lost);
        }
        Seat { number, known }
    }
}

impl Places {
    /// `most` altogether, `each` of one network (an IPv4 address, an IPv6 /48); and once more `most` for those who are
    /// [known](Place::mark_known).
    pub fn new(most: usize, each: usize) -> Self {
        Self {
            most,
            each,
            state: Mutex::default(),
        }
    }

    /// A place for a connection from `address`.
    ///
    /// # Errors
    /// When all are taken, by networks that have no more than the newcomer's.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let network = network(address);
        let lost = Arc::new(Notify::new());
        let mut state = lock(&self.state);
        if let Some(from) = state.who_gives(network, self)? {
            state.take_from(from);
        }
        let seat = state.insert(network, false, lost.clone());
        drop(state);
        Ok(Place {
            of: self.clone(),
            network,
            seat: Mutex::new(seat),
            lost,
        })
    }
}

impl Place {
    /// Returns when the place was taken away: then the connection has to end. For one task at a time.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// It has said something: others go first.
    pub fn mark_heard(&self) {
        self.again(|seat| seat.known);
    }

    /// It has shown who it is: strangers can no longer want its place. If too many are known, the longest silent of them
    /// loses its own.
    pub fn mark_known(&self) {
        self.again(|_| true);
    }

    fn again(&self, known: impl FnOnce(Seat) -> bool) {
        let mut seat = lock(&self.seat);
        let mut state = lock(&self.of.state);
        // One that was lost stays lost.
        let Some(lost) = state.remove(self.network, *seat) else {
            return;
        };
        *seat = state.insert(self.network, known(*seat), lost);
        if state.known.len() > self.of.most
            && let Some((_, silent)) = state.known.pop_first()
        {
            silent.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let seat = *lock(&self.seat);
        lock(&self.of.state).remove(self.network, seat);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::timeout;

    use super::*;

    fn enter(places: &Arc<Places>, address: &str) -> Result<Place, Full> {
        places.enter(address.parse().unwrap())
    }

    fn fill(places: &Arc<Places>, address: &str, count: usize) -> Vec<Place> {
        (0..count)
            .map(|_| enter(places, address).unwrap())
            .collect()
    }

    async fn is_lost(place: &Place) -> bool {
        timeout(Duration::from_millis(1), place.lost())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_all_gives_up_its_longest_silent_one_to_whoever_has_fewer() {
        let places = Arc::new(Places::new(8, 8));
        let crowd = fill(&places, "192.0.2.1", 8);
        crowd[0].mark_heard();
        let few = fill(&places, "192.0.2.2", 3);
        for (n, place) in crowd.iter().enumerate() {
            assert_eq!(is_lost(place).await, (1..4).contains(&n), "{n}");
        }
        for place in &few {
            assert!(!is_lost(place).await);
        }
        // Five and three: the next one makes them even, and then each only replaces its own.
        let more = fill(&places, "192.0.2.2", 1);
        assert!(is_lost(&crowd[4]).await && !is_lost(&more[0]).await);
        let newest = enter(&places, "192.0.2.2").unwrap();
        assert!(is_lost(&few[0]).await && !is_lost(&newest).await);
        drop((crowd, few, more, newest));
        let state = lock(&places.state);
        assert!(state.taken == 0 && state.networks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn among_equals_nobody_goes_and_one_network_has_no_more_than_its_share() {
        let places = Arc::new(Places::new(4, 2));
        let of = |n: u8| format!("192.0.2.{n}");
        let held: Vec<_> = (1..5).map(|n| enter(&places, &of(n)).unwrap()).collect();
        assert_eq!(enter(&places, "192.0.2.9").unwrap_err(), Full(4));
        drop(held);
        let crowd = fill(&places, "2001:db8:1:1::1", 2);
        // Another /64 of the same /48 is the same network.
        let newest = enter(&places, "2001:db8:1:2::1").unwrap();
        assert!(is_lost(&crowd[0]).await && !is_lost(&crowd[1]).await && !is_lost(&newest).await);
        drop(enter(&places, "2001:db8:2::1").unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_keeps_its_place_whatever_strangers_do() {
        let places = Arc::new(Places::new(4, 4));
        let known = enter(&places, "192.0.2.1").unwrap();
        known.mark_known();
        // From its own address, too: it may be that of a NAT.
        let crowd = fill(&places, "192.0.2.1", 50);
        assert!(!is_lost(&known).await && is_lost(&crowd[0]).await);
        known.mark_heard();
        let more: Vec<_> = (0..5)
            .map(|_| {
                let place = enter(&places, "192.0.2.2").unwrap();
                place.mark_known();
                place
            })
            .collect();
        assert!(is_lost(&known).await && is_lost(&more[0]).await && !is_lost(&more[1]).await);
        known.mark_heard(); // once lost it stays so
        assert_eq!(lock(&places.state).known.len(), 4);
    }

    proptest! {
        #[test]
        fn nobody_exceeds_its_share_and_a_newcomer_with_nothing_gets_in_while_somebody_has_two(
            steps in prop::collection::vec((0..12_u8, 0..4_u8, any::<prop::sample::Index>()), 1..120)
        ) {
            let places = Arc::new(Places::new(6, 4));
            let mut held: Vec<Place> = Vec::new();
            for (from, what, which) in steps {
                match what {
                    0 if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    1 if !held.is_empty() => held[which.index(held.len())].mark_heard(),
                    _ => {
                        let address = IpAddr::from([192, 0, 2, from]);
                        let (has, most) = {
                            let state = lock(&places.state);
                            let lens = state.networks.values().map(Queue::len);
                            (state.networks.get(&address).map_or(0, Queue::len), lens.max().unwrap_or(0))
                        };
                        match places.enter(address) {
                            Ok(place) => held.push(place),
                            Err(_) => prop_assert!(has == 0 && most <= 1),
                        }
                    }
                }
                let state = lock(&places.state);
                let sum: usize = state.networks.values().map(Queue::len).sum();
                prop_assert!(sum == state.taken && sum <= 6);
                prop_assert!(state.networks.values().all(|queue| (1..=4).contains(&queue.len())));
            }
        }
    }
}

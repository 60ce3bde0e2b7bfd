//! Where connections wait until their handshake is done: how many there may be, in all and from one network, whose turn
//! is next, and which one has to go when there is no place left.
//!
//! A connection is first silent (its ClientHello has not arrived), then waits for a turn, then has one. The next turn
//! goes to the network that has the fewest, and within it to the origin that has the fewest; when all turns are taken,
//! the network with the most loses its oldest. Places are taken away in the same way. So a flood from a few networks
//! delays only those networks, while thousands of agents behind one address (NAT) get in as fast as our CPU allows.
//!
//! Not here: sockets and time (mod.rs).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::base::metrics::Refused;

/// Handshakes at the same time: two cores complete about a thousand a second, so this is a quarter of a second's work
/// and a bound on memory.
const MAX_TURNS: usize = 256;
/// Handshakes of one network. Even with peers 50 ms away this allows a thousand a second, which is what our CPU can do.
const MAX_TURNS_OF_ONE: usize = 64;
/// Places of one network: two seconds' work. A client gives up after five, so it is better to refuse at once those who
/// would wait longer; they come back at different moments. The limit holds even when no other network wants the rest,
/// because handshakes, not places, are scarce then: on a busy machine the 4,096th would wait until its client is gone
/// (refused as `queue`, five seconds later than as `network`).
const MAX_PLACES_OF_ONE: usize = 2_048;
/// Places in all. Each is an open file and at most a ClientHello.
const MAX_PLACES: usize = 4_096;

/// The connections whose handshake is not done.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    places: usize,
    turns: usize,
    /// Number of the newest connection; older ones have lower numbers.
    ticket: u64,
    networks: HashMap<IpAddr, Network>,
}

/// What one customer may own: an IPv4 address, or the /48 that anybody who asks for IPv6 gets.
#[derive(Debug, Default)]
struct Network {
    places: usize,
    turns: usize,
    origins: HashMap<IpAddr, Origin>,
}

/// What one machine has at least: an IPv4 address or a /64. The /64s of one /48 may be strangers to each other.
#[derive(Debug, Default)]
struct Origin {
    silent: BTreeMap<u64, Wake>,
    waiting: BTreeMap<u64, Wake>,
    turns: BTreeMap<u64, oneshot::Sender<Infallible>>,
}

/// A message means that it is the connection's turn; dropping it means that the place was taken away.
type Wake = oneshot::Sender<Turn>;

/// Resolves when the turn is taken away.
type Turn = oneshot::Receiver<Infallible>;

/// A connection's place, and its turn once it has one; freed on drop.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Lobby>,
    address: IpAddr,
    ticket: u64,
    woken: oneshot::Receiver<Turn>,
}

fn prefix(address: IpAddr, bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !(u128::MAX >> bits)).into(),
        v4 => v4,
    }
}

/// The address' /64 (IPv6): whoever has one address has all of it.
pub(super) fn origin(address: IpAddr) -> IpAddr {
    prefix(address, 64)
}

fn network(address: IpAddr) -> IpAddr {
    prefix(address, 48)
}

impl Origin {
    fn places(&self) -> usize {
        self.silent.len() + self.waiting.len() + self.turns.len()
    }
}

impl State {
    /// Edits an origin and updates the counts; removes entries that became empty.
    fn edit<T>(&mut self, address: IpAddr, edit: impl FnOnce(&mut Origin) -> T) -> T {
        let (network_of, origin_of) = (network(address), origin(address));
        let network = self.networks.entry(network_of).or_default();
        let origin = network.origins.entry(origin_of).or_default();
        let before = (origin.places(), origin.turns.len());
        let done = edit(origin);
        let after = (origin.places(), origin.turns.len());
        if after.0 == 0 {
            network.origins.remove(&origin_of);
        }
        network.places = network.places + after.0 - before.0;
        network.turns = network.turns + after.1 - before.1;
        if network.places == 0 {
            self.networks.remove(&network_of);
        }
        self.places = self.places + after.0 - before.0;
        self.turns = self.turns + after.1 - before.1;
        done
    }

    /// Takes a place away for a connection from `address`, if its network or origin has fewer than others: from the
    /// longest silent connection, otherwise from the newest. Within an origin, earlier connections keep their places.
    fn make_room(&mut self, address: IpAddr) -> Result<(), Refused> {
        let own = network(address);
        let places = self.networks.get(&own).map_or(0, |network| network.places);
        let crowded = places >= MAX_PLACES_OF_ONE;
        if !crowded && self.places < MAX_PLACES {
            return Ok(());
        }
        let refused = if crowded {
            Refused::Network
        } else {
            Refused::Full
        };
        let fullest = self.networks.iter().filter(|(key, network)| {
            if crowded {
                **key == own
            } else {
                network.places > places + 1
            }
        });
        let fullest = fullest.max_by_key(|(_, network)| network.places);
        let origins = fullest
            .into_iter()
            .flat_map(|(_, network)| &network.origins);
        let origin_of_most = origins
            .max_by_key(|(_, origin)| origin.places())
            .map(|(address, _)| *address);
        let from = origin_of_most
            .filter(|from| *from != origin(address))
            .ok_or(refused)?;
        let given_up = self.edit(from, |origin| {
            origin
                .silent
                .pop_first()
                .or_else(|| origin.waiting.pop_last())
        });
        given_up.map(drop).ok_or(refused)
    }

    /// Gives turns to waiting connections: free ones, and those of networks that have more.
    fn give_turns(&mut self) {
        loop {
            let networks = self
                .networks
                .values()
                .filter(|network| network.turns < MAX_TURNS_OF_ONE);
            let waiting = networks.flat_map(|network| {
                network.origins.iter().filter_map(|(address, origin)| {
                    let (ticket, _) = origin.waiting.first_key_value()?;
                    Some((network.turns, origin.turns.len(), *ticket, *address))
                })
            });
            let Some((has, _, _, next)) = waiting.min() else {
                return;
            };
            if self.turns >= MAX_TURNS && !self.take_turn(has) {
                return;
            }
            self.edit(next, |origin| {
                if let Some((ticket, wake)) = origin.waiting.pop_first() {
                    let (held, turn) = oneshot::channel();
                    origin.turns.insert(ticket, held);
                    // If nobody listens, the connection is about to free its place.
                    let _ = wake.send(turn);
                }
            });
        }
    }

    /// Takes the oldest turn away from the network with the most, for one that has `has` turns and will not exceed it.
    fn take_turn(&mut self, has: usize) -> bool {
        let networks = self
            .networks
            .values()
            .filter(|network| network.turns > has + 1);
        let held = networks.flat_map(|network| {
            network.origins.iter().filter_map(|(address, origin)| {
                let (ticket, _) = origin.turns.first_key_value()?;
                Some((
                    network.turns,
                    origin.turns.len(),
                    Reverse(*ticket),
                    *address,
                ))
            })
        });
        let Some((_, _, _, from)) = held.max() else {
            return false;
        };
        self.edit(from, |origin| origin.turns.pop_first()).is_some()
    }
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock; the maps are consistent in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets a place for a silent connection from `address`.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refused> {
        let (wake, woken) = oneshot::channel();
        let mut state = self.lock();
        state.make_room(address)?;
        state.ticket += 1;
        let ticket = state.ticket;
        state.edit(address, |origin| origin.silent.insert(ticket, wake));
        Ok(Place {
            of: self.clone(),
            address,
            ticket,
            woken,
        })
    }
}

impl Place {
    /// Waits for a silent connection's hello, unless its place is taken away.
    pub(super) async fn listen<T>(&mut self, hello: impl Future<Output = T>) -> Result<T, Refused> {
        tokio::select! {
            // Silent connections get no turn: only a dropped sender wakes this.
            _ = &mut self.woken => Err(Refused::Displaced),
            said = hello => Ok(said),
        }
    }

    /// Waits for a turn, which lasts until the place is dropped or the turn is taken away.
    pub(super) async fn turn(&mut self) -> Result<Turn, Refused> {
        {
            let mut state = self.of.lock();
            state.edit(self.address, |origin| {
                if let Some(wake) = origin.silent.remove(&self.ticket) {
                    origin.waiting.insert(self.ticket, wake);
                }
            });
            state.give_turns();
        }
        (&mut self.woken).await.map_err(|_| Refused::Displaced)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        state.edit(self.address, |origin| {
            origin.silent.remove(&self.ticket);
            origin.waiting.remove(&self.ticket);
            origin.turns.remove(&self.ticket);
        });
        state.give_turns();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fill(lobby: &Arc<Lobby>, address: &str, count: usize) -> Vec<Place> {
        (0..count)
            .map(|_| lobby.enter(ip(address)).unwrap())
            .collect()
    }

    async fn has_turn(place: &mut Place) -> bool {
        timeout(Duration::from_millis(1), place.turn())
            .await
            .is_ok_and(|turn| turn.is_ok())
    }

    async fn woken(place: &mut Place) {
        timeout(Duration::from_millis(1), &mut place.woken)
            .await
            .unwrap()
            .unwrap();
    }

    async fn given_up(place: &mut Place) -> bool {
        timeout(
            Duration::from_millis(1),
            place.listen(std::future::pending::<()>()),
        )
        .await
        .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_network_gets_its_share_of_turns_and_its_next_when_one_is_over() {
        let lobby = Arc::new(Lobby::default());
        let mut crowd = fill(&lobby, "192.0.2.1", 1_000);
        for (n, place) in crowd.iter_mut().enumerate() {
            assert_eq!(has_turn(place).await, n < MAX_TURNS_OF_ONE);
        }
        assert!(has_turn(&mut lobby.enter(ip("192.0.2.2")).unwrap()).await);
        crowd.remove(0);
        woken(&mut crowd[MAX_TURNS_OF_ONE - 1]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn turns_go_to_the_network_and_there_to_the_origin_with_the_fewest() {
        let lobby = Arc::new(Lobby::default());
        let mut crowd = Vec::new();
        for n in 0..4 {
            // Two /64s of one /48 share that network's turns.
            for part in ["1", "2"] {
                crowd.extend(fill(&lobby, &format!("2001:db8:{n}:{part}::1"), 100));
            }
        }
        let oldest = crowd[0].turn().await.unwrap();
        for place in &mut crowd[1..] {
            has_turn(place).await;
        }
        assert_eq!(lobby.lock().turns, MAX_TURNS);
        let mut neighbour = lobby.enter(ip("2001:db8:0:3::1")).unwrap();
        assert!(!has_turn(&mut neighbour).await);
        // A network without turns takes the oldest one from those that have too many.
        assert!(has_turn(&mut lobby.enter(ip("192.0.2.1")).unwrap()).await);
        oldest.await.unwrap_err();
        // The next turns go to the second /64, which came earlier; then that network has more than the neighbour.
        crowd.drain(..4);
        woken(&mut neighbour).await;
    }

    #[tokio::test(start_paused = true)]
    async fn silence_from_two_networks_gives_way_to_others() {
        let lobby = Arc::new(Lobby::default());
        let mut first = fill(&lobby, "192.0.2.1", MAX_PLACES_OF_ONE);
        let _second = fill(&lobby, "192.0.2.2", MAX_PLACES_OF_ONE);
        let mut agents = fill(&lobby, "192.0.2.3", 500);
        assert_eq!(lobby.lock().places, MAX_PLACES);
        assert!(given_up(&mut first[0]).await);
        for agent in &mut agents {
            assert!(!given_up(agent).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_network_refuses_unless_a_neighbour_has_more_and_among_equals_nobody_goes() {
        let lobby = Arc::new(Lobby::default());
        let mut crowd = fill(&lobby, "2001:db8::1", MAX_PLACES_OF_ONE);
        assert_eq!(
            lobby.enter(ip("2001:db8::2")).unwrap_err(),
            Refused::Network
        );
        let neighbour = lobby.enter(ip("2001:db8:0:1::1")).unwrap();
        assert!(given_up(&mut crowd[0]).await && !given_up(&mut crowd[1]).await);
        drop((crowd, neighbour));
        let _all: Vec<_> = (0..4_096_u32)
            .map(|n| {
                lobby
                    .enter(std::net::Ipv4Addr::from_bits(n).into())
                    .unwrap()
            })
            .collect();
        assert_eq!(lobby.enter(ip("192.0.2.1")).unwrap_err(), Refused::Full);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_forgotten() {
        let lobby = Arc::new(Lobby::default());
        let mut crowd = fill(&lobby, "2001:db8::1", 100);
        for place in &mut crowd {
            has_turn(place).await;
        }
        crowd.extend(fill(&lobby, "192.0.2.1", 100));
        drop(crowd);
        let state = lobby.lock();
        assert_eq!((state.places, state.turns, state.networks.len()), (0, 0, 0));
    }

    #[test]
    fn an_ipv6_network_is_one_origin() {
        let of = |text: &str| origin(ip(text));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_eq!(network(ip("2001:db8:1:2::3")), ip("2001:db8:1::"));
    }
}

//! Where connections wait until their handshake is done: how many may, in all and from one origin, and who comes next.
//!
//! A connection that says nothing costs a file and a small task, but no turn: turns are for those that have sent something, and one
//! origin gets a share of them only. So silent or slow peers at one address hold up their own address at most, while thousands
//! of agents behind one address (NAT) get in as fast as our CPU can.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes at the same time: about a thousand are done in a second on two cores, so this is a quarter of a second's
/// work and a bound on memory.
const MAX_TURNS: usize = 256;
/// And of one origin. With peers 50 ms away still a thousand a second, which is what our CPU can do.
const MAX_TURNS_OF_ONE: usize = 64;
/// Connections of one origin that may wait: two seconds' work. A client gives up after five, so those who would wait longer
/// are better told at once; they come back at different moments.
const MAX_WAITING_OF_ONE: usize = 2_048;
/// Connections that may wait in all; further ones wait in the kernel's queue. Each is an open file.
const MAX_WAITING: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub(super) struct Lobby {
    room: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    origins: Mutex<HashMap<IpAddr, Origin>>,
}

#[derive(Debug)]
struct Origin {
    waiting: usize,
    turns: Arc<Semaphore>,
}

impl Default for Lobby {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { room: semaphore(MAX_WAITING), turns: semaphore(MAX_TURNS), origins: Mutex::default() }
    }
}

/// One IPv6 customer has at least a /64 of addresses.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Lobby>,
    origin: IpAddr,
    turns: Arc<Semaphore>,
    _room: Option<OwnedSemaphorePermit>,
}

/// While it is held, the handshake may go on.
#[derive(Debug)]
pub(super) struct Turn {
    _held: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Origin>> {
        // Nothing panics while holding the lock; the map is whole in any case.
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more connection may wait here. The semaphore is never closed.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().acquire_owned().await.ok()
    }

    /// A place for a connection from `address`, unless too many wait from there.
    pub(super) fn enter(
        self: &Arc<Self>,
        room: Option<OwnedSemaphorePermit>,
        address: IpAddr,
    ) -> Option<Place> {
        let origin = origin(address);
        let mut origins = self.lock();
        let entry = origins
            .entry(origin)
            .or_insert_with(|| Origin { waiting: 0, turns: Arc::new(Semaphore::new(MAX_TURNS_OF_ONE)) });
        if entry.waiting >= MAX_WAITING_OF_ONE {
            return None;
        }
        entry.waiting += 1;
        Some(Place { of: self.clone(), origin, turns: entry.turns.clone(), _room: room })
    }
}

impl Place {
    /// Waits for a turn: first among those of the same origin, then among all.
    pub(super) async fn turn(&self) -> Turn {
        let ours = self.turns.clone().acquire_owned().await.ok();
        Turn { _held: (ours, self.of.turns.clone().acquire_owned().await.ok()) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut origins = self.of.lock();
        if let Some(origin) = origins.get_mut(&self.origin) {
            origin.waiting -= 1;
            if origin.waiting == 0 {
                origins.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[tokio::test(start_paused = true)]
    async fn one_origin_gets_its_share_of_turns_and_others_go_on() {
        let lobby = Arc::new(Lobby::default());
        let crowd: Vec<Place> = (0..1_000).map_while(|_| lobby.enter(None, A)).collect();
        let mut turns = Vec::new();
        for place in &crowd {
            match timeout(Duration::from_secs(1), place.turn()).await {
                Ok(turn) => turns.push(turn),
                Err(_) => break,
            }
        }
        assert_eq!(turns.len(), MAX_TURNS_OF_ONE);
        let other = lobby.enter(None, B).unwrap();
        timeout(Duration::from_secs(1), other.turn()).await.unwrap();
        turns.pop();
        timeout(Duration::from_secs(1), crowd[999].turn()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_bounded_and_forgotten_when_gone() {
        let lobby = Arc::new(Lobby::default());
        let mut crowd = Vec::new();
        while let Some(place) = lobby.enter(lobby.room().await, A) {
            crowd.push(place);
        }
        assert_eq!(crowd.len(), MAX_WAITING_OF_ONE);
        while crowd.len() < MAX_WAITING {
            crowd.push(lobby.enter(lobby.room().await, B).unwrap());
        }
        timeout(Duration::from_secs(1), lobby.room()).await.unwrap_err();
        drop(crowd);
        assert!(lobby.lock().is_empty() && lobby.room.available_permits() == MAX_WAITING);
    }

    #[test]
    fn an_ipv6_network_is_one_origin() {
        let of = |text: &str| origin(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}

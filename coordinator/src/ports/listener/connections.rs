//! The open connections: each can be cut from outside, and each owner has a limit.
//!
//! A new connection above the limit costs its owner the oldest one: that one may be dead without our knowing, the
//! newest is not.
//! Not here: connections whose handshake is not done (lobby).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isyone_proto::tls::{CertificateInfo, Identity};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use tokio_util::sync::CancellationToken;

use super::{Peer, lobby};
use crate::base::metrics::{Families, number};

/// An agent has one, and briefly a few more: while it renews its certificate, or after the network was down.
const MAX_OF_AGENT: usize = 8;
/// Operators' programs may have one for each call; operators/gate limits what the calls cost.
const MAX_OF_OPERATOR: usize = 1_024;
/// Joining takes one call: even a rack of machines behind one address joins in a moment.
const MAX_OF_ORIGIN: usize = 16;
/// For all peers without a certificate (the enrolment port): hundreds can join in a second.
const MAX_OF_STRANGERS: usize = 256;

/// Whose connections count together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    Known(Identity),
    Stranger(IpAddr),
}

impl Owner {
    fn of(peer: &Peer) -> Self {
        match peer.identity() {
            Some(identity) => Self::Known(identity.clone()),
            None => Self::Stranger(lobby::origin(peer.address.ip())),
        }
    }

    fn most(&self) -> usize {
        match self {
            Self::Known(Identity::Agent(_) | Identity::Coordinator) => MAX_OF_AGENT,
            Self::Known(Identity::Operator(..)) => MAX_OF_OPERATOR,
            Self::Stranger(_) => MAX_OF_ORIGIN,
        }
    }
}

#[derive(Debug, Default)]
struct Open {
    /// By number; older connections have lower ones.
    all: BTreeMap<u64, (Arc<Peer>, CancellationToken)>,
    owned: HashMap<Owner, Vec<u64>>,
    newest: u64,
}

impl Open {
    fn remove(&mut self, id: u64) -> Option<(Arc<Peer>, CancellationToken)> {
        let (peer, cut) = self.all.remove(&id)?;
        let owner = Owner::of(&peer);
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.retain(|other| *other != id);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
        Some((peer, cut))
    }
}

/// See the module. Peers with certificates have one instance, peers without another.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<Open>,
}

impl Connections {
    /// Adds a connection; cuts its owner's oldest if there are too many.
    pub(super) fn add(self: &Arc<Self>, peer: Arc<Peer>, cut: CancellationToken) -> Registration {
        let owner = Owner::of(&peer);
        let mut open = self.lock();
        open.newest += 1;
        let id = open.newest;
        let stranger = peer.identity().is_none();
        let (most, mine) = (owner.most(), open.owned.entry(owner).or_default());
        mine.push(id);
        let mut oldest = mine.first().copied().filter(|_| mine.len() > most);
        open.all.insert(id, (peer, cut));
        if oldest.is_none() && stranger && open.all.len() > MAX_OF_STRANGERS {
            oldest = open.all.keys().next().copied();
        }
        if let Some((peer, cut)) = oldest.and_then(|oldest| open.remove(oldest)) {
            let who = peer.identity().map(ToString::to_string);
            tracing::info!(who, address = %peer.address, "too many connections: the oldest is cut");
            cut.cancel();
        }
        drop(open);
        Registration {
            id,
            of: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while holding the lock; the maps are consistent in any case.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts every connection whose certificate is no longer accepted; returns how many.
    pub fn cut_unless(&self, accepted: impl Fn(&CertificateInfo) -> bool) -> usize {
        let open = self.lock();
        let refused = open
            .all
            .values()
            .filter(|(peer, _)| peer.certificate.as_ref().is_some_and(|c| !accepted(c)));
        refused.inspect(|(peer, cut)| {
            tracing::info!(peer = ?peer.identity().map(ToString::to_string), address = %peer.address, "certificate no longer accepted: connection cut");
            cut.cancel();
        }).count()
    }

    /// The certificates that somebody is connected with, of those that `wanted` names.
    pub fn certificates(&self, wanted: impl Fn(&CertificateInfo) -> bool) -> Vec<CertificateInfo> {
        let open = self.lock();
        let all = open.all.values();
        let shown = all.filter_map(|(peer, _)| peer.certificate.as_ref());
        shown.filter(|shown| wanted(shown)).cloned().collect()
    }

    /// Serial numbers (hex) of the certificates that somebody is connected with as `identity`.
    pub fn serials_of(&self, identity: &Identity) -> Vec<String> {
        let open = self.lock();
        let owned = open.owned.get(&Owner::Known(identity.clone()));
        let peers = owned
            .into_iter()
            .flatten()
            .filter_map(|id| open.all.get(id));
        let certificates = peers.filter_map(|(peer, _)| peer.certificate.as_ref());
        certificates.map(CertificateInfo::serial_hex).collect()
    }

    pub fn count(&self) -> usize {
        self.lock().all.len()
    }
}

/// Counts a connection as open for as long as this is held.
#[derive(Debug)]
pub(super) struct Registration {
    id: u64,
    of: Arc<Connections>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.of.lock().remove(self.id);
    }
}

impl Collector for Connections {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        Families(encoder).gauge(
            "connections",
            "Open mTLS connections",
            None,
            number(self.count()),
        )
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::tls::OperatorRole;

    use super::*;

    fn peer(identity: Option<Identity>, address: [u8; 4]) -> Arc<Peer> {
        let certificate = identity.map(|identity| CertificateInfo {
            identity,
            serial: vec![1],
            not_before: 0,
            not_after: 1,
            serves: false,
            sha256: [0; 32],
        });
        Arc::new(Peer {
            certificate,
            address: (address, 1).into(),
        })
    }

    /// How many of `each` connections of every peer stay open. The newest always does.
    fn left(peers: &[Arc<Peer>], each: usize) -> usize {
        let connections = Arc::<Connections>::default();
        let mut held = Vec::new();
        for peer in peers {
            for _ in 0..each {
                let cut = CancellationToken::new();
                held.push((connections.add(peer.clone(), cut.clone()), cut));
            }
        }
        let open = held.iter().filter(|(_, cut)| !cut.is_cancelled()).count();
        assert_eq!(connections.count(), open);
        assert!(held.last().is_some_and(|(_, cut)| !cut.is_cancelled()));
        drop(held);
        let rest = connections.lock();
        assert!(rest.all.is_empty() && rest.owned.is_empty());
        open
    }

    #[test]
    fn the_oldest_connections_of_whoever_has_too_many_are_cut_and_nobody_elses() {
        let agent = |name: &str| peer(Some(Identity::Agent(name.parse().unwrap())), [192, 0, 2, 1]);
        assert_eq!(left(&[agent("h1"), agent("h2")], 20), 16);
        assert_eq!(left(&[agent("h1"), agent("h2")], 2), 4);
        let operator = Identity::Operator("ana".parse().unwrap(), OperatorRole::Viewer);
        assert_eq!(left(&[peer(Some(operator), [192, 0, 2, 1])], 1_500), 1_024);
        assert_eq!(
            left(
                &[peer(None, [192, 0, 2, 1]), peer(None, [192, 0, 2, 2])],
                20
            ),
            32
        );
        let strangers: Vec<_> = (0..20).map(|n| peer(None, [192, 0, 2, n])).collect();
        assert_eq!(left(&strangers, 16), 256);
    }
}

//! Tells hosts where the others are, so that their tenants cannot reach them: at a session's start when the agent has another
//! list, and soon after the list has changed.
//!
//! One task computes the list and what has changed in it from the snapshots; sessions share both. The list is not part of
//! the plan: a host that joins must not give ten thousand plans a new generation. Not here: how a list becomes messages
//! (isyone-proto's hosts), what a host does with it (the agent's plan::firewall).

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use isyone_fleet::{state::State, views};
use isyone_proto::{
    hosts::{changes, digest, whole},
    pb::agent::v1::{HostAddresses, HostsPart, coordinator_message::Message},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{ToAgent, give};
use crate::writer::Handle;

/// Pause between two lists: while many hosts join, each gets few of them.
const PAUSE: Duration = Duration::from_secs(5);

/// Where all hosts are, as of a recent snapshot.
#[derive(Debug)]
pub struct HostList {
    current: watch::Sender<Arc<Listed>>,
}

/// One list.
#[derive(Debug)]
struct Listed {
    /// Which one since the coordinator's start.
    number: u64,
    addresses: BTreeSet<IpAddr>,
    sha256: String,
    /// All of it; made when somebody asks, because agents that come back mostly have it.
    whole: OnceLock<Arc<[HostsPart]>>,
    /// What makes it of the one before.
    changes: Arc<[HostsPart]>,
}

impl Listed {
    fn first(addresses: BTreeSet<IpAddr>) -> Self {
        Self {
            number: 0,
            sha256: digest(&addresses),
            addresses,
            whole: OnceLock::new(),
            changes: Arc::default(),
        }
    }

    fn next(&self, addresses: BTreeSet<IpAddr>) -> Self {
        Self {
            number: self.number + 1,
            changes: changes(&self.addresses, &addresses).into(),
            ..Self::first(addresses)
        }
    }

    /// A host that is alone and always was need not be told.
    fn is_nobody_else(&self) -> bool {
        self.addresses.len() < 2
    }

    /// What makes this list of what an agent has.
    fn after(&self, has: &Has) -> Arc<[HostsPart]> {
        match has {
            Has::Digest(sha256) if *sha256 == self.sha256 => Arc::default(),
            Has::Digest(sha256) if self.is_nobody_else() && *sha256 == digest(&BTreeSet::new()) => {
                Arc::default()
            }
            Has::Number(number) if *number == self.number => Arc::default(),
            Has::Number(number) if number + 1 == self.number => self.changes.clone(),
            Has::Digest(_) | Has::Number(_) => {
                let parts = || whole(&self.addresses).into();
                self.whole.get_or_init(parts).clone()
            }
        }
    }
}

/// The list that an agent has.
enum Has {
    /// As it said.
    Digest(String),
    /// As we sent it, or found that it has it.
    Number(u64),
}

impl HostList {
    pub fn new(state: &State) -> Self {
        Self::of(views::host_addresses(state))
    }

    fn of(addresses: BTreeSet<IpAddr>) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(Listed::first(addresses))),
        }
    }

    fn update(&self, newest: BTreeSet<IpAddr>) {
        self.current.send_if_modified(|list| {
            let changed = list.addresses != newest;
            if changed {
                *list = Arc::new(list.next(newest));
            }
            changed
        });
    }
}

/// Follows the snapshots until the coordinator stops.
pub(crate) async fn follow(handle: Handle, hosts: Arc<HostList>, stop: CancellationToken) {
    let mut changes = handle.subscribe();
    changes.mark_changed();
    let mut seen = None;
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        let state = handle.snapshot();
        let known = &state.fleet.hosts;
        if !seen.as_ref().is_some_and(|seen| known.ptr_eq(seen)) {
            hosts.update(views::host_addresses(&state));
            seen = Some(known.clone());
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Sends an agent the list unless it has that (it said the digest of its own, or, when it is of a version before, nothing),
/// then what changes. Runs until the agent stops taking messages; returns why.
pub(super) async fn send(hosts: &HostList, said: String, to_agent: &ToAgent) -> Status {
    let list = hosts.current.subscribe();
    if said.is_empty() {
        return Box::pin(send_as_before(list, to_agent)).await;
    }
    send_changes(list, said, to_agent).await
}

async fn send_changes(
    mut list: watch::Receiver<Arc<Listed>>,
    said: String,
    to_agent: &ToAgent,
) -> Status {
    let mut has = Has::Digest(said);
    loop {
        let newest = list.borrow_and_update().clone();
        let parts = newest.after(&has);
        // An agent that need not be told has no list of ours.
        if !(parts.is_empty() && newest.is_nobody_else()) {
            has = Has::Number(newest.number);
        }
        drop(newest);
        if let Err(status) = Box::pin(give_all(&parts, to_agent)).await {
            return status;
        }
        if list.changed().await.is_err() {
            // Unreachable in practice: the list lives as long as the sessions.
            return std::future::pending().await;
        }
    }
}

/// Between two parts the connection has its turn: what it holds grows with the messages that wait in it, and stays so for as
/// long as it lasts.
async fn give_all(parts: &[HostsPart], to_agent: &ToAgent) -> Result<(), Status> {
    for part in parts {
        give(to_agent, Message::Hosts(part.clone())).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// To an agent of before: the whole list as text, each time.
async fn send_as_before(mut list: watch::Receiver<Arc<Listed>>, to_agent: &ToAgent) -> Status {
    let mut alone = true;
    loop {
        let newest = list.borrow_and_update().clone();
        alone &= newest.is_nobody_else();
        let told = (!alone).then(|| HostAddresses {
            addresses: newest.addresses.iter().map(ToString::to_string).collect(),
        });
        drop(newest);
        if let Some(told) = told
            && let Err(status) = give(to_agent, Message::HostAddresses(told)).await
        {
            return status;
        }
        if list.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use isyone_proto::hosts::HostsAssembly;
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;
    use crate::agents::streams::Outgoing;

    fn list(numbers: &[u32]) -> BTreeSet<IpAddr> {
        let address = |number: &u32| Ipv4Addr::from(0xac10_0000 + number).into();
        numbers.iter().map(address).collect()
    }

    /// An agent's end of a session.
    struct Agent {
        messages: mpsc::Receiver<Outgoing>,
        assembly: HostsAssembly,
        known: BTreeSet<IpAddr>,
        /// Of the messages so far: whole lists, and addresses in them and in changes.
        whole: usize,
        addresses: usize,
    }

    impl Agent {
        /// Opens a session on a list, of an agent that knows another one.
        fn new(hosts: &Arc<HostList>, known: BTreeSet<IpAddr>, queue: usize) -> Self {
            let (to_agent, messages) = mpsc::channel(queue);
            let (hosts, said) = (hosts.clone(), digest(&known));
            tokio::spawn(async move { send(&hosts, said, &to_agent).await });
            Self {
                messages,
                assembly: HostsAssembly::default(),
                known,
                whole: 0,
                addresses: 0,
            }
        }

        /// Takes what is there for it.
        async fn listen(&mut self) {
            loop {
                // The session's task runs whenever this one waits.
                tokio::task::yield_now().await;
                let Ok(message) = self.messages.try_recv() else {
                    return;
                };
                let Some(Message::Hosts(part)) = message.unwrap().message else {
                    panic!("nothing else is sent");
                };
                let count = |set: &Option<isyone_proto::pb::agent::v1::AddressSet>| {
                    set.as_ref().map_or(0, |set| set.ipv4.len())
                };
                self.addresses += count(&part.added) + count(&part.removed);
                let is_whole = part.whole && !part.more;
                self.whole += usize::from(is_whole);
                if let Some(change) = self.assembly.add(part).unwrap() {
                    self.known = change.of(&self.known).unwrap();
                }
            }
        }
    }

    #[tokio::test]
    async fn an_agent_that_has_the_list_gets_changes_alone() {
        let hosts = Arc::new(HostList::of(list(&[1, 2, 3])));
        let mut knows = Agent::new(&hosts, list(&[1, 2, 3]), 32);
        let mut new = Agent::new(&hosts, list(&[]), 32);
        knows.listen().await;
        new.listen().await;
        assert_eq!((knows.whole, knows.addresses), (0, 0));
        assert_eq!((new.whole, new.addresses), (1, 3));
        hosts.update(list(&[1, 3, 4]));
        hosts.update(list(&[1, 3, 4]));
        for agent in [&mut knows, &mut new] {
            let before = (agent.whole, agent.addresses);
            agent.listen().await;
            assert_eq!((agent.whole, agent.addresses), (before.0, before.1 + 2));
            assert_eq!(agent.known, list(&[1, 3, 4]));
        }
    }

    #[tokio::test]
    async fn a_host_that_is_alone_is_told_when_it_is_not_and_who_knows_others_that_they_are_gone() {
        let hosts = Arc::new(HostList::of(list(&[1])));
        let mut alone = Agent::new(&hosts, list(&[]), 32);
        let mut before = Agent::new(&hosts, list(&[1, 2]), 32);
        alone.listen().await;
        before.listen().await;
        assert_eq!((alone.addresses, before.known), (0, list(&[1])));
        hosts.update(list(&[1, 2]));
        alone.listen().await;
        assert_eq!(alone.known, list(&[1, 2]));
    }

    #[tokio::test]
    async fn an_agent_of_before_gets_the_whole_list_as_text() {
        let hosts = Arc::new(HostList::of(list(&[1])));
        let (to_agent, mut messages) = mpsc::channel(4);
        let of = hosts.clone();
        tokio::spawn(async move { send(&of, String::new(), &to_agent).await });
        tokio::task::yield_now().await;
        assert!(messages.try_recv().is_err(), "it is alone");
        for known in [list(&[1, 2]), list(&[1])] {
            hosts.update(known.clone());
            let told = messages.recv().await.unwrap().unwrap().message;
            let Some(Message::HostAddresses(told)) = told else {
                panic!("{told:?}");
            };
            assert_eq!(isyone_proto::convert::host_addresses(&told), Ok(known));
        }
    }

    proptest! {
        /// Whatever an agent knew, whichever lists follow, and however seldom it listens: it ends with the last list.
        #[test]
        fn any_lists_arrive(
            known in proptest::collection::btree_set(0..900_u32, 0..600),
            lists in proptest::collection::vec((proptest::collection::btree_set(0..900_u32, 2..600), any::<bool>()), 1..8),
            queue in 1..4_usize,
        ) {
            let of = |numbers: &BTreeSet<u32>| list(&numbers.iter().copied().collect::<Vec<_>>());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let hosts = Arc::new(HostList::of(of(&lists[0].0)));
                let mut agent = Agent::new(&hosts, of(&known), queue);
                for (list, listens) in &lists {
                    hosts.update(of(list));
                    if *listens {
                        agent.listen().await;
                        assert_eq!(agent.known, of(list));
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
                agent.listen().await;
                assert_eq!(agent.known, of(&lists[lists.len() - 1].0));
            });
        }
    }
}

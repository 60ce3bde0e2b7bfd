//! A name server on loopback that answers what a test wants, over UDP.
//!
//! Not here: a resolver.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// What a name has.
#[derive(Debug, Clone)]
pub enum Zone {
    /// These addresses.
    Addresses(Vec<IpAddr>),
    /// An alias of another name.
    Alias(String),
    /// The server answers with an error.
    Broken,
    /// The server does not answer.
    Silent,
}

type Zones = Arc<Mutex<BTreeMap<String, Zone>>>;

/// A name server that runs for as long as this lives. Names that were not set do not exist.
#[derive(Debug)]
pub struct NameServer {
    pub address: SocketAddr,
    zones: Zones,
    task: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    /// Starts a server on a free port.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let zones = Zones::default();
        let task = tokio::spawn(serve(socket, zones.clone()));
        Self {
            address,
            zones,
            task,
        }
    }

    /// Sets what a name has.
    pub fn set(&self, name: &str, zone: Zone) {
        self.zones
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), zone);
    }

    /// Sets a name's addresses.
    pub fn addresses(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect();
        self.set(name, Zone::Addresses(addresses));
    }
}

async fn serve(socket: UdpSocket, zones: Zones) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(asked) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let answer = answer(
            &asked,
            &zones.lock().unwrap_or_else(PoisonError::into_inner),
        );
        if let Some(bytes) = answer.and_then(|answer| answer.to_vec().ok()) {
            // A client may have stopped listening: do not wait for it.
            drop(socket.send_to(&bytes, from).await);
        }
    }
}

fn answer(asked: &Message, zones: &BTreeMap<String, Zone>) -> Option<Message> {
    let query = asked.queries.first()?;
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.metadata.recursion_desired = true;
    answer.add_query(query.clone());
    let mut name = query.name().clone();
    // Chains in tests are short.
    for _ in 0..8 {
        let text = name.to_ascii().trim_end_matches('.').to_lowercase();
        let record = |data: RData| Record::from_rdata(name.clone(), 1, data);
        match zones.get(&text) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(Zone::Broken) => answer.metadata.response_code = ResponseCode::ServFail,
            Some(Zone::Silent) => return None,
            Some(Zone::Addresses(addresses)) => {
                let asked = |address: &IpAddr| match (address, query.query_type()) {
                    (IpAddr::V4(ip), RecordType::A) => Some(record(RData::A(A(*ip)))),
                    (IpAddr::V6(ip), RecordType::AAAA) => Some(record(RData::AAAA(AAAA(*ip)))),
                    _ => None,
                };
                answer.add_answers(addresses.iter().filter_map(asked));
            }
            Some(Zone::Alias(to)) => {
                let target = Name::from_ascii(format!("{to}.")).expect("a name");
                answer.add_answer(record(RData::CNAME(CNAME(target.clone()))));
                if query.query_type() != RecordType::CNAME {
                    name = target;
                    continue;
                }
            }
        }
        break;
    }
    Some(answer)
}

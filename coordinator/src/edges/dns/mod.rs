//! Asks DNS where a name leads, in bounded time, past all our caches and `/etc/hosts`: we want what the world sees.
//!
//! Not here: what an answer means (isyone_fleet::domains).

use std::{
    collections::BTreeSet,
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, RecordType},
    },
};
use isyone_fleet::domains::{self, Answer, Ground, Look};
use isyone_proto::spec::Domain;

/// For one name, all questions together: an operator waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one question to one server; a lost packet leaves time for a second try.
const QUESTION: Duration = Duration::from_secs(2);
/// How many names of a chain, and how many addresses, we take from one answer; more than any edge has.
const MAX_RECORDS: usize = 64;

/// A pending answer.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Resolves where a name leads.
pub trait Dns: Send + Sync + fmt::Debug {
    /// Asks where `name` leads, in bounded time.
    fn ask<'a>(&'a self, name: &'a str) -> Asked<'a>;
}

/// Checks a domain, and the platform's name of the same tenant.
pub async fn look(dns: &dyn Dns, domain: &Domain, ground: Ground<'_>) -> Look {
    let (answer, control) = tokio::join!(dns.ask(domain.as_str()), dns.ask(ground.platform));
    domains::judge(&answer, &control, &ground)
}

/// The name servers of the configuration, or of this machine.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// Uses these servers; empty: this machine's `resolv.conf`, read anew for each question.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    fn client(&self) -> Result<TokioResolver, NetError> {
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.servers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = QUESTION;
        options.attempts = 2;
        // An operator who has just set a record must not see the old one.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.try_tcp_on_error = true;
        builder.build()
    }

    async fn answer(&self, name: &str) -> Result<Answer, NetError> {
        let client = self.client()?;
        // Fully qualified: the machine's search list must not apply to customers' domains.
        let name = format!("{name}.");
        let (v4, v6, alias) = tokio::join!(
            client.lookup(name.as_str(), RecordType::A),
            client.lookup(name.as_str(), RecordType::AAAA),
            // A name's alias is not in the other answers if the alias has no address.
            client.lookup(name.as_str(), RecordType::CNAME),
        );
        Ok(joined(records(v4), records(v6), records(alias)))
    }
}

impl Dns for Resolver {
    fn ask<'a>(&'a self, name: &'a str) -> Asked<'a> {
        Box::pin(async move {
            match tokio::time::timeout(PATIENCE, self.answer(name)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => Answer::Silent(error.to_string()),
                Err(_) => Answer::Silent(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        })
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(
        address.ip(),
        true,
        vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())],
    )
}

/// The records that answer one question, or why there is no answer.
enum Records {
    There(Vec<RData>),
    NoName,
    Silent(String),
}

fn records(answer: Result<Lookup, NetError>) -> Records {
    match answer {
        Ok(lookup) => {
            // A limit for each kind, so that many addresses do not hide the alias.
            let of = |alias: bool| {
                let data = lookup.answers().iter().map(|record| &record.data);
                data.filter(move |data| matches!(data, RData::CNAME(_)) == alias)
                    .take(MAX_RECORDS)
                    .cloned()
            };
            Records::There(of(true).chain(of(false)).collect())
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Records::NoName,
            ResponseCode::NoError => Records::There(Vec::new()),
            code => Records::Silent(code.to_string()),
        },
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Records::Silent(code.to_string()),
        Err(error) => Records::Silent(error.to_string()),
    }
}

/// Combines three answers into one. Addresses of one family are enough: some servers never answer for the other.
fn joined(v4: Records, v6: Records, alias: Records) -> Answer {
    let (mut chain, mut addresses) = (Vec::new(), BTreeSet::new());
    let mut take = |found: &Records| {
        let Records::There(data) = found else { return };
        for data in data {
            match data {
                RData::A(a) => drop(addresses.insert(IpAddr::V4(a.0))),
                RData::AAAA(aaaa) => drop(addresses.insert(IpAddr::V6(aaaa.0))),
                RData::CNAME(target) => {
                    let target = target.0.to_ascii().trim_end_matches('.').to_lowercase();
                    if !chain.contains(&target) {
                        chain.push(target);
                    }
                }
                _ => {}
            }
        }
    };
    [&v4, &v6, &alias].into_iter().for_each(&mut take);
    match (v4, v6) {
        (Records::Silent(why), _) | (_, Records::Silent(why)) if addresses.is_empty() => {
            Answer::Silent(why)
        }
        (Records::NoName, Records::NoName) => Answer::Told {
            exists: false,
            chain,
            addresses,
        },
        _ => Answer::Told {
            exists: true,
            chain,
            addresses,
        },
    }
}

#[cfg(test)]
mod tests;

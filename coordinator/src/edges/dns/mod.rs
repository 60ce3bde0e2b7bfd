//! Asks DNS where a name leads, in bounded time, past every cache of ours and past `/etc/hosts`: what counts is what the world sees.
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

/// For one name, all its questions together: an operator waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one question to one server, so that a lost packet leaves time for a second try.
const QUESTION: Duration = Duration::from_secs(2);
/// Names in a chain, and as many addresses, that are taken in of one answer; more than any edge has.
const MAX_RECORDS: usize = 64;

/// An answer to come.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Who answers where a name leads.
pub trait Dns: Send + Sync + fmt::Debug {
    /// Asks where `name` leads, in bounded time.
    fn ask<'a>(&'a self, name: &'a str) -> Asked<'a>;
}

/// Looks at a domain, and at the platform's name for the same tenant.
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
    /// With these servers; none: this machine's `resolv.conf`, as it is at each question.
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
        // Who has just set a record must not be told what was there before.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.try_tcp_on_error = true;
        builder.build()
    }

    async fn answer(&self, name: &str) -> Result<Answer, NetError> {
        let client = self.client()?;
        // Complete: the machine's search list is not for customers' domains.
        let name = format!("{name}.");
        let (v4, v6, alias) = tokio::join!(
            client.lookup(name.as_str(), RecordType::A),
            client.lookup(name.as_str(), RecordType::AAAA),
            // What a name stands for is not told when that has no address.
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

/// One question's records; why there are none, when that is not an answer.
enum Records {
    There(Vec<RData>),
    NoName,
    Silent(String),
}

fn records(answer: Result<Lookup, NetError>) -> Records {
    match answer {
        Ok(lookup) => {
            // Of each kind, so that many addresses do not hide what the name stands for.
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

/// One answer of three. Addresses of one kind are enough to be told: some servers never answer for the other.
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

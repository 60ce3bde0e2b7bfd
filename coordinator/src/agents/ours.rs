//! Names and addresses that lead to the coordinator. A host that advertised one would get a certificate for it, with which
//! it could pass for the coordinator to edges and agents.
//!
//! Not here: what follows when a host advertises one (isyone_fleet::change).

use std::{net::IpAddr, time::Duration};

use tokio::net::{UdpSocket, lookup_host};

use crate::base::config::Config;

/// How long we wait for a name of ours to be looked up. A name that cannot be says nothing.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// What our certificate carries, and where we listen.
#[derive(Debug)]
pub struct Ours {
    /// Names in our certificate, lower case.
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Ours {
    /// From the configuration that our certificate is made from.
    pub fn of(config: &Config) -> Self {
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        for host in &config.advertise.hosts {
            match host.parse::<IpAddr>() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(host.to_ascii_lowercase()),
            }
        }
        let listen = &config.listen;
        let ports = [Some(listen.grpc), Some(listen.enroll), listen.edges];
        addresses.extend(ports.into_iter().flatten().map(|port| port.ip()));
        addresses.retain(|address| !address.is_unspecified());
        Self { names, addresses }
    }

    /// Whether our certificate carries a name.
    pub fn is_our_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name == isyone_proto::tls::COORDINATOR_NAME || self.names.contains(&name)
    }

    /// Whether an address is one of ours: our certificate carries it, one of our names leads there, or this machine has it.
    pub async fn leads_to_us(&self, address: IpAddr) -> bool {
        let same = |ours: &IpAddr| ours.to_canonical() == address.to_canonical();
        if self.addresses.iter().any(same) || is_this_machines(address).await {
            return true;
        }
        for name in &self.names {
            let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup_host((name.as_str(), 0))).await;
            if let Ok(Ok(mut found)) = found
                && found.any(|found| same(&found.ip()))
            {
                return true;
            }
        }
        false
    }
}

/// A socket can be bound to addresses of this machine only.
async fn is_this_machines(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_leads_to_us_is_ours() {
        let mut config = Config::default();
        config.advertise.hosts = vec![
            "192.0.2.80".to_owned(),
            "localhost".to_owned(),
            "Coordinator.Example".to_owned(),
        ];
        config.listen.grpc = ([192, 0, 2, 81], 7443).into();
        let ours = Ours::of(&config);
        for name in ["coordinator.example", "coordinator.example.", "LOCALHOST"] {
            assert!(ours.is_our_name(name), "{name}");
        }
        assert!(!ours.is_our_name("h1.example"));
        for address in ["192.0.2.80", "192.0.2.81", "::ffff:192.0.2.80", "127.0.0.1"] {
            assert!(
                ours.leads_to_us(address.parse().unwrap()).await,
                "{address}"
            );
        }
        assert!(!ours.leads_to_us("192.0.2.82".parse().unwrap()).await);
    }
}

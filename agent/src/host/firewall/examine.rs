//! Whether this kernel takes what the packet filter needs, and Docker's rules are there: asked without changing anything.
//!
//! Not here: what is made of the answers (doctor).

use std::{collections::BTreeSet, time::Duration};

use ipnet::Ipv4Net;
use tokio::time::sleep;

use super::{FirewallError, Nft, around, dockers};

/// What our isolation is made of: hooks, states of connections, whose address it is.
const ISOLATION: &str = "table inet isyone_doctor {\n  set pairs {\n    type ipv4_addr . ipv4_addr\n    flags interval\n  }\n  \
    chain prerouting {\n    type filter hook prerouting priority mangle; policy accept;\n    iif \"lo\" accept\n    \
    ct state established,related accept\n    fib daddr type local counter accept\n    ip saddr . ip daddr @pairs accept\n  }\n}\n";
/// What limits are made of besides: counted connections, rates.
const LIMITS: &str = "table inet isyone_doctor {\n  set open {\n    type ipv4_addr\n    size 8\n    flags dynamic\n  }\n  \
    set rate {\n    type ipv4_addr\n    size 8\n    flags dynamic,timeout\n    timeout 1m\n  }\n  chain prerouting {\n    \
    type filter hook prerouting priority mangle; policy accept;\n    update @rate { ip saddr limit rate over 9/second burst 9 packets } drop\n    \
    add @open { ip saddr ct count over 9 } drop\n  }\n}\n";
/// Until a second look.
const AGAIN: Duration = Duration::from_secs(1);
/// The old way, which `nft` does not show.
const LEGACY: &str = "/proc/net/ip_tables_names";

/// The answers.
#[derive(Debug)]
pub struct Examined {
    pub isolation: Result<(), FirewallError>,
    pub limits: Result<(), FirewallError>,
    /// Whether Docker's rules for tenants' networks are there; `None`: there are no networks, or they cannot be seen by `nft`.
    pub dockers: Option<bool>,
}

/// Docker's rules are missing only if they are in two looks: it makes a network's interface first.
async fn twice(nft: &Nft, tenants: &BTreeSet<Ipv4Net>) -> Option<bool> {
    let first = dockers::are_there(nft, &around::present(tenants)).await;
    if first != Some(false) {
        return first;
    }
    sleep(AGAIN).await;
    dockers::are_there(nft, &around::present(tenants)).await
}

/// Asks; `tenants` are their networks.
pub async fn examine(nft: &Nft, tenants: &BTreeSet<Ipv4Net>) -> Examined {
    let legacy = crate::base::kernel::text(LEGACY).unwrap_or_default();
    let dockers = match legacy.lines().any(|table| table == "nat") {
        true => None,
        false => twice(nft, tenants).await,
    };
    Examined {
        isolation: nft.check(ISOLATION).await,
        limits: nft.check(LIMITS).await,
        dockers,
    }
}

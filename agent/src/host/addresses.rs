//! Looks whether the address at which edges reach this host is there: of a VPN, or from DHCP, it may come later than Docker, and whatever
//! needs it has failed by then. When it comes, everybody is woken, who would otherwise wait for a minute.
//!
//! Not here: trying again (tenant), ports of our own, which try every few seconds (relay, metrics, peer).

use std::{
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep};

use super::{Host, events::Signal};

/// Between looks, which cost nothing.
const EVERY: Duration = Duration::from_secs(3);

/// Whether this machine has the address: a socket can be bound to it. Nothing is sent.
fn is_there(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Looks for as long as somebody listens.
pub async fn watch(host: Arc<Host>, signals: mpsc::Sender<Signal>) {
    let address = host.advertise();
    let mut there = is_there(address);
    loop {
        sleep(EVERY).await;
        let now = is_there(address);
        if now && !there {
            tracing::info!("{address}, at which edges reach this host, is there");
            if signals.send(Signal::Resync).await.is_err() {
                return;
            }
        }
        if there && !now {
            tracing::error!("{address}, at which edges reach this host, is not there any more");
        }
        there = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_from_others() {
        assert!(is_there([127, 0, 0, 1].into()));
        assert!(!is_there([192, 0, 2, 77].into()));
    }
}

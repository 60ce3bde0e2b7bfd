//! Looks whether the address at which edges reach this host is there: of a VPN, or from DHCP, it may come later than Docker, and whatever
//! needs it has failed by then. When it comes, everybody is woken, who would otherwise wait for a minute: tenants, and the link.
//!
//! Not here: trying again (tenant, link), ports of our own, which try every few seconds (relay, metrics, peer).

use std::{
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{Host, events::Signal};

/// Between looks, which cost nothing: while it is there, and while it is waited for.
const EVERY: Duration = Duration::from_secs(3);
const WAITING: Duration = Duration::from_millis(500);

/// Moments at which the address came that was not there before. Whoever waits has a clone.
#[derive(Debug, Clone)]
pub struct Arrivals {
    tell: watch::Sender<()>,
    told: watch::Receiver<()>,
}

impl Default for Arrivals {
    fn default() -> Self {
        let (tell, told) = watch::channel(());
        Self { tell, told }
    }
}

impl Arrivals {
    fn tell(&self) {
        self.tell.send_replace(());
    }

    /// Waits for one since the last that this clone has waited for.
    pub async fn next(&mut self) {
        // It has a sender itself, so there will always be one.
        let _ = self.told.changed().await;
    }
}

/// Whether this machine has the address: a socket can be bound to it. Nothing is sent.
fn is_there(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Looks for as long as somebody listens.
pub async fn watch(host: Arc<Host>, signals: mpsc::Sender<Signal>) {
    let address = host.advertise();
    let mut there = is_there(address);
    loop {
        sleep(if there { EVERY } else { WAITING }).await;
        let now = is_there(address);
        if now && !there {
            tracing::info!("{address}, at which edges reach this host, is there");
            host.arrivals.tell();
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

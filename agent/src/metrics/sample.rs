//! Asks tenants that Prometheus does not scrape for the figures that are reported to the coordinator.
//!
//! Not here: keeping them (traffic_samples), reporting them (link::report).

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::scrape::Scraper;

/// How often to look for tenants that nobody has asked.
const LOOK: Duration = Duration::from_secs(5);
/// Tenants asked concurrently: an answer takes a few milliseconds, a dead one eight seconds.
const AT_ONCE: usize = 4;

/// Asks tenants, and tidies up, until `stop`.
pub async fn run(scraper: Arc<Scraper>, stop: CancellationToken) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        scraper.tidy();
        let board = &scraper.host().board;
        let (up, down): (Vec<_>, Vec<_>) = board.entries().into_iter().partition(|entry| {
            entry
                .status
                .containers
                .iter()
                .any(|c| c.name == entry.name.odoo_container() && c.state == "running")
        });
        // A tenant that does not run has no traffic; there is no need to wait for it not to answer.
        down.iter().filter(|e| e.traffic.is_some()).for_each(|e| {
            board.set_traffic(&e.name, None);
            board.set_work(&e.name, None);
        });
        let now_s = scraper.samples.now_s();
        let due = up
            .into_iter()
            .map(|e| e.name)
            .filter(|name| scraper.samples.is_due(now_s, name));
        let asking = stream::iter(due.collect::<Vec<_>>()).for_each_concurrent(AT_ONCE, |tenant| {
            let scraper = &scraper;
            async move {
                scraper.sample(tenant).await;
            }
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = asking => {}
        }
    }
}

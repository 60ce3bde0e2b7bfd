//! The figures of each tenant that the coordinator is told of: taken from what Prometheus scrapes, and fetched by ourselves
//! where nobody scrapes.
//!
//! Not here: what they are made of (traffic), reporting them (link::report).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use isyone_proto::ids::TenantName;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    scrape::Scraper,
    target::Target,
    traffic::{History, Reading},
};
use crate::host::board::Traffic;

/// How often it is looked for tenants that nobody has asked.
const LOOK: Duration = Duration::from_secs(5);
/// A tenant is asked by us when nobody else has for so long.
const EVERY_S: f64 = 30.0;
/// Longest pause before a tenant that gave no metrics is asked again (an image may be without the module).
const LONGEST_PAUSE_S: f64 = 300.0;
/// Figures without news for so long are none.
const STALE_S: f64 = 150.0;
/// Tenants asked at the same time: an answer takes a few milliseconds, a dead one eight seconds.
const AT_ONCE: usize = 4;

#[derive(Debug, Default)]
struct Known {
    history: History,
    latest: Option<Traffic>,
    /// When it was asked last, by us or by Prometheus, and how often in vain since it last answered.
    asked_s: f64,
    failures: i32,
}

/// What is known of each tenant.
#[derive(Debug)]
pub struct Samples {
    begin: Instant,
    known: Mutex<HashMap<TenantName, Known>>,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            known: Mutex::default(),
        }
    }
}

impl Samples {
    fn now_s(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// A tenant was asked, and gave this page or none. Its figures now.
    pub fn heard(&self, tenant: &TenantName, page: Option<&str>) -> Option<Traffic> {
        self.heard_at(self.now_s(), tenant, page)
    }

    fn heard_at(&self, now_s: f64, tenant: &TenantName, page: Option<&str>) -> Option<Traffic> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(tenant.clone()).or_default();
        known.asked_s = now_s;
        match page.and_then(Reading::parse) {
            Some(reading) => {
                known.failures = 0;
                known.latest = known.history.add(now_s, reading).or(known.latest);
            }
            None => {
                known.failures = known.failures.saturating_add(1);
                if known
                    .history
                    .newest_s()
                    .is_none_or(|at| now_s - at > STALE_S)
                {
                    (known.latest, known.history) = (None, History::default());
                }
            }
        }
        known.latest
    }

    fn is_due(&self, now_s: f64, tenant: &TenantName) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(tenant).is_none_or(|k| {
            let pause = (EVERY_S * 2f64.powi(k.failures.min(8))).min(LONGEST_PAUSE_S);
            now_s - k.asked_s >= pause
        })
    }

    /// Forgets tenants that are not `kept`.
    pub fn tidy(&self, kept: &dyn Fn(&TenantName) -> bool) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|tenant, _| kept(tenant));
    }
}

/// Asks, and tidies up, until `stop`.
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
        // One that does not run has no traffic; it is not waited for that it does not answer.
        down.iter()
            .filter(|e| e.traffic.is_some())
            .for_each(|e| board.set_traffic(&e.name, None));
        let now_s = scraper.samples.now_s();
        let due = up
            .into_iter()
            .map(|e| e.name)
            .filter(|name| scraper.samples.is_due(now_s, name));
        let asking = stream::iter(due.collect::<Vec<_>>()).for_each_concurrent(AT_ONCE, |tenant| {
            let scraper = &scraper;
            async move {
                scraper.page(&Target::Odoo(tenant)).await;
            }
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = asking => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_nothing_is_asked_less_and_loses_its_figures() {
        let samples = Samples::default();
        let alfa: TenantName = "alfa".parse().unwrap();
        let page = |n: u32| format!("odoo_http_requests_total{{code=\"200\"}} {n}\n");
        assert!(samples.is_due(0.0, &alfa));
        assert_eq!(samples.heard_at(0.0, &alfa, Some(&page(0))), None);
        assert!(!samples.is_due(20.0, &alfa) && samples.is_due(30.0, &alfa));
        assert_eq!(
            samples
                .heard_at(30.0, &alfa, Some(&page(10)))
                .unwrap()
                .requests_per_minute,
            20
        );
        assert!(
            samples.heard_at(60.0, &alfa, None).is_some(),
            "one miss is no finding"
        );
        for at in [90.0, 120.0, 150.0, 180.0] {
            samples.heard_at(at, &alfa, None);
        }
        assert_eq!(samples.heard_at(210.0, &alfa, Some("<html>")), None);
        assert!(!samples.is_due(400.0, &alfa) && samples.is_due(510.0, &alfa));
        samples.tidy(&|_| false);
        assert!(samples.is_due(510.0, &alfa), "nothing is kept of it");
    }
}

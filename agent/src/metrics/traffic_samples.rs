//! What is known of each tenant's visitors: the newest figures, and when to ask again; from pages of Odoo's metrics.
//!
//! Not here: how figures are computed (traffic), asking (sample).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use isyone_proto::ids::TenantName;
use tokio::time::Instant;

use super::traffic::{Figures, History, Reading};

/// Seconds without a scrape by anybody, after which we ask a tenant ourselves.
const EVERY_S: f64 = 30.0;
/// Longest pause, in seconds, before a tenant that gave no metrics is asked again (its image may lack the module).
const LONGEST_PAUSE_S: f64 = 300.0;
/// Figures that are older than this, in seconds, are dropped.
const STALE_S: f64 = 150.0;
#[derive(Debug, Default)]
struct TenantSamples {
    history: History,
    latest: Option<Figures>,
    /// When it was last asked, by us or by Prometheus; `failures` counts the attempts in vain since it last answered.
    asked_s: f64,
    failures: i32,
}

/// What is known of each tenant.
#[derive(Debug)]
pub struct TrafficSamples {
    begin: Instant,
    known: Mutex<HashMap<TenantName, TenantSamples>>,
}

impl Default for TrafficSamples {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            known: Mutex::default(),
        }
    }
}

impl TrafficSamples {
    /// Seconds since this was created.
    pub fn now_s(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// Records that a tenant was asked, and gave this page or none. Returns its current figures.
    pub fn heard(&self, tenant: &TenantName, page: Option<&str>) -> Option<Figures> {
        self.heard_at(self.now_s(), tenant, page)
    }

    fn heard_at(&self, now_s: f64, tenant: &TenantName, page: Option<&str>) -> Option<Figures> {
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

    /// Whether we should ask this tenant ourselves, because nobody has for long enough.
    pub fn is_due(&self, now_s: f64, tenant: &TenantName) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_nothing_is_asked_less_and_loses_its_figures() {
        let samples = TrafficSamples::default();
        let alfa: TenantName = "alfa".parse().unwrap();
        let page = |n: u32| format!("odoo_http_requests_total{{code=\"200\"}} {n}\n");
        assert!(samples.is_due(0.0, &alfa));
        assert_eq!(samples.heard_at(0.0, &alfa, Some(&page(0))), None);
        assert!(!samples.is_due(20.0, &alfa) && samples.is_due(30.0, &alfa));
        assert_eq!(
            samples
                .heard_at(30.0, &alfa, Some(&page(10)))
                .unwrap()
                .traffic
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

//! Which tenants to probe next: each once per interval, spread evenly over it. Pure.
//!
//! There is no timetable to keep: a hand goes round the names in order, fast enough for one round per interval. When
//! tenants come and go, it continues from where it is.
//! Not here: sending probes (the coordinator's edges/probes), and checking tenants' domains (domains/schedule).

use std::{ops::Bound, sync::Arc, time::Duration};

use imbl::OrdMap;
use isyone_types::ids::TenantName;

use crate::desired::Tenant;

/// The first round is this many times faster, because after a start nothing is known of any tenant.
const FIRST_ROUND: f64 = 6.0;
/// Largest number of turns at once. With one call every 200 ms that limits the rate to 2,000 a second: 100,000 tenants
/// in a minute, and some headroom.
pub const MAX_TURNS: usize = 400;

/// The hand that goes round the tenants' names.
#[derive(Debug, Default)]
pub struct Rota {
    after: Option<TenantName>,
    owed: f64,
    rounds: u64,
}

/// A tenant's turn to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub tenant: Arc<Tenant>,
    /// Delay from the call of [`Rota::next`].
    pub after: Duration,
}

impl Rota {
    /// Number of full rounds so far.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// The turns of the next `span` when a round takes `interval`. Only `wanted` tenants get one. `chance` returns
    /// numbers in 0..1 that place each turn within the span, so that two coordinators do not probe in step.
    pub fn next(
        &mut self,
        tenants: &OrdMap<TenantName, Arc<Tenant>>,
        span: Duration,
        interval: Duration,
        wanted: impl Fn(&Tenant) -> bool,
        mut chance: impl FnMut() -> f64,
    ) -> Vec<Turn> {
        let faster = if self.rounds == 0 { FIRST_ROUND } else { 1.0 };
        let share = span.as_secs_f64() / interval.as_secs_f64().max(f64::MIN_POSITIVE);
        // Turns that were missed are not made up for: that would be a burst.
        self.owed = (self.owed + tenants.len() as f64 * share * faster)
            .min(MAX_TURNS.min(tenants.len()) as f64);
        let mut turns = Vec::new();
        while self.owed >= 1.0 {
            self.owed -= 1.0;
            let Some(tenant) = self.step(tenants) else {
                break;
            };
            if wanted(&tenant) {
                turns.push(Turn {
                    tenant,
                    after: span.mul_f64(chance().clamp(0.0, 1.0)),
                });
            }
        }
        turns
    }

    fn step(&mut self, tenants: &OrdMap<TenantName, Arc<Tenant>>) -> Option<Arc<Tenant>> {
        let from = self
            .after
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let next = tenants
            .range::<_, TenantName>((from, Bound::Unbounded))
            .next()
            .or_else(|| {
                self.rounds += 1;
                tenants.iter().next()
            });
        let (name, tenant) = next?;
        self.after = Some(name.clone());
        Some(tenant.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Bench, resources};

    const SPAN: Duration = Duration::from_millis(200);

    fn fleet(count: usize) -> OrdMap<TenantName, Arc<Tenant>> {
        let mut bench = Bench::default();
        bench.host("h1", resources(64, 512, 4096));
        bench.create("t", "small").unwrap();
        let one = bench.state.fleet.tenants.values().next().unwrap().clone();
        let named = |n: usize| {
            let mut tenant = (*one).clone();
            tenant.name = format!("t{n}").parse().unwrap();
            (tenant.name.clone(), Arc::new(tenant))
        };
        (0..count).map(named).collect()
    }

    fn rota_after_its_first_round() -> Rota {
        Rota {
            rounds: 1,
            ..Rota::default()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn each_tenant_has_its_turn_once_an_interval(count in 1..150_usize, seconds in 2..120_u64, rounds in 1..4_u64) {
            let (tenants, interval) = (fleet(count), Duration::from_secs(seconds));
            let mut rota = rota_after_its_first_round();
            let mut turns: BTreeMap<TenantName, u64> = BTreeMap::new();
            let (mut fullest, looks) = (0, seconds * 5 * rounds);
            for _ in 0..looks {
                let now = rota.next(&tenants, SPAN, interval, |_| true, || 0.5);
                fullest = fullest.max(now.len());
                prop_assert!(now.iter().all(|turn| turn.after <= SPAN));
                for turn in now {
                    *turns.entry(turn.tenant.name.clone()).or_default() += 1;
                }
            }
            let total: u64 = turns.values().sum();
            prop_assert!(total.abs_diff(count as u64 * rounds) <= 1, "{total} turns");
            prop_assert!(turns.values().all(|n| n.abs_diff(rounds) <= 1), "{turns:?}");
            // Evenly: no call returns more than its share, rounded up.
            prop_assert!(fullest as u64 <= count as u64 / (seconds * 5) + 1, "{fullest} at once");
        }
    }

    #[test]
    fn tenants_that_come_and_go_do_not_stop_the_hand() {
        let mut rota = rota_after_its_first_round();
        let everybody = fleet(30);
        let minute = Duration::from_secs(60);
        rota.next(
            &everybody,
            Duration::from_secs(20),
            minute,
            |_| true,
            || 0.0,
        );
        let fewer: OrdMap<_, _> = everybody.into_iter().take(3).collect();
        let seen = rota.next(&fewer, minute, minute, |_| true, || 0.0);
        assert_eq!(seen.len(), 3);
        assert!(
            rota.next(&OrdMap::new(), minute, minute, |_| true, || 0.0)
                .is_empty()
        );
    }

    #[test]
    fn who_is_not_wanted_keeps_its_place_but_has_no_turn() {
        let mut rota = rota_after_its_first_round();
        let minute = Duration::from_secs(60);
        let odd = |tenant: &Tenant| tenant.name.as_str().ends_with(['1', '3', '5', '7', '9']);
        assert_eq!(rota.next(&fleet(10), minute, minute, odd, || 0.9).len(), 5);
    }

    #[test]
    fn the_first_round_is_fast_and_never_a_burst() {
        let (mut rota, tenants) = (Rota::default(), fleet(1_000));
        let minute = Duration::from_secs(60);
        let ten_seconds =
            (0..50).map(|_| rota.next(&tenants, SPAN, minute, |_| true, || 0.1).len());
        assert!(ten_seconds.sum::<usize>() >= 999);
        // A call that comes an hour late.
        assert_eq!(
            rota.next(&tenants, minute * 60, minute, |_| true, || 0.1)
                .len(),
            MAX_TURNS
        );
    }
}

//! What a simulated agent measures at a tenant: values like those of a tenant at work, a little different each time.
//!
//! Not here: when it measures, and which values it reports (agents).

use isyone_agent::host::board::{TenantUsage, VolumeBytes};
use isyone_proto::plan::UnixMs;
use isyone_proto::report::Traffic;

/// Number of different values before they repeat; prime, so that tenants and measurements do not run in step.
const STEPS: u64 = 31;

/// The `nth` measurement of a tenant; `which` is the tenant's number, so that tenants have different values.
pub(super) fn measured(which: usize, nth: u64, now: UnixMs) -> (TenantUsage, Traffic) {
    let which = which as u64;
    let step = ((which + nth) * 7 % STEPS) as u32;
    let volumes = VolumeBytes {
        postgres: (60 << 20) + ((which % STEPS) << 20) + (nth << 13),
        odoo: (25 << 20) + ((which % STEPS) << 20),
    };
    let usage = TenantUsage {
        cpu_millis: 20 + 3 * step,
        memory_bytes: (280 << 20) + (u64::from(step) << 18),
        memory_permille: 280 + step as u16,
        throttled_permille: 0,
        disk_bytes: volumes.postgres + volumes.odoo,
        volumes: Some(volumes),
    };
    let traffic = Traffic {
        requests_per_minute: 60 + 4 * step,
        errors_per_minute: u32::from(step == 0),
        latency_p95_ms: 150 + 5 * step,
        websockets: 2 + step % 4,
        active_users: 1 + step % 4,
        last_active_at: Some(now - 1_000 * i64::from(step)),
        mails_failed: Some(0),
    };
    (usage, traffic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_from_one_measurement_to_the_next_and_between_tenants() {
        let now = 1_760_000_000_000;
        let (usage, traffic) = measured(3, 1, now);
        for (which, nth) in [(3, 2), (4, 1)] {
            let (other_usage, other_traffic) = measured(which, nth, now);
            assert_ne!(usage, other_usage, "{which} {nth}");
            assert_ne!(traffic, other_traffic, "{which} {nth}");
        }
        assert_eq!(measured(3, 1, now), (usage, traffic));
    }
}

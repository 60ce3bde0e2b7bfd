//! The agent's own metrics, `isyone_agent_*`, for both of its ports.
//!
//! Not here: the host's (node), serving it (loopback, server).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::text::{MetricType, Text};
use crate::{
    base::kernel,
    host::{Host, resources},
};
use isyone_proto::{disk::Disk, report::TenantProgress};

/// The kernel counts a process's CPU time in hundredths of a second.
const TICKS: f64 = 100.0;

/// Kind of page and outcome.
type Key = (&'static str, &'static str);

/// Outcomes of scrapes: number and total seconds.
#[derive(Debug, Default)]
pub struct ScrapeCounts(Mutex<BTreeMap<Key, (u64, f64)>>);

impl ScrapeCounts {
    /// Counts a finished scrape of a kind of page: `ok`, `failed`, or `shared` with another scraper.
    pub fn add(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, seconds) = counts.entry((kind, outcome)).or_default();
        *number += 1;
        *seconds += took.as_secs_f64();
    }

    fn render(&self, out: &mut Text) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, seconds) = (
            "isyone_agent_scrapes_total",
            "isyone_agent_scrape_seconds_total",
        );
        out.family(
            number,
            MetricType::Counter,
            "Pages made for Prometheus, by kind and outcome",
        );
        for ((kind, outcome), (count, _)) in &*counts {
            out.sample(
                number,
                &[("page", kind), ("outcome", outcome)],
                *count as f64,
            );
        }
        out.family(seconds, MetricType::Counter, "Seconds that took");
        for ((kind, outcome), (_, s)) in &*counts {
            out.sample(seconds, &[("page", kind), ("outcome", outcome)], *s);
        }
    }
}

/// Renders the agent's page.
pub fn render(host: &Host, connected: bool, scrapes: &ScrapeCounts) -> Text {
    let mut out = Text::default();
    let info = "isyone_agent_info";
    out.family(info, MetricType::Gauge, "This agent");
    out.sample(
        info,
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            ("docker", &host.docker_version()),
        ],
        1.0,
    );
    tenants(&mut out, host);
    blocked(&mut out, host);
    disks(&mut out, host);
    out.single(
        "isyone_agent_leases_over",
        MetricType::Gauge,
        "Tenants of this host that may not run for want of a lease",
        host.leases.lapsed() as f64,
    );
    let flag = |is: bool| f64::from(u8::from(is));
    out.single(
        "isyone_agent_coordinator_connected",
        MetricType::Gauge,
        "1 while a session with the coordinator is open",
        flag(connected),
    );
    out.single(
        "isyone_agent_docker_up",
        MetricType::Gauge,
        "1 while Docker answers",
        flag(host.board.docker_error().is_empty()),
    );
    process(&mut out);
    scrapes.render(&mut out);
    out
}

fn tenants(out: &mut Text, host: &Host) {
    let counts = host.board.counts();
    let name = "isyone_agent_tenants";
    out.family(
        name,
        MetricType::Gauge,
        "Tenants of this host by how far they are",
    );
    for (progress, word) in [
        (TenantProgress::Working, "working"),
        (TenantProgress::Converged, "converged"),
        (TenantProgress::Failing, "failing"),
        (TenantProgress::Unhealthy, "unhealthy"),
    ] {
        let count = counts.get(&progress).copied().unwrap_or(0);
        out.sample(name, &[("progress", word)], count as f64);
    }
}

/// Tenants whom nothing but a person can help.
fn blocked(out: &mut Text, host: &Host) {
    let name = "isyone_tenant_blocked";
    let help = "1: what is wrong with a tenant, running or not, is not mended by trying again, such as data that is gone";
    out.family(name, MetricType::Gauge, help);
    for entry in host.board.entries() {
        let tenant = [("tenant", entry.name.as_str())];
        out.sample(name, &tenant, f64::from(u8::from(entry.status.blocked)));
    }
}

/// Each tenant's disk against its plan.
fn disks(out: &mut Text, host: &Host) {
    let entries = host.board.entries();
    let mut family = |name, help, value: fn(&Disk) -> u64| {
        out.family(name, MetricType::Gauge, help);
        for entry in &entries {
            if let Some(disk) = &entry.disk {
                let tenant = [("tenant", entry.name.as_str())];
                out.sample(name, &tenant, value(disk) as f64);
            }
        }
    };
    family(
        "isyone_tenant_disk_used_bytes",
        "What a tenant's volumes hold, and what its containers have written beside them, as last measured",
        |disk| disk.used_bytes,
    );
    family(
        "isyone_tenant_disk_limit_bytes",
        "The disk of its plan: a warning at 80 %, no uploads at 95 %, no Odoo at 100 %",
        |disk| disk.limit_bytes,
    );
    family(
        "isyone_tenant_disk_used_inodes",
        "Files and directories there",
        |disk| disk.used_inodes,
    );
    family(
        "isyone_tenant_disk_limit_inodes",
        "Files and directories that its plan has: as with bytes",
        |disk| disk.limit_inodes,
    );
    family(
        "isyone_tenant_disk_uncounted",
        "1: directories are nested too deep to be counted, and Odoo is stopped as if its disk were full",
        |disk| disk.too_deep.is_some().into(),
    );
}

/// Metrics of the agent's process, from `/proc/self`.
fn process(out: &mut Text) {
    let memory = resources::own_memory() as f64;
    for name in [
        "isyone_agent_resident_memory_bytes",
        "process_resident_memory_bytes",
    ] {
        out.single(name, MetricType::Gauge, "The agent's own memory", memory);
    }
    if let Some(seconds) = cpu_seconds(&kernel::text("/proc/self/stat").unwrap_or_default()) {
        out.single(
            "process_cpu_seconds_total",
            MetricType::Counter,
            "CPU time the agent used",
            seconds,
        );
    }
    if let Ok(files) = kernel::open_files() {
        out.single(
            "process_open_fds",
            MetricType::Gauge,
            "Files the agent has open",
            files as f64,
        );
    }
}

/// `utime` + `stime`; the program's name may hold anything, so fields are counted from its closing bracket.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: Vec<u64> = rest
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse().ok())
        .collect();
    (ticks.len() == 2).then(|| ticks.iter().sum::<u64>() as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        assert_eq!(
            cpu_seconds("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0"),
            Some(1.0)
        );
        assert_eq!(cpu_seconds(""), None);
    }
}

//! Measures what tenants use: CPU and memory, every few seconds from their control groups.
//!
//! Not here: reading the kernel's files (gauge), disks (disk).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    base::kernel::{self, Buffer},
    host::{
        Host,
        board::{BoardEntry, ContainerStatus, TenantUsage},
        gauge::{ContainerUse, FILES, Gauge},
        resources,
    },
};

/// Between readings of all control groups: four small files per container. Twice as often as usage is reported to the
/// coordinator without other news (report).
const EVERY: Duration = Duration::from_secs(15);
/// The share of the files that this process may have open which gauges may take; beyond that they are opened for each reading.
const SHARE: usize = 4;

struct UsageMemory {
    gauges: HashMap<String, Gauge>,
    cpu: HashMap<String, (ContainerUse, Instant)>,
    buffer: Buffer,
    /// The most gauges that are kept.
    most: usize,
}

/// Runs until `stop`.
pub async fn run(host: Arc<Host>, stop: CancellationToken) {
    let mut memory = UsageMemory::new(kernel::most_open_files());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        let entries = host.board.entries();
        memory.forget(&entries);
        for entry in &entries {
            let Some(mut usage) = memory.measure(entry) else {
                continue;
            };
            usage.volumes = host.board.volumes(&entry.name);
            usage.disk_bytes = usage.volumes.map_or(0, |v| v.postgres + v.odoo);
            host.board.set_usage(&entry.name, usage);
        }
    }
}

impl UsageMemory {
    fn new(most_open_files: usize) -> Self {
        Self {
            gauges: HashMap::new(),
            cpu: HashMap::new(),
            buffer: Buffer::default(),
            most: most_open_files / SHARE / FILES,
        }
    }

    /// `None`: it has ended.
    fn read(&mut self, container: &ContainerStatus) -> Option<ContainerUse> {
        if let Some(gauge) = self.gauges.get(&container.id) {
            if let Some(now) = gauge.read(&mut self.buffer) {
                return Some(now);
            }
            // It may have been started again: its groups are others then, by the same names.
            self.gauges.remove(&container.id);
        }
        let groups = resources::groups_of(container.pid, &container.id)?;
        let gauge = Gauge::open(&groups)?;
        let now = gauge.read(&mut self.buffer)?;
        if self.gauges.len() < self.most {
            self.gauges.insert(container.id.clone(), gauge);
        }
        Some(now)
    }

    /// None at a tenant's first reading: CPU use needs two.
    fn measure(&mut self, entry: &BoardEntry) -> Option<TenantUsage> {
        let (mut usage, mut twice) = (TenantUsage::default(), true);
        for container in &entry.status.containers {
            let Some(now) = self.read(container) else {
                continue;
            };
            usage.memory_bytes += now.memory;
            let memory = permille(now.memory, now.memory_limit);
            usage.memory_permille = usage.memory_permille.max(memory);
            let at = Instant::now();
            if let Some((before, then)) = self.cpu.insert(container.id.clone(), (now, at)) {
                let us = at.duration_since(then).as_micros().max(1) as u64;
                usage.cpu_millis += (now.cpu_us.saturating_sub(before.cpu_us) * 1000 / us) as u32;
                let throttled = permille(
                    now.throttled.saturating_sub(before.throttled),
                    now.periods.saturating_sub(before.periods),
                );
                usage.throttled_permille = usage.throttled_permille.max(throttled);
            } else {
                twice = false;
            }
        }
        (twice || entry.measured).then_some(usage)
    }

    fn forget(&mut self, entries: &[BoardEntry]) {
        let containers = entries.iter().flat_map(|e| &e.status.containers);
        let alive: HashSet<&str> = containers
            .filter(|c| c.state == "running")
            .map(|c| c.id.as_str())
            .collect();
        self.gauges.retain(|id, _| alive.contains(id.as_str()));
        self.cpu.retain(|id, _| alive.contains(id.as_str()));
    }
}

/// 0 of nothing: there is no limit, or no time has passed.
fn permille(part: u64, whole: u64) -> u16 {
    let share = part.saturating_mul(1000).checked_div(whole).unwrap_or(0);
    u16::try_from(share.min(1000)).unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_take_a_share_of_the_files_that_may_be_open() {
        assert_eq!(UsageMemory::new(65_536).most, 3276);
        assert_eq!(UsageMemory::new(1024).most, 51);
    }

    #[test]
    fn a_share_is_one_of_a_thousand_at_most_and_none_of_nothing() {
        let cases = [(0, 10), (5, 10), (20, 10), (1, 0), (u64::MAX, 1)];
        let shares = cases.map(|(part, whole)| permille(part, whole));
        assert_eq!(shares, [0, 500, 1000, 0, 1000]);
    }
}

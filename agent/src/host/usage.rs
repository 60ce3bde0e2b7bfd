//! Measures what tenants use: CPU and memory every few seconds from their control groups, disk rarely and slowly.
//!
//! Not here: reading the kernel's files (resources).

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use isyone_proto::ids::TenantName;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    base::tree,
    host::{
        Host,
        board::{BoardEntry, TenantUsage, VolumeBytes},
        cgroup::ControlGroups,
        resources::{self, ContainerUse},
    },
};

/// Between readings of all control groups: three small files per container. Twice as often as usage is reported to the
/// coordinator without other news (report).
const EVERY: Duration = Duration::from_secs(15);
/// Between measurements of one tenant's disks.
const DISK_EVERY: Duration = Duration::from_secs(900);
/// A walk pauses after each directory, so that it never keeps the disk from a tenant.
const WALK_PAUSE: Duration = Duration::from_millis(2);

#[derive(Default)]
struct UsageMemory {
    groups: HashMap<String, ControlGroups>,
    cpu: HashMap<String, (ContainerUse, Instant)>,
    disk: HashMap<TenantName, (Vec<u64>, Instant)>,
}

/// Runs until `stop`.
pub async fn run(host: Arc<Host>, stop: CancellationToken) {
    let mut memory = UsageMemory::default();
    let mut walk: Option<(TenantName, JoinHandle<Vec<u64>>)> = None;
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
            let disks = memory
                .disk
                .get(&entry.name)
                .map_or(&[][..], |(disks, _)| disks);
            usage.disk_bytes = disks.iter().sum();
            usage.volumes = volumes(disks);
            host.board.set_usage(&entry.name, usage);
        }
        // One disk at a time, in the background: a tenant with millions of directories takes hours.
        if let Some((name, task)) = walk.take_if(|(_, task)| task.is_finished()) {
            memory
                .disk
                .insert(name, (task.await.unwrap_or_default(), Instant::now()));
        }
        if let (Some(entry), None) = (memory.due(&entries, Instant::now()), &walk) {
            let places: Vec<PathBuf> = entry.status.volumes.iter().map(PathBuf::from).collect();
            let task = tokio::task::spawn_blocking(move || {
                places
                    .iter()
                    .map(|place| tree::usage(place, &|| std::thread::sleep(WALK_PAUSE)))
                    .collect()
            });
            walk = Some((entry.name.clone(), task));
        }
    }
}

/// In the order in which a status lists them, if both are there.
fn volumes(disks: &[u64]) -> Option<VolumeBytes> {
    match *disks {
        [postgres, odoo] => Some(VolumeBytes { postgres, odoo }),
        _ => None,
    }
}

impl UsageMemory {
    /// The tenant whose disks are measured next: the one whose measurement is oldest, never measured ones first, so that
    /// the last of 120 names gets its turn although one round takes longer than [`DISK_EVERY`].
    fn due<'a>(&self, entries: &'a [BoardEntry], now: Instant) -> Option<&'a BoardEntry> {
        let measured = |entry: &BoardEntry| self.disk.get(&entry.name).map(|(_, at)| *at);
        let oldest = entries.iter().min_by_key(|entry| measured(entry))?;
        let fresh = measured(oldest).is_some_and(|at| now.duration_since(at) <= DISK_EVERY);
        (!fresh).then_some(oldest)
    }

    /// None at a tenant's first reading: CPU use needs two.
    fn measure(&mut self, entry: &BoardEntry) -> Option<TenantUsage> {
        let (mut usage, mut twice) = (TenantUsage::default(), true);
        for container in &entry.status.containers {
            let group = match self.groups.get(&container.id) {
                Some(group) => group.clone(),
                None => match resources::groups_of(container.pid, &container.id) {
                    Some(group) => self
                        .groups
                        .entry(container.id.clone())
                        .or_insert(group)
                        .clone(),
                    None => continue,
                },
            };
            let Some(now) = resources::container_use(&group) else {
                continue;
            };
            usage.memory_bytes += now.memory;
            let at = Instant::now();
            if let Some((before, then)) = self.cpu.insert(container.id.clone(), (now, at)) {
                let us = at.duration_since(then).as_micros().max(1) as u64;
                usage.cpu_millis += (now.cpu_us.saturating_sub(before.cpu_us) * 1000 / us) as u32;
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
        self.groups.retain(|id, _| alive.contains(id.as_str()));
        self.cpu.retain(|id, _| alive.contains(id.as_str()));
        let there: HashSet<&TenantName> = entries.iter().map(|e| &e.name).collect();
        self.disk.retain(|name, _| there.contains(name));
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::report::TenantProgress;

    use super::*;
    use crate::host::board::{StatusBoard, TenantStatus};

    fn board(names: &[&str]) -> StatusBoard {
        let board = StatusBoard::default();
        for name in names {
            let status = TenantStatus {
                uid: uuid::Uuid::nil(),
                epoch: 1,
                generation: 1,
                progress: TenantProgress::Converged,
                message: String::new(),
                containers: vec![],
                operation: None,
                steps: vec![],
                absent: false,
                volumes: vec![],
                volume_repairs: 0,
            };
            board.set(&name.parse().unwrap(), status);
        }
        board
    }

    /// Fails when the first name that is due goes first: with many tenants it is due again before the last one was ever measured.
    #[test]
    fn every_tenants_disk_gets_its_turn_when_a_round_takes_long() {
        let entries = board(&["alfa", "beta", "gama"]).entries();
        let (mut memory, mut now) = (UsageMemory::default(), Instant::now());
        let mut measured = Vec::new();
        for _ in 0..6 {
            let name = memory.due(&entries, now).unwrap().name.clone();
            memory.disk.insert(name.clone(), (vec![], now));
            measured.push(name.to_string());
            now += DISK_EVERY + Duration::from_secs(1);
        }
        assert_eq!(measured, ["alfa", "beta", "gama", "alfa", "beta", "gama"]);
        for entry in &entries {
            memory.disk.insert(entry.name.clone(), (vec![], now));
        }
        assert!(memory.due(&entries, now + DISK_EVERY).is_none());
    }
}

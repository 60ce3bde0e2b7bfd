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
        // A host with 120 tenants goes round in twenty minutes.
        let due = entries.iter().find(|e| {
            memory
                .disk
                .get(&e.name)
                .is_none_or(|(_, at)| at.elapsed() > DISK_EVERY)
        });
        if let (Some(entry), None) = (due, &walk) {
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

//! What one host has to offer. Computed when the host, its tenants or its last report change, so that judging a
//! candidate is arithmetic on one value.
//!
//! Not here: the order of hosts and the choice among them (placement).

use std::sync::Arc;

use isyone_types::{ids::HostName, plan::UnixMs, spec::Size};

use super::{
    Judgement, Load, PlacementInputs, Rejection, Request,
    slot::{Slot, allocate},
};
use crate::{
    desired::{Host, HostIndex},
    liveness::{self, HostState},
    observed::HostObserved,
    settings::Settings,
};

/// Amounts of memory, CPU and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Amounts {
    memory_bytes: u64,
    cpu_millis: u64,
    disk_bytes: u64,
}

/// One host's room for tenants, as last computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    host: Arc<Host>,
    seen: Option<Arc<HostObserved>>,
    reported_at: Option<UnixMs>,
    docker_works: bool,
    plan_accepted: bool,
    cordoned: bool,
    pending: bool,
    /// Number of tenants placed there.
    pub(super) tenants: u32,
    total: Amounts,
    /// What counts as in use; see [`effective`] and [`weighed`].
    used: Amounts,
    /// Reserved CPU, not divided by the over-commit factor.
    cpu_reserved_millis: u64,
    /// Network and ports for the next tenant.
    slot: Option<Slot>,
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn permille(part: u64, whole: u64) -> u32 {
    // Sums of bytes are far from overflow; larger values saturate.
    part.saturating_mul(1000)
        .checked_div(whole)
        .map_or(1000, |p| u32::try_from(p.min(10_000)).unwrap_or(10_000))
}

/// What counts as in use: reserved, or actually used plus what is promised but not visible yet.
fn effective(reserved: u64, used: u64, promised: u64) -> u64 {
    reserved.max(used.saturating_add(promised))
}

/// Thousandths of a CPU that count as load, after dividing by the over-commit factor.
fn weighed(cpu_millis: u64, settings: &Settings) -> u64 {
    cpu_millis.saturating_mul(1000) / u64::from(settings.placement.cpu_overcommit_permille.max(1))
}

fn used(index: &HostIndex, seen: &HostObserved, settings: &Settings) -> Amounts {
    let resources = &seen.resources;
    let memory_used = resources
        .memory_total_bytes
        .saturating_sub(resources.memory_available_bytes);
    let disk_used = resources
        .disk_total_bytes
        .saturating_sub(resources.disk_available_bytes);
    let cpu_used = u64::from(seen.cpu_average_permille) * u64::from(resources.cpus);
    Amounts {
        memory_bytes: effective(index.memory_bytes, memory_used, index.settling_memory_bytes),
        cpu_millis: weighed(index.cpu_millis, settings).max(cpu_used),
        disk_bytes: effective(index.disk_bytes, disk_used, index.settling_disk_bytes),
    }
}

impl Room {
    /// The current room of a host; `None` when there is no such host.
    pub(super) fn of(view: PlacementInputs<'_>, host: &HostName) -> Option<Self> {
        let host = view.fleet.hosts.get(host)?.clone();
        let seen = view.observed.hosts.get(&host.name).cloned();
        let empty = HostIndex::default();
        let index = view.fleet.by_host.get(&host.name).unwrap_or(&empty);
        let reported = seen.as_deref().filter(|s| s.reported_at.is_some());
        let total = reported.map(|s| Amounts {
            memory_bytes: s.resources.memory_total_bytes,
            cpu_millis: u64::from(s.resources.cpus) * 1000,
            disk_bytes: s.resources.disk_total_bytes,
        });
        Some(Self {
            reported_at: reported.and_then(|s| s.reported_at),
            docker_works: seen.as_deref().is_none_or(|s| s.docker_error.is_empty()),
            plan_accepted: seen.as_deref().is_none_or(|s| s.plan_error.is_empty()),
            cordoned: host.cordoned,
            pending: host.pending,
            tenants: count(index.tenants.len()),
            total: total.unwrap_or_default(),
            used: reported
                .map(|s| used(index, s, view.settings))
                .unwrap_or_default(),
            cpu_reserved_millis: index.cpu_millis,
            slot: reported.and_then(|s| allocate(index, &view.settings.network, &s.hello.networks)),
            host,
            seen,
        })
    }

    /// Whether it has ever reported since the coordinator started.
    pub(super) fn is_known(&self) -> bool {
        self.reported_at.is_some()
    }

    /// Whether the host could take any tenant at all at `now`.
    pub(super) fn is_open(&self, view: PlacementInputs<'_>, now: UnixMs) -> bool {
        let open = self.reported_at.is_some()
            && self.plan_accepted
            && !self.cordoned
            && !self.pending
            && self.slot.is_some();
        open && self.state(view, now).0 == HostState::Ready
    }

    fn state(&self, view: PlacementInputs<'_>, now: UnixMs) -> (HostState, i64) {
        let live = &view.settings.liveness;
        liveness::judge_silence(
            self.reported_at,
            self.docker_works,
            liveness::heard_from(self.host.joined_at, view.started_at, now),
            now,
            live,
        )
    }

    /// Load with `extra` placed there as well.
    pub(super) fn load(&self, settings: &Settings, extra: Size) -> Load {
        let part = |used: u64, extra: u64, total: u64| permille(used.saturating_add(extra), total);
        let (used, total) = (&self.used, &self.total);
        Load {
            memory_permille: part(used.memory_bytes, extra.memory_bytes, total.memory_bytes),
            cpu_permille: part(
                used.cpu_millis,
                weighed(extra.cpu_millis.into(), settings),
                total.cpu_millis,
            ),
            disk_permille: part(used.disk_bytes, extra.disk_bytes, total.disk_bytes),
        }
    }

    /// Judges the host for a request.
    pub(super) fn judge(
        &self,
        view: PlacementInputs<'_>,
        request: Request<'_>,
        now: UnixMs,
    ) -> Judgement {
        let mut rejections = Vec::new();
        if let Some(wanted) = request.host.filter(|wanted| **wanted != self.host.name) {
            rejections.push(Rejection::OtherHostWanted(wanted.clone()));
        }
        if self.cordoned {
            rejections.push(Rejection::Cordoned);
        }
        if self.pending {
            rejections.push(Rejection::Pending);
        }
        let said = |word: fn(&HostObserved) -> &String| {
            self.seen.as_deref().map(word).cloned().unwrap_or_default()
        };
        match self.state(view, now) {
            (HostState::Ready, _) => {}
            (HostState::Degraded, _) => {
                rejections.push(Rejection::DockerDown(said(|s| &s.docker_error)))
            }
            _ if self.reported_at.is_none() => rejections.push(Rejection::NeverReported),
            (_, silence_ms) => rejections.push(Rejection::Silent(silence_ms / 1000)),
        }
        for (key, value) in request.labels {
            if self.host.labels.get(key) != Some(value) {
                rejections.push(Rejection::Label(key.clone(), value.clone()));
            }
        }
        let mut load = Load::default();
        if self.reported_at.is_some() {
            if !self.plan_accepted {
                rejections.push(Rejection::PlanRefused(said(|s| &s.plan_error)));
            }
            self.lacks(request.size, view.settings, &mut rejections);
            load = self.load(view.settings, request.size);
        }
        Judgement {
            host: self.host.name.clone(),
            tenants: self.tenants,
            load,
            slot: self.slot,
            rejections,
        }
    }

    /// Adds a rejection for each resource that is too scarce.
    fn lacks(&self, size: Size, settings: &Settings, missing: &mut Vec<Rejection>) {
        let placement = &settings.placement;
        let (used, total) = (&self.used, &self.total);
        let memory = total
            .memory_bytes
            .saturating_sub(placement.memory_reserve_bytes)
            .saturating_sub(used.memory_bytes);
        if size.memory_bytes > memory {
            missing.push(Rejection::Memory(size.memory_bytes, memory));
        }
        let cpu_capacity = total
            .cpu_millis
            .saturating_mul(placement.cpu_overcommit_permille.into())
            / 1000;
        let cpu = cpu_capacity.saturating_sub(self.cpu_reserved_millis);
        if u64::from(size.cpu_millis) > cpu {
            missing.push(Rejection::Cpu(size.cpu_millis.into(), cpu));
        }
        let disk = total
            .disk_bytes
            .saturating_sub(placement.disk_reserve_bytes)
            .saturating_sub(used.disk_bytes);
        if size.disk_bytes > disk {
            missing.push(Rejection::Disk(size.disk_bytes, disk));
        }
        if self.slot.is_none() {
            missing.push(Rejection::NoNetwork);
        }
    }
}

//! Chooses a host: filter, then score; the least loaded wins. Pure: the same inputs give the same answer, with reasons.
//!
//! Hosts are kept ranked by load, so a choice looks at the least loaded first and stops after [`CANDIDATES`] that fit:
//! its cost does not grow with the fleet. [`explain`] looks at all of them.
//! Not here: remembering the choice (change).

use std::{collections::BTreeMap, fmt, sync::Arc};

use imbl::{OrdMap, OrdSet};
use ipnet::Ipv4Net;
use isyone_proto::{
    ids::HostName,
    plan::UnixMs,
    spec::{LabelKey, LabelValue, Size},
};

use crate::{
    fleet::{Fleet, Host, HostIndex},
    liveness::{self, HostState},
    observed::{HostObserved, Observed},
    settings::{Network, Settings},
};

/// How many hosts that fit are compared: the exact minimum in fleets up to this size, close to it in larger ones.
pub const CANDIDATES: usize = 32;

/// Loads within one step of the least count as equal, and the number of tenants decides: measurements are noisy. (Steps from
/// zero would let noise decide for hosts that happen to lie at a step's edge.)
pub const LOAD_STEP_PERMILLE: u32 = 100;

/// Disk counts as load only above this: a half-full disk is no reason to go elsewhere, a nearly full one is.
pub const DISK_PRESSURE_PERMILLE: u32 = 850;

/// The policy: field order decides, the name is last so that equal inputs give equal answers. Lower is better.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// Load in steps of [`LOAD_STEP_PERMILLE`], counted from the least loaded host that fits.
    pub load_step: u32,
    /// Tenants placed there.
    pub tenants: u32,
    /// Load, per mille.
    pub load_permille: u32,
    /// The host.
    pub host: HostName,
}

/// Load by kind, per mille of what the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// The larger of reserved, and used plus promised.
    pub memory_permille: u32,
    /// The larger of reserved (over-commit counted) and used on average.
    pub cpu_permille: u32,
    /// The larger of expected, and used plus promised.
    pub disk_permille: u32,
}

impl Load {
    /// The one number: the scarcest of memory and CPU, and of disk once it is scarce.
    pub fn permille(self) -> u32 {
        let disk = if self.disk_permille >= DISK_PRESSURE_PERMILLE { self.disk_permille } else { 0 };
        self.memory_permille.max(self.cpu_permille).max(disk)
    }
}

/// Why a host cannot take a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// An operator closed it.
    Cordoned,
    /// No such host in the fleet.
    NoSuchHost,
    /// Nothing heard since the coordinator started.
    NeverReported,
    /// Silent for this many seconds.
    Silent(i64),
    /// Its Docker Engine does not answer.
    DockerDown(String),
    /// The agent refused its plan.
    PlanRefused(String),
    /// Another host was asked for.
    OtherHostWanted(HostName),
    /// A label is missing or differs.
    Label(LabelKey, LabelValue),
    /// Needed and free bytes.
    Memory(u64, u64),
    /// Needed and free thousandths of a CPU.
    Cpu(u64, u64),
    /// Needed and free bytes.
    Disk(u64, u64),
    /// All networks or ports of the configured ranges are in use.
    NoNetwork,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes >> 20;
        match self {
            Self::Cordoned => f.write_str("cordoned"),
            Self::NoSuchHost => f.write_str("no such host"),
            Self::NeverReported => f.write_str("no report since the coordinator started"),
            Self::Silent(seconds) => write!(f, "no report for {seconds} s"),
            Self::DockerDown(why) => write!(f, "Docker does not answer: {why}"),
            Self::PlanRefused(why) => write!(f, "agent refused its plan: {why}"),
            Self::OtherHostWanted(host) => write!(f, "only {host} was asked for"),
            Self::Label(key, value) => write!(f, "label {key}={value} missing"),
            Self::Memory(need, free) => {
                write!(f, "memory: needs {} MiB, {} MiB unreserved", mib(need), mib(free))
            }
            Self::Cpu(need, free) => write!(f, "CPU: needs {need} m, {free} m unreserved"),
            Self::Disk(need, free) => write!(f, "disk: needs {} MiB, {} MiB free", mib(need), mib(free)),
            Self::NoNetwork => f.write_str("no free network or port in the configured ranges"),
        }
    }
}

/// What is asked of a host.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Resources to reserve.
    pub size: Size,
    /// Only this one.
    pub host: Option<&'a HostName>,
    /// Only hosts with these.
    pub labels: &'a BTreeMap<LabelKey, LabelValue>,
}

/// A host's judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whom.
    pub host: HostName,
    /// Tenants placed there.
    pub tenants: u32,
    /// Load after placing; of today when it does not fit and never reported.
    pub load: Load,
    /// Empty when it fits.
    pub rejections: Vec<Rejection>,
}

impl Judgement {
    /// Its score among hosts of which the least loaded has `least`.
    fn score(&self, least: u32) -> Score {
        let load = self.load.permille();
        Score {
            load_step: load.saturating_sub(least) / LOAD_STEP_PERMILLE,
            tenants: self.tenants,
            load_permille: load,
            host: self.host.clone(),
        }
    }
}

/// A decision with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The winner.
    pub host: Option<HostName>,
    /// One sentence.
    pub reason: String,
    /// Who was looked at: those that fit, best first, then the others by name.
    pub hosts: Vec<Judgement>,
    /// How many were looked at.
    pub considered: usize,
    /// How many of them fit.
    pub fitting: usize,
}

/// Hosts in the order of their load, kept up to date by [`Ranking::refresh`].
#[derive(Debug, Clone, Default)]
pub struct Ranking {
    order: OrdSet<Score>,
    of: OrdMap<HostName, Score>,
}

/// The values that a judgement is made of.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Desired.
    pub fleet: &'a Fleet,
    /// Heard of.
    pub observed: &'a Observed,
    /// Order of load.
    pub ranking: &'a Ranking,
    /// Coordinator's start.
    pub started_at: UnixMs,
    /// Configuration.
    pub settings: &'a Settings,
}

impl Ranking {
    /// Brings one host up to date after a change of its tenants or a report.
    pub fn refresh(&mut self, fleet: &Fleet, observed: &Observed, settings: &Settings, host: &HostName) {
        if let Some(old) = self.of.remove(host) {
            self.order.remove(&old);
        }
        // Never reported: not ranked, so it can never be the least loaded.
        let Some(seen) = observed.hosts.get(host).filter(|h| h.reported_at.is_some()) else { return };
        if !fleet.hosts.contains_key(host) {
            return;
        }
        let index = fleet.by_host.get(host);
        let load = load(fleet, index, seen, settings, None).permille();
        let tenants = index.map_or(0, |i| count(i.tenants.len()));
        let score =
            Score { load_step: load / LOAD_STEP_PERMILLE, tenants, load_permille: load, host: host.clone() };
        self.of.insert(host.clone(), score.clone());
        self.order.insert(score);
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn permille(part: u64, whole: u64) -> u32 {
    if whole == 0 {
        return 1000;
    }
    u32::try_from((u128::from(part) * 1000 / u128::from(whole)).min(10_000)).unwrap_or(10_000)
}

/// Bytes in use as far as placement is concerned: reserved, or really used plus what is promised and not visible yet.
fn effective(reserved: u64, used: u64, promised: u64) -> u64 {
    reserved.max(used.saturating_add(promised))
}

struct Effective {
    memory_bytes: u64,
    cpu_millis: u64,
    disk_bytes: u64,
}

fn effective_use(
    fleet: &Fleet,
    index: Option<&HostIndex>,
    seen: &HostObserved,
    settings: &Settings,
) -> Effective {
    let empty = HostIndex::default();
    let index = index.unwrap_or(&empty);
    let (mut memory_promised, mut disk_promised) = (0u64, 0u64);
    for tenant in index.settling.iter().filter_map(|name| fleet.tenants.get(name)) {
        memory_promised = memory_promised.saturating_add(tenant.size.memory_bytes);
        disk_promised = disk_promised.saturating_add(tenant.size.disk_bytes);
    }
    let resources = &seen.resources;
    let memory_used = resources.memory_total_bytes.saturating_sub(resources.memory_available_bytes);
    let disk_used = resources.disk_total_bytes.saturating_sub(resources.disk_available_bytes);
    let cpu_reserved =
        index.cpu_millis.saturating_mul(1000) / u64::from(settings.placement.cpu_overcommit_permille.max(1));
    let cpu_used = u64::from(seen.cpu_average_permille) * u64::from(resources.cpus);
    Effective {
        memory_bytes: effective(index.memory_bytes, memory_used, memory_promised),
        cpu_millis: cpu_reserved.max(cpu_used),
        disk_bytes: effective(index.disk_bytes, disk_used, disk_promised),
    }
}

/// Load of a host, with `extra` placed there in addition.
fn load(
    fleet: &Fleet,
    index: Option<&HostIndex>,
    seen: &HostObserved,
    settings: &Settings,
    extra: Option<Size>,
) -> Load {
    let used = effective_use(fleet, index, seen, settings);
    let extra = extra.unwrap_or(Size { memory_bytes: 0, cpu_millis: 0, disk_bytes: 0, workers: 0 });
    let extra_cpu =
        u64::from(extra.cpu_millis) * 1000 / u64::from(settings.placement.cpu_overcommit_permille.max(1));
    let resources = &seen.resources;
    Load {
        memory_permille: permille(
            used.memory_bytes.saturating_add(extra.memory_bytes),
            resources.memory_total_bytes,
        ),
        cpu_permille: permille(used.cpu_millis.saturating_add(extra_cpu), u64::from(resources.cpus) * 1000),
        disk_permille: permille(used.disk_bytes.saturating_add(extra.disk_bytes), resources.disk_total_bytes),
    }
}

/// Judges one host for one request.
pub fn judge(view: View<'_>, request: Request<'_>, host: &Host, now: UnixMs) -> Judgement {
    let seen = view.observed.hosts.get(&host.name).map(Arc::as_ref);
    let index = view.fleet.by_host.get(&host.name);
    let mut rejections = Vec::new();
    if let Some(wanted) = request.host.filter(|wanted| **wanted != host.name) {
        rejections.push(Rejection::OtherHostWanted(wanted.clone()));
    }
    if host.cordoned {
        rejections.push(Rejection::Cordoned);
    }
    let (state, silence_ms) = liveness::judge(seen, view.started_at, now, &view.settings.liveness);
    let reported = seen.is_some_and(|s| s.reported_at.is_some());
    match state {
        HostState::Ready => {}
        HostState::Degraded => {
            rejections.push(Rejection::DockerDown(seen.map(|s| s.docker_error.clone()).unwrap_or_default()))
        }
        _ if !reported => rejections.push(Rejection::NeverReported),
        _ => rejections.push(Rejection::Silent(silence_ms / 1000)),
    }
    for (key, value) in request.labels {
        if host.labels.get(key) != Some(value) {
            rejections.push(Rejection::Label(key.clone(), value.clone()));
        }
    }
    if let Some(seen) = seen.filter(|_| reported) {
        if !seen.plan_error.is_empty() {
            rejections.push(Rejection::PlanRefused(seen.plan_error.clone()));
        }
        rejections.extend(lacks(view, request.size, index, seen));
    }
    let load = seen
        .filter(|_| reported)
        .map(|s| load(view.fleet, index, s, view.settings, Some(request.size)))
        .unwrap_or_default();
    Judgement {
        host: host.name.clone(),
        tenants: index.map_or(0, |i| count(i.tenants.len())),
        load,
        rejections,
    }
}

/// Resources that are not enough.
fn lacks(view: View<'_>, size: Size, index: Option<&HostIndex>, seen: &HostObserved) -> Vec<Rejection> {
    let settings = &view.settings.placement;
    let used = effective_use(view.fleet, index, seen, view.settings);
    let resources = &seen.resources;
    let mut missing = Vec::new();
    let memory = resources
        .memory_total_bytes
        .saturating_sub(settings.memory_reserve_bytes)
        .saturating_sub(used.memory_bytes);
    if size.memory_bytes > memory {
        missing.push(Rejection::Memory(size.memory_bytes, memory));
    }
    let cpu_capacity = u64::from(resources.cpus) * u64::from(settings.cpu_overcommit_permille);
    let cpu = cpu_capacity.saturating_sub(index.map_or(0, |i| i.cpu_millis));
    if u64::from(size.cpu_millis) > cpu {
        missing.push(Rejection::Cpu(size.cpu_millis.into(), cpu));
    }
    let disk = resources
        .disk_total_bytes
        .saturating_sub(settings.disk_reserve_bytes)
        .saturating_sub(used.disk_bytes);
    if size.disk_bytes > disk {
        missing.push(Rejection::Disk(size.disk_bytes, disk));
    }
    if allocate(index, &view.settings.network, &seen.hello.networks).is_none() {
        missing.push(Rejection::NoNetwork);
    }
    missing
}

/// The host for a request. Looks at the least loaded first; when none fits, the decision holds every host's reasons.
pub fn choose(view: View<'_>, request: Request<'_>, now: UnixMs) -> Decision {
    if request.host.is_some() {
        return explain(view, request, now);
    }
    let mut fitting = Vec::with_capacity(CANDIDATES);
    let mut considered = 0;
    for score in &view.ranking.order {
        let Some(host) = view.fleet.hosts.get(&score.host) else { continue };
        considered += 1;
        let judgement = judge(view, request, host, now);
        if judgement.rejections.is_empty() {
            fitting.push(judgement);
            if fitting.len() == CANDIDATES {
                break;
            }
        }
    }
    if fitting.is_empty() {
        return explain(view, request, now);
    }
    decide(fitting, Vec::new(), considered)
}

/// As [`choose`], with every host judged.
pub fn explain(view: View<'_>, request: Request<'_>, now: UnixMs) -> Decision {
    let judged = view.fleet.hosts.values().map(|host| judge(view, request, host, now));
    let (fitting, mut rejected): (Vec<_>, Vec<_>) = judged.partition(|j| j.rejections.is_empty());
    if let Some(wanted) = request.host.filter(|name| !view.fleet.hosts.contains_key(*name)) {
        rejected.push(Judgement {
            host: wanted.clone(),
            tenants: 0,
            load: Load::default(),
            rejections: vec![Rejection::NoSuchHost],
        });
    }
    let considered = fitting.len() + rejected.len();
    decide(fitting, rejected, considered)
}

fn decide(mut fitting: Vec<Judgement>, mut rejected: Vec<Judgement>, considered: usize) -> Decision {
    let least = fitting.iter().map(|j| j.load.permille()).min().unwrap_or(0);
    fitting.sort_by_key(|j| j.score(least));
    rejected.sort_by(|a, b| a.host.cmp(&b.host));
    let percent = |j: &Judgement| j.load.permille().div_ceil(10);
    let reason = match (&fitting[..], considered) {
        ([], 0) => "the fleet has no hosts: add one with `isyctl host token`".to_owned(),
        ([], n) => format!("none of {n} hosts fits"),
        ([only], n) => {
            format!("{}: the only one of {n} hosts that fits ({} % loaded)", only.host, percent(only))
        }
        ([best, second, ..], n) => {
            let (a, b) = (best.score(least), second.score(least));
            let why = if a.load_step != b.load_step {
                "least loaded"
            } else if a.tenants != b.tenants {
                "fewest tenants among equally loaded"
            } else {
                "least loaded"
            };
            format!(
                "{}: {why} of {} hosts that fit out of {n} ({} %, {} tenants; next {} with {} %, {} tenants)",
                best.host,
                fitting.len(),
                percent(best),
                best.tenants,
                second.host,
                percent(second),
                second.tenants
            )
        }
    };
    let count = fitting.len();
    let host = fitting.first().map(|j| j.host.clone());
    fitting.append(&mut rejected);
    Decision { host, reason, hosts: fitting, considered, fitting: count }
}

/// A free network and pair of ports on a host: slot `i` is the i-th network and the i-th pair. The slot after the highest
/// used one is tried first, so that addresses of deleted tenants are not reused soon; then the lowest gap.
pub fn allocate(
    index: Option<&HostIndex>,
    network: &Network,
    avoid: &[Ipv4Net],
) -> Option<(Ipv4Net, u16, u16)> {
    let base = network.tenant_range.network().to_bits();
    let prefix = network.subnet_prefix;
    let networks = 1u64 << prefix.saturating_sub(network.tenant_range.prefix_len()).min(31);
    let pairs = (u64::from(network.last_port) + 1).saturating_sub(network.first_port.into()) / 2;
    let slots = u32::try_from(networks.min(pairs)).ok()?;
    let step = 1u32.checked_shl(32 - u32::from(prefix))?;
    let used = |i: u32| -> Option<(Ipv4Net, u16, u16)> {
        let subnet =
            Ipv4Net::new(std::net::Ipv4Addr::from_bits(base.checked_add(i.checked_mul(step)?)?), prefix)
                .ok()?;
        let http = u16::try_from(u32::from(network.first_port) + 2 * i).ok()?;
        let websocket = http.checked_add(1)?;
        let taken = index.is_some_and(|x| {
            x.subnets.contains(&subnet.network().to_bits())
                || x.ports.contains(&http)
                || x.ports.contains(&websocket)
        });
        let overlaps = avoid.iter().any(|n| n.contains(&subnet) || subnet.contains(n));
        (!taken && !overlaps).then_some((subnet, http, websocket))
    };
    let highest = index
        .and_then(|x| x.subnets.get_max().copied())
        .and_then(|top| top.checked_sub(base))
        .map_or(0, |d| d / step + 1);
    (highest.min(slots)..slots).chain(0..highest.min(slots)).find_map(used)
}

#[cfg(test)]
mod tests;

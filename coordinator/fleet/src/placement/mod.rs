//! Chooses a host: filter, then score; the least loaded wins. Pure: the same inputs give the same answer, with reasons.
//!
//! Hosts are kept ranked by load, so a choice looks at the least loaded ones first and stops after [`CANDIDATES`] that
//! fit: its cost does not grow with the fleet. [`explain`] looks at all hosts.
//! Not here: what one host has to offer (room), its networks and ports (slot), recording the choice (change).

mod room;
mod slot;

use std::{cmp::Reverse, collections::BTreeMap, fmt, sync::Arc};

use imbl::OrdMap;
use isyone_types::{
    ids::HostName,
    plan::UnixMs,
    spec::{Bounds, LabelKey, LabelValue, Size},
};

use self::room::Room;
pub use self::slot::{Slot, allocate};
use crate::{desired::Fleet, observed::Observed, settings::Settings};

/// How many fitting hosts are compared: the choice is the exact minimum in fleets up to this size, and close to it in
/// larger ones.
pub const CANDIDATES: usize = 32;

/// Up to this many hosts that do not fit are listed with their reasons, the others only counted: an answer does not
/// grow with the fleet.
pub const MAX_NAMED: usize = 80;

/// Loads within one step of the least load count as equal, and the number of tenants decides, because measurements are
/// noisy. (With fixed steps from zero, noise would decide between hosts near a step's boundary.)
pub const LOAD_STEP_PERMILLE: u32 = 100;

/// Disk counts as load only from here on: a half-full disk is no reason to go elsewhere, a nearly full one is.
pub const DISK_PRESSURE_PERMILLE: u32 = 850;

/// The policy: fields are compared in order, lower is better. The name comes last as a tie-breaker, so that equal
/// inputs give equal answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// Load in steps of [`LOAD_STEP_PERMILLE`], counted from the least loaded host that fits.
    pub load_step: u32,
    /// Number of tenants placed there.
    pub tenants: u32,
    /// Load, per mille.
    pub load_permille: u32,
    pub host: HostName,
}

/// Load by kind, per mille of what the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// The larger of reserved, and used plus promised.
    pub memory_permille: u32,
    /// The larger of reserved (divided by the over-commit factor) and average use.
    pub cpu_permille: u32,
    /// The larger of expected, and used plus promised.
    pub disk_permille: u32,
}

impl Load {
    /// One figure for all: the highest of memory, CPU and, once it is scarce, disk.
    pub fn permille(self) -> u32 {
        let disk = if self.disk_permille >= DISK_PRESSURE_PERMILLE {
            self.disk_permille
        } else {
            0
        };
        self.memory_permille.max(self.cpu_permille).max(disk)
    }
}

/// Why a host cannot take a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    Cordoned,
    /// It has joined, but no admin has let it in.
    Pending,
    /// The fleet has no such host.
    NoSuchHost,
    /// No report since the coordinator started.
    NeverReported,
    /// No report for this many seconds.
    Silent(i64),
    /// Its Docker Engine does not answer, or its agent cannot keep what it stands for, as limits between tenants.
    DockerDown(String),
    /// The agent refused its plan.
    PlanRefused(String),
    /// The request names another host.
    OtherHostWanted(HostName),
    /// The host lacks this label, or has another value for it.
    Label(LabelKey, LabelValue),
    /// Needed and free bytes.
    Memory(u64, u64),
    /// Needed and free thousandths of a CPU.
    Cpu(u64, u64),
    /// Needed and free bytes.
    Disk(u64, u64),
    /// All networks or ports in the configured ranges are taken.
    NoNetwork,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes >> 20;
        match self {
            Self::Cordoned => f.write_str("cordoned"),
            Self::Pending => f.write_str("pending: `isyctl host approve` lets it in"),
            Self::NoSuchHost => f.write_str("no such host"),
            Self::NeverReported => f.write_str("no report since the coordinator started"),
            Self::Silent(seconds) => write!(f, "no report for {seconds} s"),
            Self::DockerDown(why) => write!(f, "trouble on the host: {why}"),
            Self::PlanRefused(why) => write!(f, "agent refused its plan: {why}"),
            Self::OtherHostWanted(host) => write!(f, "only {host} was asked for"),
            Self::Label(key, value) => write!(f, "label {key}={value} missing"),
            Self::Memory(need, free) => {
                write!(
                    f,
                    "memory: needs {} MiB, {} MiB unreserved",
                    mib(need),
                    mib(free)
                )
            }
            Self::Cpu(need, free) => write!(f, "CPU: needs {need} m, {free} m unreserved"),
            Self::Disk(need, free) => {
                write!(f, "disk: needs {} MiB, {} MiB free", mib(need), mib(free))
            }
            Self::NoNetwork => f.write_str("no free network or port in the configured ranges"),
        }
    }
}

impl Rejection {
    /// The reason in a word or two, for counting.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Cordoned => "cordoned",
            Self::Pending => "pending",
            Self::NoSuchHost => "no such host",
            Self::NeverReported => "no report yet",
            Self::Silent(_) => "silent",
            Self::DockerDown(_) => "in trouble",
            Self::PlanRefused(_) => "plan refused",
            Self::OtherHostWanted(_) => "not asked for",
            Self::Label(..) => "label",
            Self::Memory(..) => "memory",
            Self::Cpu(..) => "CPU",
            Self::Disk(..) => "disk",
            Self::NoNetwork => "network",
        }
    }
}

/// What a tenant requires of a host.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Resources to reserve.
    pub size: Size,
    /// The only acceptable host; `None`: any.
    pub host: Option<&'a HostName>,
    /// Labels that the host must have.
    pub labels: &'a BTreeMap<LabelKey, LabelValue>,
}

/// The judgement of one host for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub host: HostName,
    /// Number of tenants placed there.
    pub tenants: u32,
    /// Load including the new tenant; zero if the host has never reported.
    pub load: Load,
    /// The network and ports that the tenant would get.
    pub slot: Option<Slot>,
    /// Empty when it fits.
    pub rejections: Vec<Rejection>,
}

impl Judgement {
    /// Whether the host could take the tenant.
    pub fn fits(&self) -> bool {
        self.rejections.is_empty()
    }
}

/// A placement decision and its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The chosen host; `None` when none fits.
    pub host: Option<HostName>,
    /// The tenant's network and ports there.
    pub slot: Option<Slot>,
    /// Why, in one sentence for people.
    pub reason: String,
    /// Judged hosts: those that fit, best first, then the others by name, at most [`MAX_NAMED`].
    pub hosts: Vec<Judgement>,
    /// Number of hosts considered.
    pub considered: usize,
    /// Number of them that fit.
    pub fitting: usize,
}

/// What placement decides from.
#[derive(Debug, Clone, Copy)]
pub struct PlacementInputs<'a> {
    pub fleet: &'a Fleet,
    pub observed: &'a Observed,
    pub ranking: &'a Ranking,
    /// When the coordinator started.
    pub started_at: UnixMs,
    pub settings: &'a Settings,
}

/// Hosts that are open for tenants, in the order of their load; [`crate::state::State::refresh`] keeps it up to date.
/// Cordoned and silent hosts and those without Docker are not in it, so a choice never looks at them, however many
/// there are.
#[derive(Debug, Clone, Default)]
pub struct Ranking {
    order: OrdMap<Score, Arc<Room>>,
    of: OrdMap<HostName, Score>,
}

impl Ranking {
    /// A host's current entry. Compute it again when its tenants or its report change, or as time passes.
    pub(crate) fn entry(
        view: PlacementInputs<'_>,
        host: &HostName,
        now: UnixMs,
    ) -> Option<(Score, Room)> {
        let room = Room::of(view, host).filter(|room| room.is_open(view, now))?;
        let load = room.load(view.settings, nothing()).permille();
        let score = Score {
            load_step: load / LOAD_STEP_PERMILLE,
            tenants: room.tenants,
            load_permille: load,
            host: host.clone(),
        };
        Some((score, room))
    }

    /// Stores a host's current [`Ranking::entry`].
    pub(crate) fn update(&mut self, host: &HostName, entry: Option<(Score, Room)>) {
        let score = entry.as_ref().map(|(score, _)| score);
        // A host's load seldom changes from one report to the next.
        if self.of.get(host) != score {
            let before = match score {
                Some(score) => self.of.insert(host.clone(), score.clone()),
                None => self.of.remove(host),
            };
            if let Some(before) = before {
                self.order.remove(&before);
            }
        }
        if let Some((score, room)) = entry {
            self.order.insert(score, Arc::new(room));
        }
    }

    /// Number of open hosts.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether every entry equals a freshly computed one. For tests.
    #[cfg(test)]
    pub(crate) fn is_true(&self, view: PlacementInputs<'_>, now: UnixMs) -> bool {
        let fresh = view
            .fleet
            .hosts
            .keys()
            .filter_map(|host| Self::entry(view, host, now));
        let fresh: Vec<_> = fresh.map(|(score, room)| (score, Arc::new(room))).collect();
        let order: OrdMap<_, _> = fresh.iter().cloned().collect();
        let of: OrdMap<_, _> = fresh
            .into_iter()
            .map(|(score, _)| (score.host.clone(), score))
            .collect();
        self.order == order && self.of == of
    }
}

/// Beside what is there, nothing is asked for.
fn nothing() -> Size {
    Size {
        memory_bytes: 0,
        cpu_millis: 0,
        disk_bytes: 0,
        workers: 0,
        bounds: Bounds::default(),
    }
}

/// A host's load as it is; `None`: there is no such host, or it has never reported.
pub fn load(view: PlacementInputs<'_>, host: &HostName) -> Option<Load> {
    let room = Room::of(view, host).filter(Room::is_known)?;
    Some(room.load(view.settings, nothing()))
}

/// Whether a host is open for tenants: ranked, with a load that is known.
pub fn is_open(view: PlacementInputs<'_>, host: &HostName) -> bool {
    view.ranking.of.contains_key(host)
}

/// Chooses among the least loaded hosts. A request for one host is judged by that host alone. When none fits, the
/// decision counts all reasons and lists [`MAX_NAMED`] hosts with theirs.
pub fn choose(view: PlacementInputs<'_>, request: Request<'_>, now: UnixMs) -> Decision {
    if let Some(wanted) = request.host {
        let judgement = judge(view, request, wanted, now);
        let (fitting, rejected) = if judgement.fits() {
            (vec![judgement], vec![])
        } else {
            (vec![], vec![judgement])
        };
        return decide(fitting, Rejected::named(rejected), 1);
    }
    let mut fitting = Vec::with_capacity(CANDIDATES);
    let mut considered = 0;
    for room in view.ranking.order.values() {
        considered += 1;
        let judgement = room.judge(view, request, now);
        if judgement.fits() {
            fitting.push(judgement);
            if fitting.len() == CANDIDATES {
                return decide(fitting, Rejected::default(), considered);
            }
        }
    }
    if fitting.is_empty() {
        return explain(view, request, now);
    }
    decide(fitting, Rejected::default(), view.fleet.hosts.len())
}

/// Judges one host, whether or not it is ranked.
pub fn judge(
    view: PlacementInputs<'_>,
    request: Request<'_>,
    host: &HostName,
    now: UnixMs,
) -> Judgement {
    match Room::of(view, host) {
        Some(room) => room.judge(view, request, now),
        None => Judgement {
            host: host.clone(),
            tenants: 0,
            load: Load::default(),
            slot: None,
            rejections: vec![Rejection::NoSuchHost],
        },
    }
}

/// Like [`choose`], but judges every host and lists all that fit.
pub fn explain(view: PlacementInputs<'_>, request: Request<'_>, now: UnixMs) -> Decision {
    let (mut fitting, mut rejected) = (Vec::new(), Rejected::default());
    let missing = request
        .host
        .filter(|name| !view.fleet.hosts.contains_key(*name));
    for host in view.fleet.hosts.keys().chain(missing) {
        // A ranked host's room is already computed.
        let ranked = view
            .ranking
            .of
            .get(host)
            .and_then(|score| view.ranking.order.get(score));
        let judgement = match ranked {
            Some(room) => room.judge(view, request, now),
            None => judge(view, request, host, now),
        };
        if judgement.fits() {
            fitting.push(judgement);
        } else {
            rejected.add(judgement);
        }
    }
    let considered = fitting.len() + rejected.count;
    decide(fitting, rejected, considered)
}

/// Hosts that do not fit: all counted by reason, some listed.
#[derive(Debug, Default)]
struct Rejected {
    named: Vec<Judgement>,
    count: usize,
    reasons: BTreeMap<&'static str, usize>,
}

impl Rejected {
    fn named(judgements: Vec<Judgement>) -> Self {
        let mut rejected = Self::default();
        judgements
            .into_iter()
            .for_each(|judgement| rejected.add(judgement));
        rejected
    }

    fn add(&mut self, judgement: Judgement) {
        self.count += 1;
        for rejection in &judgement.rejections {
            *self.reasons.entry(rejection.word()).or_default() += 1;
        }
        if self.named.len() < MAX_NAMED {
            self.named.push(judgement);
        }
    }

    /// `memory 9, cordoned 1`: the most frequent first.
    fn words(&self) -> String {
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(word, count)| (Reverse(**count), **word));
        reasons
            .iter()
            .map(|(word, count)| format!("{word} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn decide(mut fitting: Vec<Judgement>, rejected: Rejected, considered: usize) -> Decision {
    let least = fitting.iter().map(|j| j.load.permille()).min().unwrap_or(0);
    let step = |j: &Judgement| j.load.permille().saturating_sub(least) / LOAD_STEP_PERMILLE;
    // The order of `Score`, without building one for each comparison.
    let key = |j: &Judgement| (step(j), j.tenants, j.load.permille());
    fitting.sort_unstable_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.host.cmp(&b.host)));
    let percent = |j: &Judgement| j.load.permille().div_ceil(10);
    let reason = match (&fitting[..], considered) {
        ([], 0) => "the fleet has no hosts: add one with `isyctl host token`".to_owned(),
        ([], n) => format!("none of {n} hosts fits ({})", rejected.words()),
        ([only], n) => {
            format!(
                "{}: the only one of {n} hosts that fits ({} % loaded)",
                only.host,
                percent(only)
            )
        }
        ([best, second, ..], n) => {
            let fewest = step(best) == step(second) && best.tenants != second.tenants;
            let why = if fewest {
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
    let best = fitting.first();
    let (host, slot) = (best.map(|j| j.host.clone()), best.and_then(|j| j.slot));
    fitting.extend(rejected.named);
    Decision {
        host,
        slot,
        reason,
        hosts: fitting,
        considered,
        fitting: count,
    }
}

#[cfg(test)]
mod tests;

//! A whole fleet in one thread, driven by a seed: operators send commands, messages are lost, delayed and repeated,
//! hosts and the coordinator crash at any step, commits fail, time passes. The invariants are checked after each step;
//! in the end everything is healed and must converge. The same seed gives the same run.
//!
//! Real: the coordinator's pure core with its operations, its store records, the agent's rules for plans and its `diff`.
//! Modelled: the writer's loop (apply, commit, publish), the wire, edges, Docker and data ([`host`]), copying (`jobs`).
//! What operators ask is in `operators`, what goes wrong in `faults`; `walk` kills at every write and step instead of at
//! random.

mod edges;
mod faults;
pub mod host;
pub mod invariants;
mod jobs;
mod leases;
mod messages;
mod operators;
mod reports;
mod standbys;
mod summary;
pub mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use isyone_coordinator::writer::{
    recovery,
    store::{CommitError, memory::MemoryStore},
};
use isyone_fleet::{
    change::{self, ChangeError, Command, Effects, Outcome, Stamp},
    settings::{Settings, StandbyRules},
    state::State,
    testing::{self, Bench, name},
    written::Contents,
};
use isyone_proto::{
    ids::{HostName, TenantName},
    lease,
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

use edges::SimEdges;
use host::{SimHost, Worked};
use messages::{Message, send};
pub use summary::Summary;

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub hosts: usize,
    /// Random steps before the healing.
    pub steps: usize,
    /// Faults per thousand steps.
    pub fault_permille: u32,
    /// Now and then the coordinator is rebuilt from an older state, under a raised incarnation. What it had promised since
    /// is lost then; what must hold all the same is that nobody writes beside another, and nothing is removed unasked.
    pub rebuilds: bool,
    /// Operators move a few tenants to and fro, and older copies are kept for a good part of a run.
    pub moves: bool,
    /// Tenants have standbys, hosts lose their power and come back, and what lived there is failed over.
    pub standbys: bool,
    /// And take over by themselves: hosts are cut off while they run, clocks are set, and go at different paces.
    pub leases: bool,
}

/// A run that broke an invariant.
#[derive(Debug)]
pub struct Broken {
    /// The step after which it was seen; one more than the last for what did not settle in the end.
    pub step: u64,
    /// What was broken.
    pub why: String,
}

#[derive(Debug)]
pub struct Simulation {
    pub(crate) rng: StdRng,
    pub(crate) shape: Shape,
    pub(crate) settings: Settings,
    pub(crate) state: State,
    disk: MemoryStore,
    pub(crate) hosts: BTreeMap<HostName, SimHost>,
    /// Messages in flight, per host: to it, and from it. A host that is not `connected` is partitioned.
    to_host: BTreeMap<HostName, Vec<Message>>,
    from_host: BTreeMap<HostName, Vec<Message>>,
    connected: BTreeMap<HostName, bool>,
    /// Hosts reach each other.
    pub(crate) peers_reach: bool,
    /// A host that nobody reaches.
    cut_off: Option<HostName>,
    pub(crate) edges: SimEdges,
    /// The coordinator dies after its next commit, before anybody hears of it.
    dies_after_commit: bool,
    /// Commits so far, and after which one the coordinator dies.
    commits: u64,
    dies_at: Option<u64>,
    /// The last command was stored, and nobody heard of it.
    answer_lost: bool,
    /// No more faults, and nobody asks for anything.
    pub(crate) healing: bool,
    /// The highest incarnation that the coordinator has had.
    incarnation: u16,
    /// What the coordinator had stored a while ago.
    pub(crate) older: Option<Contents>,
    /// What users were told is written, by tenant.
    pub(crate) written: BTreeMap<Uuid, u64>,
    pub(crate) now: i64,
    /// The same for whom nobody sets the clock.
    pub(crate) steady: i64,
    /// Tenants whose standby is about to take over: what it has is all that is left.
    taking_over: BTreeMap<Uuid, HostName>,
    ids: u128,
    /// What operators were told: tenants created and not deleted since.
    pub(crate) promised: BTreeMap<TenantName, Uuid>,
    /// The same, by uid, and remembered also when the coordinator has lost what it knew: tenants that nobody wants gone.
    pub(crate) wanted: BTreeSet<Uuid>,
    /// Creates whose answer was lost; retried with the same key.
    unanswered: Vec<(Command, TenantName)>,
    pub(crate) summary: Summary,
    /// The newest event that was counted.
    counted: u64,
    /// The step under way, for whoever catches a panic.
    at: Arc<AtomicU64>,
}

impl Simulation {
    /// A fleet of empty hosts.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut bench = Bench::default();
        let mut hosts = BTreeMap::new();
        for i in 0..shape.hosts {
            let host = bench.host(&format!("h{i}"), testing::resources(8, 16, 100));
            hosts.insert(host.clone(), SimHost::new(host, i));
        }
        let disk = MemoryStore::default();
        disk.apply(&bench.effects.writes)
            .expect("nothing fails yet");
        let mut settings = testing::settings();
        // Short, so that runs see its end, and the healing even that of the last.
        settings.quarantine_ms = if shape.moves { 150_000 } else { 30_000 };
        settings.quarantine_hold_ms = 5_000;
        settings.sleep_after_ms.insert(name("small"), 20_000);
        if shape.standbys {
            // Short, so that hosts are lost within a run.
            settings.liveness.suspect_ms = 15_000;
            settings.liveness.lost_ms = 20_000;
        }
        if shape.leases {
            let rules = StandbyRules {
                apart: None,
                takes_over_after_ms: Some(lease::SHORTEST_MS),
            };
            for plan in settings.plans.keys() {
                settings.standbys.insert(plan.clone(), rules.clone());
            }
        }
        Self {
            rng: StdRng::seed_from_u64(seed),
            shape,
            settings,
            state: bench.state,
            disk,
            connected: hosts.keys().map(|h| (h.clone(), true)).collect(),
            peers_reach: true,
            cut_off: None,
            edges: SimEdges::default(),
            dies_after_commit: false,
            commits: 0,
            dies_at: None,
            answer_lost: false,
            healing: false,
            incarnation: 0,
            older: None,
            written: BTreeMap::new(),
            to_host: BTreeMap::new(),
            from_host: BTreeMap::new(),
            hosts,
            now: 0,
            steady: 0,
            taking_over: BTreeMap::new(),
            ids: 1 << 20,
            promised: BTreeMap::new(),
            wanted: BTreeSet::new(),
            unanswered: Vec::new(),
            summary: Summary::default(),
            counted: 0,
            at: Arc::default(),
        }
    }

    /// Like [`Self::run`], but catches what breaks.
    pub fn run_until_broken(self) -> Result<Summary, Broken> {
        let at = self.at.clone();
        std::panic::catch_unwind(AssertUnwindSafe(|| self.run())).map_err(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            Broken {
                step: at.load(Ordering::Relaxed),
                why: text.unwrap_or("a panic without a text").to_owned(),
            }
        })
    }

    /// Random steps with faults, then healing, then quiet. Panics with the seed's story if an invariant breaks.
    pub fn run(mut self) -> Summary {
        if self.shape.leases {
            self.agree_on_leases();
        }
        for step in 1..=self.shape.steps {
            self.at.store(step as u64, Ordering::Relaxed);
            self.step();
            self.what_is_left_counts();
            invariants::check(&self);
        }
        self.at.fetch_add(1, Ordering::Relaxed);
        self.heal();
        invariants::check(&self);
        if !self.shape.rebuilds {
            invariants::check_quiet(&self);
        }
        self.summary.digest = format!("{:x}", self.fingerprint());
        self.summary
    }

    fn step(&mut self) {
        self.summary.steps += 1;
        if self.chance(self.shape.fault_permille) {
            self.fault();
            return;
        }
        match self.rng.random_range(0..18u32) {
            0 | 1 => self.operator(),
            2 => self.pass_time(),
            3..=5 => self.deliver_to_host(),
            6 | 7 => self.deliver_to_coordinator(),
            8 => self.edges_step(),
            9 => {
                let host = self.pick_host();
                self.job_step(&host);
            }
            _ => self.host_step(),
        }
    }

    fn chance(&mut self, permille: u32) -> bool {
        self.rng.random_range(0..1000) < permille
    }

    fn id(&mut self) -> Uuid {
        self.ids += 1;
        // Both halves are unique, as in real ids: a tick derives its ids from the lower half.
        Uuid::from_u128(self.ids << 64 | self.ids)
    }

    fn pick_host(&mut self) -> HostName {
        let index = self.rng.random_range(0..self.hosts.len());
        self.hosts
            .keys()
            .nth(index)
            .cloned()
            .expect("there are hosts")
    }

    /// Applies and commits a group of one command, as the writer does.
    fn submit(&mut self, command: Command) -> Option<Result<Outcome, ChangeError>> {
        let stamp = Stamp {
            now: self.now,
            steady: self.steady,
            id: self.id(),
            actor: "ana".to_owned(),
        };
        let before = self.state.clone();
        let mut effects = Effects::default();
        change::heed_the_clock(&mut self.state, &self.settings, &stamp, &mut effects);
        let result = change::apply(
            &mut self.state,
            &self.settings,
            &stamp,
            &mut effects,
            command,
        );
        if result.is_err() {
            self.state = before;
            return Some(result);
        }
        if !self.commit(&effects) {
            self.state = before;
            return None;
        }
        self.commits += 1;
        let dies = self.dies_at == Some(self.commits);
        if std::mem::take(&mut self.dies_after_commit) || dies {
            self.crash_coordinator();
            self.answer_lost = true;
            return None;
        }
        self.state.version += 1;
        invariants::check_purged(self, &effects.writes);
        self.edges
            .check_ended(&before, &self.state, &self.settings, &effects.writes);
        for host in &effects.touched_hosts {
            self.send_plan(host);
        }
        Some(result)
    }

    /// Whether it is stored; asks the disk if that did not answer.
    fn commit(&self, effects: &Effects) -> bool {
        let before = self.disk.commits();
        match self.disk.apply(&effects.writes) {
            Ok(()) => true,
            Err(CommitError::Unknown(_)) => {
                recovery::was_stored(before, self.disk.commits()).expect("one writer")
            }
            Err(CommitError::Refused(_) | CommitError::NotLeader { .. }) => false,
        }
    }

    fn host_step(&mut self) {
        let host = self.pick_host();
        self.ask_to_go_on(&host);
        let chance = self.rng.random_range(0..1_000_000);
        // A loop does several things while others do one.
        for _ in 0..self.rng.random_range(0..5) {
            self.work(&host, chance);
        }
        if self.work(&host, chance) {
            return;
        }
        let sim = &self.hosts[&host];
        if self.connected[&host] {
            let report = Message::Report(Box::new(sim.report()), sim.leases.clock());
            send(self.from_host.entry(host).or_default(), report);
        }
    }

    /// One step of a host's loops; false when it had nothing to do.
    pub(crate) fn work(&mut self, host: &HostName, chance: usize) -> bool {
        let (now, edges) = (self.now, &self.edges);
        let address = self.state.fleet.hosts.get(host).map(|host| host.advertise);
        let routed = |tenant: &TenantName| edges.lead(tenant, address);
        let worked = self
            .hosts
            .get_mut(host)
            .map(|sim| sim.work(now, chance, routed));
        match worked {
            Some(Worked::Wrote(data)) => {
                self.summary.written += 1;
                // Its host may be let go on until the one that takes over knows that it is to: that is lost, and it was said.
                let taken = self.taking_over.get(&data.uid);
                if taken.is_some_and(|to| to != host) {
                    return true;
                }
                let known = self.written.get(&data.uid).copied().unwrap_or_default();
                assert!(
                    known + 1 == data.value || self.shape.rebuilds,
                    "write {} on {host} does not build on the last one that a user was told of, {known}\n{}",
                    data.value,
                    invariants::story_of(self, &data.uid)
                );
                self.written.insert(data.uid, data.value);
                true
            }
            Some(Worked::Something) => true,
            Some(Worked::Nothing) | None => false,
        }
    }

    /// Commits so far.
    pub(crate) fn commits(&self) -> u64 {
        self.commits
    }

    /// The coordinator dies after so many more commits, before anybody hears of the last.
    pub(crate) fn dies_after(&mut self, commits: Option<u64>) {
        self.dies_at = commits.map(|n| self.commits + n);
    }

    /// One step of a host's loops in which no user writes.
    pub(crate) fn work_once(&mut self, host: &HostName) -> Worked {
        let now = self.now;
        let sim = self.hosts.get_mut(host);
        sim.map_or(Worked::Nothing, |sim| sim.work(now, 1, |_| false))
    }

    /// A number that differs if the outcome differs.
    fn fingerprint(&mut self) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        for tenant in self.state.fleet.tenants.values() {
            serde_json::to_string(&**tenant)
                .expect("plain data")
                .hash(&mut hasher);
        }
        self.state.fleet.last_event.hash(&mut hasher);
        self.rng.next_u64().hash(&mut hasher);
        hasher.finish()
    }
}

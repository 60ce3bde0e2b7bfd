//! A whole fleet in one thread, driven by a seed: operators send commands, messages are lost, delayed and repeated, hosts and the
//! coordinator crash at any step, commits fail, time passes. After each step the invariants are checked; in the end everything is
//! healed and must converge. Same seed, same run.
//!
//! Real: the coordinator's pure core and its store records. Modelled: the writer's loop (apply, commit, publish), the wire, and hosts
//! ([`host`]).

pub mod host;
pub mod invariants;

use std::collections::BTreeMap;

use isyone_coordinator::{
    change::{self, ChangeError, Command, Effects, Outcome, Stamp},
    observed::Report,
    settings::Settings,
    state::State,
    store::{self, memory::MemoryStore},
    testing::{self, Bench, name},
    views,
};
use isyone_proto::{
    ids::{HostName, TenantName},
    plan::{HostPlan, TenantSecrets},
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

use host::SimHost;

/// Names that operators use; few, so that they collide.
const TENANTS: [&str; 12] = [
    "alfa", "beta", "gama", "delta", "echo", "fox", "golf", "hotel", "india", "juliet", "kilo",
    "lima",
];

/// One message on its way to or from a host.
#[derive(Debug, Clone)]
pub enum Message {
    Plan(HostPlan),
    /// To the coordinator: plan on disk.
    Hello(u64),
    /// To the coordinator: generation, error.
    PlanResult(u64, String),
    Report(Box<Report>),
}

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub hosts: usize,
    /// Random steps before the healing.
    pub steps: usize,
    /// Faults per thousand steps.
    pub fault_permille: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub steps: u64,
    pub accepted: u64,
    pub refused: u64,
    /// Crashes of hosts and of the coordinator.
    pub crashes: u64,
    /// Messages lost or repeated.
    pub faults: u64,
    pub purged: u64,
    /// Times that a tenant fell asleep.
    pub slept: u64,
    /// Digest of the final state: equal for equal seeds.
    pub digest: String,
}

#[derive(Debug)]
pub struct Simulation {
    rng: StdRng,
    shape: Shape,
    pub(crate) settings: Settings,
    pub(crate) state: State,
    disk: MemoryStore,
    pub(crate) hosts: BTreeMap<HostName, SimHost>,
    /// In flight, per host: to it, and from it. A partition is a host that is not `connected`.
    to_host: BTreeMap<HostName, Vec<Message>>,
    from_host: BTreeMap<HostName, Vec<Message>>,
    connected: BTreeMap<HostName, bool>,
    now: i64,
    ids: u128,
    /// What operators were told: tenants created and not deleted since.
    pub(crate) promised: BTreeMap<TenantName, Uuid>,
    /// Creates whose answer was lost; repeated with the same key.
    unanswered: Vec<(Command, TenantName)>,
    summary: Summary,
}

impl Simulation {
    /// A fleet of empty hosts.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut bench = Bench::default();
        let mut hosts = BTreeMap::new();
        for i in 0..shape.hosts {
            let host = bench.host(&format!("h{i}"), testing::resources(8, 16, 100));
            hosts.insert(host.clone(), SimHost::new(host));
        }
        let disk = MemoryStore::default();
        disk.apply(&bench.effects.writes)
            .expect("nothing fails yet");
        let mut settings = testing::settings();
        settings.quarantine_ms = 30_000; // short, so that runs see its end
        settings.quarantine_hold_ms = 5_000;
        settings.sleep_after_ms.insert(name("small"), 20_000);
        Self {
            rng: StdRng::seed_from_u64(seed),
            shape,
            settings,
            state: bench.state,
            disk,
            connected: hosts.keys().map(|h| (h.clone(), true)).collect(),
            to_host: BTreeMap::new(),
            from_host: BTreeMap::new(),
            hosts,
            now: 0,
            ids: 1 << 90,
            promised: BTreeMap::new(),
            unanswered: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// Random steps with faults, then healing, then quiet. Panics with the seed's story when an invariant breaks.
    pub fn run(mut self) -> Summary {
        for _ in 0..self.shape.steps {
            self.step();
            invariants::check(&self);
        }
        self.heal();
        invariants::check(&self);
        invariants::check_quiet(&self);
        self.summary.digest = format!("{:x}", self.fingerprint());
        self.summary
    }

    fn step(&mut self) {
        self.summary.steps += 1;
        if self.chance(self.shape.fault_permille) {
            self.fault();
            return;
        }
        match self.rng.random_range(0..10u32) {
            0 | 1 => self.operator(),
            2 => self.pass_time(),
            3..=5 => self.deliver_to_host(),
            6 | 7 => self.deliver_to_coordinator(),
            _ => self.host_step(),
        }
    }

    fn chance(&mut self, permille: u32) -> bool {
        self.rng.random_range(0..1000) < permille
    }

    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    fn pick_host(&mut self) -> HostName {
        let index = self.rng.random_range(0..self.hosts.len());
        self.hosts
            .keys()
            .nth(index)
            .cloned()
            .expect("there are hosts")
    }

    /// One group of one command, as the writer does it.
    fn submit(&mut self, command: Command) -> Option<Result<Outcome, ChangeError>> {
        let stamp = Stamp {
            now: self.now,
            id: self.id(),
            actor: "ana".to_owned(),
        };
        let before = self.state.clone();
        let mut effects = Effects::default();
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
        if self.disk.apply(&effects.writes).is_err() {
            self.state = before;
            return None;
        }
        for host in &effects.touched_hosts {
            self.send_plan(host);
        }
        Some(result)
    }

    fn send_plan(&mut self, host: &HostName) {
        if self.connected.get(host) != Some(&true) {
            return;
        }
        let open = |_: &isyone_coordinator::fleet::Tenant| {
            Ok::<_, std::convert::Infallible>(TenantSecrets::default())
        };
        if let Ok(Some(plan)) = views::host_plan(&self.state, &self.settings, host, open) {
            self.to_host
                .entry(host.clone())
                .or_default()
                .push(Message::Plan(plan));
        }
    }

    fn operator(&mut self) {
        if !self.unanswered.is_empty() && self.chance(500) {
            let (command, tenant) = self.unanswered.swap_remove(0);
            self.create(command, tenant);
            return;
        }
        let tenant: TenantName = name(TENANTS[self.rng.random_range(0..TENANTS.len())]);
        let request_id = Some(format!("r{}", self.rng.random_range(0..1_000_000u32)));
        let plan = ["small", "standard", "large"][self.rng.random_range(0..3usize)];
        let command = match self.rng.random_range(0..13u32) {
            0..=4 => {
                let mut creation = Bench::default().creation(tenant.as_str(), plan);
                creation.uid = self.id();
                creation.request_id = request_id;
                creation.force = self.chance(100);
                self.create(Command::CreateTenant(Box::new(creation)), tenant);
                return;
            }
            5 => Command::RestartTenant {
                name: tenant.clone(),
                database: self.chance(300),
                request_id,
            },
            6 => Command::SuspendTenant {
                name: tenant.clone(),
                request_id,
            },
            7 => Command::ResumeTenant {
                name: tenant.clone(),
                request_id,
            },
            8 => Command::ResizeTenant {
                name: tenant.clone(),
                plan: name(plan),
                request_id,
            },
            9 => Command::RestoreTenant {
                name: tenant.clone(),
                request_id,
            },
            10 => Command::WakeTenant {
                name: tenant.clone(),
            },
            11 => {
                let host = self.pick_host();
                let cordoned = self.chance(400);
                self.count(Command::CordonHost { host, cordoned });
                return;
            }
            _ => Command::DeleteTenant {
                name: tenant.clone(),
                purge: self.chance(200),
                request_id,
            },
        };
        let deletes = matches!(command, Command::DeleteTenant { .. });
        let restores = matches!(command, Command::RestoreTenant { .. });
        if self.count(command) {
            if deletes {
                self.promised.remove(&tenant);
            }
            if restores && let Some(record) = self.state.fleet.tenants.get(&tenant) {
                self.promised.insert(tenant, record.uid);
            }
        }
    }

    fn create(&mut self, command: Command, tenant: TenantName) {
        let lost_answer = self.chance(100);
        if self.count(command.clone()) {
            let record = self.state.fleet.tenants[&tenant].clone();
            if !record.is_deleted() {
                self.promised.insert(tenant.clone(), record.uid);
            }
        }
        if lost_answer {
            self.unanswered.push((command, tenant));
        }
    }

    fn count(&mut self, command: Command) -> bool {
        let accepted = matches!(self.submit(command), Some(Ok(_)));
        if accepted {
            self.summary.accepted += 1
        } else {
            self.summary.refused += 1
        }
        accepted
    }

    fn pass_time(&mut self) {
        self.now += self.rng.random_range(0..4_000i64);
        self.submit(Command::Tick);
        let told = |kind| {
            self.state
                .fleet
                .events
                .iter()
                .filter(|e| e.kind == kind)
                .count() as u64
        };
        (self.summary.purged, self.summary.slept) = (told("tenant.purged"), told("tenant.asleep"));
    }

    fn deliver_to_host(&mut self) {
        let host = self.pick_host();
        let Some(queue) = self.to_host.get_mut(&host).filter(|q| !q.is_empty()) else {
            return;
        };
        let Message::Plan(plan) = queue.remove(0) else {
            return;
        };
        if let Some((generation, error)) = self.hosts.get_mut(&host).and_then(|h| h.plan(plan)) {
            self.from_host
                .entry(host)
                .or_default()
                .push(Message::PlanResult(generation, error));
        }
    }

    fn deliver_to_coordinator(&mut self) {
        let host = self.pick_host();
        let Some(queue) = self.from_host.get_mut(&host).filter(|q| !q.is_empty()) else {
            return;
        };
        let message = queue.remove(0);
        self.receive(host, message);
    }

    fn receive(&mut self, host: HostName, message: Message) {
        let command = match message {
            Message::Plan(_) => return,
            Message::Hello(accepted_generation) => Command::Greet {
                host: host.clone(),
                hello: isyone_coordinator::observed::Hello::default(),
                accepted_generation,
            },
            Message::PlanResult(generation, error) => Command::PlanResult {
                host: host.clone(),
                generation,
                error,
            },
            Message::Report(report) => Command::Report {
                host: host.clone(),
                report,
            },
        };
        let greeting = matches!(command, Command::Greet { .. });
        self.submit(command);
        if greeting {
            self.send_plan(&host);
        }
    }

    fn host_step(&mut self) {
        let host = self.pick_host();
        let Some(sim) = self.hosts.get_mut(&host) else {
            return;
        };
        if sim.work(self.now) {
            return;
        }
        if self.connected[&host] {
            let report = Message::Report(Box::new(sim.report()));
            self.from_host.entry(host).or_default().push(report);
        }
    }

    fn fault(&mut self) {
        self.summary.faults += 1;
        let host = self.pick_host();
        match self.rng.random_range(0..8u32) {
            0 => self.crash_coordinator(),
            1 => {
                self.summary.crashes += 1;
                if let Some(sim) = self.hosts.get_mut(&host) {
                    sim.crash();
                }
                self.reconnect(&host);
            }
            2 => self.disconnect(&host),
            3 => self.reconnect(&host),
            4 => drop(self.to_host.get_mut(&host).and_then(Vec::pop)),
            5 => drop(self.from_host.get_mut(&host).and_then(Vec::pop)),
            6 => {
                let repeated = self.from_host.get(&host).and_then(|q| q.first().cloned());
                if let Some(message) = repeated {
                    self.receive(host, message);
                }
            }
            _ => self.disk.fail_next(1),
        }
    }

    fn disconnect(&mut self, host: &HostName) {
        self.connected.insert(host.clone(), false);
        self.to_host.remove(host);
        self.from_host.remove(host);
    }

    /// A new session: what was in flight is gone, the agent greets.
    fn reconnect(&mut self, host: &HostName) {
        self.disconnect(host);
        self.connected.insert(host.clone(), true);
        let generation = self.hosts[host].generation();
        self.from_host
            .entry(host.clone())
            .or_default()
            .push(Message::Hello(generation));
    }

    /// kill -9: memory is gone, the disk stays, all sessions end.
    fn crash_coordinator(&mut self) {
        self.summary.crashes += 1;
        let fleet = store::fleet(self.disk.contents()).expect("what we wrote reads back");
        self.state = State::new(fleet, self.now);
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        for host in &hosts {
            if self.connected[host] {
                self.reconnect(host);
            }
        }
    }

    /// All links up, no more faults: everything must settle.
    fn heal(&mut self) {
        self.disk.fail_next(0);
        // What is wanted stays as it is from here on.
        self.settings.sleep_after_ms.clear();
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        for host in &hosts {
            self.reconnect(host);
            self.submit(Command::CordonHost {
                host: host.clone(),
                cordoned: false,
            });
        }
        // Bound: each round delivers everything; a tenant needs a handful of rounds, quarantines end by time.
        for _ in 0..60 {
            self.now += 1_000;
            for host in &hosts {
                while let Some(message) = self.from_host.get_mut(host).and_then(|q| {
                    if q.is_empty() {
                        None
                    } else {
                        Some(q.remove(0))
                    }
                }) {
                    self.receive(host.clone(), message);
                }
                while let Some(Message::Plan(plan)) = self.to_host.get_mut(host).and_then(|q| {
                    if q.is_empty() {
                        None
                    } else {
                        Some(q.remove(0))
                    }
                }) {
                    if let Some((generation, error)) =
                        self.hosts.get_mut(host).and_then(|h| h.plan(plan))
                    {
                        self.from_host
                            .entry(host.clone())
                            .or_default()
                            .push(Message::PlanResult(generation, error));
                    }
                }
                let now = self.now;
                let Some(sim) = self.hosts.get_mut(host) else {
                    continue;
                };
                while sim.work(now) {}
                let report = Message::Report(Box::new(sim.report()));
                self.from_host.entry(host.clone()).or_default().push(report);
            }
            self.submit(Command::Tick);
        }
    }

    /// A number that differs when the outcome differs.
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

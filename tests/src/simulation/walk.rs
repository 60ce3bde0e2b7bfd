//! Every kind of operation, with a death at every write of the coordinator and at every step of a host: what is generated
//! from the machine's stages, so that new ones are covered without being named here.
//!
//! Not here: chance (the parent); this is the same schedule each time, but for the death.

use std::{collections::BTreeSet, fmt};

use isyone_fleet::{
    backups::{Policy, Turn, Wanted, Work},
    change::{Command, Outcome, RestoreTenant, backups::NewKey},
    desired::Sealed,
    observed::Hello,
    operation::{OperationKind, Stage},
    settings::BackupDestination,
    testing::{self, Bench, name},
};
use isyone_proto::{
    backup::Place,
    ids::{HostName, ShortName, TenantName},
    operation::OperationState,
    plan::Lifecycle,
};
use uuid::Uuid;

use super::{Shape, Simulation, host::Worked, invariants};

/// Rounds until an operation must be over: each delivers all messages and lets hosts do all their work.
const ROUNDS: usize = 60;

/// Who dies, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Nobody,
    /// The coordinator, right after its n-th commit, before anybody hears of it.
    Coordinator(u64),
    /// A host's agent, after its n-th step.
    Agent(u64),
}

/// What was walked.
#[derive(Debug, Default)]
pub struct Walked {
    pub operations: u64,
    pub deaths: u64,
    pub stages: BTreeSet<Stage>,
}

impl fmt::Display for Walked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} deaths, {} of {} stages",
            self.operations,
            self.deaths,
            self.stages.len(),
            Stage::ALL.len()
        )
    }
}

/// How one operation went.
struct Run {
    commits: u64,
    steps: u64,
    stages: BTreeSet<Stage>,
}

/// What is done: an operation of a kind, or another form of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Errand {
    kind: OperationKind,
    /// A restore that takes the tenant's place.
    in_place: bool,
    /// A move of a tenant that runs meanwhile.
    live: bool,
}

impl Errand {
    fn plain(kind: OperationKind) -> Self {
        Self {
            kind,
            in_place: false,
            live: false,
        }
    }
}

/// All of them.
fn errands() -> impl Iterator<Item = Errand> {
    let in_place = Errand {
        in_place: true,
        ..Errand::plain(OperationKind::Restore)
    };
    let live = Errand {
        live: true,
        ..Errand::plain(OperationKind::Move)
    };
    let plain = OperationKind::ALL.into_iter().map(Errand::plain);
    plain.chain([in_place, live])
}

/// Walks all kinds, each left alone and cancelled at each of its stages, with every `stride`-th death.
pub fn walk(stride: usize) -> Walked {
    let mut walked = Walked::default();
    for errand in errands() {
        let alone = run(errand, None, Death::Nobody);
        let cancels = alone.stages.iter().copied().map(Some);
        for cancel_at in std::iter::once(None).chain(cancels) {
            let plain = run(errand, cancel_at, Death::Nobody);
            walked.stages.extend(plain.stages.iter().copied());
            walked.operations += 1;
            let coordinator = (1..=plain.commits).map(Death::Coordinator);
            let agent = (1..=plain.steps).map(Death::Agent);
            for death in coordinator.chain(agent).step_by(stride) {
                run(errand, cancel_at, death);
                walked.deaths += 1;
            }
        }
    }
    let missing: Vec<&Stage> = Stage::ALL
        .iter()
        .filter(|stage| !walked.stages.contains(stage))
        .collect();
    assert!(
        missing.is_empty(),
        "stages that were never seen: {missing:?}"
    );
    walked
}

fn alfa() -> TenantName {
    name("alfa")
}

/// What must have ended before an operation of this kind can begin.
fn before(kind: OperationKind) -> &'static [OperationKind] {
    use OperationKind as K;
    match kind {
        K::Create => &[],
        K::Resume => &[K::Create, K::Suspend],
        K::Purge | K::Undelete => &[K::Create, K::Delete],
        K::Update
        | K::Restart
        | K::Suspend
        | K::Resize
        | K::Delete
        | K::Move
        | K::Restore
        | K::Upgrade => &[K::Create],
    }
}

fn creation(plan: &str, kind: OperationKind) -> Command {
    let mut creation = Bench::default().creation("alfa", plan);
    creation.uid = Uuid::from_u128(7);
    creation.request_id = Some(format!("the {}", kind.word()));
    creation.force = kind == OperationKind::Update;
    Command::CreateTenant(Box::new(creation))
}

/// What begins an operation of this kind.
fn order(errand: Errand) -> Command {
    use OperationKind as K;
    let kind = errand.kind;
    let (name, request_id) = (alfa(), Some(format!("the {}", kind.word())));
    match kind {
        K::Create => creation("small", kind),
        K::Update => creation("standard", kind),
        K::Restart => Command::RestartTenant {
            name,
            database: true,
            settings: false,
            request_id,
        },
        K::Suspend => Command::SuspendTenant {
            name,
            request_id,
            cancel_running: false,
        },
        K::Resume => Command::ResumeTenant { name, request_id },
        K::Resize => Command::ResizeTenant {
            name,
            plan: testing::name("standard"),
            request_id,
        },
        K::Upgrade => Command::UpgradeTenant {
            name,
            odoo: None,
            postgres: None,
            request_id,
        },
        K::Delete | K::Purge => Command::DeleteTenant {
            name,
            purge: kind == K::Purge,
            request_id,
            cancel_running: false,
        },
        K::Undelete => Command::UndeleteTenant { name, request_id },
        K::Move => Command::MoveTenant {
            name,
            to: testing::name::<HostName>("h1").into(),
            max_pause_ms: errand.live.then_some(5_000),
            request_id,
        },
        K::Restore => Command::RestoreTenant(Box::new(RestoreTenant {
            source: name.clone(),
            wanted: Wanted::Latest,
            destination: None,
            name: if errand.in_place { name } else { beta() },
            uid: Uuid::from_u128(8),
            secrets: Sealed("sealed".into()),
            host: (!errand.in_place).then(|| testing::name("h1")),
            live: false,
            as_new: false,
            request_id,
        })),
    }
}

/// What is restored.
fn beta() -> TenantName {
    name("beta")
}

/// A backup of the tenant, at one destination.
fn back_up(sim: &mut Simulation) {
    let destination: ShortName = name("own");
    let reached = BackupDestination {
        at: Place::Coordinator,
        rate_bytes_per_s: 0,
    };
    let backups = &mut sim.settings.backups;
    backups.destinations.insert(destination.clone(), reached);
    backups.standard = Some(Policy::standard(vec![destination.clone()]));
    let hosts: Vec<_> = sim.hosts.keys().cloned().collect();
    for host in hosts {
        let accepted_generation = sim.state.fleet.hosts[&host].plan_generation;
        sim.submit(Command::Greet {
            hello: Hello {
                makes_backups: true,
                proves_backups: true,
                sets_mail: true,
                sorts: true,
                peer_port: Some(7483),
                ..Hello::default()
            },
            host,
            accepted_generation,
        });
    }
    let (uid, host) = {
        let tenant = &sim.state.fleet.tenants[&alfa()];
        (tenant.uid, tenant.placement.host.clone())
    };
    sim.submit(Command::PutBackupKeys(vec![NewKey {
        name: alfa(),
        uid,
        key: Sealed("key".into()),
    }]));
    sim.submit(Command::OrderBackups(vec![Turn {
        tenant: uid,
        host,
        destination,
        work: Work::Base,
    }]));
    let created = sim.state.fleet.tenants[&alfa()].operation;
    settle(sim, created, None, Death::Nobody, &mut Run::new());
}

/// A fleet in which operations of this kind can begin: two hosts, and the tenant on the first.
fn prepared(kind: OperationKind) -> Simulation {
    let shape = Shape {
        hosts: 2,
        steps: 0,
        fault_permille: 0,
        rebuilds: false,
        moves: false,
        standbys: false,
        leases: false,
    };
    let mut sim = Simulation::new(0, shape);
    sim.settings.sleep_after_ms.clear();
    sim.settings.quarantine_ms = 3_600_000;
    sim.healing = true;
    let hosts: Vec<_> = sim.hosts.keys().cloned().collect();
    for host in &hosts[1..] {
        cordon(&mut sim, host.as_str(), true);
    }
    for earlier in before(kind) {
        let earlier = Errand::plain(*earlier);
        let id = begin(&mut sim, order(earlier)).expect("it begins");
        settle(&mut sim, id, None, Death::Nobody, &mut Run::new());
    }
    if kind == OperationKind::Restore {
        back_up(&mut sim);
    }
    cordon(&mut sim, "h1", false);
    sim
}

fn cordon(sim: &mut Simulation, host: &str, cordoned: bool) {
    sim.submit(Command::CordonHost {
        host: name(host),
        cordoned,
    });
}

impl Run {
    fn new() -> Self {
        Self {
            commits: 0,
            steps: 0,
            stages: BTreeSet::new(),
        }
    }
}

/// Sends a command until it is answered; the operation that it began or found.
fn begin(sim: &mut Simulation, command: Command) -> Option<Uuid> {
    for _ in 0..3 {
        match sim.submit(command.clone()) {
            Some(Ok(Outcome::Operation(operation))) => return Some(operation.id),
            Some(Ok(Outcome::Tenant {
                operation: Some(operation),
                ..
            })) => return Some(operation.id),
            Some(other) => panic!("{command:?} was answered by {other:?}"),
            // The answer was lost with the coordinator.
            None => {}
        }
    }
    None
}

fn run(errand: Errand, cancel_at: Option<Stage>, death: Death) -> Run {
    let kind = errand.kind;
    let mut sim = prepared(kind);
    let before = sim.state.fleet.tenants.get(&alfa()).cloned();
    let mut run = Run::new();
    sim.dies_after(match death {
        Death::Coordinator(n) => Some(n),
        _ => None,
    });
    let commits = sim.commits();
    let id = begin(&mut sim, order(errand)).expect("answered at last");
    settle(&mut sim, id, cancel_at, death, &mut run);
    run.commits = sim.commits() - commits;
    let at = format!("{errand:?}, cancelled at {cancel_at:?}, {death:?}");
    let operation = &sim.state.fleet.operations[&id];
    let cancelled = operation.state == OperationState::Cancelled;
    assert!(
        operation.state == OperationState::Succeeded || cancelled && cancel_at.is_some(),
        "{at}: {operation:?}"
    );
    // What it is now is what was asked for or what it was before, never something between.
    let tenant = sim.state.fleet.tenants.get(&alfa());
    match (cancelled, tenant, &before) {
        (true, tenant, None) => {
            assert!(tenant.is_none_or(|t| t.is_deleted()), "{at}: {tenant:?}");
        }
        (true, Some(tenant), Some(before)) => assert!(
            (
                tenant.desired,
                &tenant.spec,
                &tenant.placement.host,
                tenant.images_asked
            ) == (
                before.desired,
                &before.spec,
                &before.placement.host,
                before.images_asked
            ),
            "{at}: {tenant:?}"
        ),
        (false, None, _) => assert_eq!(kind, OperationKind::Purge, "{at}"),
        (false, Some(tenant), _) => {
            let expected = match kind {
                OperationKind::Suspend => Lifecycle::Suspended,
                OperationKind::Delete => Lifecycle::Quarantined,
                _ => Lifecycle::Running,
            };
            assert_eq!(tenant.desired, expected, "{at}");
            let moved = tenant.placement.host.as_str() == "h1";
            assert_eq!(moved, kind == OperationKind::Move, "{at}");
        }
        (true, None, Some(_)) => panic!("{at}: the tenant is gone"),
    }
    let restored = sim.state.fleet.tenants.get(&beta());
    let is_there = restored.is_some_and(|tenant| !tenant.is_deleted());
    assert_eq!(
        is_there,
        kind == OperationKind::Restore && !errand.in_place && !cancelled,
        "{at}"
    );
    invariants::check(&sim);
    invariants::check_quiet(&sim);
    run
}

/// Lets everything happen until the operation is over and all is quiet, with this death on the way.
fn settle(
    sim: &mut Simulation,
    id: Uuid,
    mut cancel_at: Option<Stage>,
    death: Death,
    run: &mut Run,
) {
    look(sim, id, &mut cancel_at, run);
    for _ in 0..ROUNDS {
        sim.now += 1_000;
        let hosts: Vec<_> = sim.hosts.keys().cloned().collect();
        for host in &hosts {
            sim.deliver_all(host);
            // One step at a time, so that each can be the last.
            for _ in 0..200 {
                let worked = sim.work_once(host);
                let copied = worked == Worked::Nothing && sim.job_step(host);
                if worked == Worked::Nothing && !copied {
                    break;
                }
                run.steps += 1;
                if death == Death::Agent(run.steps) {
                    sim.kill_agent(host);
                }
            }
            sim.send_report(host);
            sim.deliver_all(host);
            look(sim, id, &mut cancel_at, run);
        }
        sim.edges_step();
        sim.edges_step();
        look(sim, id, &mut cancel_at, run);
        sim.submit(Command::Tick);
        look(sim, id, &mut cancel_at, run);
    }
    sim.dies_after(None);
}

/// Notes the operation's stage, and cancels it at the one where it is to be cancelled.
fn look(sim: &mut Simulation, id: Uuid, cancel_at: &mut Option<Stage>, run: &mut Run) {
    let Some(operation) = sim.state.fleet.operations.get(&id).filter(|o| !o.is_over()) else {
        return;
    };
    run.stages.insert(operation.stage());
    if *cancel_at == Some(operation.stage()) {
        // Refused past the point of no return; asked again when the answer was lost.
        if sim.submit(Command::CancelOperation { id }).is_some() {
            *cancel_at = None;
        }
    }
}

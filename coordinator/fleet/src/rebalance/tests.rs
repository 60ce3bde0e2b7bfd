//! What must hold of proposals in any fleet: the same answer twice, nobody is over-filled, no host becomes worse than the worst, what
//! is predicted comes; and which tenants stay.

use std::collections::BTreeMap;

use isyone_types::{
    operation::OperationState,
    plan::Lifecycle,
    report::{HostReport, HostResources, JobReport, JobState, TenantReport, Usage},
};
use proptest::prelude::*;

use super::*;
use crate::{
    change::{Command, Outcome},
    desired::CopyRole,
    placement::{self, Load},
    testing::{Bench, GIB, name, resources},
};

/// Memory that a tenant takes, in MiB, and thousandths of a CPU.
type Used = (u64, u32);

/// A fleet whose hosts report what their tenants use, wherever these live.
struct World {
    bench: Bench,
    hosts: BTreeMap<HostName, HostResources>,
    used: BTreeMap<TenantName, Used>,
}

impl World {
    fn new(hosts: &[(u32, u64, u64)]) -> Self {
        let mut bench = Bench::default();
        bench.now = 10_000_000;
        let hosts = hosts.iter().zip(1..).map(|((cpus, memory, disk), n)| {
            let has = resources(*cpus, *memory, *disk);
            (bench.host(&format!("h{n}"), has), has)
        });
        let hosts = hosts.collect();
        Self {
            bench,
            hosts,
            used: BTreeMap::new(),
        }
    }

    /// Creates a tenant on a host, and forgets that somebody asked for that host.
    fn tenant(&mut self, tenant: &str, plan: &str, host: &str, used: Used) -> bool {
        let mut creation = self.bench.creation(tenant, plan);
        creation.spec.host = Some(name(host));
        let made = self.bench.apply(Command::CreateTenant(Box::new(creation)));
        let Ok(Outcome::Tenant { tenant, .. }) = made else {
            return false;
        };
        let mut anywhere = (*tenant).clone();
        anywhere.spec.host = None;
        self.bench.state.fleet.put_tenant(anywhere.into());
        self.used.insert(tenant.name.clone(), used);
        true
    }

    fn report_of(&self, tenant: &TenantName, host: &HostName) -> TenantReport {
        let lives_here = self.bench.state.fleet.tenants[tenant].placement.host == *host;
        let (mib, cpu_millis) = self.used[tenant];
        let usage = Usage {
            cpu_millis,
            memory_bytes: mib << 20,
            disk_bytes: GIB / 4,
        };
        TenantReport {
            usage: Some(if lives_here { usage } else { Usage::default() }),
            ..self.bench.converged_on(tenant, host)
        }
    }

    fn report(&mut self, host: &HostName, jobs: Vec<JobReport>) {
        let mut has = self.hosts[host];
        let index = self.bench.state.fleet.by_host.get(host);
        let names: Vec<TenantName> =
            index.map_or(Vec::new(), |i| i.tenants.iter().cloned().collect());
        let mut cpu = 0;
        for tenant in &names {
            let record = &self.bench.state.fleet.tenants[tenant];
            if record.placement.host == *host && record.desired == Lifecycle::Running {
                let (mib, millis) = self.used[tenant];
                has.memory_available_bytes = has.memory_available_bytes.saturating_sub(mib << 20);
                cpu += millis / has.cpus;
            }
            has.disk_available_bytes = has.disk_available_bytes.saturating_sub(GIB / 4);
        }
        has.cpu_used_permille = cpu.min(1000);
        has.load1_milli = has.cpu_used_permille * has.cpus;
        let report = HostReport {
            resources: has,
            docker_error: String::new(),
            tenants: names.iter().map(|t| self.report_of(t, host)).collect(),
            complete: true,
            jobs,
            condition: Default::default(),
        };
        let report = Box::new(report);
        let host = host.clone();
        self.bench.apply(Command::Report { host, report }).unwrap();
    }

    /// Every host reports, some time goes by, and every host reports again.
    fn reports_after(&mut self, ms: i64) {
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        for wait in [0, ms] {
            self.bench.now += wait;
            hosts.iter().for_each(|host| self.report(host, Vec::new()));
            self.bench.edges_run();
        }
    }

    /// A quarter of an hour: averages have settled.
    fn settle(&mut self) {
        self.reports_after(900_000);
    }

    fn propose(&self, most: usize) -> Proposal {
        propose(
            &self.bench.state,
            &self.bench.settings,
            self.bench.now,
            most,
        )
    }

    fn load(&self, host: &HostName) -> Load {
        let view = self.bench.state.placement_inputs(&self.bench.settings);
        placement::load(view, host).unwrap()
    }

    /// Makes a proposed move, from its order to its end, and lets averages settle.
    fn make(&mut self, proposed: &ProposedMove) {
        self.make_only(proposed);
        self.settle();
    }

    /// Makes a proposed move, which has ended just now.
    fn make_only(&mut self, proposed: &ProposedMove) {
        let order = Command::MoveTenant {
            name: proposed.tenant.clone(),
            to: proposed.to.clone().into(),
            max_pause_ms: None,
            request_id: None,
        };
        let Ok(Outcome::Operation(operation)) = self.bench.apply(order) else {
            panic!("{proposed:?} is refused");
        };
        let id = operation.id;
        for _ in 0..3 {
            self.reports_after(5_000);
        }
        let done = JobReport::new(id, JobState::Done);
        self.report(&proposed.to, vec![done]);
        for _ in 0..4 {
            self.reports_after(5_000);
        }
        let state = self.bench.state.fleet.operations[&id].state;
        assert_eq!(state, OperationState::Succeeded, "{proposed:?}");
    }
}

/// The highest load of any host.
fn worst(hosts: &[Forecast], of: fn(&Forecast) -> Option<Load>) -> u32 {
    hosts
        .iter()
        .filter_map(of)
        .map(Load::permille)
        .max()
        .unwrap_or(0)
}

/// h1 has six tenants of 2 GiB each, h2 and h3 have none.
fn uneven() -> World {
    let mut world = World::new(&[(8, 16, 100); 3]);
    for n in 0..6 {
        assert!(world.tenant(&format!("t{n}"), "standard", "h1", (500, 20)));
    }
    world.settle();
    world
}

fn what_stays(world: &World) -> String {
    let proposal = world.propose(MAX_MOVES);
    assert_eq!(proposal.moves, []);
    proposal.hosts[0].why_not.clone()
}

#[test]
fn the_most_loaded_host_is_relieved_until_hosts_count_as_equal() {
    let world = uneven();
    let proposal = world.propose(MAX_MOVES);
    let said: Vec<String> = proposal
        .moves
        .iter()
        .map(|m| {
            let ((from, left), (to, comes)) = (m.from_permille, m.to_permille);
            format!("{} {from}-{left} {} {to}-{comes}", m.tenant, m.to)
        })
        .collect();
    assert_eq!(
        said,
        [
            "t0 750-625 h2 0-125",
            "t1 625-500 h3 0-125",
            "t2 500-375 h2 125-250",
            "t3 375-250 h3 125-250",
        ]
    );
    assert_eq!(
        proposal.moves[0].reason,
        "h1 from 75 to 63 %, h2 from 0 to 13 %. h2: least loaded of 3 hosts that fit out of 3 (13 %, 0 tenants; next h3 with 13 %, 0 tenants)"
    );
    let hosts: Vec<String> = proposal
        .hosts
        .iter()
        .map(|h| format!("{} {} {}", h.host, h.tenants_before, h.tenants_after))
        .collect();
    // Older copies are kept aside.
    assert_eq!(hosts, ["h1 6 6", "h2 0 2", "h3 0 2"]);
    assert!(proposal.reason.starts_with("nothing more to do: "));
}

#[test]
fn what_is_stopped_and_for_how_long_is_said() {
    let world = uneven();
    let moved = &world.propose(1).moves[0];
    assert_eq!(moved.bytes, Some(GIB / 4));
    assert_eq!(moved.pause_ms, Some(4_000 + STOP_AND_START_MS));
}

#[test]
fn at_most_as_many_moves_as_are_asked_for() {
    let world = uneven();
    let proposal = world.propose(2);
    assert_eq!(proposal.moves.len(), 2);
    assert_eq!(
        proposal.reason,
        "2 moves are enough for one proposal: when they are made, ask again"
    );
    assert_eq!(world.propose(0).moves, []);
}

#[test]
fn an_even_fleet_is_left_alone_and_says_so() {
    let mut world = World::new(&[(8, 16, 100); 2]);
    assert!(world.tenant("alfa", "small", "h1", (100, 10)));
    world.settle();
    let proposal = world.propose(MAX_MOVES);
    assert_eq!(proposal.moves, []);
    assert_eq!(
        proposal.reason,
        "nothing to do: the most loaded host, h1 with 7 %, is within 10 % of the least loaded that takes tenants, h2 with 0 %, which \
         placement takes for equal"
    );
    let none = propose(&crate::state::State::default(), &world.bench.settings, 0, 9);
    assert_eq!(
        none.reason,
        "the fleet has no hosts: add one with `isyctl host token`"
    );
}

#[test]
fn who_stays_is_said_with_the_reason() {
    let mut world = uneven();
    let edit = |world: &mut World, tenant: &str, change: fn(&mut crate::desired::Tenant)| {
        let tenant: TenantName = name(tenant);
        let mut record = (*world.bench.state.fleet.tenants[&tenant]).clone();
        change(&mut record);
        world.bench.state.fleet.put_tenant(record.into());
    };
    edit(&mut world, "t0", |t| t.spec.host = Some(name("h1")));
    edit(&mut world, "t1", |t| {
        (t.placement.epoch, t.placement.at) = (2, 11_000_000);
    });
    edit(&mut world, "t2", |t| t.generation += 1);
    edit(&mut world, "t3", |t| {
        t.spec.host_labels = [(name("disk"), name("ssd"))].into();
    });
    let standby = Command::AddStandby {
        name: name("t4"),
        on: Some(name("h2")),
        apart: None,
    };
    world.bench.apply(standby).unwrap();
    world.settle();
    // t2 says that it is as its plan wants it, and that plan is no more the present one.
    edit(&mut world, "t2", |t| t.generation += 1);
    let restart = Command::RestartTenant {
        name: name("t5"),
        database: false,
        settings: false,
        request_id: None,
    };
    world.bench.apply(restart).unwrap();
    assert_eq!(
        what_stays(&world),
        "what stays: 1 busy with restart (t5), 1 moved less than a day ago: a day's load is to be seen first (t1), 1 not well where it is, or \
         not heard of (t2), 1 pinned there with --host (t0), 1 that fit on no other host: none of 3 hosts fits (label 3) (t3), 1 with a \
         standby, which has a command of its own (`isyctl tenant switchover`) (t4)"
    );
}

/// Cordoned, silent, without a door for other agents: no proposal leads there.
#[test]
fn nobody_is_sent_where_placement_or_the_move_would_refuse() {
    let mut world = uneven();
    let cordon = Command::CordonHost {
        host: name("h2"),
        cordoned: true,
    };
    world.bench.apply(cordon).unwrap();
    let seen = world.bench.state.observed.hosts.get_mut("h3").unwrap();
    std::sync::Arc::make_mut(seen).hello.peer_port = None;
    let said = what_stays(&world);
    assert_eq!(
        said,
        "what stays: 6 that fit on no other host (t0, t1, t2 and 3 more)"
    );
    // An hour later nobody has reported: nothing is known, and nothing proposed.
    world.bench.now += 3_600_000;
    let proposal = world.propose(MAX_MOVES);
    assert_eq!(proposal.moves, []);
    assert_eq!(proposal.reason, "no host takes tenants now");
}

#[test]
fn a_host_whose_measured_load_follows_a_move_is_left_alone_for_a_while() {
    let mut world = World::new(&[(8, 16, 100); 3]);
    for n in 0..4 {
        assert!(world.tenant(&format!("t{n}"), "small", "h1", (500, 1_800)));
    }
    world.settle();
    let first = world.propose(1).moves.remove(0);
    world.make_only(&first);
    let ended = world.bench.state.fleet.ended.get_max().unwrap().0;
    assert!(world.bench.now - ended < SETTLE_MS);
    let soon = world.propose(1);
    assert_eq!(
        (soon.moves.len(), soon.settles_at),
        (0, Some(ended + SETTLE_MS)),
        "{soon:?}"
    );
    let h1 = soon.hosts.iter().find(|h| h.host == first.from).unwrap();
    assert!(h1.why_not.starts_with("its CPU load still follows a move"));
    world.settle();
    let later = world.propose(1);
    assert_eq!((later.moves.len(), later.settles_at), (1, None));
}

/// What is predicted comes, in the placement's own figures.
#[test]
fn the_predicted_loads_come() {
    let mut world = World::new(&[(8, 16, 100), (4, 32, 100), (16, 16, 100)]);
    for n in 0..5 {
        assert!(world.tenant(&format!("t{n}"), "standard", "h1", (300 + 200 * n, 400)));
    }
    world.settle();
    for _ in 0..3 {
        let proposal = world.propose(1);
        let Some(proposed) = proposal.moves.first() else {
            break;
        };
        world.make(proposed);
        for host in &proposal.hosts {
            let (came, predicted) = (world.load(&host.host), host.after.unwrap());
            assert_eq!(
                came.memory_permille, predicted.memory_permille,
                "{proposed:?} {host:?}"
            );
            assert_eq!(
                came.disk_permille, predicted.disk_permille,
                "{proposed:?} {host:?}"
            );
            // An average of whole per milles.
            let off = came.cpu_permille.abs_diff(predicted.cpu_permille);
            assert!(off <= 2, "{came:?} {proposed:?} {host:?}");
        }
    }
    let tenants = world.bench.state.fleet.tenants.values();
    let kept: Vec<&CopyRole> = tenants
        .flat_map(|tenant| &tenant.copies)
        .map(|copy| &copy.role)
        .collect();
    assert!(!kept.is_empty());
    let is_fenced = |role: &&CopyRole| matches!(role, CopyRole::Fenced { .. });
    assert!(kept.iter().all(is_fenced), "{kept:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever fleet: the same answer twice; at most as many moves as wanted, each of another tenant; every move is taken by the
    /// command that it stands for, takes what it must off its host, and leads nobody above where its host was; the worst host never
    /// becomes worse.
    #[test]
    fn proposals_are_sound(
        hosts in prop::collection::vec((2u32..16, 4u64..64, 20u64..200), 1..6),
        tenants in prop::collection::vec((0usize..3, 0usize..6, 0u64..3_000, 0u32..2_000), 0..40),
        cordoned in 0usize..8,
        most in 0usize..25,
    ) {
        let mut world = World::new(&hosts);
        for (n, (plan, host, memory, cpu)) in tenants.iter().enumerate() {
            let (plan, host) = (["small", "standard", "large"][*plan], host % hosts.len() + 1);
            world.tenant(&format!("t{n}"), plan, &format!("h{host}"), (*memory, *cpu));
        }
        if cordoned < hosts.len() {
            let host = name(&format!("h{}", cordoned + 1));
            world.bench.apply(Command::CordonHost { host, cordoned: true }).unwrap();
        }
        world.settle();
        let proposal = world.propose(most);
        prop_assert_eq!(&proposal, &world.propose(most));
        prop_assert!(proposal.moves.len() <= most.min(MAX_MOVES));
        prop_assert!(!proposal.reason.is_empty());
        prop_assert!(worst(&proposal.hosts, |h| h.after) <= worst(&proposal.hosts, |h| h.before));
        let mut tenants: Vec<&TenantName> = proposal.moves.iter().map(|m| &m.tenant).collect();
        tenants.sort();
        tenants.dedup();
        prop_assert_eq!(tenants.len(), proposal.moves.len());
        for proposed in &proposal.moves {
            let (before, after) = proposed.from_permille;
            prop_assert!(after + MIN_GAIN_PERMILLE <= before, "{proposed:?}");
            prop_assert!(proposed.to_permille.1 + MIN_GAIN_PERMILLE <= before, "{proposed:?}");
            let closed = format!("h{}", cordoned + 1);
            prop_assert!(cordoned >= hosts.len() || proposed.to.as_str() != closed);
        }
        if let Some(first) = proposal.moves.first() {
            world.make(first);
            let predicted = world.load(&first.to).permille();
            prop_assert!(predicted.abs_diff(first.to_permille.1) <= 2, "{first:?} {predicted}");
        }
        for (host, index) in &world.bench.state.fleet.by_host {
            let has = world.bench.state.observed.hosts[host].resources;
            prop_assert!(index.memory_bytes <= has.memory_total_bytes);
            prop_assert!(index.disk_bytes <= has.disk_total_bytes);
        }
    }
}

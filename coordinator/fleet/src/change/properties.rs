//! What must hold after any sequence of commands: computed indexes and the ranking match the records, and a refused
//! command has changed nothing.
//!
//! Not here: what single commands do (tests).

use std::{cell::Cell, collections::BTreeSet};

use isyone_types::{
    ids::TenantName,
    plan::Lifecycle,
    report::{HostReport, Traffic},
    spec::Domain,
};
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::{
    desired::{Fleet, HostIndex, domains::DomainTrouble},
    testing::{self, Bench, name, resources},
    written,
};

const HOSTS: usize = 4;
const TENANTS: usize = 8;
/// Sleep time of the plan `standard`, milliseconds.
const SLEEP_AFTER_MS: i64 = 3_600_000;
/// Time between two reports while nobody uses anything, milliseconds.
const IDLE_STEP_MS: i64 = 55_000;
/// The first ones are those that tenants are created with.
const DOMAINS: usize = TENANTS + 2;

/// One thing that happens; numbers say to which tenant, host or domain.
#[derive(Debug, Clone)]
enum Step {
    Tenant(usize, TenantStep),
    Host(usize, HostStep),
    Domain(usize, DomainStep),
    Pass(i64),
    /// Nobody uses anything for [`SLEEP_AFTER_MS`], and all hosts report that.
    Idle,
}

#[derive(Debug, Clone)]
enum TenantStep {
    /// With this plan; with or without force.
    Create(usize, bool),
    Delete(bool),
    Restore,
    Suspend,
    Wake,
    Resume,
    Resize(usize),
    /// To an image that the edition does not have, or to what it has.
    Upgrade(bool),
    Cancel,
    PlatformPrimary,
}

#[derive(Debug, Clone)]
enum HostStep {
    Cordon(bool),
    /// Docker is broken or not, and this many GiB are in use.
    Report(bool, u64),
    Refuse(bool),
    Greet(bool),
    Remove,
}

/// With the tenant concerned.
#[derive(Debug, Clone)]
enum DomainStep {
    Add(usize, bool, bool),
    Remove(usize),
    Unreachable(usize),
    Reachable,
}

fn step() -> impl Strategy<Value = Step> {
    let (tenant, host, plan) = (0..TENANTS, 0..HOSTS, 0..3_usize);
    prop_oneof![
        6 => (tenant.clone(), plan.clone(), any::<bool>()).prop_map(|(t, p, force)| Step::Tenant(t, TenantStep::Create(p, force))),
        3 => (tenant.clone(), any::<bool>()).prop_map(|(t, purge)| Step::Tenant(t, TenantStep::Delete(purge))),
        2 => tenant.clone().prop_map(|t| Step::Tenant(t, TenantStep::Restore)),
        1 => tenant.clone().prop_map(|t| Step::Tenant(t, TenantStep::Suspend)),
        1 => tenant.clone().prop_map(|t| Step::Tenant(t, TenantStep::Wake)),
        1 => tenant.clone().prop_map(|t| Step::Tenant(t, TenantStep::Resume)),
        2 => (tenant.clone(), plan).prop_map(|(t, p)| Step::Tenant(t, TenantStep::Resize(p))),
        2 => (tenant.clone(), any::<bool>()).prop_map(|(t, other)| Step::Tenant(t, TenantStep::Upgrade(other))),
        1 => tenant.prop_map(|t| Step::Tenant(t, TenantStep::Cancel)),
        1 => (host.clone(), any::<bool>()).prop_map(|(h, cordoned)| Step::Host(h, HostStep::Cordon(cordoned))),
        6 => (host.clone(), prop::bool::weighted(0.1), 0..16_u64).prop_map(|(h, broken, used)| Step::Host(h, HostStep::Report(broken, used))),
        1 => (host.clone(), any::<bool>()).prop_map(|(h, refused)| Step::Host(h, HostStep::Refuse(refused))),
        1 => (host.clone(), any::<bool>()).prop_map(|(h, ahead)| Step::Host(h, HostStep::Greet(ahead))),
        3 => (0..TENANTS, 0..DOMAINS, any::<bool>(), any::<bool>()).prop_map(|(t, d, primary, checked)| Step::Domain(d, DomainStep::Add(t, primary, checked))),
        2 => (0..TENANTS, 0..DOMAINS).prop_map(|(t, d)| Step::Domain(d, DomainStep::Remove(t))),
        1 => (0..TENANTS).prop_map(|t| Step::Tenant(t, TenantStep::PlatformPrimary)),
        2 => (0..TENANTS, 0..DOMAINS).prop_map(|(t, d)| Step::Domain(d, DomainStep::Unreachable(t))),
        1 => (0..DOMAINS).prop_map(|d| Step::Domain(d, DomainStep::Reachable)),
        1 => host.prop_map(|h| Step::Host(h, HostStep::Remove)),
        1 => Just(Step::Idle),
        3 => prop_oneof![Just(1_000), Just(25_000), Just(3_600_000), Just(8 * 86_400_000_i64)].prop_map(Step::Pass),
    ]
}

fn domain(n: usize) -> Domain {
    name(&format!("t{n}.example.com"))
}

fn plan(n: usize) -> &'static str {
    ["small", "standard", "large"][n]
}

/// The command for a step, if there is one.
fn command(bench: &mut Bench, step: Step) -> Option<Command> {
    match step {
        Step::Tenant(t, step) => on_tenant(bench, &format!("t{t}"), step),
        Step::Host(h, step) => Some(on_host(bench, name(&format!("h{h}")), step)),
        Step::Domain(d, step) => Some(on_domain(bench, domain(d), step)),
        Step::Pass(ms) => {
            bench.now += ms;
            Some(Command::Tick)
        }
        Step::Idle => {
            idle(bench);
            Some(Command::Tick)
        }
    }
}

fn on_tenant(bench: &mut Bench, tenant: &str, step: TenantStep) -> Option<Command> {
    let sized = |p| name(plan(p));
    let own_domain = name(&format!("{tenant}.example.com"));
    let (name, request_id) = (name::<TenantName>(tenant), None);
    Some(match step {
        TenantStep::Create(p, force) => {
            let mut creation = bench.creation(tenant, plan(p));
            creation.force = force;
            creation.spec.domains = if p == 1 { vec![own_domain] } else { vec![] };
            Command::CreateTenant(Box::new(creation))
        }
        TenantStep::Delete(purge) => Command::DeleteTenant {
            name,
            purge,
            request_id,
            cancel_running: false,
        },
        TenantStep::Restore => Command::UndeleteTenant { name, request_id },
        TenantStep::Suspend => Command::SuspendTenant {
            name,
            request_id,
            cancel_running: false,
        },
        TenantStep::Wake => Command::WakeTenant { name },
        TenantStep::Resume => Command::ResumeTenant { name, request_id },
        TenantStep::Resize(p) => Command::ResizeTenant {
            name,
            plan: sized(p),
            request_id,
        },
        TenantStep::Upgrade(other) => Command::UpgradeTenant {
            name,
            odoo: other.then(|| testing::name("odoo:18.0-patched")),
            postgres: None,
            request_id,
        },
        TenantStep::Cancel => Command::CancelOperation {
            id: bench.state.fleet.tenants.get(&name)?.operation,
        },
        TenantStep::PlatformPrimary => Command::AddDomains(Box::new(AddDomains {
            name,
            domains: Vec::new(),
            primary: true,
            checked: false,
            request_id,
        })),
    })
}

fn on_host(bench: &Bench, host: HostName, step: HostStep) -> Command {
    let when = |so: bool, text: &str| if so { text.to_owned() } else { String::new() };
    match step {
        HostStep::Cordon(cordoned) => Command::CordonHost { host, cordoned },
        HostStep::Report(broken, used) => {
            let mut report = report(bench, &host);
            report.resources.memory_available_bytes -= used << 30;
            report.docker_error = when(broken, "no daemon");
            Command::Report {
                host,
                report: Box::new(report),
            }
        }
        HostStep::Refuse(refused) => Command::PlanResult {
            host,
            generation: 1.into(),
            error: when(refused, "disk full"),
        },
        HostStep::Greet(ahead) => Command::Greet {
            host,
            hello: crate::observed::Hello::default(),
            accepted_generation: if ahead { 1_000 } else { 0 }.into(),
        },
        HostStep::Remove => Command::RemoveHost { host },
    }
}

fn on_domain(bench: &Bench, domain: Domain, step: DomainStep) -> Command {
    let tenant = |t: usize| name::<TenantName>(&format!("t{t}"));
    match step {
        DomainStep::Add(t, primary, checked) => Command::AddDomains(Box::new(AddDomains {
            name: tenant(t),
            domains: vec![domain],
            primary,
            checked,
            request_id: None,
        })),
        DomainStep::Remove(t) => Command::RemoveDomain {
            name: tenant(t),
            domain,
            request_id: None,
        },
        DomainStep::Unreachable(t) => Command::DomainUnreachable(Box::new(DomainTrouble {
            domain,
            tenant: tenant(t),
            since: bench.now,
            unasked: false,
            found: "gone".to_owned(),
        })),
        DomainStep::Reachable => Command::DomainReachable {
            domain,
            found: String::new(),
        },
    }
}

/// Time passes in steps too small to count as a jump of the clock; after a jump nothing happens for an hour.
fn idle(bench: &mut Bench) {
    for _ in 0..=SLEEP_AFTER_MS / IDLE_STEP_MS {
        bench.now += IDLE_STEP_MS;
        let hosts: Vec<HostName> = bench.state.fleet.hosts.keys().cloned().collect();
        for host in hosts {
            let report = report(bench, &host);
            bench.report(&host, report.resources, report.tenants);
        }
        bench.apply(Command::Tick).unwrap();
    }
}

/// A report on which all is well, and nobody has used any tenant yet.
fn report(bench: &Bench, host: &HostName) -> HostReport {
    let placed = bench
        .state
        .fleet
        .by_host
        .get(host)
        .map(|i| i.tenants.clone())
        .unwrap_or_default();
    let unused = |tenant| {
        let mut report = bench.converged(tenant);
        report.traffic = Some(Traffic {
            last_active_at: Some(0),
            ..Traffic::default()
        });
        report
    };
    let tenants = placed.iter().map(unused).collect();
    HostReport {
        resources: resources(4, 16, 40),
        docker_error: String::new(),
        tenants,
        complete: true,
        jobs: Vec::new(),
        condition: Default::default(),
    }
}

/// The sums of a host, computed from its tenants.
fn summed(fleet: &Fleet, host: &HostName) -> (u64, u64, u64, u64, u64) {
    let mut sums = (0, 0, 0, 0, 0);
    for tenant in fleet.tenants.values().filter(|t| t.placement.host == *host) {
        sums.2 += tenant.size.disk_bytes;
        if matches!(tenant.desired, Lifecycle::Running | Lifecycle::Suspended) {
            sums.0 += tenant.size.memory_bytes;
            sums.1 += u64::from(tenant.size.cpu_millis);
            if tenant.activated_at.is_none() {
                sums.3 += tenant.size.memory_bytes;
                sums.4 += tenant.size.disk_bytes;
            }
        }
    }
    sums
}

fn check(bench: &Bench) {
    let fleet = &bench.state.fleet;
    let mut fresh = Fleet::default();
    fleet
        .tenants
        .values()
        .for_each(|t| fresh.put_tenant(t.clone()));
    fleet
        .operations
        .values()
        .for_each(|o| fresh.put_operation(o.clone()));
    assert_eq!(fresh.by_host, fleet.by_host);
    assert_eq!(fresh.by_domain, fleet.by_domain);
    assert_eq!(fresh.by_request, fleet.by_request);
    assert_eq!(fresh.ended, fleet.ended);
    assert_eq!(fresh.copying, fleet.copying);
    assert_eq!(fresh.quarantines, fleet.quarantines);
    for (host, i) in &fleet.by_host {
        let HostIndex {
            settling_memory_bytes,
            settling_disk_bytes,
            ..
        } = *i;
        let kept = (
            i.memory_bytes,
            i.cpu_millis,
            i.disk_bytes,
            settling_memory_bytes,
            settling_disk_bytes,
        );
        assert_eq!(kept, summed(fleet, host), "{host}");
    }
    for (domain, trouble) in &fleet.domain_troubles {
        assert_eq!(
            fleet.by_domain.get(domain),
            Some(&trouble.tenant),
            "trouble with a domain of nobody's"
        );
    }
    for tenant in fleet.tenants.values() {
        let primary = tenant
            .primary
            .iter()
            .all(|primary| tenant.spec.domains.contains(primary));
        assert!(primary, "{} has a primary that is not its own", tenant.name);
    }
    let quarantined = fleet
        .tenants
        .values()
        .filter(|t| t.desired == Lifecycle::Quarantined);
    let named: BTreeSet<_> = fleet
        .quarantines
        .iter()
        .map(|(_, name)| name.clone())
        .collect();
    assert_eq!(named, quarantined.map(|t| t.name.clone()).collect());
    for tenant in fleet.tenants.values().filter(|t| t.asleep_since.is_some()) {
        assert_eq!(
            tenant.desired,
            Lifecycle::Suspended,
            "{} is asleep",
            tenant.name
        );
    }
    assert!(
        bench
            .state
            .ranking
            .is_true(bench.state.placement_inputs(&bench.settings), bench.now)
    );
}

/// A copy that is brought from one state to another by what lies between them.
#[derive(Default)]
struct Copy {
    of: Fleet,
    records: written::Records,
}

impl Copy {
    fn follow(&mut self, fleet: &Fleet) {
        self.records.apply(&written::between(&self.of, fleet));
        self.of = fleet.clone();
        assert_eq!(written::fleet(self.records.contents()).as_ref(), Ok(fleet));
        assert!(written::between(fleet, &self.of).is_empty());
        let mut whole = written::Records::default();
        whole.apply(&written::everything(fleet));
        assert_eq!(written::fleet(whole.contents()).as_ref(), Ok(fleet));
    }
}

/// Applies all steps; returns how many sleeping tenants were seen, summed over the steps.
fn walk(steps: Vec<Step>) -> Result<usize, TestCaseError> {
    let mut bench = Bench::default();
    bench
        .settings
        .sleep_after_ms
        .insert(name("standard"), SLEEP_AFTER_MS);
    for h in 0..HOSTS {
        bench.host(&format!("h{h}"), resources(4, 16, 40));
    }
    let mut slept = 0;
    let mut copy = Copy::default();
    for (n, step) in steps.into_iter().enumerate() {
        let Some(command) = command(&mut bench, step) else {
            continue;
        };
        let (stored, version) = (bench.effects.writes.len(), bench.state.fleet.last_event);
        let stamp = Stamp {
            now: bench.now,
            steady: bench.now,
            id: bench.id(),
            actor: "ana".to_owned(),
        };
        let settings = bench.settings.clone();
        let result = apply(
            &mut bench.state,
            &settings,
            &stamp,
            &mut bench.effects,
            command,
        );
        if result.is_err() {
            // The writer relies on this: a refused command has changed nothing.
            prop_assert_eq!(
                (stored, version),
                (bench.effects.writes.len(), bench.state.fleet.last_event)
            );
        }
        // Time alone changes the ranking only at the next tick.
        let tick = Stamp {
            now: bench.now,
            steady: bench.now,
            id: bench.id(),
            actor: "coordinator".to_owned(),
        };
        apply(
            &mut bench.state,
            &settings,
            &tick,
            &mut bench.effects,
            Command::Tick,
        )
        .unwrap();
        check(&bench);
        // Now after one change, now after several.
        if n % 3 != 1 {
            copy.follow(&bench.state.fleet);
        }
        slept += bench
            .state
            .fleet
            .tenants
            .values()
            .filter(|t| t.asleep_since.is_some())
            .count();
    }
    Ok(slept)
}

#[test]
fn indexes_are_what_records_make_them() {
    let slept = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig {
        source_file: Some(file!()),
        ..ProptestConfig::with_cases(96)
    });
    let steps = prop::collection::vec(step(), 1..80);
    runner
        .run(&steps, |steps| {
            walk(steps).map(|more| slept.set(slept.get() + more))
        })
        .unwrap();
    assert!(
        slept.get() > 0,
        "no tenant ever slept: nothing was seen of that"
    );
}

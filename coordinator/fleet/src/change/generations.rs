//! Generations of hosts' plans: the next one, a raised incarnation, and what it means when a host is ahead of us.
//!
//! A host that has a newer plan than we ever made shows that our state is an older one: a copy of the database was
//! restored. Nothing is taken over silently then. The host keeps its plan, its plan's number here stands still, what it
//! reports of its tenants does not count, and operators are told; they go on with the newest database, or raise the
//! incarnation on purpose. Generations of tenants stay as they are in that older state: a host therefore still refuses to
//! purge a tenant that it ran under a higher one. But numbers that rise by one are not all that stands between a clock and
//! data: whatever is in quarantine then waits for a person. Not here: refusing plans (the agent's ledger).

use std::sync::Arc;

use isyone_types::{
    generation::Generation, ids::TenantName, operation::OperationState, plan::Lifecycle,
};

use super::{ChangeError, Edit, Outcome};
#[cfg(feature = "planted")]
use crate::planted;
use crate::{
    desired::{CopyRole, Host, Tenant},
    event::EventKind,
    observed::HostObserved,
    operation::{MoveStage, Operation, Procedure, RestoreStage},
    written::{RecordValue, Write},
};

/// Whether the host has a plan that this state has not made yet.
fn is_ahead(host: &Host, accepted: Generation) -> bool {
    accepted > host.plan_generation
}

/// Whether what the host reports of its tenants is about plans of this state. Until it has taken a plan of our
/// incarnation, equal numbers may stand for other contents.
pub(super) fn follows(host: &Host, seen: &HostObserved) -> bool {
    let accepted = seen.accepted_generation;
    accepted.incarnation() == host.plan_generation.incarnation() && !is_ahead(host, accepted)
}

/// What operators must know and do, when the host is ahead.
pub(super) fn ahead(host: &Host, accepted: Generation) -> Option<String> {
    is_ahead(host, accepted).then(|| {
        format!(
            "it has plan {accepted}, and the coordinator's newest for it is {}: the coordinator's database is older than \
             what this host has seen, so it keeps its plan and takes none. Start the coordinator on its newest database; \
             if that is lost, stop it and run `isy-coordinator raise-incarnation`",
            host.plan_generation
        )
    })
}

/// Epochs that a tenant may have had since the state that a coordinator is rebuilt from: far more than it ever moves.
const EPOCHS_LOST: u64 = 1 << 20;
/// Tenants that one message names.
const NAMED: usize = 10;

impl Edit<'_> {
    /// The generation that a change gives a host's plan. It stands still while the host is ahead of us, because the host
    /// takes none of these plans, and a number that rose past the host's would end that without anybody's decision; so, too, while
    /// nobody knows whether it is.
    pub(super) fn next_generation(&self, host: &Host) -> Generation {
        let seen = self.state.observed.hosts.get(&host.name);
        if host.unheard || seen.is_some_and(|seen| is_ahead(host, seen.accepted_generation)) {
            return host.plan_generation;
        }
        host.plan_generation.next_in(self.state.fleet.incarnation)
    }

    /// A host that was not heard since a rebuild has taken no plan that this state does not know: what has changed for it meanwhile
    /// gets a number now.
    pub(super) fn heard(&mut self, host: &Host, accepted: Generation) {
        if host.unheard && !is_ahead(host, accepted) {
            self.count_again(host);
            self.touch_host(&host.name);
        }
    }

    fn count_again(&mut self, host: &Host) {
        let mut heard = host.clone();
        heard.unheard = false;
        self.put_host(heard);
    }

    /// The first generation of a host that joins.
    pub(super) fn first_generation(&self) -> Generation {
        let fleet = &self.state.fleet;
        fleet.retired_generation.next_in(fleet.incarnation)
    }

    /// Remembers how far a host got that is removed.
    pub(super) fn retire_generation(&mut self, host: &Host) {
        if host.plan_generation > self.state.fleet.retired_generation {
            self.state.fleet.retired_generation = host.plan_generation;
            let highest = RecordValue::RetiredGeneration(host.plan_generation);
            self.effects.writes.push(Write::Put(highest));
        }
    }

    /// Starts a new incarnation: every host's plan becomes newer than whatever the host has.
    pub(super) fn raise_incarnation(&mut self) -> Result<Outcome, ChangeError> {
        let before = self.state.fleet.incarnation;
        if before >= Generation::MAX_INCARNATION {
            return Err(ChangeError::LastIncarnation(before));
        }
        let incarnation = before + 1;
        self.state.fleet.incarnation = incarnation;
        let stored = RecordValue::Incarnation(incarnation);
        self.effects.writes.push(Write::Put(stored));
        self.heed_what_may_have_moved();
        let held = self.hold_quarantines();
        let hosts: Vec<Arc<Host>> = self.state.fleet.hosts.values().cloned().collect();
        for host in &hosts {
            if host.unheard {
                self.count_again(host);
            }
            self.touch_host(&host.name);
        }
        let message = format!(
            "incarnation {incarnation}: {} hosts get plans of this state, whatever they have{held}",
            hosts.len()
        );
        self.event(EventKind::CoordinatorRebuilt, None, None, None, message);
        Ok(Outcome::Done)
    }

    /// What this older state calls deleted may have been brought back since, and be in use: no clock removes it, until an
    /// operator has decided. And what it calls the copy that a tenant has left may be the newer one: its time begins anew,
    /// once the tenant is well where this state has it. Returns what to say of the first.
    fn hold_quarantines(&mut self) -> String {
        #[cfg(feature = "planted")]
        if planted::has(planted::Bug::ClockDecides) {
            return String::new();
        }
        let tenants: Vec<Arc<Tenant>> = self.state.fleet.tenants.values().cloned().collect();
        let mut held: Vec<TenantName> = Vec::new();
        for tenant in tenants {
            let mut kept = (*tenant).clone();
            kept.keep_copies_until_well();
            if kept.desired == Lifecycle::Quarantined {
                kept.quarantine_held = true;
                held.push(kept.name.clone());
            }
            if kept != *tenant {
                self.put_tenant(kept);
            }
        }
        if held.is_empty() {
            return String::new();
        }
        let some: Vec<&str> = held.iter().take(NAMED).map(TenantName::as_str).collect();
        let more = if held.len() > NAMED { ", …" } else { "" };
        format!(
            "; {} quarantines do not end before somebody has decided: `isyctl tenant undelete NAME`, or `delete NAME` again \
             ({}{more})",
            held.len(),
            some.join(", ")
        )
    }

    /// Moves that this older state shows under way may be over: what it calls an incoming copy may be the one that users
    /// have written to since. They end here, and both copies are kept, so that operators can look which one is right.
    /// And what has happened since has taken epochs that this state does not know of: places get higher ones.
    fn heed_what_may_have_moved(&mut self) {
        let tenants: Vec<Arc<Tenant>> = self.state.fleet.tenants.values().cloned().collect();
        for tenant in tenants {
            let known = tenant.places().map(|(place, _)| place.epoch);
            let highest = known.fold(tenant.last_epoch, u64::max);
            let mut kept = Tenant {
                last_epoch: highest + EPOCHS_LOST,
                ..(*tenant).clone()
            };
            for copy in &mut kept.copies {
                // It may have taken over since.
                if matches!(copy.role, CopyRole::Standby(_)) {
                    copy.role = CopyRole::Fenced { until: None };
                    kept.generation = tenant.generation + 1;
                }
            }
            self.put_tenant(kept);
        }
        let running = self.state.fleet.running.iter();
        let moves: Vec<Arc<Operation>> = running
            .filter_map(|id| self.state.fleet.operations.get(id))
            .filter(|operation| match &operation.procedure {
                Procedure::Move(to) => to.stage < MoveStage::Fence,
                Procedure::Restore(to) => to.stage <= RestoreStage::Start,
                Procedure::Converge(_) => false,
            })
            .cloned()
            .collect();
        for operation in moves {
            let Some(tenant) = self.subject(&operation) else {
                continue;
            };
            let mut kept = (*tenant).clone();
            for copy in &mut kept.copies {
                if matches!(copy.role, CopyRole::Incoming) {
                    copy.role = CopyRole::Fenced { until: None };
                }
            }
            // In its place: its host knows whether what was restored is whole, and if it is not, puts back what it has set aside.
            if matches!(&operation.procedure, Procedure::Restore(to) if to.in_place) {
                kept.from_backup = None;
            }
            kept.halted = false;
            kept.hold_ms = None;
            kept.generation += 1;
            self.put_tenant(kept);
            // Nothing is waited for: where the move is over, the old host says that it never runs the tenant again.
            let why = format!(
                "the coordinator was rebuilt from an older state in the midst of it; {}",
                what_now(&operation)
            );
            self.end(&operation, OperationState::Failed, why);
        }
    }
}

/// What is left of an operation that was cut off, and what to do.
fn what_now(operation: &Operation) -> String {
    match &operation.procedure {
        Procedure::Restore(to) if to.in_place => {
            "its host knows whether what was restored is whole, and puts back what it has set aside if it is not".to_owned()
        }
        // It may have ended since, and people may work with it.
        Procedure::Restore(_) => format!(
            "what was restored is kept, as it may be in use by now: look at it, and if it is not whole, purge it and restore again \
             (`isyctl tenant delete {} --purge`)",
            operation.tenant().map_or("NAME", TenantName::as_str)
        ),
        Procedure::Move(_) | Procedure::Converge(_) => {
            "the copy on its new host is kept, as it may be newer than the one on the old host".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use isyone_types::ids::HostName;

    use super::*;
    use crate::{
        change::Command,
        observed::Hello,
        state::State,
        testing::{Bench, name, resources},
        written::{self, Records},
    };

    fn greet(bench: &mut Bench, host: &HostName, accepted: Generation) {
        let greet = Command::Greet {
            host: host.clone(),
            hello: Hello::default(),
            accepted_generation: accepted,
        };
        bench.apply(greet).unwrap();
    }

    fn told(bench: &Bench, kind: &EventKind) -> usize {
        let events = &bench.state.fleet.events;
        events.iter().filter(|event| event.kind == *kind).count()
    }

    /// What is stored after these commands, under a coordinator that has just started.
    fn restarted(mut bench: Bench) -> Bench {
        let mut disk = Records::default();
        disk.apply(&bench.effects.writes);
        let fleet = written::fleet(disk.contents()).unwrap();
        assert!(fleet == bench.state.fleet, "all of it is stored");
        bench.state = State::new(fleet, bench.now);
        bench
    }

    fn raised(mut bench: Bench) -> Bench {
        bench.apply(Command::RaiseIncarnation).unwrap();
        restarted(bench)
    }

    #[test]
    fn a_host_that_is_ahead_keeps_its_plan_and_operators_are_told_once() {
        let mut bench = Bench::default();
        let h1 = bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        let ours = bench.state.fleet.hosts[&h1].plan_generation;
        for _ in 0..2 {
            greet(&mut bench, &h1, Generation::new(0, 500));
            bench
                .apply(Command::PlanResult {
                    host: h1.clone(),
                    generation: ours,
                    error: "older".to_owned(),
                })
                .unwrap();
        }
        assert_eq!(told(&bench, &EventKind::HostPlanAhead), 1);
        assert_eq!(told(&bench, &EventKind::HostPlanRefused), 0);
        let why = bench.state.observed.hosts[&h1].plan_error.clone();
        assert!(why.contains("it has plan 500") && why.contains("raise-incarnation"));
        let suspend = Command::SuspendTenant {
            name: name("alfa"),
            request_id: None,
            cancel_running: true,
        };
        bench.apply(suspend).unwrap();
        assert_eq!(bench.state.fleet.hosts[&h1].plan_generation, ours);
        let alfa: TenantName = name("alfa");
        let report = bench.converged(&alfa);
        bench.report(&h1, resources(8, 32, 100), vec![report]);
        let id = bench.state.fleet.tenants[&alfa].operation;
        let (state, said) = bench.progress(id);
        assert_eq!(state, OperationState::Retrying);
        assert!(said.ends_with(&why), "{said}");
        assert!(
            bench.create("beta", "small").is_err(),
            "no new tenant is placed on it"
        );
    }

    /// As a coordinator that was rebuilt begins.
    fn rebuilt(bench: &mut Bench) {
        let hosts: Vec<_> = bench.state.fleet.hosts.values().cloned().collect();
        for host in hosts {
            let mut unheard = (*host).clone();
            unheard.unheard = true;
            let unheard = Arc::new(unheard);
            let put = Write::Put(RecordValue::Host(unheard.clone()));
            bench.effects.writes.push(put);
            bench
                .state
                .fleet
                .hosts
                .insert(unheard.name.clone(), unheard);
        }
    }

    #[test]
    fn after_a_rebuild_no_number_passes_a_hosts_before_that_was_heard() {
        let mut bench = Bench::default();
        let [h1, h2] = ["h1", "h2"].map(|host| bench.host(host, resources(8, 32, 100)));
        bench.create("alfa", "small").unwrap();
        let of = |bench: &Bench, host: &HostName| bench.state.fleet.hosts[host].plan_generation;
        let ours = [of(&bench, &h1), of(&bench, &h2)];
        rebuilt(&mut bench);
        let mut bench = restarted(bench);
        let one_more = Generation::new(0, ours[0].number() + 1);
        // Whatever the coordinator does meanwhile, of itself or for operators.
        for _ in 0..3 {
            for host in [&h1, &h2] {
                let cordon = |cordoned| Command::CordonHost {
                    host: host.clone(),
                    cordoned,
                };
                bench.apply(cordon(true)).unwrap();
                bench.apply(cordon(false)).unwrap();
            }
            let restart = Command::RestartTenant {
                name: name("alfa"),
                database: false,
                settings: false,
                request_id: None,
            };
            let _ = bench.apply(restart);
        }
        assert_eq!([of(&bench, &h1), of(&bench, &h2)], ours);
        greet(&mut bench, &h1, one_more);
        assert_eq!(told(&bench, &EventKind::HostPlanAhead), 1);
        let mut bench = restarted(bench);
        greet(&mut bench, &h1, one_more);
        assert_eq!(of(&bench, &h1), ours[0], "also after another start");
        // One that has nothing newer goes on, with what has changed.
        greet(&mut bench, &h2, ours[1]);
        assert!(of(&bench, &h2) > ours[1] && !bench.state.fleet.hosts[&h2].unheard);
        // On a coordinator that is stopped, which has heard of nobody.
        let bench = raised(restarted(bench));
        assert!(of(&bench, &h1) > one_more && !bench.state.fleet.hosts[&h1].unheard);
    }

    #[test]
    fn a_raised_incarnation_is_stored_and_above_all_plans() {
        let mut bench = Bench::default();
        let (h1, h2) = (
            bench.host("h1", resources(8, 32, 100)),
            bench.host("h2", resources(8, 32, 100)),
        );
        let before = bench.state.fleet.hosts[&h1].plan_generation;
        let mut bench = raised(bench);
        assert_eq!(told(&bench, &EventKind::CoordinatorRebuilt), 1);
        let fleet = &bench.state.fleet;
        assert_eq!(fleet.incarnation, 1);
        let generation = fleet.hosts[&h1].plan_generation;
        assert_eq!(generation, Generation::new(1, before.number() + 1));
        assert_eq!(fleet.hosts[&h2].plan_generation.incarnation(), 1);
        greet(&mut bench, &h1, Generation::new(0, 500));
        assert_eq!(told(&bench, &EventKind::HostPlanAhead), 0);
        let mut bench = raised(bench);
        greet(&mut bench, &h1, Generation::new(3, 1));
        assert_eq!(
            told(&bench, &EventKind::HostPlanAhead),
            1,
            "a higher incarnation is ahead, too"
        );
        assert_eq!(bench.state.fleet.incarnation, 2, "and is not followed");
    }

    #[test]
    fn a_report_counts_once_the_host_has_taken_a_plan_of_this_incarnation() {
        let mut bench = Bench::default();
        let h1 = bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        let mut bench = raised(bench);
        let alfa: TenantName = name("alfa");
        let said = bench.converged(&alfa);
        greet(&mut bench, &h1, Generation::new(0, 500));
        bench.report(&h1, resources(8, 32, 100), vec![said.clone()]);
        assert!(bench.state.fleet.tenants[&alfa].activated_at.is_none());
        assert!(bench.state.observed.tenants_seen() == 0);
        let taken = Command::PlanResult {
            host: h1.clone(),
            generation: bench.state.fleet.hosts[&h1].plan_generation,
            error: String::new(),
        };
        bench.apply(taken).unwrap();
        // The same number, but the board still shows what was done for an operation that we do not know.
        let mut late = said.clone();
        late.operation = Some(uuid::Uuid::from_u128(9));
        bench.report(&h1, resources(8, 32, 100), vec![late]);
        assert!(bench.state.fleet.tenants[&alfa].activated_at.is_none());
        bench.report(&h1, resources(8, 32, 100), vec![said]);
        assert!(bench.state.fleet.tenants[&alfa].activated_at.is_some());
    }

    #[test]
    fn a_machine_that_was_removed_joins_above_the_plan_that_it_may_still_have() {
        let mut bench = Bench::default();
        let h1 = bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        let held = bench.state.fleet.hosts[&h1].plan_generation;
        for purge in [false, true] {
            let delete = Command::DeleteTenant {
                name: name("alfa"),
                purge,
                request_id: None,
                cancel_running: true,
            };
            bench.apply(delete).unwrap();
        }
        let gone = bench.converged(&name("alfa"));
        bench.report(&h1, resources(8, 32, 100), vec![gone]);
        bench.apply(Command::RemoveHost { host: h1 }).unwrap();
        let mut bench = restarted(bench);
        let again = bench.host("h9", resources(8, 32, 100));
        assert!(bench.state.fleet.hosts[&again].plan_generation > held);
    }

    #[test]
    fn the_last_incarnation_is_not_passed() {
        let mut bench = Bench::default();
        bench.state.fleet.incarnation = Generation::MAX_INCARNATION;
        let refused = bench.apply(Command::RaiseIncarnation).unwrap_err();
        assert!(matches!(refused, ChangeError::LastIncarnation(_)));
        assert!(bench.effects.writes.is_empty());
    }
}

//! Whatever happens in whatever order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Pass,
    Report(JobState, i64),
    Say(i64, bool),
    Ask,
    Suspend,
    Resume,
    Able(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop::sample::select(vec![
        JobState::Waiting,
        JobState::Running,
        JobState::Retrying,
        JobState::Done,
        JobState::Failed,
    ]);
    prop_oneof![
        3 => Just(Step::Pass),
        3 => (state, -DAY..DAY).prop_map(|(state, at)| Step::Report(state, at)),
        2 => (-DAY..DAY, any::<bool>()).prop_map(|(at, gap)| Step::Say(at, gap)),
        1 => Just(Step::Ask),
        1 => Just(Step::Suspend),
        1 => Just(Step::Resume),
        1 => any::<bool>().prop_map(Step::Able),
    ]
}

fn take(bench: &mut Bench, host: &HostName, tenant: &TenantName, step: Step) {
    let now = bench.now;
    match step {
        Step::Pass => drop(pass(bench)),
        Step::Report(state, at) => {
            let order = of(bench, tenant).order;
            let made = snapshot(1, BackupWork::Base, now + at);
            let jobs = order.map(|order| job(order.id, state, Some(made)));
            report(bench, host, jobs.into_iter().collect(), None);
        }
        Step::Say(at, gap) => {
            let mut told = said("main", now + at, now + at);
            told.destinations[0].gap_since = gap.then_some(now);
            report(bench, host, Vec::new(), Some(told));
        }
        Step::Ask => {
            let tenants = vec![tenant.clone()];
            let labels = Vec::new();
            let _ = bench.apply(Command::AskForBackup(Box::new(AskForBackup {
                tenants,
                labels,
            })));
        }
        Step::Suspend => {
            let _ = bench.apply(Command::SuspendTenant {
                name: tenant.clone(),
                request_id: None,
                cancel_running: true,
            });
        }
        Step::Resume => {
            let _ = bench.apply(Command::ResumeTenant {
                name: tenant.clone(),
                request_id: None,
            });
        }
        Step::Able(able) => greet(bench, host, able),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order: what is stored is what there is, nothing is known of the future, a plan says what the
    /// record says, and no plan of one generation has two contents.
    #[test]
    fn what_is_stored_is_what_there_is(steps in prop::collection::vec((step(), 0..2 * HOUR), 1..60)) {
        let (mut bench, host, alfa) = backed_up(&["main"]);
        let mut plans = std::collections::BTreeMap::new();
        for (step, passes) in steps {
            bench.now += passes;
            take(&mut bench, &host, &alfa, step);
            let backups = of(&bench, &alfa);
            let plan = plan_of(&bench, &host);
            let able = bench.state.fleet.hosts[&host].makes_backups;
            prop_assert_eq!(plan.jobs.len(), usize::from(able && backups.order.is_some()));
            let digest = plan.digest();
            prop_assert_eq!(plans.entry(plan.generation).or_insert(digest.clone()), &digest);
            if let Some(made) = backups.made.get("main") {
                let newest = made.repository.base_at.max(made.repository.shipped_to);
                prop_assert!(newest.unwrap_or(0) <= bench.now + backups::CLOCKS_DIFFER_MS);
            }
        }
        prop_assert_eq!(restart(&bench).fleet, bench.state.fleet);
    }
}

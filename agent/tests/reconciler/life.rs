//! An agent's loops over a fake engine, for tests that end and begin them.
//!
//! Not here: what is tested.

use std::{path::Path, sync::Arc, time::Duration};

use isyone_agent::{
    base::config::DataDir,
    host::{Host, Pace, board::TenantStatus, leases, ledger::InForce, relay},
    tenant::reconcile,
    testing::{fake_docker::FakeDocker, host_plan},
};
use isyone_proto::plan::TenantPlan;
use isyone_proto::report::TenantProgress;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

pub(super) struct Life {
    pub(super) host: Arc<Host>,
    plans: watch::Sender<InForce>,
    task: JoinHandle<()>,
    stop: CancellationToken,
    generation: u64,
}

fn in_force(generation: u64, tenants: &[TenantPlan]) -> InForce {
    InForce {
        plan: Some(Arc::new(host_plan(generation, tenants.to_vec()))),
        stale: vec![],
        unasked: false,
    }
}

impl Life {
    pub(super) fn begin(fake: &Arc<FakeDocker>, dir: &Path, tenants: &[TenantPlan]) -> Self {
        Self::begin_at(Pace::hasty(), fake, dir, tenants)
    }

    pub(super) fn begin_at(
        pace: Pace,
        fake: &Arc<FakeDocker>,
        dir: &Path,
        tenants: &[TenantPlan],
    ) -> Self {
        Self::begin_on(Self::host(pace, fake, dir), tenants)
    }

    pub(super) fn host(pace: Pace, fake: &Arc<FakeDocker>, dir: &Path) -> Host {
        let data = DataDir::new(dir.join("agent"));
        data.create().unwrap();
        let address = [127, 0, 0, 1].into();
        Host::new(fake.clone(), fake.clone(), data, address, pace).unwrap()
    }

    pub(super) fn begin_on(host: Host, tenants: &[TenantPlan]) -> Self {
        let host = Arc::new(host);
        host.leases.adapt(&in_force(1, tenants));
        let (plans, receiver) = watch::channel(in_force(1, tenants));
        let stop = CancellationToken::new();
        tokio::spawn(leases::run(host.clone(), stop.clone()));
        if host.relay.is_on() {
            tokio::spawn(relay::run(host.clone(), receiver.clone(), stop.clone()));
        }
        let task = tokio::spawn(reconcile::run(host.clone(), receiver, stop.clone()));
        Self {
            host,
            plans,
            task,
            stop,
            generation: 1,
        }
    }

    pub(super) fn plan(&mut self, tenants: &[TenantPlan]) {
        self.generation += 1;
        let next = in_force(self.generation, tenants);
        self.host.leases.adapt(&next);
        self.plans.send_replace(next);
    }

    pub(super) fn status(&self, name: &str) -> Option<TenantStatus> {
        self.host
            .board
            .get(&name.parse().unwrap())
            .map(std::sync::Arc::unwrap_or_clone)
    }

    pub(super) async fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let poll = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(Duration::from_secs(20), poll).await.is_err() {
            panic!("{what} never came; board: {:#?}", self.host.board.entries());
        }
    }

    pub(super) async fn converged(&self, plan: &TenantPlan) {
        let fits = |s: &TenantStatus| {
            s.progress == TenantProgress::Converged && s.generation == plan.generation
        };
        self.wait("convergence", |l| {
            l.status(plan.name.as_str()).as_ref().is_some_and(fits)
        })
        .await;
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Exactly one stack of that name, running on its own data.
pub(super) fn assert_one_running_stack(fake: &FakeDocker, name: &str) {
    let (containers, networks, volumes) = fake.things();
    let of = |list: &[String]| {
        list.iter()
            .filter(|n| n.contains(name))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(&containers),
        [format!("odoo_{name}"), format!("postgres_{name}")]
    );
    assert_eq!(of(&networks), [format!("isyone_{name}")]);
    assert_eq!(
        of(&volumes),
        [format!("odoo_data_{name}"), format!("pgdata_{name}")]
    );
    assert_eq!(of(&fake.running()), of(&containers));
    assert_ne!(fake.database_keys(name).as_deref(), None);
    assert_eq!(fake.violations(), Vec::<String>::new());
}

//! isyone's side: the agent's library with the real engine, its tasks running in the host's network namespace.
//!
//! Not here: what is compared (the parent).

use std::{
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ipnet::Ipv4Net;
use isyone_agent::{
    base::config::DataDir,
    docker::engine::Engine,
    host::{
        Host, Pace, addon,
        board::TenantStatus,
        ledger::{InForce, Ledger},
        probe::NetProbe,
    },
    plan,
    tenant::reconcile,
    testing,
};
use isyone_proto::report::TenantProgress;
use isyone_proto::{
    plan::{DesiredState, TenantPlan},
    spec::{Bounds, Size},
};
use isyone_tests::e2e::{bare::Bare, docker::Docker};
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{IMAGES, PATIENCE};

/// An agent without a coordinator.
pub(super) struct Ours {
    runtime: Runtime,
    docker: Docker,
    address: std::net::IpAddr,
    data: PathBuf,
    ledger: Ledger,
    generation: u64,
    slots: u32,
    tenants: Vec<TenantPlan>,
    life: Option<Life>,
}

/// What runs from the agent's start to its end.
struct Life {
    host: Arc<Host>,
    plans: watch::Sender<InForce>,
    stop: CancellationToken,
    reconciler: JoinHandle<()>,
}

/// Copies of the files that the agent writes for a tenant, and the plan they come from.
#[derive(Debug, Clone)]
pub(super) struct TenantFiles {
    pub(super) dir: PathBuf,
    pub(super) plan: TenantPlan,
}

impl Ours {
    /// Starts an agent on this host, with its data in `data`.
    pub(super) fn start(bare: &Bare, data: &Path) -> Result<Self> {
        let namespace = std::fs::File::open(&bare.namespace)
            .with_context(|| format!("the host's network, {}", bare.namespace.display()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2) // as in the program
            .on_thread_start(move || {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                if let Err(e) =
                    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
                {
                    eprintln!(
                        "a thread is not in the host's network, so nothing will get healthy: {e}"
                    );
                }
            })
            .enable_all()
            .build()?;
        std::fs::create_dir_all(data)?;
        DataDir::new(data).create()?;
        addon::write(&DataDir::new(data).addons())?; // mounted into each Odoo
        let (ledger, _) = Ledger::open(&data.join("plan.json"))?;
        let mut ours = Self {
            runtime,
            docker: bare.docker.clone(),
            address: bare.address.parse()?,
            data: data.to_owned(),
            ledger,
            generation: 0,
            slots: 0,
            tenants: Vec::new(),
            life: None,
        };
        ours.live()?;
        Ok(ours)
    }

    /// Starts the agent's reconciler from the ledger.
    fn live(&mut self) -> Result<()> {
        let engine = Arc::new(Engine::new(&self.docker.host()));
        let host = Host::new(
            engine,
            Arc::new(NetProbe),
            DataDir::new(&self.data),
            self.address,
            Pace::default(),
        )?;
        let host = Arc::new(host);
        let (plans, receiver) = watch::channel(self.ledger.in_force());
        let stop = CancellationToken::new();
        let reconciler = self
            .runtime
            .spawn(reconcile::run(host.clone(), receiver, stop.clone()));
        self.life = Some(Life {
            host,
            plans,
            stop,
            reconciler,
        });
        Ok(())
    }

    /// Stops the agent; its tenants keep running.
    fn die(&mut self) {
        if let Some(life) = self.life.take() {
            life.stop.cancel();
            // If it panicked, the message has been printed already.
            let _ = self.runtime.block_on(life.reconciler);
        }
    }

    /// Stops the agent and removes what it has made.
    pub(super) fn end(mut self) {
        self.die();
        self.docker.clean();
    }

    fn plan(&mut self, name: &str) -> TenantPlan {
        let mut plan = testing::tenant_plan(name);
        let n = self.slots;
        self.slots += 1;
        let first = u32::from(Ipv4Addr::new(10, 240, 0, 0));
        plan.subnet = Ipv4Net::new_assert((first + n * 16).into(), 28);
        (plan.http_port, plan.websocket_port) = (20_000 + 2 * n as u16, 20_001 + 2 * n as u16);
        plan.uid = uuid::Uuid::from_u128(u128::from(n) + 1);
        plan.operation = Some(uuid::Uuid::from_u128(u128::from(n) + 1_000_000));
        let [odoo, postgres] = IMAGES.map(str::parse);
        (plan.odoo_image, plan.postgres_image) =
            (odoo.expect("an image"), postgres.expect("an image"));
        plan.size = Size {
            memory_bytes: 64 << 20,
            cpu_millis: 500,
            disk_bytes: 1 << 30,
            workers: 0,
            bounds: Bounds::default(),
        };
        plan
    }

    /// Delivers a plan as the coordinator would.
    fn order(&mut self) -> Result<()> {
        self.generation += 1;
        let life = self.life.as_ref().context("no agent runs")?;
        self.ledger
            .accept(testing::host_plan(self.generation, self.tenants.clone()))?;
        life.plans.send_replace(self.ledger.in_force());
        Ok(())
    }

    fn wait(&self, name: &str, what: &str, fits: impl Fn(&TenantStatus) -> bool) -> Result<()> {
        let life = self.life.as_ref().context("no agent runs")?;
        let (begin, name) = (Instant::now(), name.parse()?);
        loop {
            let status = life.host.board.get(&name);
            match status {
                Some(status) if fits(&status) => return Ok(()),
                Some(status) if status.progress == TenantProgress::Failing => {
                    bail!("{name}: {}", status.message)
                }
                status if begin.elapsed() > PATIENCE => bail!("{name} is not {what}: {status:?}"),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn wait_converged(&self, plan: &TenantPlan) -> Result<()> {
        let fits = |s: &TenantStatus| {
            s.progress == TenantProgress::Converged && s.generation == plan.generation
        };
        self.wait(plan.name.as_str(), "converged", fits)
    }

    /// Adds a tenant: the time from its plan's arrival to healthy.
    pub(super) fn apply(&mut self, name: &str) -> Result<Duration> {
        let plan = self.plan(name);
        self.tenants.push(plan.clone());
        let begin = Instant::now();
        self.order()?;
        self.wait_converged(&plan)?;
        Ok(begin.elapsed())
    }

    /// Adds many tenants at once.
    pub(super) fn apply_all(&mut self, names: &[String]) -> Result<()> {
        let plans: Vec<TenantPlan> = names.iter().map(|name| self.plan(name)).collect();
        self.tenants.extend(plans.iter().cloned());
        self.order()?;
        plans.iter().try_for_each(|plan| self.wait_converged(plan))
    }

    /// Removes a tenant with its volumes and directory.
    pub(super) fn purge(&mut self, name: &str) -> Result<()> {
        let tenant = self
            .tenants
            .iter_mut()
            .find(|t| t.name.as_str() == name)
            .context("no such tenant")?;
        tenant.desired = DesiredState::Purged;
        tenant.purge_now = true;
        tenant.generation += 1;
        self.order()?;
        self.wait(name, "gone", |s| s.absent)?;
        self.tenants.retain(|t| t.name.as_str() != name);
        self.order()
    }

    /// Copies of the files that the agent writes for a new tenant of this name, in `to`, with paths adapted and other
    /// labels. The tenant itself is removed again.
    pub(super) fn files_of(&mut self, name: &str, to: &Path) -> Result<TenantFiles> {
        self.apply(name)?;
        let from = self.data.join("tenants").join(name).canonicalize()?;
        let life = self.life.as_ref().context("no agent runs")?;
        let homes = self.runtime.block_on(life.host.homes())?;
        let home = homes.tenants().join(name);
        let paths = [(home, to.to_owned()), (from.clone(), to.to_owned())];
        copy_adapted(&from, to, &paths)?;
        // What PostgreSQL mounts of the home beside its volume.
        std::fs::create_dir_all(plan::home::spool(to))?;
        let plan = self
            .tenants
            .iter()
            .find(|t| t.name.as_str() == name)
            .context("no such tenant")?
            .clone();
        self.purge(name)?;
        Ok(TenantFiles {
            dir: to.to_owned(),
            plan,
        })
    }

    /// Restarts the agent: the time until it has found every tenant as it should be.
    pub(super) fn start_over(&mut self) -> Result<Duration> {
        self.die();
        let begin = Instant::now();
        self.live()?;
        self.tenants
            .iter()
            .try_for_each(|plan| self.wait_converged(plan))?;
        Ok(begin.elapsed())
    }
}

/// Copies a directory of files and directories. In compose files `paths` are replaced, and labels become the bench's own: the
/// agent stops containers that carry its labels and are in no plan.
fn copy_adapted(here: &Path, there: &Path, paths: &[(PathBuf, PathBuf)]) -> Result<()> {
    std::fs::create_dir_all(there)?;
    for entry in std::fs::read_dir(here)? {
        let entry = entry?;
        let (path, target) = (entry.path(), there.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_adapted(&path, &target, paths)?;
            continue;
        }
        std::fs::copy(&path, &target).with_context(|| format!("copying {}", path.display()))?;
        if path.extension().is_some_and(|e| e == "yml") {
            let text = std::fs::read_to_string(&path)?;
            let text = paths.iter().fold(text, |text, (old, new)| {
                text.replace(&old.display().to_string(), &new.display().to_string())
            });
            std::fs::write(&target, text.replace("one.isy.", "bench.isy."))?;
        }
    }
    Ok(())
}

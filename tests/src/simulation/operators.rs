//! What operators ask of the fleet, and what happens as time passes.

use isyone_fleet::{
    change::Command,
    event::EventKind,
    testing::{Bench, name},
};
use isyone_proto::ids::TenantName;
use rand::RngExt as _;

use super::Simulation;

/// Tenant names that operators use; few, so that they collide.
const TENANTS: [&str; 12] = [
    "alfa", "beta", "gama", "delta", "echo", "fox", "golf", "hotel", "india", "juliet", "kilo",
    "lima",
];

impl Simulation {
    pub(super) fn operator(&mut self) {
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
                cancel_running: false,
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
            9 => Command::UndeleteTenant {
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
                cancel_running: false,
            },
        };
        let deletes = matches!(command, Command::DeleteTenant { .. });
        let restores = matches!(command, Command::UndeleteTenant { .. });
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

    pub(super) fn pass_time(&mut self) {
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
        (self.summary.purged, self.summary.slept) =
            (told(EventKind::TenantPurged), told(EventKind::TenantAsleep));
    }
}

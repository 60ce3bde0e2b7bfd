//! What operators ask of the fleet, and what happens as time passes.

use isyone_fleet::{
    change::Command,
    desired::CopyRole,
    event::EventKind,
    testing::{self, Bench, name},
};
use isyone_proto::ids::{HostName, TenantName};
use rand::RngExt as _;

use super::{Simulation, invariants::is_held};

/// Tenant names that operators use; few, so that they collide.
const TENANTS: [&str; 12] = [
    "alfa", "beta", "gama", "delta", "echo", "fox", "golf", "hotel", "india", "juliet", "kilo",
    "lima",
];

/// How many of them are used where tenants are to move a lot.
const FEW: usize = 4;

impl Simulation {
    pub(super) fn operator(&mut self) {
        if !self.unanswered.is_empty() && self.chance(500) {
            let (command, tenant) = self.unanswered.swap_remove(0);
            self.create(command, tenant);
            return;
        }
        // Epochs and places show their worth in moves, and only tenants that have run can move.
        let few = self.shape.rebuilds || self.shape.moves || self.shape.standbys;
        let (names, moves) = if few {
            (FEW, 500)
        } else {
            (TENANTS.len(), 150)
        };
        let tenant: TenantName = name(TENANTS[self.rng.random_range(0..names)]);
        // Leases are agreed on where nobody asks for anything else.
        if self.shape.leases && self.chance(950) {
            return;
        }
        match self.rng.random_range(0..19u32) {
            _ if self.shape.standbys && self.chance(600) => self.order_standby(&tenant),
            _ if self.chance(moves) => {
                // What has been moved is often moved back.
                let lately = self.moved_lately().filter(|_| self.chance(500));
                self.order(&lately.unwrap_or(tenant), 0);
            }
            // What the clock does shows its worth in who is deleted, and brought back.
            _ if self.shape.rebuilds && self.chance(150) => {
                let lately = self.moved_lately().filter(|_| self.chance(500));
                let which = if self.chance(500) { 12 } else { 14 };
                self.order(&lately.unwrap_or(tenant), which);
            }
            _ if few && self.chance(700) => self.create_some(tenant),
            0..=4 => self.create_some(tenant),
            5 => {
                let host = self.pick_host();
                let cordoned = self.chance(400);
                self.count(Command::CordonHost { host, cordoned });
            }
            6 | 7 => self.cancel(&tenant),
            which => self.order(&tenant, which),
        }
    }

    pub(super) fn request_id(&mut self) -> Option<String> {
        Some(format!("r{}", self.rng.random_range(0..1_000_000u32)))
    }

    fn plan(&mut self) -> &'static str {
        ["small", "standard", "large"][self.rng.random_range(0..3usize)]
    }

    /// A few tenants are created, and all that follows from it is done.
    pub(super) fn agree_on_leases(&mut self) {
        for tenant in TENANTS.into_iter().take(FEW) {
            self.create_some(name(tenant));
        }
        self.rounds(60);
    }

    fn create_some(&mut self, tenant: TenantName) {
        let plan = self.plan();
        let mut creation = Bench::default().creation(tenant.as_str(), plan);
        creation.uid = self.id();
        creation.request_id = self.request_id();
        creation.force = self.chance(100);
        self.create(Command::CreateTenant(Box::new(creation)), tenant);
    }

    /// Asks for something about a tenant; `which` says what, and a move otherwise.
    fn order(&mut self, tenant: &TenantName, which: u32) {
        let (name, request_id) = (tenant.clone(), self.request_id());
        let cancel_running = self.chance(300);
        let command = match which {
            8 => Command::RestartTenant {
                name,
                database: self.chance(300),
                settings: false,
                request_id,
            },
            9 => Command::SuspendTenant {
                name,
                request_id,
                cancel_running,
            },
            10 => Command::ResumeTenant { name, request_id },
            11 => Command::ResizeTenant {
                name,
                plan: testing::name(self.plan()),
                request_id,
            },
            18 => Command::UpgradeTenant {
                name,
                odoo: None,
                postgres: None,
                request_id,
            },
            12 => Command::UndeleteTenant { name, request_id },
            13 => Command::WakeTenant { name },
            14 | 15 => Command::DeleteTenant {
                name,
                purge: self.chance(200),
                request_id,
                cancel_running,
            },
            _ => Command::MoveTenant {
                to: self.other_host(tenant).into(),
                // The shorter one is often too short for messages that are lost: it goes back then.
                // What an older state breaks shows in moves that have ended, and plain ones take fewer messages.
                max_pause_ms: match self.rng.random_range(0..6u32) {
                    0 => Some(5_000),
                    1 if !self.shape.rebuilds => Some(60_000),
                    // Nor is there time for as many where they go to and fro.
                    2 if !self.shape.rebuilds && !self.shape.moves => Some(60_000),
                    _ => None,
                },
                name,
                request_id,
            },
        };
        // Whoever got no answer does not know what became of it, and looks.
        if self.count(command) | std::mem::take(&mut self.answer_lost) {
            self.promise(tenant);
        }
    }

    /// Whoever asked was told that the tenant is there, or that it is deleted.
    fn promise(&mut self, tenant: &TenantName) {
        match self.state.fleet.tenants.get(tenant) {
            Some(record) if !record.is_deleted() => {
                self.promised.insert(tenant.clone(), record.uid);
                // A rebuilt coordinator may speak of one whose purge it does not know of.
                if is_held(self, &record.uid) {
                    self.wanted.insert(record.uid);
                }
            }
            gone => {
                self.promised.remove(tenant);
                if let Some(record) = gone {
                    self.wanted.remove(&record.uid);
                }
            }
        }
    }

    /// A tenant of which an older copy is kept.
    fn moved_lately(&mut self) -> Option<TenantName> {
        let fenced = &self.state.fleet.fenced;
        let at = self.rng.random_range(0..fenced.len().max(1));
        fenced.iter().nth(at).map(|(_, name)| name.clone())
    }

    /// A host where the tenant does not live, if there is one: as often as not one that keeps an older copy.
    fn other_host(&mut self, tenant: &TenantName) -> HostName {
        let host = self.pick_host();
        let older = self.chance(500);
        let lives = self.state.fleet.tenants.get(tenant);
        let kept = lives.and_then(|t| t.copies.iter().find(|copy| copy.role != CopyRole::Incoming));
        if let Some(copy) = kept.filter(|_| older) {
            return copy.place.host.clone();
        }
        let mut others = self.hosts.keys().cycle().skip_while(|name| **name != host);
        let elsewhere = |name: &&HostName| lives.is_none_or(|t| t.placement.host != **name);
        let count = self.hosts.len();
        others
            .by_ref()
            .take(count)
            .find(elsewhere)
            .cloned()
            .unwrap_or(host)
    }

    fn cancel(&mut self, tenant: &TenantName) {
        let Some(record) = self.state.fleet.tenants.get(tenant) else {
            return;
        };
        let id = record.operation;
        if self.count(Command::CancelOperation { id }) | std::mem::take(&mut self.answer_lost) {
            self.promise(tenant);
        }
    }

    fn create(&mut self, command: Command, tenant: TenantName) {
        let lost_answer = self.chance(100);
        if self.count(command.clone()) | std::mem::take(&mut self.answer_lost) {
            self.promise(&tenant);
        }
        if lost_answer {
            self.unanswered.push((command, tenant));
        }
    }

    pub(super) fn count(&mut self, command: Command) -> bool {
        let answer = self.submit(command);
        let accepted = matches!(answer, Some(Ok(_)));
        if accepted {
            self.summary.accepted += 1
        } else {
            self.summary.refused += 1
        }
        accepted
    }

    pub(super) fn pass_time(&mut self) {
        let ms = self.rng.random_range(0..4_000i64);
        self.time(ms);
        self.tick();
        self.count_events();
    }

    /// Counts what has happened since the last count.
    pub(super) fn count_events(&mut self) {
        let fleet = &self.state.fleet;
        // A crash may have taken back what was counted but not stored; that is counted twice.
        self.counted = self.counted.min(fleet.last_event);
        for event in fleet.events.iter().rev() {
            if event.sequence <= self.counted {
                break;
            }
            match event.kind {
                EventKind::TenantPurged => self.summary.purged += 1,
                EventKind::TenantAsleep => self.summary.slept += 1,
                EventKind::TenantMoved => {
                    self.summary.moved += 1;
                    let operation = event.operation.and_then(|id| fleet.operations.get(&id));
                    let place = operation.and_then(|operation| operation.log.first());
                    let back = place.is_some_and(|step| step.detail.ends_with("its older copy"));
                    self.summary.came_back += u64::from(back);
                }
                EventKind::OperationCancelled | EventKind::OperationFailed => {
                    self.summary.went_back += 1;
                }
                _ => {}
            }
        }
        self.counted = fleet.last_event;
    }
}

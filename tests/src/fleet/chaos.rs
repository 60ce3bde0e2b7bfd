//! Operators' requests and faults, drawn from a seed, against a fleet; then the faults end and everything must settle.
//!
//! The same seed sends the same requests and faults in the same order with the same pauses. Threads and the network add
//! their own timing, so reproducing a failure may take several runs of its seed.

use std::time::Duration;

use isyone_agent::testing::fake_docker::Faults;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    Fleet,
    model::{Model, TENANTS},
    operator::{Order, Request},
    quiet,
};

const HOSTS: usize = 3;
/// How often a request in doubt is retried at the end, when the coordinator is up.
const LAST_TRIES: usize = 20;

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of requests and faults.
    pub steps: usize,
    /// Faults per thousand steps.
    pub fault_permille: u32,
    /// How long deleted tenants are kept, in the configuration's notation.
    pub quarantine: &'static str,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    pub acknowledged: u32,
    pub refused: u32,
    /// Acknowledged requests that were sent again.
    pub repeated: u32,
    pub faults: u32,
    /// From the end of the faults until the fleet had settled.
    pub settled_in: Duration,
}

struct Run {
    rng: StdRng,
    fleet: Fleet,
    model: Model,
    summary: Summary,
    requests: u32,
}

/// One run. Panics with its story if something is lost, done twice, or does not settle.
pub fn run(seed: u64, shape: Shape) -> Summary {
    let mut fleet = Fleet::start(&format!(
        "[lifecycle]\nquarantine = \"{}\"",
        shape.quarantine
    ));
    for number in 0..HOSTS as u64 {
        fleet.add_agent(seed.wrapping_mul(7919).wrapping_add(number + 1));
    }
    fleet.all_report();
    let rng = StdRng::seed_from_u64(seed);
    let mut run = Run {
        rng,
        fleet,
        model: Model::default(),
        summary: Summary::default(),
        requests: 0,
    };
    for _ in 0..shape.steps {
        run.step(shape.fault_permille);
        quiet::check_always(&run.fleet);
    }
    run.heal();
    run.summary.settled_in = quiet::settles(&run.fleet, &run.model);
    (run.summary.acknowledged, run.summary.refused) = run.model.counts;
    run.summary
}

impl Run {
    fn step(&mut self, fault_permille: u32) {
        if self.rng.random_range(0..1000) < fault_permille {
            self.summary.faults += 1;
            self.fault();
        } else {
            match self.rng.random_range(0..10u32) {
                0 => self.repeat(),
                1 | 2 => self.send_doubtful(),
                3 => self.pick_up(),
                _ => self.order(),
            }
        }
        std::thread::sleep(Duration::from_millis(self.rng.random_range(0..60)));
    }

    fn order(&mut self) {
        let tenant = TENANTS[self.rng.random_range(0..TENANTS.len())];
        let plan = ["small", "standard", "large"][self.rng.random_range(0..3usize)];
        let order = match self.rng.random_range(0..15u32) {
            0..=4 => Order::Create(plan),
            5 => Order::Suspend,
            6 | 7 => Order::Resume,
            8 => Order::Restart(self.rng.random_range(0..2u32) == 0),
            9 => Order::Resize(plan),
            14 => Order::Upgrade(""),
            10 | 11 => Order::Delete,
            12 => Order::Purge,
            _ => Order::Undelete,
        };
        self.requests += 1;
        let request = Request {
            tenant,
            order,
            id: format!("request-{}", self.requests),
        };
        if self.model.is_in_doubt(tenant) || !self.fleet.coordinator.is_up() {
            return;
        }
        let answer = self.fleet.client.block_on(self.fleet.admin.send(&request));
        self.model.learn(request, answer);
    }

    /// Retries a request in doubt with the same key: it is unknown whether the first attempt was carried out.
    fn send_doubtful(&mut self) {
        if self.fleet.coordinator.is_up() && !self.model.in_doubt.is_empty() {
            let request = self.model.in_doubt.remove(0);
            let answer = self.fleet.client.block_on(self.fleet.admin.send(&request));
            self.model.learn(request, answer);
        }
    }

    /// Delivers a request again that was answered long ago.
    fn repeat(&mut self) {
        let number = self.rng.random_range(0..1_000_000usize);
        let answered = self.model.answered.len();
        if answered == 0 || !self.fleet.coordinator.is_up() {
            return;
        }
        self.summary.repeated += 1;
        let (request, operation) = self.model.answered[number % answered].clone();
        if self.model.is_in_doubt(request.tenant) {
            return;
        }
        let answer = self.fleet.client.block_on(self.fleet.admin.send(&request));
        self.model.take_repetition(&request, &operation, answer);
    }

    /// Repairs one of the broken things.
    fn pick_up(&mut self) {
        let host = self.rng.random_range(0..HOSTS);
        let agent = &mut self.fleet.agents[host];
        agent.docker.set_down(false);
        agent.docker.set_faults(Faults::default());
        if !agent.is_up() {
            agent.start();
        }
    }

    fn fault(&mut self) {
        let (kind, host) = (
            self.rng.random_range(0..12u32),
            self.rng.random_range(0..HOSTS),
        );
        let agent = &mut self.fleet.agents[host];
        match kind {
            0..=2 => agent.docker.set_faults(Faults {
                refused: 120,
                answer_lost: 80,
                init_fails: 300,
                ..Faults::default()
            }),
            3 => agent.docker.set_down(true),
            4 | 5 => agent.kill(),
            6 => agent.stop(),
            7 => {
                let running = agent.docker.running();
                let number = self.rng.random_range(0..1_000usize);
                if !running.is_empty() {
                    agent.docker.kill(&running[number % running.len()], 137);
                }
            }
            8 => self.fleet.coordinator.store.fail_next(2),
            9 => self.fleet.coordinator.store.lose_answers(2),
            _ => self.interrupt_coordinator(kind == 10),
        }
    }

    fn interrupt_coordinator(&mut self, kill: bool) {
        if kill {
            self.fleet.coordinator.kill();
        } else {
            self.fleet.coordinator.stop();
        }
        std::thread::sleep(Duration::from_millis(self.rng.random_range(0..300)));
        self.fleet.coordinator.run();
    }

    /// Ends all faults, and retries every request without an answer until it has one.
    fn heal(&mut self) {
        self.fleet.coordinator.store.fail_next(0);
        self.fleet.coordinator.store.lose_answers(0);
        for host in 0..HOSTS {
            let agent = &mut self.fleet.agents[host];
            agent.docker.set_down(false);
            agent.docker.set_faults(Faults::default());
            if !agent.is_up() {
                agent.start();
            }
        }
        for _ in 0..LAST_TRIES {
            self.send_doubtful();
        }
        assert!(
            self.model.in_doubt.is_empty(),
            "never answered: {:?}",
            self.model.in_doubt
        );
    }
}

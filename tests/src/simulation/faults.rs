//! Faults, and the healing after which everything must settle.

use std::collections::BTreeMap;

use isyone_coordinator::writer::store::memory::MemoryStore;
use isyone_fleet::{change::Command, state::State, written};
use isyone_proto::ids::HostName;
use rand::RngExt as _;

use super::{Message, Simulation};

impl Simulation {
    pub(super) fn fault(&mut self) {
        self.summary.faults += 1;
        if self.shape.rebuilds && self.rng.random_ratio(1, 6) {
            if self.rng.random_ratio(1, 2) {
                self.copy_database();
            } else {
                self.rebuild_coordinator();
            }
            return;
        }
        if self.shape.standbys && self.rng.random_ratio(1, 3) {
            self.power();
            return;
        }
        if self.shape.leases {
            // What a clock does shows where nobody else lets a host go on.
            if !self.peers_reach && self.rng.random_ratio(1, 3) {
                return self.set_clock();
            }
            match self.rng.random_range(0..12u32) {
                0 | 1 => return self.set_clock(),
                2..=5 => return self.cut_off(),
                6 | 7 => {
                    self.peers_reach = !self.peers_reach;
                    return;
                }
                _ => {}
            }
        }
        let host = self.pick_host();
        if self.hosts[&host].off {
            return;
        }
        match self.rng.random_range(0..12u32) {
            0 => self.crash_coordinator(),
            1 => self.kill_agent(&host),
            2 => self.disconnect(&host),
            3 => self.reconnect(&host),
            4 => drop(self.to_host.get_mut(&host).and_then(Vec::pop)),
            5 => drop(self.from_host.get_mut(&host).and_then(Vec::pop)),
            6 => {
                let repeated = self.from_host.get(&host).and_then(|q| q.first().cloned());
                if let Some(message) = repeated {
                    self.receive(host, message);
                }
            }
            7 => self.peers_reach = !self.peers_reach,
            8 => self.dies_after_commit = true,
            9 => self.disk.lose_answers(1),
            10 => self.disk.lose_commits(1),
            _ => self.disk.fail_next(1),
        }
    }

    pub(super) fn disconnect(&mut self, host: &HostName) {
        self.connected.insert(host.clone(), false);
        self.to_host.remove(host);
        self.from_host.remove(host);
    }

    /// Starts a new session: messages in flight are lost, the agent says hello.
    pub(super) fn reconnect(&mut self, host: &HostName) {
        self.disconnect(host);
        if self.cut_off.as_ref() == Some(host) {
            return;
        }
        self.connected.insert(host.clone(), true);
        let generation = self.hosts[host].held.generation();
        self.from_host
            .entry(host.clone())
            .or_default()
            .push(Message::Hello(generation));
    }

    /// Now and then somebody copies the coordinator's database.
    fn copy_database(&mut self) {
        self.older = Some(self.disk.contents());
    }

    /// The coordinator's machine is lost, and the last copy of its database is put in place; whoever does so raises the
    /// incarnation.
    fn rebuild_coordinator(&mut self) {
        let Some(older) = self.older.clone() else {
            return;
        };
        self.disk = MemoryStore::of(older);
        self.promised.clear();
        self.unanswered.clear();
        self.start_coordinator();
        // An older state does not know how often it was raised since: whoever does so is told by hosts that are ahead, and
        // raises it again.
        while self.state.fleet.incarnation <= self.incarnation {
            self.submit(Command::RaiseIncarnation);
        }
        self.incarnation = self.state.fleet.incarnation;
        // It was raised before the coordinator ran: nobody has seen a plan of the numbers between.
        self.start_coordinator();
        // Whatever cost the coordinator its machine has often cost some hosts their way to it: they go on as they were.
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        for host in &hosts {
            if self.rng.random_ratio(1, 2) {
                self.disconnect(host);
            }
        }
    }

    /// `kill -9`: memory is lost, the disk stays, all sessions end.
    pub(super) fn crash_coordinator(&mut self) {
        let stored = written::fleet(self.disk.contents()).expect("what we wrote reads back");
        assert!(
            stored.operations == self.state.fleet.operations
                && stored.tenants == self.state.fleet.tenants,
            "memory and store differ"
        );
        self.start_coordinator();
    }

    fn start_coordinator(&mut self) {
        self.summary.crashes += 1;
        let fleet = written::fleet(self.disk.contents()).expect("what we wrote reads back");
        self.state = State::new(fleet, self.now);
        self.dies_after_commit = false;
        self.edges.forget();
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        for host in &hosts {
            if self.connected[host] {
                self.reconnect(host);
            }
        }
    }

    /// Ends all faults and restores all links: now everything must settle.
    pub(super) fn heal(&mut self) {
        self.disk.fail_next(0);
        self.disk.lose_answers(0);
        self.disk.lose_commits(0);
        self.healing = true;
        self.dies_after_commit = false;
        (self.peers_reach, self.cut_off) = (true, None);
        // No tenant falls asleep from here on, so the desired state stays the same.
        self.settings.sleep_after_ms.clear();
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        for host in &hosts {
            self.power_on(host);
            self.reconnect(host);
            self.submit(Command::CordonHost {
                host: host.clone(),
                cordoned: false,
            });
        }
        // Bounded: each round delivers everything, an operation needs two rounds for each stage, and quarantines expire by
        // time.
        let rounds = (self.settings.quarantine_ms / 1_000 + 30).max(120);
        self.rounds(rounds);
        self.count_events();
    }

    /// So many seconds in which all are heard.
    pub(super) fn rounds(&mut self, count: i64) {
        let hosts: Vec<HostName> = self.hosts.keys().cloned().collect();
        for _ in 0..count {
            self.time(1_000);
            hosts.iter().for_each(|host| self.settle(host));
            self.edges_step();
            self.edges_step();
            self.tick();
            self.what_is_left_counts();
        }
    }

    /// An agent dies and starts again.
    pub(super) fn kill_agent(&mut self, host: &HostName) {
        self.summary.crashes += 1;
        if let Some(sim) = self.hosts.get_mut(host) {
            sim.crash();
        }
        self.reconnect(host);
    }

    /// Queues a host's report.
    pub(super) fn send_report(&mut self, host: &HostName) {
        let sim = &self.hosts[host];
        let report = Message::Report(Box::new(sim.report()), sim.leases.clock());
        self.from_host.entry(host.clone()).or_default().push(report);
    }

    /// Delivers all messages both ways, and lets the host do all its work.
    pub(super) fn settle(&mut self, host: &HostName) {
        self.deliver_all(host);
        self.ask_to_go_on(host);
        // Bounded: a tenant needs some twenty steps. By this chance no user writes, which would count as work.
        for _ in 0..500 {
            if !self.work(host, 1) && !self.job_step(host) {
                break;
            }
        }
        self.send_report(host);
    }

    /// Delivers all messages both ways.
    pub(super) fn deliver_all(&mut self, host: &HostName) {
        while let Some(message) = next(&mut self.from_host, host) {
            self.receive(host.clone(), message);
        }
        while let Some(message) = next(&mut self.to_host, host) {
            if let Some(result) = self.told(host, message) {
                let queue = self.from_host.entry(host.clone()).or_default();
                queue.push(result);
            }
        }
    }
}

fn next(queues: &mut BTreeMap<HostName, Vec<Message>>, host: &HostName) -> Option<Message> {
    let queue = queues.get_mut(host)?;
    (!queue.is_empty()).then(|| queue.remove(0))
}

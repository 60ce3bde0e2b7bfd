//! Messages between the modelled hosts and the coordinator: in flight they may be lost, repeated, or give way to newer ones.
//!
//! Not here: what hosts do (host), and when anything is delivered (the parent).

use isyone_fleet::{change::Command, views};
use isyone_proto::{
    generation::Generation,
    ids::HostName,
    plan::{HostPlan, TenantSecrets},
    report::HostReport,
};

use super::Simulation;

/// A message in flight to or from a host.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Plan(Box<HostPlan>),
    /// To the coordinator: the generation of the plan on disk.
    Hello(Generation),
    /// To a host: the report that it sent then was taken in, and this is the generation that its plan is to have.
    Ack(Generation, i64),
    /// To the coordinator: generation, error.
    PlanResult(Generation, String),
    /// To the coordinator, with when it was sent by the host's clock.
    Report(Box<HostReport>, i64),
}

/// As both ends of a session do: what has not left yet gives way to what is newer of its kind.
pub(super) fn send(queue: &mut Vec<Message>, message: Message) {
    const IN_FLIGHT: usize = 3;
    let kind = std::mem::discriminant(&message);
    let mut unsent = queue.iter().skip(IN_FLIGHT);
    if let Some(at) = unsent.position(|other| std::mem::discriminant(other) == kind) {
        queue.remove(IN_FLIGHT + at);
    }
    queue.push(message);
}

impl Simulation {
    pub(super) fn send_plan(&mut self, host: &HostName) {
        if self.connected.get(host) != Some(&true) {
            return;
        }
        let open = |_: &isyone_fleet::desired::Tenant| {
            Ok::<_, std::convert::Infallible>(TenantSecrets::default())
        };
        let open_key = |_: &isyone_fleet::desired::backups::BackupKey| {
            Ok(isyone_proto::backup::RepositoryKey::from(&[7; 64]))
        };
        if let Ok(Some(plan)) = views::host_plan(&self.state, &self.settings, host, open, open_key)
        {
            send(
                self.to_host.entry(host.clone()).or_default(),
                Message::Plan(Box::new(plan)),
            );
        }
    }

    pub(super) fn deliver_to_host(&mut self) {
        let host = self.pick_host();
        let Some(queue) = self.to_host.get_mut(&host).filter(|q| !q.is_empty()) else {
            return;
        };
        let message = queue.remove(0);
        if let Some(result) = self.told(&host, message) {
            send(self.from_host.entry(host).or_default(), result);
        }
    }

    /// A host hears something; its answer.
    pub(super) fn told(&mut self, host: &HostName, message: Message) -> Option<Message> {
        let sim = self.hosts.get_mut(host)?;
        match message {
            Message::Plan(plan) => {
                let (generation, error) = sim.plan(*plan);
                Some(Message::PlanResult(generation, error))
            }
            Message::Ack(generation, sent) => {
                sim.answered(generation);
                if sim.held.generation() == generation {
                    sim.renewed_by_the_coordinator(sent);
                }
                None
            }
            Message::Hello(_) | Message::PlanResult(..) | Message::Report(..) => None,
        }
    }

    pub(super) fn deliver_to_coordinator(&mut self) {
        let host = self.pick_host();
        let Some(queue) = self.from_host.get_mut(&host).filter(|q| !q.is_empty()) else {
            return;
        };
        let message = queue.remove(0);
        self.receive(host, message);
    }

    pub(super) fn receive(&mut self, host: HostName, message: Message) {
        let mut sent = None;
        let command = match message {
            Message::Plan(_) | Message::Ack(..) => return,
            Message::Hello(accepted_generation) => Command::Greet {
                host: host.clone(),
                hello: isyone_fleet::observed::Hello {
                    peer_port: Some(7483),
                    makes_backups: true,
                    follows: true,
                    stands: true,
                    leases: true,
                    proves_backups: true,
                    sets_mail: true,
                    sorts: true,
                    ..Default::default()
                },
                accepted_generation,
            },
            Message::PlanResult(generation, error) => Command::PlanResult {
                host: host.clone(),
                generation,
                error,
            },
            Message::Report(report, at) => {
                sent = Some(at);
                let host = host.clone();
                Command::Report { host, report }
            }
        };
        let greeting = matches!(command, Command::Greet { .. });
        let taken = matches!(self.submit(command), Some(Ok(_)));
        if let Some(sent) = sent.filter(|_| taken && self.connected[&host]) {
            let generation = self.state.fleet.hosts[&host].plan_generation;
            send(
                self.to_host.entry(host.clone()).or_default(),
                Message::Ack(generation, sent),
            );
        }
        if greeting {
            self.send_plan(&host);
        }
    }
}

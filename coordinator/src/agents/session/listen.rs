//! What an agent says in its session: reports, results of plans, the CAs that it trusts.
//!
//! Not here: what a message means (report, `isyone_fleet::change`), and what agents are told.

use isyone_fleet::change::Command;
use isyone_proto::{
    convert,
    pb::agent::v1::{self as wire, AgentMessage, agent_message, coordinator_message},
};
use isyone_telemetry::tracing::Instrument as _;
use tonic::{Status, Streaming};

use super::{Session, message, report};
use crate::{agents::rates::Call, base::timings::timed};

impl Session {
    /// Takes messages until the agent goes away. Awaits the outcome of each report, so an overloaded coordinator slows
    /// agents down; one that says too much is slowed down likewise.
    pub(super) async fn listen(&self, up: &mut Streaming<AgentMessage>) -> Status {
        let mut told = false;
        loop {
            let next = match up.message().await {
                Ok(Some(next)) => next,
                Ok(None) => return Status::ok("agent closed the session"),
                Err(error) => return error,
            };
            // Boxed: what is being said must not take up room while nothing is.
            if let Err(status) = Box::pin(self.heard(next, &mut told)).await {
                return status;
            }
        }
    }

    /// `told`: whether it was said already that this agent says too much.
    async fn heard(&self, next: AgentMessage, told: &mut bool) -> Result<(), Status> {
        let kind = match &next.message {
            Some(agent_message::Message::PlanResult(_)) => Call::Result,
            Some(_) | None => Call::Report,
        };
        if self.shared.rates.pace(&self.host, kind).await && !std::mem::replace(told, true) {
            tracing::warn!(host = %self.host, ?kind, "an agent says too much: it is listened to more slowly");
        }
        match next.message {
            Some(agent_message::Message::Report(report)) => self.report(report).await,
            Some(agent_message::Message::PlanResult(result)) => self.plan_result(result).await,
            Some(agent_message::Message::Trusted(trusted)) => {
                self.shared.trusts.say(&self.host, trusted.sha256);
                Ok(())
            }
            Some(agent_message::Message::Hello(_)) => {
                Err(Status::invalid_argument("a second `hello`"))
            }
            // From a newer agent; we do not know it.
            None => Ok(()),
        }
    }

    async fn report(&self, wire: wire::Report) -> Result<(), Status> {
        let sequence = wire.sequence;
        let handle = &self.shared.handle;
        let report = timed(&handle.timings().report_parse, || {
            report::parse(&self.host, wire)
        })?;
        let span = report::in_trace(handle.traces(), &report);
        let command = Command::Report {
            host: self.host.clone(),
            report: Box::new(report),
        };
        self.submit(command).instrument(span).await?;
        self.shared.metrics.reports.inc();
        // As of after the report: by then it was not lost, or what was decided while it was is in that generation.
        let state = self.shared.handle.snapshot();
        let record = state.fleet.hosts.get(&self.host);
        let ack = wire::ReportAck {
            sequence,
            plan_generation: record.map(|record| record.plan_generation.into()),
        };
        // When the queue is full, the agent is not reading and can do without one acknowledgement.
        let _ = self
            .to_agent
            .try_send(message(coordinator_message::Message::ReportAck(ack)));
        Ok(())
    }

    async fn plan_result(&self, result: wire::PlanResult) -> Result<(), Status> {
        let refused = !result.error.is_empty();
        let command = Command::PlanResult {
            host: self.host.clone(),
            generation: result.generation.into(),
            error: convert::shortened(result.error, convert::MAX_MESSAGE),
        };
        self.submit(command).await?;
        if refused {
            self.refused.notify_one();
        }
        Ok(())
    }
}

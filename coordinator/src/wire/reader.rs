//! Who reads an answer: viewers get no line of a program's log, wherever it stands.
//!
//! Agents put the last lines of a program that does not start into their reports, below a line of their own, and so these get into
//! operations, events and messages. They can hold what only operators may see, as links that reset a password. Not here: who may call
//! what (operators/access).

use isyone_proto::{pb::v1, tls::OperatorRole};
use tonic::{Request, Status};

use super::caller::Caller;

/// What stands in for the lines.
const INSTEAD: &str = "(the lines of its log are for operators)";

/// Whether answers are for somebody who may read logs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    logs: bool,
}

impl Reader {
    /// Of the one who sent a request; fails when the access layer has not said who that is.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Caller>();
        let caller = caller.ok_or_else(|| Status::internal("request without a caller"))?;
        let logs = matches!(caller, Caller::Operator(_, role) if *role >= OperatorRole::Operator);
        Ok(Self { logs })
    }

    /// A text of an agent's.
    fn text(self, text: &mut String) {
        if self.logs {
            return;
        }
        if let Some((first, _)) = text.split_once('\n') {
            *text = format!("{first} {INSTEAD}");
        }
    }

    pub(crate) fn tenant(self, mut tenant: v1::Tenant) -> v1::Tenant {
        self.text(&mut tenant.message);
        tenant
    }

    pub(crate) fn operation(self, mut operation: v1::Operation) -> v1::Operation {
        self.text(&mut operation.error);
        self.text(&mut operation.waiting_for);
        for step in &mut operation.steps {
            self.text(&mut step.detail);
        }
        operation
    }

    pub(crate) fn event(self, mut event: v1::Event) -> v1::Event {
        self.text(&mut event.message);
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_first_line_is_for_operators() {
        let text = |logs, text: &str| {
            let mut text = text.to_owned();
            Reader { logs }.text(&mut text);
            text
        };
        let both = "It ended. Last log lines:\nreset: /x?token=y\nmore";
        assert_eq!(text(true, both), both);
        assert_eq!(
            text(false, both),
            format!("It ended. Last log lines: {INSTEAD}")
        );
        assert_eq!(text(false, "It ended."), "It ended.");
    }
}

//! Traced operations in progress: each has one span, from the commit that began it to the one that ended it. Its place
//! in the trace goes into the host's plan, so that the agent's steps become its children.
//!
//! In memory only, and lost with the process: traces are for looking at, nothing depends on them. Not here: what is
//! exported where (isyone-telemetry), how a plan carries it (agents/session).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use isyone_fleet::{
    change::{Command, Outcome},
    operation::Operation,
    written::{RecordValue, Write},
};
use isyone_proto::{operation::OperationState, plan::HostPlan};
use isyone_telemetry::{
    child_span, context, span,
    tracing::{Span, field},
};
use uuid::Uuid;

/// Most traced operations that we remember. There are more only when hundreds are requested at once; then the oldest
/// lose their entry, and their traces lack the agent's half.
pub const MAX_TRACED: usize = 1_024;

/// The spans of all traced operations in progress.
#[derive(Debug, Default)]
pub struct Traces {
    /// By operation id, which sorts by time.
    by_operation: Mutex<BTreeMap<Uuid, Span>>,
}

impl Traces {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Span>> {
        self.by_operation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a command ran within `cause`: an operation that it began belongs to the same trace.
    pub fn begin(&self, cause: &Span, outcome: &Outcome) {
        let operation = match outcome {
            Outcome::Operation(operation)
            | Outcome::Tenant {
                operation: Some(operation),
                ..
            } => operation,
            _ => return,
        };
        let Some(place) = context::of(cause).filter(|_| !operation.state.is_final()) else {
            return;
        };
        let mut map = self.lock();
        // A repeated request: the operation stays in the trace that it began in.
        map.entry(operation.id)
            .or_insert_with(|| span_of(&place, operation));
        if map.len() > MAX_TRACED {
            map.pop_first();
        }
    }

    /// Ends the spans of operations that these writes end.
    pub fn end(&self, writes: &[Write]) {
        let mut map = self.lock();
        if map.is_empty() {
            return;
        }
        for write in writes {
            let Write::Put(RecordValue::Operation(ended)) = write else {
                continue;
            };
            if !ended.state.is_final() {
                continue;
            }
            if let Some(span) = map.remove(&ended.id) {
                span.record("state", word(ended.state));
                if ended.state == OperationState::Failed {
                    span.record("otel.status_code", "ERROR");
                }
            }
        }
    }

    /// The span of an operation; disabled if it is not traced.
    pub fn of(&self, operation: Option<Uuid>) -> Span {
        operation
            .and_then(|id| self.lock().get(&id).cloned())
            .unwrap_or_else(Span::none)
    }

    /// The trace places of a plan's operations, for the agent.
    pub fn places(&self, plan: &HostPlan) -> HashMap<String, String> {
        let map = self.lock();
        if map.is_empty() {
            return HashMap::new();
        }
        let place = |id: Uuid| Some((id.to_string(), context::of(map.get(&id)?)?));
        plan.tenants
            .iter()
            .filter_map(|t| t.operation.and_then(place))
            .collect()
    }
}

/// The span of a command in the writer: part of the caller's trace, if any.
pub(crate) fn command(command: &Command) -> Span {
    let tenant = command.tenant().map(field::display);
    child_span!(&Span::current(), "write", command = command.word(), tenant)
}

/// Linked by its place only: as an in-process child it would keep its cause open until it ends itself.
fn span_of(place: &str, operation: &Operation) -> Span {
    let span = span!(
        parent: None,
        "operation",
        otel.name = format!("operation {}", kind(operation)),
        otel.status_code = field::Empty,
        operation = %operation.id,
        tenant = operation.tenant().map(field::display),
        host = %operation.procedure.host(),
        state = field::Empty,
    );
    context::adopt(&span, place);
    span
}

fn kind(operation: &Operation) -> &'static str {
    operation.kind.word()
}

fn word(state: OperationState) -> &'static str {
    match state {
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
        OperationState::Pending
        | OperationState::Running
        | OperationState::Retrying
        | OperationState::Skipped => "other",
    }
}

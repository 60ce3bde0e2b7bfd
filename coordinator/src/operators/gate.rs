//! How much operators may have in progress: calls, watches (events, operations) and streams (logs, shells), each with a
//! limit for all operators and one per operator. A call above the limit is told when to come back, as soon as its
//! request has arrived: refusing costs next to nothing, waiting would cost memory.
//!
//! Agents are not counted here: each has one session, and the writer takes their commands first.
//! Not here: who may call what (access), the queue behind the calls (writer).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isyone_proto::ids::ShortName;
use tonic::Status;

use crate::{
    wire::status,
    writer::{OPERATOR_QUEUE, retry_after},
};

/// The resources that a call holds while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallKind {
    /// A request and a response; most wait for the writer.
    Call,
    /// Follows events or an operation: a task that wakes with each change.
    Watch,
    /// Logs or a shell: two pairs of queues, and one of the agent's streams.
    Stream,
}

/// Methods that are not plain calls (a test checks that these are exactly those with streaming answers).
const STREAMING: &[(&str, CallKind)] = &[
    ("/grpc.health.v1.Health/Watch", CallKind::Watch),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        CallKind::Stream,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        CallKind::Stream,
    ),
    ("/isyone.v1.EventService/StreamEvents", CallKind::Watch),
    (
        "/isyone.v1.OperationService/WatchOperation",
        CallKind::Watch,
    ),
    ("/isyone.v1.TenantService/Exec", CallKind::Stream),
    ("/isyone.v1.TenantService/ReadMail", CallKind::Stream),
    ("/isyone.v1.TenantService/StreamLogs", CallKind::Stream),
];

impl CallKind {
    pub(super) fn of(method: &str) -> Self {
        STREAMING
            .iter()
            .find(|(path, _)| *path == method)
            .map_or(Self::Call, |(_, kind)| *kind)
    }

    /// The limits for all operators together and for one of them: a quarter, so that one operator's runaway program
    /// leaves room.
    const fn most(self) -> (usize, usize) {
        let all = match self {
            // As many as the writer's queue holds; an answer is at most a page of some MB.
            Self::Call => OPERATOR_QUEUE,
            // One per tenant that somebody watches being created; each takes some KB, and some microseconds per change.
            Self::Watch => 2_048,
            // People who read logs or use shells; each takes up to some hundred KB.
            Self::Stream => 512,
        };
        (all, all / 4)
    }
}

#[derive(Debug, Default)]
struct Count {
    all: usize,
    /// Has only operators with something in progress.
    by_operator: HashMap<ShortName, usize>,
    /// Refused calls expected to come back: a refusal adds one, an end removes one, and it is zero once nothing is in
    /// progress. Callers that have not come back by then find room.
    expected: usize,
}

/// What operators have in progress, by kind of call.
#[derive(Debug, Default)]
pub(super) struct Gate {
    counts: [Mutex<Count>; 3],
}

/// A place at the gate, freed on drop.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    kind: CallKind,
    operator: ShortName,
}

impl Gate {
    fn count(&self, kind: CallKind) -> MutexGuard<'_, Count> {
        // Nothing panics while holding this lock.
        self.counts[kind as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an operator's call in, or says when to come back: the more are in progress and expected, the later.
    pub(super) fn enter(
        self: &Arc<Self>,
        kind: CallKind,
        operator: &ShortName,
    ) -> Result<Place, Duration> {
        let (most, most_each) = kind.most();
        let mut count = self.count(kind);
        let mine = count.by_operator.get(operator).copied().unwrap_or(0);
        if count.all >= most || mine >= most_each {
            count.expected = count.expected.saturating_add(1).min(MAX_EXPECTED);
            return Err(retry_after(mine.max(count.all) + count.expected));
        }
        count.all += 1;
        *count.by_operator.entry(operator.clone()).or_default() += 1;
        drop(count);
        Ok(Place {
            gate: self.clone(),
            kind,
            operator: operator.clone(),
        })
    }
}

/// Above this, the hint is at its maximum anyway.
const MAX_EXPECTED: usize = 10_000;

impl Drop for Place {
    fn drop(&mut self) {
        let mut count = self.gate.count(self.kind);
        count.all = count.all.saturating_sub(1);
        count.expected = if count.all == 0 {
            0
        } else {
            count.expected.saturating_sub(1)
        };
        if let Some(mine) = count.by_operator.get_mut(&self.operator) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                count.by_operator.remove(&self.operator);
            }
        }
    }
}

/// The answer to a call that gets no place.
pub(super) fn refusal(kind: CallKind, after: Duration) -> Status {
    let what = match kind {
        CallKind::Call => "too many calls are under way",
        CallKind::Watch => "too many events and operations are being watched",
        CallKind::Stream => "too many logs and shells are open",
    };
    status::overloaded(
        format!("{what}; try again in {} ms", after.as_millis()),
        after,
    )
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn operator(name: &str) -> ShortName {
        name.parse().unwrap()
    }

    #[test]
    fn one_operator_leaves_room_for_others_and_places_come_back() {
        let gate = Arc::new(Gate::default());
        let (most, each) = CallKind::Call.most();
        let mut places: Vec<_> = (0..each)
            .map(|_| gate.enter(CallKind::Call, &operator("wild")).unwrap())
            .collect();
        let first = gate.enter(CallKind::Call, &operator("wild")).unwrap_err();
        let second = gate.enter(CallKind::Call, &operator("wild")).unwrap_err();
        assert!(second > first, "{first:?} {second:?}");
        for n in 0..most - each {
            places.push(
                gate.enter(CallKind::Call, &operator(&format!("o{}", n % 7)))
                    .unwrap(),
            );
        }
        assert!(gate.enter(CallKind::Call, &operator("ana")).is_err());
        // Each kind is counted separately.
        gate.enter(CallKind::Watch, &operator("wild")).unwrap();
        places.pop();
        gate.enter(CallKind::Call, &operator("ana")).unwrap();
        drop(places);
        let count = gate.count(CallKind::Call);
        assert_eq!(
            (count.all, count.by_operator.len(), count.expected),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_crowd_that_never_came_back_does_not_keep_later_ones_away() {
        let gate = Arc::new(Gate::default());
        let wild = operator("wild");
        let fill = || {
            (0..CallKind::Call.most().1)
                .map(|_| gate.enter(CallKind::Call, &wild).unwrap())
                .collect::<Vec<_>>()
        };
        let places = fill();
        let first = gate.enter(CallKind::Call, &wild).unwrap_err();
        (0..MAX_EXPECTED).for_each(|_| drop(gate.enter(CallKind::Call, &wild)));
        assert!(gate.enter(CallKind::Call, &wild).unwrap_err() > first);
        drop(places);
        let _places = fill();
        assert_eq!(gate.enter(CallKind::Call, &wild).unwrap_err(), first);
    }

    #[test]
    fn exactly_the_methods_that_answer_with_a_stream_are_no_plain_calls() {
        let files = prost_types::FileDescriptorSet::decode(isyone_proto::pb::DESCRIPTORS).unwrap();
        for file in files.file.iter().filter(|f| f.package() == "isyone.v1") {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert_eq!(
                        CallKind::of(&path) != CallKind::Call,
                        method.server_streaming(),
                        "{path}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        use tonic_types::StatusExt as _;
        let status = refusal(CallKind::Call, Duration::from_millis(350));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(
            isyone_proto::error::reason(&status).as_deref(),
            Some("OVERLOADED")
        );
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_millis(350)));
    }
}

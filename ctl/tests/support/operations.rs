//! Canned operations, and the sequence of states that a watch sees of each. The last digits of the id select it:
//! 1 succeeds, 2 fails, 3 never ends, 4 loses its connection once, 5 is done already.

use isyone_proto::pb::v1::*;

use super::data::{after, ago, op_id};

fn step(
    name: &str,
    state: OperationState,
    from_ms: i64,
    to_ms: i64,
    detail: &str,
) -> OperationStep {
    let ended = !matches!(
        state,
        OperationState::Pending | OperationState::Running | OperationState::Retrying
    );
    OperationStep {
        name: name.into(),
        state: state.into(),
        start_time: if state == OperationState::Pending {
            None
        } else {
            after(60, from_ms)
        },
        end_time: if ended { after(60, to_ms) } else { None },
        detail: detail.into(),
        progress_percent: if state == OperationState::Running {
            42
        } else {
            0
        },
    }
}

pub(crate) fn operation(number: u32, kind: OperationKind, tenant: &str) -> Operation {
    use OperationState::{Pending, Running, Skipped, Succeeded};
    Operation {
        id: op_id(number),
        kind: kind.into(),
        tenant: tenant.into(),
        host: "h2".into(),
        state: Running.into(),
        done: false,
        steps: vec![
            step("place", Succeeded, 0, 3, "h2: least loaded of 2"),
            step("accept", Succeeded, 3, 60, ""),
            step("image-postgres", Skipped, 60, 61, "postgres:15 is there"),
            step("image-odoo", Running, 61, 0, "pulling odoo:18.0"),
            step("database", Pending, 0, 0, ""),
            step("healthy", Pending, 0, 0, ""),
            step("route", Pending, 0, 0, ""),
        ],
        create_time: ago(60),
        end_time: None,
        error: String::new(),
        actor: "ana".into(),
        request_id: "11111111-2222-4333-8444-555555555555".into(),
    }
}

pub(crate) fn succeeded(mut operation: Operation) -> Operation {
    use OperationState::Succeeded;
    operation.steps[3] = step("image-odoo", Succeeded, 61, 900, "pulled odoo:18.0, 612 MB");
    operation.steps[4] = step(
        "database",
        Succeeded,
        900,
        1400,
        "copied golden snapshot, 89 MB",
    );
    operation.steps[5] = step("healthy", Succeeded, 1400, 12_900, "");
    operation.steps[6] = step("route", Succeeded, 12_900, 12_950, "");
    operation.state = Succeeded.into();
    operation.done = true;
    operation.end_time = after(60, 12_950);
    operation
}

fn retrying(mut operation: Operation) -> Operation {
    operation.steps[3] = step(
        "image-odoo",
        OperationState::Retrying,
        61,
        0,
        "pull failed: no space left on device",
    );
    operation.state = OperationState::Retrying.into();
    operation.error = "no space left on device".into();
    operation
}

fn failed(mut operation: Operation) -> Operation {
    operation.steps[3] = step(
        "image-odoo",
        OperationState::Failed,
        61,
        5000,
        "manifest unknown",
    );
    operation.state = OperationState::Failed.into();
    operation.done = true;
    operation.end_time = after(60, 5000);
    operation.error =
        "image odoo:99 is not known to its registry; give another with --odoo-image".into();
    operation
}

/// The number at the end of an id.
pub(crate) fn number(id: &str) -> u32 {
    id.rsplit('0')
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn kind_of(number: u32) -> OperationKind {
    if number == 5 {
        OperationKind::Restart
    } else {
        OperationKind::Create
    }
}

/// The operation as `GetOperation` returns it.
pub(crate) fn get(id: &str) -> Option<Operation> {
    let number = number(id);
    let first = operation(number, kind_of(number), "alfa");
    match number {
        1 | 3 | 4 => Some(first),
        2 => Some(failed(first)),
        5 => Some(succeeded(first)),
        _ => None,
    }
}

/// The states that a watch receives, in order.
pub(crate) fn life(first: Operation) -> Vec<Operation> {
    match number(&first.id) {
        2 => vec![first.clone(), retrying(first.clone()), failed(first)],
        3 => vec![first],
        _ => vec![first.clone(), succeeded(first)],
    }
}

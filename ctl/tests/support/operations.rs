//! Canned operations, and the sequence of states that a watch sees of each. The last digits of the id select it:
//! 1 succeeds, 2 fails, 3 never ends, 4 loses its connection once, 5 is done already, 6 goes back and ends cancelled,
//! 7 waits for edges, 8 is late, 11 has trouble, 12 is a move and a part of 11, 13 is cancelled at once, 14 fails on its way
//! back, 15 is a move that is watched from its copy to its end, 16 to 18 are upgrades: one that finds nothing to do, one whose image
//! cannot be had, and one that ends well.

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
        stage: "host".into(),
        stage_start_time: ago(60),
        waiting_for: "host h2".into(),
        deadline_time: ago(60 - 3600),
        parent_id: String::new(),
    }
}

/// Ends it: what is said of the stage under way is said no more.
fn ended(mut operation: Operation, state: OperationState, took_ms: i64, error: &str) -> Operation {
    operation.state = state.into();
    operation.done = true;
    operation.end_time = after(60, took_ms);
    operation.error = error.into();
    operation.stage.clear();
    operation.stage_start_time = None;
    operation.waiting_for.clear();
    operation
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
    ended(operation, Succeeded, 12_950, "")
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
    let why = "image odoo:99 is not known to its registry; give another with --odoo-image";
    ended(operation, OperationState::Failed, 5000, why)
}

/// A change that was cancelled a second after it began, on its way back.
fn going_back(mut operation: Operation) -> Operation {
    use OperationState::{Cancelled, Running, Succeeded};
    operation.steps = vec![
        step("accept", Succeeded, 3, 60, "plan stored"),
        step("odoo", Cancelled, 60, 1000, "starting"),
        step("back", Succeeded, 1000, 1000, "cancelled by ana"),
        step("odoo", Running, 1200, 0, "starting"),
    ];
    operation.stage = "back".into();
    operation.stage_start_time = after(60, 1000);
    operation.error = "cancelled by ana".into();
    operation
}

fn is_back(mut operation: Operation, state: OperationState) -> Operation {
    use OperationState::Succeeded;
    let again = step("odoo", Succeeded, 1200, 4000, "");
    let healthy = step("healthy", Succeeded, 4000, 9000, "");
    operation.steps.splice(3.., [again, healthy]);
    let why = operation.error.clone();
    ended(operation, state, 9_100, &why)
}

fn waiting_for_edges(mut operation: Operation) -> Operation {
    use OperationState::{Running, Succeeded};
    operation.steps = vec![
        step("accept", Succeeded, 3, 60, "plan stored"),
        step("healthy", Succeeded, 60, 57_000, ""),
        step("route", Running, 57_000, 0, "edges"),
    ];
    operation.steps[2].progress_percent = 0;
    operation.stage = "route".into();
    operation.stage_start_time = after(60, 57_000);
    operation.waiting_for = "edges".into();
    operation
}

fn late(mut operation: Operation) -> Operation {
    operation.host = "h3".into();
    operation.waiting_for = "host h3, silent for 421 s".into();
    operation.create_time = ago(2 * 3600);
    operation.stage_start_time = ago(2 * 3600);
    operation.deadline_time = ago(3600);
    operation
}

fn in_trouble(operation: Operation) -> Operation {
    let mut operation = retrying(operation);
    operation.waiting_for = "host h2, which tries again: no space left on device".into();
    operation
}

fn moving(mut operation: Operation) -> Operation {
    use OperationState::{Running, Succeeded};
    let copying = "host h2, which copies: 128 of 512 MiB";
    operation.steps = vec![
        step("prepare", Succeeded, 0, 900, ""),
        step("stop", Succeeded, 900, 9_000, ""),
        step("copy", Running, 9_000, 0, copying),
    ];
    operation.steps[2].progress_percent = 25;
    operation.stage = "copy".into();
    operation.stage_start_time = after(60, 9_000);
    operation.waiting_for = copying.into();
    operation
}

fn moved(operation: Operation) -> Operation {
    use OperationState::Succeeded;
    let mut operation = moving(operation);
    operation.steps[2] = step("copy", Succeeded, 9_000, 17_000, "512 MiB");
    let started = step("start", Succeeded, 17_000, 26_000, "");
    let route = step("route", Succeeded, 26_000, 26_500, "the edges run it");
    operation.steps.extend([started, route]);
    ended(operation, Succeeded, 26_500, "")
}

fn upgraded(mut operation: Operation) -> Operation {
    use OperationState::{Skipped, Succeeded};
    let is = "sha256:2222aaaa0000 in the place of sha256:1111aaaa0000";
    operation.steps = vec![
        step("accept", Succeeded, 3, 60, "plan stored"),
        step(
            "image-postgres",
            Skipped,
            60,
            900,
            "postgres:15 pulled, and still sha256:3333aaaa0000",
        ),
        step(
            "image-odoo",
            Succeeded,
            60,
            4_000,
            &format!("odoo:18.0 pulled: {is}"),
        ),
        step("odoo", Succeeded, 4_000, 7_000, ""),
        step("healthy", Succeeded, 7_000, 12_000, ""),
        step("route", Succeeded, 12_000, 12_100, "the edges run it"),
    ];
    ended(operation, Succeeded, 12_100, "")
}

fn had_them_already(operation: Operation) -> Operation {
    use OperationState::Skipped;
    let mut operation = upgraded(operation);
    let still = "odoo:18.0 pulled, and still sha256:1111aaaa0000";
    operation.steps[2] = step("image-odoo", Skipped, 60, 1_000, still);
    operation.steps.drain(3..5);
    ended(operation, OperationState::Succeeded, 1_200, "")
}

/// What its host said when it could not have the image.
const NO_IMAGE: &str = "image nowhere:18.0 cannot be pulled: manifest unknown — check the image's name and that this host reaches its registry. The tenant keeps the images that it had";

fn without_its_image(mut operation: Operation) -> Operation {
    use OperationState::{Retrying, Succeeded};
    operation.steps = vec![
        step("accept", Succeeded, 3, 60, "plan stored"),
        step("image-odoo", Retrying, 60, 0, "manifest unknown"),
        step("back", Succeeded, 900, 900, NO_IMAGE),
    ];
    operation.stage = "back".into();
    operation.stage_start_time = after(60, 900);
    operation.error = NO_IMAGE.into();
    operation
}

fn part_of_another(operation: Operation) -> Operation {
    Operation {
        parent_id: op_id(11),
        ..operation
    }
}

/// The number at the end of an id.
pub(crate) fn number(id: &str) -> u32 {
    id.rsplit('0')
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn kind_of(number: u32) -> OperationKind {
    match number {
        5 | 13 => OperationKind::Restart,
        6 | 7 | 14 => OperationKind::Resize,
        12 | 15 => OperationKind::Move,
        19 => OperationKind::Restore,
        16..=18 => OperationKind::Upgrade,
        _ => OperationKind::Create,
    }
}

fn tenant_of(number: u32) -> &'static str {
    match number {
        6 | 7 => "beta",
        8 => "gama",
        12 => "delta",
        19 => "alfa2",
        _ => "alfa",
    }
}

/// The operation as it began.
pub(crate) fn first(id: &str) -> Operation {
    let number = number(id);
    operation(number, kind_of(number), tenant_of(number))
}

/// The operation as `GetOperation` returns it.
pub(crate) fn get(id: &str) -> Option<Operation> {
    let first = first(id);
    Some(match number(id) {
        1 | 3 | 4 | 13 | 14 => first,
        2 => failed(first),
        5 => succeeded(first),
        6 => going_back(first),
        7 => waiting_for_edges(first),
        8 => late(first),
        11 => in_trouble(first),
        12 => part_of_another(moving(first)),
        _ => return None,
    })
}

/// What cancelling it answers, unless it is done.
pub(crate) fn cancelled(operation: Operation) -> Operation {
    match number(&operation.id) {
        13 => ended(
            operation,
            OperationState::Cancelled,
            1000,
            "cancelled by ana",
        ),
        _ => going_back(operation),
    }
}

/// The states that a watch receives, in order.
pub(crate) fn life(first: Operation) -> Vec<Operation> {
    match number(&first.id) {
        2 => vec![first.clone(), retrying(first.clone()), failed(first)],
        3 => vec![first],
        15 => vec![moving(first.clone()), moved(first)],
        16 => vec![had_them_already(first)],
        17 => {
            let back = without_its_image(first);
            vec![
                back.clone(),
                ended(back, OperationState::Failed, 1_100, NO_IMAGE),
            ]
        }
        18 => vec![upgraded(first)],
        6 => {
            let back = going_back(first);
            vec![back.clone(), is_back(back, OperationState::Cancelled)]
        }
        14 => {
            let mut back = going_back(first);
            back.error = "no space left on device".into();
            vec![back.clone(), is_back(back, OperationState::Failed)]
        }
        _ => vec![first.clone(), succeeded(first)],
    }
}

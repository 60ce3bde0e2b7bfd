//! Moves that would help, and what they would lead to.

use isyone_proto::pb::v1::*;

use super::MIB;

fn load(load_permille: u32) -> Option<HostLoad> {
    Some(HostLoad {
        load_permille,
        memory_permille: load_permille,
        cpu_permille: load_permille / 2,
        disk_permille: 200,
    })
}

fn alfa() -> ProposedMove {
    ProposedMove {
        tenant: "alfa".into(),
        from_host: "h1".into(),
        to_host: "h2".into(),
        reason: "h1 from 75 to 63 %, h2 from 20 to 33 %. h2: least loaded of 2 hosts that fit out of 4 (33 %, 2 tenants; next h1 with 88 %, 6 tenants)".into(),
        bytes: Some(256 * MIB),
        pause_ms: Some(19_000),
        from_permille_before: 750,
        from_permille_after: 625,
        to_permille_before: 200,
        to_permille_after: 325,
    }
}

/// Its size is not known.
fn beta() -> ProposedMove {
    ProposedMove {
        tenant: "beta".into(),
        reason: "h1 from 63 to 50 %, h2 from 33 to 45 %. h2: least loaded of 2 hosts that fit out of 4 (45 %, 3 tenants; next h1 with 75 %, 5 tenants)".into(),
        bytes: None,
        pause_ms: None,
        from_permille_before: 625,
        from_permille_after: 500,
        to_permille_before: 325,
        to_permille_after: 450,
        ..alfa()
    }
}

pub(crate) fn proposal() -> RebalanceProposal {
    let host = |host: &str, before, after, tenants: (u32, u32)| HostForecast {
        host: host.into(),
        before: load(before),
        after: load(after),
        tenants_before: tenants.0,
        tenants_after: tenants.1,
        why_not: String::new(),
    };
    let mut h3 = host("h3", 640, 640, (3, 3));
    h3.why_not = "what stays: 2 pinned there with --host (epsilon, zeta), 1 moved less than a day ago: a day's load is to be seen first (eta)".into();
    let silent = HostForecast {
        host: "h4".into(),
        tenants_before: 1,
        tenants_after: 1,
        ..HostForecast::default()
    };
    RebalanceProposal {
        moves: vec![alfa(), beta()],
        hosts: vec![
            host("h1", 750, 500, (6, 6)),
            host("h2", 200, 450, (1, 3)),
            h3,
            silent,
        ],
        considered: 4,
        reason: "no more move helps: h3 has 64 %, h2 45 %; each host has the reason".into(),
        settle_time: None,
    }
}

/// The one move that helps when it is asked for the `nth` time: first alfa's, then beta's, which fails; then none, before
/// alfa's that takes longer than there is time.
pub(crate) fn next_move(nth: u32) -> Vec<ProposedMove> {
    match nth {
        0 | 3 => vec![alfa()],
        1 => vec![beta()],
        _ => Vec::new(),
    }
}

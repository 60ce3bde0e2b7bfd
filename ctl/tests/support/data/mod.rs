//! The canned fleet: three hosts, four tenants, at eight o'clock.

mod backups;
mod edges;
mod hosts;
mod rebalance;
mod tenants;

use std::collections::HashMap;

use isyone_proto::pb::v1::*;
use prost_types::Timestamp;

pub(crate) use backups::{backup_files, backups, protections};
pub(crate) use edges::{certificates, edges, rejected_routes};
pub(crate) use hosts::{all_hosts, hosts, join_tokens, nowhere, placement};
pub(crate) use rebalance::{next_move, proposal};
pub(crate) use tenants::{
    all_domains, copies, credentials, domains, followed, strain, tenant, tenants,
};

/// Value of `ISYCTL_NOW`.
pub(crate) const NOW: &str = "2026-11-23T08:00:00Z";
const NOW_SECONDS: i64 = 1_795_420_800;

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const MIB: u64 = 1 << 20;

/// A time that many seconds before now (negative: after).
pub(crate) fn ago(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: NOW_SECONDS - seconds,
        nanos: 0,
    })
}

/// `ms` milliseconds after the time `seconds_ago` seconds before now.
pub(crate) fn after(seconds_ago: i64, ms: i64) -> Option<Timestamp> {
    let total = (NOW_SECONDS - seconds_ago) * 1000 + ms;
    Some(Timestamp {
        seconds: total / 1000,
        nanos: (total % 1000 * 1_000_000) as i32,
    })
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub(crate) fn standard() -> Size {
    Size {
        memory_bytes: 2 * GIB,
        cpu_millis: 1500,
        disk_bytes: 10 * GIB,
        workers: 2,
        bounds: None,
    }
}

/// An operation's id; it ends with the number.
pub(crate) fn op_id(number: u32) -> String {
    format!("01935780-0000-7000-8000-0000000000{number:02}")
}

pub(crate) fn operator(name: &str, role: Role) -> Operator {
    Operator {
        name: name.into(),
        role: role.into(),
        create_time: ago(40 * 86_400),
        revoked: name == "eve",
        certificate_expire_time: ago(-325 * 86_400),
        prometheus: name == "prometheus",
    }
}

pub(crate) fn events() -> Vec<Event> {
    let event =
        |sequence, kind: &str, tenant: &str, host: &str, actor: &str, message: &str| Event {
            sequence,
            time: ago(100 - sequence as i64),
            kind: kind.into(),
            tenant: tenant.into(),
            host: host.into(),
            actor: actor.into(),
            message: message.into(),
            operation_id: String::new(),
        };
    vec![
        event(
            7,
            "host.joined",
            "",
            "h3",
            "host/h3",
            "joined with a token of ana",
        ),
        event(8, "tenant.created", "alfa", "h2", "ana", "placed on h2"),
        event(
            9,
            "credentials.read",
            "alfa",
            "",
            "ana",
            "read \u{1b}[31mcredentials",
        ),
    ]
}

pub(crate) fn info() -> Info {
    let size = |memory: u64, cpu_millis, workers| Size {
        memory_bytes: memory * GIB,
        cpu_millis,
        disk_bytes: 10 * GIB,
        workers,
        bounds: None,
    };
    Info {
        version: "0.1.0".into(),
        base_domain: "isy.one".into(),
        plans: [
            ("small".to_owned(), size(1, 500, 0)),
            ("standard".to_owned(), standard()),
            ("large".to_owned(), size(8, 4000, 6)),
        ]
        .into(),
        default_plan: "standard".into(),
        caller_name: "ana".into(),
        caller_role: Role::Admin.into(),
        edge_url: String::new(),
        prometheus_url: String::new(),
        editions: map(&[("18.0", "odoo:18.0"), ("17.0", "odoo:17.0")]),
        start_time: ago(2 * 86_400),
    }
}

//! The row of a tenant or host: which columns exist, which of them fit, and what they contain. Pure.

use isyone_proto::pb::v1::{Host, HostOrder, Reach, Tenant, TenantOrder};

use super::list::Order;
use crate::output::{
    format,
    table::{Paint, clean},
};

/// Placeholder for unknown values.
const UNKNOWN: &str = "-";
/// Highlight a figure from this share of its limit on, in per mille.
const HIGH: u64 = 900;

/// A cell: its cleaned text and its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub paint: Option<Paint>,
}

impl Cell {
    fn plain(text: impl AsRef<str>) -> Self {
        Self {
            text: clean(text.as_ref()),
            paint: None,
        }
    }

    fn word(word: &str) -> Self {
        Self {
            text: clean(word),
            paint: Some(Paint::of(word)),
        }
    }

    fn painted(text: impl AsRef<str>, paint: Paint) -> Self {
        Self {
            text: clean(text.as_ref()),
            paint: Some(paint),
        }
    }

    /// A figure, or the placeholder.
    fn figure(value: Option<String>) -> Self {
        value.map_or(
            Self {
                text: UNKNOWN.to_owned(),
                paint: Some(Paint::Faint),
            },
            Self::plain,
        )
    }

    /// Highlights the cell when the figure is high.
    fn warned(mut self, high: bool) -> Self {
        if high {
            self.paint = Some(Paint::Warn);
        }
        self
    }
}

#[derive(Debug)]
pub struct Column<T: 'static, O: 'static> {
    pub name: &'static str,
    /// Width in characters; 0 for the column that takes what is left.
    pub width: u16,
    /// Right-aligned, as figures are.
    pub right: bool,
    /// The order that sorts by this column.
    pub order: Option<O>,
    /// Without room for all columns, the one with the highest number goes first; 0 always stays.
    pub goes: u8,
    pub cell: fn(&T, i64) -> Cell,
}

/// Minimum width for names.
const MIN_NAME: u16 = 14;

/// The columns that fit into this many characters, with one blank between them.
pub fn fitting<T, O: Order>(
    columns: &'static [Column<T, O>],
    width: u16,
) -> Vec<&'static Column<T, O>> {
    let mut kept: Vec<&Column<T, O>> = columns.iter().collect();
    let needed =
        |kept: &[&Column<T, O>]| kept.iter().map(|c| c.width.max(1) + 1).sum::<u16>() + MIN_NAME;
    while needed(&kept) > width {
        let Some(goes) = kept.iter().map(|c| c.goes).max().filter(|goes| *goes > 0) else {
            break;
        };
        kept.retain(|column| column.goes != goes);
    }
    kept
}

type TenantColumn = Column<Tenant, TenantOrder>;

pub static TENANTS: [TenantColumn; 10] = [
    TenantColumn {
        name: "NAME",
        width: 0,
        right: false,
        order: Some(TenantOrder::Name),
        goes: 0,
        cell: name,
    },
    TenantColumn {
        name: "STATE",
        width: 11,
        right: false,
        order: Some(TenantOrder::State),
        goes: 0,
        cell: phase,
    },
    TenantColumn {
        name: "HOST",
        width: 8,
        right: false,
        order: Some(TenantOrder::Host),
        goes: 2,
        cell: host,
    },
    TenantColumn {
        name: "CPU",
        width: 5,
        right: true,
        order: Some(TenantOrder::Cpu),
        goes: 0,
        cell: cpu,
    },
    TenantColumn {
        name: "MEMORY",
        width: 8,
        right: true,
        order: Some(TenantOrder::Memory),
        goes: 0,
        cell: memory,
    },
    TenantColumn {
        name: "DISK",
        width: 8,
        right: true,
        order: Some(TenantOrder::Disk),
        goes: 3,
        cell: disk,
    },
    TenantColumn {
        name: "REQ/S",
        width: 6,
        right: true,
        order: Some(TenantOrder::Requests),
        goes: 0,
        cell: requests,
    },
    TenantColumn {
        name: "ERR/S",
        width: 6,
        right: true,
        order: Some(TenantOrder::Errors),
        goes: 0,
        cell: errors,
    },
    TenantColumn {
        name: "P95",
        width: 6,
        right: true,
        order: Some(TenantOrder::Latency),
        goes: 1,
        cell: latency,
    },
    TenantColumn {
        name: "EDGE",
        width: 4,
        right: true,
        order: None,
        goes: 1,
        cell: edge,
    },
];

type HostColumn = Column<Host, HostOrder>;

pub static HOSTS: [HostColumn; 9] = [
    HostColumn {
        name: "NAME",
        width: 0,
        right: false,
        order: Some(HostOrder::Name),
        goes: 0,
        cell: host_name,
    },
    HostColumn {
        name: "STATE",
        width: 15,
        right: false,
        order: Some(HostOrder::State),
        goes: 0,
        cell: host_state,
    },
    HostColumn {
        name: "TENANTS",
        width: 8,
        right: true,
        order: Some(HostOrder::Tenants),
        goes: 0,
        cell: host_tenants,
    },
    HostColumn {
        name: "CPU",
        width: 5,
        right: true,
        order: Some(HostOrder::Cpu),
        goes: 0,
        cell: host_cpu,
    },
    HostColumn {
        name: "MEMORY",
        width: 7,
        right: true,
        order: Some(HostOrder::Memory),
        goes: 0,
        cell: host_memory,
    },
    HostColumn {
        name: "DISK",
        width: 5,
        right: true,
        order: Some(HostOrder::Disk),
        goes: 0,
        cell: host_disk,
    },
    HostColumn {
        name: "LOAD",
        width: 6,
        right: true,
        order: Some(HostOrder::Load),
        goes: 1,
        cell: host_load,
    },
    HostColumn {
        name: "AGENT",
        width: 9,
        right: true,
        order: None,
        goes: 2,
        cell: host_agent,
    },
    HostColumn {
        name: "REPORT",
        width: 6,
        right: true,
        order: None,
        goes: 3,
        cell: host_report,
    },
];

fn name(tenant: &Tenant, _: i64) -> Cell {
    Cell::plain(&tenant.name)
}

fn phase(tenant: &Tenant, _: i64) -> Cell {
    Cell::word(&format::tenant_phase(tenant))
}

fn host(tenant: &Tenant, _: i64) -> Cell {
    Cell::plain(format::or_dash(&tenant.host))
}

fn cpu(tenant: &Tenant, _: i64) -> Cell {
    let limit = tenant.size.map_or(0, |size| size.cpu_millis);
    let used = tenant.usage.map(|usage| usage.cpu_millis);
    let text = used.map(|millis| format!("{:.2}", f64::from(millis) / 1000.0));
    Cell::figure(text).warned(high(used.unwrap_or(0).into(), limit.into()))
}

fn memory(tenant: &Tenant, _: i64) -> Cell {
    let limit = tenant.size.map_or(0, |size| size.memory_bytes);
    let used = tenant.usage.map(|usage| usage.memory_bytes);
    Cell::figure(used.map(format::bytes)).warned(high(used.unwrap_or(0), limit))
}

fn disk(tenant: &Tenant, _: i64) -> Cell {
    let limit = tenant.size.map_or(0, |size| size.disk_bytes);
    let used = format::measured_disk(tenant.usage.as_ref());
    Cell::figure(used.map(format::bytes)).warned(high(used.unwrap_or(0), limit))
}

fn requests(tenant: &Tenant, _: i64) -> Cell {
    Cell::figure(
        tenant
            .traffic
            .map(|traffic| format::per_second(traffic.requests_per_minute)),
    )
}

fn errors(tenant: &Tenant, _: i64) -> Cell {
    let errors = tenant.traffic.map(|traffic| traffic.errors_per_minute);
    let cell = Cell::figure(errors.map(format::per_second));
    if errors.is_some_and(|errors| errors > 0) {
        Cell::painted(cell.text, Paint::Bad)
    } else {
        cell
    }
}

fn latency(tenant: &Tenant, _: i64) -> Cell {
    Cell::figure(format::p95(tenant.traffic.as_ref()))
}

fn edge(tenant: &Tenant, _: i64) -> Cell {
    let Some(probe) = &tenant.probe else {
        return Cell::figure(None);
    };
    match (probe.reach(), probe.http_status) {
        (Reach::Ok, status) => Cell::painted(status.to_string(), Paint::Good),
        (Reach::EdgeDown, _) => Cell::painted("edge", Paint::Bad),
        (Reach::HostDown, _) => Cell::painted("host", Paint::Bad),
        (Reach::TenantDown | Reach::Unspecified, 0) => Cell::painted("down", Paint::Bad),
        (Reach::TenantDown | Reach::Unspecified, status) => {
            Cell::painted(status.to_string(), Paint::Bad)
        }
    }
}

fn host_name(host: &Host, _: i64) -> Cell {
    Cell::plain(&host.name)
}

/// The host's state, with a note when it is cordoned.
pub fn host_state(host: &Host, _: i64) -> Cell {
    let word = format::host_state(host.state);
    if host.cordoned {
        Cell::painted(format!("{word}, closed"), Paint::Warn)
    } else {
        Cell::word(&word)
    }
}

fn host_tenants(host: &Host, _: i64) -> Cell {
    Cell::plain(host.tenants.to_string())
}

fn host_cpu(host: &Host, _: i64) -> Cell {
    let used = host.resources.map(|r| r.cpu_used_permille);
    Cell::figure(used.map(format::percent)).warned(high(used.unwrap_or(0).into(), 1000))
}

fn host_memory(host: &Host, _: i64) -> Cell {
    share(
        host.resources
            .map(|r| (r.memory_total_bytes, r.memory_available_bytes)),
    )
}

fn host_disk(host: &Host, _: i64) -> Cell {
    share(
        host.resources
            .map(|r| (r.disk_total_bytes, r.disk_available_bytes)),
    )
}

fn share(of: Option<(u64, u64)>) -> Cell {
    let used = of
        .filter(|(total, _)| *total > 0)
        .map(|(total, available)| (total.saturating_sub(available), total));
    let cell = Cell::figure(used.map(|(used, total)| format::share(used, total)));
    cell.warned(used.is_some_and(|(used, total)| high(used, total)))
}

fn host_load(host: &Host, _: i64) -> Cell {
    let load = host.resources.map(|r| (r.load1_milli, r.cpus));
    let text = load.map(|(milli, _)| format!("{:.2}", f64::from(milli) / 1000.0));
    // More runnable tasks than CPUs.
    Cell::figure(text)
        .warned(load.is_some_and(|(milli, cpus)| u64::from(milli) > u64::from(cpus) * 1000))
}

fn host_agent(host: &Host, _: i64) -> Cell {
    Cell::figure(Some(host.agent_version.clone()).filter(|version| !version.is_empty()))
}

fn host_report(host: &Host, now_ms: i64) -> Cell {
    Cell::figure(
        host.report_time
            .as_ref()
            .map(|time| format::age(now_ms, Some(time))),
    )
}

fn high(used: u64, limit: u64) -> bool {
    limit > 0 && used.saturating_mul(1000) / limit >= HIGH
}

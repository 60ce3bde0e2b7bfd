//! Tenants' containers under cAdvisor's metric names.
//!
//! Names and rendering are pure; [`Reader`] reads the kernel's files. Not here: the format of those files (cgroup).

use std::collections::HashMap;

use super::text::{MetricType, Text};
use crate::{
    base::kernel,
    host::{
        cgroup::{ControlGroups, Figures},
        resources,
    },
};

/// A container to measure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// `odoo_alfa`.
    pub name: String,
    /// `alfa`.
    pub tenant: String,
    /// The image reference in the plan.
    pub image: String,
    /// Engine's id.
    pub id: String,
    /// Its process 1.
    pub pid: i32,
    /// Milliseconds since the Unix epoch.
    pub started_ms: Option<i64>,
    /// Out-of-memory kills that Docker has reported.
    pub oom_events: u32,
    /// Size of its volume, measured rarely.
    pub volume_bytes: Option<u64>,
}

/// A network interface's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// Bytes, packets, errors, drops received.
    pub received: [u64; 4],
    /// Likewise sent.
    pub sent: [u64; 4],
}

/// All that is known of one container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    pub subject: Subject,
    /// From its control groups.
    pub figures: Figures,
    /// From its network namespace.
    pub interfaces: Vec<Interface>,
}

/// Parses `/proc/<pid>/net/dev`, without the loopback.
pub fn parse_net_dev(text: &str) -> Vec<Interface> {
    let parse = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        let pick =
            |from: usize| -> Option<[u64; 4]> { numbers.get(from..from + 4)?.try_into().ok() };
        Some(Interface {
            name: name.trim().to_owned(),
            received: pick(0)?,
            sent: pick(8)?,
        })
    };
    text.lines()
        .filter_map(parse)
        .filter(|i| i.name != "lo")
        .collect()
}

type Value = fn(&Measured) -> Option<f64>;

/// Name, kind, help and value of each metric without further labels.
const METRICS: &[(&str, MetricType, &str, Value)] = &[
    (
        "container_cpu_usage_seconds_total",
        MetricType::Counter,
        "CPU time used",
        |m| Some(m.figures.cpu_s),
    ),
    (
        "container_cpu_user_seconds_total",
        MetricType::Counter,
        "CPU time used in programs",
        |m| Some(m.figures.user_s),
    ),
    (
        "container_cpu_system_seconds_total",
        MetricType::Counter,
        "CPU time used in the kernel",
        |m| Some(m.figures.system_s),
    ),
    (
        "container_cpu_cfs_periods_total",
        MetricType::Counter,
        "Scheduling periods",
        |m| Some(m.figures.periods as f64),
    ),
    (
        "container_cpu_cfs_throttled_periods_total",
        MetricType::Counter,
        "Scheduling periods in which the CPU quota ran out",
        |m| Some(m.figures.throttled_periods as f64),
    ),
    (
        "container_cpu_cfs_throttled_seconds_total",
        MetricType::Counter,
        "Time spent waiting for the next CPU quota",
        |m| Some(m.figures.throttled_s),
    ),
    (
        "container_spec_cpu_quota",
        MetricType::Gauge,
        "CPU quota per period, microseconds",
        |m| m.figures.quota_us.map(|q| q as f64),
    ),
    (
        "container_spec_cpu_period",
        MetricType::Gauge,
        "CPU period, microseconds",
        |m| Some(m.figures.period_us as f64),
    ),
    (
        "container_memory_usage_bytes",
        MetricType::Gauge,
        "Memory used, page cache included",
        |m| Some(m.figures.memory as f64),
    ),
    (
        "container_memory_working_set_bytes",
        MetricType::Gauge,
        "Memory used, without page cache that can go",
        |m| Some(m.figures.memory.saturating_sub(m.figures.inactive_file) as f64),
    ),
    (
        "container_memory_rss",
        MetricType::Gauge,
        "Anonymous memory",
        |m| Some(m.figures.rss as f64),
    ),
    (
        "container_memory_cache",
        MetricType::Gauge,
        "Page cache",
        |m| Some(m.figures.cache as f64),
    ),
    (
        "container_memory_swap",
        MetricType::Gauge,
        "Memory swapped out",
        |m| Some(m.figures.swap as f64),
    ),
    (
        "container_memory_max_usage_bytes",
        MetricType::Gauge,
        "Highest memory use",
        |m| m.figures.max_memory.map(|b| b as f64),
    ),
    (
        "container_memory_failcnt",
        MetricType::Counter,
        "How often the memory limit was reached",
        |m| Some(m.figures.failures as f64),
    ),
    (
        "container_spec_memory_limit_bytes",
        MetricType::Gauge,
        "Memory limit; 0: none",
        |m| Some(m.figures.memory_limit as f64),
    ),
    (
        "container_oom_events_total",
        MetricType::Counter,
        "Processes killed for want of memory",
        |m| {
            // A new container's group starts at 0, and so does a new agent's count: the higher one knows more.
            Some(m.figures.oom_kills.max(m.subject.oom_events.into()) as f64)
        },
    ),
    (
        "container_processes",
        MetricType::Gauge,
        "Processes and threads",
        |m| Some(m.figures.processes as f64),
    ),
    (
        "container_fs_reads_bytes_total",
        MetricType::Counter,
        "Read from block devices",
        |m| Some(m.figures.read_bytes as f64),
    ),
    (
        "container_fs_writes_bytes_total",
        MetricType::Counter,
        "Written to block devices",
        |m| Some(m.figures.written_bytes as f64),
    ),
    (
        "container_fs_reads_total",
        MetricType::Counter,
        "Read operations",
        |m| Some(m.figures.reads as f64),
    ),
    (
        "container_fs_writes_total",
        MetricType::Counter,
        "Write operations",
        |m| Some(m.figures.writes as f64),
    ),
    (
        "container_fs_usage_bytes",
        MetricType::Gauge,
        "Size of the volume; measured every quarter of an hour at most",
        |m| m.subject.volume_bytes.map(|b| b as f64),
    ),
    (
        "container_start_time_seconds",
        MetricType::Gauge,
        "Start, seconds since the Unix epoch",
        |m| m.subject.started_ms.map(|ms| ms as f64 / 1000.0),
    ),
];

type Traffic = (&'static str, &'static str, fn(&Interface) -> u64);

const NETWORK: &[Traffic] = &[
    (
        "container_network_receive_bytes_total",
        "Bytes received",
        |i| i.received[0],
    ),
    (
        "container_network_receive_packets_total",
        "Packets received",
        |i| i.received[1],
    ),
    (
        "container_network_receive_errors_total",
        "Errors while receiving",
        |i| i.received[2],
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Packets dropped while receiving",
        |i| i.received[3],
    ),
    (
        "container_network_transmit_bytes_total",
        "Bytes sent",
        |i| i.sent[0],
    ),
    (
        "container_network_transmit_packets_total",
        "Packets sent",
        |i| i.sent[1],
    ),
    (
        "container_network_transmit_errors_total",
        "Errors while sending",
        |i| i.sent[2],
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Packets dropped while sending",
        |i| i.sent[3],
    ),
];

/// Renders the page. `now_ms`: time of measurement.
pub fn render(all: &[Measured], now_ms: i64) -> String {
    let mut text = Text::default();
    for (name, kind, help, value) in METRICS {
        text.family(name, *kind, help);
        for measured in all {
            if let Some(value) = value(measured) {
                text.sample(name, &labels(&measured.subject), value);
            }
        }
    }
    for (name, help, value) in NETWORK {
        text.family(name, MetricType::Counter, help);
        for measured in all {
            let own = labels(&measured.subject);
            for interface in &measured.interfaces {
                let mut labels = own.to_vec();
                labels.push(("interface", &interface.name));
                text.sample(name, &labels, value(interface) as f64);
            }
        }
    }
    let name = "container_last_seen";
    text.family(
        name,
        MetricType::Gauge,
        "When it was measured, seconds since the Unix epoch",
    );
    for measured in all {
        text.sample(name, &labels(&measured.subject), (now_ms / 1000) as f64);
    }
    text.finish()
}

fn labels(subject: &Subject) -> [(&str, &str); 4] {
    [
        ("container", subject.name.as_str()),
        ("image", subject.image.as_str()),
        ("name", subject.name.as_str()),
        ("tenant", subject.tenant.as_str()),
    ]
}

/// Reads containers, and remembers where their control groups are.
#[derive(Debug, Default)]
pub struct Reader {
    groups: HashMap<String, ControlGroups>,
}

impl Reader {
    /// Measures those that are running now.
    pub fn measure(&mut self, subjects: Vec<Subject>) -> Vec<Measured> {
        self.groups
            .retain(|id, _| subjects.iter().any(|s| s.id == *id));
        subjects
            .into_iter()
            .filter_map(|subject| self.one(subject))
            .collect()
    }

    fn one(&mut self, subject: Subject) -> Option<Measured> {
        let text = |path: String| kernel::text(&path).ok();
        let groups = match self.groups.get(&subject.id) {
            Some(groups) => groups,
            None => {
                let found = resources::groups_of(subject.pid, &subject.id)?;
                self.groups.entry(subject.id.clone()).or_insert(found)
            }
        };
        let figures = groups.figures(&|path| text(path.to_owned()))?;
        let interfaces =
            parse_net_dev(&text(format!("/proc/{}/net/dev", subject.pid)).unwrap_or_default());
        Some(Measured {
            subject,
            figures,
            interfaces,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::cgroup::tests::{V1, v1},
        testing::check_golden,
    };

    const NET_DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
        lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
        eth0: 1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0\n";

    #[test]
    fn the_page_is_as_the_golden_one() {
        let odoo = Measured {
            subject: Subject {
                name: "odoo_alfa".into(),
                tenant: "alfa".into(),
                image: "odoo:18.0".into(),
                started_ms: Some(1_700_000_000_500),
                oom_events: 3,
                volume_bytes: Some(123_456),
                ..Subject::default()
            },
            figures: ControlGroups::parse(V1, "/c")
                .unwrap()
                .figures(&v1)
                .unwrap(),
            interfaces: parse_net_dev(NET_DEV),
        };
        let mut postgres = odoo.clone();
        postgres.subject = Subject {
            name: "postgres_alfa".into(),
            tenant: "alfa".into(),
            image: "postgres:15".into(),
            ..Subject::default()
        };
        postgres.interfaces.clear();
        check_golden(
            "containers.txt",
            &render(&[odoo, postgres], 1_700_000_100_000),
        );
    }

    #[test]
    fn a_process_of_somebody_else_is_not_measured() {
        let subject = Subject {
            id: "no such container".into(),
            pid: std::process::id() as i32,
            ..Subject::default()
        };
        assert!(Reader::default().measure(vec![subject]).is_empty());
    }
}

//! The host's /proc files under node-exporter's metric names. Pure: takes texts, returns samples. A file that is
//! missing or malformed gives no sample, never a wrong one.
//!
//! Not here: reading (node).

mod disks;

pub use self::disks::{MountedDisk, Room, diskstats, filesystems, parse_mounts};
use super::text::{MetricType, Text};

/// The kernel counts CPU time in hundredths of a second.
const TICKS: f64 = 100.0;
const CPU_MODES: [&str; 8] = [
    "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal",
];

fn numbers(text: &str) -> Vec<f64> {
    text.split_ascii_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect()
}

/// `/proc/stat`.
pub fn stat(out: &mut Text, text: &str) {
    let name = "node_cpu_seconds_total";
    out.family(
        name,
        MetricType::Counter,
        "Seconds the CPUs spent in each mode",
    );
    for line in text.lines().filter_map(|l| l.strip_prefix("cpu")) {
        let Some((cpu, rest)) = line.split_once(' ').filter(|(cpu, _)| !cpu.is_empty()) else {
            continue;
        };
        for (mode, ticks) in CPU_MODES.iter().zip(numbers(rest)) {
            out.sample(name, &[("cpu", cpu), ("mode", mode)], ticks / TICKS);
        }
    }
    for (key, name, kind, help) in [
        (
            "btime",
            "node_boot_time_seconds",
            MetricType::Gauge,
            "Boot, seconds since the Unix epoch",
        ),
        (
            "ctxt",
            "node_context_switches_total",
            MetricType::Counter,
            "Context switches",
        ),
        (
            "processes",
            "node_forks_total",
            MetricType::Counter,
            "Processes made",
        ),
        (
            "intr",
            "node_intr_total",
            MetricType::Counter,
            "Interrupts served",
        ),
        (
            "procs_running",
            "node_procs_running",
            MetricType::Gauge,
            "Processes that can run",
        ),
        (
            "procs_blocked",
            "node_procs_blocked",
            MetricType::Gauge,
            "Processes that wait for disks",
        ),
    ] {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
        if let Some(value) = line.and_then(|l| l.split(' ').next()?.parse().ok()) {
            out.single(name, kind, help, value);
        }
    }
}

/// `/proc/meminfo`: `Active(anon):` becomes `Active_anon`.
pub fn meminfo(out: &mut Text, text: &str) {
    for line in text.lines() {
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        let mut words = rest.split_ascii_whitespace();
        let Some(value) = words.next().and_then(|n| n.parse::<f64>().ok()) else {
            continue;
        };
        let key = key.replace('(', "_").replace(')', "");
        match words.next() {
            Some("kB") => {
                out.single(
                    &format!("node_memory_{key}_bytes"),
                    MetricType::Gauge,
                    "From /proc/meminfo",
                    value * 1024.0,
                );
            }
            _ => out.single(
                &format!("node_memory_{key}"),
                MetricType::Gauge,
                "From /proc/meminfo",
                value,
            ),
        }
    }
}

/// `/proc/loadavg`.
pub fn loadavg(out: &mut Text, text: &str) {
    let values = text.split(' ').take(3).map(|n| n.parse::<f64>().ok());
    for ((name, help), value) in [
        ("node_load1", "Load over 1 minute"),
        ("node_load5", "Load over 5 minutes"),
        ("node_load15", "Load over 15 minutes"),
    ]
    .into_iter()
    .zip(values)
    {
        if let Some(value) = value {
            out.single(name, MetricType::Gauge, help, value);
        }
    }
}

/// `/proc/net/dev`, without the containers' veth devices: there are hundreds, and the containers' own metrics say the
/// same.
pub fn net_dev(out: &mut Text, text: &str) {
    const FIELDS: [(&str, usize); 8] = [
        ("receive_bytes", 0),
        ("receive_packets", 1),
        ("receive_errs", 2),
        ("receive_drop", 3),
        ("transmit_bytes", 8),
        ("transmit_packets", 9),
        ("transmit_errs", 10),
        ("transmit_drop", 11),
    ];
    let devices: Vec<(&str, Vec<f64>)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, rest)| (name.trim(), numbers(rest)))
        .filter(|(name, values)| !name.starts_with("veth") && values.len() >= 16)
        .collect();
    for (field, at) in FIELDS {
        let name = format!("node_network_{field}_total");
        out.family(&name, MetricType::Counter, "From /proc/net/dev");
        for (device, values) in &devices {
            out.sample(&name, &[("device", device)], values[at]);
        }
    }
}

/// `/proc/pressure/{cpu,memory,io}`, in this order.
pub fn pressure(out: &mut Text, texts: &[String; 3]) {
    for (kind, text) in ["cpu", "memory", "io"].iter().zip(texts) {
        for (line, word) in [("some ", "waiting"), ("full ", "stalled")] {
            // Nothing is ever stalled by CPU alone on a whole machine: the kernel's line for that is all zeros.
            if *kind == "cpu" && word == "stalled" {
                continue;
            }
            let total = text.lines().find_map(|l| {
                l.strip_prefix(line)?
                    .split(' ')
                    .find_map(|w| w.strip_prefix("total="))
            });
            if let Some(us) = total.and_then(|t| t.parse::<f64>().ok()) {
                let name = format!("node_pressure_{kind}_{word}_seconds_total");
                out.single(
                    &name,
                    MetricType::Counter,
                    "Seconds that programs waited for it",
                    us / 1e6,
                );
            }
        }
    }
}

/// `/proc/vmstat`, of which few lines are useful to an operator.
pub fn vmstat(out: &mut Text, text: &str) {
    for key in [
        "oom_kill",
        "pgfault",
        "pgmajfault",
        "pgpgin",
        "pgpgout",
        "pswpin",
        "pswpout",
    ] {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
        if let Some(value) = line.and_then(|n| n.parse().ok()) {
            out.single(
                &format!("node_vmstat_{key}"),
                MetricType::Counter,
                "From /proc/vmstat",
                value,
            );
        }
    }
}

/// Small files: `/proc/sys/fs/file-nr` and conntrack's two counters.
pub fn tables(out: &mut Text, file_nr: &str, conntrack: &str, conntrack_max: &str) {
    let words: Vec<&str> = file_nr.split_ascii_whitespace().collect();
    for (name, help, text) in [
        (
            "node_filefd_allocated",
            "Open files",
            words.first().copied(),
        ),
        (
            "node_filefd_maximum",
            "Most open files",
            words.get(2).copied(),
        ),
        (
            "node_nf_conntrack_entries",
            "Connections that the packet filter follows",
            Some(conntrack),
        ),
        (
            "node_nf_conntrack_entries_limit",
            "Most such connections",
            Some(conntrack_max),
        ),
    ] {
        if let Some(value) = text.and_then(|t| t.trim().parse().ok()) {
            out.single(name, MetricType::Gauge, help, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{disks::tests::MOUNTS, *};
    use crate::testing::check_golden;

    const STAT: &str = "cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 150 25 300 6000 10 0 5 1 0 0\nintr 777 1 2\nctxt 42\nbtime 1700000000\nprocesses 99\nprocs_running 2\nprocs_blocked 1\n";
    const NET: &str = "Inter-|   Receive\n face |bytes\n  lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\nveth1: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0\n";
    const DISKS: &str = "   8       0 sda 100 1 2000 50 200 2 4000 100 3 120 150 0 0 0 0\n   7       0 loop0 1 1 1 1 1 1 1 1 1 1 1\n   8      16 sdb 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn the_page_is_as_the_golden_one() {
        let mut out = Text::default();
        stat(&mut out, STAT);
        meminfo(
            &mut out,
            "MemTotal:  1000 kB\nMemAvailable:   400 kB\nActive(anon):  7 kB\nHugePages_Total:  0\n",
        );
        loadavg(&mut out, "0.50 1.25 2.00 1/345 6789\n");
        net_dev(&mut out, NET);
        diskstats(&mut out, DISKS);
        let some =
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 total=1000000\n"
                .to_owned();
        pressure(&mut out, &[some.clone(), some, String::new()]);
        let room = Room {
            size: 1000,
            free: 500,
            available: 400,
            files: 10,
            files_free: 5,
        };
        let mounts: Vec<_> = parse_mounts(MOUNTS, &["/", "/var/lib/docker"])
            .into_iter()
            .map(|m| (m, room))
            .collect();
        filesystems(&mut out, &mounts);
        vmstat(&mut out, "oom_kill 3\noom_kill_x 4\npgfault 10\n");
        tables(&mut out, "1216\t0\t9223372036854775807\n", "12\n", "");
        check_golden("node.txt", &out.finish());
    }

    #[test]
    fn nonsense_gives_no_samples() {
        let mut out = Text::default();
        for text in ["", "x", "cpu\ncpu0\n", ":\n::\n", "some total=x"] {
            stat(&mut out, text);
            meminfo(&mut out, text);
            loadavg(&mut out, text);
            net_dev(&mut out, text);
            diskstats(&mut out, text);
            pressure(
                &mut out,
                &[text.to_owned(), text.to_owned(), text.to_owned()],
            );
        }
        assert!(out.finish().lines().all(|l| l.starts_with('#')));
    }
}

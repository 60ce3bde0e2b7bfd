//! What the host and its tenants use, read from /proc and the control groups; cheap enough for every report.
//!
//! A value that cannot be read is 0, never a failure. Not here: disk use of volumes (usage).

use std::{net::Ipv4Addr, path::Path, time::Instant};

use ipnet::Ipv4Net;
use isyone_proto::report::{HostResources, Pressure};

use crate::{
    base::{kernel, netlink},
    host::cgroup::ControlGroups,
    plan::container::Limits,
};

#[derive(Clone, Copy)]
struct CpuSample {
    busy: u64,
    total: u64,
    own_ticks: u64,
    at: Instant,
}

/// Remembers the previous sample, since only differences of CPU time are meaningful.
#[derive(Default)]
pub struct HostReader {
    last: Option<CpuSample>,
}

impl HostReader {
    /// Reads everything; `disk` is any path on the file system to report on.
    pub fn read(&mut self, disk: &Path) -> HostResources {
        let text = |path: &str| kernel::text(path).unwrap_or_default();
        let (busy, total, cpus) = parse_stat(&text("/proc/stat"));
        let (memory_total, memory_available) = parse_meminfo(&text("/proc/meminfo"));
        let own_ticks = parse_own_ticks(&text("/proc/self/stat"));
        let now = CpuSample {
            busy,
            total,
            own_ticks,
            at: Instant::now(),
        };
        let before = self.last.replace(now);
        let cpu_used_permille = before.map_or(0, |b| {
            permille(busy - b.busy.min(busy), total - b.total.min(total))
        });
        let agent_cpu_permille = before.map_or(0, |b| {
            let ms = now.at.duration_since(b.at).as_millis() as u64;
            permille((own_ticks - b.own_ticks.min(own_ticks)) * 10, ms) // a tick is 10 ms on every Linux that matters
        });
        let (disk_total, disk_available) = rustix::fs::statvfs(disk)
            .map(|s| (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize))
            .unwrap_or_default();
        let pressure = ["cpu", "memory", "io"]
            .map(|kind| parse_pressure(&text(&format!("/proc/pressure/{kind}"))));
        HostResources {
            cpus,
            cpu_used_permille,
            memory_total_bytes: memory_total,
            memory_available_bytes: memory_available,
            disk_total_bytes: disk_total,
            disk_available_bytes: disk_available,
            load1_milli: text("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|l| l.parse::<f64>().ok())
                .map_or(0, |l| (l * 1000.0) as u32),
            pressure: pressure.iter().any(Option::is_some).then(|| {
                let [cpu, memory, io] = pressure.map(Option::unwrap_or_default);
                Pressure {
                    cpu_some_permille: cpu,
                    memory_some_permille: memory,
                    io_some_permille: io,
                }
            }),
            agent_memory_bytes: own_memory(),
            agent_cpu_permille,
        }
    }
}

/// Resident memory of this process.
pub fn own_memory() -> u64 {
    let status = kernel::text("/proc/self/status").unwrap_or_default();
    kibibytes(&status, "VmRSS").unwrap_or(0)
}

fn permille(part: u64, whole: u64) -> u32 {
    (part * 1000).checked_div(whole).unwrap_or(0).min(1_000_000) as u32
}

/// Returns busy ticks, all ticks and the number of CPUs.
fn parse_stat(text: &str) -> (u64, u64, u32) {
    let mut lines = text.lines();
    let numbers: Vec<u64> = lines
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|n| n.parse().ok())
        .collect();
    let total: u64 = numbers.iter().sum();
    // user nice system idle iowait irq softirq steal
    let idle: u64 = numbers.iter().skip(3).take(2).sum();
    let cpus = lines.take_while(|l| l.starts_with("cpu")).count();
    (total - idle, total, cpus as u32)
}

/// `MemTotal` and `MemAvailable`, bytes.
fn parse_meminfo(text: &str) -> (u64, u64) {
    (
        kibibytes(text, "MemTotal").unwrap_or(0),
        kibibytes(text, "MemAvailable").unwrap_or(0),
    )
}

/// A line `Key:  123 kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Most networks in a report.
const MAX_NETWORKS: usize = 256;

/// IPv4 networks that this host has routes to, without the default route and its tenants' networks (`own`).
pub fn host_networks(own: &[Ipv4Net]) -> Vec<Ipv4Net> {
    let text = kernel::text("/proc/net/route").unwrap_or_default();
    let mut networks = parse_routes(&text);
    networks.retain(|n| !own.contains(n));
    networks.truncate(MAX_NETWORKS);
    networks
}

/// Interfaces of this machine, each with an IPv4 network that it leads to; without the default route.
pub fn interfaces() -> Vec<(String, Ipv4Net)> {
    routes(&kernel::text("/proc/net/route").unwrap_or_default())
}

/// Largest packet of the interface that leads to everywhere else.
pub fn default_mtu() -> Option<u16> {
    let text = kernel::text("/proc/net/route").ok()?;
    let name = default_interface(&text)?;
    let links = netlink::links().ok()?;
    let uplink = links.iter().find(|link| link.name == name)?;
    u16::try_from(uplink.mtu).ok()
}

/// Of several, the kernel takes the one with the lowest metric, which is column 7.
fn default_interface(text: &str) -> Option<&str> {
    let parse = |line| {
        let fields: Vec<&str> = str::split_ascii_whitespace(line).collect();
        let everywhere = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        let metric: u32 = fields.get(6)?.parse().ok()?;
        let interface = fields.first().filter(|name| **name != "*")?;
        everywhere.then_some((metric, *interface))
    };
    let all = text.lines().skip(1).filter_map(parse);
    all.min().map(|(_, interface)| interface)
}

/// The networks alone, sorted, each once.
fn parse_routes(text: &str) -> Vec<Ipv4Net> {
    let found: std::collections::BTreeSet<Ipv4Net> =
        routes(text).into_iter().map(|(_, net)| net).collect();
    found.into_iter().collect()
}

/// Destination and mask are columns 2 and 8, hexadecimal in the machine's byte order.
fn routes(text: &str) -> Vec<(String, Ipv4Net)> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // `*`: a blackhole, which uses no network.
        let interface = fields.first().filter(|name| **name != "*")?;
        let address = |at: usize| {
            u32::from_str_radix(fields.get(at)?, 16)
                .ok()
                .map(|n| Ipv4Addr::from(n.to_ne_bytes()))
        };
        let net = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
        (net.prefix_len() > 0).then(|| ((*interface).to_owned(), net.trunc()))
    };
    text.lines().skip(1).filter_map(parse).collect()
}

/// `utime` + `stime`. The program's name may hold anything, so fields are counted from its closing bracket.
fn parse_own_ticks(text: &str) -> u64 {
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ')
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum()
}

/// Value of `some avg10=1.23 …` in per mille.
fn parse_pressure(text: &str) -> Option<u32> {
    let line = text.lines().find(|l| l.starts_with("some "))?;
    let value: f64 = line
        .split(' ')
        .find_map(|w| w.strip_prefix("avg10="))?
        .parse()
        .ok()?;
    Some((value * 10.0) as u32)
}

/// Where the control groups are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Finds the control groups of process `pid`, if it still belongs to container `id`: the pid may have been reused.
pub fn groups_of(pid: i32, id: &str) -> Option<ControlGroups> {
    if pid <= 0 || id.is_empty() {
        return None;
    }
    let text = kernel::text(&format!("/proc/{pid}/cgroup")).ok()?;
    text.contains(id)
        .then(|| ControlGroups::parse(&text, CGROUP_ROOT))?
}

/// Those of this process.
#[cfg(test)]
pub(super) fn groups_of_self() -> Option<ControlGroups> {
    let text = kernel::text("/proc/self/cgroup").ok()?;
    ControlGroups::parse(&text, CGROUP_ROOT)
}

/// The limits in force, zero where there is no limit; `None` when the container has ended.
pub fn limits_of(groups: &ControlGroups) -> Option<Limits> {
    let text = |controller: &str, file: &str| {
        let text = kernel::text(&format!("{}/{file}", groups.directory(controller)?)).ok()?;
        Some(text.trim().to_owned())
    };
    // "max" and -1 mean no limit; version 1 has a number near 2^63 for memory.
    let number = |text: &str| {
        text.parse::<u64>()
            .ok()
            .filter(|n| *n < 1 << 62)
            .unwrap_or(0)
    };
    let (memory, cpu) = if groups.is_v2() {
        (text("memory", "memory.max")?, text("cpu", "cpu.max")?)
    } else {
        let (quota, period) = (
            text("cpu", "cpu.cfs_quota_us")?,
            text("cpu", "cpu.cfs_period_us")?,
        );
        (
            text("memory", "memory.limit_in_bytes")?,
            format!("{quota} {period}"),
        )
    };
    let (quota, period) = cpu.split_once(' ')?;
    Some(Limits {
        memory_bytes: number(&memory),
        nano_cpus: (number(quota) * 1_000_000_000).checked_div(number(period))?,
        pids: u32::try_from(number(&text("pids", "pids.max")?)).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        let stat = "cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 5 0 10 30 5 0 0 0 0 0\ncpu1 5 0 10 30 5 0 0 0 0 0\nintr 1\n";
        assert_eq!(parse_stat(stat), (30, 100, 2));
        assert_eq!(
            parse_meminfo("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n"),
            (1_024_000, 409_600)
        );
        assert_eq!(
            parse_own_ticks("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 70 7 0 0"),
            77
        );
        assert_eq!(
            parse_pressure("some avg10=1.50 avg60=0.00\nfull avg10=0.00\n"),
            Some(15)
        );
        assert_eq!(parse_pressure(""), None);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn routes_are_networks_but_not_the_default_one() {
        let text = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                    eth0 00000000 0102000A 0003 0 0 0 00000000 0 0 0\n\
                    eth0 0002000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
                    * 0000C80A 00000000 0001 0 0 7701 0000FCFF 0 0 0\n\
                    docker0 000011AC 00000000 0001 0 0 0 0000FFFF 0 0 0\n";
        let found: Vec<String> = parse_routes(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.2.0/24", "172.17.0.0/16"]);
        assert_eq!(default_interface(text), Some("eth0"));
        let more = format!("{text}tun0 00000000 0100080A 0003 0 0 50 00000000 0 0 0\n");
        assert_eq!(default_interface(&more), Some("eth0"));
        assert_eq!(
            default_interface(&more.replace("0 0 0 0000", "0 0 100 0000")),
            Some("tun0")
        );
        assert_eq!(default_interface("Iface\n"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let mut reader = HostReader::default();
        let used = reader.read(Path::new("/"));
        assert!(
            used.cpus > 0
                && used.memory_total_bytes > used.memory_available_bytes
                && used.disk_total_bytes > 0
                && used.agent_memory_bytes > 0
        );
    }
}

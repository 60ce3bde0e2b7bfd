//! Reads the host for `/metrics`.
//!
//! Not here: the metrics' names (procfs), the agent's own metrics (own).

use std::path::Path;

use super::{
    procfs::{self, MountedDisk, Room},
    text::{MetricType, Text},
};
use crate::base::{clock::now_ms, kernel};

/// The host's page. Blocking, but only reads files that the kernel generates; `data_root` is where
/// tenants' data is kept.
pub fn read(data_root: Option<&Path>) -> Text {
    let text = |path: &str| kernel::text(path).unwrap_or_default();
    let mut out = Text::default();
    procfs::stat(&mut out, &text("/proc/stat"));
    procfs::meminfo(&mut out, &text("/proc/meminfo"));
    procfs::loadavg(&mut out, &text("/proc/loadavg"));
    procfs::net_dev(&mut out, &text("/proc/net/dev"));
    procfs::diskstats(&mut out, &text("/proc/diskstats"));
    procfs::pressure(
        &mut out,
        &["cpu", "memory", "io"].map(|kind| text(&format!("/proc/pressure/{kind}"))),
    );
    procfs::vmstat(&mut out, &text("/proc/vmstat"));
    procfs::tables(
        &mut out,
        &text("/proc/sys/fs/file-nr"),
        &text("/proc/sys/net/netfilter/nf_conntrack_count"),
        &text("/proc/sys/net/netfilter/nf_conntrack_max"),
    );
    let data = data_root
        .map(|p| p.display().to_string())
        .unwrap_or_default();
    let mounts = procfs::parse_mounts(&text("/proc/self/mounts"), &["/", &data]);
    let known: Vec<_> = mounts.into_iter().filter_map(room).collect();
    procfs::filesystems(&mut out, &known);
    out.single(
        "node_time_seconds",
        MetricType::Gauge,
        "This machine's clock, seconds since the Unix epoch",
        now_ms() as f64 / 1000.0,
    );
    uname(&mut out);
    out
}

fn room(mount: MountedDisk) -> Option<(MountedDisk, Room)> {
    let s = rustix::fs::statvfs(mount.point.as_str()).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
    let room = Room {
        size: bytes(s.f_blocks),
        free: bytes(s.f_bfree),
        available: bytes(s.f_bavail),
        files: s.f_files,
        files_free: s.f_ffree,
    };
    (room.size > 0).then_some((mount, room))
}

fn uname(out: &mut Text) {
    let uname = rustix::system::uname();
    let words = [
        ("domainname", uname.domainname()),
        ("machine", uname.machine()),
        ("nodename", uname.nodename()),
        ("release", uname.release()),
        ("sysname", uname.sysname()),
        ("version", uname.version()),
    ]
    .map(|(label, text)| (label, text.to_string_lossy()));
    let labels = words
        .each_ref()
        .map(|(label, text)| (*label, text.as_ref()));
    out.family("node_uname_info", MetricType::Gauge, "The kernel");
    out.sample("node_uname_info", &labels, 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let text = read(None).finish();
        for wanted in [
            "node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} ",
            "node_memory_MemAvailable_bytes ",
            "node_load1 ",
            "node_boot_time_seconds ",
            "mountpoint=\"/\"} ",
            "node_uname_info{",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
    }
}

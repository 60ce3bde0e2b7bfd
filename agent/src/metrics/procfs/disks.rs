//! Disks and file systems under node-exporter's metric names. Pure.
//!
//! Not here: asking a file system for its free space (node).

use crate::metrics::text::{MetricType, Text};

/// Bytes per sector in /proc/diskstats, whatever the disk's own sector size.
const SECTOR: f64 = 512.0;

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedDisk {
    /// `/dev/sda1`.
    pub device: String,
    /// Mount point.
    pub point: String,
    /// `ext4`.
    pub kind: String,
    /// Mounted read-only.
    pub read_only: bool,
}

/// Not on a disk, or not on this machine: asking a network server for its size could hang.
const NOT_DISKS: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "cifs",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nfs",
    "nfs4",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smb3",
    "squashfs",
    "sysfs",
    "tracefs",
    "9p",
    "ceph",
];

/// Where containers and the kernel mount their own.
const NOT_HERE: &[&str] = &[
    "/dev",
    "/proc",
    "/sys",
    "/run/docker",
    "/run/netns",
    "/run/credentials",
    "/var/lib/docker",
];

/// Most file systems in the list.
const MAX_MOUNTS: usize = 64;

/// `/proc/self/mounts`: the host's own disks. `also`: mount points to include whatever their type (`/` may be an
/// overlay).
pub fn parse_mounts(text: &str, also: &[&str]) -> Vec<MountedDisk> {
    let below = |point: &str, dir: &&str| {
        point == *dir || point.strip_prefix(*dir).is_some_and(|r| r.starts_with('/'))
    };
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let (device, point, kind, options) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let point = unescape(point);
        let network = kind.starts_with("fuse") || NOT_DISKS.contains(&kind);
        let skipped = network || NOT_HERE.iter().any(|dir| below(&point, dir));
        if skipped && !also.contains(&point.as_str()) {
            return None;
        }
        let read_only = options.split(',').any(|o| o == "ro");
        Some(MountedDisk {
            device: unescape(device),
            point,
            kind: kind.to_owned(),
            read_only,
        })
    };
    let mut mounts: Vec<MountedDisk> = Vec::new();
    for mount in text.lines().filter_map(parse) {
        // A later mount hides an earlier one at the same place.
        mounts.retain(|m| m.point != mount.point);
        mounts.push(mount);
    }
    mounts.truncate(MAX_MOUNTS);
    mounts
}

/// The kernel writes spaces in names as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

/// A file system's size and free space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    pub size: u64,
    /// Bytes, including root's reserve.
    pub free: u64,
    /// Bytes available to ordinary users.
    pub available: u64,
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

pub fn filesystems(out: &mut Text, mounts: &[(MountedDisk, Room)]) {
    type Value = fn(&MountedDisk, &Room) -> f64;
    const FIELDS: [(&str, &str, Value); 6] = [
        ("size_bytes", "Size", |_, r| r.size as f64),
        ("free_bytes", "Free, root's reserve included", |_, r| {
            r.free as f64
        }),
        ("avail_bytes", "Free for ordinary users", |_, r| {
            r.available as f64
        }),
        ("files", "Inodes", |_, r| r.files as f64),
        ("files_free", "Free inodes", |_, r| r.files_free as f64),
        ("readonly", "1: not writable", |m, _| {
            f64::from(u8::from(m.read_only))
        }),
    ];
    for (field, help, value) in FIELDS {
        let name = format!("node_filesystem_{field}");
        out.family(&name, MetricType::Gauge, help);
        for (mount, room) in mounts {
            let labels = [
                ("device", mount.device.as_str()),
                ("fstype", mount.kind.as_str()),
                ("mountpoint", mount.point.as_str()),
            ];
            out.sample(&name, &labels, value(mount, room));
        }
    }
}

/// `/proc/diskstats`, without loop and RAM disks and devices that were never used.
pub fn diskstats(out: &mut Text, text: &str) {
    const FIELDS: [(&str, &str, usize, f64); 9] = [
        ("reads_completed_total", "Reads", 0, 1.0),
        ("read_bytes_total", "Bytes read", 2, SECTOR),
        (
            "read_time_seconds_total",
            "Seconds of all reads together",
            3,
            0.001,
        ),
        ("writes_completed_total", "Writes", 4, 1.0),
        ("written_bytes_total", "Bytes written", 6, SECTOR),
        (
            "write_time_seconds_total",
            "Seconds of all writes together",
            7,
            0.001,
        ),
        ("io_now", "Operations under way", 8, 1.0),
        (
            "io_time_seconds_total",
            "Seconds with an operation under way",
            9,
            0.001,
        ),
        (
            "io_time_weighted_seconds_total",
            "Seconds of all operations together",
            10,
            0.001,
        ),
    ];
    let disks: Vec<(&str, Vec<f64>)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(2);
            let name = words.next()?;
            let values: Vec<f64> = words.filter_map(|n| n.parse().ok()).collect();
            let idle = values.iter().all(|v| *v == 0.0);
            let virtual_disk = ["loop", "ram", "zram", "fd"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            (values.len() >= 11 && !virtual_disk && !idle).then_some((name, values))
        })
        .collect();
    for (field, help, at, unit) in FIELDS {
        let name = format!("node_disk_{field}");
        out.family(
            &name,
            if field == "io_now" {
                MetricType::Gauge
            } else {
                MetricType::Counter
            },
            help,
        );
        for (device, values) in &disks {
            out.sample(&name, &[("device", device)], values[at] * unit);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::metrics::procfs) const MOUNTS: &str = "overlay / overlay rw,relatime 0 0\nproc /proc proc rw 0 0\n/dev/sdb1 /srv/my\\040data ext4 ro,noatime 0 0\nserver:/x /mnt nfs4 rw 0 0\ntmpfs /run tmpfs rw 0 0\noverlay /var/lib/docker/overlay2/x/merged overlay rw 0 0\n/dev/sda1 /var/lib/docker ext4 rw 0 0\n";

    #[test]
    fn only_the_hosts_own_disks_are_told_of() {
        let points: Vec<String> = parse_mounts(MOUNTS, &["/"])
            .into_iter()
            .map(|m| m.point)
            .collect();
        assert_eq!(points, ["/", "/srv/my data", "/run"]);
    }
}

//! A container's CPU and memory, from files of its control groups that are kept open: a host reads those of hundreds of containers over
//! and over, and opening and closing them would be most of that.
//!
//! Not here: where the groups are (cgroup, resources), what becomes of the numbers (usage), all else that Prometheus is told
//! (metrics::containers).

use super::cgroup::ControlGroups;
use crate::base::kernel::{Buffer, KernelFile};

/// Files that one gauge keeps open, at most.
pub const FILES: usize = 5;

/// What a container has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerUse {
    /// CPU time since its start, microseconds.
    pub cpu_us: u64,
    /// Memory without reclaimable page cache, as `docker stats` counts.
    pub memory: u64,
    /// Its limit, 0 without.
    pub memory_limit: u64,
    /// Scheduling periods in which it wanted to run.
    pub periods: u64,
    /// Of these, those in which its CPU was used up.
    pub throttled: u64,
}

/// The files of one container.
#[derive(Debug)]
pub struct Gauge {
    names: &'static Names,
    stat: KernelFile,
    /// CPU time, where `stat` does not tell it.
    cpu: Option<KernelFile>,
    memory: KernelFile,
    current: KernelFile,
    /// Read each time, too: it changes while the container runs, and what is used is told as a share of it.
    limit: KernelFile,
}

/// What the two versions of control groups call the same.
#[derive(Debug)]
struct Names {
    cpu: Option<&'static str>,
    current: &'static str,
    limit: &'static str,
    inactive: &'static str,
}

const VERSION_1: Names = Names {
    cpu: Some("cpuacct.usage"),
    current: "memory.usage_in_bytes",
    limit: "memory.limit_in_bytes",
    inactive: "total_inactive_file",
};
const VERSION_2: Names = Names {
    cpu: None,
    current: "memory.current",
    limit: "memory.max",
    inactive: "inactive_file",
};

impl Gauge {
    /// `None` when the container has ended.
    pub fn open(groups: &ControlGroups) -> Option<Self> {
        let names = match groups.is_v2() {
            true => &VERSION_2,
            false => &VERSION_1,
        };
        let path = |controller: &str, file: &str| {
            Some(format!("{}/{file}", groups.directory(controller)?))
        };
        let open = |controller: &str, file: &str| KernelFile::open(&path(controller, file)?).ok();
        let cpu = match names.cpu {
            Some(file) => Some(open("cpuacct", file)?),
            None => None,
        };
        Some(Self {
            names,
            stat: open("cpu", "cpu.stat")?,
            cpu,
            memory: open("memory", "memory.stat")?,
            current: open("memory", names.current)?,
            limit: open("memory", names.limit)?,
        })
    }

    /// `None` when the container has ended.
    pub fn read(&self, buffer: &mut Buffer) -> Option<ContainerUse> {
        // "max" is no number.
        let memory_limit = number(self.limit.read(buffer).ok()?).unwrap_or(0);
        let stat = self.stat.read(buffer).ok()?;
        // Kernels that cannot limit CPU do not count periods.
        let [periods, throttled] =
            ["nr_periods", "nr_throttled"].map(|key| field(stat, key).unwrap_or(0));
        let cpu_us = match &self.cpu {
            None => field(stat, "usage_usec")?,
            Some(file) => number(file.read(buffer).ok()?)? / 1000,
        };
        let current = number(self.current.read(buffer).ok()?)?;
        let inactive = field(self.memory.read(buffer).ok()?, self.names.inactive)?;
        Some(ContainerUse {
            cpu_us,
            memory: current.saturating_sub(inactive),
            memory_limit,
            periods,
            throttled,
        })
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::resources::groups_of_self;

    #[test]
    fn a_gauge_of_our_own_groups_counts_on() {
        // Somewhere without control groups, such as a build's sandbox, there is nothing to read.
        let Some(gauge) = groups_of_self().and_then(|groups| Gauge::open(&groups)) else {
            return;
        };
        let mut buffer = Buffer::default();
        let Some(first) = gauge.read(&mut buffer) else {
            return;
        };
        let again = gauge.read(&mut buffer).unwrap();
        assert!(
            again.cpu_us >= first.cpu_us && first.memory > 0,
            "{first:?}"
        );
        assert_eq!(again.memory_limit, first.memory_limit);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "inactive_file 1\ntotal_inactive_file 7\n";
        assert_eq!(field(text, "total_inactive_file"), Some(7));
        assert_eq!(field(text, "inactive"), None);
        assert_eq!(number("12\n"), Some(12));
        assert_eq!(number("max\n"), None);
    }

    #[test]
    fn who_has_gone_has_no_gauge() {
        let groups = ControlGroups::parse("0::/isyone-nobody\n", "/sys/fs/cgroup").unwrap();
        assert!(Gauge::open(&groups).is_none());
    }
}

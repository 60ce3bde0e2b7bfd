//! A container's control groups, version 1 and 2, as plain numbers. Pure: a function passed in reads the files.
//!
//! Not here: names and labels of metrics (metrics::containers).

use std::collections::BTreeMap;

/// The kernel's clock ticks in control groups' `cpuacct.stat`: 100 a second on every Linux that matters.
const TICKS: f64 = 100.0;
/// Version 1 says "no limit" with a number near 2^63.
const NO_LIMIT: u64 = 1 << 62;
/// The controllers that we read.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];

/// Where a process's control groups keep their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlGroups {
    /// Directory by controller; with version 2 the same for all.
    directories: BTreeMap<&'static str, String>,
    v2: bool,
}

/// What a container has used and may use, in seconds and bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// CPU time.
    pub cpu_s: f64,
    /// CPU time in user mode.
    pub user_s: f64,
    /// CPU time in the kernel.
    pub system_s: f64,
    /// Scheduling periods in which it wanted to run.
    pub periods: u64,
    /// Periods in which it used up its quota.
    pub throttled_periods: u64,
    /// Time it was throttled.
    pub throttled_s: f64,
    /// Microseconds of CPU per period, when limited.
    pub quota_us: Option<u64>,
    /// Length of a period.
    pub period_us: u64,
    /// All memory, page cache included.
    pub memory: u64,
    /// Page cache that can be reclaimed at once.
    pub inactive_file: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    pub swap: u64,
    /// Peak use, where the kernel reports it.
    pub max_memory: Option<u64>,
    /// 0: no limit.
    pub memory_limit: u64,
    /// How often the limit was reached.
    pub failures: u64,
    /// Processes killed for lack of memory, as this group has counted them.
    pub oom_kills: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Read from block devices.
    pub read_bytes: u64,
    /// Written to block devices.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

impl ControlGroups {
    /// Parses `/proc/<pid>/cgroup`; `root` is `/sys/fs/cgroup`.
    pub fn parse(text: &str, root: &str) -> Option<Self> {
        let path_of = |controller: &str| {
            text.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (names, path) = (parts.next()?, parts.next()?);
                names
                    .split(',')
                    .any(|n| n == controller)
                    .then_some((names, path))
            })
        };
        let v1: BTreeMap<_, _> = CONTROLLERS
            .into_iter()
            .filter_map(|c| path_of(c).map(|(names, path)| (c, format!("{root}/{names}{path}"))))
            .collect();
        // A hybrid machine keeps the controllers in the version 1 hierarchy.
        if v1.contains_key("memory") {
            return Some(Self {
                directories: v1,
                v2: false,
            });
        }
        let (_, path) = path_of("")?;
        let directory = format!("{root}{path}");
        let directories = CONTROLLERS
            .into_iter()
            .map(|c| (c, directory.clone()))
            .collect();
        Some(Self {
            directories,
            v2: true,
        })
    }

    /// Where a controller's files are.
    pub fn directory(&self, controller: &str) -> Option<&str> {
        self.directories.get(controller).map(String::as_str)
    }

    /// Version 2, whose files have different names.
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    /// Reads the numbers; `None` when the container has ended.
    pub fn figures(&self, read: &dyn Fn(&str) -> Option<String>) -> Option<Figures> {
        let text = |controller: &str, file: &str| {
            self.directories
                .get(controller)
                .and_then(|dir| read(&format!("{dir}/{file}")))
                .unwrap_or_default()
        };
        let figures = if self.v2 {
            version2(&text)
        } else {
            version1(&text)
        };
        (figures.memory > 0 || figures.cpu_s > 0.0).then_some(figures)
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// Value of a `key 123` line.
fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or(0)
}

fn limit(value: u64) -> u64 {
    if value > NO_LIMIT { 0 } else { value }
}

/// Sum over devices of `8:0 Read 123`.
fn by_device_v1(text: &str, operation: &str) -> u64 {
    let value = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == operation).then(|| words.next()?.parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

/// Sum over devices of `8:0 rbytes=1 wbytes=2 …`.
fn by_device_v2(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace()
        .filter_map(|word| {
            word.strip_prefix(key)?
                .strip_prefix('=')?
                .parse::<u64>()
                .ok()
        })
        .sum()
}

fn version1(text: &dyn Fn(&str, &str) -> String) -> Figures {
    let (stat, cpuacct, memory) = (
        text("cpu", "cpu.stat"),
        text("cpuacct", "cpuacct.stat"),
        text("memory", "memory.stat"),
    );
    let (bytes, operations) = (
        text("blkio", "blkio.throttle.io_service_bytes"),
        text("blkio", "blkio.throttle.io_serviced"),
    );
    let quota: i64 = text("cpu", "cpu.cfs_quota_us").trim().parse().unwrap_or(-1);
    Figures {
        cpu_s: number(&text("cpuacct", "cpuacct.usage")) as f64 / 1e9,
        user_s: field(&cpuacct, "user") as f64 / TICKS,
        system_s: field(&cpuacct, "system") as f64 / TICKS,
        periods: field(&stat, "nr_periods"),
        throttled_periods: field(&stat, "nr_throttled"),
        throttled_s: field(&stat, "throttled_time") as f64 / 1e9,
        quota_us: u64::try_from(quota).ok().filter(|q| *q > 0),
        period_us: number(&text("cpu", "cpu.cfs_period_us")),
        memory: number(&text("memory", "memory.usage_in_bytes")),
        inactive_file: field(&memory, "total_inactive_file"),
        rss: field(&memory, "total_rss"),
        cache: field(&memory, "total_cache"),
        swap: field(&memory, "total_swap"),
        max_memory: Some(number(&text("memory", "memory.max_usage_in_bytes")))
            .filter(|max| *max > 0),
        memory_limit: limit(number(&text("memory", "memory.limit_in_bytes"))),
        failures: number(&text("memory", "memory.failcnt")),
        oom_kills: field(&text("memory", "memory.oom_control"), "oom_kill"),
        processes: number(&text("pids", "pids.current")),
        read_bytes: by_device_v1(&bytes, "Read"),
        written_bytes: by_device_v1(&bytes, "Write"),
        reads: by_device_v1(&operations, "Read"),
        writes: by_device_v1(&operations, "Write"),
    }
}

fn version2(text: &dyn Fn(&str, &str) -> String) -> Figures {
    let (cpu, memory, io) = (
        text("cpu", "cpu.stat"),
        text("memory", "memory.stat"),
        text("blkio", "io.stat"),
    );
    let events = text("memory", "memory.events");
    let cpu_max = text("cpu", "cpu.max");
    let (quota, period) = cpu_max.trim().split_once(' ').unwrap_or(("max", "0"));
    Figures {
        cpu_s: field(&cpu, "usage_usec") as f64 / 1e6,
        user_s: field(&cpu, "user_usec") as f64 / 1e6,
        system_s: field(&cpu, "system_usec") as f64 / 1e6,
        periods: field(&cpu, "nr_periods"),
        throttled_periods: field(&cpu, "nr_throttled"),
        throttled_s: field(&cpu, "throttled_usec") as f64 / 1e6,
        quota_us: quota.parse().ok(),
        period_us: number(period),
        memory: number(&text("memory", "memory.current")),
        inactive_file: field(&memory, "inactive_file"),
        rss: field(&memory, "anon"),
        cache: field(&memory, "file"),
        swap: number(&text("memory", "memory.swap.current")),
        max_memory: Some(number(&text("memory", "memory.peak"))).filter(|max| *max > 0),
        memory_limit: number(&text("memory", "memory.max")), // `max` is not a number, so it becomes 0
        failures: field(&events, "max"),
        oom_kills: field(&events, "oom_kill"),
        processes: number(&text("pids", "pids.current")),
        read_bytes: by_device_v2(&io, "rbytes"),
        written_bytes: by_device_v2(&io, "wbytes"),
        reads: by_device_v2(&io, "rios"),
        writes: by_device_v2(&io, "wios"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Files of a container on a kernel with version 1.
    pub(crate) fn v1(path: &str) -> Option<String> {
        let text = match path {
            "/c/cpu,cpuacct/docker/abc/cpu.stat" => {
                "nr_periods 10\nnr_throttled 3\nthrottled_time 1500000000\n"
            }
            "/c/cpu,cpuacct/docker/abc/cpuacct.usage" => "2500000000\n",
            "/c/cpu,cpuacct/docker/abc/cpuacct.stat" => "user 150\nsystem 50\n",
            "/c/cpu,cpuacct/docker/abc/cpu.cfs_quota_us" => "50000\n",
            "/c/cpu,cpuacct/docker/abc/cpu.cfs_period_us" => "100000\n",
            "/c/memory/docker/abc/memory.usage_in_bytes" => "4000\n",
            "/c/memory/docker/abc/memory.max_usage_in_bytes" => "5000\n",
            "/c/memory/docker/abc/memory.limit_in_bytes" => "8000\n",
            "/c/memory/docker/abc/memory.failcnt" => "2\n",
            "/c/memory/docker/abc/memory.oom_control" => {
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
            }
            "/c/memory/docker/abc/memory.stat" => {
                "cache 1\nrss 2\ntotal_cache 1500\ntotal_rss 2000\ntotal_swap 0\ntotal_inactive_file 1000\n"
            }
            "/c/pids/docker/abc/pids.current" => "7\n",
            "/c/blkio/docker/abc/blkio.throttle.io_service_bytes" => {
                "8:0 Read 100\n8:0 Write 200\n8:0 Total 300\n8:16 Read 1\n8:16 Write 2\nTotal 303\n"
            }
            "/c/blkio/docker/abc/blkio.throttle.io_serviced" => {
                "8:0 Read 5\n8:0 Write 6\nTotal 11\n"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    pub(crate) const V1: &str = "9:blkio:/docker/abc\n8:pids:/docker/abc\n4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/docker/abc\n";

    fn v2(path: &str) -> Option<String> {
        let text = match path.strip_prefix("/c/system.slice/docker-abc.scope/")? {
            "cpu.stat" => {
                "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 500000\nnr_periods 10\nnr_throttled 3\nthrottled_usec 1500000\n"
            }
            "cpu.max" => "50000 100000\n",
            "memory.current" => "4000\n",
            "memory.peak" => "5000\n",
            "memory.max" => "8000\n",
            "memory.swap.current" => "0\n",
            "memory.events" => "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\n",
            "memory.stat" => "anon 2000\nfile 1500\ninactive_file 1000\n",
            "pids.current" => "7\n",
            "io.stat" => {
                "8:0 rbytes=100 wbytes=200 rios=5 wios=6 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2 rios=0 wios=0\n"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    #[test]
    fn both_versions_say_the_same() {
        let one = ControlGroups::parse(V1, "/c")
            .unwrap()
            .figures(&v1)
            .unwrap();
        let two = ControlGroups::parse("0::/system.slice/docker-abc.scope\n", "/c")
            .unwrap()
            .figures(&v2)
            .unwrap();
        assert_eq!(one, two);
        assert_eq!(
            (one.cpu_s, one.quota_us, one.memory_limit),
            (2.5, Some(50_000), 8000)
        );
        assert_eq!(
            (
                one.read_bytes,
                one.written_bytes,
                one.oom_kills,
                one.processes
            ),
            (101, 202, 1, 7)
        );
    }

    #[test]
    fn no_limit_is_zero_and_an_ended_container_has_no_figures() {
        let unlimited = |path: &str| {
            if path.ends_with("cpu.max") {
                return Some("max 100000\n".to_owned());
            }
            if path.ends_with("memory.max") {
                Some("max\n".to_owned())
            } else {
                v2(path)
            }
        };
        let groups = ControlGroups::parse("0::/system.slice/docker-abc.scope\n", "/c").unwrap();
        let figures = groups.figures(&unlimited).unwrap();
        assert_eq!((figures.quota_us, figures.memory_limit), (None, 0));
        assert_eq!(limit(9_223_372_036_854_771_712), 0);
        assert_eq!(groups.figures(&|_| None), None);
        assert_eq!(ControlGroups::parse("", "/c"), None);
    }
}

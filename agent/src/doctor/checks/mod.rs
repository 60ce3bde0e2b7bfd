//! What of the facts is as it should be, and what to do where it is not. Pure.
//!
//! No finding without harm: what is unusual and works is fine. Not here: gathering (facts).

mod own;

use isyone_proto::finding::{Finding, Level};

use super::facts::{Facts, Kernel};
use crate::{
    base::config::ConfigError,
    docker::EngineInfo,
    host::{
        firewall::{FirewallError, remedy},
        space::Space,
    },
};

/// The oldest Docker that is tested.
const DOCKER: u32 = 20;
/// Drivers that copy a whole image for each container, or were given up.
const SLOW_DRIVERS: [&str; 3] = ["vfs", "devicemapper", "aufs"];
/// File systems on which PostgreSQL is not safe, or that are gone with a boot.
const UNSAFE: [&str; 9] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "fuse.sshfs",
    "9p",
    "tmpfs",
    "ramfs",
    "overlay",
];
/// Controllers of control groups without which limits do not hold.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Entries of the neighbour table for each tenant, and besides: its two containers, seen from both sides.
const NEIGHBOURS: (u64, u64) = (4, 256);
/// Processes of a tenant at most, at rest a dozen.
const PROCESSES: u64 = 64;
/// Below this, one busy shop fills the table of connections.
const CONNECTIONS: u64 = 32_768;
/// Fewer inotify instances than any distribution's default.
const INOTIFY: u64 = 128;
/// Free inodes and memory below which it gets tight, per mille and percent.
const INODES_PERMILLE: u64 = 50;
const MEMORY_PERCENT: u64 = 5;

/// A check that is as it should be, or else what is wrong.
fn check(
    name: &'static str,
    good: bool,
    found: impl Into<String>,
    (level, why, remedy): (Level, &str, &str),
) -> Finding {
    match good {
        true => Finding::good(name, found),
        false => Finding::new(level, name, found, why, remedy),
    }
}

pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![check(
        "root",
        facts.root,
        if facts.root { "yes" } else { "no" },
        (
            Level::Unknown,
            "without root much of this cannot be looked at, and the agent needs it",
            "run this as root",
        ),
    )];
    docker(&mut all, facts);
    filter(&mut all, facts);
    disk(&mut all, facts);
    kernel(&mut all, facts);
    clock(&mut all, facts);
    network(&mut all, facts);
    match &facts.joined {
        Ok(joined) => own::own(&mut all, joined, facts.now_s),
        Err(ConfigError::NotJoined(_)) => {
            all.push(Finding::good("joined", "no: `isy-agent join` comes next"));
        }
        Err(e) => all.push(Finding::new(
            Level::Bad,
            "joined",
            e.to_string(),
            "the agent does not start",
            "mend the file, or join again: `isyctl host token --host NAME`, `isy-agent join --rejoin`",
        )),
    }
    all
}

fn docker(all: &mut Vec<Finding>, facts: &Facts) {
    let info = match &facts.docker {
        Ok(info) => info,
        Err(why) => {
            all.push(Finding::new(
                Level::Bad,
                "docker",
                why.clone(),
                "tenants run on, but nothing of them is known or can be changed, and none that ends is started again",
                "`systemctl start docker`; if it does not start: `journalctl -u docker -n 50`; if it listens elsewhere: --docker",
            ));
            return;
        }
    };
    all.push(version(info));
    if let Some(why) = info.unfit() {
        all.push(Finding::new(
            Level::Bad,
            "docker's set-up",
            why,
            "no tenant can run here",
            "as it says",
        ));
    }
    all.push(check(
        "storage driver",
        !SLOW_DRIVERS.contains(&info.driver.as_str()),
        info.driver.clone(),
        (
            Level::Warning,
            "each container is a whole copy of its image: slow, and the disk is soon full",
            "`\"storage-driver\": \"overlay2\"` in /etc/docker/daemon.json, on a file system that takes it (ext4, xfs with ftype=1)",
        ),
    ));
    let live = match info.live_restore {
        true => "on: tenants run on while Docker is restarted",
        false => "off: a restart of Docker stops this host's tenants for some seconds",
    };
    all.push(Finding::good("live-restore", live));
}

fn version(info: &EngineInfo) -> Finding {
    let major = info.version.split('.').next().and_then(|n| n.parse().ok());
    check(
        "docker",
        major.is_none_or(|major: u32| major >= DOCKER),
        format!("version {}", info.version),
        (
            Level::Warning,
            "older ones are not tested",
            "upgrade the package docker.io or docker-ce",
        ),
    )
}

fn filter(all: &mut Vec<Finding>, facts: &Facts) {
    let filter = &facts.filter;
    // Who is not root is refused whatever the kernel can, and a busy machine says nothing of it.
    let level = |outcome: &Result<(), FirewallError>| match outcome {
        Err(FirewallError::Silent(_)) => Level::Unknown,
        _ if !facts.root => Level::Unknown,
        _ => Level::Bad,
    };
    let said = |outcome: &Result<(), FirewallError>| match outcome {
        Ok(()) => "the kernel takes it".to_owned(),
        Err(e) => e.to_string(),
    };
    all.push(check(
        "packet filter",
        filter.isolation.is_ok(),
        said(&filter.isolation),
        (
            level(&filter.isolation),
            "tenants would reach each other and the host; so no new one is started",
            "install the package nftables; a kernel of your own needs nf_tables, nft_ct and nft_fib_inet",
        ),
    ));
    all.push(check(
        "connection limits",
        filter.limits.is_ok(),
        said(&filter.limits),
        (
            level(&filter.limits).max(Level::Warning),
            "one tenant could take all of this host's connections; it is degraded and gets no new ones",
            "load the kernel modules nft_connlimit and nft_limit (`modprobe`), or take the distribution's kernel",
        ),
    ));
    let live = facts.docker.as_ref().is_ok_and(|info| info.live_restore);
    match filter.dockers {
        Some(there) => all.push(check(
            "docker's rules",
            there,
            if there { "there" } else { "gone" },
            (
                Level::Bad,
                "tenants reach nothing outside, and no network can be made",
                remedy(live),
            ),
        )),
        None => all.push(Finding::good(
            "docker's rules",
            "no tenant's network to look for",
        )),
    }
    all.push(check(
        "nftables service",
        !facts.flushes,
        match facts.flushes {
            true => "/etc/nftables.conf begins with `flush ruleset`, and the service is enabled",
            false => "leaves others' rules alone",
        },
        (
            Level::Warning,
            "each restart of it removes Docker's rules, which come back only when Docker is restarted",
            "in place of `flush ruleset`: `table …` and `delete table …` of your own tables; or `systemctl disable nftables`",
        ),
    ));
}

fn disk(all: &mut Vec<Finding>, facts: &Facts) {
    if let Some((place, room, space)) = &facts.disk {
        let found = format!("{} at {}", room.words(), place.display());
        let remedy = "make room (runbook HostDiskFull), or enlarge it";
        all.push(match space {
            Space::Ample => Finding::good("disk", found),
            Space::Low => Finding::new(
                Level::Warning,
                "disk",
                found,
                "new tenants take longer, and soon PostgreSQL stops",
                remedy,
            ),
            Space::Full => Finding::new(
                Level::Bad,
                "disk",
                found,
                "PostgreSQL stops when nothing can be written; nothing that works is restarted",
                remedy,
            ),
        });
    }
    if let Some(kind) = &facts.file_system {
        all.push(check(
            "file system",
            !UNSAFE.contains(&kind.as_str()),
            kind.clone(),
            (
                Level::Bad,
                "PostgreSQL's data is not safe there, or gone with the next boot",
                "keep Docker's data (or --tenants-dir) on a local ext4, xfs or btrfs",
            ),
        ));
    }
    if let Some(free) = facts.inodes_free_permille {
        all.push(check(
            "inodes",
            free >= INODES_PERMILLE,
            format!("{} % free", free / 10),
            (
                Level::Warning,
                "without them no file can be made, however much room there is",
                "find who has millions of small files (`df -i`, `isyctl tenant list -o wide`); a new file system with more of them",
            ),
        ));
    }
}

fn control_groups(all: &mut Vec<Finding>, facts: &Facts) {
    let missing = facts.controllers.as_ref().map(|there| {
        let words: Vec<&str> = there.split_ascii_whitespace().collect();
        let missing = CONTROLLERS.iter().filter(|name| !words.contains(name));
        missing.copied().collect::<Vec<_>>().join(", ")
    });
    if let Some(missing) = missing {
        all.push(check(
            "control groups",
            missing.is_empty(),
            match missing.as_str() {
                "" => "cpu, memory and pids".to_owned(),
                some => format!("without {some}"),
            },
            (
                Level::Bad,
                "plans' limits do not hold: one tenant takes the whole host",
                "boot with `cgroup_enable=memory`, or let this container's host delegate them",
            ),
        ));
    }
}

fn kernel(all: &mut Vec<Finding>, facts: &Facts) {
    control_groups(all, facts);
    let tenants = facts
        .plan
        .as_ref()
        .map_or(0, |plan| plan.tenants.len() as u64);
    let Kernel {
        gc_thresh3,
        inotify_instances,
        pid_max,
        conntrack_max,
        ..
    } = facts.kernel;
    let mut least = |name: &'static str, value: Option<u64>, least: u64, key: &str, why: &str| {
        let Some(value) = value else { return };
        all.push(check(
            name,
            value >= least,
            format!("{key} = {value}"),
            (
                Level::Warning,
                why,
                &format!(
                    "`sysctl -w {key}={}`, and the same in /etc/sysctl.d/",
                    least.next_power_of_two()
                ),
            ),
        ));
    };
    least(
        "neighbour table",
        gc_thresh3,
        NEIGHBOURS.0 * tenants + NEIGHBOURS.1,
        "net.ipv4.neigh.default.gc_thresh3",
        "with a full one new connections to tenants fail at random",
    );
    least(
        "processes",
        pid_max,
        PROCESSES * tenants + 4_096,
        "kernel.pid_max",
        "with none left nothing can be started",
    );
    least(
        "inotify",
        inotify_instances,
        INOTIFY,
        "fs.inotify.max_user_instances",
        "containers and services do not start without one",
    );
    least(
        "connections",
        conntrack_max,
        CONNECTIONS,
        "net.netfilter.nf_conntrack_max",
        "a full table drops everybody's new connections",
    );
    memory(all, &facts.kernel);
}

fn memory(all: &mut Vec<Finding>, kernel: &Kernel) {
    if let (Some(max), Some(count)) = (kernel.conntrack_max, kernel.conntrack_count) {
        all.push(check(
            "connections now",
            count.saturating_mul(10) < max.saturating_mul(9),
            format!("{count} of {max}"),
            (
                Level::Bad,
                "a full table drops everybody's new connections",
                "find out who has them (`conntrack -L`), and raise net.netfilter.nf_conntrack_max",
            ),
        ));
    }
    if let (Some(free), Some(total)) = (kernel.memory_available, kernel.memory_total) {
        all.push(check(
            "memory",
            free.saturating_mul(100) >= total.saturating_mul(MEMORY_PERCENT),
            format!("{} MiB of {} MiB available", free >> 20, total >> 20),
            (
                Level::Warning,
                "the kernel kills programs when none is left",
                "`isyctl host cordon`, and move tenants away; what besides tenants runs here?",
            ),
        ));
    }
}

fn clock(all: &mut Vec<Finding>, facts: &Facts) {
    let why = "certificates are refused by a clock that is off, and this host is cut off";
    all.push(Finding::of_clock(facts.synchronised, why));
}

fn network(all: &mut Vec<Finding>, facts: &Facts) {
    if facts.docker.is_ok() {
        let on = facts.kernel.ip_forward;
        all.push(check(
            "forwarding",
            on != Some(0),
            match on {
                Some(0) => "off (net.ipv4.ip_forward)",
                _ => "on",
            },
            (
                Level::Bad,
                "tenants reach nothing outside, and edges reach no tenant through Docker",
                "`sysctl -w net.ipv4.ip_forward=1`; look for what turns it off in /etc/sysctl.conf and /etc/sysctl.d/",
            ),
        ));
    }
    if let Some(mtu) = facts.uplink_mtu {
        all.push(Finding::good("mtu", format!("{mtu} of the uplink")));
    }
    all.push(check(
        "networks",
        facts.in_range.is_empty(),
        match facts.in_range.first() {
            Some(net) => format!("{net} of this host lies in the tenants' range"),
            None => "apart from the tenants' range".to_owned(),
        },
        (
            Level::Warning,
            "tenants get none of these addresses, so the host takes fewer; what is new there may clash",
            "another `[network] tenant_range` in the coordinator's configuration, or another network here",
        ),
    ));
    all.push(check(
        "safe opening",
        facts.opens_safely,
        if facts.opens_safely { "openat2 works" } else { "openat2 is refused" },
        (
            Level::Warning,
            "tenants cannot be moved from or to this host",
            "a kernel of 5.6 or later; in the agent's unit no RestrictSUIDSGID= and no filter that refuses openat2",
        ),
    ));
}

#[cfg(test)]
mod tests;

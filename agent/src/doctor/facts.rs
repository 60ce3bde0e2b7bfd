//! What is known of this host: read from the kernel's files, a few settings, Docker, and the agent's own directory.
//!
//! What cannot be read is not known, which is no finding. Not here: judging (checks).

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use ipnet::Ipv4Net;
use isyone_proto::{identity::CertificateInfo, plan::HostPlan};
use tokio::{
    net::{TcpStream, lookup_host},
    process::Command,
    time::timeout,
};

use super::Patient;
use crate::{
    base::{
        beneath,
        clock::now_ms,
        config::{AgentConfig, ConfigError},
        fsutil, kernel,
    },
    docker::EngineInfo,
    host::{
        firewall::{Examined, examine},
        identity::LiveIdentity,
        ledger::Ledger,
        resources::{default_mtu, host_networks},
        space::{Room, Space},
    },
};

/// Docker, the coordinator and `timedatectl` answer within this time or count as silent: the doctor is to be quick.
const PATIENCE: Duration = Duration::from_secs(3);
/// The file that the service nftables loads.
const NFTABLES: &str = "/etc/nftables.conf";
/// Where systemd notes that it is started at boot.
const NFTABLES_ENABLED: [&str; 2] = [
    "/etc/systemd/system/sysinit.target.wants/nftables.service",
    "/etc/systemd/system/multi-user.target.wants/nftables.service",
];

/// The agent's own side of it.
pub(super) struct Joined {
    pub(super) config: AgentConfig,
    /// Or why it cannot be used.
    pub(super) certificate: Result<CertificateInfo, String>,
    /// This machine has the address at which edges reach it.
    pub(super) has_address: bool,
    /// The coordinator takes connections, or why it seems not to.
    pub(super) coordinator: Result<(), String>,
    /// The directory is its owner's alone.
    pub(super) is_private: bool,
}

/// Numbers of the kernel; `None`: not known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kernel {
    pub(super) ip_forward: Option<u64>,
    pub(super) gc_thresh3: Option<u64>,
    pub(super) inotify_instances: Option<u64>,
    pub(super) pid_max: Option<u64>,
    pub(super) conntrack_max: Option<u64>,
    pub(super) conntrack_count: Option<u64>,
    pub(super) memory_available: Option<u64>,
    pub(super) memory_total: Option<u64>,
}

/// Everything that is judged.
pub(super) struct Facts {
    pub(super) now_s: i64,
    pub(super) root: bool,
    pub(super) docker: Result<EngineInfo, String>,
    pub(super) filter: Examined,
    pub(super) kernel: Kernel,
    /// Controllers of control groups; `None`: the old kind, or not known.
    pub(super) controllers: Option<String>,
    /// The place of tenants' data, how it stands with its disk, and its file system.
    pub(super) disk: Option<(PathBuf, Room, Space)>,
    pub(super) file_system: Option<String>,
    pub(super) inodes_free_permille: Option<u64>,
    /// The clock is kept by a service; `None`: not known.
    pub(super) synchronised: Option<bool>,
    /// The service nftables flushes everything at each start of it.
    pub(super) flushes: bool,
    pub(super) uplink_mtu: Option<u16>,
    /// Files can be opened without links.
    pub(super) opens_safely: bool,
    pub(super) joined: Result<Joined, ConfigError>,
    pub(super) plan: Option<HostPlan>,
    /// Networks of the host's own in the tenants' range.
    pub(super) in_range: Vec<Ipv4Net>,
}

pub(super) async fn gather(patient: &Patient) -> Facts {
    let docker = docker(patient).await;
    let plan = plan(patient);
    let tenants: BTreeSet<Ipv4Net> = plan
        .iter()
        .flat_map(|plan| &plan.tenants)
        .map(|tenant| tenant.subnet.trunc())
        .collect();
    let own: Vec<Ipv4Net> = tenants.iter().copied().collect();
    let range = plan.as_ref().map(|plan| plan.firewall.tenant_range);
    let mut in_range = host_networks(&own);
    in_range.retain(|net| range.is_some_and(|range| range.contains(net) || net.contains(&range)));
    let place = patient.tenants_dir.clone().or_else(|| {
        let root = &docker.as_ref().ok()?.root_dir;
        Some(PathBuf::from(root))
    });
    let disk = place.as_ref().and_then(|place| {
        let room = Room::of(place)?;
        Some((place.clone(), room, Space::of(room)))
    });
    let (filter, synchronised, joined) = tokio::join!(
        examine(&patient.nft, &tenants),
        synchronised(),
        joined(patient)
    );
    Facts {
        now_s: now_ms() / 1000,
        root: rustix::process::geteuid().is_root(),
        docker,
        filter,
        kernel: kernel_numbers(),
        controllers: kernel::text("/sys/fs/cgroup/cgroup.controllers").ok(),
        file_system: place.as_deref().and_then(file_system),
        inodes_free_permille: place.as_deref().and_then(inodes_free),
        disk,
        synchronised,
        flushes: flushes(),
        uplink_mtu: default_mtu(),
        opens_safely: beneath::probe().is_ok(),
        joined,
        plan,
        in_range,
    }
}

async fn docker(patient: &Patient) -> Result<EngineInfo, String> {
    match timeout(PATIENCE, patient.docker.info()).await {
        Ok(Ok(info)) => Ok(info),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn plan(patient: &Patient) -> Option<HostPlan> {
    let path = patient.data.ledger();
    let there = fsutil::exists(&path);
    let (ledger, _) = there.then(|| Ledger::open(&path).ok())??;
    ledger.plan().cloned()
}

fn number(path: &str) -> Option<u64> {
    kernel::text(path).ok()?.trim().parse().ok()
}

fn kernel_numbers() -> Kernel {
    let memory = kernel::text("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(key))?;
        let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    };
    Kernel {
        ip_forward: number("/proc/sys/net/ipv4/ip_forward"),
        gc_thresh3: number("/proc/sys/net/ipv4/neigh/default/gc_thresh3"),
        inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
        pid_max: number("/proc/sys/kernel/pid_max"),
        conntrack_max: number("/proc/sys/net/netfilter/nf_conntrack_max"),
        conntrack_count: number("/proc/sys/net/netfilter/nf_conntrack_count"),
        memory_available: kib("MemAvailable:"),
        memory_total: kib("MemTotal:"),
    }
}

/// The file system that a place is on: of the mounts above it, the longest; of several there, the last.
fn file_system(place: &Path) -> Option<String> {
    let mounts = kernel::text("/proc/self/mounts").ok()?;
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(point), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        let depth = Path::new(point).components().count();
        if place.starts_with(point) && best.is_none_or(|(known, _)| depth >= known) {
            best = Some((depth, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// `None` where the file system makes them as needed.
fn inodes_free(place: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(place).ok()?;
    let permille = found.f_favail.saturating_mul(1000);
    permille.checked_div(found.f_files)
}

/// Whether a service keeps the clock, as systemd says it.
async fn synchronised() -> Option<bool> {
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, asked).await.ok()?.ok()?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn flushes() -> bool {
    let enabled = NFTABLES_ENABLED
        .iter()
        .any(|path| fsutil::exists(Path::new(path)));
    let text = fsutil::read_text(Path::new(NFTABLES)).unwrap_or_default();
    enabled && text.lines().any(|line| line.trim() == "flush ruleset")
}

async fn joined(patient: &Patient) -> Result<Joined, ConfigError> {
    let config = patient.data.load_config()?;
    let identity = LiveIdentity::open(patient.data.identity());
    let certificate = match identity {
        Ok(identity) => Ok(identity.info()),
        Err(e) => Err(isyone_proto::tls::error_chain(&e)),
    };
    let mode = fsutil::mode(patient.data.path()).unwrap_or(0o700);
    Ok(Joined {
        has_address: UdpSocket::bind((config.advertise, 0)).is_ok(),
        coordinator: reached(&config.endpoint).await,
        certificate,
        is_private: mode & 0o077 == 0,
        config,
    })
}

async fn reached(endpoint: &str) -> Result<(), String> {
    let connect = async {
        let found = lookup_host(endpoint).await;
        let found = found.map_err(|e| format!("{endpoint} is not found ({e})"))?;
        let mut why = format!("{endpoint} leads nowhere");
        for address in found {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(()),
                Err(e) => why = format!("{address} does not take connections ({e})"),
            }
        }
        Err(why)
    };
    let silent = || format!("{endpoint} does not answer within {} s", PATIENCE.as_secs());
    timeout(PATIENCE, connect)
        .await
        .unwrap_or_else(|_| Err(silent()))
}

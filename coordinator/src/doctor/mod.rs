//! `isy-coordinator doctor`: what of this machine and its configuration can keep the coordinator from its work, each as a check with
//! what was found, why it matters and the remedy. Works beside a coordinator that runs, and without one.
//!
//! Facts are gathered first, then judged (checks, pure). Nothing is changed. Not here: the fleet (`isyctl doctor`), hosts
//! (`isy-agent doctor`).

mod checks;

use std::{
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use isyone_proto::{
    finding::{Finding, Level, sorted},
    tls,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    base::{
        clock,
        config::Config,
        files,
        secrets::{KEY_FILE, KEY_VARIABLE},
    },
    init::{DATABASE_FILE, PKI_DIR},
};

/// A port that is open answers at once.
const CONNECT: Duration = Duration::from_millis(500);
/// A name below the base domain that no tenant can have.
const NOBODY: &str = "isyone-doctor-looks-whether-all-names-lead-here";

/// One of the ports of the configuration.
struct Port {
    name: &'static str,
    address: SocketAddr,
    state: PortState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PortState {
    /// Nobody listens, and we could.
    Free,
    /// Somebody listens: the coordinator, if it runs.
    Taken,
    /// It cannot be listened on, for another reason.
    Impossible,
}

/// Validity of a certificate, seconds since 1970; or why it cannot be read.
type Validity = Result<(i64, i64), String>;

struct Facts {
    now_s: i64,
    /// Another user's files may look absent.
    root: bool,
    database: bool,
    seal_key: Option<bool>,
    private: Vec<(&'static str, bool)>,
    /// Buckets whose keys can be read, and why those of others cannot.
    buckets: Vec<(String, Result<(), String>)>,
    ca: Validity,
    server: Validity,
    ports: Vec<Port>,
    /// Of the names for our certificate, those that lead nowhere, and whether one leads here.
    astray: Vec<String>,
    leads_here: bool,
    base_domain: String,
    wildcard: bool,
    /// Bytes free and altogether where the database is.
    disk: Option<(u64, u64)>,
    synchronised: Option<bool>,
    http_is_private: bool,
}

/// All checks for a configuration that can be used, the worst first.
pub fn examine(config: &Config) -> Vec<Finding> {
    sorted(checks::all(&gather(config)))
}

/// For one that cannot.
pub fn unusable(why: &str) -> Vec<Finding> {
    vec![Finding::new(
        Level::Bad,
        "configuration",
        why,
        "the coordinator does not start",
        "mend what it says in coordinator.toml; `isy-coordinator --check-config` shows what is in force",
    )]
}

fn gather(config: &Config) -> Facts {
    let dir = &config.data_dir;
    let pki = dir.join(PKI_DIR);
    let from_environment = std::env::var_os(KEY_VARIABLE).is_some();
    let seal = dir.join(KEY_FILE);
    let secret = [
        ("pki/ca.key", pki.join("ca.key")),
        ("pki/server.key", pki.join("server.key")),
    ];
    let listen = &config.listen;
    let http = listen.http.ip();
    let mut ports = vec![
        ("grpc", listen.grpc),
        ("enroll", listen.enroll),
        ("http", listen.http),
    ];
    ports.extend(listen.edges.map(|address| ("edges", address)));
    let hosts = &config.advertise.hosts;
    let base_domain = config.base_domain.to_string();
    Facts {
        now_s: clock::now_seconds(),
        root: rustix::process::geteuid().is_root(),
        database: dir.join(DATABASE_FILE).exists(),
        seal_key: (!from_environment).then(|| seal.exists() && files::is_private(&seal)),
        private: secret
            .iter()
            .map(|(name, path)| (*name, files::is_private(path)))
            .collect(),
        buckets: buckets(config),
        ca: validity(&pki.join("ca.pem")),
        server: validity(&pki.join("server.pem")),
        ports: ports.into_iter().map(port).collect(),
        astray: hosts
            .iter()
            .filter(|h| leads(h).is_empty())
            .cloned()
            .collect(),
        leads_here: hosts.iter().flat_map(|h| leads(h)).any(is_here),
        wildcard: !leads(&format!("{NOBODY}.{base_domain}")).is_empty(),
        base_domain,
        disk: rustix::fs::statvfs(dir.as_path()).ok().map(|found| {
            let size = |blocks: u64| blocks.saturating_mul(found.f_frsize);
            (size(found.f_bavail), size(found.f_blocks))
        }),
        synchronised: synchronised(),
        http_is_private: match http {
            std::net::IpAddr::V4(address) => address.is_loopback() || address.is_private(),
            std::net::IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
        },
    }
}

/// Their keys only: whether they answer, the coordinator says (`isyctl backup status`).
fn buckets(config: &Config) -> Vec<(String, Result<(), String>)> {
    let all = config.backup.buckets.iter();
    all.map(|(name, bucket)| {
        let access = bucket.access(name, &config.data_dir);
        (
            name.to_string(),
            access.map(drop).map_err(|e| e.to_string()),
        )
    })
    .collect()
}

fn validity(path: &Path) -> Validity {
    let pem = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let chain = tls::certificates("certificate", &pem).map_err(|e| e.to_string())?;
    let first = chain.first().ok_or("there is none in it")?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|e| e.to_string())?;
    let validity = certificate.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

fn port((name, address): (&'static str, SocketAddr)) -> Port {
    let reach = match address.ip().is_unspecified() {
        true => SocketAddr::from(([127, 0, 0, 1], address.port())),
        false => address,
    };
    let state = if TcpStream::connect_timeout(&reach, CONNECT).is_ok() {
        PortState::Taken
    } else if TcpListener::bind(address).is_ok() {
        PortState::Free
    } else {
        PortState::Impossible
    };
    Port {
        name,
        address,
        state,
    }
}

fn leads(host: &str) -> Vec<SocketAddr> {
    let found = (host, 0).to_socket_addrs();
    found.map_or_else(|_| Vec::new(), Iterator::collect)
}

/// Whether an address is one of this machine.
fn is_here(address: SocketAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
}

/// Whether a service keeps the clock, as systemd says it.
fn synchronised() -> Option<bool> {
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .output()
        .ok()?;
    match String::from_utf8_lossy(&asked.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

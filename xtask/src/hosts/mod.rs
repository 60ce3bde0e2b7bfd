//! Several Docker hosts on one machine, for the demo and the tests.
//!
//! A host is a network namespace with an address on the bridge `br-isyone` and its own Docker daemon, with its own
//! images, containers, ports and firewall. Processes and mounts are the machine's. The machine itself is `172.30.77.1`
//! on that bridge, host `h1` is `172.30.77.11` (`ISYONE_HOSTS_NET=78` selects another set, with `172.30.78.…`). All
//! state of host `hN` is in `STATE/hN`: the socket is `STATE/hN/run/docker.sock`, the data root `STATE/hN/data`, the
//! daemon's log `STATE/hN/log`. There is one such set of hosts per machine and network; `down` ends and removes what
//! `up` made, and nothing else.

mod daemon;
mod load;
pub(crate) mod net;

use self::daemon::SetUp;
use crate::cmd::{cmd, need_root, output, say, succeeds, took, wait_until};
use crate::{engine, paths, seal};
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Options of `hosts`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder for the hosts' state [default: target/isyone/hosts]
    #[arg(long, env = "ISYONE_HOSTS", global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Start hosts h1 … hN (those that run already are left alone)
    Up {
        /// How many
        #[arg(value_parser = clap::value_parser!(u8).range(1..=200))]
        count: u8,
    },
    /// Stop all hosts and remove them with everything on them
    Down {
        /// Keep their images, so that the next `up` has them (containers and volumes go)
        #[arg(long)]
        keep_images: bool,
    },
    /// List the hosts: name, address, socket, and whether the daemon answers
    List,
    /// Run `docker ARGS…` against a host
    Docker(OnHost),
    /// Run a program of this machine inside a host's network
    Exec(OnHost),
    /// Copy images from the machine's own daemon to hosts (`all`, or `h1,h2`)
    Load {
        /// `all`, or names separated by commas
        hosts: String,
        /// Image names
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Print a host's address
    Ip {
        /// Its name: h1, h2 …
        host: String,
    },
    /// Drop all traffic of a host, or that between it and a peer, silently as a dead link does
    Cut {
        /// Its name: h1, h2 …
        host: String,
        /// Another host's name, or an address (172.30.77.1 is the machine itself)
        peer: Option<String>,
    },
    /// Undo every cut of a host
    Heal {
        /// Its name: h1, h2 …
        host: String,
    },
    /// Stop a host's Docker daemon, and so its containers
    Stop {
        /// Its name: h1, h2 …
        host: String,
    },
    /// Start a host's Docker daemon again
    Start {
        /// Its name: h1, h2 …
        host: String,
        #[command(flatten)]
        set_up: SetUp,
    },
}

#[derive(clap::Args)]
struct OnHost {
    /// Its name: h1, h2 …
    host: String,
    /// What to run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    args: Vec<String>,
}

/// One daemon starting beside others, on two busy cores.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run_hosts(args: &Args) -> Result<ExitCode> {
    let hosts = Hosts::at(
        args.state
            .clone()
            .unwrap_or_else(|| paths::cache().join("hosts")),
    )?;
    match &args.verb {
        Verb::Up { count } => hosts.up(*count)?,
        Verb::Down { keep_images } => hosts.down(*keep_images)?,
        Verb::List => hosts.print_list(),
        Verb::Docker(on) => return Err(hosts.host(&on.host)?.docker(&on.args).exec().into()),
        Verb::Exec(on) => {
            let host = hosts.host(&on.host)?;
            let [program, args @ ..] = on.args.as_slice() else {
                bail!("nothing to run")
            };
            let err = host.exec(program, args).exec();
            return Err(err).with_context(|| format!("cannot run {program} on {}", on.host));
        }
        Verb::Load {
            hosts: names,
            images,
        } => hosts.load(names, images)?,
        Verb::Ip { host } => println!("{}", hosts.host(host)?.ip()),
        Verb::Cut { host, peer } => {
            let peer = peer
                .as_deref()
                .map(|peer| hosts.address_of(peer))
                .transpose()?;
            net::cut(&hosts.host(host)?, peer.as_deref())?;
        }
        Verb::Heal { host } => net::heal(&hosts.host(host)?)?,
        Verb::Stop { host } => hosts.host(host)?.stop_daemon()?,
        Verb::Start { host, set_up } => {
            let host = hosts.host(host)?;
            host.start_daemon(set_up)?;
            host.wait_ready()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The set of hosts with their state in one folder.
pub(crate) struct Hosts {
    state: PathBuf,
}

/// One host of the set; it may not exist yet.
pub(crate) struct Host {
    number: u8,
    dir: PathBuf,
}

/// Without links, as the kernel names mounts: also of what is not there yet. Two names of one folder would be two sets of hosts that wait
/// for each other.
fn real(path: &Path) -> Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => Ok(real),
        (Err(_), Some(parent), Some(name)) => Ok(real(parent)?.join(name)),
        (Err(err), ..) => Err(err.into()),
    }
}

impl Hosts {
    /// The set with its state in `state`, running or not.
    pub(crate) fn at(state: PathBuf) -> Result<Self> {
        let state = real(&std::path::absolute(&state)?)?;
        // The longest socket path that containerd makes below it, against the kernel's limit on socket paths.
        let longest = state
            .join("h200/run/exec/containerd/containerd-debug.sock")
            .as_os_str()
            .len();
        if longest > 107 {
            bail!(
                "{} is too long a path for sockets: give a shorter one with --state",
                state.display()
            );
        }
        Ok(Self { state })
    }

    /// Starts `h1` … `hN`; a running host is left alone.
    pub(crate) fn up(&self, count: u8) -> Result<()> {
        need_root("starting test hosts")?;
        require_programs()?;
        let _lock = self.lock()?;
        let start = Instant::now();
        net::raise_inotify_limit();
        if let Some(owner) = net::owner().filter(|owner| *owner != self.state) {
            remove_abandoned(owner)?;
        }
        net::ensure_bridge(&self.state)?;
        seal::on(seal::Holder::Hosts)?;
        let hosts: Vec<Host> = (1..=count).map(|number| self.numbered(number)).collect();
        for host in &hosts {
            net::ensure_namespace(host)?;
            host.start_daemon(&SetUp::default())?;
        }
        for host in &hosts {
            host.wait_ready()?;
        }
        say!(
            "{count} hosts are up ({}), state in {}",
            took(start),
            self.state.display()
        );
        Ok(())
    }

    /// Stops and removes every host of the set.
    pub(crate) fn down(&self, keep_images: bool) -> Result<()> {
        if !self.state.is_dir() {
            if net::owner().is_some_and(|owner| owner == self.state) {
                need_root("removing test hosts")?;
                remove_without_state(&self.state);
            } else {
                say!("no hosts in {}", self.state.display());
            }
            return Ok(());
        }
        need_root("removing test hosts")?;
        let lock = self.lock()?;
        let start = Instant::now();
        let hosts = self.all();
        // Kill instead of stopping: an Odoo may take minutes to end by itself, a daemon waits for it, and nothing here
        // needs a clean shutdown.
        hosts.iter().for_each(Host::kill_all);
        // Tell all of them to stop before waiting for the first.
        let emptied: Vec<bool> = hosts
            .iter()
            .map(|host| !keep_images || host.remove_all())
            .collect();
        let leaving: Vec<_> = hosts.iter().map(Host::tell_daemon_to_stop).collect();
        for (host, pid) in hosts.iter().zip(leaving) {
            host.wait_gone(pid)?;
        }
        for (host, emptied) in hosts.iter().zip(emptied) {
            host.remove_leftovers(keep_images && emptied)?;
        }
        net::remove_bridge(&self.state);
        seal::off(seal::Holder::Hosts);
        if !keep_images {
            // Remove only what is ours: the folder given may hold other things too.
            fs::remove_file(self.state.join("lock")).ok();
            if fs::remove_dir(&self.state).is_err() {
                say!("{} stays: there is more in it", self.state.display());
            }
        }
        drop(lock);
        say!("{} hosts are gone ({})", hosts.len(), took(start));
        Ok(())
    }

    /// Copies images to the hosts in `names`: `all`, or `h1,h2`.
    pub(crate) fn load(&self, names: &str, images: &[String]) -> Result<()> {
        let hosts = match names {
            "all" => self.all(),
            names => names
                .split(',')
                .map(|name| self.host(name))
                .collect::<Result<_>>()?,
        };
        if hosts.is_empty() {
            bail!(
                "there are no hosts in {}: `cargo xtask hosts up 3` starts some",
                self.state.display()
            );
        }
        load::load(&hosts, images)
    }

    /// The host of that name (`h1`, `h2` …), which `up` must have started.
    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        let number = name
            .strip_prefix('h')
            .and_then(|number| number.parse().ok());
        let host = number
            .map(|number| self.numbered(number))
            .filter(|host| host.dir.is_dir());
        host.with_context(|| format!("there is no host `{name}` in {}", self.state.display()))
    }

    /// Every host with state in the folder, by number.
    pub(crate) fn all(&self) -> Vec<Host> {
        (1..=200)
            .map(|number| self.numbered(number))
            .filter(|host| host.dir.is_dir())
            .collect()
    }

    fn numbered(&self, number: u8) -> Host {
        Host {
            number,
            dir: self.state.join(format!("h{number}")),
        }
    }

    fn address_of(&self, peer: &str) -> Result<String> {
        match peer.parse::<std::net::Ipv4Addr>() {
            Ok(ip) => Ok(ip.to_string()),
            Err(_) => Ok(self.host(peer)?.ip()),
        }
    }

    fn print_list(&self) {
        for host in self.all() {
            let answers = if host.answers() { "up" } else { "down" };
            println!(
                "{}\t{}\t{}\t{answers}",
                host.name(),
                host.ip(),
                host.socket().display()
            );
        }
    }

    fn lock(&self) -> Result<File> {
        let message = || format!("cannot write {}", self.state.display());
        fs::create_dir_all(&self.state).with_context(message)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(self.state.join("lock"))
            .with_context(message)?;
        file.lock()?;
        Ok(file)
    }
}

impl Host {
    /// `h1`, `h2` …
    pub(crate) fn name(&self) -> String {
        format!("h{}", self.number)
    }

    /// Its address, reachable from this machine and from the other hosts.
    pub(crate) fn ip(&self) -> String {
        format!("{}.{}", net::subnet(), 10 + u16::from(self.number))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("run/docker.sock")
    }

    /// `docker ARGS…` against this host's daemon.
    pub(crate) fn docker<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = cmd(
            "docker",
            [
                "--host".to_owned(),
                format!("unix://{}", self.socket().display()),
            ],
        );
        // The user's own Docker context or DOCKER_HOST must not apply.
        command
            .args(args)
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        command
    }

    /// A program of this machine, run inside the host's network.
    pub(crate) fn exec<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        // Not `ip netns exec`: it mounts another /sys, in which dockerd finds no version 1 control groups.
        let mut command = cmd(
            "nsenter",
            [format!("--net={}", self.namespace_file().display())],
        );
        command.arg("--").arg(program).args(args);
        command
    }

    /// Whether the host's daemon answers.
    pub(crate) fn answers(&self) -> bool {
        let version = output(&mut self.docker(["version", "--format", "{{.Server.Version}}"]));
        version.is_ok_and(|version| !version.is_empty())
    }

    /// Waits until the host's daemon answers.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        if wait_until(BOOT_LIMIT, || {
            self.answers() || self.daemon_pid().is_none() && self.has_failed()
        }) && self.answers()
        {
            return Ok(());
        }
        bail!(
            "the daemon of {} does not answer; the end of its log:\n{}",
            self.name(),
            self.log_tail()
        );
    }

    fn namespace(&self) -> String {
        format!("isy{}-{}", net::mark(), self.name())
    }

    fn namespace_file(&self) -> PathBuf {
        Path::new("/run/netns").join(self.namespace())
    }

    /// Kills all containers at once.
    fn kill_all(&self) {
        let running = output(&mut self.docker(["ps", "--quiet"])).unwrap_or_default();
        if !running.is_empty() {
            succeeds(self.docker(["kill"]).args(running.split_whitespace()));
        }
    }

    /// Removes containers, volumes and networks but keeps images; false if the daemon could not.
    fn remove_all(&self) -> bool {
        let quiet = |args: &[&str]| output(&mut self.docker(args)).unwrap_or_default();
        let containers = quiet(&["ps", "--all", "--quiet"]);
        if !containers.is_empty() {
            quiet(
                &["rm", "--force", "--volumes"]
                    .into_iter()
                    .chain(containers.split_whitespace())
                    .collect::<Vec<_>>(),
            );
        }
        quiet(&["network", "prune", "--force"]);
        let volumes = quiet(&["volume", "ls", "--quiet"]);
        if !volumes.is_empty() {
            quiet(
                &["volume", "rm"]
                    .into_iter()
                    .chain(volumes.split_whitespace())
                    .collect::<Vec<_>>(),
            );
        }
        self.answers()
            && quiet(&["ps", "--all", "--quiet"]).is_empty()
            && quiet(&["volume", "ls", "--quiet"]).is_empty()
    }
}

/// Removes another folder's hosts if nothing runs on them: a run that was killed has left them, and nobody is there to
/// remove them. Hosts in use stay.
fn remove_abandoned(state: PathBuf) -> Result<()> {
    if !net::processes().is_empty() {
        return Ok(());
    }
    say!(
        "nothing runs on the test hosts with their state in {}: removing them",
        state.display()
    );
    Hosts { state }.down(false)
}

/// Removes the hosts of a folder that is gone: its daemons, which nothing else could end any more, and its network.
fn remove_without_state(state: &Path) {
    for pid in net::processes() {
        succeeds(&mut cmd("kill", ["-KILL", &pid]));
    }
    net::remove_namespaces();
    net::remove_bridge(state);
    seal::off(seal::Holder::Hosts);
    say!("the hosts are gone, as is {}", state.display());
}

/// Checks that the machine has what test hosts need.
fn require_programs() -> Result<()> {
    for program in ["dockerd", "docker", "ip", "iptables", "nsenter"] {
        if paths::which(program).is_none() {
            bail!("there is no `{program}`: run `cargo xtask setup`");
        }
    }
    if engine::version().is_none() {
        say!(
            "note: this machine's own Docker daemon does not answer; `hosts load` copies images from it"
        );
    }
    Ok(())
}

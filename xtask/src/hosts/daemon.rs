//! The Docker daemon of one test host: start it, stop it, and clean up after it.

use super::{Host, net};
use crate::cmd::{cmd, output, succeeds, tail, wait_until};
use crate::paths;
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Docker gives containers 10 s to stop by themselves, and the daemon takes 5 s more.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Which users and groups outside a container are those inside it.
const SUBIDS: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// What a daemon is told besides.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SetUp {
    /// A daemon.json for it [default: an empty one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What it finds as /etc/subuid and /etc/subgid, for `userns-remap`; the machine's own stay as they are
    #[arg(long, value_name = "FILE")]
    subids: Option<PathBuf>,
}

impl SetUp {
    fn config(&self) -> Result<String> {
        match &self.config {
            None => Ok("{}\n".to_owned()),
            Some(file) => {
                fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
            }
        }
    }
}

impl Host {
    /// Starts the daemon inside the host's namespace, unless it runs. Does not wait for it.
    pub(crate) fn start_daemon(&self, set_up: &SetUp) -> Result<()> {
        if self.daemon_pid().is_some() {
            return Ok(());
        }
        let run = self.dir.join("run");
        fs::create_dir_all(&run)?;
        // A pid file left by a killed daemon would keep the new one from starting.
        fs::remove_file(self.pid_file()).ok();
        fs::remove_file(run.join("exec/containerd/containerd.pid")).ok();
        // Its own configuration: the machine's /etc/docker/daemon.json does not apply to this daemon.
        let config = self.dir.join("daemon.json");
        fs::write(&config, set_up.config()?)?;
        // A fresh log, so that messages of the last daemon are not taken for this one's.
        fs::rename(self.log_file(), self.dir.join("log.old")).ok();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let dockerd =
            paths::which("dockerd").context("there is no dockerd: run `cargo xtask setup`")?;
        // As many open files as allowed, as on a real host: every container inherits the limit.
        let script = r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#;
        let space = self.namespace();
        let mut command = match &set_up.subids {
            None => self.exec("setsid", ["sh", "-c", script]),
            Some(file) => self.with_subids(file, script)?,
        };
        command.arg(dockerd).args(["--log-level", "warn"]);
        command.arg("--config-file").arg(config);
        command
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()));
        command.arg("--data-root").arg(self.dir.join("data"));
        command.arg("--exec-root").arg(run.join("exec"));
        command.arg("--pidfile").arg(self.pid_file());
        command.args([
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
            "--cgroup-parent",
            &format!("/{space}"),
        ]);
        // If the machine runs a containerd, all daemons share it: separate namespaces keep them apart.
        command.args([
            "--containerd-namespace",
            &space,
            "--containerd-plugins-namespace",
            &format!("{space}-plugins"),
        ]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/");
        command
            .spawn()
            .with_context(|| format!("cannot start the daemon of {}", self.name()))?;
        Ok(())
    }

    /// The same, where this file is at two others' places for it and what it starts.
    fn with_subids(&self, file: &Path, script: &str) -> Result<Command> {
        for place in SUBIDS {
            // Somewhere to mount on; an empty one says what a missing one does.
            File::options().create(true).append(true).open(place)?;
        }
        let [users, groups] = SUBIDS;
        let mounts = format!(r#"mount --bind "$0" {users}; mount --bind "$0" {groups}; exec "$@""#);
        let mut command = self.exec("setsid", ["unshare", "--mount", "sh", "-ec", &mounts]);
        command.arg(file).args(["sh", "-c", script]);
        Ok(command)
    }

    /// Stops the daemon and waits until it is gone.
    pub(crate) fn stop_daemon(&self) -> Result<()> {
        let pid = self.tell_daemon_to_stop();
        self.wait_gone(pid)
    }

    /// Sends SIGTERM to the daemon; returns its pid, if it runs.
    pub(super) fn tell_daemon_to_stop(&self) -> Option<u32> {
        let pid = self.daemon_pid()?;
        succeeds(&mut cmd("kill", [pid.to_string()]));
        Some(pid)
    }

    pub(super) fn wait_gone(&self, pid: Option<u32>) -> Result<()> {
        let Some(pid) = pid else { return Ok(()) };
        if wait_until(STOP_LIMIT, || !self.is_our_daemon(pid)) {
            return Ok(());
        }
        bail!(
            "the daemon of {} (pid {pid}) does not stop; its log is {}",
            self.name(),
            self.log_file().display()
        )
    }

    /// The daemon's pid, if it runs.
    pub(super) fn daemon_pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.pid_file())
            .ok()?
            .trim()
            .parse()
            .ok()?;
        self.is_our_daemon(pid).then_some(pid)
    }

    /// The pid in an old file may belong to another process by now, so check the process's arguments.
    fn is_our_daemon(&self, pid: u32) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ours = self.pid_file();
        line.split(|byte| *byte == 0)
            .any(|word| word == ours.as_os_str().as_encoded_bytes())
    }

    /// Whether the log says that the daemon gave up.
    pub(super) fn has_failed(&self) -> bool {
        fs::read_to_string(self.log_file())
            .is_ok_and(|log| tail(&log, 1).contains("failed to start daemon"))
    }

    pub(super) fn log_tail(&self) -> String {
        tail(&fs::read_to_string(self.log_file()).unwrap_or_default(), 10)
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("run/docker.pid")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Cleans up after the daemon's end: its mounts, control groups, the namespace, the files.
    pub(super) fn remove_leftovers(&self, keep_data: bool) -> Result<()> {
        let below = format!("{}/", self.dir.display());
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut points: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        points.retain(|point| point.starts_with(&below));
        points.sort_unstable();
        for point in points.iter().rev() {
            succeeds(&mut cmd("umount", ["--lazy", point]));
        }
        remove_cgroups(&self.namespace());
        net::remove_namespace(self);
        let gone = if keep_data {
            // Tenants' data, which Docker does not know of; there is none on a host that never had a tenant.
            let _ = fs::remove_dir_all(self.dir.join("data/isyone/tenants"));
            self.dir.join("run")
        } else {
            self.dir.clone()
        };
        fs::remove_dir_all(&gone).with_context(|| format!("cannot remove {}", gone.display()))
    }
}

/// Removes the empty control groups named `name`: one in every hierarchy (version 1), or just one (version 2).
fn remove_cgroups(name: &str) {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for group in hierarchies
        .chain([top.to_path_buf()])
        .map(|dir| dir.join(name))
        .filter(|group| group.is_dir())
    {
        // Deepest first. The kernel refuses to remove groups still in use, as it should.
        output(
            cmd("find", [group.as_path()])
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]),
        )
        .ok();
    }
}

//! The machine's own Docker engine: checks whether it exists and answers, and starts it if it does not.
//!
//! A daemon that answers is never touched. On a machine with systemd the unit is started; elsewhere (containers, small
//! VMs) `dockerd` is started detached, with its log in `/var/log/isyone/dockerd.log` and its pid where dockerd itself
//! puts it, `/run/docker.pid`. Nothing here ever stops it: it may run other people's containers.

use crate::cmd::{cmd, output, run, say, succeeds, tail, took, wait_until};
use crate::paths;
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LOG_DIR: &str = "/var/log/isyone";
const LOG: &str = "/var/log/isyone/dockerd.log";
/// A cold start on a slow disk has taken 6 s.
const START_LIMIT: Duration = Duration::from_secs(60);

/// `docker ARGS…` against the daemon that the environment selects.
pub(crate) fn docker<const N: usize>(args: [&str; N]) -> Command {
    cmd("docker", args)
}

/// The daemon's version, or `None` if none answers.
pub(crate) fn version() -> Option<String> {
    output(&mut docker(["version", "--format", "{{.Server.Version}}"]))
        .ok()
        .filter(|v| !v.is_empty())
}

/// Starts a daemon if none answers; returns its version.
pub(crate) fn ensure_running() -> Result<String> {
    if let Some(version) = version() {
        return Ok(version);
    }
    if let Ok(host) = std::env::var("DOCKER_HOST") {
        bail!("no Docker daemon answers at DOCKER_HOST={host}: start it, or unset DOCKER_HOST");
    }
    let start = Instant::now();
    if Path::new("/run/systemd/system").is_dir() {
        run(&mut cmd("systemctl", ["start", "docker"])).context("see `journalctl -u docker`")?;
    } else {
        start_detached()?;
    }
    if !wait_until(START_LIMIT, || version().is_some()) {
        let log = fs::read_to_string(LOG).unwrap_or_default();
        bail!(
            "dockerd does not answer after {} s; the end of {LOG}:\n{}",
            START_LIMIT.as_secs(),
            tail(&log, 15)
        );
    }
    let version = version().context("dockerd stopped again right after its start")?;
    say!("Docker {version} started in {}", took(start));
    Ok(version)
}

fn start_detached() -> Result<()> {
    let dockerd =
        paths::which("dockerd").context("there is no dockerd: run `cargo xtask setup`")?;
    fs::create_dir_all(LOG_DIR)?;
    let log = File::options().create(true).append(true).open(LOG)?;
    // Its own session, so that neither Ctrl-C nor a closed terminal ends it. As many open files as allowed, because
    // every container inherits the limit.
    let script = r#"ulimit -n "$(ulimit -Hn)"; exec "$0" --log-level warn"#;
    cmd("setsid", ["sh", "-c", script])
        .arg(&dockerd)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .current_dir("/")
        .spawn()
        .context("cannot start dockerd")?;
    say!(
        "{} started in the background, log in {LOG}",
        dockerd.display()
    );
    Ok(())
}

/// Whether the `docker compose` plugin works.
pub(crate) fn has_compose() -> bool {
    succeeds(&mut docker(["compose", "version"]))
}

/// Whether the daemon has this image.
pub(crate) fn has_image(name: &str) -> bool {
    succeeds(&mut docker(["image", "inspect", name]))
}

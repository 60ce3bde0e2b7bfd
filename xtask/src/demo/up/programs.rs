//! Coordinator, agents and Traefik: built, configured, started, and left alone if they already run as they should.

use super::super::settings::need_free;
use super::super::site::Site;
use super::super::{Args, Demo, Process, agent_process, config, http, write_changed};
use super::{Up, deployable, local};
use crate::cmd::{cargo, output, run, took};
use crate::{images, paths};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// An unoptimised program beside two others on two busy cores; usually ready within a second.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A starting agent reports within seconds, unless Docker is slow to answer.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two checks: each starts a program and a TLS connection.
const REPORT_PAUSE: Duration = Duration::from_millis(200);
const BINARIES: [&str; 3] = ["isy-coordinator", "isy-agent", "isyctl"];

impl Up {
    /// Builds the programs and copies them to the demo's folder, so that a later build does not change what runs. True
    /// if the copy changed.
    pub(super) fn binaries(&mut self, args: &Args) -> Result<bool> {
        let start = Instant::now();
        let from = match &args.bin {
            Some(folder) => folder.clone(),
            None => build(args.release)?,
        };
        let mut is_newer = false;
        for name in BINARIES {
            is_newer |= install(&from.join(name), &self.demo.path("bin").join(name))?;
        }
        self.demo.say(&format!(
            "binaries: {} ({})",
            if is_newer { "new" } else { "as they were" },
            took(start)
        ));
        Ok(is_newer)
    }

    pub(super) fn coordinator(&mut self, is_newer: bool) -> Result<()> {
        let demo = &self.demo;
        let data = demo.path("coordinator");
        let process = demo.process("coordinator");
        init(demo, &data, &process)?;
        let file = data.join("coordinator.toml");
        let changed = write_changed(&file, &config::coordinator(&demo.settings))?;
        let mut command = demo.program("isy-coordinator");
        command.arg("run").arg("--config").arg(&file);
        let context =
            fs::read_to_string(demo.context()).context("the administrator's context is gone")?;
        write_changed(
            &demo.context(),
            &config::context_with_endpoint(&context, &demo.settings),
        )?;
        give_to_sudo_user(&demo.context());
        demo.write_environment()?;
        let http = local(demo.settings.http);
        let ready = || http::status(http, "localhost", "/readyz") == Some(200);
        self.keep(&process, &command, changed || is_newer, ready)
    }

    pub(super) fn agents(&mut self, is_newer: bool) -> Result<()> {
        for host in self.demo.settings.host_names() {
            let site = Site::of(&self.demo, &host)?;
            if self.demo.join(&site)? {
                self.changes += 1;
            }
            let command = site.agent(
                &self.demo,
                &["run", "--docker", &site.docker, "--http"],
                |command| {
                    command.arg(local(self.demo.settings.agent_http).to_string());
                    command.args([
                        "--metrics",
                        &format!("{}:{}", site.advertise, self.demo.settings.agent_metrics),
                        // Beside it, so that two demos on one machine do not meet.
                        "--peer",
                        &format!(
                            "{}:{}",
                            site.advertise,
                            self.demo.settings.agent_metrics.saturating_add(1)
                        ),
                    ]);
                },
            );
            self.keep(
                &self.demo.process(&agent_process(&host)),
                &command,
                is_newer,
                || true,
            )?;
        }
        let start = Instant::now();
        for host in self.demo.settings.host_names() {
            let process = self.demo.process(&agent_process(&host));
            process.wait_ready(REPORT_LIMIT, || {
                self.demo.host_is_ready(&host) || {
                    std::thread::sleep(REPORT_PAUSE);
                    false
                }
            })?;
        }
        self.demo.say(&format!(
            "{} ready to take tenants ({})",
            self.demo.settings.host_names().join(", "),
            took(start)
        ));
        Ok(())
    }

    pub(super) fn traefik(&mut self) -> Result<()> {
        let settings = &self.demo.settings;
        let file = self.demo.path("traefik/traefik.yml");
        let changed = write_changed(
            &file,
            &config::traefik(
                &deployable("traefik/deploy/traefik.yml")?,
                settings,
                &self.demo.path("traefik/access.log"),
            )?,
        )?;
        let mut command = Command::new(images::binary("traefik"));
        command.arg(format!("--configFile={}", file.display()));
        let ping = local(settings.dashboard);
        let ready = || http::status(ping, "localhost", "/ping") == Some(200);
        self.keep(&self.demo.process("traefik"), &command, changed, ready)
    }

    /// Keeps a program running as `command` now describes it.
    pub(in crate::demo) fn keep(
        &mut self,
        process: &Process,
        command: &Command,
        changed: bool,
        ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        let name = &process.name;
        let (mut how, mut why) = ("started", "");
        if let Some(pid) = process.pid() {
            if !changed {
                process.wait_ready(READY_LIMIT, ready)?;
                self.demo.say(&format!("{name}: runs already (pid {pid})"));
                return Ok(());
            }
            process.stop()?;
            (how, why) = ("restarted", ", because its program or configuration is new");
        } else if process.was_started() {
            how = "had ended; started again";
        }
        need_free(name, &self.demo.settings.listens(name))?;
        process.start(command)?;
        process.wait_ready(READY_LIMIT, ready)?;
        self.changes += 1;
        let pid = process.pid().unwrap_or_default();
        self.demo.say(&format!(
            "{name}: {how} in {}{why} (pid {pid}), log {}",
            took(start),
            process.log().display()
        ));
        Ok(())
    }
}

impl Demo {
    /// Writes the environment in which a shell can use `isyctl`.
    fn write_environment(&self) -> Result<()> {
        let (file, bin, context) = (self.path("env"), self.path("bin"), self.context());
        let text = format!(
            "# . {}\nexport PATH='{}':\"$PATH\"\nexport ISYCTL_CONTEXT='{}'\n",
            file.display(),
            bin.display(),
            context.display()
        );
        write_changed(&file, &text).map(|_| ())
    }
}

/// Runs `isy-coordinator init` once. Writing the context is its last act, so without a context an earlier run was
/// interrupted, and nothing uses its data yet.
fn init(demo: &Demo, data: &Path, process: &Process) -> Result<()> {
    if demo.context().exists() {
        return Ok(());
    }
    if process.pid().is_some() {
        bail!(
            "{} is gone, and the coordinator runs: `cargo xtask demo --down` starts over",
            demo.context().display()
        );
    }
    if data.exists() {
        fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))?;
    }
    let mut init = demo.program("isy-coordinator");
    init.arg("init")
        .arg("--data-dir")
        .arg(data)
        .args(["--base-domain", "isy.one"]);
    if !demo.settings.is_single() {
        init.arg("--advertise")
            .arg(demo.settings.address().to_string());
    }
    init.args(["--advertise", "127.0.0.1", "--advertise", "localhost"]);
    // Renamed when done, so that an interrupted `init` is recognised.
    let new = demo.path("admin.toml.new");
    fs::remove_file(&new).ok();
    init.arg("--context-file").arg(&new);
    output(&mut init)?;
    fs::rename(&new, demo.context()).context("`isy-coordinator init` wrote no context")?;
    demo.say("coordinator: its own CA, keys and database are made");
    Ok(())
}

/// Builds the three programs; returns their folder.
fn build(release: bool) -> Result<PathBuf> {
    let mut build = cargo(&[
        "build",
        "--bins",
        "-p",
        "isyone-coordinator",
        "-p",
        "isyone-agent",
        "-p",
        "isyone-ctl",
    ]);
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(paths::target().join(if release { "release" } else { "debug" }))
}

/// Copies a program if the copy differs; true if it was copied.
fn install(from: &Path, to: &Path) -> Result<bool> {
    let read =
        |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    let new = read(from)?;
    if to.exists() && read(to)? == new {
        return Ok(false);
    }
    fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))?;
    let beside = to.with_extension("new");
    fs::write(&beside, new).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))?;
    fs::rename(&beside, to)?;
    Ok(true)
}

/// After `sudo cargo xtask demo`, the user who typed it should be able to use `isyctl`.
fn give_to_sudo_user(file: &Path) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|id| id.parse::<u32>().ok())
    };
    let owner = fs::metadata(file).map(|meta| meta.uid()).ok();
    if let (Some(uid), Some(gid)) = (number("SUDO_UID"), number("SUDO_GID"))
        && owner != Some(uid)
    {
        // Only a convenience: without it, root can still use the file.
        std::os::unix::fs::chown(file, Some(uid), Some(gid)).ok();
    }
}

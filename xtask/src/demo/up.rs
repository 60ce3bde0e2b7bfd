//! Bringing the demo up, step by step.

use super::settings::{Edition, Settings, need_free};
use super::site::Site;
use super::{
    Args, DOMAIN, Demo, Process, TENANT, agent_process, config, down, http, monitoring,
    write_changed,
};
use crate::cmd::{cargo, output, run, succeeds, took, wait_until};
use crate::{images, paths, setup};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A program beside two others on two busy cores, unoptimised. Ready within a second as a rule.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// An agent that starts reports within seconds, unless Docker is slow to answer.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks: each is a program and a TLS connection.
const REPORT_PAUSE: Duration = Duration::from_millis(200);
/// Traefik asks every second for routes; Prometheus finds a new target within 5 s and asks it 2 s later.
const VERIFY_LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts to verify.
const VERIFY_PAUSE: Duration = Duration::from_secs(2);
const BINARIES: [&str; 3] = ["isy-coordinator", "isy-agent", "isyctl"];

/// Makes everything run, and prints how to go on.
pub(super) fn up(folder: &Path, args: &Args) -> Result<()> {
    let start = Instant::now();
    let is_new = !folder.join(super::settings::FILE).exists();
    if is_new
        && fs::read_dir(folder)
            .is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.file_name() != "lock")))
    {
        bail!(
            "{} is not empty and no demo: choose another folder with --dir",
            folder.display()
        );
    }
    let _lock = super::lock(folder)?;
    setup::ensure()?;
    let settings = match Settings::load(folder)? {
        // As long as nothing was started, nothing is bound to an earlier choice.
        Some(settings) if folder.join("run").exists() => settings,
        _ => Settings::choose(args.hosts.unwrap_or(1), &args.ports)?,
    };
    settings.check(args.hosts, &args.ports)?;
    settings.save(folder)?;
    let mut up = Up {
        demo: Demo {
            folder: folder.to_owned(),
            settings,
            start,
        },
        changes: 0,
    };
    up.demo.say(&format!(
        "everything of this demo is in {}; Ctrl-C and starting again are safe",
        folder.display()
    ));
    let went = up.all(args);
    if went.is_err() {
        up.demo.say("not finished. `cargo xtask demo` goes on from here, `cargo xtask demo --down` removes everything");
    }
    went
}

/// The work, and how much of it there was.
pub(super) struct Up {
    pub(super) demo: Demo,
    changes: u32,
}

impl Up {
    fn all(&mut self, args: &Args) -> Result<()> {
        // Better now than after minutes of building.
        if self.demo.settings.is_single() {
            need_own_names(&self.demo.folder)?;
        }
        for process in self
            .demo
            .processes()
            .iter()
            .filter(|process| process.pid().is_none())
        {
            need_free(&process.name, &self.demo.settings.listens(&process.name))?;
        }
        self.images()?;
        let is_newer = self.binaries(args)?;
        self.hosts()?;
        self.coordinator(is_newer)?;
        self.agents(is_newer)?;
        self.traefik()?;
        let watched = self.monitoring();
        self.tolerate(watched, args.keep_going)?;
        self.tenant()?;
        let verified = self.verify().and_then(|()| self.figures());
        self.tolerate(verified, args.keep_going)?;
        if self.changes == 0 {
            self.demo
                .say("everything was running already: nothing was changed");
        }
        self.demo.summary()
    }

    fn tolerate(&self, outcome: Result<()>, keep_going: bool) -> Result<()> {
        match outcome {
            Err(err) if keep_going => {
                self.demo
                    .say(&format!("WARNING, going on (--keep-going): {err:#}"));
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Odoo 18 where a registry gives it, else Odoo 19 out of Debian packages.
    fn images(&mut self) -> Result<()> {
        let start = Instant::now();
        images::provide(&["traefik", "prometheus", "alertmanager"], false)?;
        let edition = match self.demo.settings.edition {
            Some(edition) => edition,
            None if images::pull_odoo_18()? => Edition::V18,
            None => Edition::V19,
        };
        match edition {
            Edition::V18 if !images::pull_odoo_18()? => {
                bail!("{} is gone and cannot be pulled", images::ODOO_18)
            }
            Edition::V18 => (),
            Edition::V19 => images::provide(&[images::ODOO, images::POSTGRES], false)?,
        }
        self.demo.settings.edition = Some(edition);
        self.demo.settings.save(&self.demo.folder)?;
        self.demo.say(&format!(
            "images: Odoo {} and {} ({})",
            edition.name(),
            images::POSTGRES,
            took(start)
        ));
        Ok(())
    }

    /// Builds, and keeps a copy in the demo's folder: a later build does not change what runs. True when the copy changed.
    fn binaries(&mut self, args: &Args) -> Result<bool> {
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

    fn hosts(&mut self) -> Result<()> {
        if self.demo.settings.is_single() {
            return Ok(());
        }
        let start = Instant::now();
        let hosts = self.demo.hosts()?;
        hosts.up(self.demo.settings.hosts)?;
        let edition = self.demo.settings.edition.unwrap_or(Edition::V19);
        hosts.load(
            "all",
            &[
                format!("odoo:{}", edition.name()),
                images::POSTGRES.to_owned(),
            ],
        )?;
        self.demo.say(&format!(
            "hosts: {} Docker daemons with images ({})",
            self.demo.settings.hosts,
            took(start)
        ));
        Ok(())
    }

    fn coordinator(&mut self, is_newer: bool) -> Result<()> {
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

    fn agents(&mut self, is_newer: bool) -> Result<()> {
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

    fn traefik(&mut self) -> Result<()> {
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

    /// Makes a program run with what `command` says now.
    pub(super) fn keep(
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

    /// `isyctl tenant create alfa`, unless it is there.
    fn tenant(&mut self) -> Result<()> {
        if succeeds(&mut self.demo.isyctl(&["tenant", "show", TENANT])) {
            self.demo.say(&format!("tenant {TENANT}: is there already"));
            return Ok(());
        }
        self.demo.say(&format!("isyctl tenant create {TENANT}"));
        let start = Instant::now();
        run(&mut self.demo.isyctl(&["tenant", "create", TENANT]))?;
        self.changes += 1;
        self.demo
            .say(&format!("tenant {TENANT}: created in {}", took(start)));
        Ok(())
    }

    /// `isyctl tenant verify alfa`, until Traefik and Prometheus have noticed the tenant.
    fn verify(&mut self) -> Result<()> {
        let start = Instant::now();
        let verified = wait_until(VERIFY_LIMIT, || {
            succeeds(&mut self.demo.isyctl(&["tenant", "verify", TENANT])) || {
                std::thread::sleep(VERIFY_PAUSE);
                false
            }
        });
        // Once more, for the person to see.
        run(&mut self.demo.isyctl(&["tenant", "verify", TENANT])).with_context(|| {
            format!(
                "tenant {TENANT} does not pass its checks after {}",
                took(start)
            )
        })?;
        self.demo.say(&format!(
            "tenant {TENANT}: verified from outside ({})",
            took(start)
        ));
        debug_assert!(verified, "it passed just now");
        Ok(())
    }
}

/// Data of a tenant that this demo did not make is never taken over, least of all that of a customer.
fn need_own_names(folder: &Path) -> Result<()> {
    let foreign = down::foreign(folder, TENANT)?;
    if !foreign.is_empty() {
        bail!(
            "this machine's Docker has {} already, and not from this demo. `cargo xtask demo --hosts 2` leaves it \
             alone: its hosts have Docker daemons of their own",
            foreign.join(", ")
        );
    }
    Ok(())
}

/// `isy-coordinator init`, once. The context is its last act, so without one the data is a beginning that was
/// interrupted, and nothing uses it yet.
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
    // By rename, so that an interrupted `init` is seen as one.
    let new = demo.path("admin.toml.new");
    fs::remove_file(&new).ok();
    init.arg("--context-file").arg(&new);
    output(&mut init)?;
    fs::rename(&new, demo.context()).context("`isy-coordinator init` wrote no context")?;
    demo.say("coordinator: its own CA, keys and database are made");
    Ok(())
}

impl Demo {
    /// What a shell needs to use `isyctl`.
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

    fn summary(&self) -> Result<()> {
        let credentials = output(&mut self.isyctl(&["tenant", "credentials", TENANT]))?;
        let (edge, ports) = (self.edge(), &self.settings);
        let env = self.path("env");
        let is_usual = self.folder == paths::root().join(super::FOLDER);
        let dir = if is_usual {
            String::new()
        } else {
            format!(" --dir {}", self.folder.display())
        };
        println!(
            "\nThe demo runs, after {}. Log in:\n\n{credentials}\n",
            took(self.start)
        );
        println!("  from this machine     curl -H 'Host: {DOMAIN}' {edge}/web/login");
        println!("  in a browser          add the line `127.0.0.1 {DOMAIN}` to /etc/hosts");
        println!(
            "  Traefik's dashboard   http://127.0.0.1:{}/dashboard/",
            ports.dashboard
        );
        println!(
            "  Prometheus            http://127.0.0.1:{}/query?g0.expr=up",
            ports.prometheus
        );
        println!(
            "  Alertmanager          http://127.0.0.1:{}",
            ports.alertmanager
        );
        if self.process(monitoring::GRAFANA).pid().is_some() {
            println!(
                "  Grafana               http://127.0.0.1:{}/dashboards",
                ports.grafana
            );
        }
        println!("\nGo on:\n");
        println!(
            "  . {}     # isyctl in PATH, ISYCTL_CONTEXT set",
            env.display()
        );
        println!("  isyctl tenant create beta");
        println!("  isyctl tenant list");
        println!("  isyctl events");
        println!("  cargo xtask demo status{dir}");
        println!("  cargo xtask demo --down{dir}     # removes it all, tenants included");
        Ok(())
    }
}

pub(super) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(super) fn deployable(file: &str) -> Result<String> {
    fs::read_to_string(paths::root().join(file)).with_context(|| format!("cannot read {file}"))
}

/// Builds the three programs; returns the folder they are in.
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

/// Copies a program when it is another one than the copy; true when it was.
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

/// With `sudo cargo xtask demo`, the person who typed it shall be able to use `isyctl`.
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
        // A convenience: without it, root can use the file.
        std::os::unix::fs::chown(file, Some(uid), Some(gid)).ok();
    }
}

//! Brings the demo up, step by step. Programs that stay running: `programs`, and `monitoring` beside this module.

mod programs;

use super::settings::{Edition, Settings, need_free};
use super::{Args, DOMAIN, Demo, TENANT, down, monitoring};
use crate::cmd::{output, run, run_and_read, succeeds, took, wait_until};
use crate::{images, paths, setup};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// Traefik polls routes every second; Prometheus finds a new target within 5 s and scrapes it 2 s later.
const VERIFY_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two attempts to verify.
const VERIFY_PAUSE: Duration = Duration::from_secs(2);

/// Gets everything running, and prints how to continue.
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
        // Once something was started, the earlier choice is binding; before that, choose anew.
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

/// The work in progress, and how many changes it made.
pub(super) struct Up {
    pub(super) demo: Demo,
    changes: u32,
}

impl Up {
    fn all(&mut self, args: &Args) -> Result<()> {
        // Better to fail now than after minutes of building.
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

    /// Odoo 18 if a registry has it, else Odoo 19 built from Debian packages.
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
            Edition::V19 => images::provide(&[images::ODOO, edition.postgres()], false)?,
        }
        self.demo.settings.edition = Some(edition);
        self.demo.settings.save(&self.demo.folder)?;
        self.demo.say(&format!(
            "images: Odoo {} and {} ({})",
            edition.name(),
            edition.postgres(),
            took(start)
        ));
        Ok(())
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
                edition.postgres().to_owned(),
            ],
        )?;
        self.demo.say(&format!(
            "hosts: {} Docker daemons with images ({})",
            self.demo.settings.hosts,
            took(start)
        ));
        Ok(())
    }

    /// Runs `isyctl tenant create alfa`, unless the tenant exists.
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

    /// Repeats `isyctl tenant verify alfa` until Traefik and Prometheus know the tenant; then all of it, which prints a page, too.
    fn verify(&mut self) -> Result<()> {
        let start = Instant::now();
        let verified = wait_until(VERIFY_LIMIT, || {
            let outside = ["tenant", "verify", TENANT, "--outside"];
            succeeds(&mut self.demo.isyctl(&outside)) || {
                std::thread::sleep(VERIFY_PAUSE);
                false
            }
        });
        // With the output shown.
        let said = run_and_read(&mut self.demo.isyctl(&["tenant", "verify", TENANT]));
        let said = said.with_context(|| {
            format!(
                "tenant {TENANT} does not pass its checks after {}",
                took(start)
            )
        })?;
        self.demo.say(&format!(
            "tenant {TENANT}: verified from outside, {} ({})",
            printed(&said),
            took(start)
        ));
        debug_assert!(verified, "it passed just now");
        Ok(())
    }
}

/// Whether a page was printed, by the table of checks. What was skipped was not.
fn printed(table: &str) -> &'static str {
    let mut rows = table.lines().map(str::split_whitespace);
    let row = rows.find_map(|mut cells| (cells.next() == Some("print")).then(|| cells.next()));
    match row.flatten() {
        Some("ok") => "and a page was printed",
        _ => "but no page was printed: the check `print` was skipped",
    }
}

/// Refuses to take over data of a tenant that this demo did not make: it could be a customer's.
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

impl Demo {
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

#[cfg(test)]
mod tests {
    use super::printed;

    /// Fails if the demo claims what its check has not seen.
    #[test]
    fn a_page_is_printed_when_the_check_says_so() {
        let table =
            |row: &str| format!("CHECK  RESULT  TOOK  DETAIL\ndns    skip    -     x\n{row}\n");
        let ok = table("print  ok      4.15s  2 pages, 8 KiB: text, style, letterhead");
        assert_eq!(printed(&ok), "and a page was printed");
        for row in [
            "print  skip    -     no wkhtmltopdf",
            "prints  ok  1s  x",
            "",
        ] {
            assert!(
                printed(&table(row)).contains("no page was printed"),
                "{row}"
            );
        }
    }
}

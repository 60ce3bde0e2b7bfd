//! Where the demo's agents run, and how they join.

use super::process::without_foreign;
use super::{Demo, said};
use crate::cmd::{cmd, output, succeeds};
use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// Where an agent runs: on this machine, or in a test host's network.
pub(super) struct Site {
    name: String,
    pub(super) advertise: String,
    pub(super) docker: String,
    host: Option<crate::hosts::Host>,
}

impl Site {
    pub(super) fn of(demo: &Demo, name: &str) -> Result<Self> {
        if demo.settings.is_single() {
            let docker = std::env::var("DOCKER_HOST")
                .unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
            return Ok(Self {
                name: name.to_owned(),
                advertise: "127.0.0.1".to_owned(),
                docker,
                host: None,
            });
        }
        let host = demo.hosts()?.host(name)?;
        let docker = format!("unix://{}", host.socket().display());
        Ok(Self {
            name: name.to_owned(),
            advertise: host.ip(),
            docker,
            host: Some(host),
        })
    }

    /// `isy-agent ARGS… --data-dir …` at that site.
    pub(super) fn agent(
        &self,
        demo: &Demo,
        args: &[&str],
        more: impl FnOnce(&mut Command),
    ) -> Command {
        let program = demo.path("bin/isy-agent");
        let mut command = match &self.host {
            Some(host) => host.exec(program, args),
            None => cmd(&program.to_string_lossy(), args),
        };
        without_foreign(&mut command);
        more(&mut command);
        command
            .arg("--data-dir")
            .arg(demo.path("agents").join(&self.name));
        command
    }
}

impl Demo {
    /// Lets the host join unless it has; true if it joined now.
    pub(super) fn join(&self, site: &Site) -> Result<bool> {
        let data = self.path("agents").join(&site.name);
        if data.join("agent.toml").exists() {
            return Ok(false);
        }
        // The join was interrupted. Its key goes with this folder, so the coordinator must forget the host's name.
        if data.exists() {
            fs::remove_dir_all(&data)
                .with_context(|| format!("cannot remove {}", data.display()))?;
        }
        if succeeds(&mut self.isyctl(&["host", "show", &site.name])) {
            output(&mut self.isyctl(&["host", "remove", &site.name, "--yes"]))?;
        }
        let mut make = vec![
            "host", "token", "--host", &site.name, "--ttl", "10m", "-o", "name",
        ];
        // With one host, it is the coordinator's own machine.
        if self.settings.is_single() {
            make.push("--same-machine");
        }
        let token = output(&mut self.isyctl(&make))?;
        let file = self.path("run").join(format!("token-{}", site.name));
        fs::write(&file, "")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        fs::write(&file, token)?;
        let coordinator = format!("{}:{}", self.settings.address(), self.settings.enroll);
        let args = [
            "join",
            "--coordinator",
            &coordinator,
            "--name",
            &site.name,
            "--advertise",
            &site.advertise,
        ];
        let joined = output(&mut site.agent(self, &args, |command| {
            command.arg("--token-file").arg(&file);
        }));
        fs::remove_file(&file)?;
        joined.with_context(|| format!("{} cannot join", site.name))?;
        self.say(&format!(
            "{}: joined with a single-use token, address {}",
            site.name, site.advertise
        ));
        Ok(true)
    }

    pub(super) fn host_is_ready(&self, host: &str) -> bool {
        said(&mut self.isyctl(&["host", "show", host, "-o", "yaml"]))
            .is_some_and(|text| text.lines().any(|line| line.trim() == "state: ready"))
    }
}

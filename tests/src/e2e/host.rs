//! A host of a cell: its Docker Engine, its agent, its network.
//!
//! Not here: how it is made (cell, lane).

use std::{path::PathBuf, process::Command};

use super::{
    binary,
    docker::Docker,
    process::{Daemon, run},
};

/// A host with an agent.
#[derive(Debug)]
pub struct Host {
    /// `h1`, `h2` and so on.
    pub name: String,
    pub docker: Docker,
    /// The address that it advertises for its tenants.
    pub address: String,
    pub data: PathBuf,
    /// The agent, if it runs.
    pub agent: Option<Daemon>,
    pub(super) namespace: PathBuf,
}

impl Host {
    pub(super) fn end_agent(&mut self) {
        self.agent = None;
        let mut stop = Command::new(binary("isy-agent"));
        let _ = run(stop.args(["relay", "--stop", "--data-dir"]).arg(&self.data));
    }
}

/// Closes a host's port to other hosts until it is dropped.
#[derive(Debug)]
pub struct Closed {
    namespace: PathBuf,
}

impl Host {
    /// A program of this machine in the host's network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display()));
        command.arg(program);
        command
    }

    /// A program of this machine in a container's network, as somebody who has taken the container over would run it.
    pub fn command_inside(&self, container: &str, program: &str) -> Command {
        let pid = self.docker.inspect(container, "{{.State.Pid}}");
        assert!(
            pid.parse::<u32>().is_ok_and(|pid| pid > 0),
            "{container} does not run"
        );
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net"));
        command.arg(program);
        command
    }

    /// Drops what comes to a TCP port from other machines, as a firewall between two sites does.
    pub fn close(&self, port: u16) -> Closed {
        let namespace = self.namespace.clone();
        let closed = Closed { namespace };
        let rule = format!("tcp dport {port} iifname != \"lo\" drop");
        for command in [
            "add table inet isyone_test",
            "add chain inet isyone_test in { type filter hook input priority -300; }",
            &format!("add rule inet isyone_test in {rule}"),
        ] {
            run(closed.nft().arg(command)).ok();
        }
        closed
    }
}

impl Closed {
    fn nft(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display()));
        command.arg("nft");
        command
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        // The namespace outlives the test.
        let _ = self
            .nft()
            .args(["delete", "table", "inet", "isyone_test"])
            .status();
    }
}

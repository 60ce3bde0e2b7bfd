//! The coordinator in its own process, with a fleet of running tenants, so that its cost can be measured separately and
//! so that it can be killed.
//!
//! The child is this program again (`--coordinator`). It prints where it listens, then takes orders: a line with a
//! tenant's number suspends or resumes that tenant; it answers when the change is stored.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use isyone_proto::ids::TenantName;

use crate::{process::Watched, publish::fleet::Fleet};

/// Runs as that process until the other end of the pipe closes. `of` is `TENANTS,SHARDS`.
pub(crate) fn serve(of: &str) -> Result<()> {
    let (tenants, shards) = of.split_once(',').context("TENANTS,SHARDS")?;
    let fleet = Fleet::start(tenants.parse()?, shards.parse()?)?;
    println!("{}", fleet.running.http);
    for line in std::io::stdin().lines() {
        let tenant: usize = line?.parse()?;
        println!(
            "{}",
            fleet.toggle(fleet.tenants.get(tenant).context("no such tenant")?)?
        );
    }
    fleet.stop();
    Ok(())
}

pub(super) struct Coordinator {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Address of its HTTP port.
    pub(super) http: SocketAddr,
    pub(super) watched: Watched,
    /// For each tenant, whether it runs.
    pub(super) runs: Vec<bool>,
}

impl Coordinator {
    pub(super) fn start(tenants: usize, shards: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--coordinator")
            .arg(format!("{tenants},{shards}"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.context("pipes were asked for")?;
        let mut answers = BufReader::new(answers);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let http = line
            .trim()
            .parse()
            .with_context(|| format!("the coordinator said {line:?}"))?;
        let watched = Watched::new(child.id())?;
        Ok(Self {
            child,
            orders,
            answers,
            http,
            watched,
            runs: vec![true; tenants],
        })
    }

    pub(super) fn name(tenant: usize) -> Result<TenantName> {
        Ok(format!("tenant-{tenant}").parse()?)
    }

    /// Suspends a running tenant, resumes a suspended one; returns whether it runs now.
    pub(super) fn toggle(&mut self, tenant: usize) -> Result<bool> {
        writeln!(self.orders, "{tenant}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let runs: bool = line.trim().parse().context("the coordinator ended")?;
        ensure!(
            runs != self.runs[tenant],
            "tenant {tenant}: nothing was changed"
        );
        self.runs[tenant] = runs;
        Ok(runs)
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&mut self) {
        // An error means that it is dead already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
    }
}

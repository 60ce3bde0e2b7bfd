//! The process of simulated agents: real TLS, the real protocol, and the real agent's logic for what to report and when
//! to reconnect. There is no Docker, and every tenant immediately is as planned. Plans and the list of hosts outlive a session, as on
//! a real agent's disk.
//!
//! Each agent has a fixed moment in the report interval, evenly spread. A report is owed until it, or a later one of
//! the same agent, is acknowledged.

mod agent;
mod counts;
mod hosts;

use std::{io::Write as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use isyone_proto::tls;
use tokio::{sync::mpsc, time::Instant};

use super::wire::{Line, Papers};
use agent::Agent;
use counts::Counts;
use hosts::KnownHosts;

/// How often the bench gets a status.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Runs the agents of a papers file until the bench closes our standard input.
pub(crate) fn run(papers: &Path) -> Result<()> {
    raise_file_limit();
    let text = std::fs::read(papers).with_context(|| papers.display().to_string())?;
    let papers: Papers = serde_json::from_slice(&text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let all = Arc::new(Counts::default());
        let (lines, told) = mpsc::channel(1024);
        let fleet = Fleet {
            count: papers.agents.len(),
            begin: Instant::now(),
            endpoint: papers.endpoint,
            hosts: KnownHosts::of(&papers.hosts),
        };
        let fleet = Arc::new(fleet);
        let per_second = f64::from(papers.connects_per_second.max(1));
        for (index, identity) in papers.agents.iter().enumerate() {
            let config =
                tls::client_config(&papers.ca_pem, &identity.certificate_pem, &identity.key_pem)?;
            let config = Arc::new(ArcSwap::new(config));
            let agent = Agent::new(index, fleet.clone(), config, all.clone(), lines.clone());
            tokio::spawn(agent.run(Duration::from_secs_f64(index as f64 / per_second)));
        }
        let telling = tokio::spawn(tell(told, all));
        // Ends with the bench, however the bench ends.
        let closed = tokio::task::spawn_blocking(|| {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
        });
        tokio::select! { _ = closed => {} _ = telling => {} }
        Ok::<_, anyhow::Error>(())
    })?;
    runtime.shutdown_background();
    Ok(())
}

/// Every agent needs an open file.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised, the bench sees agents that do not connect.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

async fn tell(mut told: mpsc::Receiver<Line>, all: Arc<Counts>) {
    let mut every = tokio::time::interval(TELL_EVERY);
    loop {
        let line = tokio::select! {
            line = told.recv() => line,
            _ = every.tick() => Some(Line::Status(all.status())),
        };
        let Some(Ok(text)) = line.as_ref().map(serde_json::to_string) else {
            return;
        };
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

struct Fleet {
    count: usize,
    begin: Instant,
    endpoint: String,
    hosts: KnownHosts,
}

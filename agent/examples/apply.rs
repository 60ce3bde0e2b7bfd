//! Applies a plan file to the local Docker without a coordinator, for trying things by hand.
//!
//!   apply sample NAME…            print a plan for these tenants
//!   apply run DATA-DIR PLAN.json  make it so, print each step, end when all is as planned
//!   apply watch DATA-DIR PLAN.json  the same, and go on

#![expect(
    clippy::disallowed_methods,
    reason = "whoever runs it names the file with the plan"
)]

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use isyone_agent::{
    base::config::DataDir,
    docker::engine::Engine,
    host::{Host, Pace, board::BoardEntry, ledger::InForce, probe::NetProbe},
    tenant::reconcile,
    testing,
};
use isyone_proto::plan::HostPlan;
use isyone_proto::report::TenantProgress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sample", ref names @ ..] => {
            let mut tenants: Vec<_> = names
                .iter()
                .map(|name| testing::tenant_plan(name))
                .collect();
            tenants.sort_by(|a, b| a.name.cmp(&b.name));
            println!(
                "{}",
                serde_json::to_string_pretty(&testing::host_plan(1, tenants))?
            );
            Ok(())
        }
        ["run", data, plan] => run(Path::new(data), Path::new(plan), false).await,
        ["watch", data, plan] => run(Path::new(data), Path::new(plan), true).await,
        _ => anyhow::bail!(
            "usage: apply sample NAME… | run DATA-DIR PLAN.json | watch DATA-DIR PLAN.json"
        ),
    }
}

async fn run(data: &Path, plan: &Path, go_on: bool) -> anyhow::Result<()> {
    let plan: HostPlan =
        serde_json::from_slice(&std::fs::read(plan)?).context("the plan cannot be read")?;
    let data = DataDir::new(data);
    data.create()?;
    let engine = Arc::new(Engine::new("unix:///var/run/docker.sock"));
    let advertise = std::env::var("ADVERTISE")
        .unwrap_or_else(|_| "127.0.0.1".to_owned())
        .parse()?;
    let host = Arc::new(Host::new(
        engine,
        Arc::new(NetProbe),
        data,
        advertise,
        Pace::default(),
    )?);
    let count = plan.tenants.len();
    let (_plans, receiver) = watch::channel(InForce {
        plan: Some(Arc::new(plan)),
        stale: Vec::new(),
        unasked: false,
    });
    let stop = CancellationToken::new();
    let begin = std::time::Instant::now();
    let task = tokio::spawn(reconcile::run(host.clone(), receiver, stop.clone()));
    let mut printed = String::new();
    loop {
        let _ = tokio::time::timeout(Duration::from_millis(500), host.board.changed()).await;
        let entries = host.board.entries();
        let text = told(&entries);
        let done = entries.len() == count
            && entries
                .iter()
                .all(|e| e.status.progress == TenantProgress::Converged);
        if text != printed
            && (done
                || go_on
                || entries
                    .iter()
                    .any(|e| e.status.progress == TenantProgress::Failing))
        {
            println!(
                "{:.3} s, docker: {:?}\n{text}",
                begin.elapsed().as_secs_f64(),
                host.board.docker_error()
            );
            printed = text;
        }
        if done && !go_on {
            stop.cancel();
            return Ok(task.await?);
        }
    }
}

/// Each tenant's state, and its steps with the time that they took.
fn told(entries: &[BoardEntry]) -> String {
    let mut text = String::new();
    for entry in entries {
        text += &format!(
            "{} {:?} {}\n",
            entry.name, entry.status.progress, entry.status.message
        );
        for step in &entry.status.steps {
            let took = step
                .start_ms
                .zip(step.end_ms)
                .map(|(a, b)| format!("{} ms", b - a))
                .unwrap_or_default();
            text += &format!(
                "    {:<15} {:?} {took} {}\n",
                step.name, step.state, step.detail
            );
        }
    }
    text
}

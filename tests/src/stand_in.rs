//! `isyone-stand-in ROLE …`: the three programs as separate processes without Docker. `coordinator` and `isyctl` are
//! the real command lines; `agent DATA-DIR DOCKER-DIR` is a real agent over a fake engine. For tests that need whole
//! processes.

use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};

use isyone_agent::{
    agent::{Agent, AgentParts, PortAddress},
    base::config::DataDir,
    host::Pace,
    jobs::fetch::Reserve,
    testing::fake_docker::FakeDocker,
};
use isyone_telemetry::Format;
use tokio::signal::unix::{SignalKind, signal};

/// The same as the real agent's.
const LAST_TRACES: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let role = arguments
        .first()
        .and_then(|role| role.to_str())
        .unwrap_or_default()
        .to_owned();
    match (role.as_str(), arguments.as_slice()) {
        ("coordinator", _) => isyone_coordinator::program::main(std::mem::take(&mut arguments)),
        ("isyctl", _) => ExitCode::from(isyone_ctl::main(std::mem::take(&mut arguments))),
        ("agent", [_, data, docker]) => agent(Path::new(data), Path::new(docker)),
        _ => {
            eprintln!("isyone-stand-in: what is `{role}`?");
            ExitCode::from(2)
        }
    }
}

fn agent(data: &Path, docker: &Path) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.expect("threads can be started");
    let telemetry = {
        let _inside = runtime.enter();
        isyone_telemetry::start("isy-agent", Some(("info".into(), Format::Human)))
    };
    runtime.block_on(async {
        let engine = FakeDocker::new(docker, 1);
        let parts = AgentParts {
            data: DataDir::new(data),
            docker: engine.clone(),
            probe: engine,
            pace: Pace::hasty(),
            tenants_dir: None,
            http: None,
            metrics: PortAddress::Off,
            peer: PortAddress::Off,
            copy_rate_bytes_per_s: 0,
            copy_reserve: Reserve::NONE,
            follows: false,
            relay: None,
            firewall: None,
        };
        let agent = Agent::start(parts).expect("the agent starts");
        signal(SignalKind::terminate())
            .expect("SIGTERM")
            .recv()
            .await;
        agent.stop().await;
    });
    telemetry.finish(LAST_TRACES);
    ExitCode::SUCCESS
}

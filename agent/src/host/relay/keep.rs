//! Keeps a relay running: starts one where none answers, and a successor where another version does. A relay is never stopped from
//! here: it serves visitors while the agent is stopped, killed or replaced.
//!
//! Not here: what a relay is told (the parent), its program (the room `relay`).

use std::{io, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use isyone_relay::Health;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Admin, Host, RelayRoutes};
use crate::base::{clock::backoff, fsutil};

/// Between looks: one that has died is there again within two seconds.
const LOOK: Duration = Duration::from_secs(1);
/// Where a directory is new: a relay of before looks for it each second, and is found there then.
const FOUND_AGAIN: Duration = Duration::from_secs(2);
/// How long a new relay may take to answer: reading its routes, and taking over from another.
const START: Duration = Duration::from_secs(15);
/// Between looks at whether it does.
const START_LOOK: Duration = Duration::from_millis(50);
/// Longest pause after a start that failed.
const START_AGAIN: Duration = Duration::from_secs(30);
/// What is wrong for so many looks is shown: ports change hands within a second or two.
const PATIENCE: u32 = 5;
/// Of a relay's log, before the next one begins a new file.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// Subject of our warning on the host's board.
const WARNING: &str = "relay";

/// How a relay is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program. By its path: a newer one may lie there by then.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it logs.
    pub log: PathBuf,
    /// Which version it was when the agent started: relays of others have a successor.
    pub version: String,
}

impl Program {
    /// Starts it, in no session of ours: it makes one for itself.
    fn start(&self) -> io::Result<Child> {
        let log = fsutil::open_log(&self.log, MAX_LOG_BYTES)?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::from(log));
        // What the service manager tells the agent is not for it.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.spawn()
    }
}

/// Who keeps a relay running.
#[derive(Debug, Clone)]
pub enum Keeper {
    /// The agent.
    Agent(Program),
    /// The service manager; the agent says when there is none, or one of another version than this.
    Unit(String),
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// Starts that failed in a row, and when the next may be.
    failures: u32,
    not_before: Option<Instant>,
    /// The other version that a successor was started for: a newer program may lie at our path, and once is enough.
    succeeded: Option<String>,
    /// Looks in a row that found something wrong.
    wrong: u32,
}

impl Keeper {
    /// Runs until `stop`; the relay goes on.
    pub async fn run(self, host: Arc<Host>, stop: CancellationToken) {
        let mut seen = Seen::default();
        loop {
            let wrong = self.look(&host.relay, &mut seen).await;
            seen.wrong = match wrong {
                None => 0,
                Some(_) => seen.wrong.saturating_add(1),
            };
            match wrong {
                Some(wrong) if seen.wrong >= PATIENCE => host.board.set_warning(WARNING, &wrong),
                Some(_) => {}
                None => host.board.set_warning(WARNING, ""),
            }
            let pause = match self.waits(&host.relay) {
                true => FOUND_AGAIN,
                false => LOOK,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// One that is started now would have nobody's routes, and one that runs goes on.
    fn waits(&self, relay: &RelayRoutes) -> bool {
        matches!(self, Self::Agent(_)) && !relay.has_begun()
    }

    /// Looks, and does what is to be done; returns what is wrong.
    async fn look(&self, relay: &RelayRoutes, seen: &mut Seen) -> Option<String> {
        let admin = relay.admin();
        if self.waits(relay) {
            return None;
        }
        match (admin.health().await, self) {
            (Ok(health), Self::Agent(program)) if is_other(&health, &program.version, seen) => {
                seen.succeeded = Some(health.version.clone());
                tracing::info!(
                    version = health.version,
                    "a relay of another version runs: a successor takes over"
                );
                self.begin(program, admin, seen, Some(health.pid)).await
            }
            (Ok(health), _) => faults(&health, self),
            (Err(e), Self::Agent(program)) if Admin::is_nobody(&e) => {
                tracing::warn!("no relay runs: one is started");
                self.begin(program, admin, seen, None).await
            }
            (Err(e), Self::Unit(_)) if Admin::is_nobody(&e) => Some(
                "no relay runs, so no visitor reaches a tenant of this host: systemctl start \
                 isy-agent-relay"
                    .to_owned(),
            ),
            (Err(e), _) => Some(format!(
                "the relay does not say how it does ({e}); if visitors are not served, kill its process: \
                 another one is started"
            )),
        }
    }

    /// Starts a relay, and waits until it answers in place of `before`.
    async fn begin(
        &self,
        program: &Program,
        admin: &Admin,
        seen: &mut Seen,
        before: Option<u32>,
    ) -> Option<String> {
        if seen.not_before.is_some_and(|at| Instant::now() < at) {
            return Some(not_started(program, "it was tried a moment ago"));
        }
        let why = match program.start() {
            Ok(child) => started(child, admin, before).await,
            Err(e) => Some(e.to_string()),
        };
        let Some(why) = why else {
            *seen = Seen {
                succeeded: seen.succeeded.take(),
                ..Seen::default()
            };
            return None;
        };
        let text = not_started(program, &why);
        tracing::error!("{text}");
        seen.not_before = Some(Instant::now() + backoff(seen.failures, LOOK, START_AGAIN));
        seen.failures = seen.failures.saturating_add(1);
        Some(text)
    }
}

fn not_started(program: &Program, why: &str) -> String {
    format!(
        "the relay cannot be started ({why}), so no visitor reaches a tenant of this host; see {}",
        program.log.display()
    )
}

/// Whether another version runs that nobody was started for yet.
fn is_other(health: &Health, version: &str, seen: &Seen) -> bool {
    !health.is_draining
        && health.version != version
        && seen.succeeded.as_ref() != Some(&health.version)
}

/// What a relay that runs says is wrong.
fn faults(health: &Health, keeper: &Keeper) -> Option<String> {
    if let Keeper::Unit(version) = keeper
        && health.version != *version
    {
        return Some(format!(
            "the relay is of version {}, and this agent of {version}: systemctl restart isy-agent-relay",
            health.version
        ));
    }
    let first = health.faults.first()?;
    Some(format!("the relay says: {first}"))
}

/// Waits until the new relay answers; otherwise why it does not.
async fn started(mut child: Child, admin: &Admin, before: Option<u32>) -> Option<String> {
    let end = Instant::now() + START;
    let why = loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(format!("it ended with {status}")),
            Ok(None) => {}
            Err(e) => break Some(e.to_string()),
        }
        let answers = admin.health().await;
        if answers.is_ok_and(|health| Some(health.pid) != before) {
            break None;
        }
        if Instant::now() >= end {
            // Nor must it begin to when the next one has been started.
            let _ = child.start_kill();
            break Some(format!("it does not answer after {} s", START.as_secs()));
        }
        sleep(START_LOOK).await;
    };
    // It outlives us; while we are here somebody must hear its end.
    tokio::spawn(async move { child.wait().await });
    why
}

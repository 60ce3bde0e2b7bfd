//! The bench's end of the process of simulated agents: starts it, reads its lines, stops it.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::wire::{Line, Status, within};

/// What has been read so far.
#[derive(Debug, Default)]
struct Heard {
    status: Status,
    /// By tenant: when its host first held the plan that restarts it.
    restarts: HashMap<String, u64>,
}

pub(super) struct Swarm {
    child: Child,
    heard: Arc<Mutex<Heard>>,
    count: usize,
}

impl Swarm {
    /// Starts this program again, as `count` agents.
    pub(super) fn start(papers: &Path, count: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--agents")
            .arg(papers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .context("the simulated agents do not start")?;
        let lines = child.stdout.take().context("no pipe")?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (of, reader) = (heard.clone(), BufReader::new(lines));
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str::<Line>(&line) else {
                    continue;
                };
                let mut heard = lock(&of);
                match line {
                    Line::Status(status) => heard.status = status,
                    Line::Restart { tenant, at_ns } => {
                        heard.restarts.entry(tenant).or_insert(at_ns);
                    }
                }
            }
        });
        Ok(Self {
            child,
            heard,
            count,
        })
    }

    pub(super) fn status(&self) -> Status {
        lock(&self.heard).status.clone()
    }

    /// When this tenant's host first held the plan that restarts it.
    pub(super) fn restarted_at(&self, tenant: &str) -> Option<u64> {
        lock(&self.heard).restarts.get(tenant).copied()
    }

    /// Waits until every agent has a plan and a session with an acknowledged report; returns how long that took.
    pub(super) fn wait_for_all(&self, limit: Duration) -> Result<Duration> {
        let begin = Instant::now();
        let all = |s: &Status| {
            s.heard == self.count && s.connected == self.count && s.planned == self.count
        };
        let mut told = Instant::now();
        let done = within(limit, || {
            let status = self.status();
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                eprintln!(
                    "  {:.0} s: {} of {} heard, the longest after {} ms",
                    begin.elapsed().as_secs_f64(),
                    status.heard,
                    self.count,
                    status.longest_owed_ms
                );
            }
            all(&status).then_some(())
        });
        if done.is_none() {
            bail!(
                "of {} agents not all are connected after {limit:?}: {:?}",
                self.count,
                self.status()
            );
        }
        Ok(begin.elapsed())
    }

    /// Waits until no agent has a session with an acknowledged report.
    pub(super) fn wait_for_none(&self, limit: Duration) -> Result<()> {
        within(limit, || (self.status().heard == 0).then_some(()))
            .context("agents do not notice the coordinator's death")
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

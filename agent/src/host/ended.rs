//! Ends a command in a container whose client has gone. The engine has no call for that, so the command's process group is signalled
//! from the host, after making sure that it is the container's.
//!
//! Not here: which commands (link, backup).

use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::sleep;

use crate::{base::kernel, docker::Docker};

/// Between SIGHUP and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// Ends it: SIGHUP, then SIGKILL if it is still running.
pub async fn end_command(docker: &dyn Docker, container: &str, id: &str) {
    for (signal, grace) in [(Signal::HUP, GRACE), (Signal::KILL, Duration::ZERO)] {
        let (state, found) = match tokio::join!(docker.exec_state(id), docker.container(container))
        {
            (Ok(state), Ok(Some(found))) if state.running => (state, found),
            _ => return,
        };
        // The pid may be another machine's (remote engine) or reused: signal only a process of this very container.
        let Some(pid) = Pid::from_raw(state.pid).filter(|_| kernel::belongs(state.pid, &found.id))
        else {
            return tracing::warn!(
                container,
                "a command left behind by its client could not be ended"
            );
        };
        // The engine starts each command in a session of its own, so its process group includes its children.
        if rustix::process::kill_process_group(pid, signal).is_err() {
            let _ = rustix::process::kill_process(pid, signal); // it may have ended in between
        }
        sleep(grace).await;
    }
}

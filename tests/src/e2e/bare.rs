//! One Docker host for tests, without coordinator and agent: for driving the agent's library, or Docker's own tools,
//! against a real engine.
//!
//! Not here: a whole isyone (cell). Both use the same hosts, so only one of them can exist at a time.

use std::path::PathBuf;

use super::{cell::hosts_of, docker::Docker, lane::Lane};

/// The host. Dropping it removes what is on it, except images.
#[derive(Debug)]
pub struct Bare {
    pub docker: Docker,
    pub address: String,
    lane: Lane,
    /// Its network namespace; its containers' addresses are reachable only from there.
    pub namespace: PathBuf,
}

impl Bare {
    /// Starts a host that has these images.
    pub fn start(images: &[&str]) -> Self {
        let lane = Lane::here();
        hosts_of(lane, &["up", "1"]).ok();
        let bare = Self {
            docker: Docker {
                socket: lane.hosts_state().join("h1/run/docker.sock"),
            },
            address: hosts_of(lane, &["ip", "h1"]).ok().trim().to_owned(),
            lane,
            namespace: lane.namespace("h1"),
        };
        bare.docker.clean();
        for image in images {
            if bare.docker.run(&["image", "inspect", image]).code != 0 {
                hosts_of(lane, &["load", "h1", image]).ok();
            }
        }
        bare
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        hosts_of(self.lane, &["down", "--keep-images"]);
    }
}

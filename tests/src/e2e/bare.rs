//! One Docker host for tests, without coordinator and agent: for driving the agent's library, or Docker's own tools,
//! against a real engine.
//!
//! Not here: a whole isyone (cell). Both use the same hosts, so only one of them can exist at a time.

use std::path::PathBuf;

use super::{
    cell::{hosts, hosts_state},
    docker::Docker,
};

/// The host. Dropping it removes what is on it, except images.
#[derive(Debug)]
pub struct Bare {
    pub docker: Docker,
    pub address: String,
    /// Its network namespace; its containers' addresses are reachable only from there.
    pub namespace: PathBuf,
}

impl Bare {
    /// Starts a host that has these images.
    pub fn start(images: &[&str]) -> Self {
        hosts(&["up", "1"]).ok();
        let bare = Self {
            docker: Docker {
                socket: hosts_state().join("h1/run/docker.sock"),
            },
            address: hosts(&["ip", "h1"]).ok().trim().to_owned(),
            namespace: PathBuf::from("/run/netns/isy78-h1"),
        };
        bare.docker.clean();
        for image in images {
            if bare.docker.run(&["image", "inspect", image]).code != 0 {
                hosts(&["load", "h1", image]).ok();
            }
        }
        bare
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        hosts(&["down", "--keep-images"]);
    }
}

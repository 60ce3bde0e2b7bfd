//! One Docker host of the tests' own without a coordinator and without an agent: for whoever drives the agent's library, or
//! Docker's own tools, against a real engine.
//!
//! Not here: a whole isyone (cell). Both use the same hosts, so there is one of them at a time.

use std::path::PathBuf;

use super::{
    cell::{hosts, hosts_state},
    docker::Docker,
};

/// The host; what is on it goes when this is dropped, images stay.
#[derive(Debug)]
pub struct Bare {
    pub docker: Docker,
    pub address: String,
    /// Its network namespace; the addresses of its containers are reached only from there.
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

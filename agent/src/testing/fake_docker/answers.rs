//! Whether the programs in containers answer.
//!
//! Not here: the engine's own calls (calls).

use tonic::async_trait;

use super::{FakeDocker, World};
use crate::{
    host::probe::Probe,
    plan::{
        container::{Container, LABEL_TENANT},
        stack::GEVENT_PORT,
    },
};

#[async_trait]
impl Probe for FakeDocker {
    async fn odoo(&self, odoo: &Container) -> std::result::Result<u32, String> {
        let tenant = odoo.label(LABEL_TENANT);
        let world = self.world();
        let runs = |name: &str| {
            world
                .containers
                .get(name)
                .is_some_and(|c| c.state == "running")
        };
        if world.unhealthy.contains(&odoo.name) || world.is_sick(&odoo.name) {
            return Err("told to be unhealthy".to_owned());
        }
        if runs(&odoo.name) && runs(&format!("postgres_{tenant}")) {
            Ok(1)
        } else {
            Err("connection refused".to_owned())
        }
    }

    async fn websockets(&self, odoo: &Container) -> std::result::Result<(), String> {
        self.answers(&odoo.name, &format!("{}:{GEVENT_PORT}", odoo.name))
    }

    async fn postgres(&self, postgres: &Container) -> std::result::Result<(), String> {
        self.answers(&postgres.name, &postgres.name)
    }
}

impl FakeDocker {
    /// An Odoo of this image starts, and never answers.
    pub fn set_sick(&self, image: &str) {
        self.world().sick.insert(image.to_owned());
    }

    /// Whether the container runs and its program `what` has not been set unhealthy.
    fn answers(&self, container: &str, what: &str) -> std::result::Result<(), String> {
        let world = self.world();
        let running = world
            .containers
            .get(container)
            .is_some_and(|c| c.state == "running");
        if running && !world.unhealthy.contains(what) {
            Ok(())
        } else {
            Err("connection refused".to_owned())
        }
    }
}

impl World {
    /// A container is made of an image by its id.
    fn is_sick(&self, container: &str) -> bool {
        let made = self.containers.get(container);
        made.is_some_and(|c| self.sick.contains(&c.spec.image))
    }
}

//! What befalls the programs in the fake engine's containers: they end, crash, hang or stop answering.
//!
//! Not here: what becomes of calls to the engine (fates).

use super::FakeDocker;
use crate::base::clock::now_ms;

impl FakeDocker {
    /// A container's program ends by itself.
    pub fn kill(&self, name: &str, code: i32) {
        if let Ok(container) = self.world().find(name) {
            (container.state, container.code) = ("exited", code);
        }
        self.tell(name, "die");
    }

    /// A container's program ends, and the engine starts it again.
    pub fn crash(&self, name: &str) {
        if let Ok(container) = self.world().find(name) {
            container.restarted_ms = Some(now_ms());
        }
        self.tell(name, "die");
        self.tell(name, "start");
    }

    /// The program in this container does not end when it is told to, or does again.
    pub fn set_stubborn(&self, name: &str, stubborn: bool) {
        let mut world = self.world();
        if stubborn {
            world.stubborn.insert(name.to_owned())
        } else {
            world.stubborn.remove(name)
        };
    }

    /// The program in this container stops answering, or answers again; `odoo_alfa:8072` is Odoo's websocket process
    /// alone.
    pub fn set_unhealthy(&self, name: &str, unhealthy: bool) {
        let mut world = self.world();
        if unhealthy {
            world.unhealthy.insert(name.to_owned())
        } else {
            world.unhealthy.remove(name)
        };
    }
}

//! What a look at a tenant found. Not here: looking (tenant).

use isyone_proto::plan::Role;

use crate::plan::{
    container::{Container, LABEL_UID, Network, Volume},
    facts::ImageFacts,
    home::{self, Home, HomeOwner, Lies},
};

/// What Docker, the disk and the programs say.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Odoo's image, when present.
    pub odoo_image: Option<ImageFacts>,
    /// PostgreSQL's image, when present.
    pub postgres_image: Option<ImageFacts>,
    pub network: Option<Network>,
    pub postgres_volume: Option<Volume>,
    pub odoo_volume: Option<Volume>,
    /// Where its data lies, or should lie; `None`: this machine does not see Docker's volumes.
    pub home: Option<Home>,
    /// `postgres_<t>`.
    pub postgres: Option<Container>,
    /// `odoo_<t>`.
    pub odoo: Option<Container>,
    /// `odoo_<t>_init`.
    pub init: Option<Container>,
    /// Somebody else's container that has one of these names; it is in none of the fields above.
    pub foreign: Option<String>,
    /// Why nothing that serves may be stopped for a restart or a change: the host's disk is full, so it might not come up again.
    pub host_full: Option<String>,
    /// Roles whose container does not start, in the same way again and again.
    pub stuck: Vec<Role>,
    /// The rendered files on disk are up to date.
    pub files_current: bool,
    /// The tenant's directory exists.
    pub directory: bool,
    /// A golden snapshot fits and can be copied.
    pub golden: bool,
    /// PostgreSQL's major version of the data; looked up when its container is to be created or started.
    pub data_major: Option<String>,
    /// PostgreSQL's data directory is there and nothing is in it; looked up likewise.
    pub pgdata_empty: bool,
    /// PostgreSQL answered just now.
    pub postgres_ready: bool,
    /// Connections to PostgreSQL that [`Action::EndSessions`](super::Action::EndSessions) would end; counted while its disk
    /// is full and its Odoo stopped. 0 where that is not known.
    pub strangers: u32,
    /// Modules that an installation which was cut off has left behind, as Odoo told lately.
    pub cut_off: u32,
    /// Its database says that the tenant is at another address, as Odoo told lately.
    pub elsewhere: bool,
    /// Milliseconds that `/web/health` took just now, or why it did not answer.
    pub odoo_health: Option<Result<u32, String>>,
}

impl Observed {
    pub fn container(&self, role: Role) -> Option<&Container> {
        match role {
            Role::Odoo => self.odoo.as_ref(),
            Role::Postgres => self.postgres.as_ref(),
        }
    }
    pub fn image(&self, role: Role) -> Option<&ImageFacts> {
        match role {
            Role::Odoo => self.odoo_image.as_ref(),
            Role::Postgres => self.postgres_image.as_ref(),
        }
    }
    pub fn volume(&self, role: Role) -> Option<&Volume> {
        match role {
            Role::Odoo => self.odoo_volume.as_ref(),
            Role::Postgres => self.postgres_volume.as_ref(),
        }
    }
    /// Where a role's data lies.
    pub fn lies(&self, role: Role) -> Lies {
        home::lies(self.home.as_ref(), self.volume(role), role)
    }
    /// Whether there is a home, and it is this tenant's.
    pub fn has_home(&self) -> bool {
        let home = self.home.as_ref();
        home.is_some_and(|home| home.owner == HomeOwner::This)
    }
    /// Sets aside containers without our label: whatever their names, they are not ours to stop or remove, and removing
    /// them could remove volumes with their data.
    pub fn set_foreign_aside(&mut self) {
        for slot in [&mut self.postgres, &mut self.odoo, &mut self.init] {
            if let Some(container) = slot.take_if(|c| c.label(LABEL_UID).is_empty()) {
                self.foreign = Some(container.name);
            }
        }
    }
    /// Whether the process of a role's container runs.
    pub fn is_up(&self, role: Role) -> bool {
        self.container(role).is_some_and(Container::is_up)
    }
    /// Whether there is neither container, network, volume nor home.
    pub fn is_absent(&self) -> bool {
        self.odoo.is_none()
            && self.postgres.is_none()
            && self.init.is_none()
            && self.network.is_none()
            && self.odoo_volume.is_none()
            && self.postgres_volume.is_none()
            && !self.has_home()
    }
}

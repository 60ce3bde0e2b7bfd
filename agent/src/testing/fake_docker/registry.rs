//! Images that move, appear and are gone: what somebody else does to tags, here and in a registry.
//!
//! Not here: pulling (calls).

use super::FakeDocker;
use crate::docker::Image;

impl FakeDocker {
    /// Somebody pulls a tag that means a new image by now; the old one stays, without a name. With a digest, a registry
    /// knows both, and has the old one under its digest.
    pub fn move_tag(&self, reference: &str, id: &str, digest: Option<&str>) {
        let mut world = self.world();
        let Some(old) = world.images.remove(reference) else {
            return;
        };
        let new = Image {
            id: id.to_owned(),
            digest: digest.unwrap_or(id).to_owned(),
            ..old.clone()
        };
        world.images.insert(old.id.clone(), old);
        world.images.insert(reference.to_owned(), new);
    }

    /// A registry has another image under this tag from now on: the next pull gets it, and the old one stays without a name.
    pub fn publish(&self, reference: &str, id: &str) {
        let mut world = self.world();
        let image = Image {
            digest: format!("{id}-pulled"),
            id: id.to_owned(),
            user: "odoo".to_owned(),
            ..Image::default()
        };
        world.published.insert(reference.to_owned(), image);
    }

    /// A registry has nothing under this tag any more.
    pub fn unpublish(&self, reference: &str) {
        self.world().registry.remove(reference);
    }

    /// The same of a PostgreSQL of this major version.
    pub fn publish_postgres(&self, reference: &str, major: u32) {
        let image = Image {
            id: format!("sha256:{reference}"),
            digest: format!("sha256:{reference}-pulled"),
            env: vec![format!("PG_MAJOR={major}")],
            ..Image::default()
        };
        self.world().published.insert(reference.to_owned(), image);
    }

    /// The Odoo in an image says that it is of this major version.
    pub fn set_odoo_major(&self, id: &str, major: u32) {
        self.world().odoo_majors.insert(id.to_owned(), major);
    }

    /// Somebody removes an image by force; a registry has it under this reference.
    pub fn remove_image(&self, id: &str, by: &str) {
        let mut world = self.world();
        let gone = world
            .images
            .iter()
            .find(|(_, image)| image.id == id)
            .map(|(name, _)| name.clone());
        if let Some(image) = gone.and_then(|name| world.images.remove(&name)) {
            world.pruned.insert(by.to_owned(), image);
        }
    }

    /// Somebody loads what was removed under this reference.
    pub fn put_back_image(&self, by: &str) {
        let mut world = self.world();
        if let Some(image) = world.pruned.remove(by) {
            world.images.insert(image.id.clone(), image);
        }
    }
}

//! The directories of destinations, and whether there is room in them.
//!
//! Not here: what lies in them.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use isyone_backup::store::Local;
use isyone_proto::{backup::RepositoryRef, ids::ShortName};
use uuid::Uuid;

use crate::base::config::Config;

/// A directory that hosts add to.
#[derive(Debug, Clone)]
pub struct Place {
    pub directory: PathBuf,
    /// Kept free there.
    pub reserve_bytes: u64,
}

/// All destinations on this machine.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<ShortName, Place>);

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

impl Place {
    /// # Errors
    /// The directory is not there.
    pub fn space(&self) -> io::Result<Space> {
        let found = rustix::fs::statvfs(&self.directory)?;
        Ok(Space {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    /// Whether so many bytes more leave the reserve free.
    ///
    /// # Errors
    /// The directory is not there.
    pub fn has_room(&self, bytes: u64) -> io::Result<bool> {
        let free = self.space()?.free_bytes;
        Ok(free >= bytes.saturating_add(self.reserve_bytes))
    }

    /// The tenants that have a repository there.
    ///
    /// # Errors
    /// The directory is not there, or cannot be read.
    pub fn tenants(&self) -> io::Result<Vec<Uuid>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            // What else lies there is not ours.
            found.extend(name.to_str().and_then(canonical));
        }
        Ok(found)
    }

    /// The directory of a tenant's repository.
    pub fn repository(&self, tenant: Uuid) -> PathBuf {
        self.directory.join(tenant.to_string())
    }
}

/// A uid as we write it, and in no other way: what it names is removed one day.
fn canonical(name: &str) -> Option<Uuid> {
    let uid: Uuid = name.parse().ok()?;
    (uid.to_string() == name).then_some(uid)
}

impl Places {
    /// The directories of a configuration. Those below the data directory are made; another one may be a disk that is not mounted.
    pub fn open(config: &Config) -> Self {
        let mut places = BTreeMap::new();
        for (name, destination) in &config.backup.destinations {
            let (directory, is_ours) = destination.directory(&config.data_dir);
            let made = match is_ours && config.backup.enabled {
                true => make(&directory),
                false => fs::metadata(&directory).map(drop),
            };
            if let Err(error) = made
                && config.backup.enabled
            {
                tracing::error!(destination = %name, directory = %directory.display(), %error, "a destination of backups is not there: nothing is backed up there until it is");
            }
            let reserve_bytes = destination.reserve.get();
            places.insert(
                name.clone(),
                Place {
                    directory,
                    reserve_bytes,
                },
            );
        }
        Self(places)
    }

    pub fn get(&self, name: &ShortName) -> Option<&Place> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ShortName, &Place)> {
        self.0.iter()
    }

    /// A tenant's repository; `None` for a destination that is not on this machine.
    pub fn local(&self, of: &RepositoryRef) -> Option<Local> {
        let place = self.get(&of.destination)?;
        Some(Local::new(place.repository(of.tenant)))
    }
}

fn make(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_would_write_is_a_repository() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            directory: folder.path().join("backups"),
            reserve_bytes: 0,
        };
        assert!(place.tenants().is_err() && place.has_room(1).is_err());
        make(&place.directory).unwrap();
        let uid = Uuid::from_u128(7);
        for name in [
            uid.to_string(),
            uid.simple().to_string(),
            "lost+found".to_owned(),
        ] {
            fs::create_dir(place.directory.join(name)).unwrap();
        }
        assert_eq!(place.tenants().unwrap(), [uid]);
        assert!(place.has_room(1).unwrap() && !place.has_room(u64::MAX).unwrap());
    }
}

//! A tenant's home: the directory of this host that its data lies in. Docker's volumes are records that point there.
//!
//! A volume's name is what containers mount, and `docker system prune` may take the name at any time when no container
//! holds it; the data stays, because Docker only removes what lies in its own directories. This file says, from what was
//! found, where a role's data lies and whether its record says so. Pure. Not here: the directories (host::homes), what
//! is done about it (diff).

use std::path::{Path, PathBuf};

use isyone_proto::plan::Role;
use uuid::Uuid;

use crate::plan::container::Volume;

/// Directory of a role's data in the home.
pub fn directory_name(role: Role) -> &'static str {
    match role {
        Role::Postgres => "pgdata",
        Role::Odoo => "odoo",
    }
}

/// Where finished segments of PostgreSQL's write-ahead log wait in a home.
pub fn spool(home: &Path) -> PathBuf {
    home.join("wal")
}

/// Whose home it is, by the mark in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HomeOwner {
    /// There is no such directory, or nothing is in it.
    #[default]
    Nobody,
    /// This very tenant's.
    This,
    /// Another's, such as an earlier tenant's of the same name: its uid, or `nobody` if there is data without a mark.
    Other(String),
}

/// What was found of one role's data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataFacts {
    /// Its directory in the home is there.
    pub kept: bool,
    /// The directory that the volume's record leads to is there.
    pub recorded: bool,
    /// That directory is Docker's own.
    pub dockers: bool,
    /// And it could be renamed into the home.
    pub movable: bool,
    /// Files lie in both, and nobody knows which are the tenant's.
    pub doubled: bool,
}

/// A tenant's home, as found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    pub path: PathBuf,
    pub owner: HomeOwner,
    pub postgres: DataFacts,
    pub odoo: DataFacts,
    /// The restore for which what the tenant had is set aside in it.
    pub aside: Option<Uuid>,
}

impl Home {
    pub fn data(&self, role: Role) -> DataFacts {
        match role {
            Role::Postgres => self.postgres,
            Role::Odoo => self.odoo,
        }
    }

    /// Where a role's data lies in it.
    pub fn directory(&self, role: Role) -> PathBuf {
        self.path.join(directory_name(role))
    }

    /// Whether data lies in Docker's own directory and cannot be renamed into the home.
    pub fn has_stuck_data(&self) -> bool {
        [self.postgres, self.odoo]
            .iter()
            .any(|data| data.dockers && !data.movable)
    }

    /// Whether any data of this tenant is in it.
    pub fn holds_data(&self) -> bool {
        self.owner == HomeOwner::This && (self.postgres.kept || self.odoo.kept)
    }
}

/// Where a role's data lies, and what Docker's record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lies {
    /// Neither record nor directory.
    Nowhere,
    /// In the home, and the record points there.
    Home,
    /// In the home, and there is no record.
    Unrecorded,
    /// In the home, and the record leads to where nothing is: a move was interrupted, or Docker's directory was moved.
    Misrecorded,
    /// In Docker's own directory, where agents used to keep it; it can be moved into the home by a rename.
    InDocker,
    /// Elsewhere: in Docker's directory on another file system, or where a person has put it. Left alone.
    Apart,
    /// The record points to a directory that is not there.
    Gone,
}

/// Compares a volume's record with the home; without one, this machine does not see Docker's volumes.
pub fn lies(home: Option<&Home>, volume: Option<&Volume>, role: Role) -> Lies {
    let Some(home) = home else {
        return volume.map_or(Lies::Nowhere, |_| Lies::Apart);
    };
    let data = home.data(role);
    let kept = home.owner == HomeOwner::This && data.kept;
    let Some(volume) = volume else {
        return if kept {
            Lies::Unrecorded
        } else {
            Lies::Nowhere
        };
    };
    if volume.opaque {
        return Lies::Apart;
    }
    let device = volume.device.as_ref().map(PathBuf::from);
    match device {
        Some(device) if device == home.directory(role) => {
            if kept {
                Lies::Home
            } else {
                Lies::Gone
            }
        }
        None if data.recorded && data.movable => Lies::InDocker,
        _ if data.recorded => Lies::Apart,
        _ if kept => Lies::Misrecorded,
        Some(_) => Lies::Gone,
        None => Lies::Apart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_says_where_data_lies() {
        let facts = |kept, recorded, movable| DataFacts {
            kept,
            recorded,
            dockers: movable,
            movable,
            doubled: false,
        };
        let with = |owner: &HomeOwner, data| Home {
            path: "/r/tenants/alfa".into(),
            owner: owner.clone(),
            postgres: data,
            odoo: DataFacts::default(),
            aside: None,
        };
        let record = |device: Option<&str>| Volume {
            device: device.map(str::to_owned),
            ..Volume::default()
        };
        let (old, right) = (record(None), record(Some("/r/tenants/alfa/pgdata")));
        let wrong = record(Some("/srv/pgdata"));
        let (this, other) = (HomeOwner::This, HomeOwner::Other("x".to_owned()));
        for (owner, data, volume, expected) in [
            (&this, facts(false, false, false), None, Lies::Nowhere),
            (&this, facts(true, false, false), None, Lies::Unrecorded),
            (&other, facts(true, false, false), None, Lies::Nowhere),
            (&this, facts(true, true, false), Some(&right), Lies::Home),
            (&this, facts(false, false, false), Some(&right), Lies::Gone),
            (&other, facts(true, true, false), Some(&right), Lies::Gone),
            (&this, facts(false, true, true), Some(&old), Lies::InDocker),
            (&this, facts(true, true, true), Some(&old), Lies::InDocker),
            (&this, facts(false, true, false), Some(&old), Lies::Apart),
            (
                &this,
                facts(true, false, false),
                Some(&old),
                Lies::Misrecorded,
            ),
            (&this, facts(false, false, false), Some(&old), Lies::Apart),
            (&this, facts(true, true, false), Some(&wrong), Lies::Apart),
            (
                &this,
                facts(true, false, false),
                Some(&wrong),
                Lies::Misrecorded,
            ),
            (&this, facts(false, false, false), Some(&wrong), Lies::Gone),
        ] {
            let home = with(owner, data);
            let found = lies(Some(&home), volume, Role::Postgres);
            assert_eq!(found, expected, "{home:?} {volume:?}");
        }
        let theirs = Volume {
            opaque: true,
            ..Volume::default()
        };
        let home = with(&this, facts(true, true, true));
        assert_eq!(
            lies(Some(&home), Some(&theirs), Role::Postgres),
            Lies::Apart
        );
        assert_eq!(lies(None, Some(&old), Role::Odoo), Lies::Apart);
        assert_eq!(lies(None, None, Role::Odoo), Lies::Nowhere);
    }
}

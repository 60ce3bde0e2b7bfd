//! What a tenant had before a restore took its place: its directories, whole, in `before-<restore>` of its home.
//!
//! They go there and come back by renaming, one after the other, so that after a crash what lies where says how far it came. What lies
//! there is removed by one function, which is called on the coordinator's order alone. Not here: when any of this is done (plan::diff),
//! what is remembered of it (tenant::aside).

use std::{
    io,
    path::{Path, PathBuf},
};

use isyone_proto::plan::Role;
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use super::{Homes, owner, sync_entries};
use crate::{
    base::{
        fsutil::{self, is_directory},
        tree,
    },
    host::disk,
    plan::home::{HomeOwner, directory_name},
};

const ROLES: [Role; 2] = [Role::Postgres, Role::Odoo];
const PREFIX: &str = "before-";
/// Where a restore brings the log that it needs: beside the data, and only until it has ended.
pub const RESTORE_LOG: &str = "restore-log";

fn aside(home: &Path, restore: Uuid) -> PathBuf {
    home.join(format!("{PREFIX}{restore}"))
}

/// The restore for which something is set aside in a home.
pub(super) fn found(home: &Path, owner: &HomeOwner) -> Option<Uuid> {
    if *owner != HomeOwner::This {
        return None;
    }
    let entries = fsutil::list(home).ok()?;
    entries
        .iter()
        .find_map(|entry| entry.name.to_str()?.strip_prefix(PREFIX)?.parse().ok())
}

impl Homes {
    /// Renames both roles' data aside and makes empty directories in its place. May be repeated.
    pub fn set_aside(&self, home: &Path, uid: Uuid, restore: Uuid) -> io::Result<()> {
        self.must_own(home, uid)?;
        let aside = aside(home, restore);
        if !fsutil::exists(&aside) {
            fsutil::private_dir(&aside)?;
            sync_entries(Some(home))?;
        }
        for role in ROLES {
            let name = directory_name(role);
            let (here, kept) = (home.join(name), aside.join(name));
            if !is_directory(&kept) {
                fsutil::rename(&here, &kept)?;
                sync_entries(Some(&aside))?;
            }
            if !is_directory(&here) {
                disk::make_directory(&here)?;
            }
        }
        sync_entries(Some(home))
    }

    /// Whether all of what was set aside is there.
    pub fn has_aside(&self, home: &Path, restore: Uuid) -> bool {
        let aside = aside(home, restore);
        let mut roles = ROLES.into_iter();
        roles.all(|role| is_directory(&aside.join(directory_name(role))))
    }

    /// Undoes [`Self::set_aside`], also half of it: what has come in its place is removed. An error while something still works on
    /// that. May be repeated.
    pub fn bring_back(&self, home: &Path, uid: Uuid, restore: Uuid) -> io::Result<()> {
        self.must_own(home, uid)?;
        let aside = aside(home, restore);
        for role in ROLES {
            let name = directory_name(role);
            let (here, kept) = (home.join(name), aside.join(name));
            if !is_directory(&kept) {
                continue; // it is back, or has never left
            }
            if is_directory(&here) {
                let held = fsutil::open_directory(&here)?;
                flock(&held, FlockOperation::NonBlockingLockExclusive)?;
                tree::remove_all(&here)?;
            }
            fsutil::rename(&kept, &here)?;
            sync_entries(Some(home))?;
        }
        // Of the restore that is given up.
        let log = home.join(RESTORE_LOG);
        if is_directory(&log) {
            tree::remove_all(&log)?;
        }
        // Empty by now: never what is in it.
        match is_directory(&aside) {
            true => fsutil::remove_directory(&aside),
            false => Ok(()),
        }
    }

    /// Removes what was set aside. May be repeated.
    pub fn remove_aside(&self, home: &Path, uid: Uuid, restore: Uuid) -> io::Result<()> {
        self.must_own(home, uid)?;
        let aside = aside(home, restore);
        match is_directory(&aside) {
            true => tree::remove_all(&aside),
            false => Ok(()),
        }
    }

    fn must_own(&self, home: &Path, uid: Uuid) -> io::Result<()> {
        self.check_home(home)?;
        match owner(home, uid) {
            HomeOwner::This => Ok(()),
            _ => Err(io::Error::other(format!(
                "{} is not this tenant's",
                home.display()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{host::homes::Pointers, plan::home::Home};

    const UID: Uuid = Uuid::from_u128(7);
    const RESTORE: Uuid = Uuid::from_u128(9);

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    fn filled(homes: &Homes) -> Home {
        let look = || {
            let name = "alfa".parse().unwrap();
            homes.look(&name, UID, &Pointers::default()).unwrap()
        };
        for role in ROLES {
            homes.make(&look(), UID, role).unwrap();
            fs::write(look().directory(role).join("it"), "old").unwrap();
        }
        look()
    }

    #[test]
    fn what_is_set_aside_is_empty_here_and_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::new(dir.path().join("r"));
        let home = filled(&homes);
        assert_eq!(home.aside, None);
        for _ in 0..2 {
            homes.set_aside(&home.path, UID, RESTORE).unwrap();
        }
        assert!(homes.has_aside(&home.path, RESTORE));
        assert_eq!(found(&home.path, &HomeOwner::This), Some(RESTORE));
        for role in ROLES {
            let here = home.directory(role);
            assert!(fsutil::is_empty(&here).unwrap());
            fs::write(here.join("it"), "new").unwrap();
        }
        // Another's is nobody's business.
        let other = Uuid::from_u128(8);
        assert!(homes.bring_back(&home.path, other, RESTORE).is_err());
        assert!(homes.remove_aside(&home.path, other, RESTORE).is_err());
        // A restore that still writes is waited for, and nothing of it goes before.
        let held = fs::File::open(home.directory(Role::Postgres)).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(homes.bring_back(&home.path, UID, RESTORE).is_err());
        assert_eq!(text(&home.directory(Role::Odoo).join("it")), "new");
        drop(held);
        for _ in 0..2 {
            homes.bring_back(&home.path, UID, RESTORE).unwrap();
            for role in ROLES {
                assert_eq!(text(&home.directory(role).join("it")), "old");
            }
        }
        assert_eq!(found(&home.path, &HomeOwner::This), None);
    }

    #[test]
    fn half_of_it_goes_on_or_comes_back() {
        for on in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let homes = Homes::new(dir.path().join("r"));
            let home = filled(&homes);
            // As a crash leaves it: one role is aside, and nothing is in its place yet.
            let aside = aside(&home.path, RESTORE);
            fs::create_dir(&aside).unwrap();
            fs::rename(home.directory(Role::Postgres), aside.join("pgdata")).unwrap();
            assert!(!homes.has_aside(&home.path, RESTORE));
            if on {
                homes.set_aside(&home.path, UID, RESTORE).unwrap();
                assert!(homes.has_aside(&home.path, RESTORE));
                assert!(fsutil::is_empty(&home.directory(Role::Odoo)).unwrap());
            }
            homes.bring_back(&home.path, UID, RESTORE).unwrap();
            for role in ROLES {
                assert_eq!(text(&home.directory(role).join("it")), "old");
            }
        }
    }

    #[test]
    fn what_was_set_aside_is_removed_and_what_is_here_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::new(dir.path().join("r"));
        let home = filled(&homes);
        homes.set_aside(&home.path, UID, RESTORE).unwrap();
        fs::write(home.directory(Role::Odoo).join("it"), "new").unwrap();
        for _ in 0..2 {
            homes.remove_aside(&home.path, UID, RESTORE).unwrap();
        }
        assert!(!homes.has_aside(&home.path, RESTORE));
        assert_eq!(text(&home.directory(Role::Odoo).join("it")), "new");
    }
}

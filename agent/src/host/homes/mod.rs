//! The directories that tenants' data lies in: `tenants/<name>/{pgdata,odoo,wal}` below one root, with `spares/` beside them,
//! all on one file system, so that data gets there by renaming.
//!
//! A home belongs to one tenant for ever: the link `owner` in it names its uid. It is a link, not a file, because making
//! one is a single change of the directory, which no power loss can leave half done, and costs no wait for the disk.
//! Everything above a role's directory is root's alone, and what is below is the tenant's: nothing here follows a link.
//! Blocking. Not here: when any of this is done (tenant::data), where data lies (plan::home).

pub mod aside;

use std::{
    io,
    path::{Path, PathBuf},
};

use isyone_proto::{ids::TenantName, plan::Role};
use rustix::fs::Mode;
use uuid::Uuid;

use crate::{
    base::{
        beneath::Root,
        fsutil::{self, Owner, is_directory, mount},
        tree,
    },
    host::{disk, mark::Mark},
    plan::{
        container::Volume,
        home::{DataFacts, Home, HomeOwner, directory_name, spool},
    },
};

/// The link that names a home's owner.
const OWNER: &str = "owner";
/// Of an owner in messages when there is none.
const NO_OWNER: &str = "nobody";

/// Where all tenants' data lies on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Homes {
    root: PathBuf,
    /// Of a root that an operator has chosen.
    mark: Option<Mark>,
}

/// The volumes' records of one tenant, and the home that its agent remembers.
#[derive(Debug, Clone, Default)]
pub struct Pointers {
    pub postgres: Option<Volume>,
    pub odoo: Option<Volume>,
    pub remembered: Option<PathBuf>,
}

impl Pointers {
    fn volume(&self, role: Role) -> Option<&Volume> {
        match role {
            Role::Postgres => self.postgres.as_ref(),
            Role::Odoo => self.odoo.as_ref(),
        }
    }
}

impl Homes {
    /// Below `root`, an absolute path; makes nothing yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root, mark: None }
    }

    /// Likewise, below one that is used only while its mark is there.
    pub fn marked(root: PathBuf, mark: Mark) -> Self {
        Self {
            root,
            mark: Some(mark),
        }
    }

    /// Whether the root is there: an error where a disk is not mounted.
    pub fn check(&self) -> io::Result<()> {
        let mark = self.mark.as_ref();
        mark.map_or(Ok(()), |mark| mark.check().map_err(io::Error::other))
    }

    /// Whether a home may be used as it is found: one elsewhere does not depend on the root.
    fn check_home(&self, home: &Path) -> io::Result<()> {
        if home.starts_with(&self.root) {
            return self.check();
        }
        Ok(())
    }

    /// Where tenants' homes are, by name.
    pub fn tenants(&self) -> PathBuf {
        self.root.join("tenants")
    }

    /// Where copies of snapshots are kept that a tenant takes by renaming.
    pub fn spares(&self) -> PathBuf {
        self.root.join("spares")
    }

    /// Where backups are restored to be looked at and thrown away.
    pub fn proofs(&self) -> PathBuf {
        self.root.join("proofs")
    }

    /// A tenant's home, as it is, unless its disk is not mounted. Data stays where the records and the agent's memory say that it is, even while it is not
    /// there, such as when its disk is not mounted: another root, or a copy that somebody has made of it there, concerns
    /// only tenants without a home.
    pub fn look(&self, name: &TenantName, uid: Uuid, pointers: &Pointers) -> io::Result<Home> {
        let usual = self.tenants().join(name.as_str());
        let recorded = || {
            [Role::Postgres, Role::Odoo]
                .into_iter()
                .filter_map(|role| pointers.volume(role)?.device.as_deref().map(Path::new))
        };
        let remembered = pointers.remembered.as_deref();
        let own = recorded()
            .filter_map(Path::parent)
            .chain(remembered)
            .find(|place| owner(place, uid) == HomeOwner::This);
        // A person may have put a role's directory somewhere that is no home: then its home is the usual place.
        let absent = recorded().filter(|place| !is_directory(place));
        let absent = absent.filter_map(Path::parent).chain(remembered).next();
        let path = own.or(absent).map_or(usual, Path::to_owned);
        self.check_home(&path)?;
        let owner = owner(&path, uid);
        let facts = |role| self.facts(&path, role, pointers.volume(role));
        let (postgres, odoo) = (facts(Role::Postgres), facts(Role::Odoo));
        Ok(Home {
            aside: aside::found(&path, &owner),
            postgres,
            odoo,
            owner,
            path,
        })
    }

    fn facts(&self, home: &Path, role: Role, volume: Option<&Volume>) -> DataFacts {
        let place = volume.map(|v| Path::new(v.path()));
        let recorded = place.is_some_and(is_directory);
        let dockers = recorded && volume.is_some_and(|v| v.device.is_none() && !v.opaque);
        let ours = home.join(directory_name(role));
        let holds = |place: &Path| fsutil::is_empty(place).is_ok_and(|empty| !empty);
        DataFacts {
            kept: is_directory(&ours),
            doubled: dockers && is_directory(&ours) && holds(&ours) && place.is_some_and(holds),
            recorded,
            dockers,
            movable: dockers && place.is_some_and(|place| self.is_beside(place)),
        }
    }

    /// Whether a rename leads from there into a home. The same file system is not enough: Docker may have mounted its
    /// directory onto itself.
    fn is_beside(&self, place: &Path) -> bool {
        let tenants = self.tenants();
        let there = tenants.ancestors().find(|a| fsutil::exists(a));
        there.is_some_and(|ours| match (mount(place), mount(ours)) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            _ => false,
        })
    }

    /// Makes a home this tenant's, if it is nobody's.
    fn claim(&self, home: &Path, uid: Uuid) -> io::Result<()> {
        self.check_home(home)?;
        if let Some(tenants) = home.parent() {
            for directory in tenants.parent().into_iter().chain([tenants]) {
                if !fsutil::exists(directory) {
                    fsutil::private_dir(directory)?;
                }
            }
        }
        if !fsutil::exists(home) {
            fsutil::private_dir(home)?;
        }
        match owner(home, uid) {
            HomeOwner::This => Ok(()),
            HomeOwner::Nobody => fsutil::make_link(&uid.to_string(), &home.join(OWNER)),
            HomeOwner::Other(other) => Err(io::Error::other(format!(
                "{} belongs to {other}",
                home.display()
            ))),
        }
    }

    /// Makes the empty directory of a role. Docker gives it owner and mode of the image's directory, as it does for an
    /// empty volume of its own.
    pub fn make(&self, home: &Home, uid: Uuid, role: Role) -> io::Result<()> {
        self.claim(&home.path, uid)?;
        match disk::make_directory(&home.directory(role)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes the directory for finished segments of PostgreSQL's write-ahead log, its user's alone. May be repeated.
    pub fn make_spool(&self, home: &Path, uid: Uuid, (user, group): Owner) -> io::Result<()> {
        self.claim(home, uid)?;
        let place = spool(home);
        match fsutil::make_directory(&place) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let held = Root::open(&place)?;
        rustix::fs::fchmod(&held, Mode::from_raw_mode(0o700))?;
        std::os::unix::fs::fchown(&held, Some(user), Some(group))
    }

    /// Renames a role's data from Docker's directory into the home, as a whole, so that it is in one place or the other
    /// at any moment. May be repeated.
    pub fn take(&self, home: &Home, uid: Uuid, role: Role, from: &Path) -> io::Result<()> {
        self.claim(&home.path, uid)?;
        let to = home.directory(role);
        match fsutil::rename(from, &to) {
            // An earlier attempt has taken it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_directory(&to) => {}
            // Both are there: the one outside goes only if nothing is in it.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                fsutil::remove_directory(from)?;
            }
            moved => moved?,
        }
        sync_entries(from.parent())?;
        self.sync_home(&home.path)
    }

    /// Undoes [`Self::take`].
    pub fn give_back(&self, home: &Home, role: Role, to: &Path) -> io::Result<()> {
        fsutil::rename(&home.directory(role), to)?;
        sync_entries(to.parent())?;
        sync_entries(Some(&home.path))
    }

    /// Makes sure that a power loss leaves the home where it is; not its content.
    pub fn sync_home(&self, home: &Path) -> io::Result<()> {
        for directory in home.ancestors().take(3) {
            sync_entries(Some(directory))?;
        }
        Ok(())
    }

    /// Removes a home with all data in it: the owner's mark last, so that an interrupted removal is known for what it is.
    pub fn remove(&self, home: &Path, uid: Uuid) -> io::Result<()> {
        if owner(home, uid) != HomeOwner::This {
            return Err(io::Error::other(format!(
                "{} is not this tenant's",
                home.display()
            )));
        }
        tree::wipe_except(home, OWNER)?;
        fsutil::remove_file(&home.join(OWNER))?;
        fsutil::remove_directory(home)
    }

    /// Takes over the spares that an earlier version kept in `old`.
    pub fn adopt_spares(&self, old: &Path) -> io::Result<()> {
        if !is_directory(old) {
            return Ok(());
        }
        if !fsutil::exists(&self.root) {
            fsutil::private_dir(&self.root)?;
        }
        match fsutil::rename(old, &self.spares()) {
            Err(_) => fsutil::remove_tree(old), // they are only copies
            Ok(()) => Ok(()),
        }
    }
}

fn owner(home: &Path, uid: Uuid) -> HomeOwner {
    match fsutil::link_text(&home.join(OWNER)) {
        Ok(text) if text.as_os_str() == uid.to_string().as_str() => HomeOwner::This,
        Ok(text) => HomeOwner::Other(text.display().to_string()),
        Err(_) if fsutil::list(home).is_ok_and(|entries| !entries.is_empty()) => {
            HomeOwner::Other(NO_OWNER.to_owned())
        }
        Err(_) => HomeOwner::Nobody,
    }
}

fn sync_entries(directory: Option<&Path>) -> io::Result<()> {
    directory.map_or(Ok(()), fsutil::sync_entries)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::plan::home::{self, Lies};

    const UID: Uuid = Uuid::from_u128(7);

    fn look(homes: &Homes, uid: Uuid, pointers: &Pointers) -> Home {
        homes.look(&"alfa".parse().unwrap(), uid, pointers).unwrap()
    }

    fn old_volume(at: &Path) -> Pointers {
        Pointers {
            postgres: Some(Volume {
                mountpoint: at.display().to_string(),
                ..Volume::default()
            }),
            ..Pointers::default()
        }
    }

    #[test]
    fn a_home_is_its_owners_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::new(dir.path().join("r"));
        let home = look(&homes, UID, &Pointers::default());
        assert_eq!(home.owner, HomeOwner::Nobody);
        homes.make(&home, UID, Role::Odoo).unwrap();
        homes.make(&home, UID, Role::Odoo).unwrap();
        let home = look(&homes, UID, &Pointers::default());
        assert!(home.holds_data() && home.odoo.kept && !home.postgres.kept);
        let other = Uuid::from_u128(8);
        let theirs = look(&homes, other, &Pointers::default());
        assert_eq!(theirs.owner, HomeOwner::Other(UID.to_string()));
        assert!(homes.make(&theirs, other, Role::Postgres).is_err());
        assert!(homes.remove(&theirs.path, other).is_err());
        fs::remove_file(home.path.join(OWNER)).unwrap();
        let unmarked = look(&homes, UID, &Pointers::default());
        assert_eq!(unmarked.owner, HomeOwner::Other(NO_OWNER.to_owned()));
    }

    #[test]
    fn a_spool_is_its_users_in_a_home_and_no_link_is_followed_to_it() {
        use std::os::unix::fs::MetadataExt as _;

        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::new(dir.path().join("r"));
        let home = look(&homes, UID, &Pointers::default());
        let own = fs::metadata(dir.path()).unwrap();
        let owner = (own.uid(), own.gid());
        for _ in 0..2 {
            homes.make_spool(&home.path, UID, owner).unwrap();
        }
        let meta = fs::metadata(spool(&home.path)).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o700);
        let home = look(&homes, UID, &Pointers::default());
        assert!(home.owner == HomeOwner::This && !home.holds_data());
        assert!(homes.make_spool(&home.path, Uuid::nil(), owner).is_err());
        fs::remove_dir(spool(&home.path)).unwrap();
        std::os::unix::fs::symlink(dir.path(), spool(&home.path)).unwrap();
        assert!(homes.make_spool(&home.path, UID, owner).is_err());
        homes.remove(&home.path, UID).unwrap();
        assert!(!home.path.exists() && dir.path().exists());
    }

    #[test]
    fn removing_a_home_follows_no_link_and_can_be_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::new(dir.path().join("r"));
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), "somebody's").unwrap();
        let home = look(&homes, UID, &Pointers::default());
        for role in [Role::Postgres, Role::Odoo] {
            homes.make(&home, UID, role).unwrap();
            std::os::unix::fs::symlink(&outside, home.directory(role).join("link")).unwrap();
        }
        fs::remove_dir_all(home.directory(Role::Postgres)).unwrap(); // as if interrupted
        std::os::unix::fs::symlink(&outside, home.directory(Role::Postgres)).unwrap();
        homes.remove(&home.path, UID).unwrap();
        assert!(!home.path.exists() && outside.join("f").exists());
    }

    #[test]
    fn data_is_taken_whole_once_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::new(dir.path().join("r"));
        let from = dir.path().join("volumes/pgdata_alfa/_data");
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("PG_VERSION"), "15").unwrap();
        let home = look(&homes, UID, &old_volume(&from));
        assert!(home.postgres.movable && home.postgres.recorded && !home.postgres.kept);
        assert!(!home.has_stuck_data());
        for _ in 0..2 {
            homes.take(&home, UID, Role::Postgres, &from).unwrap();
            let file = home.directory(Role::Postgres).join("PG_VERSION");
            assert!(!from.exists() && file.exists());
        }
        homes.give_back(&home, Role::Postgres, &from).unwrap();
        assert!(from.join("PG_VERSION").exists());
        // An empty directory is no data; two that hold files are for a person to look at.
        fs::create_dir(home.directory(Role::Postgres)).unwrap();
        homes.take(&home, UID, Role::Postgres, &from).unwrap();
        fs::create_dir(&from).unwrap();
        homes.take(&home, UID, Role::Postgres, &from).unwrap();
        assert!(!from.exists());
        fs::create_dir(&from).unwrap();
        fs::write(from.join("f"), "of whom?").unwrap();
        assert!(homes.take(&home, UID, Role::Postgres, &from).is_err());
        assert!(look(&homes, UID, &old_volume(&from)).postgres.doubled);
        assert!(from.join("f").exists());
        assert!(home.directory(Role::Postgres).join("PG_VERSION").exists());
    }

    #[test]
    fn data_stays_where_its_record_or_the_agent_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let (before, now) = (dir.path().join("before"), dir.path().join("now"));
        let old = Homes::new(before.clone());
        let home = look(&old, UID, &Pointers::default());
        old.make(&home, UID, Role::Odoo).unwrap();
        let homes = Homes::new(now.clone());
        let fresh = look(&homes, UID, &Pointers::default());
        assert_eq!(fresh.path, now.join("tenants/alfa"));
        homes.make(&fresh, UID, Role::Odoo).unwrap(); // a stale copy
        let recorded = Pointers {
            odoo: Some(Volume {
                device: Some(home.directory(Role::Odoo).display().to_string()),
                ..Volume::default()
            }),
            ..Pointers::default()
        };
        assert_eq!(look(&homes, UID, &recorded).path, home.path);
        let remembered = Pointers {
            remembered: Some(home.path.clone()),
            ..Pointers::default()
        };
        assert_eq!(look(&homes, UID, &remembered).path, home.path);
        fs::rename(&before, dir.path().join("moved")).unwrap();
        // Its disk is not mounted: the stale copy is not it.
        for pointers in [&recorded, &remembered] {
            let gone = look(&homes, UID, pointers);
            assert_eq!((&gone.path, &gone.owner), (&home.path, &HomeOwner::Nobody));
        }
        let volume = recorded.odoo.as_ref();
        let gone = look(&homes, UID, &recorded);
        assert_eq!(home::lies(Some(&gone), volume, Role::Odoo), Lies::Gone);
        assert_eq!(look(&homes, UID, &Pointers::default()).path, fresh.path);
    }

    #[test]
    fn another_mount_is_not_beside() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::new(dir.path().join("r"));
        assert!(homes.is_beside(dir.path()));
        assert!(!homes.is_beside(Path::new("/proc/self")));
    }
}

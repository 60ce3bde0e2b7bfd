//! The mark of a directory for tenants' data that an operator has chosen: a file in it that names it, and the agent's own
//! memory of that. A disk that is not mounted leaves an empty directory in its place, or another disk's; without the mark
//! nothing is made there, and no tenant starts.
//!
//! Blocking. Not here: the directories below (homes).

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::base::{config::DataDir, fsutil};

/// Name of the mark.
const MARK: &str = ".isyone-tenants";

/// What was known to be there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is not the directory of tenants' data that this agent has used: its mark {MARK} {found}. Nothing is started or made there. Mount its \
     disk. If the data is lost and this directory is to be used from now on: echo {id} > {}",
    root.display(), root.join(MARK).display()
)]
pub struct NotThere {
    root: PathBuf,
    id: Uuid,
    found: &'static str,
}

/// A directory and what its mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    root: PathBuf,
    id: Uuid,
}

fn read(root: &Path) -> io::Result<Option<Uuid>> {
    match fsutil::read_text(&root.join(MARK)) {
        Ok(text) => match text.trim().parse::<Uuid>() {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(io::Error::other(format!(
                "{} holds no UUID",
                root.join(MARK).display()
            ))),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Before there were marks: an error where tenants have data below a directory, and nothing of any of them is there.
fn missed(root: &Path, data: &DataDir) -> io::Result<()> {
    let homes: Vec<PathBuf> = fsutil::list(&data.tenants())
        .unwrap_or_default()
        .into_iter()
        .filter_map(|tenant| {
            let state = fsutil::read(&tenant.path.join("state.json")).ok()?;
            let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
            Some(PathBuf::from(state.get("home")?.as_str()?))
        })
        .filter(|home| home.starts_with(root))
        .collect();
    if homes.is_empty() || homes.iter().any(|home| fsutil::exists(home)) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "none of the tenants whose data is here is here: mount its disk. If the data is lost and this directory is to be used from now on, \
         put a file {MARK} with a UUID into it"
    )))
}

impl Mark {
    /// What is remembered of a directory; at its first use it is marked, unless it is already (by an agent whose memory is
    /// lost, or that died in between).
    pub fn of(root: &Path, data: &DataDir) -> io::Result<Self> {
        let memory = data.tenants_dirs();
        let mut known: BTreeMap<PathBuf, Uuid> = match fsutil::read(&memory) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(e),
        };
        let id = match known.get(root) {
            Some(id) => *id,
            None => {
                let id = match read(root)? {
                    Some(id) => id,
                    None => {
                        missed(root, data)?;
                        let id = Uuid::new_v4();
                        let text = format!("{id}\n");
                        fsutil::write_atomic(&root.join(MARK), text.as_bytes(), 0o600, true)?;
                        id
                    }
                };
                known.insert(root.to_owned(), id);
                let bytes = serde_json::to_vec_pretty(&known)?;
                fsutil::write_atomic(&memory, &bytes, 0o600, true)?;
                id
            }
        };
        Ok(Self {
            root: root.to_owned(),
            id,
        })
    }

    /// Whether the directory is still, or again, the one that was marked.
    pub fn check(&self) -> Result<(), NotThere> {
        let found = match read(&self.root) {
            Ok(Some(id)) if id == self.id => return Ok(()),
            Ok(Some(_)) => "is another one's",
            Ok(None) => "is missing",
            Err(_) => "cannot be read",
        };
        Err(NotThere {
            root: self.root.clone(),
            id: self.id,
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn at_its_first_mark_a_disk_must_hold_what_tenants_remember() {
        let dir = tempfile::tempdir().unwrap();
        let (root, data) = (dir.path().join("disk"), DataDir::new(dir.path()));
        let home = root.join("tenants/alfa");
        fs::create_dir_all(data.tenants().join("alfa")).unwrap();
        let state = serde_json::json!({ "home": home });
        fs::write(data.tenants().join("alfa/state.json"), state.to_string()).unwrap();
        fs::create_dir(&root).unwrap();
        let why = Mark::of(&root, &data).unwrap_err().to_string();
        assert!(why.contains("mount its disk"), "{why}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::create_dir_all(&home).unwrap();
        assert!(Mark::of(&root, &data).unwrap().check().is_ok());
    }

    #[test]
    fn a_directory_is_known_again_and_what_is_in_its_place_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (root, data) = (dir.path().join("disk"), DataDir::new(dir.path()));
        fs::create_dir(&root).unwrap();
        // As an installation of before has it: tenants, and no mark.
        fs::create_dir(root.join("tenants")).unwrap();
        assert!(Mark::of(&root, &data).unwrap().check().is_ok());
        let mark = Mark::of(&root, &data).unwrap();
        assert!(mark.check().is_ok());
        fs::rename(&root, dir.path().join("unmounted")).unwrap();
        fs::create_dir(&root).unwrap();
        let why = mark.check().unwrap_err().to_string();
        assert!(
            why.contains("is missing") && why.contains("Mount its disk"),
            "{why}"
        );
        let restarted = Mark::of(&root, &data).unwrap();
        assert!(restarted.check().is_err());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing was made");
        fs::write(root.join(MARK), Uuid::nil().to_string()).unwrap();
        let why = mark.check().unwrap_err().to_string();
        assert!(why.contains("is another one's"), "{why}");
        fs::remove_dir_all(&root).unwrap();
        fs::rename(dir.path().join("unmounted"), &root).unwrap();
        assert!(mark.check().is_ok());
        // On purpose: another directory in its place. And an agent that has lost its memory.
        fs::remove_file(data.tenants_dirs()).unwrap();
        assert_eq!(Mark::of(&root, &data).unwrap().id, mark.id);
        fs::remove_file(data.tenants_dirs()).unwrap();
        fs::remove_file(root.join(MARK)).unwrap();
        assert!(Mark::of(&root, &data).unwrap().check().is_ok());
    }
}

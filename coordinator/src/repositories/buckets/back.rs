//! Brings a repository back that is not here any more: into a directory beside, which gets its name when everything has come.
//!
//! Blocks. Not here: which ones, and that nobody begins them anew meanwhile (the parent).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use isyone_backup::{
    self as backup, Job, Known,
    store::{Kind, Local, Store as _, StoreError},
};
use uuid::Uuid;

use super::{super::places::Place, Copies};

/// Begins the name of a directory that is not whole; no tenant's uid.
const COMING: &str = ".coming-";

/// Where a tenant's repository is put while it comes.
pub(in crate::repositories) fn coming(place: &Place, tenant: Uuid) -> PathBuf {
    place.directory.join(format!("{COMING}{tenant}"))
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Brought {
    Whole(backup::Copied),
    /// The bucket has none.
    NotThere,
}

/// Goes on where an attempt before has ended.
pub(super) fn bring(
    copies: &Copies,
    place: &Place,
    tenant: Uuid,
    job: &Job,
) -> Result<Brought, backup::Error> {
    let there = copies.repository(tenant);
    let failed = |source| backup::Error::Store {
        place: there.place(),
        source,
    };
    if there.list(Kind::Config).map_err(failed)?.is_empty() {
        return Ok(Brought::NotThere);
    }
    let coming = coming(place, tenant);
    let local = Local::new(&coming);
    let here = |source| backup::Error::Store {
        place: coming.display().to_string(),
        source,
    };
    local.create().map_err(here)?;
    let mut known = Known::list(&local)?;
    let bytes = known.missing(&there)?;
    let has_room = place.has_room(bytes);
    if !has_room.map_err(|e| here(StoreError::Unreachable(e)))? {
        let problem = format!(
            "{bytes} bytes are to be brought back, and so much is not free besides the reserve"
        );
        return Err(here(StoreError::Full(io::Error::other(problem))));
    }
    let copied = backup::copy(&there, &local, &mut known, job)?;
    let ended = dated(copies, tenant, &coming).and_then(|()| {
        let repository = place.repository(tenant);
        out_of_the_way(&repository)?;
        fs::rename(&coming, &repository)?;
        fs::File::open(&place.directory)?.sync_all()
    });
    ended.map_err(|e| here(StoreError::Failed(e)))?;
    Ok(Brought::Whole(copied))
}

/// Snapshots are as old as they were in the bucket: retention goes by when they came.
fn dated(copies: &Copies, tenant: Uuid, coming: &Path) -> io::Result<()> {
    let folder = format!("{tenant}/{}/", Kind::Snapshot.folder());
    for object in copies.bucket.list(&folder)? {
        let name = object.key.strip_prefix(&format!("{tenant}/"));
        if let (Some(name), Some(at)) = (name, object.put_at) {
            match fs::File::options().write(true).open(coming.join(name)) {
                Ok(file) => file.set_modified(at)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// A directory that was made and never filled. One that holds anything is nobody's to remove.
fn out_of_the_way(repository: &Path) -> io::Result<()> {
    if !repository.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(repository)? {
        fs::remove_dir(entry?.path())?;
    }
    fs::remove_dir(repository)
}

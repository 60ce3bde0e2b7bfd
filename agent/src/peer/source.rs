//! What a stopped copy's volumes hold: the list of it, and files' content with digests. Blocking, and everything below
//! the volumes is hostile.
//!
//! Not here: who may have it (admit), sending it (service).

use std::{
    fs::File,
    io::{self, Read as _},
};

use isyone_proto::{
    pb::agent::v1::{FileEntry, ListEnd, ListResponse, PeerVolume, ReadResponse, read_response},
    plan::Role,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{Receiver, Sender};
use tonic::Status;

use super::{BATCH, CHUNK, service::volume_to_wire};
use crate::{
    base::beneath::{self, Found, Kind, LINK, Limits, RelPath, Root},
    tenant::copies::Places,
};

/// Most of one volume. Neither end holds a list in memory, but the names of the directories that it is in; a tenant with
/// 300,000 attachments has a third of that.
pub const LIMITS: Limits = Limits {
    entries: 1_000_000,
    path_bytes: 64 << 20,
};
/// What is not copied and named all the same.
const EXAMPLES: usize = 20;
/// While only the digest is worked on, the other side hears of it this often, in bytes.
pub const WORKING_EVERY: u64 = 64 << 20;

/// Both volumes' handles; of a copy that runs, Odoo's alone.
pub(super) struct Roots {
    postgres: Option<Root>,
    odoo: Root,
}

impl Roots {
    /// `is_live`: its files change while they are read.
    pub(super) fn open(places: &Places, is_live: bool) -> io::Result<Self> {
        let postgres = (!is_live).then(|| Root::open(&places.postgres));
        Ok(Self {
            postgres: postgres.transpose()?,
            odoo: Root::open(&places.odoo)?,
        })
    }

    fn of(&self, role: Role) -> io::Result<&Root> {
        match role {
            Role::Odoo => Ok(&self.odoo),
            // What a running PostgreSQL has there is in no state that could be copied.
            Role::Postgres => self.postgres.as_ref().ok_or_else(|| {
                let why = "the database runs, so its files are not given away".to_owned();
                io::Error::new(io::ErrorKind::InvalidData, why)
            }),
        }
    }

    fn is_live(&self) -> bool {
        self.postgres.is_none()
    }
}

/// A file that the other side asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) volume: Role,
    pub(super) path: RelPath,
    pub(super) offset: u64,
    pub(super) size: u64,
}

type Out<T> = Sender<Result<T, Status>>;

/// What an error of the disk is to the other side: trying again may help, but not against what the volume holds.
fn failed(e: &io::Error) -> Status {
    match e.kind() {
        _ if beneath::is_for_good(e) => {
            Status::failed_precondition(format!("its agent cannot open the volumes' files: {e}"))
        }
        io::ErrorKind::InvalidData => Status::failed_precondition(e.to_string()),
        _ => Status::aborted(e.to_string()),
    }
}

/// Sends the list of both volumes.
pub(super) fn list(roots: &Roots, out: &Out<ListResponse>) {
    let mut end = ListEnd::default();
    let volumes = [Role::Postgres, Role::Odoo].into_iter();
    let listed = volumes
        .filter(|volume| *volume == Role::Odoo || !roots.is_live())
        .try_for_each(|volume| list_volume(roots, volume, &mut end, out));
    let last = match listed {
        Ok(()) => Ok(ListResponse {
            entries: Vec::new(),
            end: Some(end),
        }),
        Err(e) => Err(failed(&e)),
    };
    let _ = out.blocking_send(last); // it may have gone
}

fn list_volume(
    roots: &Roots,
    volume: Role,
    end: &mut ListEnd,
    out: &Out<ListResponse>,
) -> io::Result<()> {
    let mut batch = Vec::new();
    let send = |entries: Vec<FileEntry>| {
        let message = ListResponse { entries, end: None };
        out.blocking_send(Ok(message))
            .map_err(|_gone| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    roots.of(volume)?.walk(LIMITS, &mut |found| {
        if let Kind::Other(what) = found.kind {
            check_skippable(volume, what, &found.path)?;
            end.skipped += 1;
            if end.skipped_examples.len() < EXAMPLES {
                end.skipped_examples.push(format!("{what} {}", found.path));
            }
            return Ok(());
        }
        batch.push(entry(volume_to_wire(volume), &found));
        if batch.len() >= BATCH {
            send(std::mem::take(&mut batch))?;
        }
        Ok(())
    })?;
    send(batch)
}

/// A database's links may lead to parts of it that lie elsewhere: without them its copy would be incomplete, and found to
/// be so only when somebody reads those tables. Sockets and pipes are made anew by whoever needs them.
fn check_skippable(volume: Role, what: &str, path: &RelPath) -> io::Result<()> {
    if volume != Role::Postgres || what != LINK || !is_part_of_cluster(path) {
        return Ok(());
    }
    let why = format!(
        "the database has its log or a tablespace outside its volume ({path}), which cannot be copied; bring it into the volume first"
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// Whether PostgreSQL needs what this link leads to: its log, or a tablespace. (From version 18 on the images keep a cluster
/// in `<version>/docker`.)
fn is_part_of_cluster(path: &RelPath) -> bool {
    let mut names: Vec<&[u8]> = path.bytes().split(|b| *b == b'/').collect();
    if let [_version, b"docker", ..] = names[..] {
        names.drain(..2);
    }
    matches!(names[..], [b"pg_wal"] | [b"pg_tblspc", _])
}

fn entry(volume: PeerVolume, found: &Found) -> FileEntry {
    let size = match found.kind {
        Kind::File { size, .. } => size,
        Kind::Directory | Kind::Other(_) => 0,
    };
    FileEntry {
        volume: volume.into(),
        path: found.path.bytes().to_vec(),
        directory: found.kind == Kind::Directory,
        size,
        mode: found.meta.mode,
        uid: found.meta.uid,
        gid: found.meta.gid,
        mtime_ns: found.meta.mtime_ns,
    }
}

/// Sends files as they are asked for, until nobody asks or listens.
pub(super) fn read(roots: &Roots, wants: &mut Receiver<Want>, out: &Out<ReadResponse>) {
    while let Some(want) = wants.blocking_recv() {
        if let Err(e) = send_file(roots, &want, out) {
            // A file that is gone, or changes, says nothing of the others.
            let changed = matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof
            );
            if changed && roots.is_live() && say(out, read_response::Message::Gone(true)).is_ok() {
                continue;
            }
            let status = match e.kind() {
                io::ErrorKind::NotFound => Status::aborted(format!("{} is gone", want.path)),
                _ => failed(&e),
            };
            let _ = out.blocking_send(Err(status)); // it may have gone
            return;
        }
    }
}

fn say(out: &Out<ReadResponse>, message: read_response::Message) -> io::Result<()> {
    let message = ReadResponse {
        message: Some(message),
    };
    out.blocking_send(Ok(message))
        .map_err(|_gone| io::Error::from(io::ErrorKind::BrokenPipe))
}

fn send_file(roots: &Roots, want: &Want, out: &Out<ReadResponse>) -> io::Result<()> {
    let send = |message| say(out, message);
    let (mut file, size) = roots.of(want.volume)?.file(&want.path)?;
    if size != want.size || want.offset > size {
        let why = format!("{} has changed since it was listed", want.path);
        return Err(io::Error::new(io::ErrorKind::Interrupted, why));
    }
    let mut digest = Sha256::new();
    let mut at = 0u64;
    while at < size {
        // Where the part that is sent begins, a piece begins.
        let end = if at < want.offset { want.offset } else { size };
        let piece = read_piece(&mut file, end - at, &want.path)?;
        digest.update(&piece);
        let before = at;
        at += piece.len() as u64;
        if before >= want.offset {
            send(read_response::Message::Data(piece))?;
        } else if before / WORKING_EVERY != at / WORKING_EVERY {
            send(read_response::Message::Working(true))?;
        }
    }
    // Read once: the tenants' own pages are worth more in memory.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    send(read_response::Message::Sha256(digest.finalize().to_vec()))
}

/// The next piece, of at most `left` bytes.
fn read_piece(file: &mut File, left: u64, path: &RelPath) -> io::Result<Vec<u8>> {
    let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    let mut piece = vec![0; most];
    let read = file.read(&mut piece)?;
    if read == 0 {
        let why = format!("{path} has become shorter while it was read");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    piece.truncate(read);
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Lists a volume of PostgreSQL with one link in it.
    fn listed(link: &str) -> Result<ListEnd, Status> {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            postgres: dir.path().join("pgdata"),
            odoo: dir.path().join("odoo"),
        };
        fs::create_dir(&places.odoo).unwrap();
        let at = places.postgres.join(link);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink("/elsewhere", at).unwrap();
        let (out, mut answers) = tokio::sync::mpsc::channel(8);
        list(&Roots::open(&places, false).unwrap(), &out);
        drop(out);
        let mut end = ListEnd::default();
        while let Some(answer) = answers.blocking_recv() {
            end = answer?.end.unwrap_or(end);
        }
        Ok(end)
    }

    #[test]
    fn what_this_agent_can_never_open_is_not_worth_another_attempt() {
        use rustix::io::Errno;
        for (errno, code) in [
            (Errno::NOSYS, tonic::Code::FailedPrecondition),
            (Errno::XDEV, tonic::Code::FailedPrecondition),
            (Errno::IO, tonic::Code::Aborted),
        ] {
            assert_eq!(failed(&errno.into()).code(), code, "{errno}");
        }
    }

    #[test]
    fn a_link_that_the_database_needs_is_not_skipped() {
        for link in [
            "pg_wal",
            "pg_tblspc/16400",
            "18/docker/pg_wal",
            "18/docker/pg_tblspc/1",
        ] {
            let refused = listed(link).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
            assert!(refused.message().contains(link), "{refused}");
        }
        let end = listed("base/pg_wal").unwrap();
        assert_eq!((end.skipped, end.skipped_examples.len()), (1, 1));
    }
}

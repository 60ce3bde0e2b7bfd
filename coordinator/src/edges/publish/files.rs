//! The documents as files. A file is rewritten as a whole for any change of its document; with shards there is one file
//! for each, and only changed ones are rewritten.
//!
//! Not here: when documents change (publish).

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use isyone_fleet::shards::Shards;
use isyone_monitoring::Job;

use super::{Document, Published};
use crate::base::{config::Config, files};

/// In a separate directory for each shard, which its Traefik watches.
const TRAEFIK_NAME: &str = "isyone.yml";

/// A document that is also written to a file: its kind and its scope.
#[derive(Debug, Clone, Copy)]
enum Which {
    Traefik(usize),
    Targets(Job, usize),
}

/// The file that a document is written to.
#[derive(Debug)]
struct Destination {
    path: PathBuf,
    /// Directory of the unfinished file: outside a watched directory, where it would wake the watcher twice.
    scratch: PathBuf,
    written: Option<String>,
    mode: u32,
}

/// Readable by everyone on the machine: Traefik and Prometheus run as users of their own.
const OPEN: u32 = 0o644;
/// Contains private keys: a reader must run as the coordinator's user.
const PRIVATE: u32 = 0o600;
/// For directories that we create; the files in them have their own mode.
const DIRECTORY: u32 = 0o755;

impl Destination {
    fn new(path: PathBuf, data_dir: &Path, mode: u32) -> Self {
        if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
            // If this fails, each write will report it. The unit's umask would leave others no access.
            let _ = std::fs::create_dir_all(dir)
                .and_then(|()| std::fs::set_permissions(dir, Permissions::from_mode(DIRECTORY)));
        }
        let above = path.parent().and_then(Path::parent).unwrap_or(data_dir);
        let scratch = files::scratch_for(&path, &[data_dir, above]).to_owned();
        Self {
            path,
            scratch,
            written: None,
            mode,
        }
    }

    fn write(&mut self, document: &Document) {
        if self.written.as_deref() == Some(document.etag()) {
            return;
        }
        // After a restart the same content counts as unchanged.
        let same = (self.mode != PRIVATE || files::is_private(&self.path))
            && std::fs::read(&self.path).is_ok_and(|old| is(&old, document));
        let from = |scratch| files::replace_from(scratch, &self.path, document.pieces(), self.mode);
        // systemd mounts each directory that a unit may write onto itself: the file system is the same, yet a rename
        // across fails.
        let write = || match from(&self.scratch) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                from(files::directory(&self.path))
            }
            done => done,
        };
        match if same { Ok(()) } else { write() } {
            Ok(()) => self.written = Some(document.etag().to_owned()),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot be written; tried again")
            }
        }
    }
}

fn is(content: &[u8], document: &Document) -> bool {
    let rest = document
        .pieces()
        .iter()
        .try_fold(content, |rest, piece| rest.strip_prefix(&piece[..]));
    rest.is_some_and(<[u8]>::is_empty)
}

/// The files to write, each with its document.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<(Which, Destination)>);

impl Files {
    /// From the configuration; usually empty.
    pub(super) fn new(config: &Config, shards: &Shards) -> Self {
        let mut files = Vec::new();
        let mut add = |which, path: PathBuf| {
            let mode = match which {
                Which::Traefik(_) if config.publishes_keys() => PRIVATE,
                Which::Traefik(_) | Which::Targets(..) => OPEN,
            };
            files.push((
                which,
                Destination::new(config.data_dir.join(path), &config.data_dir, mode),
            ));
        };
        if let Some(path) = &config.edge.traefik_file {
            add(Which::Traefik(0), path.clone());
        }
        let scopes = || shards.names().iter().zip(1..);
        for (shard, scope) in scopes() {
            if let Some(dir) = &config.edge.traefik_dir {
                add(
                    Which::Traefik(scope),
                    dir.join(shard.as_str()).join(TRAEFIK_NAME),
                );
            }
        }
        if let Some(dir) = &config.monitoring.file_sd_dir {
            for job in Job::ALL {
                let name = format!("{}.json", job.as_str());
                if shards.names().is_empty() {
                    add(Which::Targets(job, 0), dir.join(&name));
                }
                for (shard, scope) in scopes() {
                    add(
                        Which::Targets(job, scope),
                        dir.join(shard.as_str()).join(&name),
                    );
                }
            }
        }
        Self(files)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes each file whose document has changed since the last write. Blocks.
    pub(super) fn write(&mut self, published: &Published) {
        for (which, file) in &mut self.0 {
            let document = match which {
                Which::Traefik(scope) => published.traefik(*scope),
                Which::Targets(job, scope) => published.targets(*job, *scope),
            };
            if let Some(document) = document {
                file.write(document);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt as _, sync::Arc};

    use super::{super::document::Frame, *};

    #[test]
    fn a_file_comes_also_where_no_rename_leads_from_the_scratch_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard/isyone.yml");
        let document = Document::new(Arc::new(Frame::list(["[".into(), "]".into()])), Vec::new());
        let mut file = Destination::new(path.clone(), dir.path(), OPEN);
        let mode = std::fs::metadata(path.parent().unwrap())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, DIRECTORY, "whatever the umask");
        let elsewhere = Path::new("/dev/shm");
        let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
        assert_ne!(device(elsewhere), device(dir.path()), "another file system");
        file.scratch = elsewhere.to_owned();
        file.write(&document);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[]");
        assert_eq!(file.written.as_deref(), Some(document.etag()));
    }
}

//! The way to a tenant's PostgreSQL: the unix socket inside its container, found without following what the container's
//! root may have laid out, and checked to be that container's.
//!
//! Not here: what flows through it (peer::tunnel), what is asked there (cluster).

use std::{io, os::fd::AsRawFd as _, sync::Arc};

use isyone_proto::ids::TenantName;
use tokio::net::UnixStream;
use tonic::async_trait;
use uuid::Uuid;

use super::Host;
use crate::{
    base::{
        beneath::{RelPath, Root},
        fsutil::blocking,
        kernel,
    },
    plan::container::LABEL_UID,
};

/// Where the images' PostgreSQL listens.
const SOCKET: &str = "run/postgresql/.s.PGSQL.5432";

/// Whose database it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of {
    pub tenant: TenantName,
    pub uid: Uuid,
}

/// Whoever can connect to tenants' databases.
#[async_trait]
pub trait Databases: Send + Sync + 'static {
    async fn connect(&self, of: &Of) -> io::Result<UnixStream>;
}

/// Those in containers of this machine.
pub struct ContainerDatabases(pub Arc<Host>);

fn other(why: String) -> io::Error {
    io::Error::other(why)
}

/// Whether a process is one of a container. Ids of processes are used again, so this is asked after each use.
fn belongs(pid: i32, container: &str) -> io::Result<()> {
    if kernel::belongs(pid, container) {
        return Ok(());
    }
    Err(other(format!(
        "process {pid} is not one of container {container}"
    )))
}

#[async_trait]
impl Databases for ContainerDatabases {
    async fn connect(&self, of: &Of) -> io::Result<UnixStream> {
        let name = of.tenant.postgres_container();
        let found = self
            .0
            .docker
            .container(&name)
            .await
            .map_err(io::Error::other)?;
        let container = found
            .filter(|c| c.is_up() && c.label(LABEL_UID) == of.uid.to_string())
            .ok_or_else(|| other(format!("{name} does not run")))?;
        let (pid, id) = (container.pid, container.id);
        let of_container = id.clone();
        let root = blocking(move || {
            let root = Root::of_process(pid)?;
            belongs(pid, &of_container).map(|()| root)
        });
        let stream = connect_below(root.await?, SOCKET).await?;
        let answers = stream.peer_cred()?.pid();
        let answers = answers.ok_or_else(|| other("nobody is known to listen".to_owned()))?;
        blocking(move || belongs(answers, &id)).await?;
        Ok(stream)
    }
}

/// Connects to a socket below a root, through a handle on the very socket that was looked at.
async fn connect_below(root: Root, path: &'static str) -> io::Result<UnixStream> {
    let found = blocking(move || {
        let path = RelPath::parse(path.as_bytes()).map_err(io::Error::other)?;
        root.socket(&path)
    });
    let handle = found.await?;
    UnixStream::connect(format!("/proc/self/fd/{}", handle.as_raw_fd())).await
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_reached_below_its_root_and_a_link_in_its_place_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("container/run/postgresql");
        std::fs::create_dir_all(&below).unwrap();
        let socket = below.join(".s.PGSQL.5432");
        let _listener = UnixListener::bind(&socket).unwrap();
        let root = || Root::open(&dir.path().join("container")).unwrap();
        let stream = connect_below(root(), SOCKET).await.unwrap();
        let pid = stream.peer_cred().unwrap().pid().unwrap();
        assert_eq!(pid.unsigned_abs(), std::process::id());
        assert!(belongs(pid, "no container of this name").is_err());
        assert!(belongs(pid, "").is_err());
        // The container's root puts links in the place of the socket, and of its directory.
        let moved = dir.path().join("elsewhere");
        std::fs::rename(&socket, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &socket).unwrap();
        assert!(connect_below(root(), SOCKET).await.is_err());
        std::fs::remove_dir_all(&below).unwrap();
        std::fs::create_dir(dir.path().join("host")).unwrap();
        std::fs::rename(&moved, dir.path().join("host/.s.PGSQL.5432")).unwrap();
        std::os::unix::fs::symlink("../../host", &below).unwrap();
        assert!(connect_below(root(), SOCKET).await.is_err());
    }
}

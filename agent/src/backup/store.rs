//! Opens tenants' repositories at their destinations. Not here: what is written there.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use isyone_backup::{Error, Job, Key, Repository, Stop, Store, store::StoreError};
use isyone_proto::{
    backup::{Destination, Fault, Place, RepositoryKey, RepositoryRef},
    tls,
};
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::Channel;
use uuid::Uuid;

use super::{cache::Cached, remote::Remote, words::Problem};

/// Makes the way to a tenant's repository.
pub trait Stores: Send + Sync + 'static {
    /// `cache`: a directory for copies of small files. Called within the runtime.
    fn store(
        &self,
        tenant: Uuid,
        destination: &Destination,
        cache: PathBuf,
        stop: &Stop,
    ) -> Result<Arc<dyn Store>, Problem>;
}

/// The coordinator's own destinations.
pub struct CoordinatorStores {
    /// `host:port` of the coordinator.
    endpoint: String,
    /// The newest identity.
    tls: Arc<ArcSwap<ClientConfig>>,
    /// The connection for all of them, once there is something to ship.
    channel: Mutex<Option<Channel>>,
}

impl CoordinatorStores {
    pub fn new(endpoint: String, tls: Arc<ArcSwap<ClientConfig>>) -> Self {
        Self {
            endpoint,
            tls,
            channel: Mutex::default(),
        }
    }

    /// A connection of its own: what is large must not hold up the session.
    fn channel(&self) -> Result<Channel, Problem> {
        let mut held = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = &*held {
            return Ok(channel.clone());
        }
        let channel = tls::bulk_channel(&self.endpoint, self.tls.clone());
        let channel =
            channel.map_err(|_| Problem::new(Fault::Other, "the coordinator's address is none"))?;
        *held = Some(channel.clone());
        Ok(channel)
    }
}

impl Stores for CoordinatorStores {
    fn store(
        &self,
        tenant: Uuid,
        destination: &Destination,
        cache: PathBuf,
        stop: &Stop,
    ) -> Result<Arc<dyn Store>, Problem> {
        match destination.at {
            Place::Coordinator => {
                let of = RepositoryRef {
                    destination: destination.name.clone(),
                    tenant,
                };
                let remote = Remote::new(self.channel()?, of, stop.clone());
                Ok(Arc::new(Cached::new(remote, cache)))
            }
        }
    }
}

/// Opens a repository, or makes it where `make` says so. Blocking.
pub(super) fn open(
    store: Arc<dyn Store>,
    key: &RepositoryKey,
    make: bool,
    job: &Job,
) -> Result<Repository, Error> {
    let key = Key::new(key.bytes());
    let is_none = |error: &Error| match error {
        Error::NoRepository { .. } => true,
        // Its folder is not there. Whether the destination itself is, making it finds out.
        Error::Store {
            source: StoreError::Unreachable(e),
            ..
        } => e.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    };
    match Repository::open(store.clone(), &key) {
        Err(error) if make && is_none(&error) => match Repository::create(store.clone(), &key, job)
        {
            // Another job of this tenant was first.
            Err(
                Error::RepositoryExists { .. }
                | Error::Store {
                    source: StoreError::Exists(_),
                    ..
                },
            ) => Repository::open(store, &key),
            made => made,
        },
        opened => opened,
    }
}

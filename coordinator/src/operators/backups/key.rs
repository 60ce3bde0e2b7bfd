//! What stock restic needs to read a tenant's repositories: for the day on which none of our programs is at hand.
//!
//! Not here: who may ask (access), how keys are kept (base/backup_keys).

use std::sync::Arc;

use isyone_fleet::{change::Command, desired::backups::BackupKey, event::EventKind, state::State};
use isyone_proto::{
    convert::parse,
    echo::echo,
    error::FieldError,
    ids::{ShortName, TenantName},
    pb::v1::{self, RepositoryPlace},
};
use tonic::Status;
use uuid::Uuid;

use super::Api;
use crate::{repositories::places::Place, wire::status};

impl Api {
    pub(super) async fn repository_key(
        &self,
        actor: String,
        asked: &str,
    ) -> Result<v1::RepositoryKey, Status> {
        let state = self.state();
        let key = find(&state, asked)?;
        let opened = self.parts.sealer.open_backup_key(key);
        let opened = opened.map_err(|e| status::seal(&e))?;
        // Record who asked before revealing anything.
        let is_there = state.fleet.tenants.get(&key.name);
        let kind = EventKind::BackupKeyRead;
        let audit = match is_there.filter(|tenant| tenant.uid == key.tenant) {
            Some(tenant) => Command::Audit {
                kind,
                tenant: tenant.name.clone(),
                message: String::new(),
            },
            None => Command::Note {
                kind,
                host: None,
                message: format!(
                    "of the tenant `{}` that was deleted, {}",
                    key.name, key.tenant
                ),
            },
        };
        let done = self.parts.handle.submit(actor, audit).await;
        done.map_err(status::submit)?;
        let places = &self.parts.upkeep.places;
        let place = |(name, place): (&ShortName, &Place)| RepositoryPlace {
            destination: name.to_string(),
            path: place.repository(key.tenant).display().to_string(),
        };
        Ok(v1::RepositoryKey {
            tenant: key.name.to_string(),
            tenant_uid: key.tenant.to_string(),
            password: isyone_backup::Key::new(opened.bytes()).restic_password(),
            places: places.iter().map(place).collect(),
        })
    }
}

/// By its uid, or by the name of the tenant that there is, or else of the last that there was.
fn find<'a>(state: &'a State, asked: &str) -> Result<&'a BackupKey, Status> {
    if asked.is_empty() {
        return Err(FieldError::new("tenant", "must be set").into());
    }
    let keys = &state.fleet.backup_keys;
    let found = match asked.parse::<Uuid>() {
        Ok(uid) => keys.get(&uid),
        Err(_) => by_name(state, &parse("tenant", asked)?),
    };
    found.map(AsRef::as_ref).ok_or_else(|| {
        let why = format!("there is no key of backups of `{}`", echo(asked));
        status::not_found("BACKUP_KEY_NOT_FOUND", why)
    })
}

fn by_name<'a>(state: &'a State, name: &TenantName) -> Option<&'a Arc<BackupKey>> {
    let keys = &state.fleet.backup_keys;
    let living = state.fleet.tenants.get(name);
    let living = living.and_then(|tenant| keys.get(&tenant.uid));
    let gone = || {
        let of = keys.values().filter(|key| key.name == *name);
        of.max_by_key(|key| key.made_at)
    };
    living.or_else(gone)
}

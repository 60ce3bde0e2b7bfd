//! Restoring a backup as a new tenant: what is asked for, checked.
//!
//! Not here: which backup that is (isyone_fleet::backups), and the rest (isyone_fleet::change).

use std::sync::Arc;

use isyone_fleet::{
    backups::Wanted,
    change::{Command, RestoreTenant},
    desired::backups::TenantBackups,
    state::State,
    views,
};
use isyone_proto::{
    convert::{parse, parse_optional, unix_ms},
    error::FieldError,
    ids::TenantName,
    pb::v1::{self, restore_backup_request::To},
};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{Api, by_id, existing, is_id, listed};
use crate::{operators::request_id, wire::status};

impl Api {
    pub(super) async fn restore(
        &self,
        actor: String,
        asked: v1::RestoreBackupRequest,
    ) -> Result<Response<v1::Operation>, Status> {
        // What is asked for is read whole before anything is looked up: whoever asks wrongly hears of that.
        let source: TenantName = parse("tenant", &asked.tenant)?;
        let name: TenantName = parse("new_name", &asked.new_name)?;
        let destination = parse_optional("destination", &asked.destination)?;
        let host = parse_optional("host", &asked.host)?;
        let request_id = request_id(asked.request_id)?;
        let state = self.state();
        let wanted = wanted(&state, &source, asked.to.as_ref())?;
        source_of(&state, &source)?;
        let uid = Uuid::now_v7();
        let restore = RestoreTenant {
            source,
            wanted,
            destination,
            secrets: self.parts.sealer.new_secrets(&name, uid),
            name,
            uid,
            host,
            live: asked.live,
            as_new: asked.as_new,
            request_id,
        };
        let command = Command::RestoreTenant(Box::new(restore));
        self.operation(actor, command).await
    }
}

/// The uid of who was backed up. Of a tenant that was deleted by a version before nothing says any more how it ran; what it had can be
/// read all the same, as long as its key is kept.
fn source_of(state: &State, name: &TenantName) -> Result<Uuid, Status> {
    let fleet = &state.fleet;
    if let Some(tenant) = fleet.tenants.get(name) {
        return Ok(tenant.uid);
    }
    if let Some((of, _)) = views::gone(state, name, None) {
        return Ok(of.tenant);
    }
    let kept = |of: &&Arc<TenantBackups>| {
        of.name == *name && of.shredded_at.is_none() && fleet.backup_keys.contains_key(&of.tenant)
    };
    let gone = fleet.backups.values().filter(kept).map(|of| of.tenant);
    match gone.max() {
        Some(uid) => Err(status::not_found(
            "TENANT_NOT_FOUND",
            format!(
                "there is no tenant `{name}` any more, and what it was is not known; what is kept of its backups is read by stock restic: \
                 `isyctl backup key {uid}` prints what that needs, and \"Restoring a tenant\" in docs/operations.md says what is where"
            ),
        )),
        None => existing(state, name).map(|tenant| tenant.uid),
    }
}

fn wanted(state: &State, source: &TenantName, to: Option<&To>) -> Result<Wanted, Status> {
    match to {
        Some(To::Latest(true)) => Ok(Wanted::Latest),
        Some(To::BackupId(id)) => {
            is_id("backup_id", id)?;
            let uid = source_of(state, source)?;
            let own = state.fleet.backups.get(&uid).into_iter();
            let all = listed(state, Some(source));
            // Who asks again for one that came back under its name since: the core knows the request.
            let (_, _, snapshot) = by_id("backup_id", id, own)
                .or_else(|miss| by_id("backup_id", id, all.iter()).map_err(|_| miss))?;
            Ok(Wanted::Backup(snapshot.name))
        }
        Some(To::Time(time)) => Ok(Wanted::Time(unix_ms(time))),
        Some(To::Latest(false)) | None => Err(FieldError::new("to", "must be set").into()),
    }
}

#[cfg(test)]
mod tests {
    use isyone_fleet::desired::{Fleet, Sealed, backups::BackupKey};

    use super::*;

    #[test]
    fn who_asks_for_a_deleted_tenant_hears_how_its_backups_are_read() {
        let (name, uid): (TenantName, _) = ("alfa".parse().unwrap(), Uuid::from_u128(7));
        let mut fleet = Fleet::default();
        let of = TenantBackups::new(uid, name.clone());
        fleet.backups.insert(uid, Arc::new(of));
        let said = |fleet: &Fleet| {
            let refused = source_of(&State::new(fleet.clone(), 0), &name).unwrap_err();
            refused.message().to_owned()
        };
        assert_eq!(said(&fleet), "there is no tenant `alfa`", "its key is gone");
        let key = BackupKey {
            tenant: uid,
            name: name.clone(),
            key: Sealed("key".into()),
            made_at: 0,
            delete_at: Some(1),
        };
        fleet.backup_keys.insert(uid, Arc::new(key));
        let why = said(&fleet);
        assert!(why.contains(&format!("isyctl backup key {uid}")), "{why}");
    }
}

//! Restoring a backup as a new tenant: what is asked for, checked.
//!
//! Not here: which backup that is (isyone_fleet::backups), and the rest (isyone_fleet::change).

use isyone_fleet::{
    backups::Wanted,
    change::{Command, RestoreTenant},
};
use isyone_proto::{
    convert::{parse, parse_optional, unix_ms},
    error::FieldError,
    ids::TenantName,
    pb::v1::{self, restore_backup_request::To},
};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{Api, by_id, find};
use crate::operators::request_id;

impl Api {
    pub(super) async fn restore(
        &self,
        actor: String,
        asked: v1::RestoreBackupRequest,
    ) -> Result<Response<v1::Operation>, Status> {
        let state = self.state();
        let source = find(&state, "tenant", &asked.tenant)?;
        let wanted = match &asked.to {
            Some(To::Latest(true)) => Wanted::Latest,
            Some(To::BackupId(id)) => {
                let own = state.fleet.backups.get(&source.uid).into_iter();
                let (_, _, snapshot) = by_id("backup_id", id, own)?;
                Wanted::Backup(snapshot.name)
            }
            Some(To::Time(time)) => Wanted::Time(unix_ms(time)),
            Some(To::Latest(false)) | None => {
                return Err(FieldError::new("to", "must be set").into());
            }
        };
        let name: TenantName = parse("new_name", &asked.new_name)?;
        let uid = Uuid::now_v7();
        let restore = RestoreTenant {
            source: source.name.clone(),
            wanted,
            destination: parse_optional("destination", &asked.destination)?,
            secrets: self.parts.sealer.new_secrets(&name, uid),
            name,
            uid,
            host: parse_optional("host", &asked.host)?,
            live: asked.live,
            request_id: request_id(asked.request_id)?,
        };
        let command = Command::RestoreTenant(Box::new(restore));
        self.operation(actor, command).await
    }
}

//! Restoring a backup as a new tenant: what is asked for, checked.
//!
//! Not here: which backup that is (isyone_fleet::backups), and the rest (isyone_fleet::change).

use isyone_fleet::{
    backups::Wanted,
    change::{Command, RestoreTenant},
    state::State,
};
use isyone_proto::{
    convert::{parse, parse_optional, unix_ms},
    error::FieldError,
    ids::TenantName,
    pb::v1::{self, restore_backup_request::To},
};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{Api, by_id, existing, is_id};
use crate::operators::request_id;

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
        let source = existing(&state, &source)?;
        let uid = Uuid::now_v7();
        let restore = RestoreTenant {
            source: source.name.clone(),
            wanted,
            destination,
            secrets: self.parts.sealer.new_secrets(&name, uid),
            name,
            uid,
            host,
            live: asked.live,
            request_id,
        };
        let command = Command::RestoreTenant(Box::new(restore));
        self.operation(actor, command).await
    }
}

fn wanted(state: &State, source: &TenantName, to: Option<&To>) -> Result<Wanted, Status> {
    match to {
        Some(To::Latest(true)) => Ok(Wanted::Latest),
        Some(To::BackupId(id)) => {
            is_id("backup_id", id)?;
            let uid = existing(state, source)?.uid;
            let own = state.fleet.backups.get(&uid).into_iter();
            let (_, _, snapshot) = by_id("backup_id", id, own)?;
            Ok(Wanted::Backup(snapshot.name))
        }
        Some(To::Time(time)) => Ok(Wanted::Time(unix_ms(time))),
        Some(To::Latest(false)) | None => Err(FieldError::new("to", "must be set").into()),
    }
}

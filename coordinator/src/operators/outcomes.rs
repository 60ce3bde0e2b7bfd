//! Carries commands about tenants out, and answers with what has come of them.
//!
//! Not here: which command a call means (tenants, standbys and the others).

use isyone_fleet::change::{Command, Outcome};
use isyone_proto::pb::v1;
use tonic::{Response, Status};

use super::{Api, request_id, tenant_name, tenants::unexpected};
use crate::wire::status;

impl Api {
    pub(super) async fn undelete(
        &self,
        actor: String,
        name: &str,
        id: String,
    ) -> Result<Response<v1::Operation>, Status> {
        let (name, request_id) = (tenant_name(name)?, request_id(id)?);
        self.operation(actor, Command::UndeleteTenant { name, request_id })
            .await
    }

    pub(super) async fn operation(
        &self,
        actor: String,
        command: Command,
    ) -> Result<Response<v1::Operation>, Status> {
        match self
            .parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?
        {
            Outcome::Operation(operation) => Ok(Response::new(
                self.shown_operation(&self.state(), &operation),
            )),
            other => Err(unexpected(&other)),
        }
    }

    /// Carries out what changes a tenant without an operation.
    pub(super) async fn changed(
        &self,
        actor: String,
        command: Command,
    ) -> Result<Response<v1::Tenant>, Status> {
        let submitted = self.parts.handle.submit(actor, command).await;
        match submitted.map_err(status::submit)? {
            Outcome::Changed(tenant) => Ok(Response::new(self.shown(&self.state(), &tenant))),
            other => Err(unexpected(&other)),
        }
    }
}

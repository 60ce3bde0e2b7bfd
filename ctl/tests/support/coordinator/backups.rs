//! Backups.

use isyone_proto::{
    error::FieldError,
    pb::v1::{backup_service_server::BackupService, *},
};
use tonic::{Request, Response, Status};

use super::{Answers, Fake, page, stream};
use crate::support::{data, operations};

fn find(tenant: &str) -> Result<Protection, Status> {
    let found = data::protections()
        .into_iter()
        .find(|shown| shown.tenant == tenant);
    found.ok_or_else(|| Status::not_found(format!("there is no tenant `{tenant}`")))
}

#[tonic::async_trait]
impl BackupService for Fake {
    async fn list_protections(
        &self,
        request: Request<ListProtectionsRequest>,
    ) -> Result<Response<ListProtectionsResponse>, Status> {
        let asked = request.into_inner();
        let is_bad = |shown: &Protection| {
            matches!(
                shown.standing(),
                Standing::NotProtected | Standing::NoneMade
            )
        };
        let mut all = data::protections();
        all.retain(|shown| !asked.bad_only || is_bad(shown));
        let (protections, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListProtectionsResponse {
            protections,
            next_page_token,
            buckets: Vec::new(),
        }))
    }
    async fn get_protection(
        &self,
        request: Request<GetProtectionRequest>,
    ) -> Result<Response<Protection>, Status> {
        find(&request.into_inner().tenant).map(Response::new)
    }
    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let asked = request.into_inner();
        let mut all = data::backups();
        all.retain(|backup| asked.tenant.is_empty() || backup.tenant == asked.tenant);
        let (backups, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListBackupsResponse {
            backups,
            next_page_token,
        }))
    }
    async fn get_backup(
        &self,
        request: Request<GetBackupRequest>,
    ) -> Result<Response<Backup>, Status> {
        let id = request.into_inner().id;
        let found = data::backups()
            .into_iter()
            .find(|backup| backup.id.starts_with(&id));
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("there is no backup `{id}`")))
    }
    async fn list_backup_files(
        &self,
        request: Request<ListBackupFilesRequest>,
    ) -> Result<Response<ListBackupFilesResponse>, Status> {
        let asked = request.into_inner();
        let (files, next_page_token) = page(&data::backup_files(&asked.path), &asked.page_token);
        Ok(Response::new(ListBackupFilesResponse {
            files,
            next_page_token,
        }))
    }
    type ReadBackupFileStream = Answers<BackupFileChunk>;
    async fn read_backup_file(
        &self,
        request: Request<ReadBackupFileRequest>,
    ) -> Result<Response<Self::ReadBackupFileStream>, Status> {
        let (whole, parts, end): (u64, &[&'static str], _) =
            match request.into_inner().path.as_str() {
                "manifest.json" => (12, &["", "{\"format\"", ":1}"], Ok(())),
                "cut" => (9, &["", "half"], Ok(())),
                "much" => (2, &["", "more than two"], Ok(())),
                "damaged" => (
                    9,
                    &["", "half"],
                    Err(Status::data_loss(
                        "backup 3f2a9c01 at coordinator is damaged",
                    )),
                ),
                _ => return Err(Status::not_found("there is no `nothing` in it")),
            };
        let chunk = |data: &&'static str| BackupFileChunk {
            bytes: whole,
            data: data.as_bytes().into(),
        };
        Ok(stream(parts.iter().map(chunk).collect(), Some(end)))
    }
    async fn create_backups(
        &self,
        request: Request<CreateBackupsRequest>,
    ) -> Result<Response<CreateBackupsResponse>, Status> {
        let asked = request.into_inner();
        if !asked.all {
            let tenants = asked.tenants;
            return Ok(Response::new(CreateBackupsResponse {
                tenants,
                ..CreateBackupsResponse::default()
            }));
        }
        let refused = BackupRefused {
            tenant: "delta".into(),
            reason: "the agent of its host makes none: it is of a version before".into(),
        };
        Ok(Response::new(CreateBackupsResponse {
            tenants: vec!["alfa".into(), "new".into()],
            refused: vec![refused],
            refused_count: 3,
        }))
    }
    async fn verify_backups(
        &self,
        request: Request<VerifyBackupsRequest>,
    ) -> Result<Response<VerifyBackupsResponse>, Status> {
        let asked = request.into_inner();
        if !asked.all {
            let tenants = asked.tenants;
            return Ok(Response::new(VerifyBackupsResponse {
                tenants,
                ..VerifyBackupsResponse::default()
            }));
        }
        let refused = BackupRefused {
            tenant: "gama".into(),
            reason: "there is no backup yet: `isyctl backup create` makes one".into(),
        };
        Ok(Response::new(VerifyBackupsResponse {
            tenants: vec!["alfa".into(), "beta".into()],
            refused: vec![refused],
            refused_count: 1,
        }))
    }
    async fn prune_backups(
        &self,
        request: Request<PruneBackupsRequest>,
    ) -> Result<Response<PruneBackupsResponse>, Status> {
        let asked = request.into_inner();
        if asked.destination == "nowhere" {
            return Err(FieldError::new("destination", "there is none").into());
        }
        let forgotten = |digits: &str, purpose: &str, days: i64| ForgottenSnapshot {
            id: digits.repeat(8),
            time: data::ago(days * 86_400),
            purpose: purpose.into(),
        };
        let pruned = Pruned {
            destination: "coordinator".into(),
            kept: 2040,
            forgotten: vec![
                forgotten("a1a1a1a1", "base", 9),
                forgotten("b2b2b2b2", "increment", 9),
            ],
            forgotten_count: 2,
        };
        Ok(Response::new(PruneBackupsResponse {
            destinations: vec![pruned],
        }))
    }
    async fn get_repository_key(
        &self,
        request: Request<GetRepositoryKeyRequest>,
    ) -> Result<Response<RepositoryKey>, Status> {
        Ok(Response::new(RepositoryKey {
            tenant: request.into_inner().tenant,
            tenant_uid: "01930000-0000-7000-8000-000000000001".into(),
            password: "5ec3e7".repeat(4),
            places: vec![RepositoryPlace {
                destination: "coordinator".into(),
                path: "/var/lib/isyone/backups/01930000-0000-7000-8000-000000000001".into(),
            }],
        }))
    }
    async fn return_tenant(
        &self,
        _: Request<ReturnTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        let begun = operations::operation(16, OperationKind::Restore, "alfa");
        Ok(Response::new(begun))
    }
    async fn restore_backup(
        &self,
        request: Request<RestoreBackupRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asked = request.into_inner();
        match asked.to {
            Some(restore_backup_request::To::Latest(true)) => {}
            _ => {
                let why = "tenant `alfa` cannot be restored: what was committed after 2026-11-27T14:03:22Z is not in its backups";
                return Err(Status::failed_precondition(why));
            }
        }
        let begun = operations::operation(19, OperationKind::Restore, &asked.new_name);
        Ok(Response::new(begun))
    }
}

//! `TenantService`: creates, changes, stops, shows and lists tenants.
//!
//! Not here: its streaming calls (exec), who gets in at the edge (tenant_access), what any change means
//! (isyone_fleet::change).

use std::ops::Bound;

use isyone_fleet::{
    change::{ChangeError, Command, CreateTenant, Outcome, SetOdoo, Stamp},
    desired::Tenant,
    state::State,
    views,
};
use isyone_proto::{
    convert::{parse, parse_optional, settings},
    error::FieldError,
    ids::{HostName, ShortName, TenantName},
    known,
    pb::v1::{self, tenant_service_server::TenantService},
};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    Answers, Api, admin_only, caller, now, page_size, request_id, spec, standbys, steady,
    tenant_name,
};
use crate::{
    wire::{reader::Reader, shown, status},
    writer::SubmitError,
};

/// Most tenants examined for one page, so that a rare filter on a large fleet stays a short call; the client continues
/// with the token.
const MAX_SCAN: usize = 20_000;

impl Api {
    pub(super) fn tenant<'a>(
        &self,
        state: &'a State,
        name: &TenantName,
    ) -> Result<&'a Tenant, Status> {
        let found = state.fleet.tenants.get(name).map(AsRef::as_ref);
        found.ok_or_else(|| {
            status::submit(SubmitError::Refused(ChangeError::TenantNotFound(
                name.clone(),
            )))
        })
    }
}

/// The writer returned another kind of outcome than the command's own: our bug, not the caller's.
pub(super) fn unexpected(outcome: &Outcome) -> Status {
    tracing::error!(?outcome, "unexpected outcome");
    Status::internal("the coordinator gave itself an answer that it does not understand")
}

#[tonic::async_trait]
impl TenantService for Api {
    async fn create_tenant(
        &self,
        request: Request<v1::CreateTenantRequest>,
    ) -> Result<Response<v1::CreateTenantResponse>, Status> {
        let caller = caller(&request)?;
        let actor = caller.to_string();
        let asked = request.into_inner();
        let name = tenant_name(&asked.name)?;
        let settings = self.parts.handle.settings();
        let state = self.state();
        let has = state.fleet.tenants.get(&name).map(|tenant| &tenant.spec);
        if has.is_none() {
            known::new_tenant(&name).map_err(|e| FieldError::new("name", e.to_string()))?;
        }
        let (spec, size) = spec::tenant_spec(settings, asked.spec.unwrap_or_default(), has)
            .map_err(|e| e.within("spec"))?;
        let images = &self.parts.config.images;
        let (odoo, postgres) = (Some(&spec.odoo_image), Some(&spec.postgres_image));
        if let Some((field, remedy)) = spec::admins_image(settings, images, odoo, postgres) {
            admin_only(&caller, &format!("spec.{field}"), &remedy)?;
        }
        // Used only if the tenant does not exist yet.
        let uid = Uuid::now_v7();
        let create = CreateTenant {
            secrets: self.parts.sealer.new_secrets(&name, uid),
            name: name.clone(),
            uid,
            spec,
            size,
            request_id: request_id(asked.request_id)?,
            force: asked.force,
            dry_run: asked.dry_run,
        };
        let command = Command::CreateTenant(Box::new(create));
        let handle = &self.parts.handle;
        let outcome = if asked.dry_run {
            // Examines every host: keep that off the writer.
            handle.rehearse(
                &Stamp {
                    now: now(),
                    steady: steady(),
                    id: Uuid::now_v7(),
                    actor,
                },
                command,
            )
        } else {
            handle.submit(actor, command).await
        };
        let outcome = outcome.map_err(status::submit)?;
        let state = self.state();
        Ok(Response::new(match outcome {
            Outcome::Tenant {
                tenant,
                operation,
                decision,
                existed,
            } => v1::CreateTenantResponse {
                placement: Some(shown::placement(
                    &name,
                    &decision,
                    Some(&tenant.placement.reason),
                )),
                operation: operation.map(|o| self.shown_operation(&state, &o)),
                tenant: Some(self.shown(&state, &tenant)),
                existed,
            },
            Outcome::NoHost(decision) => v1::CreateTenantResponse {
                placement: Some(shown::placement(&name, &decision, None)),
                ..v1::CreateTenantResponse::default()
            },
            other => return Err(unexpected(&other)),
        }))
    }

    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        let reader = Reader::of(&request)?;
        let name = tenant_name(&request.get_ref().name)?;
        let state = self.state();
        let tenant = self.tenant(&state, &name)?;
        Ok(Response::new(reader.tenant(self.shown(&state, tenant))))
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        let reader = Reader::of(&request)?;
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let pages = self.pages(
            "tenants",
            &[
                &asked.host,
                &asked.phase.to_string(),
                &asked.show_deleted.to_string(),
            ],
        );
        let after: Option<TenantName> = pages.after(&asked.page_token)?;
        let host: Option<HostName> = parse_optional("host", &asked.host)?;
        let phase = v1::TenantPhase::try_from(asked.phase)
            .map_err(|_| FieldError::new("phase", format!("unknown phase {}", asked.phase)))?;
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut answer = v1::ListTenantsResponse {
            // They are large: a page that grows is copied again and again.
            tenants: Vec::with_capacity(size.min(state.fleet.tenants.len())),
            ..v1::ListTenantsResponse::default()
        };
        let mut last: Option<&TenantName> = None;
        for (scanned, (name, tenant)) in state
            .fleet
            .tenants
            .range((from, Bound::Unbounded))
            .enumerate()
        {
            if answer.tenants.len() == size || scanned == MAX_SCAN {
                answer.next_page_token = pages.next(last.map(TenantName::as_str));
                break;
            }
            last = Some(name);
            let here = host.as_ref().is_none_or(|h| {
                // A copy that a move has left is shown with what else is deleted and kept.
                *h == tenant.placement.host || (asked.show_deleted && tenant.copy_on(h).is_some())
            });
            if !here || (tenant.is_deleted() && !asked.show_deleted) {
                continue;
            }
            let shown = self.shown(&state, tenant);
            if phase == v1::TenantPhase::Unspecified || shown.phase() == phase {
                answer.tenants.push(reader.tenant(shown));
            }
        }
        Ok(Response::new(answer))
    }

    async fn explain_tenant(
        &self,
        request: Request<v1::ExplainTenantRequest>,
    ) -> Result<Response<v1::Placement>, Status> {
        let name = tenant_name(&request.get_ref().name)?;
        let state = self.state();
        let tenant = self.tenant(&state, &name)?;
        let decision = spec::today(&state, self.parts.handle.settings(), tenant);
        let mut table = shown::placement(&name, &decision, Some(&tenant.placement.reason));
        // Show where the tenant is, not where it would go today: that is the table's first row.
        table.host = tenant.placement.host.to_string();
        Ok(Response::new(table))
    }

    async fn get_credentials(
        &self,
        request: Request<v1::GetCredentialsRequest>,
    ) -> Result<Response<v1::Credentials>, Status> {
        let actor = caller(&request)?.to_string();
        let name = tenant_name(&request.get_ref().name)?;
        let state = self.state();
        let tenant = self.tenant(&state, &name)?;
        let secrets = self
            .parts
            .sealer
            .open_secrets(tenant)
            .map_err(|e| status::seal(&e))?;
        // Record who asked before revealing anything.
        let audit = Command::Audit {
            kind: isyone_fleet::event::EventKind::CredentialsRead,
            tenant: name.clone(),
            message: String::new(),
        };
        self.parts
            .handle
            .submit(actor, audit)
            .await
            .map_err(status::submit)?;
        let settings = self.parts.handle.settings();
        Ok(Response::new(v1::Credentials {
            url: views::address(&state, settings, tenant),
            login: tenant.spec.admin_login.to_string(),
            password: secrets.admin_password.expose().to_owned(),
            master_password: secrets.master_password.expose().to_owned(),
            database: name.database(),
            database_user: "odoo".to_owned(),
            database_password: secrets.database_password.expose().to_owned(),
        }))
    }

    async fn restart_tenant(
        &self,
        request: Request<v1::RestartTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let command = Command::RestartTenant {
            name: tenant_name(&asked.name)?,
            database: asked.with_database,
            settings: asked.with_settings,
            request_id: request_id(asked.request_id)?,
        };
        self.operation(actor, command).await
    }

    async fn suspend_tenant(
        &self,
        request: Request<v1::SuspendTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let (name, request_id) = (tenant_name(&asked.name)?, request_id(asked.request_id)?);
        self.operation(
            actor,
            Command::SuspendTenant {
                name,
                request_id,
                cancel_running: asked.cancel_running,
            },
        )
        .await
    }

    async fn resume_tenant(
        &self,
        request: Request<v1::ResumeTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let (name, request_id) = (tenant_name(&asked.name)?, request_id(asked.request_id)?);
        self.operation(actor, Command::ResumeTenant { name, request_id })
            .await
    }

    async fn resize_tenant(
        &self,
        request: Request<v1::ResizeTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let command = Command::ResizeTenant {
            name: tenant_name(&asked.name)?,
            plan: parse::<ShortName>("plan", &asked.plan)?,
            request_id: request_id(asked.request_id)?,
        };
        self.operation(actor, command).await
    }

    async fn upgrade_tenant(
        &self,
        request: Request<v1::UpgradeTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let odoo = parse_optional("odoo_image", &asked.odoo_image)?;
        let postgres = parse_optional("postgres_image", &asked.postgres_image)?;
        let (settings, images) = (self.parts.handle.settings(), &self.parts.config.images);
        if let Some((field, remedy)) =
            spec::admins_image(settings, images, odoo.as_ref(), postgres.as_ref())
        {
            admin_only(&caller, field, &remedy)?;
        }
        let command = Command::UpgradeTenant {
            name: tenant_name(&asked.name)?,
            odoo,
            postgres,
            request_id: request_id(asked.request_id)?,
        };
        self.operation(caller.to_string(), command).await
    }

    async fn delete_tenant(
        &self,
        request: Request<v1::DeleteTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let (name, request_id) = (tenant_name(&asked.name)?, request_id(asked.request_id)?);
        self.operation(
            actor,
            Command::DeleteTenant {
                name,
                purge: asked.purge,
                request_id,
                cancel_running: asked.cancel_running,
            },
        )
        .await
    }

    async fn undelete_tenant(
        &self,
        request: Request<v1::UndeleteTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        self.undelete(actor, &asked.name, asked.request_id).await
    }

    async fn move_tenant(
        &self,
        request: Request<v1::MoveTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        self.order_move(actor, request.into_inner()).await
    }

    async fn add_standby(
        &self,
        request: Request<v1::AddStandbyRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        let actor = caller(&request)?.to_string();
        let command = standbys::add(request.get_ref())?;
        self.changed(actor, command).await
    }

    async fn fail_over_tenant(
        &self,
        request: Request<v1::FailOverTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let command = standbys::fail_over(request.into_inner())?;
        self.operation(actor, command).await
    }

    async fn remove_standby(
        &self,
        request: Request<v1::RemoveStandbyRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        let actor = caller(&request)?.to_string();
        let name = tenant_name(&request.into_inner().name)?;
        self.changed(actor, Command::RemoveStandby { name }).await
    }

    /// The old name of `undelete_tenant`; see the protocol.
    async fn restore_tenant(
        &self,
        request: Request<v1::RestoreTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        self.undelete(actor, &asked.name, asked.request_id).await
    }

    async fn get_access(
        &self,
        request: Request<v1::GetAccessRequest>,
    ) -> Result<Response<v1::TenantAccess>, Status> {
        self.access(&request.get_ref().name).map(Response::new)
    }

    async fn set_access(
        &self,
        request: Request<v1::SetAccessRequest>,
    ) -> Result<Response<v1::SetAccessResponse>, Status> {
        let actor = caller(&request)?.to_string();
        self.change_access(actor, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn set_mail(
        &self,
        request: Request<v1::SetMailRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        self.change_mail(actor, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn set_odoo_settings(
        &self,
        request: Request<v1::SetOdooSettingsRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let unset = asked.unset.iter().map(|name| parse("unset", name));
        let set = SetOdoo {
            name: tenant_name(&asked.name)?,
            set: settings("set", asked.set)?,
            unset: unset.collect::<Result<_, _>>()?,
            request_id: request_id(asked.request_id)?,
        };
        self.operation(actor, Command::SetOdoo(Box::new(set))).await
    }

    type ReadMailStream = Answers<v1::CaughtMail>;

    async fn read_mail(
        &self,
        request: Request<v1::ReadMailRequest>,
    ) -> Result<Response<Self::ReadMailStream>, Status> {
        let actor = caller(&request)?.to_string();
        self.caught_mail(actor, request.into_inner())
            .await
            .map(Response::new)
    }

    type StreamLogsStream = Answers<v1::LogChunk>;

    async fn stream_logs(
        &self,
        request: Request<v1::StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        self.logs(request.into_inner()).await.map(Response::new)
    }

    type ExecStream = Answers<v1::ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<v1::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let caller = caller(&request)?;
        self.run(caller, request.into_inner())
            .await
            .map(Response::new)
    }
}

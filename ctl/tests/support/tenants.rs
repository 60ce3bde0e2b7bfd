//! The canned coordinator's tenants. The name selects the behaviour: `full` fits nowhere, `bad` is refused, `picky`
//! looks at values as a coordinator does, `taken` exists with another spec, `denied` needs another role, `broken` fails, `slow` never ends, `flaky` loses its first
//! answer, `busy` is refused for load at first and `swamped` always, `occupied` has an operation under way, `moved`
//! has copies elsewhere and is short of everything.

use std::sync::atomic::Ordering;

use isyone_proto::{
    error::{self, FieldError},
    pb::v1::{exec_request::Message as In, tenant_service_server::TenantService, *},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    coordinator::{Answers, Fake, page, stream},
    data, odoo, operations, programs,
    refusals::{busy, no_host_fits, occupied, other_edition},
    values,
};

fn find(name: &str) -> Result<Tenant, Status> {
    match name {
        "denied" => Err(Status::permission_denied(
            "this needs the role operator; `ci` is viewer",
        )),
        "gone" => Err(Status::unauthenticated(
            "the certificate of `ana` was revoked",
        )),
        "away" => Err(Status::unavailable("host `h3` is not connected")),
        "hang" => Err(Status::deadline_exceeded("the host did not answer in time")),
        "missing" => Err(Status::not_found("there is no tenant `missing`")),
        "secure" => Ok(Tenant {
            url: "https://secure.isy.one".into(),
            hostnames: vec!["secure.isy.one".into()],
            ..data::tenant(name)
        }),
        "moved" => Ok(Tenant {
            copies: data::copies(),
            strain: Some(data::strain()),
            ..data::tenant(name)
        }),
        _ => Ok(data::tenants()
            .into_iter()
            .chain(data::followed())
            .find(|tenant| tenant.name == name)
            .unwrap_or_else(|| data::tenant(name))),
    }
}

fn operation_number(name: &str) -> u32 {
    match name {
        "broken" => 2,
        "slow" => 3,
        _ => 1,
    }
}

fn start(name: &str, kind: OperationKind) -> Result<Response<Operation>, Status> {
    if name == "occupied" {
        return Err(occupied(name));
    }
    start_anyway(name, kind)
}

/// Whatever is under way on the tenant.
fn start_anyway(name: &str, kind: OperationKind) -> Result<Response<Operation>, Status> {
    find(name)?;
    Ok(Response::new(operations::operation(
        operation_number(name),
        kind,
        name,
    )))
}

#[tonic::async_trait]
impl TenantService for Fake {
    type StreamLogsStream = Answers<LogChunk>;
    type ExecStream = Answers<ExecResponse>;

    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Result<Response<CreateTenantResponse>, Status> {
        let asked = request.into_inner();
        let name = asked.name.as_str();
        match name {
            "full" if asked.dry_run => {
                let placement = Some(data::nowhere(name));
                return Ok(Response::new(CreateTenantResponse {
                    placement,
                    ..Default::default()
                }));
            }
            "full" => return Err(no_host_fits(name)),
            "bad" => {
                return Err(FieldError::new(
                    "spec.domains[0]",
                    "`x` is not a host name such as `erp.example.com`",
                )
                .into());
            }
            // Judges like the coordinator.
            "picky" => return Err(values::unknown_value(&asked.spec.unwrap_or_default())),
            "taken" => {
                let message =
                    "tenant `taken` exists with another spec: plan is `small`, not `large`";
                return Err(error::status(
                    Code::AlreadyExists,
                    "TENANT_EXISTS",
                    message,
                    Default::default(),
                ));
            }
            "fixed" => {
                let message = "tenant `fixed` exists with another spec (plan: small → large, language: en_US → pt_BR); \
                               --force applies --plan, the data is kept; --lang cannot be changed after the creation, \
                               not even with --force";
                let fixed = [("fixed".to_owned(), "language".to_owned())];
                let metadata = fixed.into_iter().collect();
                return Err(error::status(
                    Code::AlreadyExists,
                    "TENANT_EXISTS",
                    message,
                    metadata,
                ));
            }
            // Busy twice, then it answers.
            "busy" => {
                let mut seen = self.request_ids_busy.lock().unwrap();
                seen.push(asked.request_id.clone());
                if seen.len() <= 2 {
                    return Err(busy());
                }
            }
            "swamped" => return Err(busy()),
            "flaky" => {
                let mut seen = self.request_ids.lock().unwrap();
                seen.push(asked.request_id.clone());
                if seen.len() == 1 {
                    return Err(Status::unavailable("the answer was lost"));
                }
            }
            _ => {}
        }
        find(name)?;
        let operation = operations::operation(operation_number(name), OperationKind::Create, name);
        Ok(Response::new(CreateTenantResponse {
            tenant: Some(data::tenant(name)),
            operation: (!asked.dry_run).then_some(operation),
            placement: Some(data::placement(name)),
            existed: name == "again",
        }))
    }

    async fn get_tenant(
        &self,
        request: Request<GetTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        if request.get_ref().name == "busy" && self.reads.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(busy());
        }
        find(&request.into_inner().name).map(Response::new)
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let asked = request.into_inner();
        let all: Vec<Tenant> = data::tenants()
            .into_iter()
            .filter(|t| asked.host.is_empty() || t.host == asked.host)
            .filter(|t| asked.show_deleted || t.quarantine_expire_time.is_none())
            .filter(|t| asked.phase == 0 || t.phase == asked.phase)
            .collect();
        let (tenants, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListTenantsResponse {
            tenants,
            next_page_token,
        }))
    }

    async fn explain_tenant(
        &self,
        request: Request<ExplainTenantRequest>,
    ) -> Result<Response<Placement>, Status> {
        let name = request.into_inner().name;
        find(&name)?;
        let original_reason = "h2: least loaded of 3 (12 % against 20 %)".into();
        Ok(Response::new(Placement {
            original_reason,
            ..data::placement(&name)
        }))
    }

    async fn get_credentials(
        &self,
        request: Request<GetCredentialsRequest>,
    ) -> Result<Response<Credentials>, Status> {
        let name = request.into_inner().name;
        find(&name)?;
        Ok(Response::new(data::credentials(&name)))
    }

    async fn get_access(
        &self,
        request: Request<GetAccessRequest>,
    ) -> Result<Response<TenantAccess>, Status> {
        let tenant = find(&request.into_inner().name)?;
        let open = TenantAccess {
            rate: Some(RequestRate {
                average: 100,
                burst: 300,
            }),
            ..Default::default()
        };
        Ok(Response::new(tenant.access.unwrap_or(open)))
    }

    /// Returns the request's values; of a password only its length.
    async fn set_mail(
        &self,
        request: Request<SetMailRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asked = request.into_inner();
        find(&asked.name)?;
        let settings = asked.settings.unwrap_or_default();
        if settings.host == "nowhere" {
            let problem = "`nowhere` is no mail server such as `smtp.example.com`";
            return Err(FieldError::new("settings.host", problem).into());
        }
        if !settings.user.is_empty() && asked.password.is_none() {
            let problem = "must be given with another server or login";
            return Err(FieldError::new("password", problem).into());
        }
        start(&asked.name, OperationKind::Restart)
    }

    async fn set_odoo_settings(
        &self,
        request: Request<SetOdooSettingsRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asked = request.into_inner();
        find(&asked.name)?;
        if asked.set.contains_key("admin_passwd") {
            let problem =
                "`admin_passwd` is no setting that may be chosen; these are: db_maxconn, log_level";
            return Err(FieldError::new("set", problem).into());
        }
        start(&asked.name, OperationKind::Restart)
    }

    type ReadMailStream = ReceiverStream<Result<CaughtMail, Status>>;

    async fn read_mail(
        &self,
        request: Request<ReadMailRequest>,
    ) -> Result<Response<Self::ReadMailStream>, Status> {
        let asked = request.into_inner();
        find(&asked.name)?;
        let (to, from) = tokio::sync::mpsc::channel(4);
        for mail in odoo::caught(&asked.id) {
            to.try_send(Ok(mail)).unwrap();
        }
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn set_access(
        &self,
        request: Request<SetAccessRequest>,
    ) -> Result<Response<SetAccessResponse>, Status> {
        let asked = request.into_inner();
        find(&asked.name)?;
        if asked.name == "bad" {
            let problem = "`nonsense` is no address or network such as 203.0.113.0/24";
            return Err(FieldError::new("networks[0]", problem).into());
        }
        let user = asked.put_user.unwrap_or_default();
        let (own, average, burst) = match asked.rate_choice {
            Some(set_access_request::RateChoice::Rate(rate)) => (true, rate.average, rate.burst),
            _ => (false, 100, 300),
        };
        let users = [user.name.clone()]
            .into_iter()
            .filter(|name| !name.is_empty());
        let length = match user.password.len() {
            0 => vec![],
            n => vec![format!("(password of {n})")],
        };
        let gone = asked
            .remove_users
            .iter()
            .map(|name| format!("(without {name})"));
        let generated = !user.name.is_empty() && user.password.is_empty();
        Ok(Response::new(SetAccessResponse {
            access: Some(TenantAccess {
                networks: asked.networks.map(|n| n.networks).unwrap_or_default(),
                users: users.chain(length).chain(gone).collect(),
                rate: Some(RequestRate { average, burst }),
                own_rate: own,
            }),
            generated_password: if generated {
                "MadeByTheCoordinator1234".into()
            } else {
                String::new()
            },
        }))
    }

    async fn restart_tenant(
        &self,
        request: Request<RestartTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        start(&request.into_inner().name, OperationKind::Restart)
    }
    async fn suspend_tenant(
        &self,
        request: Request<SuspendTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asked = request.into_inner();
        let start = if asked.cancel_running {
            start_anyway
        } else {
            start
        };
        start(&asked.name, OperationKind::Suspend)
    }
    async fn resume_tenant(
        &self,
        request: Request<ResumeTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        start(&request.into_inner().name, OperationKind::Resume)
    }
    async fn resize_tenant(
        &self,
        request: Request<ResizeTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asked = request.into_inner();
        if asked.plan == "huge" {
            return Err(
                FieldError::new("plan", "there is no plan `huge`: small, standard, large").into(),
            );
        }
        start(&asked.name, OperationKind::Resize)
    }
    async fn upgrade_tenant(
        &self,
        request: Request<UpgradeTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asked = request.into_inner();
        find(&asked.name)?;
        let number = match (asked.name.as_str(), asked.odoo_image.as_str()) {
            (name, "odoo:19.0") => return Err(other_edition(name)),
            (_, "nowhere:18.0") => 17,
            ("same", _) => 16,
            _ => 18,
        };
        let mut begun = operations::operation(number, OperationKind::Upgrade, &asked.name);
        begun.steps.clear();
        Ok(Response::new(begun))
    }
    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asked = request.into_inner();
        let start = if asked.cancel_running {
            start_anyway
        } else {
            start
        };
        start(
            &asked.name,
            if asked.purge {
                OperationKind::Purge
            } else {
                OperationKind::Delete
            },
        )
    }
    async fn undelete_tenant(
        &self,
        request: Request<UndeleteTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        start(&request.into_inner().name, OperationKind::Undelete)
    }
    async fn move_tenant(
        &self,
        request: Request<MoveTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asked = request.into_inner();
        if asked.name == "occupied" {
            return Err(occupied(&asked.name));
        }
        find(&asked.name)?;
        let number = if asked.name == "beta" { 17 } else { 15 };
        let begun = operations::operation(number, OperationKind::Move, &asked.name);
        Ok(Response::new(begun))
    }
    async fn add_standby(
        &self,
        request: Request<AddStandbyRequest>,
    ) -> Result<Response<Tenant>, Status> {
        find(&request.into_inner().name).map(Response::new)
    }
    async fn fail_over_tenant(
        &self,
        request: Request<FailOverTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        start(&request.into_inner().name, OperationKind::Move)
    }
    async fn remove_standby(
        &self,
        request: Request<RemoveStandbyRequest>,
    ) -> Result<Response<Tenant>, Status> {
        find(&request.into_inner().name).map(Response::new)
    }
    /// Nobody calls it any more.
    async fn restore_tenant(
        &self,
        _: Request<RestoreTenantRequest>,
    ) -> Result<Response<Operation>, Status> {
        Err(Status::unimplemented("it is UndeleteTenant now"))
    }

    async fn stream_logs(
        &self,
        request: Request<StreamLogsRequest>,
    ) -> Result<Response<Answers<LogChunk>>, Status> {
        let asked = request.into_inner();
        find(&asked.name)?;
        let who = if asked.container == i32::from(ContainerRole::Postgres) {
            "postgres"
        } else {
            "odoo"
        };
        let time = if asked.timestamps {
            "2026-11-23T08:00:00Z "
        } else {
            ""
        };
        let chunk = |text: String, stderr| LogChunk {
            data: text.into_bytes(),
            stderr,
        };
        if asked.name == "noisy" {
            let hostile = "GET /\x1b]0;title\x07\x1b[2J 200\r\nprogress 1%\rü\t\u{9b}1A\n";
            let (first, second) = hostile.split_at(8);
            let chunks = vec![
                chunk(first.to_owned(), false),
                chunk(second.to_owned(), false),
            ];
            return Ok(stream(chunks, Some(Ok(()))));
        }
        let chunks = vec![
            chunk(format!("{time}{who}: the last {} li", asked.tail), true),
            chunk(format!("nes\n{time}{who}: ready\n"), false),
        ];
        Ok(stream(
            chunks,
            if asked.follow { None } else { Some(Ok(())) },
        ))
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Answers<ExecResponse>>, Status> {
        let mut requests = request.into_inner();
        let Some(Ok(ExecRequest {
            message: Some(In::Start(start)),
        })) = requests.next().await
        else {
            return Err(Status::invalid_argument(
                "the first message must be `start`",
            ));
        };
        find(&start.name)?;
        let (to, from) = tokio::sync::mpsc::channel(4);
        tokio::spawn(programs::run(start, requests, to));
        Ok(Response::new(ReceiverStream::new(from)))
    }
}

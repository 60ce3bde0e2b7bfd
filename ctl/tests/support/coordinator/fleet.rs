//! Hosts, operations, events, and the coordinator's own data.

use std::sync::atomic::Ordering;

use isyone_proto::{
    error::status,
    pb::v1::{
        event_service_server::EventService, host_service_server::HostService,
        operation_service_server::OperationService, system_service_server::SystemService, *,
    },
};
use tonic::{Code, Request, Response, Status};

use super::{Answers, Fake, page, stream};
use crate::support::{data, operations};

fn host(name: &str) -> Result<Response<Host>, Status> {
    let found = data::all_hosts().into_iter().find(|host| host.name == name);
    found
        .map(Response::new)
        .ok_or_else(|| Status::not_found(format!("there is no host `{name}`")))
}

#[tonic::async_trait]
impl HostService for Fake {
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let asked = request.into_inner();
        Ok(Response::new(CreateJoinTokenResponse {
            token: format!(
                "isy1.{}.{}.{}",
                "0".repeat(16),
                "a".repeat(64),
                "b".repeat(64)
            ),
            expire_time: data::ago(-i64::from(if asked.ttl_seconds == 0 {
                3600
            } else {
                asked.ttl_seconds
            })),
            enroll_endpoint: "coordinator.example.com:7444".into(),
            id: "0".repeat(16),
        }))
    }
    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        let (tokens, next_page_token) =
            page(&data::join_tokens(), &request.into_inner().page_token);
        Ok(Response::new(ListJoinTokensResponse {
            tokens,
            next_page_token,
        }))
    }
    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        let id = request.into_inner().id;
        match data::join_tokens().iter().find(|token| token.id == id) {
            None => Err(Status::not_found("there is no such join token")),
            Some(token) if !token.used_by.is_empty() => Err(status(
                Code::FailedPrecondition,
                "TOKEN_USED",
                format!(
                    "join token `{id}` was used already, by host `{}`",
                    token.used_by
                ),
                Default::default(),
            )),
            Some(_) => Ok(Response::new(RevokeJoinTokenResponse {})),
        }
    }
    async fn approve_host(
        &self,
        request: Request<ApproveHostRequest>,
    ) -> Result<Response<Host>, Status> {
        host(&request.into_inner().name)
    }
    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let (hosts, next_page_token) = page(&data::all_hosts(), &request.into_inner().page_token);
        Ok(Response::new(ListHostsResponse {
            hosts,
            next_page_token,
        }))
    }
    async fn get_host(&self, request: Request<GetHostRequest>) -> Result<Response<Host>, Status> {
        host(&request.into_inner().name)
    }
    async fn begin_maintenance(
        &self,
        request: Request<BeginMaintenanceRequest>,
    ) -> Result<Response<Host>, Status> {
        let asked = request.into_inner();
        let mut shown = host(&asked.name)?;
        shown.get_mut().cordoned = true;
        shown.get_mut().maintenance = Some(Maintenance {
            until: asked.until,
            reason: asked.reason,
            leaves_tenants: asked.leaves_tenants,
        });
        Ok(shown)
    }
    async fn end_maintenance(
        &self,
        request: Request<EndMaintenanceRequest>,
    ) -> Result<Response<Host>, Status> {
        host(&request.into_inner().name)
    }
    async fn propose_rebalance(
        &self,
        request: Request<ProposeRebalanceRequest>,
    ) -> Result<Response<RebalanceProposal>, Status> {
        let mut proposal = data::proposal();
        // Who makes moves asks for one at a time.
        if request.into_inner().max_moves == 1 {
            let nth = self.asked_for_one.fetch_add(1, Ordering::SeqCst);
            proposal.moves = data::next_move(nth);
        }
        Ok(Response::new(proposal))
    }
    async fn fail_over_host(
        &self,
        request: Request<FailOverHostRequest>,
    ) -> Result<Response<FailOverHostResponse>, Status> {
        let asked = request.into_inner();
        host(&asked.name)?;
        let goes_on = TenantFailOver {
            tenant: "alfa".into(),
            to_host: "h2".into(),
            message: "Host h1 was last heard 73 s ago. Its standby has all of the log of 78.2 s ago (4096 bytes more were known to be written), and files of 91 s ago; what was written later is lost".into(),
            backup_time: data::ago(600),
            operation_id: match asked.is_down {
                true => data::op_id(1),
                false => String::new(),
            },
        };
        let stays = TenantFailOver {
            tenant: "beta".into(),
            message: "tenant `beta` has no standby".into(),
            ..TenantFailOver::default()
        };
        Ok(Response::new(FailOverHostResponse {
            tenants: vec![goes_on, stays],
        }))
    }
    async fn move_standbys(
        &self,
        request: Request<MoveStandbysRequest>,
    ) -> Result<Response<MoveStandbysResponse>, Status> {
        host(&request.into_inner().name)?;
        let made = StandbyMove {
            tenant: "alfa".into(),
            to_host: "h3".into(),
            ..StandbyMove::default()
        };
        let stays = StandbyMove {
            tenant: "beta".into(),
            message: "tenant `beta` can have no standby on any host with room for it".into(),
            ..StandbyMove::default()
        };
        Ok(Response::new(MoveStandbysResponse {
            standbys: vec![made, stays],
        }))
    }
    async fn list_orphans(
        &self,
        request: Request<ListOrphansRequest>,
    ) -> Result<Response<ListOrphansResponse>, Status> {
        let on = request.into_inner().host;
        host(&on)?;
        let orphan = |tenant: &str, kept: bool| Orphan {
            tenant: tenant.into(),
            host: on.clone(),
            lives_on: "h2".into(),
            left_time: data::ago(3_600),
            expire_time: data::ago(-86_400).filter(|_| kept),
            confirmed: kept,
        };
        Ok(Response::new(ListOrphansResponse {
            orphans: vec![orphan("alfa", true), orphan("beta", false)],
        }))
    }
    async fn delete_orphan(
        &self,
        request: Request<DeleteOrphanRequest>,
    ) -> Result<Response<DeleteOrphanResponse>, Status> {
        host(&request.into_inner().host)?;
        Ok(Response::new(DeleteOrphanResponse {}))
    }
    async fn cordon_host(
        &self,
        request: Request<CordonHostRequest>,
    ) -> Result<Response<Host>, Status> {
        host(&request.into_inner().name)
    }
    async fn uncordon_host(
        &self,
        request: Request<UncordonHostRequest>,
    ) -> Result<Response<Host>, Status> {
        host(&request.into_inner().name)
    }
    async fn remove_host(
        &self,
        request: Request<RemoveHostRequest>,
    ) -> Result<Response<RemoveHostResponse>, Status> {
        let found = host(&request.into_inner().name)?.into_inner();
        if found.tenants > 0 {
            let message = format!(
                "{} tenants are placed on host `{}`",
                found.tenants, found.name
            );
            return Err(status(
                Code::FailedPrecondition,
                "HOST_NOT_EMPTY",
                message,
                Default::default(),
            ));
        }
        Ok(Response::new(RemoveHostResponse {}))
    }
}

#[tonic::async_trait]
impl OperationService for Fake {
    type WatchOperationStream = Answers<Operation>;

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let id = request.into_inner().id;
        operations::get(&id)
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("there is no operation {id}")))
    }
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let asked = request.into_inner();
        let all: Vec<Operation> = [12, 11, 8, 7, 6, 5, 2, 1]
            .into_iter()
            .filter_map(|number| operations::get(&data::op_id(number)))
            .filter(|operation| !(asked.active_only && operation.done))
            .filter(|operation| asked.tenant.is_empty() || operation.tenant == asked.tenant)
            .collect();
        let (operations, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListOperationsResponse {
            operations,
            next_page_token,
        }))
    }
    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Result<Response<Answers<Operation>>, Status> {
        let id = request.into_inner().id;
        let first = operations::first(&id);
        if operations::number(&id) == 4 && self.watches.fetch_add(1, Ordering::SeqCst) == 0 {
            return Ok(stream(
                vec![first],
                Some(Err(Status::unavailable("shutting down"))),
            ));
        }
        let stays_open = operations::number(&id) == 3;
        Ok(stream(
            operations::life(first),
            if stays_open { None } else { Some(Ok(())) },
        ))
    }
    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let id = request.into_inner().id;
        match operations::get(&id) {
            Some(operation) if operation.done => Err(status(
                Code::FailedPrecondition,
                "NOT_CANCELLABLE",
                format!("operation {id} has ended already"),
                Default::default(),
            )),
            Some(operation) => Ok(Response::new(operations::cancelled(operation))),
            None => Err(Status::not_found(format!("there is no operation {id}"))),
        }
    }
}

#[tonic::async_trait]
impl EventService for Fake {
    type StreamEventsStream = Answers<Event>;

    async fn stream_events(
        &self,
        request: Request<StreamEventsRequest>,
    ) -> Result<Response<Answers<Event>>, Status> {
        let asked = request.into_inner();
        if asked.after_sequence > 1000 {
            return Err(Status::out_of_range("events up to 1000 were dropped"));
        }
        let events = data::events()
            .into_iter()
            .filter(|event| event.sequence > asked.after_sequence)
            .filter(|event| asked.tenant.is_empty() || event.tenant == asked.tenant)
            .collect();
        Ok(stream(
            events,
            if asked.follow { None } else { Some(Ok(())) },
        ))
    }
}

#[tonic::async_trait]
impl SystemService for Fake {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<Info>, Status> {
        Ok(Response::new(data::info()))
    }
    async fn get_trust(&self, _: Request<GetTrustRequest>) -> Result<Response<Trust>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
    async fn resign_certificate(
        &self,
        _: Request<ResignCertificateRequest>,
    ) -> Result<Response<ResignCertificateResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

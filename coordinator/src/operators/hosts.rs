//! `HostService`: join tokens; shows, approves, closes, opens and removes hosts.
//!
//! Not here: joining (agents/enroll), what a host's silence means (isyone_fleet::liveness).

use std::{net::IpAddr, ops::Bound};

use ipnet::IpNet;
use isyone_fleet::{
    change::{ChangeError, Command, Outcome},
    desired::{MAX_TOKEN_NETWORKS, Token},
};
use isyone_proto::{
    convert::{parse, parse_labels, parse_optional, timestamp},
    error::FieldError,
    ids::HostName,
    pb::v1::{self, host_service_server::HostService},
    plan::Secret,
    token::JoinToken,
};
use tonic::{Request, Response, Status};

use super::{Api, caller, maintenance, now, page_size, shown_certificate, tenants::unexpected};
use crate::{
    base::secrets,
    wire::{shown, status},
    writer::SubmitError,
};

/// Lifetime of a token, in seconds: the default and the maximum.
const TOKEN_TTL_S: (u32, u32) = (3600, 604_800);
/// Hex digits of a token's public half.
const ID_DIGITS: usize = 16;

/// Networks that a token is bound to; a single address is one of its own.
fn networks(texts: &[String]) -> Result<Vec<IpNet>, FieldError> {
    if texts.len() > MAX_TOKEN_NETWORKS {
        let problem = format!("more than {MAX_TOKEN_NETWORKS} networks");
        return Err(FieldError::new("from_networks", problem));
    }
    let parsed = texts.iter().enumerate().map(|(n, text)| {
        let field = format!("from_networks[{n}]");
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(address.to_canonical().into()),
            Err(_) => parse::<IpNet>(&field, text).map(|net| net.trunc()),
        }
    });
    parsed.collect()
}

/// The public half of a token. Somebody may paste all of it, so a wrong one is not repeated.
fn token_id(field: &str, text: &str) -> Result<String, FieldError> {
    if text.len() == ID_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_owned())
    } else {
        let problem = format!(
            "is no token's id: {ID_DIGITS} hex digits, as `isyctl host token list` shows them"
        );
        Err(FieldError::new(field, problem))
    }
}

impl Api {
    async fn host_command(
        &self,
        actor: String,
        command: Command,
    ) -> Result<Response<v1::Host>, Status> {
        match self
            .parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?
        {
            Outcome::Host(host) => Ok(Response::new(shown::host(
                &self.state(),
                self.parts.handle.settings(),
                &host,
                now(),
            ))),
            other => Err(unexpected(&other)),
        }
    }
}

#[tonic::async_trait]
impl HostService for Api {
    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let asked_with = Some(Box::new(shown_certificate(&request)?));
        let asked = request.into_inner();
        let ttl_s = if asked.ttl_seconds == 0 {
            TOKEN_TTL_S.0
        } else {
            asked.ttl_seconds
        };
        if ttl_s > TOKEN_TTL_S.1 {
            return Err(FieldError::new(
                "ttl_seconds",
                format!("{ttl_s} s is more than {} (a week)", TOKEN_TTL_S.1),
            )
            .into());
        }
        let token = JoinToken {
            id: secrets::random_hex(8),
            secret: Secret::new(secrets::random_hex(32)),
            ca_pin: self.parts.pki.ca_pin(),
        };
        let created_at = now();
        let expires_at = created_at + i64::from(ttl_s) * 1000;
        let record = Token {
            id: token.id.clone(),
            secret_hash: isyone_proto::token::secret_hash(token.secret.expose()),
            host: parse_optional("host", &asked.host)?,
            labels: parse_labels("labels", &asked.labels)?,
            expires_at,
            used_by: None,
            networks: networks(&asked.from_networks)?,
            same_machine: asked.same_machine,
            created_at,
            created_by: actor.clone(),
        };
        let command = Command::CreateToken {
            token: Box::new(record),
            asked_with,
        };
        self.parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?;
        Ok(Response::new(v1::CreateJoinTokenResponse {
            token: token.expose(),
            expire_time: Some(timestamp(expires_at)),
            enroll_endpoint: self.parts.enroll_endpoint.clone(),
            id: token.id,
        }))
    }

    async fn list_join_tokens(
        &self,
        request: Request<v1::ListJoinTokensRequest>,
    ) -> Result<Response<v1::ListJoinTokensResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let from = match &asked.page_token {
            none if none.is_empty() => Bound::Unbounded,
            after => Bound::Excluded(token_id("page_token", after)?),
        };
        let state = self.state();
        let mut rest = state.fleet.tokens.range((from, Bound::Unbounded));
        let page: Vec<_> = rest.by_ref().take(size).map(|(_, token)| token).collect();
        let more = rest.next().is_some();
        Ok(Response::new(v1::ListJoinTokensResponse {
            next_page_token: page
                .last()
                .filter(|_| more)
                .map(|token| token.id.clone())
                .unwrap_or_default(),
            tokens: page.into_iter().map(|token| shown::token(token)).collect(),
        }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<v1::RevokeJoinTokenRequest>,
    ) -> Result<Response<v1::RevokeJoinTokenResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let id = token_id("id", &request.get_ref().id)?;
        self.parts
            .handle
            .submit(actor, Command::RevokeToken { id })
            .await
            .map_err(status::submit)?;
        Ok(Response::new(v1::RevokeJoinTokenResponse {}))
    }

    async fn list_hosts(
        &self,
        request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let pages = self.pages("hosts", &[]);
        let after: Option<HostName> = pages.after(&asked.page_token)?;
        let (state, settings, now) = (self.state(), self.parts.handle.settings(), now());
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = state
            .fleet
            .hosts
            .range((from, Bound::Unbounded))
            .map(|(_, host)| host);
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let more = rest.next().is_some();
        Ok(Response::new(v1::ListHostsResponse {
            next_page_token: pages.next(page.last().filter(|_| more).map(|h| h.name.as_str())),
            hosts: page
                .into_iter()
                .map(|host| shown::host(&state, settings, host, now))
                .collect(),
        }))
    }

    async fn get_host(
        &self,
        request: Request<v1::GetHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let name: HostName = parse("name", &request.get_ref().name)?;
        let state = self.state();
        let host = state.fleet.hosts.get(&name);
        let host = host.ok_or_else(|| {
            status::submit(SubmitError::Refused(ChangeError::HostNotFound(
                name.clone(),
            )))
        })?;
        Ok(Response::new(shown::host(
            &state,
            self.parts.handle.settings(),
            host,
            now(),
        )))
    }

    async fn propose_rebalance(
        &self,
        request: Request<v1::ProposeRebalanceRequest>,
    ) -> Result<Response<v1::RebalanceProposal>, Status> {
        let done = self.rebalance_proposed(request.into_inner()).await;
        done.map(Response::new)
    }

    async fn fail_over_host(
        &self,
        request: Request<v1::FailOverHostRequest>,
    ) -> Result<Response<v1::FailOverHostResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let done = self.host_failed_over(actor, request.into_inner()).await;
        done.map(Response::new)
    }

    async fn move_standbys(
        &self,
        request: Request<v1::MoveStandbysRequest>,
    ) -> Result<Response<v1::MoveStandbysResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let done = self.standbys_moved(actor, request.get_ref()).await;
        done.map(Response::new)
    }

    async fn list_orphans(
        &self,
        request: Request<v1::ListOrphansRequest>,
    ) -> Result<Response<v1::ListOrphansResponse>, Status> {
        self.orphans(request.get_ref()).map(Response::new)
    }

    async fn delete_orphan(
        &self,
        request: Request<v1::DeleteOrphanRequest>,
    ) -> Result<Response<v1::DeleteOrphanResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let done = self.orphan_deleted(actor, request.into_inner()).await;
        done.map(Response::new)
    }

    async fn cordon_host(
        &self,
        request: Request<v1::CordonHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let actor = caller(&request)?.to_string();
        let host = parse("name", &request.get_ref().name)?;
        self.host_command(
            actor,
            Command::CordonHost {
                host,
                cordoned: true,
            },
        )
        .await
    }

    async fn uncordon_host(
        &self,
        request: Request<v1::UncordonHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let actor = caller(&request)?.to_string();
        let host = parse("name", &request.get_ref().name)?;
        self.host_command(
            actor,
            Command::CordonHost {
                host,
                cordoned: false,
            },
        )
        .await
    }

    async fn begin_maintenance(
        &self,
        request: Request<v1::BeginMaintenanceRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let actor = caller(&request)?.to_string();
        let command = maintenance::begin(request.into_inner(), now())?;
        self.host_command(actor, command).await
    }

    async fn end_maintenance(
        &self,
        request: Request<v1::EndMaintenanceRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let actor = caller(&request)?.to_string();
        let host = parse("name", &request.get_ref().name)?;
        self.host_command(actor, Command::EndMaintenance { host })
            .await
    }

    async fn approve_host(
        &self,
        request: Request<v1::ApproveHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let actor = caller(&request)?.to_string();
        let host = parse("name", &request.get_ref().name)?;
        self.host_command(actor, Command::ApproveHost { host })
            .await
    }

    async fn remove_host(
        &self,
        request: Request<v1::RemoveHostRequest>,
    ) -> Result<Response<v1::RemoveHostResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let host = parse("name", &request.get_ref().name)?;
        self.host_command(actor, Command::RemoveHost { host })
            .await?;
        Ok(Response::new(v1::RemoveHostResponse {}))
    }
}

//! Standbys for operators: asking for one, what becomes of a lost host's tenants, and the copies that are kept aside.
//!
//! Not here: what any of it means (isyone_fleet::change), moves to a standby (tenants).

use isyone_fleet::{
    change::{ChangeError, Command, Outcome, Stamp},
    desired::{CopyRole, Tenant},
    liveness::HostState,
    observed::CopyObserved,
    state::State,
    views,
};
use isyone_proto::{
    convert::{parse, parse_optional, timestamp},
    error::FieldError,
    ids::{HostName, TenantName},
    operation::Step,
    pb::v1,
    report::TenantProgress,
};
use tonic::Status;
use uuid::Uuid;

use super::{Api, now, request_id, steady, tenant_name, tenants::unexpected};
use crate::{wire::status, writer::SubmitError};

/// What an `AddStandbyRequest` asks for.
pub(super) fn add(asked: &v1::AddStandbyRequest) -> Result<Command, FieldError> {
    if !asked.on_host.is_empty() && !asked.apart.is_empty() {
        let problem = "needs no host apart from another: `on_host` names it";
        return Err(FieldError::new("apart", problem));
    }
    Ok(Command::AddStandby {
        name: tenant_name(&asked.name)?,
        on: parse_optional("on_host", &asked.on_host)?,
        apart: parse_optional("apart", &asked.apart)?,
    })
}

/// What a `FailOverTenantRequest` asks for.
pub(super) fn fail_over(asked: v1::FailOverTenantRequest) -> Result<Command, FieldError> {
    Ok(Command::FailOver {
        name: tenant_name(&asked.name)?,
        is_down: asked.is_down,
        from_backup: true,
        request_id: request_id(asked.request_id)?,
    })
}

/// Those that have a place on a host: all, or such that live there.
fn on<'a>(state: &'a State, host: &HostName) -> impl Iterator<Item = &'a Tenant> + use<'a> {
    let index = state.fleet.by_host.get(host);
    let names = index.into_iter().flat_map(|index| &index.tenants);
    names.filter_map(move |name| state.fleet.tenants.get(name).map(|tenant| &**tenant))
}

impl Api {
    fn known(&self, state: &State, host: &HostName) -> Result<(), Status> {
        match state.fleet.hosts.contains_key(host) {
            true => Ok(()),
            false => Err(status::submit(SubmitError::Refused(
                ChangeError::HostNotFound(host.clone()),
            ))),
        }
    }

    /// One tenant after the other: what was begun goes on, whatever becomes of the rest of the call.
    pub(super) async fn host_failed_over(
        &self,
        actor: String,
        asked: v1::FailOverHostRequest,
    ) -> Result<v1::FailOverHostResponse, Status> {
        let host: HostName = parse("name", &asked.name)?;
        let state = self.state();
        self.known(&state, &host)?;
        let settings = self.parts.handle.settings();
        let (judged, _) = views::host_state(&state, settings, &host, now());
        if judged != HostState::Lost {
            return Err(Status::failed_precondition(format!(
                "host {host} is {}, not lost: its tenants are moved instead (`isyctl host drain {host}`)",
                judged.word()
            )));
        }
        let living = |tenant: &&Tenant| tenant.placement.host == host && !tenant.is_deleted();
        let names: Vec<TenantName> = on(&state, &host)
            .filter(living)
            .map(|t| t.name.clone())
            .collect();
        let mut tenants = Vec::new();
        for name in names {
            tenants.push(
                self.tenant_failed_over(&actor, &state, name, &asked)
                    .await?,
            );
        }
        Ok(v1::FailOverHostResponse { tenants })
    }

    async fn tenant_failed_over(
        &self,
        actor: &str,
        state: &State,
        name: TenantName,
        asked: &v1::FailOverHostRequest,
    ) -> Result<v1::TenantFailOver, Status> {
        let is_down = asked.is_down;
        let command = Command::FailOver {
            name: name.clone(),
            is_down: true,
            from_backup: !asked.standbys_only,
            request_id: None,
        };
        let tenant = state.fleet.tenants.get(&name);
        let protection = tenant.and_then(|tenant| {
            views::protection(state, self.parts.handle.settings(), tenant, now())
        });
        let fate = v1::TenantFailOver {
            tenant: name.to_string(),
            backup_time: protection.and_then(|p| p.to).map(|(at, _)| timestamp(at)),
            ..v1::TenantFailOver::default()
        };
        let done = match is_down {
            true => self.parts.handle.submit(actor.to_owned(), command).await,
            false => self.parts.handle.rehearse(
                &Stamp {
                    now: now(),
                    steady: steady(),
                    id: Uuid::now_v7(),
                    actor: actor.to_owned(),
                },
                command,
            ),
        };
        match done {
            Ok(Outcome::Operation(operation)) => Ok(v1::TenantFailOver {
                to_host: operation.procedure.host().to_string(),
                message: operation.log.first().map(words).unwrap_or_default(),
                operation_id: match is_down {
                    true => operation.id.to_string(),
                    false => String::new(),
                },
                ..fate
            }),
            Ok(other) => Err(unexpected(&other)),
            // One that cannot go on keeps no other waiting.
            Err(SubmitError::Refused(why)) => Ok(v1::TenantFailOver {
                message: why.to_string(),
                ..fate
            }),
            Err(other) => Err(status::submit(other)),
        }
    }

    /// One after the other: what was made elsewhere stays so, whatever becomes of the rest of the call.
    pub(super) async fn standbys_moved(
        &self,
        actor: String,
        asked: &v1::MoveStandbysRequest,
    ) -> Result<v1::MoveStandbysResponse, Status> {
        let from: HostName = parse("name", &asked.name)?;
        let state = self.state();
        self.known(&state, &from)?;
        let stands = |tenant: &&Tenant| tenant.standby().is_some_and(|(at, _)| at.host == from);
        let names = on(&state, &from).filter(stands).map(|t| t.name.clone());
        let mut standbys = Vec::new();
        for name in names {
            let command = Command::MoveStandby {
                name: name.clone(),
                from: from.clone(),
            };
            let (to_host, message) = match self.parts.handle.submit(actor.clone(), command).await {
                Ok(Outcome::Changed(tenant)) => (standby_host(&tenant), String::new()),
                Ok(other) => return Err(unexpected(&other)),
                Err(SubmitError::Refused(why)) => (String::new(), why.to_string()),
                Err(other) => return Err(status::submit(other)),
            };
            standbys.push(v1::StandbyMove {
                tenant: name.to_string(),
                to_host,
                message,
            });
        }
        Ok(v1::MoveStandbysResponse { standbys })
    }

    pub(super) fn orphans(
        &self,
        asked: &v1::ListOrphansRequest,
    ) -> Result<v1::ListOrphansResponse, Status> {
        let host: HostName = parse("host", &asked.host)?;
        let state = self.state();
        self.known(&state, &host)?;
        let orphans = on(&state, &host).filter_map(|tenant| orphan(&state, tenant, &host));
        Ok(v1::ListOrphansResponse {
            orphans: orphans.collect(),
        })
    }

    pub(super) async fn orphan_deleted(
        &self,
        actor: String,
        asked: v1::DeleteOrphanRequest,
    ) -> Result<v1::DeleteOrphanResponse, Status> {
        let host: HostName = parse("host", &asked.host)?;
        let name: TenantName = parse("tenant", &asked.tenant)?;
        self.known(&self.state(), &host)?;
        let command = Command::DiscardCopy { name, host };
        let done = self.parts.handle.submit(actor, command).await;
        done.map(|_| v1::DeleteOrphanResponse {})
            .map_err(status::submit)
    }
}

fn standby_host(tenant: &Tenant) -> String {
    let standby = tenant.standby();
    standby.map_or_else(String::new, |(place, _)| place.host.to_string())
}

fn words(step: &Step) -> String {
    step.detail.to_string()
}

fn orphan(state: &State, tenant: &Tenant, host: &HostName) -> Option<v1::Orphan> {
    let copy = tenant.copies.iter().find(|copy| copy.place.host == *host)?;
    let CopyRole::Fenced { until } = copy.role else {
        return None;
    };
    let confirmed = matches!(views::copy(state, tenant, host), CopyObserved::Present(seen)
        if seen.report.epoch == copy.place.epoch && seen.report.progress == TenantProgress::Converged);
    Some(v1::Orphan {
        tenant: tenant.name.to_string(),
        host: host.to_string(),
        lives_on: tenant.placement.host.to_string(),
        left_time: Some(timestamp(tenant.placement.at)),
        expire_time: until.map(timestamp),
        confirmed,
    })
}

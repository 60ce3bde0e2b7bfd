//! `BackupService`: what each tenant would lose now, what backups there are, a backup or a proof on order, pruning by hand, and restoring.
//!
//! Not here: what is due and kept (isyone_fleet::backups), pruning itself (repositories/upkeep).

mod buckets;
pub(super) mod inside;
mod key;
mod proofs;
mod restore;
mod shown;

use std::{collections::HashMap, sync::Arc};

use isyone_fleet::{
    change::{Command, backups::AskForBackup},
    desired::{
        Tenant,
        backups::{SnapshotMade, TenantBackups},
    },
    state::State,
    views,
};
use isyone_proto::{
    backup::{MAX_LABELS, RepositoryRef},
    convert::{parse, parse_labels, parse_optional},
    echo::echo,
    error::FieldError,
    ids::{HostName, ShortName, TenantName},
    pb::v1::{self, backup_service_server::BackupService},
    plan::Lifecycle,
};
use tonic::{Request, Response, Status};

use self::shown::{is_bad, pruned, wire};
use super::{Answers, Api, caller, page_size, request_id};
use crate::{
    repositories::upkeep::{UpkeepError, Verdict},
    wire::status,
};

/// Shortest beginning of an id that stands for it: as `restic snapshots` shows them.
const SHORT_ID: usize = 8;
/// Tenants in one command, so that it stays short.
const BATCH: usize = 200;
/// Reasons that an answer names; what is beyond is counted.
const NAMED: usize = 100;
/// Largest number of tenants that a request names.
const MAX_TENANTS: usize = 1_000;

#[tonic::async_trait]
impl BackupService for Api {
    async fn list_protections(
        &self,
        request: Request<v1::ListProtectionsRequest>,
    ) -> Result<Response<v1::ListProtectionsResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let host: Option<HostName> = parse_optional("host", &asked.host)?;
        let pages = self.pages("protections", &[&asked.host, &asked.bad_only.to_string()]);
        let after: Option<TenantName> = pages.after(&asked.page_token)?;
        let state = self.state();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let tenants = state
            .fleet
            .tenants
            .range((from, std::ops::Bound::Unbounded));
        let mut rest = tenants
            .map(|(_, tenant)| tenant)
            .filter(|tenant| tenant.desired != Lifecycle::Purged)
            .filter(|tenant| {
                host.as_ref()
                    .is_none_or(|host| tenant.placement.host == *host)
            })
            .map(|tenant| self.protection_of(&state, tenant))
            .filter(|shown| !asked.bad_only || is_bad(shown));
        let protections: Vec<_> = rest.by_ref().take(size).collect();
        let more = rest.next().is_some();
        let last = protections
            .last()
            .filter(|_| more)
            .map(|shown| &shown.tenant);
        let buckets = match asked.page_token.is_empty() {
            true => self.buckets(),
            false => Vec::new(),
        };
        Ok(Response::new(v1::ListProtectionsResponse {
            buckets,
            next_page_token: pages.next(last),
            protections,
        }))
    }

    async fn get_protection(
        &self,
        request: Request<v1::GetProtectionRequest>,
    ) -> Result<Response<v1::Protection>, Status> {
        let state = self.state();
        let tenant = find(&state, "tenant", &request.get_ref().tenant)?;
        Ok(Response::new(self.protection_of(&state, &tenant)))
    }

    async fn list_backups(
        &self,
        request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let tenant: Option<TenantName> = parse_optional("tenant", &asked.tenant)?;
        let destination: Option<ShortName> = parse_optional("destination", &asked.destination)?;
        let pages = self.pages("backups", &[&asked.tenant, &asked.destination]);
        // How many came before: what is made meanwhile may move the rest by one.
        let before: usize = pages.after(&asked.page_token)?.unwrap_or(0);
        let state = self.state();
        let of = listed(&state, tenant.as_ref());
        let all = of.iter().flat_map(|of| {
            let mut own = made(of, destination.as_ref());
            own.sort_by_key(|(_, snapshot)| std::cmp::Reverse((snapshot.at, snapshot.name)));
            own.into_iter()
                .map(move |(name, snapshot)| (of, name, snapshot))
        });
        let mut rest = all.skip(before).peekable();
        let page: Vec<_> = rest
            .by_ref()
            .take(size)
            .map(|(of, name, snapshot)| wire(&state, of, name, snapshot))
            .collect();
        let next = rest.peek().map(|_| (before + page.len()).to_string());
        Ok(Response::new(v1::ListBackupsResponse {
            backups: page,
            next_page_token: pages.next(next),
        }))
    }

    async fn get_backup(
        &self,
        request: Request<v1::GetBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        let id = request.into_inner().id;
        let state = self.state();
        let all = state.fleet.backups.values();
        let (of, name, snapshot) = by_id("id", &id, all)?;
        Ok(Response::new(wire(&state, of, name, snapshot)))
    }

    async fn list_backup_files(
        &self,
        request: Request<v1::ListBackupFilesRequest>,
    ) -> Result<Response<v1::ListBackupFilesResponse>, Status> {
        let asked = request.into_inner();
        self.backup_files(asked).await.map(Response::new)
    }

    type ReadBackupFileStream = Answers<v1::BackupFileChunk>;

    async fn read_backup_file(
        &self,
        request: Request<v1::ReadBackupFileRequest>,
    ) -> Result<Response<Self::ReadBackupFileStream>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        self.backup_file(actor, asked).await.map(Response::new)
    }

    async fn create_backups(
        &self,
        request: Request<v1::CreateBackupsRequest>,
    ) -> Result<Response<v1::CreateBackupsResponse>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let labels = notes(&asked.notes)?;
        let state = self.state();
        let (wanted, must) = chosen(&state, (&asked.tenants, asked.all, &asked.host_labels))?;
        let (mut tenants, mut refused) = (Vec::new(), Vec::new());
        for tenant in wanted {
            match views::no_backups(&state, self.parts.handle.settings(), &tenant) {
                // Of all, those that can; of one that was named, the core says why it cannot.
                Some(problem) if !must => refused.push(v1::BackupRefused {
                    tenant: tenant.name.to_string(),
                    reason: problem.to_owned(),
                }),
                _ => tenants.push(tenant.name.clone()),
            }
        }
        for batch in tenants.chunks(BATCH) {
            let ask = AskForBackup {
                tenants: batch.to_vec(),
                labels: labels.clone(),
            };
            let command = Command::AskForBackup(Box::new(ask));
            let done = self.parts.handle.submit(actor.clone(), command).await;
            done.map_err(status::submit)?;
        }
        let refused_count = u32::try_from(refused.len()).unwrap_or(u32::MAX);
        refused.truncate(NAMED);
        Ok(Response::new(v1::CreateBackupsResponse {
            tenants: tenants.iter().map(ToString::to_string).collect(),
            refused,
            refused_count,
        }))
    }

    async fn verify_backups(
        &self,
        request: Request<v1::VerifyBackupsRequest>,
    ) -> Result<Response<v1::VerifyBackupsResponse>, Status> {
        let actor = caller(&request)?.to_string();
        self.verify(actor, request.into_inner()).await
    }

    async fn prune_backups(
        &self,
        request: Request<v1::PruneBackupsRequest>,
    ) -> Result<Response<v1::PruneBackupsResponse>, Status> {
        let asked = request.into_inner();
        let state = self.state();
        let only: Option<ShortName> = parse_optional("destination", &asked.destination)?;
        let tenant = find(&state, "tenant", &asked.tenant)?;
        let of = state.fleet.backups.get(&tenant.uid);
        let of = of.ok_or_else(|| none_made(&tenant.name))?;
        let mut destinations = Vec::new();
        for name in of.made.keys() {
            if only.as_ref().is_some_and(|only| only != name) {
                continue;
            }
            let verdict = self.prune(&tenant, name, asked.dry_run).await?;
            destinations.push(pruned(name, &verdict));
        }
        if destinations.is_empty() {
            return Err(none_made(&tenant.name));
        }
        Ok(Response::new(v1::PruneBackupsResponse { destinations }))
    }

    async fn get_repository_key(
        &self,
        request: Request<v1::GetRepositoryKeyRequest>,
    ) -> Result<Response<v1::RepositoryKey>, Status> {
        let actor = caller(&request)?.to_string();
        let tenant = request.into_inner().tenant;
        self.repository_key(actor, &tenant).await.map(Response::new)
    }

    async fn return_tenant(
        &self,
        request: Request<v1::ReturnTenantRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        let command = Command::ReturnTenant {
            name: parse("tenant", &asked.tenant)?,
            request_id: request_id(asked.request_id)?,
        };
        self.operation(actor, command).await
    }

    async fn restore_backup(
        &self,
        request: Request<v1::RestoreBackupRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let asked = request.into_inner();
        self.restore(actor, asked).await
    }
}

/// Refuses what cannot be a backup's id, nor the beginning of one.
fn is_id(field: &str, id: &str) -> Result<(), FieldError> {
    let is_one = (SHORT_ID..=64).contains(&id.len())
        && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_one {
        return Ok(());
    }
    let problem = format!(
        "`{}` is no backup's: {SHORT_ID} to 64 hexadecimal digits",
        echo(id)
    );
    Err(FieldError::new(field, problem))
}

/// The one backup of these that an id, or its beginning, stands for.
fn by_id<'a>(
    field: &str,
    id: &str,
    of: impl Iterator<Item = &'a Arc<TenantBackups>>,
) -> Result<(&'a Arc<TenantBackups>, &'a ShortName, &'a SnapshotMade), Status> {
    is_id(field, id)?;
    let all = of.flat_map(|of| {
        let own = made(of, None).into_iter();
        own.map(move |(name, snapshot)| (of, name, snapshot))
    });
    let mut found = all.filter(|(_, _, snapshot)| snapshot.name.to_string().starts_with(id));
    match (found.next(), found.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => {
            let problem = "stands for several backups: give more digits";
            Err(FieldError::new(field, problem).into())
        }
        (None, _) => Err(status::not_found(
            "BACKUP_NOT_FOUND",
            format!("there is no backup `{id}`"),
        )),
    }
}

fn none_made(tenant: &TenantName) -> Status {
    status::not_found(
        "BACKUP_NOT_FOUND",
        format!("there are no backups of `{tenant}` there"),
    )
}

fn find(state: &State, field: &str, name: &str) -> Result<Arc<Tenant>, Status> {
    existing(state, &parse(field, name)?)
}

fn existing(state: &State, name: &TenantName) -> Result<Arc<Tenant>, Status> {
    let found = state.fleet.tenants.get(name).cloned();
    found.ok_or_else(|| {
        status::not_found("TENANT_NOT_FOUND", format!("there is no tenant `{name}`"))
    })
}

fn notes(given: &[String]) -> Result<Vec<ShortName>, FieldError> {
    if given.len() > MAX_LABELS {
        let problem = format!("{} are more than {MAX_LABELS}", given.len());
        return Err(FieldError::new("notes", problem));
    }
    let one = |(at, text): (usize, &String)| parse(&format!("notes[{at}]"), text);
    given.iter().enumerate().map(one).collect()
}

/// The tenants that a request means, and whether each of them must be backed up.
fn chosen(
    state: &State,
    (tenants, all, host_labels): (&[String], bool, &HashMap<String, String>),
) -> Result<(Vec<Arc<Tenant>>, bool), Status> {
    let ways = [!tenants.is_empty(), all, !host_labels.is_empty()];
    if ways.iter().filter(|way| **way).count() != 1 {
        let problem = "name tenants, or all, or labels of hosts";
        return Err(FieldError::new("tenants", problem).into());
    }
    if tenants.len() > MAX_TENANTS {
        let problem = format!("at most {MAX_TENANTS} at once; `all` for all");
        return Err(FieldError::new("tenants", problem).into());
    }
    if !tenants.is_empty() {
        let named = tenants.iter().enumerate();
        let named = named.map(|(at, name)| find(state, &format!("tenants[{at}]"), name));
        let mut named: Vec<_> = named.collect::<Result<_, _>>()?;
        named.sort_by(|a, b| a.name.cmp(&b.name));
        named.dedup_by(|a, b| a.name == b.name);
        return Ok((named, true));
    }
    let wanted = parse_labels("host_labels", host_labels)?;
    let has_all = |tenant: &&Arc<Tenant>| {
        let host = state.fleet.hosts.get(&tenant.placement.host);
        wanted
            .iter()
            .all(|(key, value)| host.is_some_and(|host| host.labels.get(key) == Some(value)))
    };
    let living = state
        .fleet
        .tenants
        .values()
        .filter(|tenant| !tenant.is_deleted());
    Ok((living.filter(has_all).cloned().collect(), false))
}

/// Whose backups are listed, by name; of tenants that are gone as long as they can be read.
fn listed(state: &State, name: Option<&TenantName>) -> Vec<Arc<TenantBackups>> {
    let fleet = &state.fleet;
    let all = fleet.backups.values();
    let mut all: Vec<_> = all
        .filter(|of| fleet.backup_keys.contains_key(&of.tenant))
        .filter(|of| name.is_none_or(|name| of.name == *name))
        .cloned()
        .collect();
    all.sort_by(|a, b| (&a.name, a.tenant).cmp(&(&b.name, b.tenant)));
    all
}

fn made<'a>(
    of: &'a TenantBackups,
    only: Option<&ShortName>,
) -> Vec<(&'a ShortName, &'a SnapshotMade)> {
    let made = of
        .made
        .iter()
        .filter(|(name, _)| only.is_none_or(|only| only == *name));
    made.flat_map(|(name, made)| made.snapshots.iter().map(move |s| (name, s)))
        .collect()
}

impl Api {
    /// What is forgotten of a repository, and unless it is a dry run forgets it.
    async fn prune(
        &self,
        tenant: &Tenant,
        destination: &ShortName,
        dry_run: bool,
    ) -> Result<Verdict, Status> {
        let upkeep = self.parts.upkeep.clone();
        let plan = tenant.spec.plan.clone();
        let policy = self.parts.handle.settings().backups.policy(&plan).cloned();
        let policy = policy.ok_or_else(|| none_made(&tenant.name))?;
        let of = RepositoryRef {
            destination: destination.clone(),
            tenant: tenant.uid,
        };
        if !dry_run {
            // Whoever asked may have gone before it is done.
            let work = tokio::spawn(upkeep.prune_now(of, plan, policy));
            let done = work
                .await
                .map_err(|_| Status::internal("it did not end well"))?;
            return done.map_err(|e| unkept(tenant, destination, &e));
        }
        let work = tokio::task::spawn_blocking(move || upkeep.verdict(&of, &plan, &policy));
        let done = work
            .await
            .map_err(|_| Status::internal("it did not end well"))?;
        done.map_err(|e| unkept(tenant, destination, &e))
    }
}

fn unkept(tenant: &Tenant, destination: &ShortName, error: &UpkeepError) -> Status {
    let error = isyone_proto::tls::error_chain(error);
    tracing::warn!(tenant = %tenant.name, %destination, error, "a repository could not be looked at");
    Status::failed_precondition(format!("{}, {destination}: {error}", tenant.name))
}

//! Operators at work while the fleet is at rest: restarts of tenants all over the fleet, lists and look-ups. Each call
//! is timed, and each restart until its host holds the plan.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use isyone_proto::pb::v1::{
    GetTenantRequest, ListTenantsRequest, RestartTenantRequest,
    tenant_service_client::TenantServiceClient,
};
use tokio::runtime::Runtime;
use tonic::{Code, transport::Channel};

use super::{
    swarm::Swarm,
    wire::{clock_ns, within},
};
use crate::samples::Samples;

/// Calls per second, of each kind.
pub(super) const PER_SECOND: u32 = 20;
/// Tenants per page of a list.
pub(super) const PAGE: u32 = 100;
/// A plan that takes longer counts as lost.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);

/// Times of calls, in seconds.
#[derive(Debug, Default)]
pub(super) struct Timed {
    /// From the API's answer to a restart until the host holds the plan.
    pub(super) delivery: Samples,
    /// The same, but from before the request.
    pub(super) delivery_asked: Samples,
    pub(super) restart: Samples,
    pub(super) get: Samples,
    /// Listing one page.
    pub(super) list: Samples,
    /// Calls that were refused because of load.
    pub(super) refused: u64,
}

#[derive(Default)]
struct Log {
    /// Tenant, time of the request, time of the answer.
    restarts: Vec<(String, u64, u64)>,
    get: Vec<f64>,
    list: Vec<f64>,
    refused: u64,
    errors: Vec<String>,
}

pub(super) fn run(
    runtime: &Runtime,
    admin: &Channel,
    swarm: &Swarm,
    tenants: &[String],
    time: Duration,
) -> Result<Timed> {
    let log = Arc::new(Mutex::new(Log::default()));
    let rounds = u32::try_from(time.as_millis() / 1000).unwrap_or(1) * PER_SECOND;
    // A stride spreads the restarts over all hosts; no tenant comes twice.
    let rounds = usize::try_from(rounds)?.min(tenants.len());
    let stride = tenants.len() / rounds;
    runtime.block_on(async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
        let mut calls = Vec::new();
        for round in 0..rounds {
            ticks.tick().await;
            let (tenant, client, log) = (
                tenants[round * stride].clone(),
                TenantServiceClient::new(admin.clone()),
                log.clone(),
            );
            calls.push(tokio::spawn(one_round(client, tenant, log)));
        }
        for call in calls {
            call.await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let log = std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(
        log.errors.is_empty(),
        "{} calls failed, the first: {}",
        log.errors.len(),
        log.errors[0]
    );
    let mut timed = Timed {
        get: log.get.into_iter().collect(),
        list: log.list.into_iter().collect(),
        refused: log.refused,
        ..Timed::default()
    };
    // The host may hold the plan before the operator has the answer: count that as zero, not as negative.
    let seconds = |from: u64, to: u64| (to as f64 - from as f64).max(0.0) / 1e9;
    for (tenant, asked, answered) in &log.restarts {
        let at = within(DELIVERY_LIMIT, || swarm.restarted_at(tenant));
        let Some(at) = at else {
            anyhow::bail!("the plan that restarts {tenant} never arrived")
        };
        timed.delivery.push(seconds(*answered, at));
        timed.delivery_asked.push(seconds(*asked, at));
        timed.restart.push(seconds(*asked, *answered));
    }
    Ok(timed)
}

async fn one_round(mut client: TenantServiceClient<Channel>, tenant: String, log: Arc<Mutex<Log>>) {
    let note =
        |what: &dyn Fn(&mut Log)| what(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
    let failed = |status: tonic::Status| {
        note(&|log| match status.code() {
            Code::ResourceExhausted | Code::Unavailable => log.refused += 1,
            _ => log.errors.push(status.to_string()),
        });
    };
    let asked = clock_ns();
    match client
        .restart_tenant(RestartTenantRequest {
            name: tenant.clone(),
            ..Default::default()
        })
        .await
    {
        Ok(_) => {
            let answered = clock_ns();
            note(&|log| log.restarts.push((tenant.clone(), asked, answered)));
        }
        Err(status) => failed(status),
    }
    let begin = Instant::now();
    match client
        .get_tenant(GetTenantRequest {
            name: tenant.clone(),
        })
        .await
    {
        Ok(_) => note(&|log| log.get.push(begin.elapsed().as_secs_f64())),
        Err(status) => failed(status),
    }
    let begin = Instant::now();
    match client
        .list_tenants(ListTenantsRequest {
            page_size: PAGE,
            ..Default::default()
        })
        .await
    {
        Ok(_) => note(&|log| log.list.push(begin.elapsed().as_secs_f64())),
        Err(status) => failed(status),
    }
}

//! `TopService`: rows for a screen that follows the fleet.
//!
//! Not here: which rows, and in what order (isyone_fleet::top).

use isyone_fleet::top::{self, HostOrder, Rows, TenantOrder};
use isyone_proto::{
    convert::parse_optional,
    echo::echo,
    error::FieldError,
    ids::HostName,
    pb::v1::{self, top_service_server::TopService},
};
use tonic::{Request, Response, Status};

use super::{Api, now};
use crate::{
    edges::probes::board::EdgeSeen,
    wire::{reader::Reader, shown},
};

/// Number of rows: the default and the maximum, which suits the largest terminals.
const LIMITS: (u32, u32) = (50, 200);
/// Longest filter; longer than any name.
const MAX_FILTER: usize = 64;

fn rows<O>(
    order: O,
    reverse: bool,
    filter: String,
    offset: u32,
    limit: u32,
) -> Result<Rows<O>, FieldError> {
    if filter.len() > MAX_FILTER {
        return Err(FieldError::new(
            "filter",
            format!("`{}` is longer than {MAX_FILTER} bytes", echo(&filter)),
        ));
    }
    let limit = if limit == 0 { LIMITS.0 } else { limit };
    if limit > LIMITS.1 {
        return Err(FieldError::new(
            "limit",
            format!("{limit} is more than {}", LIMITS.1),
        ));
    }
    Ok(Rows {
        order,
        reverse,
        filter: filter.to_lowercase(),
        offset: offset as usize,
        limit: limit as usize,
    })
}

fn unknown(order: i32) -> FieldError {
    FieldError::new("order", format!("unknown order {order}"))
}

fn tenant_order(order: i32) -> Result<TenantOrder, FieldError> {
    Ok(
        match v1::TenantOrder::try_from(order).map_err(|_| unknown(order))? {
            v1::TenantOrder::Unspecified | v1::TenantOrder::Name => TenantOrder::Name,
            v1::TenantOrder::State => TenantOrder::State,
            v1::TenantOrder::Cpu => TenantOrder::Cpu,
            v1::TenantOrder::Memory => TenantOrder::Memory,
            v1::TenantOrder::Disk => TenantOrder::Disk,
            v1::TenantOrder::Requests => TenantOrder::Requests,
            v1::TenantOrder::Errors => TenantOrder::Errors,
            v1::TenantOrder::Latency => TenantOrder::Latency,
            v1::TenantOrder::Host => TenantOrder::Host,
        },
    )
}

fn host_order(order: i32) -> Result<HostOrder, FieldError> {
    Ok(
        match v1::HostOrder::try_from(order).map_err(|_| unknown(order))? {
            v1::HostOrder::Unspecified | v1::HostOrder::Name => HostOrder::Name,
            v1::HostOrder::State => HostOrder::State,
            v1::HostOrder::Cpu => HostOrder::Cpu,
            v1::HostOrder::Memory => HostOrder::Memory,
            v1::HostOrder::Disk => HostOrder::Disk,
            v1::HostOrder::Load => HostOrder::Load,
            v1::HostOrder::Tenants => HostOrder::Tenants,
        },
    )
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Api {
    fn tenant_rows(
        &self,
        rows: &Rows<TenantOrder>,
        host: Option<&HostName>,
        reader: Reader,
    ) -> v1::TopTenantsResponse {
        let (state, settings, now) = (self.state(), self.parts.handle.settings(), now());
        let board = &self.parts.probes;
        let reach = |tenant: &_| {
            board
                .seen(&state, settings, tenant, now)
                .map(|seen| seen.judgement)
        };
        let picked = top::tenants(&state, settings, now, rows, host, reach);
        v1::TopTenantsResponse {
            matching: count(picked.matching),
            total: count(picked.total),
            tenants: picked
                .rows
                .into_iter()
                .map(|tenant| reader.tenant(self.shown(&state, tenant)))
                .collect(),
        }
    }

    fn host_rows(&self, rows: &Rows<HostOrder>) -> v1::TopHostsResponse {
        let (state, settings, now) = (self.state(), self.parts.handle.settings(), now());
        let picked = top::hosts(&state, settings, now, rows);
        let health = |edge: EdgeSeen| v1::EdgeHealth {
            address: edge.address.to_string(),
            up: edge.is_up(),
            connections: edge.counts.tried,
            failed: edge.counts.failed,
        };
        let edges = self.parts.probes.edges(&state, settings, now);
        v1::TopHostsResponse {
            matching: count(picked.matching),
            total: count(picked.total),
            hosts: picked
                .rows
                .into_iter()
                .map(|host| shown::host(&state, settings, host, now))
                .collect(),
            edges: edges.into_iter().map(health).collect(),
        }
    }

    /// Runs off the runtime's threads: going through a large fleet takes a while.
    async fn aside<T: Send + 'static>(
        &self,
        make: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let api = self.clone();
        let made = tokio::task::spawn_blocking(move || make(&api)).await;
        made.map_err(|_| Status::internal("the rows could not be made"))
    }
}

#[tonic::async_trait]
impl TopService for Api {
    async fn top_tenants(
        &self,
        request: Request<v1::TopTenantsRequest>,
    ) -> Result<Response<v1::TopTenantsResponse>, Status> {
        let reader = Reader::of(&request)?;
        let asked = request.into_inner();
        let host: Option<HostName> = parse_optional("host", &asked.host)?;
        let order = tenant_order(asked.order)?;
        let rows = rows(
            order,
            asked.reverse,
            asked.filter,
            asked.offset,
            asked.limit,
        )?;
        self.aside(move |api| api.tenant_rows(&rows, host.as_ref(), reader))
            .await
            .map(Response::new)
    }

    async fn top_hosts(
        &self,
        request: Request<v1::TopHostsRequest>,
    ) -> Result<Response<v1::TopHostsResponse>, Status> {
        let asked = request.into_inner();
        let rows = rows(
            host_order(asked.order)?,
            asked.reverse,
            asked.filter,
            asked.offset,
            asked.limit,
        )?;
        self.aside(move |api| api.host_rows(&rows))
            .await
            .map(Response::new)
    }
}

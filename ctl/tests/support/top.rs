//! The canned coordinator's rows for the screen. It sorts by name and by CPU; any other order is that of the data.

use isyone_proto::pb::v1::{top_service_server::TopService, *};
use tonic::{Request, Response, Status};

use super::{coordinator::Fake, data};

fn window<T>(rows: Vec<T>, offset: u32, limit: u32) -> Vec<T> {
    rows.into_iter()
        .skip(offset as usize)
        .take(limit as usize)
        .collect()
}

pub(crate) fn tenants(asked: &TopTenantsRequest) -> TopTenantsResponse {
    let all = data::followed();
    let total = all.len() as u32;
    let fits = |t: &Tenant| {
        t.name.contains(&asked.filter) && (asked.host.is_empty() || t.host == asked.host)
    };
    let mut rows: Vec<Tenant> = all.into_iter().filter(fits).collect();
    match asked.order() {
        TenantOrder::Name => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        TenantOrder::Cpu => rows.sort_by_key(|t| std::cmp::Reverse(t.usage.map(|u| u.cpu_millis))),
        _ => {}
    }
    if asked.reverse {
        rows.reverse();
    }
    let matching = rows.len() as u32;
    TopTenantsResponse {
        tenants: window(rows, asked.offset, asked.limit),
        matching,
        total,
    }
}

pub(crate) fn hosts(asked: &TopHostsRequest) -> TopHostsResponse {
    let rows: Vec<Host> = data::hosts()
        .into_iter()
        .filter(|host| host.name.contains(&asked.filter))
        .collect();
    let matching = rows.len() as u32;
    let edge = |address: &str, failed| EdgeHealth {
        address: address.into(),
        up: failed == 0,
        connections: 9,
        failed,
    };
    TopHostsResponse {
        hosts: window(rows, asked.offset, asked.limit),
        matching,
        total: data::hosts().len() as u32,
        edges: vec![edge("192.0.2.80:443", 0), edge("192.0.2.81:443", 8)],
    }
}

#[tonic::async_trait]
impl TopService for Fake {
    async fn top_tenants(
        &self,
        request: Request<TopTenantsRequest>,
    ) -> Result<Response<TopTenantsResponse>, Status> {
        Ok(Response::new(tenants(&request.into_inner())))
    }

    async fn top_hosts(
        &self,
        request: Request<TopHostsRequest>,
    ) -> Result<Response<TopHostsResponse>, Status> {
        Ok(Response::new(hosts(&request.into_inner())))
    }
}

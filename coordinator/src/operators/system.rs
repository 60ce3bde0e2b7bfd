//! `SystemService`: what this coordinator is, and who it takes the caller to be.
//!
//! Not here: health, for which gRPC has a service of its own (server/grpc).

use isyone_proto::{
    convert::timestamp,
    pb::v1::{self, system_service_server::SystemService},
};
use tonic::{Request, Response, Status};

use super::{Api, caller};
use crate::wire::{caller::Caller, shown};

#[tonic::async_trait]
impl SystemService for Api {
    async fn get_info(
        &self,
        request: Request<v1::GetInfoRequest>,
    ) -> Result<Response<v1::Info>, Status> {
        let Caller::Operator(name, role) = caller(&request)? else {
            return Err(Status::permission_denied("for operators"));
        };
        let (settings, config) = (self.parts.handle.settings(), &self.parts.config);
        Ok(Response::new(v1::Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            base_domain: settings.base_domain.clone(),
            plans: settings
                .plans
                .iter()
                .map(|(name, size)| (name.to_string(), (*size).into()))
                .collect(),
            default_plan: settings.defaults.plan.to_string(),
            caller_name: name.to_string(),
            caller_role: shown::role(role).into(),
            edge_url: config.edge.url.clone().unwrap_or_default(),
            prometheus_url: config.monitoring.prometheus_url.clone().unwrap_or_default(),
            editions: settings
                .editions
                .iter()
                .map(|(name, e)| (name.to_string(), e.odoo.to_string()))
                .collect(),
            start_time: Some(timestamp(self.parts.started_at)),
        }))
    }
}

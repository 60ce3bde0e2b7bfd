//! Modelled edges: they take up the newest routes when they get round to it, and say so later.
//!
//! Not here: which routes there are (isyone_fleet::views), and how the real coordinator asks edges.

use std::{collections::BTreeMap, net::IpAddr};

use isyone_fleet::{
    change::Command,
    settings::Settings,
    state::State,
    views::{self, Route},
    written::{RecordValue, Write},
};
use isyone_proto::{ids::TenantName, operation::OperationState};

use super::Simulation;

#[derive(Debug, Default)]
pub(crate) struct SimEdges {
    routes: BTreeMap<TenantName, Route>,
    /// The snapshot that they run and have not told yet. Lost with the coordinator that counted it.
    untold: Option<u64>,
}

impl SimEdges {
    /// The coordinator has died: it knows nothing of what edges run, and counts anew.
    pub(crate) fn forget(&mut self) {
        self.untold = None;
    }

    /// Whether visitors of a tenant get to this address.
    pub(crate) fn lead(&self, tenant: &TenantName, address: Option<IpAddr>) -> bool {
        let route = self.routes.get(tenant);
        route.is_some_and(|route| !route.suspended && Some(route.address) == address)
    }

    /// An operation that ends because edges run its route says the truth. One that had ended `before` is written again when it
    /// answers another request.
    pub(crate) fn check_ended(
        &self,
        before: &State,
        state: &State,
        settings: &Settings,
        writes: &[Write],
    ) {
        for write in writes {
            let Write::Put(RecordValue::Operation(operation)) = write else {
                continue;
            };
            let last = operation.log.last();
            let was = before.fleet.operations.get(&operation.id);
            let ends = was.is_none_or(|was| !was.is_over());
            let claims = ends
                && operation.state == OperationState::Succeeded
                && last.is_some_and(|step| step.detail == "the edges run it");
            let Some(tenant) = operation.tenant().filter(|_| claims) else {
                continue;
            };
            let wanted = state.fleet.tenants.get(tenant);
            let wanted = wanted.and_then(|t| views::route(state, settings, t));
            assert_eq!(
                self.routes.get(tenant),
                wanted.as_ref(),
                "operation {} ({}) ended before the edges had its route",
                operation.id,
                operation.kind.word()
            );
        }
    }
}

impl Simulation {
    /// Edges take up the newest routes, or say what they run.
    pub(super) fn edges_step(&mut self) {
        match self.edges.untold.take() {
            Some(version) => {
                let scopes = vec![(0, version)];
                self.submit(Command::EdgesRun { scopes });
            }
            None => {
                self.edges.routes = views::routes(&self.state, &self.settings)
                    .map(|route| (route.tenant.clone(), route))
                    .collect();
                self.edges.untold = Some(self.state.version);
            }
        }
    }
}

//! Proofs of backups on order, and what they have found in the public protocol.
//!
//! Not here: when one is due (isyone_fleet::backups::proofs), what it looks at (the agent).

use isyone_fleet::{
    change::Command,
    desired::backups::{Made, TenantBackups},
    state::State,
    views::{self, Verdict},
};
use isyone_proto::{convert::timestamp, pb::v1};
use tonic::{Response, Status};

use super::{BATCH, NAMED, chosen};
use crate::{
    operators::{Api, now},
    wire::status,
};

impl Api {
    pub(super) async fn verify(
        &self,
        actor: String,
        asked: v1::VerifyBackupsRequest,
    ) -> Result<Response<v1::VerifyBackupsResponse>, Status> {
        let state = self.state();
        let which = (&asked.tenants[..], asked.all, &asked.host_labels);
        let (wanted, must) = chosen(&state, which)?;
        let (settings, now) = (self.parts.handle.settings(), now());
        let provers = views::provers(&state, settings, now);
        let (mut tenants, mut refused) = (Vec::new(), Vec::new());
        for tenant in wanted {
            // Of one that was named, the core says why it cannot.
            let problem = match must {
                true => None,
                false => views::no_proof(&state, settings, &tenant, &provers, now),
            };
            match problem {
                Some(reason) => refused.push(v1::BackupRefused {
                    tenant: tenant.name.to_string(),
                    reason,
                }),
                None => tenants.push(tenant.name.clone()),
            }
        }
        for batch in tenants.chunks(BATCH) {
            let command = Command::AskForProofs(batch.to_vec());
            let done = self.parts.handle.submit(actor.clone(), command).await;
            done.map_err(status::submit)?;
        }
        let refused_count = u32::try_from(refused.len()).unwrap_or(u32::MAX);
        refused.truncate(NAMED);
        Ok(Response::new(v1::VerifyBackupsResponse {
            tenants: tenants.iter().map(ToString::to_string).collect(),
            refused,
            refused_count,
        }))
    }
}

/// What the last proof of a repository has found.
pub(super) fn proof(made: &Made) -> Option<v1::BackupProof> {
    let last = made.proofs.last.as_deref()?;
    let found = &last.found;
    let verdict = match views::verdict(Some(made)) {
        Verdict::Proven => v1::ProofVerdict::Proven,
        Verdict::Incomplete => v1::ProofVerdict::Incomplete,
        Verdict::Damaged => v1::ProofVerdict::Damaged,
        Verdict::None => v1::ProofVerdict::Unspecified,
    };
    Some(v1::BackupProof {
        verdict: verdict.into(),
        backup_id: found.base.to_string(),
        backup_time: Some(timestamp(found.base_at)),
        reached_time: found.reached.map(timestamp),
        begin_time: Some(timestamp(last.begun_at)),
        end_time: Some(timestamp(found.ended_at)),
        host: last.host.to_string(),
        damages: found.damages.clone(),
        more_damages: found.more,
        left_out: found.left_out.clone(),
        relations: found.relations,
        attachments: found.attachments,
        bytes: found.bytes,
    })
}

pub(super) fn proving(state: &State, of: &TenantBackups) -> Option<v1::ProofOrder> {
    let order = of.proving.as_ref()?;
    let job = state.observed.job(&order.host, order.id);
    Some(v1::ProofOrder {
        id: order.id.to_string(),
        destination: order.destination.to_string(),
        host: order.host.to_string(),
        create_time: Some(timestamp(order.since)),
        bytes_done: job.map_or(0, |job| job.bytes_done),
        bytes_total: job.map_or(0, |job| job.bytes_total),
        message: job.map(|job| job.message.clone()).unwrap_or_default(),
    })
}

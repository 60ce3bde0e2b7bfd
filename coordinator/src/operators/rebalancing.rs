//! Moves that are proposed to operators, in wire form.
//!
//! Not here: which moves, and what they lead to (isyone_fleet::rebalance); ordering one (moving).

use isyone_fleet::{
    placement::Load,
    rebalance::{self, Forecast, MAX_MOVES, Proposal, ProposedMove},
};
use isyone_proto::{convert::timestamp, error::FieldError, pb::v1};
use tonic::Status;

use super::{Api, now};

impl Api {
    /// Beside the threads that answer calls: it looks at many tenants.
    pub(super) async fn rebalance_proposed(
        &self,
        asked: v1::ProposeRebalanceRequest,
    ) -> Result<v1::RebalanceProposal, Status> {
        let most = most_moves(asked.max_moves)?;
        let (state, handle, now) = (self.state(), self.parts.handle.clone(), now());
        let work = tokio::task::spawn_blocking(move || {
            rebalance::propose(&state, handle.settings(), now, most)
        });
        let proposal = work.await;
        let proposal =
            proposal.map_err(|_| Status::internal("the search for moves was cut off"))?;
        Ok(shown(&proposal))
    }
}

fn most_moves(asked: u32) -> Result<usize, FieldError> {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => Ok(MAX_MOVES),
        most if most <= MAX_MOVES => Ok(most),
        _ => {
            let problem = format!("must be 1 to {MAX_MOVES}, or 0 for {MAX_MOVES}");
            Err(FieldError::new("max_moves", problem))
        }
    }
}

fn shown(proposal: &Proposal) -> v1::RebalanceProposal {
    v1::RebalanceProposal {
        moves: proposal.moves.iter().map(proposed).collect(),
        hosts: proposal.hosts.iter().map(forecast).collect(),
        considered: u32::try_from(proposal.considered).unwrap_or(u32::MAX),
        reason: proposal.reason.clone(),
        settle_time: proposal.settles_at.map(timestamp),
    }
}

fn proposed(proposed: &ProposedMove) -> v1::ProposedMove {
    v1::ProposedMove {
        tenant: proposed.tenant.to_string(),
        from_host: proposed.from.to_string(),
        to_host: proposed.to.to_string(),
        reason: proposed.reason.clone(),
        bytes: proposed.bytes,
        pause_ms: proposed.pause_ms,
        from_permille_before: proposed.from_permille.0,
        from_permille_after: proposed.from_permille.1,
        to_permille_before: proposed.to_permille.0,
        to_permille_after: proposed.to_permille.1,
    }
}

fn forecast(host: &Forecast) -> v1::HostForecast {
    v1::HostForecast {
        host: host.host.to_string(),
        before: host.before.map(load),
        after: host.after.map(load),
        tenants_before: host.tenants_before,
        tenants_after: host.tenants_after,
        why_not: host.why_not.clone(),
    }
}

fn load(load: Load) -> v1::HostLoad {
    v1::HostLoad {
        load_permille: load.permille(),
        memory_permille: load.memory_permille,
        cpu_permille: load.cpu_permille,
        disk_permille: load.disk_permille,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_asks_for_more_moves_than_a_proposal_has() {
        assert!(matches!(most_moves(0), Ok(MAX_MOVES)));
        assert!(matches!(most_moves(20), Ok(20)) && matches!(most_moves(1), Ok(1)));
        assert!(most_moves(21).is_err());
    }
}

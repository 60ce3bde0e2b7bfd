//! Proofs in the rota's passes: what is ordered and ended, and how all repositories stand, for metrics.
//!
//! Not here: whose turn it is (isyone_fleet::backups::proofs), the loop (rota).

use isyone_fleet::{
    backups::{ProofLimits, proof_turns},
    change::Command,
    settings::Settings,
    state::State,
    views::{self, Verdict},
};
use isyone_proto::{
    ids::{ShortName, TenantName},
    plan::UnixMs,
};

use super::rota::{BATCH, count};

/// Repositories with a series of their own for when they were last proven: those for which that is longest ago.
const DATED: usize = 20_000;
/// Likewise for what is wrong with them.
const NAMED: usize = 200;
/// So often in a row a proof could not be carried out before that is said: hosts restart, lines break.
const FAILING: u32 = 3;

/// A tenant's repository.
pub type Of = (TenantName, ShortName);

/// How repositories stand with proofs, as of the last pass.
#[derive(Debug, Clone, Default)]
pub struct Proofs {
    /// When each was last found to be restorable, milliseconds; longest ago first.
    pub verified: Vec<(Of, UnixMs)>,
    /// Nobody has proven these for too long.
    pub late: Vec<Of>,
    /// What is there cannot be restored as it was.
    pub damaged: Vec<Of>,
    /// Files of attachments are not as they should be, and the rest is.
    pub incomplete: Vec<Of>,
    /// Proofs that could not be carried out several times in a row.
    pub failing: Vec<Of>,
    /// Under way, and due without a place.
    pub running: i64,
    pub waiting: i64,
}

/// What is to be ordered and ended.
pub fn pass(state: &State, settings: &Settings, now: UnixMs, proofs: &mut Proofs) -> Vec<Command> {
    let rota = views::proof_rota(state, settings, now);
    let limits = ProofLimits::of(rota.provers.len());
    let subjects = rota.subjects.iter();
    let (mut begun, waiting) = proof_turns(subjects, &rota.provers, &rota.running, limits, now);
    begun.truncate(BATCH);
    proofs.running = count(rota.running.len() + begun.len());
    proofs.waiting = count(waiting.len());
    let mut commands = Vec::new();
    if !rota.dead.is_empty() {
        let dead = rota.dead.iter().take(BATCH).copied().collect();
        commands.push(Command::EndProofOrders(dead));
    }
    if !rota.anew.is_empty() {
        let anew = rota.anew.into_iter().take(BATCH).collect();
        commands.push(Command::ProofsBegin(anew));
    }
    if !begun.is_empty() {
        commands.push(Command::OrderProofs(begun));
    }
    commands
}

/// How all repositories stand.
pub fn stand(state: &State, settings: &Settings, now: UnixMs) -> Proofs {
    let mut proofs = Proofs::default();
    let tenants = state.fleet.tenants.values();
    for tenant in tenants.filter(|tenant| !tenant.is_deleted()) {
        for (destination, verified) in views::verified(state, settings, tenant, now) {
            let of = || (tenant.name.clone(), destination.clone());
            if let Some(at) = verified.good_at {
                proofs.verified.push((of(), at));
            }
            let lists = [
                (verified.is_late, &mut proofs.late),
                (verified.verdict == Verdict::Damaged, &mut proofs.damaged),
                (
                    verified.verdict == Verdict::Incomplete,
                    &mut proofs.incomplete,
                ),
                (verified.failures >= FAILING, &mut proofs.failing),
            ];
            for (is_so, list) in lists {
                if is_so && list.len() < NAMED {
                    list.push(of());
                }
            }
        }
    }
    proofs
        .verified
        .sort_by(|(x, a), (y, b)| (a, x).cmp(&(b, y)));
    proofs.verified.truncate(DATED);
    proofs
}

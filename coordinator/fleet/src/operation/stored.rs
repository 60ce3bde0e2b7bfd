//! An operation's record as it is read: today's form, and that of versions before operations were machines.
//!
//! Not here: writing, which is always today's form (derived).

use isyone_types::{
    ids::{HostName, TenantName},
    operation::{OperationState, Step},
    plan::UnixMs,
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Answered, Converge, ConvergeStage, Ending, Operation, OperationKind, Procedure, Subject,
    WayBack,
};

/// Both forms. Older records name one tenant, one host and one generation; they lack a procedure.
#[derive(Deserialize)]
pub(super) struct StoredOperation {
    id: Uuid,
    kind: OperationKind,
    subject: Option<Subject>,
    parent: Option<Uuid>,
    procedure: Option<Procedure>,
    stage_since: Option<UnixMs>,
    state: OperationState,
    ending: Option<Ending>,
    #[serde(alias = "steps")]
    log: Vec<Step>,
    created_at: UnixMs,
    deadline: Option<UnixMs>,
    ended_at: Option<UnixMs>,
    error: String,
    actor: String,
    request_id: Option<String>,
    request_digest: Option<String>,
    #[serde(default)]
    answered: Vec<Answered>,
    tenant: Option<TenantName>,
    tenant_uid: Option<Uuid>,
    host: Option<HostName>,
    #[serde(default)]
    generation: u64,
}

impl TryFrom<StoredOperation> for Operation {
    type Error = String;

    fn try_from(stored: StoredOperation) -> Result<Self, String> {
        let missing = |field: &str| format!("operation {} has no {field}", stored.id);
        let older = stored.procedure.is_none();
        let subject = match (stored.subject, stored.tenant, stored.tenant_uid) {
            (Some(subject), ..) => subject,
            (None, Some(name), Some(uid)) => Subject::Tenant { name, uid },
            _ => return Err(missing("subject")),
        };
        let procedure = match (stored.procedure, stored.host) {
            (Some(procedure), _) => procedure,
            (None, Some(host)) => Procedure::Converge(Converge {
                host,
                generation: stored.generation,
                stage: ConvergeStage::Host,
                // What the tenant was before is not in older records, except where there was nothing.
                back: match stored.kind {
                    OperationKind::Create => WayBack::Remove,
                    OperationKind::Restart => WayBack::Stay,
                    _ => WayBack::None,
                },
            }),
            _ => return Err(missing("procedure")),
        };
        let deadline = match stored.deadline {
            Some(at) => at,
            None if older => stored
                .created_at
                .saturating_add(super::deadline_ms(stored.kind)),
            None => return Err(missing("deadline")),
        };
        Ok(Self {
            id: stored.id,
            kind: stored.kind,
            subject,
            parent: stored.parent,
            procedure,
            stage_since: stored.stage_since.unwrap_or(stored.created_at),
            state: stored.state,
            ending: stored.ending,
            log: stored.log,
            created_at: stored.created_at,
            deadline,
            ended_at: stored.ended_at,
            error: stored.error,
            actor: stored.actor,
            request_id: stored.request_id,
            request_digest: stored.request_digest,
            answered: stored.answered,
        })
    }
}

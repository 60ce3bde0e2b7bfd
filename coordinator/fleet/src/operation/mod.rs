//! Operations as they are stored: work of several steps, perhaps on several hosts, that must survive the death of any
//! process. A [`Procedure`] with its stage *is* the record: whoever restarts goes on from there.
//!
//! Not here: what follows a stage (procedures), how an operation begins, is cancelled and ends (change), and what is
//! waited for at the moment (procedures, from what is observed).

mod moments;
mod relocation;
mod routes;
mod stored;
#[cfg(test)]
mod tests;

use isyone_types::{
    ids::{HostName, TenantName},
    operation::{OperationState, Step},
    plan::{ImagesAsked, Lifecycle, UnixMs},
    spec::{Domain, Size, TenantSpec},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{
    relocation::{Live, MoveStage, Relocation},
    routes::RoutesDue,
};
use crate::{backups::RestorePoint, event::is_the_platform};

/// What an operation is for, in the words of whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Places a tenant and starts it for the first time.
    Create,
    /// Applies another spec.
    Update,
    /// Restarts Odoo and, if asked, PostgreSQL.
    Restart,
    /// Stops the containers.
    Suspend,
    /// Starts the containers again.
    Resume,
    /// Applies the size of another plan.
    Resize,
    /// Puts the tenant into quarantine.
    Delete,
    /// Takes it out of quarantine. Was called `restore` until backups needed that word.
    #[serde(alias = "restore")]
    Undelete,
    /// Removes its volumes.
    Purge,
    /// Takes it to another host.
    Move,
    /// Brings it back from a backup, as a new tenant. Not `restore`, which records of before say of an undelete.
    #[serde(rename = "restore_backup")]
    Restore,
    /// Changes its images, or finds out anew what they are.
    Upgrade,
}

impl OperationKind {
    pub const ALL: [Self; 12] = [
        Self::Create,
        Self::Update,
        Self::Restart,
        Self::Suspend,
        Self::Resume,
        Self::Resize,
        Self::Delete,
        Self::Undelete,
        Self::Purge,
        Self::Move,
        Self::Restore,
        Self::Upgrade,
    ];

    /// Its name for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Restart => "restart",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Resize => "resize",
            Self::Delete => "delete",
            Self::Undelete => "undelete",
            Self::Purge => "purge",
            Self::Move => "move",
            Self::Restore => "restore",
            Self::Upgrade => "upgrade",
        }
    }
}

/// How long an operation usually takes at most, milliseconds. A create may have to fetch images of some GB over a slow
/// line, as may an upgrade, and install a hundred modules; a move or a restore brings data at a bounded rate; everything else is a
/// matter of minutes.
pub fn deadline_ms(kind: OperationKind) -> i64 {
    const MINUTE: i64 = 60_000;
    match kind {
        OperationKind::Create | OperationKind::Update | OperationKind::Upgrade => 60 * MINUTE,
        OperationKind::Move | OperationKind::Restore => 24 * 60 * MINUTE,
        OperationKind::Restart
        | OperationKind::Suspend
        | OperationKind::Resume
        | OperationKind::Resize
        | OperationKind::Delete
        | OperationKind::Undelete
        | OperationKind::Purge => 10 * MINUTE,
    }
}

/// What an operation works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Tenant {
        name: TenantName,
        /// A tenant created again under the name has another.
        uid: Uuid,
    },
    Host(HostName),
    Fleet,
}

/// A tenant's wishes before an operation changed them: what cancelling goes back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantWishes {
    pub desired: Lifecycle,
    pub spec: TenantSpec,
    pub size: Size,
    pub primary: Option<Domain>,
    pub asleep_since: Option<UnixMs>,
    pub started_at: Option<UnixMs>,
    pub quarantine_until: Option<UnixMs>,
    /// As in [`crate::desired::Tenant`]; not in records of a version before, which held none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantine_held: bool,
    /// As in [`crate::desired::Tenant`].
    #[serde(default, skip_serializing_if = "ImagesAsked::is_never")]
    pub images_asked: ImagesAsked,
}

/// Where cancelling leads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayBack {
    /// There is none: what is being done cannot be taken back, or is not known any more.
    #[default]
    None,
    /// Nothing of the tenant was there before: it is removed again, or kept in quarantine once it has run.
    Remove,
    /// There is nothing to take back; the tenant is left as it is.
    Stay,
    /// The tenant becomes again what it was.
    Wishes(Box<TenantWishes>),
}

/// The stages in which a tenant's host, and then the edges, take up what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvergeStage {
    /// The host works until the tenant is as wanted.
    Host,
    /// The edges take up the tenant's route.
    Route,
    /// It was cancelled: the host works until the tenant is as it was.
    Back,
}

/// The stages of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStage {
    /// In its place: the host stops the tenant.
    Stop,
    /// The host makes room: volumes that are empty.
    Prepare,
    /// The host fetches the backup and the log, and its PostgreSQL recovers them.
    Fetch,
    /// The host starts the tenant.
    Start,
    /// The edges take up its route.
    Route,
    /// It was cancelled or failed: the host removes what it has made.
    Back,
}

/// A tenant's host brings it to a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converge {
    /// The host that does so.
    pub host: HostName,
    /// The generation that it must report.
    pub generation: u64,
    pub stage: ConvergeStage,
    #[serde(default)]
    pub back: WayBack,
}

/// A tenant is filled from another one's backup, and started. Until it has started, going back removes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoration {
    /// The host that does so.
    pub host: HostName,
    /// What is restored is called, or was, and its uid.
    pub source: TenantName,
    pub source_uid: Uuid,
    /// From where, and how far.
    pub point: RestorePoint,
    /// What comes is another tenant's, and gets this one's keys and address.
    pub rekey: bool,
    /// It is neutralised before it is used.
    pub neutralise: bool,
    /// It takes the place of what the tenant has, which is set aside on the same host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_place: bool,
    /// The generation that the host must report.
    pub generation: u64,
    pub stage: RestoreStage,
}

/// Work as a machine: which one, and at which stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Procedure {
    Converge(Converge),
    Move(Relocation),
    Restore(Box<Restoration>),
}

/// A stage of any procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Converge(ConvergeStage),
    Move(MoveStage),
    Restore(RestoreStage),
}

impl Stage {
    /// All stages of all procedures: tests walk them, so that a new one is covered without being named there.
    pub const ALL: [Self; 17] = [
        Self::Converge(ConvergeStage::Host),
        Self::Converge(ConvergeStage::Route),
        Self::Converge(ConvergeStage::Back),
        Self::Move(MoveStage::Prepare),
        Self::Move(MoveStage::Follow),
        Self::Move(MoveStage::Stop),
        Self::Move(MoveStage::Copy),
        Self::Move(MoveStage::Fence),
        Self::Move(MoveStage::Start),
        Self::Move(MoveStage::Route),
        Self::Move(MoveStage::Back),
        Self::Restore(RestoreStage::Stop),
        Self::Restore(RestoreStage::Prepare),
        Self::Restore(RestoreStage::Fetch),
        Self::Restore(RestoreStage::Start),
        Self::Restore(RestoreStage::Route),
        Self::Restore(RestoreStage::Back),
    ];

    /// Its name for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Converge(ConvergeStage::Host) => "host",
            Self::Move(MoveStage::Prepare) | Self::Restore(RestoreStage::Prepare) => "prepare",
            Self::Move(MoveStage::Follow) => "follow",
            Self::Move(MoveStage::Stop) | Self::Restore(RestoreStage::Stop) => "stop",
            Self::Move(MoveStage::Copy) => "copy",
            Self::Move(MoveStage::Fence) => "fence",
            Self::Restore(RestoreStage::Fetch) => "fetch",
            Self::Move(MoveStage::Start) | Self::Restore(RestoreStage::Start) => "start",
            Self::Converge(ConvergeStage::Route)
            | Self::Move(MoveStage::Route)
            | Self::Restore(RestoreStage::Route) => "route",
            Self::Converge(ConvergeStage::Back)
            | Self::Move(MoveStage::Back)
            | Self::Restore(RestoreStage::Back) => "back",
        }
    }

    /// Only the edges are missing: the hosts have done their part.
    pub fn is_route(self) -> bool {
        matches!(
            self,
            Self::Converge(ConvergeStage::Route)
                | Self::Move(MoveStage::Route)
                | Self::Restore(RestoreStage::Route)
        )
    }

    /// It was cancelled, or failed, and goes back.
    pub fn is_back(self) -> bool {
        matches!(
            self,
            Self::Converge(ConvergeStage::Back)
                | Self::Move(MoveStage::Back)
                | Self::Restore(RestoreStage::Back)
        )
    }
}

impl Procedure {
    pub fn stage(&self) -> Stage {
        match self {
            Self::Converge(converge) => Stage::Converge(converge.stage),
            Self::Move(relocation) => Stage::Move(relocation.stage),
            Self::Restore(restoration) => Stage::Restore(restoration.stage),
        }
    }

    /// Whether cancelling it leads anywhere at this stage.
    pub fn can_go_back(&self) -> bool {
        match self {
            Self::Converge(converge) => converge.back != WayBack::None,
            Self::Move(relocation) => relocation.stage < MoveStage::Fence,
            // Nothing else was there before.
            Self::Restore(_) => true,
        }
    }

    /// The host that people look at: where the tenant is, or goes.
    pub fn host(&self) -> &HostName {
        match self {
            Self::Converge(converge) => &converge.host,
            Self::Move(relocation) => &relocation.to,
            Self::Restore(restoration) => &restoration.host,
        }
    }

    /// The generation of the tenant that the stage waits for.
    pub fn generation(&self) -> u64 {
        match self {
            Self::Converge(converge) => converge.generation,
            Self::Move(relocation) => relocation.generation,
            Self::Restore(restoration) => restoration.generation,
        }
    }
}

/// How an operation will end once its way back is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Failed or cancelled.
    pub state: OperationState,
    /// Who or what ended it.
    pub why: String,
}

/// Work that outlives every process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "stored::StoredOperation")]
pub struct Operation {
    /// A UUIDv7, so that operations sort by time of creation.
    pub id: Uuid,
    pub kind: OperationKind,
    pub subject: Subject,
    /// The operation that this one is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Uuid>,
    pub procedure: Procedure,
    /// When its stage began.
    pub stage_since: UnixMs,
    /// Running, or how it ended.
    pub state: OperationState,
    /// Set while it goes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// Steps that are over, and the coordinator's own. A host's steps come from its reports while its stage runs, and
    /// are kept here afterwards.
    pub log: Vec<Step>,
    pub created_at: UnixMs,
    /// It should be over by then. Nothing ends it; operators are told.
    pub deadline: UnixMs,
    pub ended_at: Option<UnixMs>,
    /// Why it failed or was cancelled; empty otherwise.
    pub error: String,
    /// Who asked for it; see [`crate::change::Stamp::actor`].
    pub actor: String,
    /// Idempotency key of the request; a repeated request with the same key gets this operation again.
    pub request_id: Option<String>,
    /// Digest of what that request asked for: with the same key, another one is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_digest: Option<String>,
    /// Further requests that were answered with it, oldest first: what they asked for was so already, or was coming. At most
    /// [`MAX_ANSWERED`]; none in records of a version before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<Answered>,
}

/// Requests that one operation remembers beside the one that began it: more than can be on their way at a time.
pub const MAX_ANSWERED: usize = 16;

/// A request that began nothing. Its late repetition must not begin anything either, whatever has become of the tenant since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub request_id: String,
    /// As [`Operation::request_digest`].
    pub digest: String,
}

impl Operation {
    /// The tenant that it works on, if it is one.
    pub fn tenant(&self) -> Option<&TenantName> {
        match &self.subject {
            Subject::Tenant { name, .. } => Some(name),
            Subject::Host(_) | Subject::Fleet => None,
        }
    }

    /// Uid of that tenant.
    pub fn tenant_uid(&self) -> Option<Uuid> {
        match &self.subject {
            Subject::Tenant { uid, .. } => Some(*uid),
            Subject::Host(_) | Subject::Fleet => None,
        }
    }

    pub fn stage(&self) -> Stage {
        self.procedure.stage()
    }

    /// All idempotency keys that it answers.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        let others = self.answered.iter().map(|answered| &answered.request_id);
        self.request_id.iter().chain(others)
    }

    /// The two hosts between which it copies or is about to, while that keeps its tenant stopped, or keeps one of the new host's few
    /// jobs at work.
    pub(crate) fn copies_between(&self) -> Option<[&HostName; 2]> {
        match &self.procedure {
            Procedure::Move(relocation)
                if !self.is_over()
                    && matches!(
                        relocation.stage,
                        MoveStage::Follow | MoveStage::Stop | MoveStage::Copy
                    ) =>
            {
                Some([&relocation.from, &relocation.to])
            }
            _ => None,
        }
    }

    pub fn is_over(&self) -> bool {
        self.state.is_final()
    }

    /// Begun by the platform itself, not asked for by a person: it gives way to what people ask for.
    pub fn is_the_platforms(&self) -> bool {
        is_the_platform(&self.actor)
    }
}

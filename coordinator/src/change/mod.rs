//! How the Fleet changes: one function from a state and a command to a new state, what to store, and an answer. Pure: time,
//! identifiers and secrets come with the command.
//!
//! Every command checks everything before it changes anything; the writer also throws a half-changed state away.
//! Not here: storing and publishing (writer), choosing a host (placement).

mod hosts;
mod operators;
mod report;
mod tenants;
mod tick;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use isyone_proto::{
    ids::{HostName, ShortName, TenantName},
    plan::UnixMs,
    spec::{LabelKey, LabelValue, Size, TenantSpec},
    tls::OperatorRole,
};
use uuid::Uuid;

use crate::{
    fleet::{
        Certificate, Event, Host, Operation, OperationKind, OperationState, Operator, Sealed, Step, Tenant,
        Token,
    },
    observed::{Hello, Report},
    placement::Decision,
    settings::Settings,
    state::State,
    store::{Kind, Record, Write},
};

/// Ended operations that are remembered: a year of a busy small fleet, a few MB.
pub const MAX_OPERATIONS: usize = 10_000;
/// Events that are remembered.
pub const MAX_EVENTS: usize = 10_000;
/// Tokens that may be open at once.
pub const MAX_TOKENS: usize = 1_000;
/// Certificates an operator may hold at once.
pub const MAX_OPERATOR_CERTIFICATES: usize = 16;

/// What a command is told of the world.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// Now.
    pub now: UnixMs,
    /// Fresh UUIDv7, for an operation.
    pub id: Uuid,
    /// Who asks: an operator's name, `host/<name>` or `coordinator`.
    pub actor: String,
}

/// Everything that can change the state.
#[derive(Debug, Clone)]
pub enum Command {
    /// Place a new tenant, or find that it is there already.
    CreateTenant(Box<CreateTenant>),
    /// Restart Odoo, with `database` PostgreSQL too.
    RestartTenant {
        /// Whom.
        name: TenantName,
        /// PostgreSQL too.
        database: bool,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Stop and keep.
    SuspendTenant {
        /// Whom.
        name: TenantName,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Start again.
    ResumeTenant {
        /// Whom.
        name: TenantName,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Another size.
    ResizeTenant {
        /// Whom.
        name: TenantName,
        /// To which plan.
        plan: ShortName,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Into quarantine; with `purge`, out of existence.
    DeleteTenant {
        /// Whom.
        name: TenantName,
        /// Remove quarantined volumes now.
        purge: bool,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Out of quarantine.
    RestoreTenant {
        /// Whom.
        name: TenantName,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Give an operation up.
    CancelOperation {
        /// Which.
        id: Uuid,
    },
    /// A join token was made.
    CreateToken(Box<Token>),
    /// An agent shows a token.
    Enroll(Box<Enroll>),
    /// A host's certificate was renewed.
    RenewHost {
        /// Whose.
        host: HostName,
        /// The new one.
        certificate: Certificate,
    },
    /// No new tenants (`cordoned`), or again.
    CordonHost {
        /// Whom.
        host: HostName,
        /// Close or open.
        cordoned: bool,
    },
    /// Forget an empty host.
    RemoveHost {
        /// Whom.
        host: HostName,
    },
    /// An operator's certificate was signed.
    CreateOperator {
        /// Whose.
        name: ShortName,
        /// What they may do.
        role: OperatorRole,
        /// The new one.
        certificate: Certificate,
    },
    /// Refuse an operator.
    RevokeOperator {
        /// Whom.
        name: ShortName,
    },
    /// An agent connected.
    Greet {
        /// Whose.
        host: HostName,
        /// What it says of itself.
        hello: Hello,
        /// The plan on its disk.
        accepted_generation: u64,
    },
    /// An agent answered a plan.
    PlanResult {
        /// Whose.
        host: HostName,
        /// Which.
        generation: u64,
        /// Empty when it was stored.
        error: String,
    },
    /// An agent reported.
    Report {
        /// Whose.
        host: HostName,
        /// What.
        report: Box<Report>,
    },
    /// Something to remember that changes nothing: a secret was read, a shell opened.
    Audit {
        /// Dotted kind.
        kind: &'static str,
        /// On whom.
        tenant: TenantName,
        /// For people.
        message: String,
    },
    /// The configuration was read.
    AdoptSettings,
    /// Time passed.
    Tick,
}

/// See [`Command::CreateTenant`].
#[derive(Debug, Clone)]
pub struct CreateTenant {
    /// Name.
    pub name: TenantName,
    /// Identity if it is new; `secrets` are sealed for it.
    pub uid: Uuid,
    /// Complete spec.
    pub spec: TenantSpec,
    /// Its plan's size.
    pub size: Size,
    /// Passwords if it is new.
    pub secrets: Sealed,
    /// Idempotency key.
    pub request_id: Option<String>,
    /// Apply the spec to an existing tenant.
    pub force: bool,
    /// Decide only.
    pub dry_run: bool,
}

/// See [`Command::Enroll`].
#[derive(Debug, Clone)]
pub struct Enroll {
    /// Public half.
    pub token_id: String,
    /// SHA-256 of the secret half, hex.
    pub secret_hash: String,
    /// Wanted name.
    pub host: HostName,
    /// Identity if it is new.
    pub uid: Uuid,
    /// Where edges reach it.
    pub advertise: IpAddr,
    /// The agent's own labels; the token's win.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Signed, handed out only when this succeeds.
    pub certificate: Certificate,
}

/// What a command answers.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing to say.
    Done,
    /// A tenant, placed or found.
    Tenant {
        /// As stored (or as it would be).
        tenant: Arc<Tenant>,
        /// None for a dry run.
        operation: Option<Arc<Operation>>,
        /// Why there.
        decision: Box<Decision>,
        /// It was there already with this spec.
        existed: bool,
    },
    /// A dry run that found no host.
    NoHost(Box<Decision>),
    /// Long work.
    Operation(Arc<Operation>),
    /// A host.
    Host(Arc<Host>),
    /// An operator.
    Operator(Arc<Operator>),
}

/// Why a command was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// No such tenant.
    #[error("there is no tenant `{0}`")]
    TenantNotFound(TenantName),
    /// The name is taken by a tenant with another spec.
    #[error("tenant `{name}` exists with another spec ({}); use --force to apply the new one, its data is kept", .differences.join(", "))]
    TenantExists {
        /// Whose.
        name: TenantName,
        /// Fields that differ.
        differences: Vec<String>,
    },
    /// The name is taken by a deleted tenant whose volumes still exist.
    #[error(
        "tenant `{name}` was deleted and is in quarantine; `isyctl tenant restore {name}` brings it back, `isyctl tenant delete {name} --purge` removes its data for good"
    )]
    Quarantined {
        /// Whose.
        name: TenantName,
        /// End of the quarantine.
        until: UnixMs,
    },
    /// Its volumes are being removed.
    #[error("tenant `{0}` is being purged; try again in a moment")]
    BeingPurged(TenantName),
    /// Not possible in the present state.
    #[error("tenant `{name}` {problem}")]
    WrongState {
        /// Whose.
        name: TenantName,
        /// What stands in the way, and the way out.
        problem: String,
    },
    /// Only the first start can set it.
    #[error("{field} of tenant `{name}` cannot be changed after its creation")]
    Immutable {
        /// Whose.
        name: TenantName,
        /// Which.
        field: &'static str,
    },
    /// No host can take it.
    #[error("no host fits tenant `{name}`: {}", .decision.reason)]
    NoHostFits {
        /// Whose.
        name: TenantName,
        /// Every host's reasons.
        decision: Box<Decision>,
    },
    /// The host name leads elsewhere already.
    #[error("domain `{domain}` {problem}")]
    DomainTaken {
        /// Which.
        domain: String,
        /// By whom.
        problem: String,
    },
    /// The configuration has no such plan.
    #[error("there is no plan `{0}`")]
    UnknownPlan(ShortName),
    /// The idempotency key was used for something else.
    #[error("request id was already used for another request (operation {0})")]
    RequestIdReused(Uuid),
    /// No such operation.
    #[error("there is no operation {0}")]
    OperationNotFound(Uuid),
    /// Cannot be cancelled.
    #[error("operation {id} {problem}")]
    NotCancellable {
        /// Which.
        id: Uuid,
        /// Why.
        problem: &'static str,
    },
    /// No such host.
    #[error("there is no host `{0}`")]
    HostNotFound(HostName),
    /// Tenants are placed there.
    #[error("host `{host}` still holds {count} tenants (first: {first}); move or purge them first")]
    HostNotEmpty {
        /// Whose.
        host: HostName,
        /// How many.
        count: usize,
        /// One of them.
        first: TenantName,
    },
    /// The name is taken.
    #[error(
        "host `{0}` exists; to let it join again, make a token for this very name: `isyctl host token --host {0}`"
    )]
    HostExists(HostName),
    /// The address belongs to another host.
    #[error("address {address} is host `{host}`'s already")]
    AddressTaken {
        /// Which.
        address: IpAddr,
        /// Whose.
        host: HostName,
    },
    /// Wrong, used or expired. Does not say which, the log does.
    #[error("join token refused: {0}")]
    TokenRefused(&'static str),
    /// Too many open tokens.
    #[error("more than {MAX_TOKENS} open join tokens; wait until some expire")]
    TooManyTokens,
    /// No such operator.
    #[error("there is no operator `{0}`")]
    OperatorNotFound(ShortName),
    /// Another role than the operator has, or revoked.
    #[error("operator `{name}` {problem}")]
    OperatorConflict {
        /// Whose.
        name: ShortName,
        /// What stands in the way.
        problem: String,
    },
    /// A report or renewal of a host that is not there.
    #[error("tenant `{tenant}` is not placed on host `{host}`")]
    NotPlacedHere {
        /// Which.
        tenant: TenantName,
        /// Whose report.
        host: HostName,
    },
}

/// A command in progress: the state it edits, and what must be stored and told.
pub(crate) struct Edit<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) settings: &'a Settings,
    pub(crate) stamp: &'a Stamp,
    pub(crate) effects: &'a mut Effects,
}

/// What follows from commands: writes for the store, and hosts whose plan changed.
#[derive(Debug, Default)]
pub struct Effects {
    /// In order.
    pub writes: Vec<Write>,
    /// To be woken.
    pub touched_hosts: BTreeSet<HostName>,
}

/// Applies one command. On an error the state may be half-changed and must be thrown away (it is cheap to clone before).
pub fn apply(
    state: &mut State,
    settings: &Settings,
    stamp: &Stamp,
    effects: &mut Effects,
    command: Command,
) -> Result<Outcome, ChangeError> {
    let mut edit = Edit { state, settings, stamp, effects };
    match command {
        Command::CreateTenant(create) => edit.create_tenant(*create),
        Command::RestartTenant { name, database, request_id } => {
            edit.restart_tenant(&name, database, request_id)
        }
        Command::SuspendTenant { name, request_id } => edit.suspend_tenant(&name, request_id),
        Command::ResumeTenant { name, request_id } => edit.resume_tenant(&name, request_id),
        Command::ResizeTenant { name, plan, request_id } => edit.resize_tenant(&name, plan, request_id),
        Command::DeleteTenant { name, purge, request_id } => edit.delete_tenant(&name, purge, request_id),
        Command::RestoreTenant { name, request_id } => edit.restore_tenant(&name, request_id),
        Command::CancelOperation { id } => edit.cancel_operation(id),
        Command::CreateToken(token) => edit.create_token(*token),
        Command::Enroll(enroll) => edit.enroll(*enroll),
        Command::RenewHost { host, certificate } => edit.renew_host(&host, certificate),
        Command::CordonHost { host, cordoned } => edit.cordon_host(&host, cordoned),
        Command::RemoveHost { host } => edit.remove_host(&host),
        Command::CreateOperator { name, role, certificate } => edit.create_operator(name, role, certificate),
        Command::RevokeOperator { name } => edit.revoke_operator(&name),
        Command::Greet { host, hello, accepted_generation } => edit.greet(&host, hello, accepted_generation),
        Command::PlanResult { host, generation, error } => edit.plan_result(&host, generation, error),
        Command::Report { host, report } => edit.report(&host, *report),
        Command::Audit { kind, tenant, message } => edit.audit(kind, tenant, message),
        Command::AdoptSettings => edit.adopt_settings(),
        Command::Tick => edit.tick(),
    }
}

impl Edit<'_> {
    pub(crate) fn tenant(&self, name: &TenantName) -> Result<Arc<Tenant>, ChangeError> {
        self.state.fleet.tenants.get(name).cloned().ok_or_else(|| ChangeError::TenantNotFound(name.clone()))
    }

    pub(crate) fn host(&self, name: &HostName) -> Result<Arc<Host>, ChangeError> {
        self.state.fleet.hosts.get(name).cloned().ok_or_else(|| ChangeError::HostNotFound(name.clone()))
    }

    /// Stores a tenant as it is now, and gives its host's plan a new generation.
    pub(crate) fn put_tenant(&mut self, tenant: Tenant) -> Arc<Tenant> {
        let host = tenant.placement.host.clone();
        let tenant = self.put_tenant_quietly(tenant);
        self.touch_host(&host);
        tenant
    }

    /// Stores a tenant whose plan did not change.
    pub(crate) fn put_tenant_quietly(&mut self, tenant: Tenant) -> Arc<Tenant> {
        let tenant = Arc::new(tenant);
        self.effects.writes.push(Write::Put(Record::of(Kind::Tenant, tenant.name.as_str(), &*tenant)));
        self.state.fleet.put_tenant(tenant.clone());
        self.state.refresh(self.settings, &tenant.placement.host);
        tenant
    }

    pub(crate) fn remove_tenant(&mut self, tenant: &Tenant) {
        self.effects.writes.push(Write::Delete(Kind::Tenant, tenant.name.to_string()));
        self.state.fleet.remove_tenant(&tenant.name);
        self.state.observed.tenants.remove(&tenant.name);
        self.touch_host(&tenant.placement.host);
    }

    /// The host's plan has changed.
    pub(crate) fn touch_host(&mut self, name: &HostName) {
        if let Some(host) = self.state.fleet.hosts.get(name) {
            let mut host = (**host).clone();
            host.plan_generation += 1;
            self.put_host(host);
        }
        self.effects.touched_hosts.insert(name.clone());
    }

    pub(crate) fn put_host(&mut self, host: Host) -> Arc<Host> {
        let host = Arc::new(host);
        self.effects.writes.push(Write::Put(Record::of(Kind::Host, host.name.as_str(), &*host)));
        self.state.fleet.hosts.insert(host.name.clone(), host.clone());
        self.state.refresh(self.settings, &host.name);
        host
    }

    pub(crate) fn put_operation(&mut self, operation: Operation) -> Arc<Operation> {
        let operation = Arc::new(operation);
        self.effects.writes.push(Write::Put(Record::of(
            Kind::Operation,
            &operation.id.to_string(),
            &*operation,
        )));
        self.state.fleet.put_operation(operation.clone());
        operation
    }

    /// Starts an operation on a tenant and ends the one before it, which it overtakes.
    pub(crate) fn begin(
        &mut self,
        kind: OperationKind,
        tenant: &Tenant,
        request_id: Option<String>,
        steps: Vec<Step>,
    ) -> Arc<Operation> {
        if let Some(before) =
            self.state.fleet.operations.get(&tenant.operation).filter(|o| !o.state.is_final()).cloned()
        {
            self.end(&before, OperationState::Cancelled, format!("overtaken by operation {}", self.stamp.id));
        }
        self.forget_old_operations();
        self.put_operation(Operation {
            id: self.stamp.id,
            kind,
            tenant: tenant.name.clone(),
            tenant_uid: tenant.uid,
            host: tenant.placement.host.clone(),
            generation: tenant.generation,
            state: OperationState::Running,
            steps,
            created_at: self.stamp.now,
            ended_at: None,
            error: String::new(),
            actor: self.stamp.actor.clone(),
            request_id,
        })
    }

    /// Ends an operation, with the steps that its host reported.
    pub(crate) fn end(
        &mut self,
        operation: &Operation,
        state: OperationState,
        error: String,
    ) -> Arc<Operation> {
        let mut ended = operation.clone();
        ended.steps = crate::views::steps(
            operation,
            self.state.observed.tenants.get(&operation.tenant).map(Arc::as_ref),
        );
        ended.state = state;
        ended.error = error;
        ended.ended_at = Some(self.stamp.now);
        self.put_operation(ended)
    }

    fn forget_old_operations(&mut self) {
        while self.state.fleet.operations.len() >= MAX_OPERATIONS {
            let Some(id) = self.state.fleet.operations.values().find(|o| o.state.is_final()).map(|o| o.id)
            else {
                return;
            };
            self.state.fleet.remove_operation(&id);
            self.effects.writes.push(Write::Delete(Kind::Operation, id.to_string()));
        }
    }

    /// The operation that this idempotency key started, if it did; an error when that was something else.
    pub(crate) fn repeated(
        &self,
        kinds: &[OperationKind],
        tenant: &TenantName,
        request_id: Option<&str>,
    ) -> Result<Option<Arc<Operation>>, ChangeError> {
        let Some(id) = request_id.and_then(|key| self.state.fleet.by_request.get(key)) else {
            return Ok(None);
        };
        let Some(operation) = self.state.fleet.operations.get(id) else { return Ok(None) };
        if kinds.contains(&operation.kind) && operation.tenant == *tenant {
            Ok(Some(operation.clone()))
        } else {
            Err(ChangeError::RequestIdReused(*id))
        }
    }

    pub(crate) fn event(
        &mut self,
        kind: &str,
        tenant: Option<&Tenant>,
        host: Option<&HostName>,
        operation: Option<Uuid>,
        message: String,
    ) {
        let fleet = &mut self.state.fleet;
        fleet.last_event += 1;
        let event = Arc::new(Event {
            sequence: fleet.last_event,
            at: self.stamp.now,
            kind: kind.to_owned(),
            tenant: tenant.map(|t| t.name.clone()),
            host: host.cloned().or_else(|| tenant.map(|t| t.placement.host.clone())),
            actor: self.stamp.actor.clone(),
            message,
            operation,
        });
        fleet.events.push_back(event.clone());
        if fleet.events.len() > MAX_EVENTS {
            fleet.events.pop_front();
        }
        self.effects.writes.push(Write::Event(event));
    }

    fn audit(
        &mut self,
        kind: &'static str,
        name: TenantName,
        message: String,
    ) -> Result<Outcome, ChangeError> {
        let tenant = self.tenant(&name)?;
        self.event(kind, Some(&tenant), None, None, message);
        Ok(Outcome::Done)
    }

    /// Gives every plan a new generation when the part of the configuration that plans are made of has changed.
    fn adopt_settings(&mut self) -> Result<Outcome, ChangeError> {
        let digest = self.settings.plan_digest();
        if self.state.fleet.plan_digest != digest {
            let hosts: Vec<HostName> = self.state.fleet.hosts.keys().cloned().collect();
            for host in &hosts {
                self.touch_host(host);
            }
            self.effects.writes.push(Write::Put(Record::of(Kind::Meta, "plan_digest", &digest)));
            self.state.fleet.plan_digest = digest;
        }
        Ok(Outcome::Done)
    }
}

/// A step of the coordinator's own, done at once.
pub(crate) fn done_step(name: &str, detail: String, now: UnixMs) -> Step {
    Step {
        name: name.to_owned(),
        state: OperationState::Succeeded,
        started_at: Some(now),
        ended_at: Some(now),
        detail,
        progress_percent: 100,
    }
}

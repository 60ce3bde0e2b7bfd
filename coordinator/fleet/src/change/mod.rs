//! How the Fleet changes: one function from a state and a command to a new state, writes for the store, and an answer.
//! Pure: time, identifiers and secrets come with the command.
//!
//! Every command checks everything before it changes anything; the writer also discards half-changed states.
//! Not here: storing and publishing (the coordinator's writer), choosing a host (placement).

pub mod access;
pub mod backups;
pub mod certificates;
mod certified;
mod clock;
mod command;
mod domains;
mod error;
mod generations;
mod hosts;
mod joining;
mod maintenance;
mod operations;
mod operators;
mod outcome;
#[cfg(test)]
mod properties;
mod report;
mod request;
pub mod reseal;
mod sleep;
pub mod spec_change;
mod tenants;
#[cfg(test)]
mod tests;
mod tick;
mod whole;

use std::{collections::BTreeSet, sync::Arc};

use isyone_types::{
    ids::{HostName, TenantName},
    operation::{OperationState, Step},
    plan::{Lifecycle, UnixMs},
};
use uuid::Uuid;

pub(crate) use self::operations::Ask;
pub use self::{
    backups::RestoreTenant,
    certified::{Enroll, RenewOperator},
    clock::{CLOCK_JUMP_MS, heed_the_clock},
    command::{AccessChange, AddDomains, AskedWith, Command, CreateTenant, Stamp, User, Whither},
    domains::domain_refused,
    error::{ChangeError, WrongAddress},
    outcome::Outcome,
    spec_change::{SpecChange, SpecField},
    tenants::{FILLED_AT_ONCE, SetMail, SetOdoo},
};
use self::{operators::following, tenants::failover::Proof};
use crate::{
    desired::{Host, Tenant},
    event::{Event, EventKind},
    operation::Operation,
    settings::Settings,
    state::State,
    written::{RecordKind, RecordValue, Write},
};

/// Largest number of open join tokens.
pub const MAX_TOKENS: usize = 1_000;
/// Largest number of accepted certificates per operator.
pub const MAX_OPERATOR_CERTIFICATES: usize = 16;

/// A command in progress: the state that it edits, and its effects.
pub(crate) struct Edit<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) settings: &'a Settings,
    pub(crate) stamp: &'a Stamp,
    pub(crate) effects: &'a mut Effects,
    /// Digest of what was asked for, if the command carries an idempotency key.
    pub(crate) asked: Option<String>,
}

/// What commands lead to: writes for the store, and hosts whose plan changed.
#[derive(Debug, Default)]
pub struct Effects {
    /// Writes for the store, in order.
    pub writes: Vec<Write>,
    /// Hosts whose sessions must check for a new plan.
    pub touched_hosts: BTreeSet<HostName>,
}

/// Applies one command. On an error the state may be half-changed and must be discarded (clone it before, that is
/// cheap).
pub fn apply(
    state: &mut State,
    settings: &Settings,
    stamp: &Stamp,
    effects: &mut Effects,
    command: Command,
) -> Result<Outcome, ChangeError> {
    state.steady_from.get_or_insert(stamp.steady);
    Edit {
        state,
        settings,
        stamp,
        effects,
        asked: request::digest(&command),
    }
    .carry_out(command)
}

impl Edit<'_> {
    /// Dispatches each command to the function that carries it out.
    #[expect(
        clippy::too_many_lines,
        reason = "one table of all commands, without a decision: in parts it would lose the compiler's check"
    )]
    fn carry_out(&mut self, command: Command) -> Result<Outcome, ChangeError> {
        match command {
            Command::CreateTenant(create) => self.create_tenant(*create),
            Command::RestartTenant {
                name,
                database,
                settings,
                request_id,
            } => self.restart_tenant(&name, database, settings, request_id),
            Command::SuspendTenant {
                name,
                request_id,
                cancel_running,
            } => self.suspend_tenant(
                &name,
                Ask {
                    request_id,
                    cancel_running,
                },
            ),
            Command::ResumeTenant { name, request_id } => self.resume_tenant(&name, request_id),
            Command::WakeTenant { name } => self.wake_tenant(&name),
            Command::ResizeTenant {
                name,
                plan,
                request_id,
            } => self.resize_tenant(&name, plan, request_id),
            Command::UpgradeTenant {
                name,
                odoo,
                postgres,
                request_id,
            } => self.upgrade_tenant(&name, odoo, postgres, request_id),
            Command::SetMail(set) => self.set_mail(*set),
            Command::SetOdoo(set) => self.set_odoo(*set),
            Command::DeleteTenant {
                name,
                purge,
                request_id,
                cancel_running,
            } => self.delete_tenant(
                &name,
                purge,
                Ask {
                    request_id,
                    cancel_running,
                },
            ),
            Command::UndeleteTenant { name, request_id } => self.undelete_tenant(&name, request_id),
            Command::MoveTenant {
                name,
                to,
                max_pause_ms,
                request_id,
            } => self.move_tenant(&name, to, max_pause_ms, request_id),
            Command::FailOver {
                name,
                is_down,
                from_backup,
                request_id,
            } => {
                let proof = match is_down {
                    true => Proof::Word,
                    false => Proof::None,
                };
                self.fail_over(&name, (proof, from_backup), request_id)
            }
            Command::AddStandby { name, on, apart } => self.add_standby(&name, on, apart.as_ref()),
            Command::RemoveStandby { name } => self.remove_standby(&name),
            Command::MoveStandby { name, from } => self.move_standby(&name, &from),
            Command::DiscardCopy { name, host } => self.discard_copy(&name, &host),
            Command::ReturnTenant { name, request_id } => self.return_tenant(&name, request_id),
            Command::RestoreTenant(restore) => self.restore_tenant(*restore),
            Command::EdgesRun { scopes } => self.edges_run(scopes),
            Command::SetAccess { name, change } => self.set_access(&name, *change),
            Command::CancelOperation { id } => self.cancel_operation(id),
            Command::CreateToken { token, asked_with } => {
                self.create_token(*token, asked_with.as_deref())
            }
            Command::RevokeToken { id } => self.revoke_token(&id),
            Command::Enroll(enroll) => self.enroll(*enroll),
            Command::RenewHost {
                host,
                certificate,
                in_use,
                asked_with,
            } => self.renew_host(&host, certificate, &in_use, asked_with.as_deref()),
            Command::PinCertificate {
                identity,
                serial,
                sha256,
            } => self.pin_certificate(&identity, &serial, &sha256),
            Command::CordonHost { host, cordoned } => self.cordon_host(&host, cordoned),
            Command::BeginMaintenance {
                host,
                until,
                reason,
                leaves_tenants,
            } => self.begin_maintenance(&host, until, reason, leaves_tenants),
            Command::EndMaintenance { host } => self.end_maintenance(&host),
            Command::ApproveHost { host } => self.approve_host(&host),
            Command::RemoveHost { host } => self.remove_host(&host),
            Command::CreateOperator {
                name,
                role,
                certificate,
                again,
                asked_with,
            } => {
                self.still_accepted(asked_with.as_deref())?;
                let certificate = following(certificate, &name, asked_with.as_deref());
                self.create_operator(name, role, certificate, again)
            }
            Command::RenewOperator(renew) => self.renew_operator(*renew),
            Command::RetireCertificates { name, keep } => self.retire_certificates(&name, &keep),
            Command::RevokeOperator { name } => self.revoke_operator(&name),
            Command::Greet {
                host,
                hello,
                accepted_generation,
            } => self.greet(&host, hello, accepted_generation),
            Command::PlanResult {
                host,
                generation,
                error,
            } => self.plan_result(&host, generation, error),
            Command::Report { host, report } => self.report(&host, *report),
            Command::PutCertificate(certificate) => self.put_certificate(*certificate),
            Command::RemoveCertificate { name, why } => self.remove_certificate(&name, &why),
            Command::CertificateTrouble(trouble) => self.certificate_trouble(*trouble),
            Command::PutAcmeAccount(account) => self.put_acme_account(*account),
            Command::Reseal(values) => self.reseal(values),
            Command::PutBackupKeys(keys) => self.put_backup_keys(keys),
            Command::OrderBackups(turns) => self.order_backups(&turns),
            Command::EndBackupOrders(orders) => self.end_backup_orders(&orders),
            Command::AskForBackup(ask) => self.ask_for_backups(*ask),
            Command::SnapshotsForgotten {
                tenant,
                destination,
                names,
            } => self.snapshots_forgotten(tenant, &destination, &names),
            Command::RepositoriesRemoved(tenants) => self.repositories_removed(&tenants),
            Command::OrderProofs(turns) => self.order_proofs(&turns),
            Command::ProofsBegin(repositories) => self.proofs_begin(&repositories),
            Command::EndProofOrders(orders) => self.end_proof_orders(&orders),
            Command::AskForProofs(tenants) => self.ask_for_proofs(&tenants),
            Command::BackupsJudged(judged) => self.backups_judged(judged),
            Command::AddDomains(add) => self.add_domains(*add),
            Command::RemoveDomain {
                name,
                domain,
                request_id,
            } => self.remove_domain(&name, &domain, request_id),
            Command::DomainUnreachable(trouble) => self.domain_unreachable(*trouble),
            Command::DomainReachable { domain, found } => self.domain_reachable(&domain, &found),
            Command::Audit {
                kind,
                tenant,
                message,
            } => self.audit(kind, tenant, message),
            Command::Note {
                kind,
                host,
                message,
            } => self.note(kind, host.as_ref(), message),
            Command::AdoptSettings => self.adopt_settings(),
            Command::RaiseIncarnation => self.raise_incarnation(),
            Command::Tick => self.tick(),
        }
    }

    pub(crate) fn tenant(&self, name: &TenantName) -> Result<Arc<Tenant>, ChangeError> {
        self.state
            .fleet
            .tenants
            .get(name)
            .cloned()
            .ok_or_else(|| ChangeError::TenantNotFound(name.clone()))
    }

    pub(crate) fn host(&self, name: &HostName) -> Result<Arc<Host>, ChangeError> {
        self.state
            .fleet
            .hosts
            .get(name)
            .cloned()
            .ok_or_else(|| ChangeError::HostNotFound(name.clone()))
    }

    /// Stores a tenant and gives the plans of its hosts new generations.
    pub(crate) fn put_tenant(&mut self, tenant: Tenant) -> Arc<Tenant> {
        let hosts = |tenant: &Tenant| -> BTreeSet<HostName> {
            tenant
                .places()
                .map(|(place, _)| place.host.clone())
                .collect()
        };
        let mut touched = hosts(&tenant);
        if let Some(before) = self.state.fleet.tenants.get(&tenant.name) {
            touched.append(&mut hosts(before));
        }
        let tenant = self.store_tenant(tenant);
        for host in &touched {
            // This also updates the host's ranking.
            self.touch_host(host);
        }
        tenant
    }

    /// Stores a tenant after a change that does not concern its host.
    pub(crate) fn store_tenant(&mut self, mut tenant: Tenant) -> Arc<Tenant> {
        let before = self.state.fleet.tenants.get(&tenant.name).cloned();
        let ran = before
            .as_ref()
            .is_none_or(|before| before.desired == Lifecycle::Running);
        tenant.rests_since = match tenant.desired {
            Lifecycle::Running => None,
            _ if ran => Some(self.stamp.now),
            _ => tenant.rests_since,
        };
        if let Some(before) = before {
            for domain in before
                .spec
                .domains
                .iter()
                .filter(|domain| !tenant.spec.domains.contains(domain))
            {
                self.forget_domain_trouble(domain);
            }
        }
        let tenant = Arc::new(tenant);
        self.effects
            .writes
            .push(Write::Put(RecordValue::Tenant(tenant.clone())));
        self.state.fleet.put_tenant(tenant.clone());
        tenant
    }

    pub(crate) fn remove_tenant(&mut self, tenant: &Tenant) {
        for domain in &tenant.spec.domains {
            self.forget_domain_trouble(domain);
        }
        self.effects
            .writes
            .push(Write::Delete(RecordKind::Tenant, tenant.name.to_string()));
        self.state.fleet.remove_tenant(&tenant.name);
        self.state.observed.forget(&tenant.name);
        for (place, _) in tenant.places() {
            self.touch_host(&place.host);
        }
        self.backups_of_the_gone(tenant);
    }

    /// Gives the host's plan a new generation.
    pub(crate) fn touch_host(&mut self, name: &HostName) {
        if let Some(host) = self.state.fleet.hosts.get(name) {
            let mut host = (**host).clone();
            host.plan_generation = self.next_generation(&host);
            self.put_host(host);
        }
        self.effects.touched_hosts.insert(name.clone());
    }

    pub(crate) fn put_host(&mut self, host: Host) -> Arc<Host> {
        let host = Arc::new(host);
        self.effects
            .writes
            .push(Write::Put(RecordValue::Host(host.clone())));
        self.state
            .fleet
            .hosts
            .insert(host.name.clone(), host.clone());
        self.state
            .refresh(self.settings, &host.name, self.stamp.now);
        host
    }

    pub(crate) fn put_operation(&mut self, operation: Operation) -> Arc<Operation> {
        let operation = Arc::new(operation);
        self.effects
            .writes
            .push(Write::Put(RecordValue::Operation(operation.clone())));
        self.state.fleet.put_operation(operation.clone());
        operation
    }

    /// Tells an event, unless one like it was told too often just now (see [`crate::event::Paces`]).
    pub(crate) fn event(
        &mut self,
        kind: EventKind,
        tenant: Option<&Tenant>,
        host: Option<&HostName>,
        operation: Option<Uuid>,
        message: String,
    ) {
        let event = Event {
            sequence: 0,
            at: self.stamp.now,
            kind,
            tenant: tenant.map(|t| t.name.clone()),
            host: host
                .cloned()
                .or_else(|| tenant.map(|t| t.placement.host.clone())),
            actor: self.stamp.actor.clone(),
            message,
            operation,
        };
        if self.state.paces.admit(&event) {
            self.record(event);
        }
    }

    /// Gives an event its number and remembers it.
    pub(crate) fn record(&mut self, event: Event) {
        let fleet = &mut self.state.fleet;
        fleet.last_event += 1;
        let event = Arc::new(Event {
            sequence: fleet.last_event,
            ..event
        });
        let gone = fleet.events.push(event.clone());
        self.effects.writes.push(Write::Event(event));
        self.effects.writes.extend(gone.map(Write::ForgetEvent));
    }

    fn audit(
        &mut self,
        kind: EventKind,
        name: TenantName,
        message: String,
    ) -> Result<Outcome, ChangeError> {
        let tenant = self.tenant(&name)?;
        self.event(kind, Some(&tenant), None, None, message);
        Ok(Outcome::Done)
    }

    fn note(
        &mut self,
        kind: EventKind,
        host: Option<&HostName>,
        message: String,
    ) -> Result<Outcome, ChangeError> {
        self.event(kind, None, host, None, message);
        Ok(Outcome::Done)
    }

    /// Gives every plan a new generation when a setting that plans depend on has changed.
    fn adopt_settings(&mut self) -> Result<Outcome, ChangeError> {
        self.forget_unwatched();
        let digest = self.settings.plan_digest();
        if self.state.fleet.plan_digest != digest {
            let hosts: Vec<HostName> = self.state.fleet.hosts.keys().cloned().collect();
            for host in &hosts {
                self.touch_host(host);
            }
            self.effects
                .writes
                .push(Write::Put(RecordValue::PlanDigest(digest.clone())));
            self.state.fleet.plan_digest = digest;
        }
        Ok(Outcome::Done)
    }
}

/// A finished step of the coordinator's own.
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

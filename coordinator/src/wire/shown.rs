//! The core's values in terms of the public protocol.
//!
//! Not here: choosing what to show (operators).

use isyone_fleet::{
    desired::{Host, Operator, Tenant, Token},
    event::Event,
    liveness::HostState,
    observed::HostObserved,
    operation::{Operation, OperationKind},
    placement::{Decision, Judgement},
    probes::judge::Judgement as Judged,
    procedures,
    settings::Settings,
    state::State,
    views::{self, Phase, SettingSource, Verdict},
};
use isyone_proto::{
    convert::{containers, timestamp},
    ids::TenantName,
    pb::v1,
    plan::{DesiredState, UnixMs},
    spec::TenantSpec,
    tls::OperatorRole,
};

use super::copies;
use crate::edges::probes::board::Seen;

/// Rows of a placement table for the best hosts that fit; the remaining ones are only counted.
const MAX_FITTING: usize = 20;
/// Rows for hosts that were not chosen, each with the reason; the remaining ones are only counted.
const MAX_REJECTED: usize = 80;

pub(crate) fn tenant(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    now: UnixMs,
) -> v1::Tenant {
    let (phase, message) = views::phase(state, settings, tenant, now);
    let observed = views::observed(state, tenant);
    let mut hostnames = tenant.hostnames(&settings.base_domain);
    let primary = views::primary(state, settings, tenant).map(|domain| domain.as_str());
    // The name that people use comes first, the others in their order.
    hostnames.sort_by_key(|name| Some(name.as_str()) != primary);
    v1::Tenant {
        name: tenant.name.to_string(),
        uid: tenant.uid.to_string(),
        spec: Some(spec(&tenant.spec)),
        desired_state: v1::DesiredState::from(DesiredState::from(tenant.desired)).into(),
        phase: phase_word(phase).into(),
        message,
        host: tenant.placement.host.to_string(),
        epoch: tenant.placement.epoch,
        generation: tenant.generation,
        url: views::address(state, settings, tenant),
        http_port: tenant.placement.http_port.into(),
        websocket_port: tenant.placement.websocket_port.into(),
        subnet: tenant.placement.subnet.to_string(),
        containers: observed.map(|o| containers(&o.report)).unwrap_or_default(),
        usage: observed.and_then(|o| o.report.usage).map(Into::into),
        create_time: Some(timestamp(tenant.created_at)),
        report_time: observed.map(|o| timestamp(o.at)),
        quarantine_expire_time: tenant
            .quarantine_until
            .filter(|_| !tenant.quarantine_held)
            .map(timestamp),
        operation_id: tenant.operation.to_string(),
        size: Some(tenant.size.into()),
        hostnames,
        traffic: observed.and_then(|o| o.report.traffic).map(Into::into),
        strain: observed.and_then(|o| o.report.strain).map(Into::into),
        edge_shard: settings
            .shards
            .name_of(tenant.name.as_str())
            .map(ToString::to_string)
            .unwrap_or_default(),
        probe: None,
        access: None,
        domains: Vec::new(),
        asleep_time: tenant.asleep_since.map(timestamp),
        last_active_time: views::last_active(observed, tenant).map(timestamp),
        copies: copies::shown(state, settings, tenant, now),
        other_images: has_other_images(settings, &tenant.spec),
        disk: observed.and_then(|o| o.report.disk).map(Into::into),
        modules_cut_off: observed.map_or(0, |o| o.report.modules_cut_off.into()),
        mail: mail(settings, tenant),
        odoo_settings: odoo_settings(settings, tenant),
        verified: verified(state, settings, tenant, now),
    }
}

/// With a login there is a password: neither is taken without the other.
fn mail(settings: &Settings, tenant: &Tenant) -> Option<v1::TenantMail> {
    let (mail, source) = views::mail(settings, tenant)?;
    Some(v1::TenantMail {
        settings: Some(mail.into()),
        source: whose(source).into(),
        has_password: mail.relay().is_some_and(|relay| relay.user.is_some()),
    })
}

fn odoo_settings(settings: &Settings, tenant: &Tenant) -> Vec<v1::OdooSetting> {
    let shown = |(name, value, source): (&str, &str, SettingSource)| v1::OdooSetting {
        name: name.to_owned(),
        value: value.to_owned(),
        source: whose(source).into(),
    };
    let all = views::chosen(settings, tenant);
    all.into_iter().map(shown).collect()
}

fn whose(source: SettingSource) -> v1::SettingSource {
    match source {
        SettingSource::Fleet => v1::SettingSource::Fleet,
        SettingSource::Plan => v1::SettingSource::Plan,
        SettingSource::Tenant => v1::SettingSource::Tenant,
    }
}

/// What proofs of all of a tenant's repositories say together; `None` where no backups are made.
fn verified(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    now: UnixMs,
) -> Option<v1::BackupVerified> {
    let all = views::verified(state, settings, tenant, now);
    if all.is_empty() {
        return None;
    }
    let has = |verdict| all.iter().any(|(_, one)| one.verdict == verdict);
    // Unset sorts before any time: one that never was is the longest ago.
    let oldest = all.iter().map(|(_, one)| one.good_at).min().flatten();
    Some(v1::BackupVerified {
        time: oldest.map(timestamp),
        damaged: has(Verdict::Damaged),
        incomplete: has(Verdict::Incomplete),
    })
}

fn has_other_images(settings: &Settings, spec: &TenantSpec) -> bool {
    let edition = settings.editions.get(&spec.edition);
    edition.is_none_or(|e| e.odoo != spec.odoo_image || e.postgres != spec.postgres_image)
}

/// A probe's result, and whose fault a failure is.
pub(crate) fn probe(seen: &Seen) -> v1::Probe {
    let probe = &seen.probe;
    let reach = match seen.judgement {
        Judged::Reachable => v1::Reach::Ok,
        Judged::TenantDown => v1::Reach::TenantDown,
        Judged::HostDown => v1::Reach::HostDown,
        Judged::EdgeDown => v1::Reach::EdgeDown,
    };
    v1::Probe {
        reach: reach.into(),
        http_status: probe.status.unwrap_or(0).into(),
        duration_ms: probe.duration_ms,
        certificate_expire_time: probe
            .certificate_until_s
            .map(|s| timestamp(s.saturating_mul(1000))),
        error: probe
            .failure
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        edge: probe.edge.to_string(),
        time: Some(timestamp(probe.at)),
    }
}

pub(crate) fn spec(spec: &TenantSpec) -> v1::TenantSpec {
    v1::TenantSpec {
        plan: spec.plan.to_string(),
        domains: spec.domains.iter().map(ToString::to_string).collect(),
        language: spec.language.to_string(),
        country: spec.country.to_string(),
        time_zone: spec.time_zone.to_string(),
        modules: spec.modules.iter().map(ToString::to_string).collect(),
        edition: spec.edition.to_string(),
        odoo_image: spec.odoo_image.to_string(),
        postgres_image: spec.postgres_image.to_string(),
        host: spec
            .host
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        host_labels: spec
            .host_labels
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        admin_login: spec.admin_login.to_string(),
        signup: spec.signup,
        collation: spec
            .collation
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

pub(crate) fn phase_word(phase: Phase) -> v1::TenantPhase {
    match phase {
        Phase::Pending => v1::TenantPhase::Pending,
        Phase::Creating => v1::TenantPhase::Creating,
        Phase::Running => v1::TenantPhase::Running,
        Phase::Failing => v1::TenantPhase::Failing,
        Phase::Suspended => v1::TenantPhase::Suspended,
        Phase::Deleting => v1::TenantPhase::Deleting,
        Phase::Quarantined => v1::TenantPhase::Quarantined,
        Phase::Unknown => v1::TenantPhase::Unknown,
        Phase::Updating => v1::TenantPhase::Updating,
    }
}

pub(crate) fn operation(
    state: &State,
    settings: &Settings,
    operation: &Operation,
    now: UnixMs,
) -> v1::Operation {
    let waiting = procedures::waiting(state, settings, operation, now);
    let (progress, error) = procedures::progress(operation, waiting.as_ref());
    let done = operation.is_over();
    v1::Operation {
        id: operation.id.to_string(),
        kind: kind(operation.kind).into(),
        tenant: operation
            .tenant()
            .map(ToString::to_string)
            .unwrap_or_default(),
        host: operation.procedure.host().to_string(),
        state: v1::OperationState::from(progress).into(),
        done,
        steps: procedures::steps(state, operation, waiting.as_ref())
            .iter()
            .map(Into::into)
            .collect(),
        create_time: Some(timestamp(operation.created_at)),
        end_time: operation.ended_at.map(timestamp),
        error,
        actor: operation.actor.clone(),
        request_id: operation.request_id.clone().unwrap_or_default(),
        stage: if done {
            String::new()
        } else {
            operation.stage().word().to_owned()
        },
        stage_start_time: (!done).then(|| timestamp(operation.stage_since)),
        waiting_for: waiting.map(|w| w.to_string()).unwrap_or_default(),
        deadline_time: Some(timestamp(operation.deadline)),
        parent_id: operation
            .parent
            .map(|id| id.to_string())
            .unwrap_or_default(),
    }
}

fn kind(kind: OperationKind) -> v1::OperationKind {
    match kind {
        OperationKind::Create => v1::OperationKind::Create,
        OperationKind::Update => v1::OperationKind::Update,
        OperationKind::Restart => v1::OperationKind::Restart,
        OperationKind::Suspend => v1::OperationKind::Suspend,
        OperationKind::Resume => v1::OperationKind::Resume,
        OperationKind::Resize => v1::OperationKind::Resize,
        OperationKind::Delete => v1::OperationKind::Delete,
        OperationKind::Undelete => v1::OperationKind::Undelete,
        OperationKind::Purge => v1::OperationKind::Purge,
        OperationKind::Move => v1::OperationKind::Move,
        OperationKind::Restore => v1::OperationKind::Restore,
        OperationKind::Upgrade => v1::OperationKind::Upgrade,
    }
}

pub(crate) fn host(state: &State, settings: &Settings, host: &Host, now: UnixMs) -> v1::Host {
    let seen = state.observed.hosts.get(&host.name).map(AsRef::as_ref);
    let (judged, silence_ms) = state.host_state(&settings.liveness, &host.name, now);
    let index = state.fleet.by_host.get(&host.name);
    let newest = host.certificates.iter().map(|c| c.not_after).max();
    v1::Host {
        name: host.name.to_string(),
        uid: host.uid.to_string(),
        advertise_address: host.advertise.to_string(),
        labels: host
            .labels
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        cordoned: host.cordoned,
        state: match host.pending {
            true => v1::HostState::Pending,
            false => host_state(judged),
        }
        .into(),
        message: match host.pending {
            true => format!(
                "it joined by a token for any name: `isyctl host approve {0}` lets it in, `isyctl host remove {0}` forgets it",
                host.name
            ),
            false => host_message(judged, silence_ms, seen),
        },
        resources: seen
            .filter(|s| s.reported_at.is_some())
            .map(|s| (&s.resources).into()),
        tenants: index.map_or(0, |i| u32::try_from(i.tenants.len()).unwrap_or(u32::MAX)),
        reserved_memory_bytes: index.map_or(0, |i| i.memory_bytes),
        reserved_cpu_millis: index.map_or(0, |i| u32::try_from(i.cpu_millis).unwrap_or(u32::MAX)),
        reserved_disk_bytes: index.map_or(0, |i| i.disk_bytes),
        join_time: Some(timestamp(host.joined_at)),
        report_time: seen.and_then(|s| s.reported_at).map(timestamp),
        agent_version: seen
            .map(|s| s.hello.agent_version.clone())
            .unwrap_or_default(),
        docker_version: seen
            .map(|s| s.hello.docker_version.clone())
            .unwrap_or_default(),
        plan_generation: host.plan_generation.get(),
        accepted_generation: seen.map_or(0, |s| s.accepted_generation.get()),
        certificate_expire_time: newest.map(|s| timestamp(s.saturating_mul(1000))),
        maintenance: host.maintenance.as_ref().map(|work| v1::Maintenance {
            until: Some(timestamp(work.until)),
            reason: work.reason.clone(),
            leaves_tenants: work.leaves_tenants,
        }),
        findings: seen.map_or_else(Vec::new, |s| {
            s.condition.findings.iter().map(Into::into).collect()
        }),
    }
}

fn host_state(state: HostState) -> v1::HostState {
    match state {
        HostState::Unknown => v1::HostState::Unknown,
        HostState::Ready => v1::HostState::Ready,
        HostState::Suspect => v1::HostState::Suspect,
        HostState::Lost => v1::HostState::Lost,
        HostState::Degraded => v1::HostState::Degraded,
    }
}

fn host_message(state: HostState, silence_ms: i64, seen: Option<&HostObserved>) -> String {
    let refused = seen
        .map(|s| s.plan_error.as_str())
        .filter(|e| !e.is_empty());
    match state {
        HostState::Unknown => "nothing heard since the coordinator started".to_owned(),
        HostState::Suspect | HostState::Lost => format!("no report for {} s", silence_ms / 1000),
        HostState::Degraded => {
            format!(
                "trouble on the host: {}",
                seen.map(|s| s.docker_error.as_str()).unwrap_or_default()
            )
        }
        HostState::Ready => refused
            .map(|e| format!("its agent refused the plan: {e}"))
            .unwrap_or_default(),
    }
}

pub(crate) fn event(event: &Event) -> v1::Event {
    v1::Event {
        sequence: event.sequence,
        time: Some(timestamp(event.at)),
        kind: event.kind.to_string(),
        tenant: event
            .tenant
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        host: event
            .host
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        actor: event.actor.clone(),
        message: event.message.clone(),
        operation_id: event.operation.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// A join token, without what proves it.
pub(crate) fn token(token: &Token) -> v1::JoinToken {
    v1::JoinToken {
        id: token.id.clone(),
        host: token
            .host
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        labels: token
            .labels
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        from_networks: token.networks.iter().map(ToString::to_string).collect(),
        same_machine: token.same_machine,
        create_time: (token.created_at > 0).then(|| timestamp(token.created_at)),
        creator: token.created_by.clone(),
        expire_time: Some(timestamp(token.expires_at)),
        used_by: token
            .used_by
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

/// `prometheus`: the coordinator keeps a certificate of it for Prometheus.
pub(crate) fn operator(operator: &Operator, prometheus: bool) -> v1::Operator {
    let newest = operator.certificates.iter().map(|c| c.not_after).max();
    v1::Operator {
        name: operator.name.to_string(),
        role: role(operator.role).into(),
        create_time: Some(timestamp(operator.created_at)),
        revoked: operator.revoked,
        certificate_expire_time: newest.map(|s| timestamp(s.saturating_mul(1000))),
        prometheus,
    }
}

pub(crate) fn role(role: OperatorRole) -> v1::Role {
    match role {
        OperatorRole::Monitor => v1::Role::Monitor,
        OperatorRole::Viewer => v1::Role::Viewer,
        OperatorRole::Operator => v1::Role::Operator,
        OperatorRole::Admin => v1::Role::Admin,
    }
}

/// A decision as a table. `original` is the reason stored when the tenant was placed.
pub(crate) fn placement(
    tenant: &TenantName,
    decision: &Decision,
    original: Option<&str>,
) -> v1::Placement {
    let (fitting, rejected): (Vec<_>, Vec<_>) =
        decision.hosts.iter().partition(|j| j.rejections.is_empty());
    let ranked = fitting
        .iter()
        .take(MAX_FITTING)
        .zip(1..)
        .map(|(judgement, rank)| score(judgement, rank));
    let others = rejected
        .iter()
        .take(MAX_REJECTED)
        .map(|judgement| score(judgement, 0));
    v1::Placement {
        tenant: tenant.to_string(),
        host: decision
            .host
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        reason: decision.reason.clone(),
        hosts: ranked.chain(others).collect(),
        considered: u32::try_from(decision.considered).unwrap_or(u32::MAX),
        fitting: u32::try_from(decision.fitting).unwrap_or(u32::MAX),
        original_reason: original.unwrap_or_default().to_owned(),
    }
}

fn score(judgement: &Judgement, rank: u32) -> v1::HostScore {
    v1::HostScore {
        host: judgement.host.to_string(),
        fits: judgement.rejections.is_empty(),
        reasons: judgement
            .rejections
            .iter()
            .map(ToString::to_string)
            .collect(),
        load_permille: judgement.load.permille(),
        memory_permille: judgement.load.memory_permille,
        cpu_permille: judgement.load.cpu_permille,
        disk_permille: judgement.load.disk_permille,
        tenants: judgement.tenants,
        rank,
    }
}

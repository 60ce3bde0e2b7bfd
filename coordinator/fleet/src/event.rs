//! Events: what happened, for people and for programs that watch. Their kinds are a closed list, so that none is
//! misspelt.
//!
//! Not here: when an event is recorded (change).

use std::{fmt, sync::Arc};

use imbl::{OrdMap, OrdSet};
use isyone_types::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! kinds {
    ($($kind:ident => $word:literal,)*) => {
        /// The kind of an event. Its word is dotted and stable: programs match on it.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum EventKind {
            $(#[doc = concat!("`", $word, "`")] $kind,)*
            /// A kind of another version of this program, kept as it was stored.
            Other(Box<str>),
        }

        impl EventKind {
            /// The word, as stored and as sent to clients.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$kind => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl From<String> for EventKind {
            fn from(word: String) -> Self {
                match word.as_str() {
                    $($word => Self::$kind,)*
                    _ => Self::Other(word.into()),
                }
            }
        }
    };
}

kinds! {
    CertificateAccount => "certificate.account",
    CertificateFailed => "certificate.failed",
    CertificateIssued => "certificate.issued",
    CertificateRemoved => "certificate.removed",
    CertificateRenewed => "certificate.renewed",
    CertificateUploaded => "certificate.uploaded",
    CoordinatorRebuilt => "coordinator.rebuilt",
    CredentialsRead => "credentials.read",
    DomainAdded => "domain.added",
    DomainPrimary => "domain.primary",
    DomainRecovered => "domain.recovered",
    DomainRemoved => "domain.removed",
    DomainUnreachable => "domain.unreachable",
    EdgeDown => "edge.down",
    EdgeRecovered => "edge.recovered",
    EdgeStuck => "edge.stuck",
    EdgeUp => "edge.up",
    HostApproved => "host.approved",
    HostCordoned => "host.cordoned",
    HostDegraded => "host.degraded",
    HostJoined => "host.joined",
    HostLost => "host.lost",
    HostPlanAhead => "host.plan_ahead",
    HostPlanRefused => "host.plan_refused",
    HostReachable => "host.reachable",
    HostReady => "host.ready",
    HostRemoved => "host.removed",
    HostSuspect => "host.suspect",
    HostUncordoned => "host.uncordoned",
    HostUnknown => "host.unknown",
    HostUnreachable => "host.unreachable",
    KeysReplaced => "keys.replaced",
    OperationCancelled => "operation.cancelled",
    OperationFailed => "operation.failed",
    OperationOverdue => "operation.overdue",
    OperationSucceeded => "operation.succeeded",
    OperatorCertified => "operator.certified",
    OperatorRenewed => "operator.renewed",
    OperatorRevoked => "operator.revoked",
    OperatorRoleChanged => "operator.role_changed",
    TenantAccessChanged => "tenant.access_changed",
    TenantAsleep => "tenant.asleep",
    TenantCopyForgotten => "tenant.copy_forgotten",
    TenantCreateCancelled => "tenant.create_cancelled",
    TenantCreated => "tenant.created",
    TenantDeleted => "tenant.deleted",
    TenantDatabaseStopped => "tenant.database_stopped",
    TenantDiskFilling => "tenant.disk_filling",
    TenantDiskFreed => "tenant.disk_freed",
    TenantDiskFull => "tenant.disk_full",
    TenantExec => "tenant.exec",
    TenantFailing => "tenant.failing",
    TenantInstallCutOff => "tenant.install_cut_off",
    TenantInstallFinished => "tenant.install_finished",
    TenantMoveOrdered => "tenant.move_ordered",
    TenantMoved => "tenant.moved",
    TenantOomKilled => "tenant.oom_killed",
    TenantPurgeOrdered => "tenant.purge_ordered",
    TenantPurged => "tenant.purged",
    TenantQuarantineEnded => "tenant.quarantine_ended",
    TenantReachable => "tenant.reachable",
    TenantRecovered => "tenant.recovered",
    TenantResized => "tenant.resized",
    TenantRestarted => "tenant.restarted",
    TenantUndeleted => "tenant.undeleted",
    TenantResumed => "tenant.resumed",
    TenantRouteRejected => "tenant.route_rejected",
    TenantSuspended => "tenant.suspended",
    TenantUnhealthy => "tenant.unhealthy",
    TenantUnreachable => "tenant.unreachable",
    TenantUpdated => "tenant.updated",
    TenantUploadsRefused => "tenant.uploads_refused",
    TenantVolumesPutBack => "tenant.volumes_put_back",
    TenantWoken => "tenant.woken",
    TokenCreated => "token.created",
    TokenRevoked => "token.revoked",
}

impl From<EventKind> for String {
    fn from(kind: EventKind) -> Self {
        kind.as_str().to_owned()
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one with each event.
    pub sequence: u64,
    pub at: UnixMs,
    pub kind: EventKind,
    /// The tenant it concerns.
    pub tenant: Option<TenantName>,
    /// The host it concerns.
    pub host: Option<HostName>,
    /// Who caused it; see [`crate::change::Stamp::actor`].
    pub actor: String,
    /// Details for people; may be empty.
    pub message: String,
    /// The operation it belongs to.
    pub operation: Option<Uuid>,
}

/// Names under which the platform itself acts; no operator has one.
pub const PLATFORMS_OWN: [&str; 2] = ["coordinator", "visitor"];

/// Whether the platform itself acts under this name.
pub fn is_the_platform(actor: &str) -> bool {
    PLATFORMS_OWN.contains(&actor)
}

impl Event {
    /// Whether it records what a person, or a program with an operator's certificate, did.
    pub fn is_audit(&self) -> bool {
        !is_the_platform(&self.actor) && !self.actor.starts_with("host/")
    }
}

/// Audit records to remember, and as many other events.
pub const MAX_EVENTS: usize = 10_000;

/// The newest events. What operators did has room of its own, so that nothing that hosts and tenants make happen, however
/// often, pushes it out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLog {
    all: OrdMap<u64, Arc<Event>>,
    audit: OrdSet<u64>,
    other: OrdSet<u64>,
    /// The newest sequence number that is not remembered any more.
    forgotten: u64,
}

impl EventLog {
    /// Adds an event; returns the number of the one that gives way to it.
    pub fn push(&mut self, event: Arc<Event>) -> Option<u64> {
        let sequence = event.sequence;
        let kept = match event.is_audit() {
            true => &mut self.audit,
            false => &mut self.other,
        };
        kept.insert(sequence);
        let oldest = kept.get_min().copied().filter(|_| kept.len() > MAX_EVENTS);
        if let Some(oldest) = oldest {
            kept.remove(&oldest);
            self.all.remove(&oldest);
            self.forgotten = self.forgotten.max(oldest);
        }
        self.all.insert(sequence, event);
        oldest
    }

    /// Takes stored events, oldest first, of which some between them may be forgotten.
    pub fn load(events: impl IntoIterator<Item = Event>) -> Self {
        let (mut log, mut next) = (Self::default(), 1);
        for event in events {
            if event.sequence > next {
                log.forgotten = event.sequence - 1;
            }
            next = event.sequence.saturating_add(1);
            log.push(Arc::new(event));
        }
        log
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.all.iter().map(|(_, event)| event)
    }

    /// Those after a sequence number, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Arc<Event>> {
        let from = sequence.saturating_add(1);
        self.all.range(from..).map(|(_, event)| event)
    }

    pub fn last(&self) -> Option<&Arc<Event>> {
        self.all.get_max().map(|(_, event)| event)
    }

    /// The newest sequence number that is not remembered any more; 0 while all are.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64, actor: &str) -> Event {
        Event {
            sequence,
            at: 0,
            kind: EventKind::TenantUnhealthy,
            tenant: None,
            host: None,
            actor: actor.to_owned(),
            message: String::new(),
            operation: None,
        }
    }

    #[test]
    fn no_chatter_pushes_out_what_operators_did() {
        let mut log = EventLog::default();
        log.push(Arc::new(event(1, "ana")));
        let most = MAX_EVENTS as u64;
        for (sequence, actor) in (2..).zip(["host/h1", "coordinator", "visitor"].repeat(MAX_EVENTS))
        {
            let gone = log.push(Arc::new(event(sequence, actor)));
            assert_eq!(gone, (sequence > most + 1).then(|| sequence - most));
        }
        assert_eq!(
            (log.len(), log.iter().next().unwrap().sequence),
            (MAX_EVENTS + 1, 1)
        );
        let last = log.last().unwrap().sequence;
        assert_eq!(
            (log.after(last - 2).count(), log.forgotten()),
            (2, last - most)
        );
        let stored = log.iter().map(|event| (**event).clone());
        assert_eq!(EventLog::load(stored.collect::<Vec<_>>()), log);
        for sequence in last + 1..=last + most {
            log.push(Arc::new(event(sequence, "ana")));
        }
        assert_ne!(
            log.iter().next().unwrap().sequence,
            1,
            "they are bounded, too"
        );
    }

    /// Programs match on these words: a change here breaks them.
    const WORDS: &[&str] = &[
        "certificate.account",
        "certificate.failed",
        "certificate.issued",
        "certificate.removed",
        "certificate.renewed",
        "certificate.uploaded",
        "coordinator.rebuilt",
        "credentials.read",
        "domain.added",
        "domain.primary",
        "domain.recovered",
        "domain.removed",
        "domain.unreachable",
        "edge.down",
        "edge.recovered",
        "edge.stuck",
        "edge.up",
        "host.approved",
        "host.cordoned",
        "host.degraded",
        "host.joined",
        "host.lost",
        "host.plan_ahead",
        "host.plan_refused",
        "host.reachable",
        "host.ready",
        "host.removed",
        "host.suspect",
        "host.uncordoned",
        "host.unknown",
        "host.unreachable",
        "operation.cancelled",
        "operation.failed",
        "operation.overdue",
        "operation.succeeded",
        "operator.certified",
        "operator.renewed",
        "operator.revoked",
        "operator.role_changed",
        "tenant.access_changed",
        "tenant.asleep",
        "tenant.copy_forgotten",
        "tenant.create_cancelled",
        "tenant.created",
        "tenant.deleted",
        "tenant.database_stopped",
        "tenant.disk_filling",
        "tenant.disk_freed",
        "tenant.disk_full",
        "tenant.exec",
        "tenant.failing",
        "tenant.install_cut_off",
        "tenant.install_finished",
        "tenant.move_ordered",
        "tenant.moved",
        "tenant.oom_killed",
        "tenant.purge_ordered",
        "tenant.purged",
        "tenant.quarantine_ended",
        "tenant.reachable",
        "tenant.recovered",
        "tenant.resized",
        "tenant.restarted",
        "tenant.undeleted",
        "tenant.resumed",
        "tenant.route_rejected",
        "tenant.suspended",
        "tenant.unhealthy",
        "tenant.unreachable",
        "tenant.updated",
        "tenant.uploads_refused",
        "tenant.volumes_put_back",
        "tenant.woken",
        "token.created",
        "token.revoked",
    ];

    #[test]
    fn every_word_is_a_kind_and_comes_back() {
        for word in WORDS {
            let kind = EventKind::from((*word).to_owned());
            assert!(!matches!(kind, EventKind::Other(_)), "{word}");
            assert_eq!(kind.as_str(), *word);
        }
    }

    #[test]
    fn kinds_are_stored_as_their_words_and_unknown_ones_survive() {
        let json = serde_json::to_string(&EventKind::TenantOomKilled).unwrap();
        assert_eq!(json, "\"tenant.oom_killed\"");
        for word in ["tenant.oom_killed", "backup.proven"] {
            let kind: EventKind = serde_json::from_str(&format!("\"{word}\"")).unwrap();
            assert_eq!(kind.as_str(), word);
            assert_eq!(matches!(kind, EventKind::Other(_)), word == "backup.proven");
        }
    }
}

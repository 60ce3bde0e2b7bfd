//! Events: what happened, for people and for programs that watch. Their kinds are a closed list, so that none is
//! misspelt.
//!
//! Not here: when an event is recorded (change).

mod log;
mod pace;

use std::{borrow::Cow, fmt};

use isyone_types::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{
    log::{EventLog, MAX_EVENTS},
    pace::Paces,
};

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
    BackupAsked => "backup.asked",
    BackupDamaged => "backup.damaged",
    BackupFailed => "backup.failed",
    BackupFileRead => "backup.file_read",
    BackupIncomplete => "backup.incomplete",
    BackupKeyDeleted => "backup.key_deleted",
    BackupKeyRead => "backup.key_read",
    BackupLate => "backup.late",
    BackupProofAsked => "backup.proof_asked",
    BackupProofFailed => "backup.proof_failed",
    BackupPruneFailed => "backup.prune_failed",
    BackupRecovered => "backup.recovered",
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
    HostMaintenance => "host.maintenance",
    HostMaintenanceEnded => "host.maintenance_ended",
    HostMended => "host.mended",
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
    TenantCopyDiscarded => "tenant.copy_discarded",
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
    TenantMailChanged => "tenant.mail_changed",
    TenantMailRead => "tenant.mail_read",
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
    TenantRestoreOrdered => "tenant.restore_ordered",
    TenantUndeleted => "tenant.undeleted",
    TenantResumed => "tenant.resumed",
    TenantSettingsChanged => "tenant.settings_changed",
    TenantRouteRejected => "tenant.route_rejected",
    TenantStandbyAdded => "tenant.standby_added",
    TenantStandbyLost => "tenant.standby_lost",
    TenantStandbyRemoved => "tenant.standby_removed",
    TenantSuspended => "tenant.suspended",
    TenantUnhealthy => "tenant.unhealthy",
    TenantUnreachable => "tenant.unreachable",
    TenantUpdated => "tenant.updated",
    TenantUpgraded => "tenant.upgraded",
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
pub const PLATFORMS_OWN: [&str; 3] = ["coordinator", "visitor", "init"];

/// What the actor of a host's agent begins with; its name follows.
const HOSTS: &str = "host/";

/// Whether the platform itself acts under this name.
pub fn is_the_platform(actor: &str) -> bool {
    PLATFORMS_OWN.contains(&actor)
}

impl Event {
    /// Whether it records what a person, or a program with an operator's certificate, did.
    pub fn is_audit(&self) -> bool {
        !is_the_platform(&self.actor) && !self.is_a_hosts()
    }

    fn is_a_hosts(&self) -> bool {
        self.actor.starts_with(HOSTS)
    }

    /// In whose share of the log it lies: what an operator did in that operator's. Of all else, what a host's agent said in
    /// that host's, even where it is about a tenant that has just left; what others say of a host, or of a tenant on it, as
    /// well; and the rest in that of whoever says it.
    fn owner(&self) -> Cow<'_, str> {
        match &self.host {
            Some(host) if !self.is_audit() && !self.is_a_hosts() => format!("{HOSTS}{host}").into(),
            _ => self.actor.as_str().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs match on these words: a change here breaks them.
    const WORDS: &[&str] = &[
        "backup.asked",
        "backup.failed",
        "backup.file_read",
        "backup.key_deleted",
        "backup.key_read",
        "backup.late",
        "backup.prune_failed",
        "backup.recovered",
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
        "host.mended",
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
        "tenant.mail_changed",
        "tenant.mail_read",
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
        "tenant.restore_ordered",
        "tenant.undeleted",
        "tenant.resumed",
        "tenant.settings_changed",
        "tenant.route_rejected",
        "tenant.standby_added",
        "tenant.standby_lost",
        "tenant.standby_removed",
        "tenant.suspended",
        "tenant.unhealthy",
        "tenant.unreachable",
        "tenant.updated",
        "tenant.upgraded",
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
